"""The state of the simulated service: its clock, its clusters and snapshots, and its restore jobs."""

from __future__ import annotations

import base64
import random
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from restore_fetch.sandbox.archive import Archive, ArchiveKind, ArchiveStore
from restore_fetch.sandbox.model import CloudJob, Cluster, Job, Member, Snapshot
from restore_fetch.sandbox.scenarios import NO_LIMIT, ApiFailure, Scenario

AUTH_HEADER = "X-Restore-Key"
"""The `delivery.authHeader` of every job; the service documents no particular name."""

DEFAULT_EXPIRATION_HOURS = 24
CLOUD_EXPIRATION_HOURS = 1
GROUP_NAME = "Sandbox"
_MOST_SNAPSHOTS = 8
_REFUSALS = {"EXPIRED": 410, "MAX_DOWNLOADS_EXCEEDED": 403}


@dataclass(frozen=True)
class Admission:
    """Whether the delivery serves a GET.

    Attributes:
        attempt: Which one for the job, counted from 1.
        refusal: The HTTP status to refuse it with; `None` when it is served.
    """

    attempt: int
    refusal: int | None


class Service:
    """Everything both servers share. Every public method may be called from any thread."""

    def __init__(
        self,
        archives: ArchiveStore,
        created_scenario: Scenario,
        *,
        ready_after_seconds: float | None,
        seed: int,
        shards: int = 2,
        snapshot_seconds: float | None = None,
    ) -> None:
        """Set up a project with a sharded cluster, a replica set, and snapshots of both.

        Args:
            archives: Where delivered bytes come from.
            created_scenario: How a job behaves that a client creates.
            ready_after_seconds: Age at which jobs finish, in seconds; `None` lets looks decide.
            seed: What identifiers and secrets are made from.
            shards: How many shards the sharded cluster has.
            snapshot_seconds: How often a snapshot begins, which is complete when the next one begins; the oldest
                go. `None` leaves them as they are.
        """
        self.lock = threading.RLock()
        self.stopped = threading.Event()
        self.delivery_url = ""
        self.clock_offset_seconds = 0.0
        self._archives = archives
        self._created_scenario = created_scenario
        self._ready_after_seconds = ready_after_seconds
        self._rng = random.Random(seed)
        self._snapshot_seconds = snapshot_seconds
        self._next_snapshot_at = time.monotonic() + (snapshot_seconds or 0.0)
        self.jobs: dict[str, Job] = {}
        self.cloud_jobs: dict[str, CloudJob] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.project_id = self._new_id()
        self.public_key = "".join(self._rng.choices("abcdefghijklmnopqrstuvwxyz", k=8))
        self.private_key = self._new_uuid()
        self.sharded = self._new_sharded("Cluster0", shards=shards)
        self.replica_set = self._new_replica_set("ReplicaSet0")
        self.clusters = (self.sharded, self.replica_set)
        for cluster in self.clusters:
            self.add_snapshot(cluster, age_hours=25)
            self.add_snapshot(cluster, age_hours=1)
            self.add_snapshot(cluster, age_hours=0, complete=False)
        self.encrypted_snapshot = self.add_snapshot(self.sharded, age_hours=49, master_key=self._new_uuid())
        self.client_id = f"mdb_sa_id_{self._new_id()}"
        self.client_secret = f"mdb_sa_sk_{self._rng.randbytes(20).hex()}"

    def now(self) -> datetime:
        """The service's own time, which need not be the client's."""
        return datetime.now(UTC) + timedelta(seconds=self.clock_offset_seconds)

    def add_snapshot(
        self, cluster: Cluster, *, age_hours: float = 0, complete: bool = True, master_key: str | None = None
    ) -> Snapshot:
        """Take a snapshot.

        Args:
            cluster: What of.
            age_hours: How long ago, in hours.
            complete: Whether it may be restored.
            master_key: UUID of the KMIP master key, when it is encrypted.
        """
        taken = (self.now() - timedelta(hours=age_hours)).replace(microsecond=0)
        with self.lock:
            snapshot = Snapshot(self._new_id(), cluster, taken, complete, master_key)
            self.snapshots[snapshot.id] = snapshot
        return snapshot

    def snapshots_of(self, cluster: Cluster) -> list[Snapshot]:
        """Every snapshot of a cluster, the newest first."""
        with self.lock:
            self._let_snapshots_come_and_go()
            # Of two taken in the same second, the later one is the newer.
            return sorted(
                (snapshot for snapshot in reversed(self.snapshots.values()) if snapshot.cluster is cluster),
                key=lambda snapshot: snapshot.taken,
                reverse=True,
            )

    def complete_snapshot(self, snapshot_id: str) -> None:
        """A snapshot that was still being made may be restored from now on.

        Raises:
            KeyError: There is no such snapshot.
        """
        with self.lock:
            self.snapshots[snapshot_id] = replace(self.snapshots[snapshot_id], complete=True)

    def remove_snapshot(self, snapshot_id: str) -> None:
        """Let a snapshot go; jobs that restore it stay.

        Raises:
            KeyError: There is no such snapshot.
        """
        with self.lock:
            del self.snapshots[snapshot_id]

    def latest_snapshot(self, cluster: Cluster) -> Snapshot:
        """The newest snapshot of a cluster that may be restored."""
        return next(snapshot for snapshot in self.snapshots_of(cluster) if snapshot.complete)

    def add_job(self, scenario: Scenario) -> Job:
        """A job that restores one shard of the sharded cluster by itself."""
        snapshot = self.encrypted_snapshot if scenario.encrypted else self.latest_snapshot(self.sharded)
        return self._add(scenario, snapshot, snapshot.cluster.members[0])

    def add_batch(self, scenarios: Sequence[Scenario]) -> str:
        """Jobs that restore the sharded cluster, a scenario each: its shards, then its config servers.

        Returns:
            The identifier of the batch.

        Raises:
            ValueError: There are not as many scenarios as members.
        """
        members = self.sharded.members
        if len(scenarios) != len(members):
            raise ValueError(f"a batch of {self.sharded.name} has {len(members)} jobs, not {len(scenarios)}")
        snapshot = self.latest_snapshot(self.sharded)
        with self.lock:
            batch_id = self._new_id()
            for scenario, member in zip(scenarios, members, strict=True):
                self._add(scenario, snapshot, member, batch_id=batch_id)
        return batch_id

    def create_jobs(self, snapshot: Snapshot, max_downloads: int | None, expiration_hours: int | None) -> list[Job]:
        """What a POST makes: one job for a replica set, one a member and a batch for a sharded cluster.

        Args:
            snapshot: What to restore.
            max_downloads: How many downloads the client asked for; the scenario may allow fewer.
            expiration_hours: How long the URL shall live.
        """
        with self.lock:
            batch_id = self._new_id() if snapshot.cluster.sharded else None
            return [
                self._add(
                    self._created_scenario,
                    snapshot,
                    member,
                    batch_id=batch_id,
                    max_downloads=max_downloads or NO_LIMIT,
                    expiration_hours=expiration_hours or DEFAULT_EXPIRATION_HOURS,
                )
                for member in snapshot.cluster.members
            ]

    def jobs_of(self, cluster: Cluster, batch_id: str | None = None) -> list[Job]:
        """The jobs of a cluster, or of one batch of it, the newest first."""
        with self.lock:
            return [
                job
                for job in reversed(self.jobs.values())
                if job.snapshot.cluster is cluster and batch_id in (None, job.batch_id)
            ]

    def add_cloud_job(
        self, snapshot: Snapshot, members: Sequence[Member], scenarios: Sequence[Scenario]
    ) -> CloudJob:
        """A job of Cloud Backup that delivers a file for each of these members.

        Args:
            snapshot: What to restore.
            members: Which of its replica sets.
            scenarios: How each file behaves; the first one decides about the job.
        """
        with self.lock:
            job_id = self._new_id()
            files = tuple(
                self._new_job(
                    replace(scenario, key_place="path"),
                    snapshot,
                    member,
                    job_id=job_id if len(members) == 1 else self._new_id(),
                    name=f"restore-{snapshot.id if len(members) == 1 else snapshot.member_id(member)}.tar.gz",
                    expiration_hours=CLOUD_EXPIRATION_HOURS,
                )
                for scenario, member in zip(scenarios, members, strict=True)
            )
            job = self.cloud_jobs[job_id] = CloudJob(job_id, scenarios[0], snapshot, files)
            return job

    def create_cloud_job(self, snapshot: Snapshot) -> CloudJob:
        """What a POST to Cloud Backup makes: one job with a file for each member of the cluster."""
        members = snapshot.cluster.members
        return self.add_cloud_job(snapshot, members, [self._created_scenario] * len(members))

    def cloud_jobs_of(self, cluster: Cluster) -> list[CloudJob]:
        """The Cloud Backup jobs of a cluster, the newest first."""
        with self.lock:
            return [job for job in reversed(self.cloud_jobs.values()) if job.snapshot.cluster is cluster]

    def delivered(self, job_id: str) -> Job | None:
        """What the delivery knows by this identifier: a job, or a file of a Cloud Backup job."""
        with self.lock:
            files = {file.id: file for job in self.cloud_jobs.values() for file in job.files}
            return self.jobs.get(job_id) or files.get(job_id)

    def archive_of(self, job: Job, attempt: int) -> Archive:
        """What the delivery sends in an attempt, counted from 1; packed now if it was not before.

        Raises:
            OSError: It cannot be packed.
        """
        kind = ArchiveKind(
            group_name=GROUP_NAME,
            replica_set=job.member.replica_set,
            cluster_id=job.member.cluster_id,
            taken=job.snapshot.taken,
            master_key=job.snapshot.master_key,
            edition=1 if job.scenario.changes and attempt > 1 else 0,
            damaged=job.scenario.damaged,
        )
        return self._archives.get(kind)

    def fail_api(self, job: Job | CloudJob) -> ApiFailure | None:
        """How the API fails on this request for a job, if it does."""
        with self.lock:
            limit = job.scenario.api_failures
            if limit is not None and job.api_failures >= limit:
                return None
            job.api_failures += 1
            return job.scenario.api_failure

    def admit(self, job: Job) -> Admission:
        """Decide on a GET at the delivery, and count it: two at once cannot share the last download."""
        with self.lock:
            job.attempts += 1
            job.settle(self.now())
            if job.scenario.refuses(job.attempts):
                return Admission(job.attempts, job.scenario.refusal_status)
            status = "EXPIRED" if job.expired(self.now()) else job.delivery_status(self.now())
            if status != "READY":
                return Admission(job.attempts, _REFUSALS.get(status, 404))
            job.downloads += 1
            return Admission(job.attempts, None)

    def sent(self, job: Job, archive: Archive, start: int, stop: int) -> None:
        """Note that bytes `start` up to, not including, `stop` went out."""
        with self.lock:
            job.has_sent(archive, start, stop)

    def broken_off(self, job: Job) -> None:
        """Note that a download ended early."""
        with self.lock:
            if not job.scenario.broken_downloads_count:
                job.downloads -= 1

    def secrets(self) -> list[str]:
        """The private key, the client secret, and for every job its key and its header's value."""
        with self.lock:
            jobs = [*self.jobs.values(), *(file for job in self.cloud_jobs.values() for file in job.files)]
            handed_out = [secret for job in jobs for secret in (job.key, job.auth_value)]
        return [self.private_key, self.client_secret, *handed_out]

    def _let_snapshots_come_and_go(self) -> None:
        if self._snapshot_seconds is None or time.monotonic() < self._next_snapshot_at:
            return
        self._next_snapshot_at = time.monotonic() + self._snapshot_seconds
        for cluster in self.clusters:
            ours = [snapshot for snapshot in self.snapshots.values() if snapshot.cluster is cluster]
            for snapshot in ours:
                self.complete_snapshot(snapshot.id)
            oldest_first = sorted(ours, key=lambda snapshot: snapshot.taken)
            for snapshot in oldest_first[: max(0, len(ours) + 1 - _MOST_SNAPSHOTS)]:
                self.remove_snapshot(snapshot.id)
            self.add_snapshot(cluster, complete=False)

    def _add(
        self,
        scenario: Scenario,
        snapshot: Snapshot,
        member: Member,
        *,
        batch_id: str | None = None,
        max_downloads: int = NO_LIMIT,
        expiration_hours: int = DEFAULT_EXPIRATION_HOURS,
    ) -> Job:
        with self.lock:
            job = self._new_job(
                scenario,
                snapshot,
                member,
                job_id=self._new_id(),
                batch_id=batch_id,
                max_downloads=max_downloads,
                expiration_hours=expiration_hours,
            )
            self.jobs[job.id] = job
            return job

    def _new_job(
        self,
        scenario: Scenario,
        snapshot: Snapshot,
        member: Member,
        *,
        job_id: str,
        name: str | None = None,
        batch_id: str | None = None,
        max_downloads: int = NO_LIMIT,
        expiration_hours: int = DEFAULT_EXPIRATION_HOURS,
    ) -> Job:
        ready_after = self._ready_after_seconds
        return Job(
            id=job_id,
            scenario=scenario,
            snapshot=snapshot,
            member=member,
            created=self.now(),
            key=base64.b64encode(self._rng.randbytes(16).hex().encode()).decode(),
            auth_value=self._rng.randbytes(20).hex(),
            max_downloads=min(max_downloads, scenario.max_downloads),
            expiration_hours=expiration_hours,
            batch_id=batch_id,
            delivered_name=name,
            ready_at=None if ready_after is None else time.monotonic() + ready_after,
        )

    def _new_sharded(self, name: str, *, shards: int) -> Cluster:
        cluster_id = self._new_id()
        config = f"{name}-config-0"
        return Cluster(
            cluster_id,
            name,
            (
                *(
                    Member(f"{name}-shard-{n}", self._new_id(), "REPLICA_SET", f"{name}-shard-{n}")
                    for n in range(shards)
                ),
                Member(config, self._new_id(), "CONFIG_SERVER_REPLICA_SET", f"config-{config}-{cluster_id}"),
            ),
        )

    def _new_replica_set(self, name: str) -> Cluster:
        cluster_id = self._new_id()
        return Cluster(cluster_id, name, (Member(name, cluster_id, "REPLICA_SET", name),))

    def _new_id(self) -> str:
        """24 hexadecimal digits that begin with the time, as the database's own identifiers do."""
        return f"{int(time.time()):08x}{self._rng.getrandbits(64):016x}"

    def _new_uuid(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
