"""Decisions about the members of a batch: which are meant, whether they belong together, what part each is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from restore_fetch import rules
from restore_fetch.errors import (
    ConfigurationError,
    DeliveryError,
    DeliveryUnusableError,
    JobError,
    ServiceUnavailableError,
)
from restore_fetch.models import RestoreJob, Snapshot

_CLOCKS_DIFFER = timedelta(seconds=30)
SHARD = "REPLICA_SET"
CONFIG_SERVERS = "CONFIG_SERVER_REPLICA_SET"
_STAMPED = re.compile(r"(?P<name>.+)-[0-9]{1,19}-[0-9a-f]{24}\.(?:tar\.gz|tgz|tar)\Z")
_CONFIG = re.compile(r"config-(?P<name>.+)-[0-9a-f]{24}\Z")


@dataclass(frozen=True)
class Choice:
    """Which members of a batch are meant; all of them when nothing is said.

    Attributes:
        only: A pattern for the delivered file's name, as a shell would match it.
        index: A place in the order of job ids, from 0.

    Raises:
        ConfigurationError: Both are given, or the place is below 0.
    """

    only: str | None = None
    index: int | None = None

    def __post_init__(self) -> None:
        if self.only is not None and self.index is not None:
            raise ConfigurationError("--only and --index exclude each other")
        if self.index is not None and self.index < 0:
            raise ConfigurationError("--index counts from 0")

    def of(self, job_ids: Sequence[str]) -> tuple[str, ...]:
        """The members that the place leaves; those that the pattern leaves are known once their names are.

        Args:
            job_ids: Every job of the batch.

        Raises:
            ConfigurationError: There is no such place.
        """
        ordered = tuple(sorted(job_ids, key=_place))
        if self.index is None:
            return ordered
        if self.index >= len(ordered):
            raise ConfigurationError(
                f"the batch has {len(ordered)} jobs: --index must be from 0 to {len(ordered) - 1}, not {self.index}"
            )
        return (ordered[self.index],)

    def leaves_out(self, file_name: str | None) -> bool:
        """Whether a member is not meant; one whose file has no name yet may be."""
        return self.only is not None and file_name is not None and not fnmatchcase(file_name, self.only)


def _place(job_id: str) -> tuple[str, int]:
    """Where a job comes in a batch; the files of one job of Cloud Backup are numbered behind its id."""
    job, _, number = job_id.partition("-")
    return job, int(number) if number.isdecimal() else 0


def file_name_of(job: RestoreJob) -> str | None:
    """The name that the archive of a job will have here; None before the service says where it is."""
    delivery = job.delivery
    url = (delivery.url or delivery.url_v2) if delivery else None
    return rules.archive_name(url.get_secret_value(), job.id or "") if url else None


def is_over(job: RestoreJob) -> bool:
    """Whether there is nothing to wait for any more: the archive can be fetched, or never will be."""
    try:
        return rules.is_ready(job)
    except (JobError, DeliveryError):
        return True


def is_undivided(batch_id: str, jobs: Mapping[str, RestoreJob]) -> bool:
    """Whether one job stands for the whole batch.

    A job of Cloud Backup does, before it says what it delivers, and when that is a single file.
    """
    return jobs.keys() == {batch_id} and jobs[batch_id].batch_id is None


def is_still_one(batch_id: str, jobs: Mapping[str, RestoreJob]) -> bool:
    """Whether that one job may yet show itself as several."""
    return is_undivided(batch_id, jobs) and not is_over(jobs[batch_id])


def check_belong_together(batch_id: str, jobs: Mapping[str, RestoreJob]) -> None:
    """Refuse a batch that is not one: a restore from archives of two would be silent nonsense.

    Each shard has a cluster id and may have a snapshot id of its own; the name of the cluster is what they share.

    Raises:
        ServiceUnavailableError: A job is of another batch, or two are of different clusters.
    """
    if is_undivided(batch_id, jobs):
        return
    for job in jobs.values():
        if job.batch_id is None or job.batch_id.lower() != batch_id:
            raise ServiceUnavailableError(
                f"the service lists restore job {job.id} under batch {batch_id}, but says it is of "
                f"{'none' if job.batch_id is None else 'another'}",
                next_step="look at the jobs with restore-fetch status; if it stays so, start a new restore",
            )
    if len({job.cluster_name for job in jobs.values() if job.cluster_name is not None}) > 1:
        raise ServiceUnavailableError(
            f"the jobs of batch {batch_id} are of different clusters",
            next_step="look at the jobs with restore-fetch status; if it stays so, start a new restore",
        )


def same_name(file_name: str, job_id: str, other_id: str) -> DeliveryUnusableError:
    """The error about a member whose archive would be called as that of another is: one would replace the other."""
    return DeliveryUnusableError(
        f"the archives of restore jobs {other_id} and {job_id} are both called {file_name}",
        files="nothing of the latter was downloaded",
        next_step=f"fetch it into a folder of its own: restore-fetch fetch {job_id} --out-dir DIR",
    )


def part_of(file_name: str) -> tuple[str, str | None]:
    """Which part of the cluster a delivered file is, by its name.

    The names are `{cluster}-shard-{n}-{epoch}-{job id}.tar.gz` and
    `config-{cluster}-config-{n}-{cluster id}-{epoch}-{job id}.tar.gz`.

    Returns:
        The member's name and its `typeName`; the whole file name and None when it is another kind of name.
    """
    stamped = _STAMPED.match(file_name)
    if stamped is None:
        return file_name, None
    config = _CONFIG.match(stamped["name"])
    return (config["name"], CONFIG_SERVERS) if config else (stamped["name"], SHARD)


def made_for(listed: tuple[RestoreJob, ...], snapshot: Snapshot, requested: datetime) -> tuple[RestoreJob, ...]:
    """What was made for a snapshot since a moment: its newest job, or all jobs of its newest batch.

    Args:
        listed: The jobs of the cluster, the newest first.
        snapshot: The snapshot.
        requested: The moment, by the service's clock.

    Returns:
        The jobs in the order of their ids; none when there is no such job, or parts of the snapshot have none yet.
        (In Cloud Backup the parts have no cluster of their own, and one job restores them all.)
    """
    ours = [
        job
        for job in listed
        if is_of(job, snapshot) and (job.created is None or job.created >= requested - _CLOCKS_DIFFER)
    ]
    with_a_job = [part for part in snapshot.parts if part.cluster_id is not None]
    for batch_id in dict.fromkeys(job.batch_id for job in ours):
        jobs = [job for job in ours if job.batch_id == batch_id]
        jobs = jobs if batch_id is not None else jobs[:1]
        if len(jobs) >= len(with_a_job):
            return tuple(sorted(jobs, key=lambda job: job.id or ""))
    return ()


def is_of(job: RestoreJob, snapshot: Snapshot) -> bool:
    """Whether a job restores a snapshot, or a part of it: a part may have a snapshot id of its own."""
    if job.snapshot_id == snapshot.id:
        return True
    parts = {part.cluster_id for part in snapshot.parts if part.cluster_id is not None}
    taken = job.timestamp.date if job.timestamp else None
    return job.batch_id is not None and job.cluster_id in parts and taken is not None and taken == snapshot.created
