"""Digests: values that cannot be malformed, and the means to compute one."""

from __future__ import annotations

import hashlib
import io

import pytest

from restore_fetch import hashes
from restore_fetch.hashes import Digest, StreamingHasher, hash_stream

EMPTY = "da39a3ee5e6b4b0d3255bfef95601890afd80709"


class Dribble(io.RawIOBase):
    """A stream that gives a few bytes at a time."""

    def __init__(self, content: bytes, piece: int) -> None:
        self._content = content
        self._piece = piece

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        piece, self._content = self._content[: self._piece], self._content[self._piece :]
        buffer[: len(piece)] = piece
        return len(piece)


@pytest.mark.parametrize("name", ["SHA1", "sha1", "SHA-1", " Sha-1 "])
@pytest.mark.parametrize("value", [EMPTY, EMPTY.upper(), f" {EMPTY}\n"])
def test_a_digest_is_read_as_people_and_services_write_it(name, value):
    assert Digest.parse(name, value) == Digest("SHA1", EMPTY)
    assert str(Digest.parse(name, value)) == EMPTY


@pytest.mark.parametrize("value", ["", "0", EMPTY[:-1], EMPTY + "0", EMPTY[:-1] + "g", "\u0661" * 40])
def test_what_is_no_digest_cannot_become_one(value):
    with pytest.raises(ValueError, match="40 digits"):
        Digest.parse("SHA1", value)


@pytest.mark.parametrize("value", [EMPTY.upper(), f"{EMPTY}\n", f" {EMPTY}"])
def test_the_value_itself_has_one_form_only(value):
    with pytest.raises(ValueError):
        Digest("SHA1", value)


@pytest.mark.parametrize("name", ["", "MD5", "SHA256", "SHA-256", "SHA11", "SHA"])
def test_other_algorithms_are_not_mistaken_for_sha1(name):
    with pytest.raises(ValueError, match="unknown hash algorithm"):
        Digest.parse(name, EMPTY)


def test_a_stream_is_hashed_whatever_the_pieces_it_comes_in():
    content = bytes(range(256)) * 40
    expected = (len(content), Digest("SHA1", hashlib.sha1(content).hexdigest()))
    for piece in (1, 7, 4096, len(content)):
        assert hash_stream(Dribble(content, piece)) == expected


def test_nothing_has_a_hash_too():
    assert hash_stream(Dribble(b"", 1)) == (0, Digest("SHA1", EMPTY))
    assert StreamingHasher().digest().hex == EMPTY


def test_the_hash_so_far_can_be_asked_for_at_any_time():
    hasher = StreamingHasher()
    hasher.update(b"abc")
    assert hasher.digest().hex == "a9993e364706816aba3e25717850c26c9cd0d89d"
    hasher.update(memoryview(b"def"))
    assert hasher.digest().hex == hashlib.sha1(b"abcdef").hexdigest()


def test_a_long_read_tells_how_far_it_is(monkeypatch):
    monkeypatch.setattr(hashes, "_PROGRESS_EVERY_BYTES", 100)
    told: list[int] = []
    hash_stream(Dribble(bytes(350), 40), told.append)
    assert told == [120, 240, 350]
