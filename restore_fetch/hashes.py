"""Digests: a small value that cannot be malformed, and the means to compute one.

The published hash of a delivery is the SHA1 of the archive as it came over the wire; SHA1 is the service's
choice. It proves the transfer against accidents, not the origin against forgers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from io import RawIOBase

SHA1 = "SHA1"
_HEX_DIGITS = {SHA1: 40}
_HASHLIB_NAMES = {SHA1: "sha1"}
_READ_BYTES = 256 * 1024  # small enough to be hashed from the processor's own cache
_PROGRESS_EVERY_BYTES = 64 * 1024 * 1024
_HEX = re.compile(r"[0-9a-f]+\Z")


@dataclass(frozen=True)
class Digest:
    """A digest: its algorithm by the service's name (`SHA1`) and its value in lower-case hexadecimal.

    Raises:
        ValueError: The algorithm is unknown, or the value is not a digest of it.
    """

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        digits = _HEX_DIGITS.get(self.algorithm)
        if digits is None:
            raise ValueError(f"unknown hash algorithm {self.algorithm!r}")
        if len(self.hex) != digits or not _HEX.match(self.hex):
            raise ValueError(f"not a hexadecimal {self.algorithm} of {digits} digits")

    @classmethod
    def parse(cls, algorithm: str, text: str) -> Digest:
        """Read a digest as people and services write it: any case, spaces around it.

        Raises:
            ValueError: It is not a digest of that algorithm.
        """
        return cls(algorithm.strip().upper().replace("-", ""), text.strip().lower())

    def __str__(self) -> str:
        return self.hex


class StreamingHasher:
    """Computes a SHA1 while bytes go by. `update` releases the interpreter's lock for large buffers."""

    def __init__(self) -> None:
        # The hash is for finding accidents; a FIPS build of OpenSSL must not refuse it for that.
        self._hash = hashlib.sha1(usedforsecurity=False)
        self.update = self._hash.update

    def digest(self) -> Digest:
        """The digest of everything seen so far."""
        return Digest(SHA1, self._hash.hexdigest())


def hash_stream(
    stream: RawIOBase,
    on_progress: Callable[[int], None] = lambda _: None,
    also: Callable[[memoryview], None] = lambda _: None,
) -> tuple[int, Digest]:
    """The size and SHA1 of an unbuffered binary stream from where it stands to its end, in constant memory.

    Args:
        stream: The stream.
        on_progress: Called every 64 MiB with the bytes read.
        also: Given the bytes, too, in order.

    Raises:
        OSError: The stream cannot be read.
    """
    hasher = StreamingHasher()
    view = memoryview(bytearray(_READ_BYTES))
    size = told = 0
    while count := stream.readinto(view):
        hasher.update(view[:count])
        also(view[:count])
        size += count
        if size - told >= _PROGRESS_EVERY_BYTES:
            told = size
            on_progress(size)
    return size, hasher.digest()
