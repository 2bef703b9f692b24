"""Which pulls to keep: pure rules over dates.

A pull is one archive, or all archives of a batch together. A policy goes for each cluster by itself. For the last
N days, weeks or months that have a pull, the newest pull of each is kept; a pull that any rule keeps stays, and so
does the newest of the cluster, whatever the policy. Days begin at midnight UTC, weeks on Monday (ISO 8601).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from restore_fetch.errors import ConfigurationError
from restore_fetch.records import BatchReceipt, Receipt

NEWEST = "newest verified"
_SHARDED = "sharded"


@dataclass(frozen=True)
class Policy:
    """How many to keep; 0 means that the rule keeps none.

    Attributes:
        last: The newest pulls, whenever they were made.
        daily: Days of which the newest pull is kept.
        weekly: Weeks, likewise.
        monthly: Months, likewise.

    Raises:
        ConfigurationError: No rule keeps anything, or a number is below 0.
    """

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0

    def __post_init__(self) -> None:
        numbers = (self.last, self.daily, self.weekly, self.monthly)
        if min(numbers) < 0:
            raise ConfigurationError("--keep-last, --keep-daily, --keep-weekly and --keep-monthly are 0 or more")
        if max(numbers) == 0:
            raise ConfigurationError(
                "nothing says what to keep, so nothing is removed",
                next_step="set --keep-last, --keep-daily, --keep-weekly or --keep-monthly",
            )


@dataclass(frozen=True)
class Pull:
    """One archive, or all archives of a batch, each with a receipt.

    Attributes:
        id: The restore job; for a batch its own id.
        series: Of which cluster it is: pulls compete for places only within one.
        cluster: What people call that cluster.
        taken: When the snapshot was taken, as far as is known.
        finished: When the pull was done.
        snapshot_id: The snapshot, when that is known.
        is_batch: Whether it is a batch.
        receipts: Those of its archives.
    """

    id: str
    series: tuple[str, ...]
    cluster: str
    taken: datetime
    finished: datetime
    snapshot_id: str | None
    is_batch: bool
    receipts: tuple[Receipt, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """The names of its archives."""
        return tuple(receipt.file for receipt in self.receipts)

    @property
    def bytes(self) -> int:
        """How much its archives hold together."""
        return sum(receipt.bytes for receipt in self.receipts)

    @property
    def is_verified(self) -> bool:
        """Whether a published hash speaks for each archive, not only its structure."""
        return all(receipt.verdict == "verified" for receipt in self.receipts)

    @classmethod
    def of_receipt(cls, receipt: Receipt) -> Pull:
        """The pull that is a single archive.

        One shard fetched by itself is a series of its own: its cluster id is not that of another shard.
        """
        job = receipt.job
        return cls(
            id=job.id,
            series=_series(job.group_id, job.cluster_name, job.cluster_id),
            cluster=job.cluster_name or job.cluster_id or "?",
            taken=taken(receipt),
            finished=receipt.finished,
            snapshot_id=job.snapshot_id,
            is_batch=False,
            receipts=(receipt,),
        )

    @classmethod
    def of_batch(cls, batch: BatchReceipt, receipts: Sequence[Receipt]) -> Pull:
        """The pull that is a batch.

        Args:
            batch: Its receipt.
            receipts: Those of its members, all of them.
        """
        return cls(
            id=batch.batch_id,
            series=_series(batch.group_id, batch.cluster_name, _SHARDED),
            cluster=batch.cluster_name or "?",
            taken=max((taken(receipt) for receipt in receipts), default=batch.finished),
            finished=batch.finished,
            snapshot_id=batch.snapshot_id,
            is_batch=True,
            receipts=tuple(receipts),
        )


@dataclass(frozen=True)
class Fate:
    """What the policy says about a pull.

    Attributes:
        pull: The pull.
        reasons: Why it is kept; none when it is to go.
    """

    pull: Pull
    reasons: tuple[str, ...]


def taken(receipt: Receipt) -> datetime:
    """When the snapshot of an archive was taken; if nobody says so, when its job, or else its receipt, was made."""
    job = receipt.job
    date = job.timestamp.date if job.timestamp else None
    return date or job.created or receipt.finished


def decide(pulls: Iterable[Pull], policy: Policy) -> list[Fate]:
    """What is to become of each pull.

    Args:
        pulls: Whole ones, verified or with the verdict `structure`; nothing else may take the place of one.
        policy: What to keep.

    Returns:
        The pulls cluster by cluster, the newest first, with the reasons to keep each.
    """
    clusters: dict[tuple[str, ...], list[Pull]] = {}
    for pull in pulls:
        clusters.setdefault(pull.series, []).append(pull)
    fates = []
    for series in sorted(clusters):
        newest_first = sorted(clusters[series], key=lambda pull: (pull.taken, pull.finished, pull.id), reverse=True)
        fates += _decide_in_cluster(newest_first, policy)
    return fates


def _decide_in_cluster(newest_first: Sequence[Pull], policy: Policy) -> list[Fate]:
    reasons: dict[str, list[str]] = {pull.id: [] for pull in newest_first}
    if not newest_first[0].is_verified:
        reasons[newest_first[0].id].append("newest")
    if (verified := next((pull for pull in newest_first if pull.is_verified), None)) is not None:
        reasons[verified.id].append(NEWEST)
    for number, pull in enumerate(newest_first[: policy.last], start=1):
        reasons[pull.id].append(f"last {number} of {policy.last}")
    rules: tuple[tuple[str, int, Callable[[datetime], str]], ...] = (
        ("daily", policy.daily, _day),
        ("weekly", policy.weekly, _week),
        ("monthly", policy.monthly, _month),
    )
    for name, most, period_of in rules:
        newest_of: dict[str, Pull] = {}
        for pull in newest_first:
            newest_of.setdefault(period_of(pull.taken.astimezone(UTC)), pull)
        for period, pull in list(newest_of.items())[:most]:
            reasons[pull.id].append(f"{name} {period}")
    return [Fate(pull, tuple(reasons[pull.id])) for pull in newest_first]


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


def _week(moment: datetime) -> str:
    year, week, _ = moment.isocalendar()
    return f"{year}-W{week:02}"


def _month(moment: datetime) -> str:
    return f"{moment:%Y-%m}"


def _series(*names: str | None) -> tuple[str, ...]:
    group, cluster, part = names
    return ((group or "").lower(), cluster or "", (part or "").lower())
