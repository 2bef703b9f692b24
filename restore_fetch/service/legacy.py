"""The legacy restore job resource, in each of its homes.

Source: the Atlas API page "Get One Legacy Backup Restore Job", and its twins in the Cloud Manager and Ops
Manager APIs. The resource is one; the homes differ in the path below the origin, in whether the cluster is
named by its name or its id, and in whether the API wants its version named (Atlas Admin API v2).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from restore_fetch.clock import Clock
from restore_fetch.errors import ServiceUnavailableError
from restore_fetch.models import RestoreJob, Snapshot
from restore_fetch.rules import check_identity
from restore_fetch.service.client import ApiClient
from restore_fetch.service.cluster import PLAIN_JSON, VERSIONED_JSON, ClusterService
from restore_fetch.service.documents import listed_id, parse_job, parse_page, parse_snapshot

_PREFIXES = {
    "atlas": "/api/atlas/v1.0",
    "atlas-v2": "/api/atlas/v2",
    "cloud-manager": "/api/public/v1.0",
    "ops-manager": "/api/public/v1.0",
}
_LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)


class LegacyRestoreService(ClusterService):
    """Restore jobs and snapshots of one cluster.

    Args:
        name: The service, as `--service` calls it.
        api: The client of its API.
        project_id: The project that owns the cluster.
        cluster: The cluster's name or id.
        clock: The local time.

    Attributes:
        publishes_hashes: It does, once an archive was downloaded.
    """

    publishes_hashes = True

    def __init__(self, name: str, api: ApiClient, *, project_id: str, cluster: str, clock: Clock) -> None:
        super().__init__(
            name,
            api,
            prefix=_PREFIXES[name],
            accept=VERSIONED_JSON if name == "atlas-v2" else PLAIN_JSON,
            project_id=project_id,
            cluster=cluster,
            clock=clock,
        )

    def job(self, job_id: str) -> RestoreJob:
        """One look at a restore job: `GET /groups/{id}/clusters/{name}/restoreJobs/{job id}`.

        Args:
            job_id: The restore job, 24 hexadecimal digits.

        Returns:
            The job as it is now; it is the one asked for.

        Raises:
            AuthenticationError: The key is refused, or may not read the project.
            NotFoundError: There is no such project, cluster or job.
            ServiceUnavailableError: The service cannot be reached, fails, or answers with anything but this job.
            ConfigurationError: The service's certificate is not trusted.
            ApiError: The request was refused for another reason.
        """
        job = parse_job(self._get(f"/restoreJobs/{quote(job_id, safe='')}"))
        check_identity(job_id, self._project_id, job)
        return job

    def jobs(self, batch_id: str) -> tuple[RestoreJob, ...]:
        """Every job of a batch: `GET .../restoreJobs?batchId=`, one request for each page of 500.

        Args:
            batch_id: The batch, 24 hexadecimal digits.

        Returns:
            Its jobs in the order of their ids; none when there is no such batch.

        Raises:
            ApiError, ConfigurationError: As `job`.
        """
        return self._in_order(self._list("/restoreJobs", self._job_of, {"batchId": batch_id}))

    def all_jobs(self) -> tuple[RestoreJob, ...]:
        """Every job of the cluster, the newest first: `GET .../restoreJobs`.

        Raises:
            ApiError, ConfigurationError: As `job`.
        """
        found = self._list("/restoreJobs", self._job_of)
        return tuple(sorted(found, key=lambda job: (job.created or _LONG_AGO, job.id or ""), reverse=True))

    def snapshots(self) -> tuple[Snapshot, ...]:
        """The snapshots of the cluster that the service lists by itself, the newest first: `GET .../snapshots`.

        Those are the complete ones.

        Raises:
            ApiError, ConfigurationError: As `job`.
        """
        found = self._list("/snapshots", self._snapshot_of)
        return tuple(sorted(found, key=lambda one: (one.created or _LONG_AGO, one.id or ""), reverse=True))

    def snapshot(self, snapshot_id: str) -> Snapshot:
        """One snapshot: `GET .../snapshots/{snapshot id}`.

        Args:
            snapshot_id: The snapshot, 24 hexadecimal digits.

        Raises:
            ApiError, ConfigurationError: As `job`.
        """
        snapshot = self._snapshot_of(self._get(f"/snapshots/{quote(snapshot_id, safe='')}"))
        if snapshot.id != snapshot_id.lower():
            raise ServiceUnavailableError(
                "the service answered with a document that is not of the snapshot asked for"
            )
        return snapshot

    def create_restore(
        self, snapshot_id: str, *, max_downloads: int, expiration_hours: int
    ) -> tuple[RestoreJob, ...]:
        """Make restore jobs with a delivery by HTTP: `POST .../restoreJobs`.

        Args:
            snapshot_id: What to restore.
            max_downloads: How often each archive may be downloaded.
            expiration_hours: How long its URL shall live.

        Returns:
            One job for a replica set; for a sharded cluster one for each shard and one for the config servers, all
            of one batch. In the order of their ids.

        Raises:
            ServiceUnavailableError: No answer, or none that makes sense: whether jobs were made is unknown.
            ApiError, ConfigurationError: As `job`.
        """
        body = {
            "snapshotId": snapshot_id,
            "delivery": {
                "methodName": "HTTP",
                "maxDownloads": max_downloads,
                "expirationHours": expiration_hours,
            },
        }
        made = [self._job_of(document) for document in parse_page(self._post("/restoreJobs", body)).results]
        if not made:
            raise ServiceUnavailableError("the service says that it made no restore job, but not why")
        return self._in_order(made)

    def _job_of(self, document: Mapping[str, Any]) -> RestoreJob:
        job = parse_job(document)
        job = job.model_copy(update={"id": listed_id(job)})
        check_identity(job.id or "", self._project_id, job)
        return job

    def _snapshot_of(self, document: Mapping[str, Any]) -> Snapshot:
        snapshot = parse_snapshot(document)
        if snapshot.group_id is not None and snapshot.group_id.lower() != self._project_id.lower():
            raise ServiceUnavailableError("the service answered with a snapshot of another project")
        return snapshot.model_copy(update={"id": listed_id(snapshot)})

    @staticmethod
    def _in_order(jobs: list[RestoreJob]) -> tuple[RestoreJob, ...]:
        return tuple(sorted(jobs, key=lambda job: job.id or ""))
