"""A gzip file that goes by: unpacked piece by piece, and held to its own checksums (RFC 1952).

The wrapper of each member is read here and only the deflated data given to the inflater: that way a wrong CRC, a
wrong length and a file that ends too early can be told apart, whichever inflater there is.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterator
from typing import Any

# ISA-L inflates twice as fast as zlib and computes the CRC many times faster; there is no wheel for every machine.
_zlib: Any
try:
    from isal import isal_zlib as _zlib
except ImportError:  # pragma: no cover - depends on the machine
    _zlib = zlib

_SLICE_BYTES = (
    64 * 1024
)  # what is left of a slice is copied by the inflater, time and again when it unpacks to a lot
_UNPACKED_BYTES = 128 * 1024
_HEADER_BYTES = 10
_LARGEST_HEADER_BYTES = 128 * 1024  # it may hold a file name and a comment
_TRAILER_BYTES = 8
_MAGIC = b"\x1f\x8b\x08"
_HAS_CRC, _HAS_EXTRA, _HAS_NAME, _HAS_COMMENT, _RESERVED = 0x02, 0x04, 0x08, 0x10, 0xE0
_WINDOW_BITS = 15


class GzipReader:
    """Unpacks a gzip file of one or more members, in constant memory.

    Nothing may follow the last member. Zeros may not either: no service pads its archives, a damaged file system
    does.

    Attributes:
        members: How many members were read to their end, and found to be right.
        unpacked_bytes: How many bytes came out so far.
    """

    def __init__(self) -> None:
        self.members = 0
        self.unpacked_bytes = 0
        self._inflater: Any = None
        self._in_trailer = False
        self._wrapper = bytearray()  # as much of a header or a trailer as has been seen
        self._crc = self._length = 0

    def unpack(self, data: memoryview) -> Iterator[bytes]:
        """Take in the next bytes of the file.

        Yields:
            What they unpack to, in pieces of bounded size; what is yielded before an error is not to be trusted.

        Raises:
            ValueError: The file is damaged; the text says how.
        """
        for start in range(0, len(data), _SLICE_BYTES):
            rest: bytes | memoryview = data[start : start + _SLICE_BYTES]
            while rest:
                if self._inflater is not None:
                    rest = yield from self._inflate(rest)
                elif self._in_trailer:
                    rest = self._read_trailer(rest)
                else:
                    rest = self._read_header(rest)

    def finish(self) -> None:
        """Say that there are no more bytes.

        Raises:
            ValueError: There should be more, or fewer.
        """
        if self._inflater is not None or self._in_trailer or (self._wrapper and not self.members):
            raise ValueError(f"the file ends in the middle of {self._this_member()}")
        if self._wrapper:
            raise ValueError(f"{len(self._wrapper)} bytes follow the end of the gzip data")
        if not self.members:
            raise ValueError("the file is empty")

    def _this_member(self) -> str:
        return f"gzip member {self.members + 1}"

    def _read_header(self, rest: bytes | memoryview) -> bytes | memoryview:
        self._wrapper += rest
        known = bytes(self._wrapper[: len(_MAGIC)])
        if not _MAGIC.startswith(known):
            raise ValueError(
                "something follows the end of the gzip data" if self.members else "the file is no gzip file"
            )
        length = _header_length(self._wrapper)
        if length is None:
            if len(self._wrapper) > _LARGEST_HEADER_BYTES:
                raise ValueError(f"the header of {self._this_member()} has no end")
            return b""
        left = bytes(self._wrapper[length:])
        self._wrapper.clear()
        self._crc = self._length = 0
        self._inflater = _zlib.decompressobj(-_WINDOW_BITS)
        return left

    def _inflate(self, rest: bytes | memoryview) -> Generator[bytes, None, bytes]:
        inflater = self._inflater
        while True:
            try:
                unpacked: bytes = inflater.decompress(rest, _UNPACKED_BYTES)
            except (zlib.error, _zlib.error) as exc:
                raise ValueError(f"the compressed data of {self._this_member()} are damaged") from exc
            if unpacked:
                self._crc = _zlib.crc32(unpacked, self._crc)
                self._length += len(unpacked)
                self.unpacked_bytes += len(unpacked)
                yield unpacked
            if inflater.eof:
                self._inflater, self._in_trailer = None, True
                return bytes(inflater.unused_data)
            rest = inflater.unconsumed_tail
            if not rest and len(unpacked) < _UNPACKED_BYTES:
                return b""

    def _read_trailer(self, rest: bytes | memoryview) -> bytes | memoryview:
        missing = _TRAILER_BYTES - len(self._wrapper)
        self._wrapper += rest[:missing]
        if len(self._wrapper) == _TRAILER_BYTES:
            crc, length = (int.from_bytes(self._wrapper[at : at + 4], "little") for at in (0, 4))
            if crc != self._crc:
                raise ValueError(f"the CRC of {self._this_member()} is wrong")
            if length != self._length & 0xFFFFFFFF:
                raise ValueError(f"the length of {self._this_member()} is wrong")
            self._wrapper.clear()
            self._in_trailer = False
            self.members += 1
        return rest[missing:]


def _header_length(header: bytearray) -> int | None:
    """How long the header is that these bytes begin with; None when that cannot be seen yet.

    Raises:
        ValueError: It is no header of a gzip member.
    """
    if len(header) < _HEADER_BYTES:
        return None
    flags, end = header[3], _HEADER_BYTES
    if flags & _RESERVED:
        raise ValueError("a gzip header has flags that mean nothing")
    if flags & _HAS_EXTRA:
        end += 2 + int.from_bytes(header[end : end + 2], "little")
    for flag in (_HAS_NAME, _HAS_COMMENT):
        if flags & flag:
            end = header.find(0, end) + 1
            if end == 0:
                return None
    if flags & _HAS_CRC:
        end += 2
    if len(header) < end:
        return None
    if (
        flags & _HAS_CRC
        and int.from_bytes(header[end - 2 : end], "little") != zlib.crc32(header[: end - 2]) & 0xFFFF
    ):
        raise ValueError("the CRC of a gzip header is wrong")
    return end
