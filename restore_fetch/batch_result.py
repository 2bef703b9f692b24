"""What became of a batch: the result of each of its jobs, and one error for all that are missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from restore_fetch.crews import MemberResult
from restore_fetch.errors import BatchError, RestoreFetchError
from restore_fetch.records import BatchReceipt
from restore_fetch.workflow import Fetched

_MOST_TOLD = 10


@dataclass(frozen=True)
class BatchResult:
    """What became of a batch.

    Attributes:
        batch_id: The batch.
        results: What became of each job that was meant, in the order of job ids.
        receipt: The evidence for the whole; None while a part of it is not verified here.
        failure: Why there is no such receipt although every job is verified, if something went wrong.
    """

    batch_id: str
    results: tuple[MemberResult, ...]
    receipt: BatchReceipt | None = None
    failure: RestoreFetchError | None = None

    @property
    def fetched(self) -> tuple[Fetched, ...]:
        """What is here, in the order of job ids."""
        return tuple(result.fetched for result in self.results if result.fetched is not None)

    def require_all(self) -> tuple[Fetched, ...]:
        """What is here, when nothing is missing.

        Raises:
            BatchError: Jobs failed; of a single one its own error instead.
            RestoreFetchError: The receipt for the whole could not be made.
        """
        failures = {result.job_id: result.error for result in self.results if result.error is not None}
        if len(self.results) == 1 and failures:
            raise next(iter(failures.values()))
        if failures:
            raise BatchError(
                f"{len(failures)} of {len(self.results)} jobs of batch {self.batch_id} failed: {_told(failures)}",
                batch_id=self.batch_id,
                failures=failures,
                files=f"{len(self.fetched)} are here",
                next_step="run the same command again: it does only what is missing; "
                "where a job can give no archive any more, start a new batch",
            )
        if self.failure is not None:
            raise self.failure
        return self.fetched


def _told(failures: Mapping[str, Exception]) -> str:
    lines = [
        f"{job_id}: {error.what if isinstance(error, RestoreFetchError) else f'unexpected {error!r}'}"
        for job_id, error in list(failures.items())[:_MOST_TOLD]
    ]
    if (more := len(failures) - len(lines)) > 0:
        lines.append(f"and {more} more")
    return "; ".join(lines)
