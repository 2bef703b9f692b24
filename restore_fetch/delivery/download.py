"""One attempt to download an archive: ask, judge the answer's head, receive, and keep the journal."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from datetime import datetime

from restore_fetch.clock import Clock
from restore_fetch.delivery.body import Body, body_of
from restore_fetch.delivery.http1 import DeliveryClient, Response, Source
from restore_fetch.delivery.journal import JournalFile
from restore_fetch.delivery.part import PartFile, boot_id
from restore_fetch.delivery.pipeline import TICK_SECONDS, TOO_LARGE, Bounds, Pipeline
from restore_fetch.errors import (
    ConfigurationError,
    DownloadError,
    DownloadInterruptedError,
    DownloadRefusedError,
    RestoreFetchError,
    StorageError,
)
from restore_fetch.records import COMPLETE, NOT_SENT, Attempt
from restore_fetch.rules import retry_after_seconds

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})\Z")
_UNSATISFIED_RANGE = re.compile(r"bytes \*/([0-9]{1,18})\Z")
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"\Z')
_NOT_AN_ARCHIVE = re.compile(
    r"\s*(text/html|text/xml|application/xhtml\+xml|application/xml|application/json)\b", re.IGNORECASE
)
_LONGEST_SHOWN = 60
_WORTH_ANOTHER_TRY = frozenset({408, 425, 429, 500, 502, 503, 504})


class Downloader:
    """Makes attempts, each of which leaves the part file and the journal telling the truth.

    Args:
        client: The client for deliveries.
        bounds: What a transfer must keep to.
        clock: The time.
        now: The time by the service's clock.
        on_progress: Called with the bytes on disk, and the total when it is known.
        cancelled: Asked a few times a second whether to stop.
    """

    def __init__(
        self,
        client: DeliveryClient,
        bounds: Bounds,
        *,
        clock: Clock,
        now: Callable[[], datetime],
        on_progress: Callable[[int, int | None], None],
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._client = client
        self._bounds = bounds
        self._clock = clock
        self._now = now
        self._on_progress = on_progress
        self._cancelled = cancelled

    def attempt(self, source: Source, part: PartFile, journal: JournalFile) -> None:
        """Make one request for the archive, or for what is missing of it.

        The journal holds the attempt before the request is sent. What arrived is kept whatever happens.

        Args:
            source: Where the archive is.
            part: The file, open, with its hash as far as its size.
            journal: Its journal.

        Raises:
            DownloadInterruptedError: The transfer broke off; another attempt may succeed.
            DownloadRefusedError: The answer was not the archive.
            ConfigurationError: A proxy of the environment cannot be used.
            StorageError: The disk refuses.
        """
        self._check_known_size(journal)
        if not is_strong(journal.state.etag):
            part.start_over()  # without a strong validator nobody can say that the rest belongs to these bytes
        part.check_room()
        begun = Attempt(started=self._clock.now(), resumed_from=part.size)
        journal.begin(begun)
        outcome = "interrupted"
        try:
            self._transfer(source, part, journal)
            _check_stored(part, journal)
            outcome = COMPLETE
        except DownloadError as exc:
            outcome = NOT_SENT if isinstance(exc, DownloadInterruptedError) and not exc.sent else exc.outcome
            exc.received_bytes = part.size
            raise
        except ConfigurationError:
            outcome = NOT_SENT
            raise
        except RestoreFetchError:
            outcome = "local failure"
            raise
        finally:
            resumed_from = journal.state.attempts[-1].resumed_from
            ended = begun.model_copy(
                update={
                    "ended": self._clock.now(),
                    "bytes": part.size,
                    "outcome": outcome,
                    "resumed_from": resumed_from,
                }
            )
            journal.end(ended, durable_bytes=part.durable_bytes, boot_id=boot_id())

    def _transfer(self, source: Source, part: PartFile, journal: JournalFile) -> None:
        with self._client.open(source, offset=part.size, etag=journal.state.etag) as response:
            if _nothing_is_missing(response, part, journal):
                return
            body = self._accept(response, part, journal)
            total = journal.state.total_bytes
            self._on_progress(part.size, total)
            response.sock.settimeout(TICK_SECONDS)
            pipeline = Pipeline(
                part,
                self._bounds,
                clock=self._clock,
                on_progress=lambda received: self._on_progress(received, total),
                cancelled=self._cancelled,
                total_bytes=total,
            )
            try:
                pipeline.run(body)
            finally:
                if total is not None and part.size > total:
                    journal.update(etag=None)  # these bytes are no beginning to go on from
        if total is not None and part.size != total:
            raise DownloadInterruptedError(
                f"{part.size} bytes arrived of {total} announced", outcome="cut", status=response.status
            )

    def _accept(self, response: Response, part: PartFile, journal: JournalFile) -> Body:
        """Judge the head of an answer, and bring the part file and the journal in line with it."""
        _check_status(response, self._now())
        _check_content(response)
        body = body_of(response)
        etag = _strong_etag(response)
        total: int | None
        if response.status == 206:
            total = self._accept_rest(response, part, journal, body)
        else:
            total = body.length
            if part.size or part.stored_bytes():
                part.start_over()
            attempts = journal.state.attempts
            afresh = attempts[-1].model_copy(update={"resumed_from": 0})
            journal.update(
                etag=etag,
                total_bytes=total,
                durable_bytes=0,
                boot_id=boot_id(),
                attempts=(*attempts[:-1], afresh),
            )
        if total is not None:
            self._check_announced(total, sent=True)
            part.reserve(total)
        return body

    def _check_known_size(self, journal: JournalFile) -> None:
        """Use up no download for an archive that was refused as too large before, and still is."""
        state = journal.state
        if state.total_bytes is not None and state.attempts and state.attempts[-1].outcome == TOO_LARGE:
            self._check_announced(state.total_bytes, sent=False)

    def _check_announced(self, total_bytes: int, *, sent: bool) -> None:
        if self._bounds.max_bytes is not None and total_bytes > self._bounds.max_bytes:
            raise DownloadRefusedError(
                f"the archive has {total_bytes} bytes, more than the {self._bounds.max_bytes} allowed",
                outcome=TOO_LARGE,
                sent=sent,
                next_step="raise --max-size if so large an archive is expected",
            )

    def _accept_rest(self, response: Response, part: PartFile, journal: JournalFile, body: Body) -> int:
        """Check that a 206 is the rest of the very bytes that are here (RFC 9110, section 14.4)."""
        if part.size == 0:
            raise DownloadRefusedError(
                f"{response.host} sends a part although the whole archive was asked for (status 206)",
                outcome="status 206",
                status=response.status,
            )
        match = _CONTENT_RANGE.match(response.headers.get("content-range", ""))
        first, last, total = (int(number) for number in match.groups()) if match else (-1, -1, -1)
        state = journal.state
        if (
            first != part.size
            or last != total - 1
            or (body.length is not None and body.length != total - first)
            or state.total_bytes not in (None, total)
            or response.headers.get("etag") not in (None, state.etag)
        ):
            raise _wrong_range(response, journal)
        journal.update(total_bytes=total, boot_id=boot_id())
        return total


def _nothing_is_missing(response: Response, part: PartFile, journal: JournalFile) -> bool:
    """Whether the answer to a request for the rest is that the bytes here are all (RFC 9110, section 15.5.17)."""
    if response.status != 416 or part.size == 0:
        return False
    match = _UNSATISFIED_RANGE.match(response.headers.get("content-range", ""))
    state = journal.state
    if (
        match is None
        or int(match[1]) != part.size
        or state.total_bytes not in (None, part.size)
        or response.headers.get("etag") not in (None, state.etag)
    ):
        raise _wrong_range(response, journal)
    journal.update(total_bytes=part.size, boot_id=boot_id())
    return True


def _wrong_range(response: Response, journal: JournalFile) -> DownloadInterruptedError:
    """The error that makes the next attempt start over: what the delivery has does not go with what is here."""
    journal.update(etag=None)
    return DownloadInterruptedError(
        f"{response.host} offers a part that does not go with the bytes that are here",
        outcome="wrong range",
        status=response.status,
        files="the next attempt starts over",
    )


def _check_stored(part: PartFile, journal: JournalFile) -> None:
    """Refuse a file that is not as long as what was written to it: its hash is that of the bytes received."""
    stored = part.stored_bytes()
    if stored == part.size:
        return
    journal.update(etag=None)  # nobody knows which are wrong: these are no beginning to go on from
    what = (
        "is shorter than what was written to it: the disk, or another program, lost some of it"
        if stored < part.size
        else "is longer than what was written to it: another program writes to it, too"
    )
    raise StorageError(
        f"{part.path} {what}",
        path=part.path,
        errno=errno.EIO,
        files="what is left of it cannot be gone on from",
        next_step="check the disk, then run the same command again: it starts the download over",
    )


def _check_status(response: Response, now: datetime) -> None:
    status = response.status
    if status in (200, 206):
        return
    if status in _WORTH_ANOTHER_TRY or status > 504:
        raise DownloadInterruptedError(
            f"{response.host} cannot deliver now (status {status})",
            outcome=f"status {status}",
            status=status,
            retry_after_seconds=retry_after_seconds(response.headers.get("retry-after"), now),
        )
    raise DownloadRefusedError(
        f"{response.host} refuses the download (status {status})", outcome=f"status {status}", status=status
    )


def _check_content(response: Response) -> None:
    """Refuse what is no archive, or not the archive's own bytes."""
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise DownloadRefusedError(
            f"{response.host} sends the archive in a content encoding ({encoding[:_LONGEST_SHOWN]}): "
            "its own bytes are needed",
            outcome="content encoding",
            status=response.status,
        )
    if match := _NOT_AN_ARCHIVE.match(response.headers.get("content-type", "")):
        raise DownloadRefusedError(
            f"{response.host} sends {match[1].lower()} in place of an archive",
            outcome="not an archive",
            status=response.status,
            next_step="look for a proxy or a login page in between",
        )


def _strong_etag(response: Response) -> str | None:
    """The entity tag, when it can vouch for bytes (RFC 9110, section 8.8.3)."""
    etag = response.headers.get("etag")
    return etag if is_strong(etag) else None


def is_strong(etag: str | None) -> bool:
    """Whether an entity tag can vouch for bytes; one in a journal may have been edited by hand."""
    return etag is not None and _STRONG_ETAG.match(etag) is not None


def trusted_bytes(journal: JournalFile, stored: int) -> int:
    """How many of the bytes in a part file may be taken up again.

    After a power cut only those that were flushed; otherwise all of them.
    """
    here = boot_id()
    if here is not None and here == journal.state.boot_id:
        return stored
    return min(stored, journal.state.durable_bytes)


def is_whole(journal: JournalFile, size: int) -> bool:
    """Whether the bytes taken up are all there are, so that no request is needed.

    They are when the delivery announced so many, or when the last attempt saw the end and left so many.
    """
    state = journal.state
    last = state.attempts[-1] if state.attempts else None
    return size == state.total_bytes or (last is not None and last.outcome == COMPLETE and last.bytes == size)
