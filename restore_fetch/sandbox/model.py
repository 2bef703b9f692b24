"""The things that the simulated service knows: clusters, snapshots, and restore jobs with their life cycle.

Nothing here locks: `service.Service` does, around every use.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from restore_fetch.sandbox.archive import Archive
from restore_fetch.sandbox.scenarios import Scenario

PartType = Literal["REPLICA_SET", "CONFIG_SERVER_REPLICA_SET"]


@dataclass(frozen=True)
class Member:
    """One replica set of a cluster; a snapshot has a part and a restore has a job for each.

    Attributes:
        replica_set: Its name.
        cluster_id: Its own identifier, which is what a job of a batch shows as `clusterId`.
        type_name: `parts.typeName` of the schema `BackupSnapshotPart`.
        file_label: How the name of a delivered file begins.
    """

    replica_set: str
    cluster_id: str
    type_name: PartType
    file_label: str


@dataclass(frozen=True)
class Cluster:
    """A replica set, or a sharded cluster with several members.

    Attributes:
        id: What the Cloud and Ops Manager API calls it in a path.
        name: What the Atlas API calls it in a path.
        members: One for a replica set; every shard and the config servers of a sharded cluster.
    """

    id: str
    name: str
    members: tuple[Member, ...]

    @property
    def sharded(self) -> bool:
        """Whether a restore of it is a batch."""
        return len(self.members) > 1


@dataclass(frozen=True)
class Snapshot:
    """A snapshot of a whole cluster.

    Attributes:
        id: Its identifier.
        cluster: What it was taken of.
        taken: The date of its last oplog entry.
        complete: Whether it may be restored.
        master_key: UUID of the KMIP master key, when it is encrypted.
    """

    id: str
    cluster: Cluster
    taken: datetime
    complete: bool = True
    master_key: str | None = None

    def member_id(self, member: Member) -> str:
        """What Cloud Backup calls the part of it that is one replica set of a sharded cluster."""
        return self.id[:8] + hashlib.sha1(f"{self.id} {member.replica_set}".encode()).hexdigest()[:16]


@dataclass
class Job:
    """One restore job, and what has happened to it.

    Attributes:
        id: Its identifier.
        scenario: How it behaves.
        snapshot: What it restores.
        member: Which part of that.
        created: When it was requested.
        key: The verification key in the path of `delivery.url`; a secret.
        auth_value: What `delivery.authHeader` has to carry for `delivery.urlV2`; a secret.
        max_downloads: How many GETs the delivery serves.
        expiration_hours: How long it serves them.
        batch_id: The batch it belongs to.
        delivered_name: Last segment of its download URL, where that is not shaped as Legacy Backup does.
        ready_at: When it finishes, in monotonic seconds; `None` when looks decide.
    """

    id: str
    scenario: Scenario
    snapshot: Snapshot
    member: Member
    created: datetime
    key: str
    auth_value: str
    max_downloads: int
    expiration_hours: int
    batch_id: str | None = None
    delivered_name: str | None = None
    ready_at: float | None = None
    looks: int = 0
    looks_finished: int = 0
    looks_downloaded: int = 0
    api_failures: int = 0
    attempts: int = 0
    downloads: int = 0
    expires: datetime | None = None
    downloaded: Archive | None = None
    sent: dict[Archive, list[tuple[int, int]]] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """Last segment of its download URL, shaped as the service shapes it."""
        return (
            self.delivered_name
            or f"{self.member.file_label}-{int(self.snapshot.taken.timestamp())}-{self.id}.tar.gz"
        )

    @property
    def over(self) -> bool:
        """Whether it waits no more, however it ended."""
        polls = self.scenario.polls_until_finished
        if polls is None:
            return False
        if self.ready_at is not None:
            return time.monotonic() >= self.ready_at
        return max(self.looks, 1) > polls

    @property
    def status(self) -> str:
        """Its `statusName`."""
        return self.scenario.final_status if self.over else self.scenario.waiting_status

    def look(self) -> None:
        """Somebody is shown the job: its life goes on by one step."""
        self.looks += 1
        if self.over:
            self.looks_finished += 1
        if self.downloaded is not None:
            self.looks_downloaded += 1

    def settle(self, now: datetime) -> None:
        """Fix the expiry date once the job is over: the hours count from then."""
        if self.expires is None and self.over:
            seconds = self.scenario.expires_after_seconds
            self.expires = now + timedelta(seconds=self.expiration_hours * 3600 if seconds is None else seconds)

    def expired(self, now: datetime) -> bool:
        """Whether its URL is dead."""
        return self.expires is not None and now >= self.expires

    def delivery_status(self, now: datetime) -> str:
        """Its `delivery.statusName`."""
        if self.status != "FINISHED":
            return "NOT_STARTED"
        if self.looks_finished <= self.scenario.delivery_polls and self.scenario.delivery_polls:
            return "PENDING"
        if self.scenario.delivery_status != "READY":
            return self.scenario.delivery_status
        if self.expired(now) and self.scenario.expiry_shown:
            return "EXPIRED"
        return "READY" if self.downloads < self.max_downloads else "MAX_DOWNLOADS_EXCEEDED"

    def published_hash(self) -> str | None:
        """The SHA1 that `hashes` shows, if it shows one: only after the file was downloaded whole."""
        kind = self.scenario.hash_kind
        if kind == "none":
            return None
        if self.downloaded is not None and self.looks_downloaded > self.scenario.hash_delay_looks:
            return self.other_hash() if kind == "wrong" else self.downloaded.sha1
        return self.other_hash() if kind == "stale" and self.over else None

    def other_hash(self) -> str:
        """The SHA1 of something else, always the same for a job."""
        return hashlib.sha1(f"another archive of {self.id}".encode()).hexdigest()

    def has_sent(self, archive: Archive, start: int, stop: int) -> None:
        """The delivery sent these bytes; once every byte was sent, the file counts as downloaded.

        Args:
            archive: Which archive they are of.
            start: Offset of the first byte.
            stop: Offset after the last byte.
        """
        spans = self.sent.setdefault(archive, [])
        spans.append((start, stop))
        reached = 0
        for first, last in sorted(spans):
            if first <= reached:
                reached = max(reached, last)
        if reached >= archive.size:
            self.downloaded = archive


@dataclass
class CloudJob:
    """One restore job of Cloud Backup: one life cycle, and a file for each replica set that it restores.

    Attributes:
        id: Its identifier.
        scenario: How it behaves.
        snapshot: What it restores.
        files: What it delivers; each is a job to the delivery. The only file of a job has its identifier.
    """

    id: str
    scenario: Scenario
    snapshot: Snapshot
    files: tuple[Job, ...]
    api_failures: int = 0

    def look(self) -> None:
        """Somebody is shown the job: its life goes on by one step."""
        for file in self.files:
            file.look()
