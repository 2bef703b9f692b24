"""The walk of one restore job: from its id to a verified archive."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from restore_fetch import files, rules
from restore_fetch.clock import Clock
from restore_fetch.delivery import DeliveryClient, Downloader, JournalFile, PartFile, Source
from restore_fetch.delivery.download import is_whole, trusted_bytes
from restore_fetch.delivery.guards import RateLimit
from restore_fetch.delivery.pipeline import Bounds
from restore_fetch.errors import (
    DeliveryError,
    DownloadInterruptedError,
    DownloadRefusedError,
    JobTimeoutError,
    RestoreFetchError,
    ServiceUnavailableError,
)
from restore_fetch.locking import job_lock
from restore_fetch.models import Delivery, RestoreJob
from restore_fetch.publication import Publisher, Timing
from restore_fetch.records import DeliveryRecord, JobRecord, Receipt, Seconds
from restore_fetch.rules import Finding, JobIdentity, Judgement
from restore_fetch.settings import FetchOptions
from restore_fetch.shelf import Shelf, Whole, hash_file
from restore_fetch.units import show_duration, show_size
from restore_fetch.waiting import Patience

_SECOND_LOOK_SECONDS = 120.0
_SETTLED_LOOKS = 2


class RestoreService(Protocol):
    """What the walk asks of a service; `service.LegacyRestoreService` is one."""

    name: str

    def job(self, job_id: str) -> RestoreJob:
        """One look at a job."""
        ...

    def now(self) -> datetime:
        """The time by the service's clock."""
        ...


