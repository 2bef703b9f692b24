"""What the rest asks of a restore service, whichever it is; `service.LegacyRestoreService` is one."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from restore_fetch.models import RestoreJob, Snapshot


class RestoreService(Protocol):
    """What the walk of one job asks.

    Attributes:
        name: What `--service` calls it.
        publishes_hashes: Whether it ever publishes a hash of what it delivers.
    """

    name: str
    publishes_hashes: bool

    def now(self) -> datetime:
        """The time by the service's clock."""
        ...

    def job(self, job_id: str) -> RestoreJob:
        """One look at a job."""
        ...


class BackupService(RestoreService, Protocol):
    """What whole clusters need beyond that: lists, snapshots, and new restore jobs."""

    def jobs(self, batch_id: str) -> tuple[RestoreJob, ...]:
        """Every job of a batch, in the order of job ids; none when there is no such batch."""
        ...

    def all_jobs(self) -> tuple[RestoreJob, ...]:
        """Every job of the cluster, the newest first."""
        ...

    def snapshots(self) -> tuple[Snapshot, ...]:
        """The cluster's snapshots, the newest first."""
        ...

    def snapshot(self, snapshot_id: str) -> Snapshot:
        """One snapshot."""
        ...

    def create_restore(
        self, snapshot_id: str, *, max_downloads: int, expiration_hours: int
    ) -> tuple[RestoreJob, ...]:
        """Make the restore job of a snapshot, or the jobs of its batch; in the order of job ids."""
        ...
