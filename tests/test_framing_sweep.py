"""Every truncation in every framing, and single flipped bits, through the whole walk: none is ever published.

Each sweep cuts the body after each byte of the wire, from none to all but one. The walk is the real one, from
the lock to the receipt, in this process; only the API is made up, and publishes the right hash.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from restore_fetch.delivery import DeliveryClient
from restore_fetch.errors import DownloadError, HashMismatchError, RestoreFetchError
from tests.delivery_support import (
    JOB_ID,
    NAME,
    FakeService,
    delivery_client,
    fetcher,
    memory_folder,
    options,
    sha1,
    some_bytes,
)
from tests.support import ManualClock
from tests.wire_support import Peer, WireServer, chunked, head, server_tls

OFFSETS = 500
FLIPS = 256
LONG = os.environ.get("RESTORE_FETCH_TEST_LONG") == "1"
PIECES = 2 if LONG else 1  # in how many pieces each body is sent

PAYLOAD = some_bytes(OFFSETS, seed=3)
_IN_CHUNKS = some_bytes(OFFSETS - 27 * 5 - 3, seed=4)
CHUNKED = {"Transfer-Encoding": "chunked"}


@dataclass
class Delivery:
    """A server that gives one body, and then closes the connection in one way; both change from walk to walk."""

    answer: bytes = b""
    then: str = "end"
    pieces: int = 1
    gets: int = 0

    def __call__(self, peer: Peer) -> None:
        if peer.head():
            self.gets += 1
            peer.send(self.answer, piece=-(-len(self.answer) // self.pieces))
            getattr(peer, self.then)()


@dataclass
class Sweep:
    """Walks, one after the other, each in a folder of its own."""

    folder: Path
    delivery: Delivery
    url: str
    client: DeliveryClient

    def walk(self, name: str, answer: bytes, right: bytes, then: str = "end") -> RestoreFetchError | None:
        """One walk, with no second attempt; returns how it failed, or None when it published the right bytes."""
        self.delivery.answer, self.delivery.then = answer, then
        before = self.delivery.gets
        clock = ManualClock()
        service = FakeService(self.url, sha1(right), clock, downloaded=lambda: self.delivery.gets > before)
        out_dir = self.folder / name
        try:
            fetched = fetcher(service, options(out_dir), clock, client=self.client).fetch(JOB_ID)
        except RestoreFetchError as exc:
            assert not (out_dir / NAME).exists(), f"{name} was published"
            assert self.delivery.gets == before + 1
            return exc
        assert fetched.path.read_bytes() == right, f"{name} was published with other bytes"
        assert fetched.receipt.verdict == "verified"
        return None


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Sweep]:
    delivery = Delivery(pieces=PIECES)
    with WireServer(delivery) as server, memory_folder(tmp_path) as folder:
        yield Sweep(folder, delivery, server.url(), delivery_client())


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[Sweep]:
    delivery = Delivery(pieces=PIECES)
    with WireServer(delivery, tls=server_tls()) as server, memory_folder(tmp_path) as folder:
        yield Sweep(folder, delivery, server.url(), delivery_client())


def test_no_cut_of_a_body_with_a_length_is_accepted(plain: Sweep) -> None:
    answer = head(headers={"Content-Length": str(OFFSETS)})
    for place in range(OFFSETS):
        error = plain.walk(f"length-{place}", answer + PAYLOAD[:place], PAYLOAD)
        assert isinstance(error, DownloadError), place
        assert error.received_bytes == place
    assert plain.walk("whole", answer + PAYLOAD, PAYLOAD) is None


def test_no_cut_of_a_body_in_chunks_is_accepted(plain: Sweep) -> None:
    wire = chunked(_IN_CHUNKS, 13)
    assert len(wire) >= OFFSETS
    for place in range(len(wire)):
        error = plain.walk(f"chunked-{place}", head(headers=CHUNKED) + wire[:place], _IN_CHUNKS)
        assert isinstance(error, DownloadError), place
    assert plain.walk("whole", head(headers=CHUNKED) + wire, _IN_CHUNKS) is None


def test_no_cut_of_a_body_that_only_the_close_ends_is_accepted(plain: Sweep) -> None:
    """Nothing on the wire says that these are cut: the hash of the bytes does."""
    for place in range(OFFSETS):
        error = plain.walk(f"close-{place}", head() + PAYLOAD[:place], PAYLOAD)
        assert isinstance(error, HashMismatchError), place
        assert error.actual == sha1(PAYLOAD[:place])
    assert plain.walk("whole", head() + PAYLOAD, PAYLOAD) is None


def test_no_tls_connection_that_ends_without_close_notify_is_taken_for_an_end(tls: Sweep) -> None:
    """Not even the one behind the last byte: only a close_notify can say that it was the last."""
    for place in range(OFFSETS + 1):
        error = tls.walk(f"ragged-{place}", head() + PAYLOAD[:place], PAYLOAD, then="cut")
        assert isinstance(error, DownloadError), place
    assert tls.walk("whole", head() + PAYLOAD, PAYLOAD, then="end") is None


def test_no_flipped_bit_of_the_archive_is_accepted(plain: Sweep) -> None:
    chosen = random.Random(5).sample(range(len(PAYLOAD) * 8), FLIPS)
    for bit in chosen:
        error = plain.walk(f"flip-{bit}", head() + flipped(PAYLOAD, bit), PAYLOAD)
        assert isinstance(error, HashMismatchError), bit
        assert (plain.folder / f"flip-{bit}" / f"{NAME}.rejected").read_bytes() == flipped(PAYLOAD, bit)


def test_a_flipped_bit_of_the_framing_never_lets_other_bytes_through(plain: Sweep) -> None:
    """Some do no harm, such as another case of a digit; `walk` sees to it that those publish the right bytes."""
    answer = head(headers=CHUNKED) + chunked(_IN_CHUNKS, 13)
    bits = range(len(answer) * 8) if LONG else random.Random(6).sample(range(len(answer) * 8), FLIPS)
    for bit in bits:
        plain.walk(f"framing-{bit}", flipped(answer, bit), _IN_CHUNKS)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
