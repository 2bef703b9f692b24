"""The walk from a snapshot: the restore job it needs is found again or made, and then fetched."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from restore_fetch import files, receipts, rules
from restore_fetch.batch import BatchFetcher
from restore_fetch.batch_result import BatchResult
from restore_fetch.clock import Clock
from restore_fetch.errors import (
    ApiError,
    ConfigurationError,
    DeliveryError,
    JobError,
    NotFoundError,
    ServiceUnavailableError,
    SeveralFilesError,
)
from restore_fetch.locking import job_lock
from restore_fetch.members import Choice, made_for
from restore_fetch.models import RestoreJob, Snapshot
from restore_fetch.observer import Observer
from restore_fetch.pull_journal import PullFile
from restore_fetch.records import PullJournal
from restore_fetch.restore_service import BackupService
from restore_fetch.settings import FetchOptions
from restore_fetch.shelf import Shelf, here_already
from restore_fetch.waiting import told_patience
from restore_fetch.workflow import Fetched, RestoreFetcher

_T = TypeVar("_T")
_SEARCH_SECONDS = 120.0
_MOST_HOURS = 24 * 365
_NOT_HEARD = frozenset({429, 503})  # statuses that say that nothing was begun


@dataclass(frozen=True)
class Order:
    """What a new restore job is asked to allow.

    Attributes:
        max_downloads: How often each archive may be downloaded.
        expiration_hours: How long its URL shall live.

    Raises:
        ConfigurationError: One of them is no such number.
    """

    max_downloads: int = 5
    expiration_hours: int = 24

    def __post_init__(self) -> None:
        if not 1 <= self.max_downloads <= rules.UNLIMITED_DOWNLOADS:
            raise ConfigurationError(f"--max-downloads must be from 1 to {rules.UNLIMITED_DOWNLOADS}")
        if not 1 <= self.expiration_hours <= _MOST_HOURS:
            raise ConfigurationError(f"--expiration-hours must be from 1 to {_MOST_HOURS}")


@dataclass(frozen=True)
class Fetchers:
    """Who fetches what the service made: a job, or a batch."""

    one: Callable[[], contextlib.AbstractContextManager[RestoreFetcher]]
    batch: Callable[[], contextlib.AbstractContextManager[BatchFetcher]]


class Puller:
    """Pulls snapshots of one cluster.

    Args:
        service: The API side.
        options: How each job is fetched.
        order: What a new job is asked to allow.
        fetchers: Who fetches.
        observer: Who is told.
        clock: The time.
        random: A number from 0 to 1, for the jitter of pauses.
    """

    def __init__(
        self,
        service: BackupService,
        options: FetchOptions,
        order: Order,
        fetchers: Fetchers,
        *,
        observer: Observer,
        clock: Clock,
        random: Callable[[], float],
    ) -> None:
        self._service = service
        self._options = options
        self._order = order
        self._fetchers = fetchers
        self._observer = observer
        self._clock = clock
        self._patience = told_patience(observer, options.poll_seconds, clock=clock, random=random)

    def pull(self, snapshot_id: str | None = None, choice: Choice = Choice()) -> BatchResult | Fetched:  # noqa: B008
        """Bring a snapshot home.

        1. Find the newest complete snapshot, or the one that was named.
        2. Take the lock of that snapshot.
        3. Stop here when it is here and verified.
        4. Find the restore job that an earlier pull asked for, as long as it can still be used.
        5. Else ask for one; the journal says so before and after.
        6. Fetch it: a job, or a batch.

        Args:
            snapshot_id: The snapshot, 24 hexadecimal digits; None takes the newest complete one.
            choice: Which archives of a sharded cluster are meant.

        Returns:
            The archive, or what became of each one of a sharded cluster.

        Raises:
            NotFoundError: There is no such snapshot, or none at all.
            ApiError: The service refuses, is out of reach, or talks nonsense.
            LockedError: Another run pulls the same snapshot.
            RestoreFetchError: See `RestoreFetcher.fetch` and `BatchFetcher.fetch`.
        """
        files.make_folder(self._options.out_dir)
        snapshot = self._find_snapshot(snapshot_id)  # 1
        wanted = snapshot.id or ""
        if choice != Choice() and len(snapshot.parts) == 1:
            raise ConfigurationError("--only and --index choose among the archives of a sharded cluster")
        with job_lock(self._options.out_dir, wanted, self._options.lock_wait_seconds, what="snapshot"):  # 2
            if (here := self._already_here(snapshot, choice)) is not None:  # 3
                return here
            journal = PullFile(self._options.out_dir, wanted)
            jobs = self._earlier_jobs(snapshot, journal)  # 4
            if not jobs:
                jobs = self._create(snapshot, journal)  # 5
            fetched = self._fetch(jobs, wanted, choice)  # 6
            if _is_proven(fetched):
                journal.remove()  # the receipts say all from now on
            return fetched

    # --- 1: the snapshot

    def _find_snapshot(self, snapshot_id: str | None) -> Snapshot:
        snapshot = self._ask("the snapshots", lambda: self._look_for_snapshot(snapshot_id))
        taken = f"taken {snapshot.created:%Y-%m-%d %H:%M:%S}Z" if snapshot.created else "taken at no stated time"
        self._observer.note("snapshot", f"snapshot {snapshot.id}, {taken}")
        return snapshot

    def _look_for_snapshot(self, snapshot_id: str | None) -> Snapshot:
        if snapshot_id is not None:
            snapshot = self._service.snapshot(snapshot_id)
            if snapshot.complete is False:
                raise NotFoundError(
                    f"snapshot {snapshot_id} is not complete yet", next_step="wait for it, or choose another"
                )
            return snapshot
        # A service that lists only complete snapshots need not say so of each.
        complete = [snapshot for snapshot in self._service.snapshots() if snapshot.complete is not False]
        if not complete:
            raise NotFoundError(
                "the cluster has no complete snapshot", next_step="check --cluster, and that its backup is on"
            )
        return complete[0]

    # --- 3: what is here already

    def _already_here(self, snapshot: Snapshot, choice: Choice) -> BatchResult | Fetched | None:
        if self._options.force:
            return None
        for batch in receipts.batch_receipts(self._options.out_dir):
            if batch.snapshot_id == snapshot.id and _same(batch.group_id, snapshot.group_id):
                with self._fetchers.batch() as fetcher:
                    here = fetcher.already_here(batch.batch_id, choice)
                if here is not None:
                    return here
        if len(snapshot.parts) > 1:
            return None  # one archive is only a part of it
        for receipt in receipts.receipts_of_snapshot(self._options.out_dir, snapshot.id or ""):
            published = Shelf(self._options.out_dir, receipt.job.id).published(receipt.file)
            if receipt.job.batch_id is None and published is not None and self._will_do(published[1].verdict):
                self._observer.note("already-here", here_already(*published))
                return Fetched(*published, downloaded=False)
        return None

    def _will_do(self, verdict: str) -> bool:
        return verdict != "unverified" or self._options.allow_unverified

    # --- 4: the job of an earlier pull

    def _earlier_jobs(self, snapshot: Snapshot, journal: PullFile) -> tuple[RestoreJob, ...]:
        known = journal.read()
        if known is None:
            return ()
        seconds = self._options.wait_seconds
        if not known.job_ids:
            # The answer never came. What was asked for may still be in the making.
            seconds = max(0.0, (known.requested - self._service.now()).total_seconds() + _SEARCH_SECONDS)
        jobs = self._patience(lambda: "the restore jobs").until(
            lambda: self._find_again(snapshot, known), lambda jobs: bool(jobs or known.job_ids), seconds
        )
        if not jobs:
            return ()
        if not all(self._is_usable(job) for job in jobs):
            self._observer.note("unusable", "the restore job of the last pull can no longer be used")
            return ()
        self._observer.note("found-again", f"going on with restore job {_named(jobs)} of the last pull")
        if not known.job_ids:
            journal.write(known.model_copy(update=_answer(jobs)))
        return jobs

    def _find_again(self, snapshot: Snapshot, known: PullJournal) -> tuple[RestoreJob, ...]:
        """The jobs that the journal tells of, as the service lists them now: all of them, or none."""
        listed = self._service.jobs(known.batch_id) if known.batch_id else self._service.all_jobs()
        if known.job_ids:
            # What was one job may show itself as the batch of its files by now.
            jobs = tuple(job for job in listed if job.id in known.job_ids or job.batch_id in known.job_ids)
            return jobs if len(jobs) >= len(known.job_ids) else ()
        return made_for(listed, snapshot, known.requested)

    def _is_usable(self, job: RestoreJob) -> bool:
        """Whether an archive can still come of a job: because it is here in full, or can be downloaded."""
        shelf = Shelf(self._options.out_dir, job.id or "")
        state = shelf.journal()
        if (state is not None and state.state.state != "downloading") or shelf.published() is not None:
            return True
        try:
            if rules.is_ready(job) and job.delivery is not None:
                rules.check_expiry(job.delivery, self._service.now())
                if not self._options.force:
                    rules.check_budget(job.delivery, sum(attempt.may_count for attempt in shelf.attempts()))
        except (JobError, DeliveryError):
            return False
        return True

    # --- 5: a new job

    def _create(self, snapshot: Snapshot, journal: PullFile) -> tuple[RestoreJob, ...]:
        """Ask once. When no answer comes it may have been heard all the same, so the list is searched for it."""
        wanted = snapshot.id or ""

        def ask() -> tuple[RestoreJob, ...] | ServiceUnavailableError:
            try:
                return self._service.create_restore(
                    wanted,
                    max_downloads=self._order.max_downloads,
                    expiration_hours=self._order.expiration_hours,
                )
            except ServiceUnavailableError as exc:
                if exc.status in _NOT_HEARD:
                    raise
                return exc

        asked = PullJournal(snapshot_id=wanted, requested=self._service.now())
        journal.write(asked)
        self._observer.note("create", f"asking for a restore job of snapshot {wanted}")
        try:
            answer = self._ask("a restore job", ask)
        except ApiError:
            journal.remove()  # it was refused: there is nothing to find again
            raise
        jobs = self._search(snapshot, asked, answer) if isinstance(answer, ServiceUnavailableError) else answer
        _check_answer(snapshot, jobs)
        journal.write(asked.model_copy(update=_answer(jobs)))
        self._observer.note("created", f"restore job {_named(jobs)} was made")
        return jobs

    def _search(
        self, snapshot: Snapshot, asked: PullJournal, exc: ServiceUnavailableError
    ) -> tuple[RestoreJob, ...]:
        self._observer.note(
            "create-unanswered",
            f"it is not known whether a job was made ({exc.what}); looking for it",
            level="warning",
        )
        seconds = min(_SEARCH_SECONDS, self._options.wait_seconds)
        try:
            jobs = self._patience(lambda: "the restore job").until(
                lambda: made_for(self._service.all_jobs(), snapshot, asked.requested), bool, seconds
            )
        except ServiceUnavailableError:
            jobs = ()
        if not jobs:
            exc.next_step = "run the same command again: it looks for the job before it asks for another"
            raise exc
        return jobs

    # --- 6: the fetch

    def _fetch(self, jobs: tuple[RestoreJob, ...], snapshot_id: str, choice: Choice) -> BatchResult | Fetched:
        if jobs[0].batch_id is None and len(jobs) == 1:
            try:
                with self._fetchers.one() as one:
                    return one.fetch(jobs[0].id or "")
            except SeveralFilesError as exc:
                self._observer.note("batch", f"{exc.what}: they are fetched as a batch")
                with self._fetchers.batch() as several:
                    return several.fetch(exc.batch_id.lower(), choice=choice, snapshot_id=snapshot_id)
        batches = {job.batch_id for job in jobs}
        batch_id = jobs[0].batch_id
        if len(batches) != 1 or batch_id is None:
            raise ServiceUnavailableError(
                f"the service made {len(jobs)} restore jobs that are not of one batch",
                next_step="look at the jobs with restore-fetch status",
            )
        with self._fetchers.batch() as fetcher:
            return fetcher.fetch(
                batch_id.lower(), choice=choice, expected=[job.id or "" for job in jobs], snapshot_id=snapshot_id
            )

    # --- asking

    def _ask(self, what: str, look: Callable[[], _T]) -> _T:
        """Ask the service, and again as long as it cannot answer now."""
        return self._patience(lambda: what).until(look, lambda _: True, self._options.wait_seconds)


def _check_answer(snapshot: Snapshot, jobs: tuple[RestoreJob, ...]) -> None:
    if len(jobs) == 1 and jobs[0].batch_id is None and not _same(jobs[0].snapshot_id, snapshot.id):
        raise ServiceUnavailableError(
            f"the service made restore job {jobs[0].id}, but of another snapshot than {snapshot.id}",
            next_step="look at the job with restore-fetch status",
        )


def _same(one: str | None, other: str | None) -> bool:
    """Whether two ids do not contradict each other."""
    return one is None or other is None or one.lower() == other.lower()


def _answer(jobs: tuple[RestoreJob, ...]) -> dict[str, object]:
    return {"job_ids": tuple(job.id or "" for job in jobs), "batch_id": jobs[0].batch_id}


def _named(jobs: tuple[RestoreJob, ...]) -> str:
    return f"{jobs[0].id}" if len(jobs) == 1 else f"batch {jobs[0].batch_id} of {len(jobs)} jobs"


def _is_proven(fetched: BatchResult | Fetched) -> bool:
    if isinstance(fetched, BatchResult):
        return fetched.receipt is not None
    return fetched.receipt.verdict != "unverified"
