"""Looks at the jobs of one batch, shared: one request shows all of them."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from datetime import datetime

from restore_fetch.clock import Clock
from restore_fetch.errors import RestoreFetchError, ServiceUnavailableError
from restore_fetch.members import check_belong_together, is_undivided
from restore_fetch.models import RestoreJob
from restore_fetch.restore_service import BackupService

_FIRST_LOOK_LASTS_SECONDS = 60.0


class SharedLooks:
    """A `RestoreService` for the members of a batch that asks for the list where each asks for its job.

    The first look of a member is the last list seen, unless that is old. Every later look comes from a list that
    was asked for after the member asked, so that what is seen after a download was said after it. All looks asked
    for in between share it, and so do they share its failure. Two requests are at least the first poll interval
    apart, and further when the service asks to be left alone.

    Args:
        service: The service.
        batch_id: The batch, 24 hexadecimal digits.
        poll_seconds: The least time between two requests.
        clock: The time; its pauses end when the run is stopped.

    Attributes:
        unexpected: Ids of jobs that were not there at first.
    """

    def __init__(self, service: BackupService, batch_id: str, *, poll_seconds: float, clock: Clock) -> None:
        self.name = service.name
        self.publishes_hashes = service.publishes_hashes
        self.unexpected: frozenset[str] = frozenset()
        self._service = service
        self._batch_id = batch_id
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: dict[str, RestoreJob] = {}
        self._known: frozenset[str] = frozenset()
        self._failure: RestoreFetchError | None = None
        self._begun = float("-inf")
        self._alone_until = float("-inf")
        self._looked: set[str] = set()

    def now(self) -> datetime:
        """See `RestoreService.now`."""
        return self._service.now()

    def job(self, job_id: str) -> RestoreJob:
        """See `RestoreService.job`.

        Raises:
            ServiceUnavailableError: The list cannot be had now, is not of one batch and cluster, or lacks the job.
            ApiError: The service refuses.
        """
        since = self._clock.monotonic()
        with self._lock:
            if job_id not in self._looked:
                self._looked.add(job_id)
                since -= _FIRST_LOOK_LASTS_SECONDS
            job = self._since(since).get(job_id)
        if job is None:
            raise ServiceUnavailableError(
                f"the service's list of batch {self._batch_id} no longer has restore job {job_id}"
            )
        return job

    def every_job(self) -> Mapping[str, RestoreJob]:
        """Every job of the batch, by its id, from a list that is asked for now.

        Raises:
            ApiError: As `job`.
        """
        since = self._clock.monotonic()
        with self._lock:
            return self._since(since)

    def _since(self, moment: float) -> Mapping[str, RestoreJob]:
        """A list asked for no earlier than a moment; made by whoever comes first, while the others wait."""
        now = self._clock.monotonic()
        if self._begun < moment and now < self._alone_until and self._failure is not None:
            failure = copy.copy(self._failure)
            if isinstance(failure, ServiceUnavailableError):
                failure.retry_after_seconds = self._alone_until - now
            raise failure
        if self._begun < moment:
            if (pause := self._begun + self._poll_seconds - now) > 0:
                self._clock.sleep(pause)
            self._ask()
        if self._failure is not None:
            raise copy.copy(self._failure)  # each member tells its own files in it
        return self._jobs

    def _ask(self) -> None:
        begun = self._clock.monotonic()
        try:
            jobs = {job.id or "": job for job in self._service.jobs(self._batch_id)}
            check_belong_together(self._batch_id, jobs)
        except RestoreFetchError as exc:
            self._failure = exc
            if isinstance(exc, ServiceUnavailableError) and exc.retry_after_seconds:
                self._alone_until = begun + exc.retry_after_seconds
        else:
            self._failure = None
            self._jobs = jobs
            if not is_undivided(self._batch_id, jobs):
                self._known = self._known or frozenset(jobs)
                self.unexpected |= frozenset(jobs) - self._known
        self._begun = begun
