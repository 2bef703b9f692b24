"""Everything that a folder holds, read once: receipts, findings, journals, and what cannot be believed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from restore_fetch import files, receipts
from restore_fetch.delivery.journal import JOURNAL_SUFFIX
from restore_fetch.errors import StorageError
from restore_fetch.models import Snapshot
from restore_fetch.records import BatchReceipt, Journal, Receipt, Record, Rejection
from restore_fetch.shelf import all_attempts, seems_whole

CHANGED, IN_PART, WAITING, REJECTED = "changed", "in part", "waiting for its hash", "rejected"
UNPROVEN = (CHANGED, "unverified", IN_PART, WAITING, REJECTED)
_BEST_FIRST = ("verified", "structure", *UNPROVEN)
_R = TypeVar("_R", bound=Record)


@dataclass
class Inventory:
    """What was found in a folder.

    Attributes:
        folder: Where.
        names: Every name there, in order.
        receipts: By the name of the archive.
        batches: The receipts of batches, by batch id.
        journals: Those of downloads that are not published, by the name of the archive.
        rejections: The findings about downloads that were not the archive, by its name.
        damaged: What is called like one of our records and is none.
    """

    folder: Path
    names: tuple[str, ...] = ()
    receipts: dict[str, Receipt] = field(default_factory=dict)
    batches: dict[str, BatchReceipt] = field(default_factory=dict)
    journals: dict[str, Journal] = field(default_factory=dict)
    rejections: dict[str, Rejection] = field(default_factory=dict)
    damaged: list[StorageError] = field(default_factory=list)

    def receipts_of(self, job_id: str) -> Iterator[Receipt]:
        """The receipts of a job, the proven one first."""
        found = [receipt for receipt in self.receipts.values() if receipt.job.id == job_id.lower()]
        return iter(sorted(found, key=lambda receipt: receipt.verdict == "unverified"))

    def downloads_used(self, job_id: str) -> int:
        """How many of the downloads of a job may be used up by requests from here."""
        wanted = job_id.lower()
        known: list[Receipt | Rejection | Journal] = [*self.receipts.values(), *self.rejections.values()]
        known += self.journals.values()
        return sum(
            attempt.may_count for attempt in all_attempts(record for record in known if record.job.id == wanted)
        )

    def standing(self, job_id: str) -> str | None:
        """What is here of a job, in a word; None when nothing is. No archive is read.

        The words are the verdict of the receipt (`verified`), `changed` for a file that was touched since, and
        for what has no receipt `waiting for its hash`, `in part` and `rejected`.

        Raises:
            StorageError: A file cannot be looked at.
        """
        for receipt in self.receipts_of(job_id):
            archive = self.folder / receipt.file
            if files.exists(archive):
                return receipt.verdict if seems_whole(archive, receipt) else CHANGED
        for journal in self.journals.values():
            if journal.job.id == job_id.lower():
                return IN_PART if journal.state == "downloading" else WAITING
        rejected = any(finding.job.id == job_id.lower() for finding in self.rejections.values())
        return REJECTED if rejected else None

    def standing_of_snapshot(self, snapshot: Snapshot) -> str | None:
        """What is here of a snapshot, in a word: as of a job, and `in part` for some archives of several.

        Raises:
            StorageError: A file cannot be looked at.
        """
        wanted = (snapshot.id or "").lower()
        for batch in self.batches.values():
            if (batch.snapshot_id or "").lower() == wanted and self.is_complete(batch):
                return batch.verdict
        found = [one for one in self.receipts.values() if (one.job.snapshot_id or "").lower() == wanted]
        standings = {standing for receipt in found if (standing := self.standing(receipt.job.id)) is not None}
        if not standings:
            return None
        if len(snapshot.parts) > 1 or any(receipt.job.batch_id for receipt in found):
            return IN_PART  # one archive of several
        return min(standings, key=_BEST_FIRST.index)

    def is_complete(self, batch: BatchReceipt) -> bool:
        """Whether every member of a batch is here and, as far as its size and times tell, what its receipts say.

        Raises:
            StorageError: A file cannot be looked at.
        """
        for member in batch.members:
            receipt = self.receipts.get(member.file)
            if receipt is None or (receipt.job.id, receipt.sha1) != (member.job_id, member.sha1):
                return False
            if receipt.verdict == "unverified" or not seems_whole(self.folder / member.file, receipt):
                return False
        return True

    def ending(self, suffix: str) -> tuple[str, ...]:
        """The names that end so."""
        return tuple(name for name in self.names if name.endswith(suffix))


def take_inventory(folder: Path) -> Inventory:
    """Read every record in a folder; one that does not exist holds none.

    Raises:
        StorageError: The folder cannot be looked into. What is wrong with a single file is kept in `damaged`.
    """
    with files.storage_errors(folder, "look into"):
        names = tuple(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else ()
    found = Inventory(folder, names)
    for name in names:
        if name.startswith("."):
            continue
        if receipts.is_batch_receipt(name):
            batch = _read(found, name, BatchReceipt)
            if batch is not None and receipts.batch_receipt_path(folder, batch.batch_id).name == name:
                found.batches[batch.batch_id] = batch
        elif name.endswith(receipts.RECEIPT_SUFFIX):
            _file(found.receipts, name.removesuffix(receipts.RECEIPT_SUFFIX), _read(found, name, Receipt))
        elif name.endswith(JOURNAL_SUFFIX):
            _file(found.journals, name.removesuffix(JOURNAL_SUFFIX), _read(found, name, Journal))
        elif name.endswith(receipts.REJECTION_SUFFIX):
            rejection = _read(found, name, Rejection)
            if rejection is not None:
                found.rejections[name.removesuffix(receipts.REJECTION_SUFFIX)] = rejection
    return found


def _read(found: Inventory, name: str, kind: type[_R]) -> _R | None:
    try:
        return receipts.read_record(found.folder / name, kind)
    except StorageError as exc:
        found.damaged.append(exc)
        return None


_F = TypeVar("_F", Receipt, Journal)


def _file(kept: dict[str, _F], archive: str, record: _F | None) -> None:
    """Keep a record under the name of its archive, if that is the one it speaks of."""
    if record is not None and record.file == archive:
        kept[archive] = record