class Observer(Protocol):
    """Who is told what happens; the command line shows it to people."""

    def note(self, event: str, message: str, *, warning: bool = False) -> None:
        """Something happened that a log should hold."""
        ...

    def waiting(self, what: str, waited_seconds: float) -> None:
        """Still waiting, for what and how long."""
        ...

    def downloading(self, received_bytes: int, total_bytes: int | None) -> None:
        """So many bytes are here, of so many when that is known."""
        ...

    def rereading(self, read_bytes: int, total_bytes: int) -> None:
        """Bytes of an earlier run are being hashed again."""
        ...


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
    ) -> None:
        self._service = service
        self._deliveries = deliveries
        self._options = options
        self._observer = observer
        self._clock = clock
        self._random = random
        self._cancelled = cancelled
        self._publisher = Publisher(
            service=service.name, tool=tool, options=options, clock=clock, note=observer.note
        )
        self._limit = RateLimit(options.limit_rate) if options.limit_rate else None

    def fetch(self, job_id: str) -> Fetched:
        """Bring one restore job home.

        1. Take the lock of the job.
        2. Stop here when its archive is here and verified, or finish a publication that a crash interrupted.
        3. Wait until the job is FINISHED and its delivery READY.
        4. Check that the delivery may be used: expiry, downloads left, the names needed here.
        5. Download, within the attempts allowed; skip that when the whole archive is here already.
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
            HashNotPublishedError: No hash was published; the bytes are kept as `.unverified`.
            StorageError: The disk refuses, or a file is in the way.
        """
        files.make_folder(self._options.out_dir)
        run = _Run(job_id, self._clock.now(), Shelf(self._options.out_dir, job_id))
        with job_lock(self._options.out_dir, job_id, self._options.lock_wait_seconds):  # 1
            if (here := self._already_here(run)) is not None:  # 2
                return here
            whole, journal = self._whole_from_before(run)
            if whole is None or journal is None:
                job = self._wait_until_ready(run)  # 3
                journal = self._check_delivery(run, job)  # 4
                whole = self._download(run, job, journal)  # 5
            job, judgement = self._await_published_hash(run, journal, whole)  # 6
            published = self._publisher.publish(journal, whole, job, judgement, run.timing())  # 7
            return Fetched(*published, downloaded=run.downloaded)

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
        if receipt.verdict != "verified" and not self._options.allow_unverified:
            return None
        self._observer.note(
            "already-here", f"{path} is here already, {receipt.verdict} on {receipt.finished:%Y-%m-%d}"
        )
        return Fetched(path, receipt, downloaded=False)

    def _whole_from_before(self, run: _Run) -> tuple[Whole | None, JournalFile | None]:
        """An archive that an earlier run received in full but could not prove."""
        journal = run.shelf.journal()
        if journal is None:
            return self._unverified_from_before(run)
        if journal.state.state != "whole":
            return None, None
        for path in (journal.part, journal.unverified):
            if files.require_regular(path) is not None:
                whole = hash_file(path)
                if whole.digest.hex == journal.state.sha1:
                    return whole, journal
                self._observer.note("changed", f"{path.name} has changed since it was received", warning=True)
                if path == journal.unverified:
                    files.rename(path, journal.part)
        journal.update(state="downloading", etag=None, total_bytes=None, sha1=None)
        return None, None

    def _unverified_from_before(self, run: _Run) -> tuple[Whole | None, JournalFile | None]:
        """An archive that was published without a hash: perhaps there is one now."""
        here = None if self._options.force else run.shelf.published()
        if here is None:
            return None, None
        path, receipt = here
        whole = hash_file(path)
        journal = run.shelf.open_journal(path.name, receipt.job, receipt.delivery)
        journal.update(state="whole", sha1=whole.digest.hex, total_bytes=None)
        return whole, journal

    # --- 3: the wait

    def _patience(self, what: Callable[[], str]) -> Patience:
        return Patience(
            self._options.poll_seconds,
            clock=self._clock,
            random=self._random,
            on_wait=lambda seconds: self._observer.waiting(what(), seconds),
        )

    def _wait_until_ready(self, run: _Run) -> RestoreJob:
        status = "not seen yet"

        def look() -> RestoreJob:
            nonlocal status
            job = self._service.job(run.job_id)
            if rules.show_status(job) != status:
                status = rules.show_status(job)
                self._observer.note("status", f"restore job {run.job_id} is {status}")
            return job

        with self._timed(run, "waiting"):
            job = self._patience(lambda: status).until(look, rules.is_ready, self._options.wait_seconds)
        if not rules.is_ready(job):
            raise JobTimeoutError(
                f"restore job {run.job_id} is {status}, not FINISHED/READY after "
                f"{show_duration(self._options.wait_seconds)}",
                job_id=run.job_id,
                status_name=job.status_name,
                files="nothing was downloaded",
                next_step="run the same command again, or wait longer with --wait",
            )
        run.hashes_were_absent = not job.hashes
        return job

    # --- 4: the delivery

    def _check_delivery(self, run: _Run, job: RestoreJob) -> JournalFile:
        delivery = _delivery_of(job)
        now = self._service.now()
        if (skew := rules.clock_skew(now, self._clock.now())) is not None:
            seconds = abs(skew.total_seconds())
            direction = "ahead of" if skew.total_seconds() > 0 else "behind"
            self._observer.note(
                "clock", f"this machine's clock is {show_duration(seconds)} {direction} the service's", warning=True
            )
        rules.check_expiry(delivery, now)
        name = rules.archive_name(_source_of(delivery).url, run.job_id)
        run.shelf.require_free_name(name, replace=self._options.force)
        earlier = run.shelf.journal()
        if earlier is not None:
            _check_same(earlier, job)
        journal = run.shelf.open_journal(name, JobRecord.of(job), _record_of(delivery))
        self._check_budget(delivery, journal)
        if job.encryption_enabled:
            self._observer.note(
                "encrypted",
                "the snapshot is encrypted: mongod can only start on it with the KMIP master key "
                f"{job.master_key_uuid or '(the service does not name it)'}",
                warning=True,
            )
        return journal

    def _check_budget(self, delivery: Delivery, journal: JournalFile) -> None:
        used = sum(attempt.may_count for attempt in journal.state.attempts)
        if not self._options.force:
            rules.check_budget(delivery, used)

    # --- 5: the download

    def _download(self, run: _Run, job: RestoreJob, journal: JournalFile) -> Whole:
        options = self._options
        downloader = Downloader(
            self._deliveries,
            Bounds(options.min_rate, options.stall_seconds, self._limit, options.max_bytes),
            clock=self._clock,
            now=self._service.now,
            on_progress=self._observer.downloading,
            cancelled=self._cancelled,
        )
        with self._timed(run, "downloading"), PartFile(journal.part, min_free_bytes=options.min_free_bytes) as part:
            if not self._take_up(journal, part):
                self._attempts(run, job, journal, part, downloader)
            self._observer.note("received", f"{show_size(part.size)} received; flushing them to the disk")
            part.checkpoint()
            digest = part.digest()
            journal.update(state="whole", sha1=digest.hex, durable_bytes=part.size)
            return Whole(journal.part, part.size, digest)

    def _take_up(self, journal: JournalFile, part: PartFile) -> bool:
        """Go on from the bytes of an earlier run; returns whether they are all there are."""
        trusted = trusted_bytes(journal, part.stored_bytes())
        whole = trusted > 0 and is_whole(journal, trusted)
        if trusted == 0 or (journal.state.etag is None and not whole):
            return False
        part.take_up(trusted, lambda done: self._observer.rereading(done, trusted))
        return whole

    def _attempts(
        self, run: _Run, job: RestoreJob, journal: JournalFile, part: PartFile, downloader: Downloader
    ) -> None:
        delivery = _delivery_of(job)

        def attempt() -> None:
            self._check_budget(delivery, journal)
            resumed = f", going on from {show_size(part.size)}" if part.size else ""
            self._observer.note("download", f"downloading {journal.archive.name}{resumed}")
            run.downloaded = True
            try:
                downloader.attempt(_source_of(delivery), part, journal)
            except DownloadInterruptedError as exc:
                self._observer.note("attempt-failed", f"attempt failed: {exc.what}", warning=True)
                raise

        def before_next() -> None:
            nonlocal delivery
            delivery = self._second_look(run, journal)

        most = 1 + self._options.retries
        try:
            self._patience(lambda: "before the next attempt").attempts(attempt, most, before_next)
        except DownloadRefusedError as exc:
            if exc.status in (401, 403, 404, 410):
                # The URL no longer works; the job itself can say why. An error from it is the better one.
                with contextlib.suppress(ServiceUnavailableError):
                    self._second_look(run, journal)
            raise _with_files(exc, journal, part) from exc
        except RestoreFetchError as exc:
            raise _with_files(exc, journal, part) from exc

    def _second_look(self, run: _Run, journal: JournalFile) -> Delivery:
        """Look at the job again, before another download is used up."""
        job = self._patience(lambda: "a second look").until(
            lambda: self._service.job(run.job_id), lambda _: True, _SECOND_LOOK_SECONDS
        )
        _check_same(journal, job)
        delivery = _delivery_of(job)
        rules.check_method(delivery)
        rules.check_delivery_status(delivery)
        rules.check_expiry(delivery, self._service.now())
        self._check_budget(delivery, journal)
        return delivery

    # --- 6: the published hash

    def _await_published_hash(self, run: _Run, journal: JournalFile, whole: Whole) -> tuple[RestoreJob, Judgement]:
        used = sum(attempt.may_count for attempt in journal.state.attempts)
        only_ours = run.hashes_were_absent and used == 1
        seen: list[Judgement] = []

        def look() -> tuple[RestoreJob, Judgement]:
            job = self._service.job(run.job_id)
            _check_same(journal, job)
            judgement = rules.judge(job.hashes, whole.digest, journal.state.file)
            if judgement.finding is Finding.NOT_PUBLISHED and not seen:
                self._observer.note("hash-wait", "waiting for the service to publish the hash")
            if judgement.finding is Finding.MISMATCH and not seen:
                self._observer.note("hash-differs", "a different hash is published; asking again", warning=True)
            seen.append(judgement)
            return job, judgement

        def settled(looked: tuple[RestoreJob, Judgement]) -> bool:
            # A hash that differs may be of an earlier download: only one that must be ours is settled early.
            last = seen[-_SETTLED_LOOKS:]
            same = len(last) == _SETTLED_LOOKS and len(set(last)) == 1
            return rules.is_settled(looked[1], only_ours=only_ours, repeated=same)

        with self._timed(run, "verifying"):
            try:
                patience = self._patience(lambda: "the published hash")
                return patience.until(look, settled, self._options.hash_wait_seconds)
            except RestoreFetchError as exc:
                exc.files = exc.files or f"the whole archive is kept as {whole.path.name}"
                exc.next_step = exc.next_step or "run the same command again: it is not downloaded again"
                raise

    @contextlib.contextmanager
    def _timed(self, run: _Run, name: str) -> Iterator[None]:
        began = self._clock.monotonic()
        try:
            yield
        finally:
            run.seconds[name] += self._clock.monotonic() - began


