"""Cloud Backup of Atlas: restore jobs and snapshots in another shape, made into the same values.

A job of this service has no status name: flags say that it failed, was cancelled or has expired, and a download
URL says that it is ready (`finishedAt` stays absent). It may deliver several files, allows them to be asked for
without a count, and never publishes a hash. Source: the schemas DiskBackupSnapshotRestoreJob,
DiskBackupRestoreMember, DiskBackupReplicaSet and DiskBackupShardedClusterSnapshot of the Atlas Admin API v2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar
from urllib.parse import quote, urlsplit

from pydantic import BeforeValidator

from restore_fetch.clock import Clock
from restore_fetch.errors import ApiError, NotFoundError, ServiceUnavailableError, SeveralFilesError
from restore_fetch.models import (
    Delivery,
    Element,
    Moment,
    OplogTimestamp,
    OptionalText,
    RestoreJob,
    SecretUrl,
    Snapshot,
    SnapshotPart,
)
from restore_fetch.service.client import ApiClient
from restore_fetch.service.cluster import VERSIONED_JSON, ClusterService
from restore_fetch.service.documents import listed_id, parse_as

_T = TypeVar("_T")
_NONE_IF_EMPTY = BeforeValidator(lambda value: None if value == "" else value)
_EMPTY_IF_NULL = BeforeValidator(lambda value: () if value is None else value)
_PREFIX = "/api/atlas/v2"
_JOBS = "/backup/restoreJobs"
_SNAPSHOTS = "/backup/snapshots"
_SHARDED_LIST = f"{_SNAPSHOTS}/shardedClusters"
_SHARDED = f"{_SNAPSHOTS}/shardedCluster"
_LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)
_FILE_ID = re.compile(r"(?P<job>[0-9a-fA-F]{24})-(?P<number>[0-9]{1,4})\Z")
_OTHER_KIND_OF_CLUSTER = frozenset({400, 404})


class Component(Element):
    """The part of a job that is one replica set of a sharded cluster."""

    replica_set_name: OptionalText = None
    download_url: Annotated[SecretUrl | None, _NONE_IF_EMPTY] = None


class CloudRestoreJob(Element):
    """A restore job, as Cloud Backup shows it."""

    id: str | None = None
    delivery_type: str | None = None
    delivery_url: Annotated[tuple[SecretUrl, ...], _EMPTY_IF_NULL] = ()
    components: Annotated[tuple[Component, ...], _EMPTY_IF_NULL] = ()
    failed: bool | None = None
    cancelled: bool | None = None
    expired: bool | None = None
    expires_at: Annotated[Moment | None, _NONE_IF_EMPTY] = None
    snapshot_id: OptionalText = None
    timestamp: Annotated[Moment | None, _NONE_IF_EMPTY] = None

    def files(self) -> tuple[Component, ...]:
        """The files it delivers, in an order that does not change between two looks; none before it is ready."""
        if self.components and all(part.download_url for part in self.components):
            return tuple(sorted(self.components, key=lambda part: part.replica_set_name or ""))
        if len(self.delivery_url) < len(self.components):
            return ()  # some are still to come
        urls = sorted(self.delivery_url, key=lambda url: urlsplit(url.get_secret_value()).path.rsplit("/", 1)[-1])
        return tuple(Component(download_url=url) for url in urls)


class CloudSnapshot(Element):
    """A snapshot, as Cloud Backup shows it; `members` only for a sharded cluster."""

    id: OptionalText = None
    created_at: Annotated[Moment | None, _NONE_IF_EMPTY] = None
    expires_at: Annotated[Moment | None, _NONE_IF_EMPTY] = None
    status: OptionalText = None
    replica_set_name: OptionalText = None
    master_key_uuid: OptionalText = None
    members: Annotated[tuple[Component, ...], _EMPTY_IF_NULL] = ()


def _statuses(job: CloudRestoreJob, *, ready: bool) -> tuple[str, str]:
    """The flags of a job, as the two statuses that the rules know; `failed` and `cancelled` keep their names."""
    if job.failed or job.cancelled:
        return ("failed" if job.failed else "cancelled"), "FAILED"
    if job.expired:
        return "FINISHED", "EXPIRED"
    return ("FINISHED", "READY") if ready else ("IN_PROGRESS", "NOT_STARTED")


def _made_at(object_id: str) -> datetime:
    """When something was made: the service does not say, but ids begin with the second (BSON types, ObjectId)."""
    return datetime.fromtimestamp(int(object_id[:8], 16), tz=UTC)


class CloudBackupService(ClusterService):
    """Looks at and orders Cloud Backup restore jobs of one cluster.

    A file is what elsewhere is a job: the only file of a job goes by the job's id; of several files, each goes by
    `<job id>-<n>`, counted from 0, and the job's id is that of their batch.

    Args:
        api: The client of its API.
        project_id: The project that owns the cluster.
        cluster: The cluster's name.
        clock: The local time.
    """

    publishes_hashes = False

    def __init__(self, api: ApiClient, *, project_id: str, cluster: str, clock: Clock) -> None:
        super().__init__(
            "atlas-cloud",
            api,
            prefix=_PREFIX,
            accept=VERSIONED_JSON,
            project_id=project_id,
            cluster=cluster,
            clock=clock,
        )

    def job(self, job_id: str) -> RestoreJob:
        """One look at one file: `GET /groups/{id}/clusters/{name}/backup/restoreJobs/{job id}`.

        Args:
            job_id: The restore job, 24 hexadecimal digits; `<job id>-<n>` for one of its several files.

        Returns:
            The file as it is now.

        Raises:
            SeveralFilesError: The job delivers several files, and none of them was named.
            AuthenticationError: The key is refused, or may not read the project.
            NotFoundError: There is no such project, cluster, job or file.
            ServiceUnavailableError: The service cannot be reached, fails, or answers with anything but this job.
            ConfigurationError: The service's certificate is not trusted.
            ApiError: The request was refused for another reason.
        """
        named = _FILE_ID.match(job_id)
        files = self.jobs(named["job"] if named else job_id)
        if named is None:
            if len(files) > 1:
                raise SeveralFilesError(
                    f"restore job {job_id} delivers {len(files)} files, one for each replica set",
                    batch_id=job_id,
                    status_name=files[0].status_name,
                    files="none of them was downloaded",
                    next_step=f"fetch them together with --batch-id {job_id}",
                )
            return files[0]
        for file in files:
            if file.id == job_id.lower():
                return file
        only = files[0]
        if len(files) == 1 and (only.delivery is None or only.delivery.url is None):
            # Not ready yet, or its URLs are gone again: what the job says goes for each of its files.
            return only.model_copy(update={"id": job_id.lower(), "batch_id": only.id})
        raise NotFoundError(
            f"restore job {named['job']} delivers no file number {named['number']}", next_step="check the job id"
        )

    def jobs(self, batch_id: str) -> tuple[RestoreJob, ...]:
        """Every file of one restore job, in one request.

        Args:
            batch_id: The restore job, 24 hexadecimal digits.

        Returns:
            The files, in the order of their ids. A job that is not ready yet does not tell how many it will
            deliver: it is one job of its own id, of no batch.

        Raises:
            AuthenticationError: The key is refused, or may not read the project.
            NotFoundError: There is no such project, cluster or job.
            ServiceUnavailableError: The service cannot be reached, fails, or answers with anything but this job.
            ConfigurationError: The service's certificate is not trusted.
            ApiError: The request was refused for another reason.
        """
        job = self._job_of(self._get(f"{_JOBS}/{quote(batch_id, safe='')}"))
        if job.id != batch_id.lower():
            raise ServiceUnavailableError(
                "the service answered with a document that is not of the restore job asked for"
            )
        return self._files(job)

    def all_jobs(self) -> tuple[RestoreJob, ...]:
        """Every restore job of the cluster, one request a page; a job of several files is that many.

        Returns:
            The newest first.

        Raises:
            AuthenticationError: The key is refused, or may not read the project.
            NotFoundError: There is no such project or cluster.
            ServiceUnavailableError: The service cannot be reached, fails, or answers with anything but jobs.
            ConfigurationError: The service's certificate is not trusted.
            ApiError: The request was refused for another reason.
        """
        jobs = sorted(self._list(_JOBS, self._job_of), key=lambda job: job.id or "", reverse=True)
        return tuple(file for job in jobs for file in self._files(job))

    def snapshots(self) -> tuple[Snapshot, ...]:
        """Every snapshot of the cluster, one request a page.

        Replica sets and sharded clusters have a list each: the second is asked for when the first has nothing.

        Returns:
            The newest first; ones without a date last.

        Raises:
            AuthenticationError: The key is refused, or may not read the project.
            NotFoundError: There is no such project or cluster.
            ServiceUnavailableError: The service cannot be reached, fails, or answers with anything but snapshots.
            ConfigurationError: The service's certificate is not trusted.
            ApiError: The request was refused for another reason.
        """
        found = self._either(
            lambda: self._list(_SNAPSHOTS, self._snapshot_of),
            lambda: self._list(_SHARDED_LIST, self._snapshot_of),
        )
        return tuple(sorted(found, key=lambda one: (one.created or _LONG_AGO, one.id or ""), reverse=True))

    def snapshot(self, snapshot_id: str) -> Snapshot:
        """One snapshot, of a replica set or of a sharded cluster.

        Args:
            snapshot_id: The snapshot, 24 hexadecimal digits.

        Raises:
            AuthenticationError: The key is refused, or may not read the project.
            NotFoundError: There is no such project, cluster or snapshot.
            ServiceUnavailableError: The service cannot be reached, fails, or answers with anything but this one.
            ConfigurationError: The service's certificate is not trusted.
            ApiError: The request was refused for another reason.
        """
        place = quote(snapshot_id, safe="")
        document = self._either(
            lambda: self._get(f"{_SNAPSHOTS}/{place}"), lambda: self._get(f"{_SHARDED}/{place}")
        )
        snapshot = self._snapshot_of(document)
        if snapshot.id != snapshot_id.lower():
            raise ServiceUnavailableError(
                "the service answered with a document that is not of the snapshot asked for"
            )
        return snapshot

    def create_restore(
        self, snapshot_id: str, *, max_downloads: int, expiration_hours: int
    ) -> tuple[RestoreJob, ...]:
        """Order the restore of a snapshot, to be downloaded.

        Args:
            snapshot_id: The snapshot, 24 hexadecimal digits.
            max_downloads: Not used: this service does not let a client say.
            expiration_hours: Not used, likewise.

        Returns:
            The job, as one that is not ready yet.

        Raises:
            AuthenticationError: The key is refused, or may not order restores.
            NotFoundError: There is no such project, cluster or snapshot.
            ServiceUnavailableError: The service cannot be reached, fails, or answers with anything but a job; the
                order may have been carried out all the same.
            ConfigurationError: The service's certificate is not trusted.
            ApiError: The request was refused for another reason.
        """
        body = {"snapshotId": snapshot_id, "deliveryType": "download"}
        return self._files(self._job_of(self._post(_JOBS, body)))

    def _job_of(self, document: Mapping[str, Any]) -> CloudRestoreJob:
        job = parse_as(CloudRestoreJob, "job", document)
        return job.model_copy(update={"id": listed_id(job)})

    def _files(self, job: CloudRestoreJob) -> tuple[RestoreJob, ...]:
        """A job as the files it delivers, or as the one it is before."""
        files = job.files()
        if len(files) <= 1:
            return (self._file(job, files[0] if files else None, id=job.id),)
        return tuple(
            self._file(job, file, id=f"{job.id}-{number}", batch_id=job.id) for number, file in enumerate(files)
        )

    def _file(self, job: CloudRestoreJob, file: Component | None, **identity: str | None) -> RestoreJob:
        status, delivery_status = _statuses(job, ready=file is not None)
        return RestoreJob(
            **identity,
            status_name=status,
            delivery=Delivery(
                method_name="HTTP" if job.delivery_type == "download" else job.delivery_type,
                status_name=delivery_status,
                url=file.download_url if file else None,
                expires=job.expires_at,
            ),
            created=_made_at(job.id or ""),
            snapshot_id=job.snapshot_id,
            group_id=self._project_id,
            cluster_name=self._cluster,
            replica_set_name=file.replica_set_name if file else None,
            timestamp=OplogTimestamp(date=job.timestamp) if job.timestamp else None,
        )

    def _snapshot_of(self, document: Mapping[str, Any]) -> Snapshot:
        seen = parse_as(CloudSnapshot, "snapshot", document)
        members = seen.members or (Component(replica_set_name=seen.replica_set_name),)
        return Snapshot(
            id=listed_id(seen),
            group_id=self._project_id,
            cluster_name=self._cluster,
            created=seen.created_at,
            complete=seen.status == "completed",
            expires=seen.expires_at,
            parts=tuple(
                SnapshotPart(replica_set_name=member.replica_set_name, master_key_uuid=seen.master_key_uuid)
                for member in members
            ),
        )

    def _either(self, ask: Callable[[], _T], ask_sharded: Callable[[], _T]) -> _T:
        """What the endpoint for replica sets says, or the one for sharded clusters when the first has nothing."""
        refusal: ApiError | None = None
        try:
            if found := ask():
                return found
        except ApiError as exc:
            if exc.status not in _OTHER_KIND_OF_CLUSTER:
                raise
            refusal = exc
        try:
            return ask_sharded()
        except ApiError as exc:
            if exc.status not in _OTHER_KIND_OF_CLUSTER:
                raise
            if refusal is not None:
                raise refusal from None
            return found
