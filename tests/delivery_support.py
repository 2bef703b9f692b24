"""Archives on their way: bodies that break as a test wants, and attempts and whole walks against them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import ssl
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

from restore_fetch.delivery import DeliveryClient, Downloader, JournalFile, PartFile, Source
from restore_fetch.delivery.body import Body, Buffer, body_of
from restore_fetch.delivery.http1 import Response
from restore_fetch.delivery.pipeline import Bounds
from restore_fetch.models import RestoreJob
from restore_fetch.observer import Level
from restore_fetch.records import DeliveryRecord, JobRecord, Journal
from restore_fetch.settings import FetchOptions
from restore_fetch.workflow import Fetched, RestoreFetcher
from tests.support import ManualClock
from tests.wire_support import client_tls

JOB_ID = "6b77893b80eef5354c77ee15"
NAME = "archive.tar.gz"
BOUNDS = Bounds(min_rate=1024, stall_seconds=60.0)


def some_bytes(size: int, seed: int = 1) -> bytes:
    """Bytes that look like nothing in particular, the same ones each time."""
    return hashlib.shake_128(seed.to_bytes(4, "big")).digest(size)


def sha1(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


# --- bodies ----------------------------------------------------------------------------------------------


class FakeSocket:
    """A socket that gives pieces, one a call, raises the errors among them, and then ends."""

    def __init__(self, pieces: Iterable[bytes | Exception]) -> None:
        self._pieces = list(pieces)

    def recv_into(self, view: memoryview) -> int:
        if not self._pieces:
            return 0
        piece = self._pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        count = min(len(view), len(piece))
        view[:count] = piece[:count]
        if count < len(piece):
            self._pieces.insert(0, piece[count:])
        return count


def fake_body(headers: dict[str, str], *pieces: bytes | Exception, leftover: bytes = b"") -> Body:
    """The body that goes with these headers, when the socket gives these pieces."""
    return body_of(Response(200, headers, leftover, cast("Any", FakeSocket(pieces)), "host.example"))


def receive_some(body: Body, buffer: Buffer, start: int, stop: int) -> int:
    """Receive as `Body.receive`, and ask again as long as nothing but framing comes."""
    while True:
        with contextlib.suppress(TimeoutError):
            return body.receive(buffer, start, stop)


def read_all(body: Body, size: int = 64 * 1024) -> bytes:
    """Receive until the body is whole."""
    buffer = Buffer(size)
    received = bytearray()
    while count := receive_some(body, buffer, 0, size):
        received += buffer.view[:count]
    return bytes(received)


class ScriptedBody:
    """A body that gives so many bytes a call, or raises; and lets time pass, when told to.

    Attributes:
        given: How many bytes it gave.
    """

    length: int | None = None

    def __init__(self, *steps: int | BaseException, before_each: Callable[[], None] = lambda: None) -> None:
        self._steps: Iterator[int | BaseException] = iter(steps)
        self._before_each = before_each
        self.given = 0

    @classmethod
    def endless(cls, step: int | BaseException, before_each: Callable[[], None] = lambda: None) -> ScriptedBody:
        body = cls(before_each=before_each)
        body._steps = iter(lambda: step, None)
        return body

    def receive(self, buffer: Buffer, start: int, stop: int) -> int:
        self._before_each()
        step = next(self._steps, 0)
        if isinstance(step, BaseException):
            raise step
        count = min(step, stop - start)
        if step > count:
            self._steps = _chain(step - count, self._steps)
        buffer.view[start : start + count] = pattern(self.given, count)
        self.given += count
        return count


def _chain(first: int, rest: Iterator[int | BaseException]) -> Iterator[int | BaseException]:
    yield first
    yield from rest


_PATTERN = bytes(range(251)) * 8400  # no power of two, so that a buffer out of place shows


def pattern(start: int, count: int) -> bytes:
    """What a `ScriptedBody` gives at a place."""
    first = start % 251
    return _PATTERN[first : first + count] if first + count <= len(_PATTERN) else _long_pattern(first, count)


def _long_pattern(first: int, count: int) -> bytes:
    repeats = (first + count) // len(_PATTERN) + 1
    return (_PATTERN * repeats)[first : first + count]


# --- one attempt -----------------------------------------------------------------------------------------


def delivery_client(*, allow_http: bool = False, head_seconds: float = 20.0) -> DeliveryClient:
    return DeliveryClient(client_tls(), allow_http=allow_http, user_agent="tests/1", head_seconds=head_seconds)


def new_journal(folder: Path, name: str = NAME, **elements: Any) -> JournalFile:
    """A journal on disk, as it is before the first attempt."""
    journal = JournalFile(
        folder, Journal(file=name, job=JobRecord(id=JOB_ID), delivery=DeliveryRecord(host="127.0.0.1"))
    )
    journal.update(**elements)
    return journal


class Desk:
    """A folder with a journal and a part file, and a downloader to make attempts with.

    Attributes:
        progress: What the downloader told, in order.
    """

    def __init__(
        self,
        folder: Path,
        clock: ManualClock,
        *,
        bounds: Bounds = BOUNDS,
        client: DeliveryClient | None = None,
        min_free_bytes: int = 0,
    ) -> None:
        self.clock = clock
        self.journal = new_journal(folder)
        self.progress: list[tuple[int, int | None]] = []
        self._min_free_bytes = min_free_bytes
        self._downloader = Downloader(
            client or delivery_client(),
            bounds,
            clock=clock,
            now=clock.now,
            on_progress=lambda received, total: self.progress.append((received, total)),
        )

    def attempt(self, url: str, auth: tuple[str, str] | None = None) -> None:
        """One attempt, which goes on from the bytes that are in the part file."""
        with PartFile(self.journal.part, min_free_bytes=self._min_free_bytes) as part:
            part.take_up(part.stored_bytes())
            self.clock.advance(1)
            self._downloader.attempt(Source(url, auth), part, self.journal)
            assert part.digest().hex == sha1(self.kept())

    def keeps(self, data: bytes, **elements: Any) -> None:
        """Let an earlier run have left bytes here."""
        self.journal.part.write_bytes(data)
        self.journal.update(**elements)

    def kept(self) -> bytes:
        return self.journal.part.read_bytes()

    @property
    def outcomes(self) -> list[str | None]:
        """How each attempt ended, by the journal on disk."""
        return [attempt.outcome for attempt in self.on_disk().state.attempts]

    def on_disk(self) -> JournalFile:
        """The journal as another process would read it."""
        read = JournalFile.at(self.journal.path.parent, NAME)
        assert read is not None
        return read


# --- a whole walk ----------------------------------------------------------------------------------------


class FakeService:
    """The API side, without a wire: one job whose delivery is at a URL.

    Args:
        url: Where its archive is.
        sha1: What it publishes once `downloaded` says that somebody has fetched the archive.
        downloaded: See there.
        clock: The time.
        delivery: Further elements of the delivery, or other values.

    Attributes:
        looks: How often it was asked.
        delivery: The delivery document; a test may change it between looks.
    """

    name = "atlas"
    publishes_hashes = True

    def __init__(
        self,
        url: str,
        sha1: str | None,
        clock: ManualClock,
        *,
        downloaded: Callable[[], bool] = lambda: True,
        **delivery: Any,
    ) -> None:
        self._sha1 = sha1
        self._clock = clock
        self._downloaded = downloaded
        self.looks = 0
        self.delivery: dict[str, Any] = {
            "methodName": "HTTP",
            "statusName": "READY",
            "url": url,
            "expires": (clock.now() + timedelta(hours=24)).isoformat(),
            "maxDownloads": 5,
            **delivery,
        }

    def job(self, job_id: str) -> RestoreJob:
        self.looks += 1
        document: dict[str, Any] = {"id": job_id, "statusName": "FINISHED", "delivery": self.delivery}
        if self._sha1 is not None and self._downloaded():
            document["hashes"] = [{"typeName": "SHA1", "fileName": NAME, "hash": self._sha1}]
        return RestoreJob.model_validate(document)

    def now(self) -> datetime:
        return self._clock.now()


class Notes:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.warnings: list[str] = []
        self.messages: list[str] = []
        self.progress: list[tuple[int, int | None]] = []

    def note(self, event: str, message: str, *, level: Level = "info") -> None:
        self.events.append(event)
        if level == "warning":
            self.warnings.append(event)
        self.messages.append(message)

    def waiting(self, what: str, waited_seconds: float) -> None:
        pass

    def downloading(self, received_bytes: int, total_bytes: int | None) -> None:
        self.progress.append((received_bytes, total_bytes))

    def rereading(self, read_bytes: int, total_bytes: int) -> None:
        pass


def options(folder: Path, **others: Any) -> FetchOptions:
    """How the walks of these tests fetch: without a need for free space, with pauses on a clock of their own."""
    return FetchOptions(**{"out_dir": folder, "min_free_bytes": 0, "retries": 0, **others})


def fetcher(
    service: FakeService,
    settings: FetchOptions,
    clock: ManualClock,
    *,
    client: DeliveryClient | None = None,
    observer: Notes | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> RestoreFetcher:
    return RestoreFetcher(
        service,
        client or delivery_client(),
        settings,
        observer=observer or Notes(),
        clock=clock,
        random=lambda: 0.5,
        tool="tests",
        cancelled=cancelled,
    )


def fetch(service: FakeService, folder: Path, clock: ManualClock, **others: Any) -> Fetched:
    """The whole walk, in this process."""
    return fetcher(service, options(folder, **others), clock).fetch(JOB_ID)


@contextmanager
def memory_folder(fallback: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of flushes would wear a disk and the patience."""
    shared = Path("/dev/shm")
    if not (shared.is_dir() and os.access(shared, os.W_OK)):
        yield fallback
        return
    with tempfile.TemporaryDirectory(dir=shared, prefix="restore-fetch-tests-") as name:
        yield Path(name)


def ragged() -> ssl.SSLError:
    """What a TLS connection that ends without close_notify raises."""
    error = ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol")
    error.reason = "UNEXPECTED_EOF_WHILE_READING"
    return error