def _delivery_of(job: RestoreJob) -> Delivery:
    if job.delivery is None or (job.delivery.url or job.delivery.url_v2) is None:
        raise DeliveryError("the job no longer has a delivery with a URL", next_step="start a new restore job")
    return job.delivery


def _source_of(delivery: Delivery) -> Source:
    """Where to ask: `urlV2` with its header when the service offers that, else `url`."""
    if delivery.url_v2 and delivery.auth_header and delivery.auth_value:
        rules.check_auth_header(delivery.auth_header, delivery.auth_value.get_secret_value())
        return Source(
            delivery.url_v2.get_secret_value(), (delivery.auth_header, delivery.auth_value.get_secret_value())
        )
    url = delivery.url or delivery.url_v2
    return Source(url.get_secret_value() if url else "")


def _record_of(delivery: Delivery) -> DeliveryRecord:
    return DeliveryRecord(
        host=rules.host_of(_source_of(delivery).url),
        expires=delivery.expires,
        max_downloads=delivery.max_downloads,
    )


def _check_same(journal: JournalFile, job: RestoreJob) -> None:
    """Refuse a look that contradicts what is known of the job: bytes of two snapshots must never mix."""
    element = journal.state.job.identity.contradiction(JobIdentity.of(job))
    if element is None and job.delivery and (job.delivery.url or job.delivery.url_v2):
        url = _source_of(job.delivery).url
        element = "delivery.url" if rules.archive_name(url, job.id or "") != journal.state.file else None
    if element is not None:
        raise ServiceUnavailableError(
            f"the service contradicts itself about restore job {job.id}: its {element} has changed",
            next_step="look at the job with restore-fetch status; if it stays so, start a new restore job",
        )


def _with_files(exc: RestoreFetchError, journal: JournalFile, part: PartFile) -> RestoreFetchError:
    if not exc.files:
        exc.files = f"{part.size} bytes are kept in {journal.part.name}" if part.size else "nothing was kept"
    if not exc.next_step:
        goes_on = "it goes on from there" if journal.state.etag else "it starts the download over"
        exc.next_step = f"run the same command again: {goes_on}"
    return exc
