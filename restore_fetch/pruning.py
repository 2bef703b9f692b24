"""Removing the pulls that a policy does not keep.

The order of a removal is: what says that the pull is verified (the receipt; of a batch the batch's) gets another
name; then the receipts of the members go, then the archives with their `.sha1` files, last that renamed record. A
crash anywhere leaves nothing that claims to be verified and is not, and enough to finish; and a removal needs no
space, so that it works on a disk that is full.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from restore_fetch import files, receipts
from restore_fetch.delivery.journal import JOURNAL_SUFFIX
from restore_fetch.errors import HashMismatchError, LockedError, RestoreFetchError, StorageError
from restore_fetch.inventory import Inventory, take_inventory
from restore_fetch.locking import job_lock
from restore_fetch.observer import Observer
from restore_fetch.records import BatchReceipt, Receipt
from restore_fetch.retention import Fate, Policy, Pull, decide
from restore_fetch.shelf import Shelf, hash_file, touched_since

_BEGUN = re.compile(r"\.restore-fetch-prune-(?P<id>[0-9a-f]{24}(?:-[0-9]{1,4})?)\.json\Z")
_JOB_ID = re.compile(r"[0-9a-f]{24}(?:-[0-9]{1,4})?\Z")


@dataclass(frozen=True)
class Left:
    """Something that was left alone, whatever the policy says.

    Attributes:
        what: The file, or the batch.
        why: In words.
        error: What is wrong with it, when something is.
    """

    what: str
    why: str
    error: RestoreFetchError | None = None


@dataclass
class Pruned:
    """What became of a folder.

    Attributes:
        kept: The pulls that stay, with the reasons.
        removed: The pulls that went; or, in a rehearsal, would go.
        left: What was left alone.
    """

    kept: list[Fate] = field(default_factory=list)
    removed: list[Pull] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    @property
    def errors(self) -> list[RestoreFetchError]:
        """What is wrong with files that were left alone."""
        return [left.error for left in self.left if left.error is not None]


class Pruner:
    """Applies a policy to a folder.

    Args:
        folder: Where the archives are.
        policy: What to keep.
        observer: Who is told.
        dry_run: Whether to change nothing.
    """

    def __init__(self, folder: Path, policy: Policy, *, observer: Observer, dry_run: bool = False) -> None:
        self._folder = folder
        self._policy = policy
        self._observer = observer
        self._dry_run = dry_run
        self._states: dict[str, tuple[int, ...] | None] = {}

    def prune(self) -> Pruned:
        """Remove what the policy does not keep.

        1. Finish the removals that an earlier run began.
        2. Find the pulls that are here whole and verified; the rest is left alone.
        3. Decide, cluster by cluster.
        4. Remove each pull that is to go, while nobody else works on it.

        Returns:
            What became of the folder.

        Raises:
            StorageError: The folder is a file, cannot be looked into, or a file cannot be removed.
        """
        self._look_for_folder()
        done = Pruned()
        if not self._dry_run:
            self._finish_earlier(done)  # 1
        pulls = self._whole_pulls(take_inventory(self._folder), done)  # 2
        for fate in decide(pulls, self._policy):  # 3
            if fate.reasons:
                done.kept.append(fate)
            elif self._dry_run:
                done.removed.append(fate.pull)
            else:
                self._remove(fate.pull, done)  # 4
        return done

    def _look_for_folder(self) -> None:
        """A wrong folder would be taken for an empty one, and the disk fill up where the pulls are."""
        if self._folder.is_dir():
            return
        if files.exists(self._folder):
            raise StorageError(
                f"{self._folder} is no folder",
                path=self._folder,
                files="nothing was removed",
                next_step="check --out-dir",
            )
        self._observer.note(
            "no-folder", f"there is no folder {self._folder} to prune; check --out-dir", level="warning"
        )

    # --- 2: what is here

    def _whole_pulls(self, found: Inventory, done: Pruned) -> list[Pull]:
        done.left += [Left(error.path.name, error.what) for error in found.damaged]
        pulls = [self._batch(batch, found, done) for batch in found.batches.values()]
        in_batches = {member.file for batch in found.batches.values() for member in batch.members}
        pulls += [
            self._single(name, receipt, done) for name, receipt in found.receipts.items() if name not in in_batches
        ]
        return [pull for pull in pulls if pull is not None]

    def _single(self, name: str, receipt: Receipt, done: Pruned) -> Pull | None:
        if receipt.job.batch_id is not None:
            done.left.append(Left(name, f"is of batch {receipt.job.batch_id}, which is not here as a whole"))
            return None
        return Pull.of_receipt(receipt) if self._is_whole(receipt, done) else None

    def _batch(self, batch: BatchReceipt, found: Inventory, done: Pruned) -> Pull | None:
        members = [found.receipts.get(member.file) for member in batch.members]
        parts = [receipt for receipt in members if receipt is not None]
        said = [(member.job_id, member.file, member.sha1, batch.batch_id) for member in batch.members]
        there = [(one.job.id, one.file, one.sha1, (one.job.batch_id or "").lower()) for one in parts]
        if not said or said != there:
            done.left.append(Left(f"batch {batch.batch_id}", "its receipt and those of its members do not agree"))
            return None
        # Each is looked at, so that each one that was changed is told.
        whole = [self._is_whole(receipt, done) for receipt in parts]
        return Pull.of_batch(batch, parts) if all(whole) else None

    def _is_whole(self, receipt: Receipt, done: Pruned) -> bool:
        """Whether an archive is the one of its receipt, and verified; why not is noted."""
        if not _JOB_ID.match(receipt.job.id):
            done.left.append(Left(receipt.file, "its receipt names no restore job"))
        elif receipt.verdict == "unverified":
            done.left.append(Left(receipt.file, "is unverified: it counts neither as a backup nor against one"))
        else:
            try:
                self._states[receipt.file] = _state_of(self._folder / receipt.file)
                if Shelf(self._folder, receipt.job.id).published(receipt.file) is not None:
                    return True
                done.left.append(Left(receipt.file, "there is a receipt, but no archive"))
            except HashMismatchError as exc:
                done.left.append(Left(receipt.file, "is not what its receipt says", exc))
            except StorageError as exc:
                done.left.append(Left(receipt.file, exc.what, exc))
        return False

    # --- 4: removal

    def _remove(self, pull: Pull, done: Pruned) -> None:
        try:
            with self._locked(pull):
                if not self._is_unchanged(pull):
                    done.left.append(Left(_named(pull), "another run has changed it meanwhile"))
                    return
                evidence = (
                    receipts.batch_receipt_path(self._folder, pull.id)
                    if pull.is_batch
                    else receipts.receipt_path(self._folder / pull.files[0])
                )
                record = self._folder / f".restore-fetch-prune-{pull.id}.json"
                files.rename(evidence, record, replace=True)
                self._sweep(pull.files, record)
        except LockedError as exc:
            done.left.append(Left(_named(pull), exc.what))
            return
        done.removed.append(pull)
        self._observer.note("removed", f"removed {_named(pull)}")

    @contextlib.contextmanager
    def _locked(self, pull: Pull) -> Iterator[None]:
        """Hold every lock that a run takes which fetches, finds, or certifies the pull.

        Raises:
            LockedError: Another run holds one.
            StorageError: A lock file cannot be made.
        """
        locks = {receipt.job.id: "restore job" for receipt in pull.receipts}
        if pull.is_batch:
            locks.setdefault(pull.id, "batch")
        if pull.snapshot_id is not None and _JOB_ID.match(pull.snapshot_id):
            locks.setdefault(pull.snapshot_id, "snapshot")
        with contextlib.ExitStack() as held:
            for lock_id, what in sorted(locks.items()):
                held.enter_context(job_lock(self._folder, lock_id, 0, what=what))
            yield

    def _is_unchanged(self, pull: Pull) -> bool:
        """Whether a pull is still what was decided about, now that nobody else works on it."""
        try:
            if pull.is_batch and receipts.read_batch_receipt(self._folder, pull.id) is None:
                return False
            return all(self._is_as_it_was(receipt) for receipt in pull.receipts)
        except StorageError:
            return False

    def _is_as_it_was(self, receipt: Receipt) -> bool:
        archive = self._folder / receipt.file
        beside = receipts.read_record(receipts.receipt_path(archive), Receipt)
        return beside == receipt and _state_of(archive) == self._states[receipt.file]

    def _sweep(self, names: tuple[str, ...], record: Path) -> None:
        """Remove the files of a pull, in an order that holds through a power cut; the record of it last."""
        for name in names:
            files.remove(receipts.receipt_path(self._folder / name))
        files.sync_folder(self._folder)
        for name in names:
            archive = self._folder / name
            files.remove(archive)
            checksum = receipts.sha1_path(archive)
            if files.require_regular(checksum) is not None and receipts.is_checksum(checksum):
                files.remove(checksum)
        files.sync_folder(self._folder)
        files.remove(record)

    # --- 1: what an earlier run began

    def _finish_earlier(self, done: Pruned) -> None:
        with files.storage_errors(self._folder, "look into"):
            names = sorted(path.name for path in self._folder.iterdir()) if self._folder.is_dir() else []
        for name in names:
            if _BEGUN.match(name):
                try:
                    self._finish(self._folder / name)
                except (LockedError, StorageError) as exc:
                    done.left.append(Left(name, exc.what, exc if isinstance(exc, StorageError) else None))

    def _finish(self, record: Path) -> None:
        begun = _read_begun(record)
        jobs = [member.job_id for member in begun.members] if isinstance(begun, BatchReceipt) else [begun.job.id]
        with contextlib.ExitStack() as held:
            for job_id in sorted(set(jobs)):
                held.enter_context(job_lock(self._folder, job_id, 0))
            self._sweep(tuple(name for name in _files_of(begun) if self._may_go(name, begun, record)), record)
        self._observer.note("removed", "finished a removal that an earlier run began")

    def _may_go(self, name: str, begun: Receipt | BatchReceipt, record: Path) -> bool:
        """Whether a file is still the one that was to go, and not one that was fetched since."""
        archive = self._folder / name
        beside = receipts.read_record(receipts.receipt_path(archive), Receipt)
        if isinstance(begun, BatchReceipt):
            wanted_again = receipts.read_batch_receipt(self._folder, begun.batch_id) is not None
            if wanted_again or (beside is not None and beside.finished > begun.finished):
                return False
        elif beside is not None:
            return False
        if files.exists(archive.with_name(name + JOURNAL_SUFFIX)):
            return False
        state = files.require_regular(archive)
        if state is None or not touched_since(state, files.require_regular(record)):
            return True
        return hash_file(archive).digest.hex == _files_of(begun)[name]


def _read_begun(record: Path) -> Receipt | BatchReceipt:
    """What a removal that was begun is of.

    Raises:
        StorageError: It cannot be read, or names files or jobs that no receipt of ours names.
    """
    begun: Receipt | BatchReceipt | None
    try:
        begun = receipts.read_record(record, BatchReceipt)
    except StorageError:
        begun = receipts.read_record(record, Receipt)
    named = begun is not None and (begun.batch_id if isinstance(begun, BatchReceipt) else begun.job.id)
    if begun is None or record.name != f".restore-fetch-prune-{named}.json":
        raise receipts.damaged(record, Receipt)
    jobs = [member.job_id for member in begun.members] if isinstance(begun, BatchReceipt) else [begun.job.id]
    plain = all(Path(name).name == name and not name.startswith(".") for name in _files_of(begun))
    if not plain or not all(_JOB_ID.match(job_id) for job_id in jobs):
        raise receipts.damaged(record, Receipt)
    return begun


def _files_of(begun: Receipt | BatchReceipt) -> dict[str, str]:
    """The archives that a receipt names, and their SHA1."""
    if isinstance(begun, BatchReceipt):
        return {member.file: member.sha1 for member in begun.members}
    return {begun.file: begun.sha1}


def _state_of(archive: Path) -> tuple[int, ...] | None:
    """What changes when a file does, or when another takes its name; None when there is none."""
    state = files.require_regular(archive)
    return None if state is None else (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def _named(pull: Pull) -> str:
    return f"batch {pull.id} ({len(pull.files)} archives)" if pull.is_batch else pull.files[0]
