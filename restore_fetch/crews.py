"""Who does the work of a batch: threads of this process, or the workers of any `concurrent.futures.Executor`.

The unit of work is one job: `fetch_one` of a `Unit`, both of which can be pickled, so that it may be done in
another process or on another machine.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from restore_fetch.assembly import FetcherFactory, open_fetcher
from restore_fetch.clock import Clock
from restore_fetch.errors import RestoreFetchError, StorageError
from restore_fetch.observer import BatchObserver, SilentObserver
from restore_fetch.restore_service import RestoreService
from restore_fetch.settings import Connection, FetchOptions
from restore_fetch.workflow import Fetched

_TICK_SECONDS = 0.25
_STOP_SECONDS = 1.5


@dataclass(frozen=True)
class Unit:
    """One job to fetch, with all that a worker elsewhere needs.

    It holds the private key, unless its connection is one `without_secret`.
    """

    connection: Connection
    options: FetchOptions
    job_id: str


@dataclass(frozen=True)
class MemberResult:
    """What became of one job of a batch: it was fetched, or there is an error."""

    job_id: str
    fetched: Fetched | None = None
    error: Exception | None = None


def result_of(job_id: str, future: Future[MemberResult]) -> MemberResult:
    """The result of a job; a worker that died, or an error nobody foresaw, is one too."""
    try:
        return future.result()
    except Exception as exc:  # noqa: BLE001 - whatever it is, the other members go on
        return MemberResult(job_id, error=exc)


def fetch_one(unit: Unit) -> MemberResult:
    """Fetch one job, in whatever process this is, with connections of its own.

    Args:
        unit: What, from where, and where to.

    Returns:
        The archive and its receipt, or the error that ended it.
    """
    folder = unit.options.out_dir
    try:
        if not folder.is_dir():  # whoever asked has made it
            raise StorageError(
                f"a worker does not see the folder {folder}",
                path=folder,
                files="nothing was touched",
                next_step="all workers must share it, under the same path",
            )
        connection = unit.connection.with_secret(os.environ)
        with open_fetcher(connection, unit.options, SilentObserver()) as fetcher:
            return MemberResult(unit.job_id, fetched=fetcher.fetch(unit.job_id))
    except RestoreFetchError as exc:
        return MemberResult(unit.job_id, error=exc)


class Crew(Protocol):
    """Does one job after another is given to it."""

    def start(self, job_id: str) -> Future[MemberResult]:
        """Begin with a job, now or as soon as somebody is free."""
        ...

    def stop(self) -> None:
        """Stop what can be stopped, within two seconds; bytes that arrived are kept."""
        ...


class Cancelled(BaseException):
    """The run was stopped: raised in each of its threads, and never beyond them."""


class StoppableClock:
    """A clock whose pauses end at once when the run is stopped.

    Args:
        clock: The clock that tells the time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stopped = threading.Event()

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return self._clock.monotonic()

    def now(self) -> datetime:
        """See `Clock.now`."""
        return self._clock.now()

    def sleep(self, seconds: float) -> None:
        """Wait.

        Raises:
            Cancelled: The run is stopped.
        """
        if self._stopped.wait(max(0.0, seconds)):
            raise Cancelled

    def stop(self) -> None:
        """End every pause, now and from now on."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        """Whether the run is stopped."""
        return self._stopped.is_set()


class ThreadCrew:
    """A thread for every job, of which only some move bytes at a time; the others wait, which costs nothing.

    Args:
        factory: Makes the fetchers.
        service: What they look at.
        observer: Who is told.
        clock: The time, and whether the run is stopped.
        parallel: How many move bytes at once.
    """

    def __init__(
        self,
        factory: FetcherFactory,
        service: RestoreService,
        *,
        observer: BatchObserver,
        clock: StoppableClock,
        parallel: int,
    ) -> None:
        self._factory = factory
        self._service = service
        self._observer = observer
        self._clock = clock
        self._turns = threading.Semaphore(parallel)
        self._threads: list[threading.Thread] = []

    def start(self, job_id: str) -> Future[MemberResult]:
        """See `Crew.start`."""
        future: Future[MemberResult] = Future()
        thread = threading.Thread(target=self._walk, args=(job_id, future), name=f"job {job_id}", daemon=True)
        self._threads.append(thread)
        thread.start()
        return future

    def stop(self) -> None:
        """See `Crew.stop`. A thread that waits for the network may outlast this; nothing it does then counts."""
        self._clock.stop()
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _walk(self, job_id: str, future: Future[MemberResult]) -> None:
        try:
            fetcher = self._factory.make(
                self._service,
                observer=self._observer.member(job_id),
                clock=self._clock,
                cancelled=lambda: self._clock.stopped,
                turn=self._turn,
            )
            result = MemberResult(job_id, fetched=fetcher.fetch(job_id))
        except Cancelled:
            future.cancel()
        except Exception as exc:  # noqa: BLE001 - whatever it is, the other members go on
            future.set_result(MemberResult(job_id, error=exc))
        else:
            future.set_result(result)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[float]:
        began = self._clock.monotonic()
        while not self._turns.acquire(timeout=_TICK_SECONDS):
            self._clock.sleep(0)
        try:
            self._clock.sleep(0)  # whoever stopped gives the turn up: nobody may begin a download then
            yield self._clock.monotonic() - began
        finally:
            self._turns.release()


class ExecutorCrew:
    """Workers of an executor that somebody else made, and will shut down.

    Args:
        executor: Whose workers.
        connection: How they reach the service.
        options: How they fetch.
    """

    def __init__(self, executor: Executor, connection: Connection, options: FetchOptions) -> None:
        self._executor = executor
        self._unit: Callable[[str], Unit] = lambda job_id: Unit(connection, options, job_id)
        self._futures: list[Future[MemberResult]] = []

    def start(self, job_id: str) -> Future[MemberResult]:
        """See `Crew.start`."""
        future = self._executor.submit(fetch_one, self._unit(job_id))
        self._futures.append(future)
        return future

    def stop(self) -> None:
        """See `Crew.stop`. What a worker has begun it also ends."""
        for future in self._futures:
            future.cancel()
