"""The body of an answer, in each of HTTP/1.1's framings, received straight into a caller's buffer.

`receive` returns 0 only when the framing itself said that the body is whole. An end of the connection before
that is an error, and so is a TLS connection that ends without close_notify. Source: RFC 9112, sections 6 and 7.
"""

from __future__ import annotations

import re
import socket
import ssl
from typing import Protocol

from restore_fetch.delivery.http1 import Response
from restore_fetch.errors import DownloadInterruptedError, DownloadRefusedError

_LENGTH = re.compile(r"[0-9]{1,18}\Z")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}\Z")
_LONGEST_LINE = 4096
_TLS_RECORD_BYTES = 16 * 1024  # of data at most (RFC 8446, section 5.1)
_MOST_TRAILERS = 100
_CRLF = b"\r\n"


class Buffer:
    """A piece of reused memory: as an array to search in, and as a view to receive into and write from."""

    def __init__(self, size: int) -> None:
        self.array = bytearray(size)
        self.view = memoryview(self.array)


class Body(Protocol):
    """A body being received.

    Attributes:
        length: How many bytes it has, when that is known beforehand.
    """

    length: int | None

    def receive(self, buffer: Buffer, start: int, stop: int) -> int:
        """Receive some bytes into `buffer[start:stop]`.

        Returns:
            How many; 0 when the body is whole.

        Raises:
            TimeoutError: No byte of the body arrived, be it in the socket's own time limit or because what came was
                framing alone; ask again.
            DownloadInterruptedError: The connection ended too early, or broke.
            DownloadRefusedError: The framing is malformed.
        """
        ...


class _Wire:
    """The socket, with what was received along with the head put back in front of it."""

    def __init__(self, response: Response) -> None:
        self._sock: socket.socket = response.sock
        self._leftover = response.leftover
        self._host = response.host
        self._is_tls = isinstance(response.sock, ssl.SSLSocket)
        self._failure: DownloadInterruptedError | None = None  # met behind bytes that were given out first

    def receive_into(self, view: memoryview) -> int:
        if self._leftover:
            count = min(len(view), len(self._leftover))
            view[:count] = self._leftover[:count]
            self._leftover = self._leftover[count:]
            return count
        if self._failure is not None:
            raise self._failure
        try:
            count = newest = self._sock.recv_into(view)
            # A TLS socket gives one record at a time. While full ones keep coming, more are taken at once.
            while newest == _TLS_RECORD_BYTES and count < len(view) and self._is_tls:
                try:
                    newest = self._sock.recv_into(view[count:])
                except OSError as exc:
                    self._failure = None if isinstance(exc, TimeoutError) else self._broken(exc)
                    break
                count += newest
        except TimeoutError:
            raise
        except OSError as exc:
            raise self._broken(exc) from exc
        return count

    def _broken(self, exc: OSError) -> DownloadInterruptedError:
        if isinstance(exc, ssl.SSLError):
            return DownloadInterruptedError(
                f"the secure connection to {self._host} ended without being closed ({exc.reason})", outcome="cut"
            )
        return DownloadInterruptedError(f"the connection to {self._host} broke: {exc.strerror}", outcome="cut")

    def cut(self, what: str) -> DownloadInterruptedError:
        return DownloadInterruptedError(f"{self._host} closed the connection {what}", outcome="cut")


class LengthBody:
    """A body whose length the head announced."""

    def __init__(self, wire: _Wire, length: int) -> None:
        self.length: int | None = length
        self._wire = wire
        self._missing = length

    def receive(self, buffer: Buffer, start: int, stop: int) -> int:
        """See `Body.receive`."""
        if self._missing == 0:
            return 0
        count = self._wire.receive_into(buffer.view[start : min(stop, start + self._missing)])
        if count == 0:
            raise self._wire.cut(f"{self._missing} bytes before the end")
        self._missing -= count
        return count


class CloseBody:
    """A body that lasts until the connection is closed: whether it is whole, only its hash can tell."""

    length: int | None = None

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def receive(self, buffer: Buffer, start: int, stop: int) -> int:
        """See `Body.receive`."""
        return self._wire.receive_into(buffer.view[start:stop])


class ChunkedBody:
    """A body in chunks, each behind a line with its size; a chunk of size 0 ends it.

    Bytes are received raw and the framing is squeezed out in place, so that small chunks cost no system call and
    no allocation each. Of a framing line that has arrived in part, the beginning is kept for the next time.
    """

    length: int | None = None

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire
        self._missing = 0  # bytes of the current chunk still to come
        self._ending = False  # the line end behind a chunk is due before the next size
        self._in_trailers = False
        self._trailers = 0
        self._whole = False
        self._kept = b""

    def receive(self, buffer: Buffer, start: int, stop: int) -> int:
        """See `Body.receive`."""
        if self._whole:
            return 0
        raw_start = start + len(self._kept)
        count = self._wire.receive_into(buffer.view[raw_start:stop])
        if count == 0:
            raise self._wire.cut("before the last chunk")
        buffer.view[start:raw_start] = self._kept
        self._kept = b""
        squeezed = self._squeeze(buffer, start, raw_start + count)
        if squeezed == 0 and not self._whole:
            # Whoever asks looks at the time in between: framing alone, a byte now and then, is no progress.
            raise TimeoutError
        return squeezed

    def _squeeze(self, buffer: Buffer, start: int, end: int) -> int:
        """Move the data in `buffer[start:end]` together, over the framing; returns how much data there is."""
        view = buffer.view
        place = out = start
        while place < end and not self._whole:
            if self._missing:
                count = min(self._missing, end - place)
                if out != place:
                    view[out : out + count] = view[place : place + count]
                out += count
                place += count
                self._missing -= count
                self._ending = self._missing == 0
                continue
            after = self._read_line(buffer.array, place, end)
            if after < 0:
                self._kept = bytes(view[place:end])
                break
            place = after
        return out - start

    def _read_line(self, array: bytearray, place: int, end: int) -> int:
        """Take in one line of framing; returns where it ends, or -1 when it has not arrived whole."""
        line_end = array.find(_CRLF, place, end)
        if line_end < 0:
            if end - place > _LONGEST_LINE:
                raise self._malformed("a line without end")
            return -1
        if self._ending:
            if line_end != place:
                raise self._malformed("a chunk longer than its size")
            self._ending = False
        elif self._in_trailers:
            self._trailers += 1
            self._whole = line_end == place
            if self._trailers > _MOST_TRAILERS:
                raise self._malformed("trailers without end")
        else:
            size = bytes(array[place:line_end]).partition(b";")[0].rstrip(b" \t")
            if not _CHUNK_SIZE.match(size):
                raise self._malformed("a chunk without a size")
            self._missing = int(size, 16)
            self._in_trailers = self._missing == 0
        return line_end + len(_CRLF)

    @staticmethod
    def _malformed(what: str) -> DownloadRefusedError:
        return DownloadRefusedError(f"the delivery's chunked framing is malformed: {what}", outcome="invalid HTTP")


def body_of(response: Response) -> Body:
    """The body of an answer, by the framing its head announced (RFC 9112, section 6.3).

    Raises:
        DownloadRefusedError: It announces a length that no file can have.
    """
    wire = _Wire(response)
    if "transfer-encoding" in response.headers:
        return ChunkedBody(wire)
    if "content-length" in response.headers:
        length = response.headers["content-length"]
        if not _LENGTH.match(length):
            raise DownloadRefusedError(
                f"{response.host} announces a length that no file can have", outcome="invalid HTTP"
            )
        return LengthBody(wire, int(length))
    return CloseBody(wire)
