"""The download of one archive: as many attempts as are allowed, each looked before, and the bytes flushed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection

from restore_fetch import files, rules
from restore_fetch.clock import Clock
from restore_fetch.delivery import ArchiveInspector, DeliveryClient, Downloader, JournalFile, PartFile
from restore_fetch.delivery.download import is_strong, is_whole, trusted_bytes
from restore_fetch.delivery.guards import RateLimit
from restore_fetch.delivery.pipeline import Bounds
from restore_fetch.errors import (
    DownloadError,
    DownloadInterruptedError,
    DownloadRefusedError,
    DownloadsSpentError,
    RestoreFetchError,
    ServiceUnavailableError,
)
from restore_fetch.models import FileHash
from restore_fetch.observer import Observer
from restore_fetch.offer import Offer, check_same, check_still_ready
from restore_fetch.records import COMPLETE
from restore_fetch.restore_service import RestoreService
from restore_fetch.rules import Finding
from restore_fetch.settings import FetchOptions
from restore_fetch.shelf import Whole, fingerprint
from restore_fetch.units import show_size
from restore_fetch.waiting import Patience

_SECOND_LOOK_SECONDS = 120.0
_ASK_THE_JOB = frozenset({401, 403, 404, 410})


class Transfer:
    """Downloads one archive into its part file.

    Args:
        service: For the look before another download is used up.
        deliveries: The client for archives.
        options: How often, how fast, how large.
        limit: The limit of the rate, shared by all transfers of a run; None for none.
        patience: Makes the pauses between attempts; called with a text that says what is waited for.
        observer: Who is told.
        clock: The time.
        cancelled: Asked a few times a second whether to stop.
    """

    def __init__(
        self,
        service: RestoreService,
        deliveries: DeliveryClient,
        options: FetchOptions,
        *,
        limit: RateLimit | None,
        patience: Callable[[Callable[[], str]], Patience],
        observer: Observer,
        clock: Clock,
        cancelled: Callable[[], bool],
    ) -> None:
        self._service = service
        self._deliveries = deliveries
        self._options = options
        self._patience = patience
        self._observer = observer
        self._cancelled = cancelled
        self._downloader = Downloader(
            deliveries,
            Bounds(options.min_rate, options.stall_seconds, limit, options.max_bytes),
            clock=clock,
            now=service.now,
            on_progress=observer.downloading,
            cancelled=cancelled,
        )
        self.asked = False
        """Whether any request for the archive was made."""

    def run(self, offer: Offer, journal: JournalFile, inspector: ArchiveInspector | None = None) -> Whole:
        """Go on from what is here, or start; return once every byte is on the disk.

        Args:
            offer: The delivery.
            journal: The journal of the archive.
            inspector: Checks the structure of the archive on the way; None leaves that out.

        Returns:
            The whole archive, under the name of its part file.

        Raises:
            ApiError: A look before another attempt failed.
            JobError, DeliveryError: That look said that there will be no other.
            DownloadError: The attempts allowed failed.
            StorageError: The disk refuses.
        """
        min_free = self._options.min_free_bytes
        with PartFile(journal.part, min_free_bytes=min_free, inspector=inspector) as part:
            try:
                trusted = trusted_bytes(journal, part.stored_bytes())
                if trusted and is_strong(journal.state.etag):
                    _take_up(part, trusted, self._observer)
                self._make_attempts(offer, journal, part)
            except BaseException:
                part.forget_if_empty()
                raise
            self._observer.note("received", f"{show_size(part.size)} received; flushing them to the disk")
            return _seal(part, journal)

    def check_budget(self, offer: Offer, journal: JournalFile) -> None:
        """Refuse to use up a download that the delivery does not allow, unless that was forced.

        Raises:
            DownloadsSpentError: None is left.
        """
        if not self._options.force:
            rules.check_budget(offer.delivery, journal.state.downloads_used)

    def _make_attempts(self, offer: Offer, journal: JournalFile, part: PartFile) -> None:
        def attempt() -> None:
            self.check_budget(offer, journal)
            if self._deliveries.exposes(offer.source):
                self._observer.note(
                    "plain-http",
                    "the archive comes over plain http: anybody in between can read it, and the key to it",
                    level="warning",
                )
            resumed = f", going on from {show_size(part.size)}" if part.size else ""
            self._observer.note("download", f"downloading {journal.archive.name}{resumed}")
            self.asked = True
            try:
                self._downloader.attempt(offer.source, part, journal)
            except DownloadInterruptedError as exc:
                self._observer.note("attempt-failed", f"attempt failed: {exc.what}", level="warning")
                raise

        def before_next() -> None:
            nonlocal offer
            offer = self._look_again(journal)

        def enough() -> bool:
            # Nobody waits for another attempt, or none is allowed: what happened is the error, not that.
            return self._cancelled() or self._spent(offer, journal) is not None

        most = 1 + self._options.retries
        try:
            self._patience(lambda: "the next attempt").attempts(attempt, most, before_next, enough)
        except RestoreFetchError as exc:
            if isinstance(exc, DownloadRefusedError) and exc.status in _ASK_THE_JOB:
                # The URL no longer works; the job itself can say why. An error from it is the better one.
                with contextlib.suppress(ServiceUnavailableError):
                    self._look_again(journal)
            if isinstance(exc, DownloadError) and (spent := self._spent(offer, journal)):
                exc.what, exc.next_step = f"{exc.what}; {spent.what}", spent.next_step
            _add_files(exc, journal, part)
            raise

    def _spent(self, offer: Offer, journal: JournalFile) -> DownloadsSpentError | None:
        """What forbids another download; None when nothing does."""
        try:
            self.check_budget(offer, journal)
        except DownloadsSpentError as exc:
            return exc
        return None

    def _look_again(self, journal: JournalFile) -> Offer:
        """Look at the job again, before another download is used up."""
        job = self._patience(lambda: "a second look").until(
            lambda: self._service.job(journal.state.job.id), lambda _: True, _SECOND_LOOK_SECONDS
        )
        check_same(journal, job)
        check_still_ready(job)
        offer = Offer.of(job)
        rules.check_expiry(offer.delivery, self._service.now())
        return offer


def recover(journal: JournalFile, observer: Observer, inspector: ArchiveInspector | None = None) -> Whole | None:
    """The archive that an earlier run received to its last byte, without living to say so; None when it did not.

    Neither the service nor the delivery is asked: by now the one download allowed may be spent.

    Raises:
        StorageError: The part file cannot be read, or something else has its name.
    """
    found = files.require_regular(journal.part)
    trusted = trusted_bytes(journal, found.st_size) if found else 0
    if trusted == 0 or not is_whole(journal, trusted):
        return None
    with PartFile(journal.part, inspector=inspector) as part:
        _take_up(part, trusted, observer)
        return _seal(part, journal)


def may_be_whole(journal: JournalFile) -> bool:
    """Whether the bytes here may be all there are although nothing here says so.

    The process, or the machine, may have ended between the last byte and the record of it.

    Raises:
        StorageError: Something else has the name of the part file.
    """
    found = files.require_regular(journal.part)
    attempts = journal.state.attempts
    return bool(found and found.st_size and attempts and attempts[-1].outcome in (None, COMPLETE))


def salvage(
    journal: JournalFile,
    hashes: Collection[FileHash],
    observer: Observer,
    inspector: ArchiveInspector | None = None,
) -> Whole | None:
    """The archive, when all the bytes here, flushed or not, have the published hash; None when they have not.

    Only a match says anything: bytes of which nobody knows whether they are all cannot be the wrong ones.

    Raises:
        StorageError: The part file cannot be read, or something else has its name.
    """
    state = journal.state
    with PartFile(journal.part, inspector=inspector) as part:
        _take_up(part, part.stored_bytes(), observer)
        name = rules.delivered_name(state.file, state.job.id)
        if rules.judge(hashes, part.digest(), name).finding is not Finding.MATCH:
            return None
        return _seal(part, journal)


def _take_up(part: PartFile, trusted: int, observer: Observer) -> None:
    observer.note("reread", f"hashing the {show_size(trusted)} that are here already")
    part.take_up(trusted, lambda done: observer.rereading(done, trusted))


def _seal(part: PartFile, journal: JournalFile) -> Whole:
    """Flush the bytes, and only then say that they are whole."""
    part.checkpoint()
    digest = part.digest()
    journal.update(state="whole", sha1=digest.hex, durable_bytes=part.size)
    return Whole(journal.part, part.size, digest, part.inspection(), seen=fingerprint(part.state()))


def _add_files(exc: RestoreFetchError, journal: JournalFile, part: PartFile) -> None:
    if not exc.files:
        exc.files = part.kept()
    if not exc.next_step:
        goes_on = (
            "it goes on from there"
            if part.size and is_strong(journal.state.etag)
            else "it starts the download over"
        )
        exc.next_step = f"run the same command again: {goes_on}"
