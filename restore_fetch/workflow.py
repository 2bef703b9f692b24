"""The walk of one restore job: from its id to a verified archive."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from restore_fetch import files, rules
from restore_fetch.clock import Clock
from restore_fetch.delivery import ArchiveInspector, DeliveryClient, JournalFile
from restore_fetch.delivery.guards import RateLimit
from restore_fetch.errors import ApiError, DeliveryError, HashNotPublishedError, JobTimeoutError
from restore_fetch.locking import job_lock, names_lock
from restore_fetch.models import RestoreJob
from restore_fetch.observer import Observer
from restore_fetch.offer import Offer, check_identity, check_same
from restore_fetch.proof import Proof
from restore_fetch.publication import Publisher, Timing
from restore_fetch.records import JobRecord, Receipt, Seconds
from restore_fetch.restore_service import RestoreService
from restore_fetch.rules import JobIdentity, Judgement
from restore_fetch.settings import FetchOptions
from restore_fetch.shelf import Shelf, Whole, hash_file, here_already
from restore_fetch.transfer import Transfer, may_be_whole, recover, salvage
from restore_fetch.units import show_duration
from restore_fetch.waiting import told_patience

_LOOK_LASTS_SECONDS = 60.0


@dataclass(frozen=True)
class Fetched:
    """What a walk ended with.

    Attributes:
        path: The published archive.
        receipt: The evidence.
        downloaded: Whether this run asked for any of its bytes.
    """

    path: Path
    receipt: Receipt
    downloaded: bool


@dataclass
class _Run:
    """What one walk remembers on its way."""

    job_id: str
    started: datetime
    shelf: Shelf
    seconds: dict[str, float] = field(
        default_factory=lambda: {"waiting": 0.0, "downloading": 0.0, "verifying": 0.0}
    )
    downloaded: bool = False
    hashes_were_absent: bool = False

    def timing(self) -> Timing:
        """How long it took so far."""
        return Timing(self.started, Seconds(**{name: round(seconds, 3) for name, seconds in self.seconds.items()}))


class RestoreFetcher:
    """Fetches restore jobs of one cluster.

    Args:
        service: The API side.
        deliveries: The client for the archives; it knows no credentials of the API.
        options: How to fetch.
        observer: Who is told.
        clock: The time.
        random: A number from 0 to 1, for the jitter of pauses.
        tool: Name and version, for receipts.
        cancelled: Asked a few times a second whether to stop.
        limit: The limit of the rate, when others share it; None makes one from the options.
        turn: Entered for as long as bytes are moved: where several walks go on at once, it lets only some of them
            move theirs. It gives the seconds that were waited for it.
    """

    def __init__(
        self,
        service: RestoreService,
        deliveries: DeliveryClient,
        options: FetchOptions,
        *,
        observer: Observer,
        clock: Clock,
        random: Callable[[], float],
        tool: str,
        cancelled: Callable[[], bool] = lambda: False,
        limit: RateLimit | None = None,
        turn: Callable[[], contextlib.AbstractContextManager[float]] = lambda: contextlib.nullcontext(0.0),
    ) -> None:
        self._service = service
        self._deliveries = deliveries
        self._options = options
        self._observer = observer
        self._clock = clock
        self._patience = told_patience(observer, options.poll_seconds, clock=clock, random=random)
        self._cancelled = cancelled
        self._publisher = Publisher(
            service=service.name,
            tool=tool,
            options=options,
            clock=clock,
            observer=observer,
            structure_is_all=not service.publishes_hashes,
        )
        self._deep = options.deep or not service.publishes_hashes
        self._turn = turn
        if limit is None and options.limit_rate:
            limit = RateLimit(options.limit_rate)
        self._limit = limit

    def fetch(self, job_id: str) -> Fetched:
        """Bring one restore job home.

        1. Take the lock of the job.
        2. Stop here when its archive is here and verified, or finish a publication that a crash interrupted.
        3. Wait until the job is FINISHED and its delivery READY.
        4. Check that the delivery may be used: expiry, downloads left, the names needed here.
        5. Download, within the attempts allowed; skip that when the whole archive is here already. Its structure is
           looked at on the way, where that was asked for or nothing else can prove it.
        6. Wait for the published hash, and compare it with the SHA1 of the bytes.
        7. Publish the archive, then its receipt.

        Args:
            job_id: The restore job, 24 hexadecimal digits.

        Returns:
            The published archive and its receipt.

        Raises:
            LockedError: Another run works on the job.
            ApiError: The service refuses, is out of reach, or talks nonsense.
            JobError: The job failed, or took too long.
            DeliveryError: The delivery cannot be used, or no download is left.
            DownloadError: The attempts allowed failed.
            HashMismatchError: The bytes are not the published ones; they are kept as `.rejected`.
            ArchiveDamagedError: The archive is damaged; it is kept as `.rejected`.
            HashNotPublishedError: No hash was published; the bytes are kept as `.unverified`.
            StorageError: The disk refuses, or a file is in the way.
        """
        files.make_folder(self._options.out_dir)
        with self._locked(job_id) as run:  # 1
            if (here := self._already_here(run)) is not None:  # 2
                return here
            whole, journal = self._whole_from_before(run)
            if whole is None or journal is None:
                job = self._wait_until_ready(run)  # 3
                with self._turn() as waited_seconds:
                    if waited_seconds > _LOOK_LASTS_SECONDS:
                        job = self._wait_until_ready(run)
                    journal = self._check_delivery(run, job)  # 4
                    whole = self._download(run, job, journal)  # 5
            job, judgement = self._await_published_hash(run, journal, whole)  # 6
            published = self._publisher.publish(journal, whole, job, judgement, run.timing())  # 7
            return Fetched(*published, downloaded=run.downloaded)

    def prove(self, job_id: str) -> Fetched:
        """Publish an archive that is here in full once its hash is: the walk without waiting and downloading.

        Args:
            job_id: The restore job, 24 hexadecimal digits.

        Returns:
            The published archive and its receipt.

        Raises:
            LockedError: Another run works on the job.
            ApiError: The service refuses, is out of reach, or talks nonsense.
            HashMismatchError: The bytes are not the published ones; they are kept as `.rejected`.
            ArchiveDamagedError: The archive is damaged; it is kept as `.rejected`.
            HashNotPublishedError: No hash is published yet, or there is no whole archive of the job here.
            StorageError: The disk refuses, or a file is in the way.
        """
        with self._locked(job_id) as run:
            if (here := self._already_here(run)) is not None:
                return here
            whole, journal = self._whole_from_before(run)
            if whole is None or journal is None:
                raise HashNotPublishedError(
                    f"there is no whole archive of restore job {job_id} in {self._options.out_dir}",
                    next_step="run restore-fetch fetch",
                )
            job, judgement = self._await_published_hash(run, journal, whole)
            return Fetched(*self._publisher.publish(journal, whole, job, judgement, run.timing()), downloaded=False)

    # --- 1: the lock

    @contextlib.contextmanager
    def _locked(self, job_id: str) -> Iterator[_Run]:
        with job_lock(
            self._options.out_dir,
            job_id,
            self._options.lock_wait_seconds,
            lambda other: self._observer.note("lock-wait", f"{other}; waiting for it"),
        ):
            yield _Run(job_id, self._clock.now(), Shelf(self._options.out_dir, job_id))

    # --- 2: what is here already

    def _already_here(self, run: _Run) -> Fetched | None:
        journal = run.shelf.journal()
        if journal is not None and journal.state.state == "publishing":
            finished = self._publisher.finish(journal)
            return Fetched(*finished, downloaded=False) if finished else None
        here = None if self._options.force else run.shelf.published()
        if here is None:
            return None
        path, receipt = here
        if receipt.verdict == "unverified" and not self._options.allow_unverified:
            return None
        self._observer.note("already-here", here_already(path, receipt))
        return Fetched(path, receipt, downloaded=False)

    def _whole_from_before(self, run: _Run) -> tuple[Whole | None, JournalFile | None]:
        """An archive that an earlier run received in full but could not prove."""
        journal = run.shelf.journal()
        if journal is None:
            return self._unverified_from_before(run)
        with self._turn():
            return self._whole_of(journal)

    def _whole_of(self, journal: JournalFile) -> tuple[Whole | None, JournalFile | None]:
        if journal.state.state == "downloading":
            inspector = self._inspector(journal.state.file)
            whole = recover(journal, self._observer, inspector) or self._salvaged(journal)
            return (whole, journal) if whole else (None, None)
        for path in (journal.part, journal.unverified, journal.archive):
            if files.require_regular(path) is not None:
                whole = hash_file(path, inspector=self._inspector(journal.state.file))
                if whole.digest.hex == journal.state.sha1:
                    return whole, journal
                self._observer.note("changed", f"{path.name} has changed since it was received", level="warning")
                if path == journal.unverified:
                    files.rename(path, journal.part)
        journal.update(state="downloading", etag=None, total_bytes=None, sha1=None)
        return None, None

    def _salvaged(self, journal: JournalFile) -> Whole | None:
        """The archive, when the bytes of a run that was cut off have a hash that is published by now."""
        if not may_be_whole(journal):
            return None
        try:
            job = self._service.job(journal.state.job.id)
            check_same(journal, job)
        except (ApiError, DeliveryError):
            return None  # the wait looks again, and says what is wrong
        if not job.hashes:
            return None
        return salvage(journal, job.hashes, self._observer, self._inspector(journal.state.file))

    def _unverified_from_before(self, run: _Run) -> tuple[Whole | None, JournalFile | None]:
        """An archive that was published without a hash: perhaps there is one now."""
        here = None if self._options.force else run.shelf.published()
        if here is None:
            return None, None
        path, receipt = here
        whole = hash_file(path, inspector=self._inspector(path.name))
        with names_lock(self._options.out_dir):
            journal = run.shelf.open_journal(path.name, receipt.job, receipt.delivery)
        journal.update(state="whole", sha1=whole.digest.hex, total_bytes=None)
        return whole, journal

    # --- 3: the wait

    def _wait_until_ready(self, run: _Run) -> RestoreJob:
        status = "not seen yet"
        seen = JobIdentity(run.job_id)

        def look() -> RestoreJob:
            nonlocal status, seen
            job = self._service.job(run.job_id)
            check_identity(seen, job)
            seen = seen.with_more(JobIdentity.of(job))
            if rules.show_status(job) != status:
                status = rules.show_status(job)
                self._observer.note("status", f"restore job {run.job_id} is {status}")
            return job

        with self._timed(run, "waiting"):
            job = self._patience(lambda: status).until(look, rules.is_ready, self._options.wait_seconds)
        if not rules.is_ready(job):
            raise not_ready_in_time(job, self._options.wait_seconds)
        run.hashes_were_absent = not job.hashes
        return job

    # --- 4: the delivery

    def _check_delivery(self, run: _Run, job: RestoreJob) -> JournalFile:
        offer = Offer.of(job)
        self._tell_terms(job, offer)
        rules.check_expiry(offer.delivery, self._service.now())
        earlier = run.shelf.journal()
        if earlier is not None:
            check_same(earlier, job)
        with names_lock(self._options.out_dir):
            run.shelf.require_free_name(offer.file_name, replace=self._options.force)
            journal = run.shelf.open_journal(offer.file_name, JobRecord.of(job), offer.record)
        if not self._options.force:
            rules.check_budget(offer.delivery, journal.state.downloads_used)
        return journal

    def _tell_terms(self, job: RestoreJob, offer: Offer) -> None:
        skew = rules.clock_skew(self._service.now(), self._clock.now())
        if skew is not None:
            seconds = abs(skew.total_seconds())
            direction = "ahead of" if skew.total_seconds() > 0 else "behind"
            self._observer.note(
                "clock",
                f"this machine's clock is {show_duration(seconds)} {direction} the service's",
                level="warning",
            )
        if job.encryption_enabled:
            self._observer.note(
                "encrypted",
                "the snapshot is encrypted: mongod can only start on it with the KMIP master key "
                f"{job.master_key_uuid or '(the service does not name it)'}",
                level="warning",
            )
        terms = offer.delivery
        self._observer.note(
            "delivery",
            f"{offer.file_name} from {offer.record.host}, expires {terms.expires or 'at no stated time'}, "
            f"downloads allowed: {terms.max_downloads or 'not stated'}",
            level="debug",
        )

    # --- 5: the download

    def _download(self, run: _Run, job: RestoreJob, journal: JournalFile) -> Whole:
        transfer = Transfer(
            self._service,
            self._deliveries,
            self._options,
            limit=self._limit,
            patience=self._patience,
            observer=self._observer,
            clock=self._clock,
            cancelled=self._cancelled,
        )
        try:
            with self._timed(run, "downloading"):
                return transfer.run(Offer.of(job), journal, self._inspector(journal.state.file))
        finally:
            run.downloaded = transfer.asked

    def _inspector(self, name: str) -> ArchiveInspector | None:
        return ArchiveInspector(name) if self._deep else None

    # --- 6: the published hash

    def _await_published_hash(self, run: _Run, journal: JournalFile, whole: Whole) -> tuple[RestoreJob, Judgement]:
        proof = Proof(
            lambda: self._service.job(run.job_id),
            journal,
            whole,
            hashes_were_absent=run.hashes_were_absent,
            observer=self._observer,
        )
        seconds = self._options.hash_wait_seconds if self._service.publishes_hashes else 0.0
        with self._timed(run, "verifying"):
            return proof.wait(self._patience(lambda: "the published hash"), seconds)

    # --- time

    @contextlib.contextmanager
    def _timed(self, run: _Run, name: str) -> Iterator[None]:
        began = self._clock.monotonic()
        try:
            yield
        finally:
            run.seconds[name] += self._clock.monotonic() - began


def not_ready_in_time(job: RestoreJob, waited_seconds: float) -> JobTimeoutError:
    """The error about a job that was waited for long enough."""
    return JobTimeoutError(
        f"restore job {job.id} is {rules.show_status(job)}, not FINISHED/READY after "
        f"{show_duration(waited_seconds)}",
        job_id=job.id or "",
        status_name=job.status_name,
        files="nothing was downloaded",
        next_step="run the same command again, or wait longer with --wait",
    )
