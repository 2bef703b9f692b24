"""The walk for many jobs: every part of a sharded cluster, from a batch id to a receipt for the whole."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field
from random import random

from restore_fetch import files
from restore_fetch.assembly import USER_AGENT, FetcherFactory
from restore_fetch.batch_result import BatchResult
from restore_fetch.batch_shelf import BatchShelf
from restore_fetch.clock import SystemClock
from restore_fetch.crews import Crew, ExecutorCrew, MemberResult, StoppableClock, ThreadCrew, result_of
from restore_fetch.errors import (
    NotFoundError,
    RestoreFetchError,
    ServiceUnavailableError,
    StorageError,
    VerificationError,
)
from restore_fetch.looks import SharedLooks
from restore_fetch.members import Choice, is_over, is_still_one, is_undivided, same_name
from restore_fetch.models import RestoreJob
from restore_fetch.observer import BatchObserver, SilentObserver
from restore_fetch.restore_service import BackupService, RestoreService
from restore_fetch.service import open_service
from restore_fetch.settings import Connection, FetchOptions
from restore_fetch.waiting import told_patience
from restore_fetch.workflow import Fetched, not_ready_in_time

_TICK_SECONDS = 0.5


CrewMaker = Callable[[RestoreService, StoppableClock], Crew]


@dataclass
class _Run:
    """What one walk remembers on its way."""

    batch_id: str
    choice: Choice
    looks: SharedLooks
    crew: Crew
    jobs: Mapping[str, RestoreJob] = field(default_factory=dict)
    futures: dict[str, Future[MemberResult]] = field(default_factory=dict)
    results: dict[str, MemberResult] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    names: dict[str, str] = field(default_factory=dict)


class BatchFetcher:
    """Fetches batches of one cluster.

    Args:
        service: The API side.
        options: How each job is fetched.
        crew: Makes those who do it, from what they look at.
        observer: Who is told.
        random: A number from 0 to 1, for the jitter of pauses.
        clock: The time.
    """

    def __init__(
        self,
        service: BackupService,
        options: FetchOptions,
        crew: CrewMaker,
        *,
        observer: BatchObserver,
        random: Callable[[], float],
        clock: StoppableClock,
    ) -> None:
        self._service = service
        self._options = options
        self._crew = crew
        self._observer = observer
        self._patience = told_patience(observer, options.poll_seconds, clock=clock, random=random)
        self._clock = clock
        self._shelf = BatchShelf(options.out_dir, service=service.name, observer=observer, clock=clock)

    def fetch(
        self,
        batch_id: str,
        *,
        choice: Choice = Choice(),  # noqa: B008 - it is frozen
        expected: Collection[str] = (),
        snapshot_id: str | None = None,
    ) -> BatchResult:
        """Bring the jobs of one batch home.

        1. Stop here when all of it is here and verified.
        2. List its jobs; they must be of one batch and one cluster.
        3. Look at all of them with one request a poll, and begin with each as soon as its own wait is over.
        4. Let every job that was begun come to its end, whatever becomes of the others.
        5. Write the receipt for the whole once each of its jobs is verified here.

        Args:
            batch_id: The batch, 24 hexadecimal digits.
            choice: Which of its jobs are meant.
            expected: Jobs that must be among them, when they are known; they are waited for.
            snapshot_id: The snapshot that was asked for, when it is known.

        Returns:
            What became of each job. Whether that is a success, `BatchResult.require_all` says.

        Raises:
            NotFoundError: The service knows no job of the batch, or none that is meant.
            ApiError: The service refuses, is out of reach, talks nonsense, or mixes batches or clusters.
            ConfigurationError: There is no such place in the batch.
            StorageError: The folder cannot be made, or a record in it is damaged.
        """
        files.make_folder(self._options.out_dir)
        if (here := self.already_here(batch_id, choice)) is not None:  # 1
            return here
        looks = SharedLooks(self._service, batch_id, poll_seconds=self._options.poll_seconds, clock=self._clock)
        jobs = self._list(looks, batch_id, frozenset(expected))  # 2
        chosen = choice.of(tuple(jobs))
        alone = len(chosen) == 1
        run = _Run(batch_id, choice, looks, self._crew(self._service if alone else looks, self._clock), jobs)
        try:
            if alone:
                self._begin(run, chosen[0])
            else:
                self._begin_each(run, chosen)  # 3
            self._let_end(run)  # 4
        except BaseException:
            run.crew.stop()
            raise
        results = tuple(run.results[job_id] for job_id in chosen if job_id in run.results)
        if not results:
            raise NotFoundError(f"no file of batch {batch_id} is called {choice.only}", next_step="check --only")
        return self._conclude(run, results, snapshot_id)  # 5

    # --- 1: what is here already

    def already_here(self, batch_id: str, choice: Choice = Choice()) -> BatchResult | None:  # noqa: B008
        """A batch of which everything that is meant is here and proved; None when it is not, or must not count.

        Raises:
            ConfigurationError: There is no such place in the batch.
            StorageError: Its receipt is damaged.
        """
        receipt = None if self._options.force else self._shelf.receipt(batch_id)
        if receipt is None:
            return None
        chosen = choice.of([member.job_id for member in receipt.members])
        results = []
        for member in receipt.members:
            if member.job_id not in chosen or choice.leaves_out(member.file):
                continue
            try:
                here = self._shelf.verified(member.job_id, member.file)
            except (VerificationError, StorageError) as exc:
                results.append(MemberResult(member.job_id, error=exc))
                continue
            if here is None or here.receipt.sha1 != member.sha1:
                return None
            results.append(MemberResult(member.job_id, fetched=here))
        if not results:
            return None
        self._observer.note("already-here", f"batch {batch_id} is here already, {receipt.proved}")
        return BatchResult(batch_id, tuple(results), receipt)

    # --- 2: the list

    def _list(self, looks: SharedLooks, batch_id: str, expected: frozenset[str]) -> Mapping[str, RestoreJob]:
        jobs = self._patience(lambda: f"the list of batch {batch_id}").until(
            looks.every_job,
            lambda jobs: expected <= jobs.keys() and not is_still_one(batch_id, jobs),
            self._options.wait_seconds,
        )
        if is_still_one(batch_id, jobs):
            raise not_ready_in_time(jobs[batch_id], self._options.wait_seconds)
        if missing := expected - jobs.keys():
            raise ServiceUnavailableError(
                f"the service's list of batch {batch_id} lacks {len(missing)} of the {len(expected)} jobs it made",
                next_step="run the same command again",
            )
        if not jobs:
            raise NotFoundError(
                f"the service knows no restore job of batch {batch_id}",
                next_step="check --batch-id, --project-id and --cluster",
            )
        self._observer.note("batch", f"batch {batch_id} has {len(jobs)} jobs")
        return jobs

    # --- 3: begin

    def _begin_each(self, run: _Run, chosen: Sequence[str]) -> None:
        self._observer.begin(len(chosen))
        waiting = set(chosen)
        listed_now = True

        def look() -> None:
            nonlocal listed_now
            if not listed_now:
                run.jobs = run.looks.every_job()
            listed_now = False
            for job_id in sorted(waiting):
                job = run.jobs.get(job_id)
                if job is None or not is_over(job):
                    continue
                waiting.discard(job_id)
                name = self._shelf.name_of(job_id, job)
                if run.choice.leaves_out(name):
                    run.left_out.add(job_id)
                    self._observer.ended(job_id, None)
                elif name is not None and run.names.setdefault(name, job_id) != job_id:
                    self._fail(run, job_id, same_name(name, job_id, run.names[name]))
                else:
                    self._begin(run, job_id)

        failure: RestoreFetchError | None = None
        try:
            self._patience(lambda: "the jobs of the batch").until(
                look, lambda _: not waiting, self._options.wait_seconds
            )
        except RestoreFetchError as exc:
            failure = exc
        for job_id in waiting:
            self._give_up(run, job_id, failure)

    def _begin(self, run: _Run, job_id: str) -> None:
        future = run.crew.start(job_id)
        run.futures[job_id] = future
        future.add_done_callback(lambda done: self._tell_end(job_id, done))

    def _give_up(self, run: _Run, job_id: str, failure: RestoreFetchError | None) -> None:
        """A job that was not ready in time, or of which nothing more can be learnt."""
        job = run.jobs.get(job_id) or RestoreJob(id=job_id)
        if run.choice.leaves_out(self._shelf.name_of(job_id, job)):
            run.left_out.add(job_id)
            return
        self._fail(run, job_id, failure or not_ready_in_time(job, self._options.wait_seconds))

    def _fail(self, run: _Run, job_id: str, error: RestoreFetchError) -> None:
        run.results[job_id] = MemberResult(job_id, error=error)
        self._observer.ended(job_id, error)

    # --- 4: the end

    def _let_end(self, run: _Run) -> None:
        pending = set(run.futures.values())
        while pending:
            pending = wait(pending, timeout=_TICK_SECONDS).not_done
        run.results.update({job_id: self._seen(result_of(job_id, one)) for job_id, one in run.futures.items()})

    def _seen(self, result: MemberResult) -> MemberResult:
        """What a worker says is here, once it is seen here."""
        try:
            if result.fetched is not None:
                self._shelf.require_here(result.job_id, result.fetched)
        except RestoreFetchError as exc:
            return MemberResult(result.job_id, error=exc)
        return result

    def _tell_end(self, job_id: str, future: Future[MemberResult]) -> None:
        if not future.cancelled():
            self._observer.ended(job_id, result_of(job_id, future).error)

    # --- 5: the receipt for the whole

    def _conclude(self, run: _Run, results: tuple[MemberResult, ...], snapshot_id: str | None) -> BatchResult:
        result = BatchResult(run.batch_id, results)
        if any(member.error is not None for member in results) or is_undivided(run.batch_id, run.jobs):
            return result  # a single archive has a receipt of its own
        try:
            if run.looks.unexpected:
                raise ServiceUnavailableError(
                    f"batch {run.batch_id} has grown by {len(run.looks.unexpected)} jobs since it was listed",
                    next_step="run the same command again",
                )
            verified = {one.job_id: one.fetched for one in results if one.fetched is not None}
            receipt = self._shelf.certify(run.batch_id, run.jobs.keys(), verified, snapshot_id)
        except RestoreFetchError as exc:
            return BatchResult(run.batch_id, results, failure=exc)
        return BatchResult(run.batch_id, results, receipt)


def batch_fetcher(
    service: BackupService,
    connection: Connection,
    options: FetchOptions,
    *,
    parallel: int,
    observer: BatchObserver,
    workers: Callable[[], Executor] | None = None,
) -> BatchFetcher:
    """A fetcher whose jobs are done by threads of this process, or by an executor's workers.

    Args:
        service: The API side.
        connection: How workers reach the service, and threads the deliveries.
        options: How each job is fetched.
        parallel: How many threads move bytes at once.
        observer: Who is told by threads; of workers elsewhere only the end is told.
        workers: Gives whose workers do it, when there is something to do; None for threads.

    Raises:
        ConfigurationError: The certificates to trust cannot be used.
    """
    factory = FetcherFactory(connection, options)

    def crew(looked_at: RestoreService, clock: StoppableClock) -> Crew:
        if workers is not None:
            return ExecutorCrew(workers(), connection, options)
        return ThreadCrew(factory, looked_at, observer=observer, clock=clock, parallel=parallel)

    return BatchFetcher(
        service, options, crew, observer=observer, random=random, clock=StoppableClock(SystemClock())
    )


def fetch_batch(
    connection: Connection,
    batch_id: str,
    options: FetchOptions,
    *,
    parallel: int = 2,
    choice: Choice = Choice(),  # noqa: B008 - it is frozen
    executor: Executor | None = None,
    observer: BatchObserver | None = None,
) -> tuple[Fetched, ...]:
    """Bring every job of a batch home, and prove each.

    Args:
        connection: How to reach the service.
        batch_id: The batch, 24 hexadecimal digits.
        options: How each job is fetched; the folder must be one that all workers share.
        parallel: How many archives are downloaded at once by this process.
        choice: Which jobs are meant.
        executor: Workers that download in place of this process, as many at once as it has. It is neither made nor
            shut down here. Each worker gets the private key, so its wires must be ones to trust with that.
        observer: Who is told.

    Returns:
        The archives, in the order of job ids.

    Raises:
        BatchError: Jobs failed; the others are done.
        RestoreFetchError: See `BatchFetcher.fetch`.
    """
    told = observer or SilentObserver()
    with open_service(connection, clock=SystemClock(), user_agent=USER_AGENT) as service:
        workers = None if executor is None else lambda: executor
        fetcher = batch_fetcher(service, connection, options, parallel=parallel, observer=told, workers=workers)
        return fetcher.fetch(batch_id, choice=choice).require_all()
