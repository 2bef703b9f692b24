"""The legacy restore job resource, in each of its homes.

Source: the Atlas API page "Get One Legacy Backup Restore Job", and its twins in the Cloud Manager and Ops
Manager APIs. The resource is one; the homes differ in the path below the origin, and in whether the cluster
is named by its name or its id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

from restore_fetch.clock import Clock
from restore_fetch.errors import ServiceUnavailableError
from restore_fetch.models import RestoreJob, Snapshot
from restore_fetch.rules import check_identity
from restore_fetch.service.client import ONE_LIST_BYTES, Answer, ApiClient
from restore_fetch.service.documents import listed_id, parse_job, parse_page, parse_snapshot

_PREFIXES = {
    "atlas": "/api/atlas/v1.0",
    "cloud-manager": "/api/public/v1.0",
    "ops-manager": "/api/public/v1.0",
}
_ACCEPT = "application/json"
_PAGE_ITEMS = 500  # the most that the service puts on a page
_MOST_PAGES = 1000
_LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)
_T = TypeVar("_T", RestoreJob, Snapshot)


class LegacyRestoreService:
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
        self.name = name
        self._api = api
        self._project_id = project_id
        self._clock = clock
        self._clusters = f"{_PREFIXES[name]}/groups/{project_id}/clusters/{quote(cluster, safe='')}"
        self._ahead_seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._api.close()

    def now(self) -> datetime:
        """The time by the service's clock, as far as its last answer told."""
        local = self._clock.now()
        return datetime.fromtimestamp(local.timestamp() + self._ahead_seconds, tz=local.tzinfo)

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
        answer = self._api.get(f"{self._clusters}/restoreJobs/{quote(job_id, safe='')}", accept=_ACCEPT)
        job = parse_job(self._heard(answer))
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
        return self._in_order(self._list("restoreJobs", self._job_of, {"batchId": batch_id}))

    def all_jobs(self) -> tuple[RestoreJob, ...]:
        """Every job of the cluster, the newest first: `GET .../restoreJobs`.

        Raises:
            ApiError, ConfigurationError: As `job`.
        """
        found = self._list("restoreJobs", self._job_of, {})
        return tuple(sorted(found, key=lambda job: (job.created or _LONG_AGO, job.id or ""), reverse=True))

    def snapshots(self) -> tuple[Snapshot, ...]:
        """The snapshots of the cluster that the service lists by itself, the newest first: `GET .../snapshots`.

        Those are the complete ones.

        Raises:
            ApiError, ConfigurationError: As `job`.
        """
        found = self._list("snapshots", self._snapshot_of, {})
        return tuple(sorted(found, key=lambda one: (one.created or _LONG_AGO, one.id or ""), reverse=True))

    def snapshot(self, snapshot_id: str) -> Snapshot:
        """One snapshot: `GET .../snapshots/{snapshot id}`.

        Args:
            snapshot_id: The snapshot, 24 hexadecimal digits.

        Raises:
            ApiError, ConfigurationError: As `job`.
        """
        answer = self._api.get(f"{self._clusters}/snapshots/{quote(snapshot_id, safe='')}", accept=_ACCEPT)
        snapshot = self._snapshot_of(self._heard(answer))
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
        answer = self._api.post(f"{self._clusters}/restoreJobs", accept=_ACCEPT, body=body)
        made = [self._job_of(document) for document in parse_page(self._heard(answer)).results]
        if not made:
            raise ServiceUnavailableError("the service says that it made no restore job, but not why")
        return self._in_order(made)

    def _heard(self, answer: Answer) -> Mapping[str, Any]:
        """Take the service's time from an answer."""
        self._ahead_seconds = (answer.date - self._clock.now()).total_seconds()
        return answer.document

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

    def _list(self, resource: str, parse: Callable[[Mapping[str, Any]], _T], params: Mapping[str, str]) -> list[_T]:
        """Every page of a list. What moves to the next page between two requests is on both, and taken once."""
        found: dict[str, _T] = {}
        seen = 0
        for number in range(1, _MOST_PAGES + 1):
            answer = self._api.get(
                f"{self._clusters}/{resource}",
                accept=_ACCEPT,
                params={**params, "pageNum": str(number), "itemsPerPage": str(_PAGE_ITEMS)},
                max_bytes=ONE_LIST_BYTES,
            )
            page = parse_page(self._heard(answer))
            for document in page.results:
                one = parse(document)
                found.setdefault(one.id or "", one)
            seen += len(page.results)
            if page.is_last(_PAGE_ITEMS, seen):
                return list(found.values())
        raise ServiceUnavailableError("the service's list does not come to an end")

    @staticmethod
    def _in_order(jobs: list[RestoreJob]) -> tuple[RestoreJob, ...]:
        return tuple(sorted(jobs, key=lambda job: job.id or ""))
