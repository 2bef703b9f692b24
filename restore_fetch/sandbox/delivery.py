"""The delivery server: hands out archives, in all the ways that a delivery can go right or wrong."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate
from hmac import compare_digest
from http import HTTPStatus
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from restore_fetch.sandbox.archive import Archive
from restore_fetch.sandbox.documents import DELIVERY_PATH, delivery_path
from restore_fetch.sandbox.model import Job
from restore_fetch.sandbox.scenarios import Scenario
from restore_fetch.sandbox.service import AUTH_HEADER
from restore_fetch.sandbox.wire import WireHandler

_MOVED_PATH = "/backup/restore/v2/stored"
_TARGET = re.compile(
    rf"(?P<folder>{DELIVERY_PATH}|{_MOVED_PATH})/(?P<job>[0-9a-f]{{24}})(?:/(?P<key>[^/]+))?/(?P<name>[^/]+)"
)
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")
_PIECE_BYTES = 1 << 20
_PACES_A_SECOND = 20
_PAGE = b"<!DOCTYPE html><html><body><h1>Sign in</h1><p>Your network needs you to sign in.</p></body></html>\n"


@dataclass(frozen=True)
class _Span:
    """The bytes `start` up to, not including, `stop` of an archive, and whether a range was honoured."""

    archive: Archive
    start: int
    stop: int
    partial: bool


class DeliveryHandler(WireHandler):
    """Answers the GETs of a download URL.

    Source: RFC 9110, section 14 (ranges) and 13.1.5 (`If-Range`); RFC 9112, section 6 (framing).
    """

    def answer(self) -> None:
        """Deliver an archive, or refuse to: only GET will do, and each one uses a download up."""
        if self.command != "GET":
            self.close_connection = True  # whatever body there is stays unread
            allow = [("Allow", "GET"), ("Connection", "close")]
            self.reply(405, "text/plain", b"Method Not Allowed\n", allow)
            return
        match = _TARGET.fullmatch(urlsplit(self.path).path)
        job = self.server.service.delivered(match["job"]) if match else None
        if match is None or job is None or unquote(match["name"]) != job.file_name:
            self._refuse(404)
        elif (refusal := self._unauthorized(job, match["key"])) is not None:
            self._refuse(refusal, job)
        elif job.scenario.redirect is not None and match["folder"] != _MOVED_PATH:
            self._redirect(job, keyed=match["key"] is not None)
        else:
            self._deliver(job)

    def _unauthorized(self, job: Job, key: str | None) -> int | None:
        """The status to refuse a request with whose key is missing (401) or wrong (403)."""
        # A redirect to another origin leads to a URL that carries its key, as a signed URL does.
        by_path = job.scenario.key_place != "header" or job.scenario.redirect == "other-origin"
        if key is not None and by_path:
            return None if compare_digest(unquote(key).encode(), job.key.encode()) else 403
        value = self.headers.get(AUTH_HEADER)
        if value is None or job.scenario.key_place == "path":
            return 401
        return None if compare_digest(value.encode(), job.auth_value.encode()) else 403

    def _redirect(self, job: Job, *, keyed: bool) -> None:
        away = job.scenario.redirect == "other-origin"
        origin = self.server.origin
        if away:
            # The same server by its other name: to a client that is another origin.
            host = "127.0.0.1" if "//localhost:" in origin else "localhost"
            origin = re.sub(r"//.*:", f"//{host}:", origin)
        location = origin + delivery_path(job, keyed=keyed or away, folder=_MOVED_PATH)
        self.reply(302, "text/plain", b"Found\n", [("Location", location)], job_id=job.id)

    def _deliver(self, job: Job) -> None:
        service = self.server.service
        admission = service.admit(job)
        if admission.refusal is not None:
            self._refuse(admission.refusal, job)
            return
        if job.scenario.html_page:
            self.reply(200, "text/html; charset=utf-8", _PAGE, job_id=job.id)
            return
        try:
            archive = service.archive_of(job, admission.attempt)
        except OSError as error:
            # Unlike an error of the connection, this one is the sandbox's own, unless its folder is being deleted.
            if not service.stopped.is_set():
                self.server.journal.fail(error)
            self._refuse(500, job)
            return
        span = self._span(job.scenario, archive)
        if span is None:
            size = [("Content-Range", f"bytes */{archive.size}")]
            self.reply(416, "text/plain", b"Range Not Satisfiable\n", size, job_id=job.id)
            return
        self._send_head(job, span)
        if not self._send_body(job, span, cut=job.scenario.cuts(admission.attempt)):
            service.broken_off(job)

    def _span(self, scenario: Scenario, archive: Archive) -> _Span | None:
        """What the request asks for; `None` when it asks for bytes beyond the end."""
        whole = _Span(archive, 0, archive.size, partial=False)
        match = _RANGE.fullmatch(self.headers.get("Range", "").strip())
        if scenario.ranges != "honour" or match is None:
            return whole
        condition = self.headers.get("If-Range")
        if condition is not None and not (scenario.etag and condition in (_etag(archive), _modified(archive))):
            return whole
        start, last = int(match[1]), int(match[2] or archive.size - 1)
        if start >= archive.size:
            return None
        if last < start:
            return whole
        return _Span(archive, start, min(last + 1, archive.size), partial=True)

    def _send_head(self, job: Job, span: _Span) -> None:
        scenario = job.scenario
        headers = [
            ("Content-Type", "application/gzip"),
            ("Content-Disposition", f'attachment; filename="{job.file_name}"'),
        ]
        if span.partial:
            headers.append(("Content-Range", f"bytes {span.start}-{span.stop - 1}/{span.archive.size}"))
        if scenario.ranges != "none":
            headers.append(("Accept-Ranges", "bytes"))
        if scenario.etag:
            headers += [("ETag", _etag(span.archive)), ("Last-Modified", _modified(span.archive))]
        if scenario.content_encoding is not None:
            headers.append(("Content-Encoding", scenario.content_encoding))
        if scenario.framing == "length":
            headers.append(("Content-Length", str(span.stop - span.start)))
        elif scenario.framing == "chunked":
            headers.append(("Transfer-Encoding", "chunked"))
        else:
            headers.append(("Connection", "close"))
        self.begin(206 if span.partial else 200, headers, job_id=job.id)

    def _send_body(self, job: Job, span: _Span, *, cut: bool) -> bool:
        """Send the bytes, in the framing of the scenario; `False` when they broke off."""
        scenario = job.scenario
        length = span.stop - span.start
        stop = span.start + int(length * (scenario.cut_at or 0)) if cut else span.stop
        self.close_connection = self.close_connection or cut or scenario.framing == "close"
        try:
            with span.archive.path.open("rb") as file:
                try:
                    if scenario.framing == "chunked":
                        self._send_chunks(file, span, stop, job)
                    else:
                        self._send_plain(file, span, stop, job)
                except OSError:
                    # The client hung up. What it has may be gone on from, so it counts; never the last byte.
                    self.server.service.sent(job, span.archive, span.start, min(file.tell(), span.stop - 1))
                    raise
        except OSError:
            self.close_connection = self.cut_short = True
            return False
        if cut:
            self.server.service.sent(job, span.archive, span.start, stop)
            self._break_off(scenario)
        return not cut

    def _send_plain(self, file: BinaryIO, span: _Span, stop: int, job: Job) -> None:
        last = stop if stop < span.stop else span.stop - 1
        if job.scenario.bytes_per_second is None and type(self.connection) is socket.socket:
            if last > span.start:
                self.connection.sendfile(file, span.start, last - span.start)
        else:
            for piece in self._pieces(file, span.start, last, job.scenario):
                self.wfile.write(piece)
        if last < stop:
            # Counted before the last byte: who has it may ask for the hash at once.
            self.server.service.sent(job, span.archive, span.start, stop)
            file.seek(last)
            self.wfile.write(file.read(1))

    def _send_chunks(self, file: BinaryIO, span: _Span, stop: int, job: Job) -> None:
        """Chunks of the scenario's size; a body that is cut ends inside one (RFC 9112, section 7.1)."""
        chunk = job.scenario.chunk_bytes
        cut = stop < span.stop
        opened = min(stop - span.start, chunk // 2) if cut else 0
        for piece in self._pieces(file, span.start, stop - opened, job.scenario):
            self.wfile.write(b"".join(_chunks(piece, chunk)))
        if cut:
            file.seek(stop - opened)
            self.wfile.write(b"%x\r\n" % chunk + file.read(opened))
        else:
            self.server.service.sent(job, span.archive, span.start, stop)
            self.wfile.write(b"0\r\n\r\n")

    def _pieces(self, file: BinaryIO, start: int, stop: int, scenario: Scenario) -> Iterator[bytes]:
        """Read from `start` to `stop`, whole chunks at a time, and no faster than the scenario's pace.

        Raises:
            ConnectionAbortedError: The sandbox stops.
        """
        pace = scenario.bytes_per_second
        size = max(scenario.chunk_bytes, _PIECE_BYTES // scenario.chunk_bytes * scenario.chunk_bytes)
        if pace is not None:
            size = max(1, pace // _PACES_A_SECOND)
        began = time.monotonic()
        file.seek(start)
        for at in range(start, stop, size):
            if pace is not None:
                early = (at - start) / pace - (time.monotonic() - began)
                self.server.service.stopped.wait(max(0.0, early))
            if self.server.service.stopped.is_set():
                raise ConnectionAbortedError("the sandbox stops")
            yield file.read(min(size, stop - at))

    def _break_off(self, scenario: Scenario) -> None:
        self.cut_short = True
        stopped = self.server.service.stopped
        if scenario.cut_style == "rst":
            # A reset throws away what still waits to be sent: let the client have that first.
            stopped.wait(0.05)
            with contextlib.suppress(OSError):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # Now, and without the orderly end that the server would send ahead of it.
                os.close(self.connection.detach())
        elif scenario.cut_style == "stall":
            # A client that waits says nothing more, so anything to read is the end of its connection.
            while not stopped.wait(0.05) and not select.select([self.connection], [], [], 0)[0]:
                pass

    def _refuse(self, status: int, job: Job | None = None) -> None:
        text = f"{status} {HTTPStatus(status).phrase}: this download is not available.\n"
        headers = [("Retry-After", "1")] if status == HTTPStatus.SERVICE_UNAVAILABLE else []
        self.reply(status, "text/plain", text.encode(), headers, job_id=job.id if job else None)


def _chunks(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        part = data[at : at + size]
        yield b"%x\r\n" % len(part)
        yield part
        yield b"\r\n"


def _etag(archive: Archive) -> str:
    """A strong entity tag. It is no SHA1, lest a client take it for the published hash."""
    return f'"{archive.size:x}-{archive.sha1[:16]}"'


def _modified(archive: Archive) -> str:
    return formatdate(archive.path.stat().st_mtime, usegmt=True)
