"""What one folder already holds of one job: receipts, findings, a journal, and the bytes that go with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from restore_fetch import files, receipts
from restore_fetch.delivery.journal import JournalFile
from restore_fetch.delivery.structure import ArchiveInspector, Inspection
from restore_fetch.errors import HashMismatchError, StorageError
from restore_fetch.hashes import Digest, hash_stream
from restore_fetch.records import Attempt, DeliveryRecord, JobRecord, Journal, Receipt, Rejection
from restore_fetch.rules import TELL_SKEW_OVER


@dataclass(frozen=True)
class Whole:
    """An archive that is on disk in full, under whatever name it has until it is proven.

    Attributes:
        path: Where it is now.
        size: Its bytes.
        digest: Its SHA1, of the bytes as they are on the disk.
        inspection: What its structure is like; None when that was not checked.
        seen: The `fingerprint` of the file when it had this SHA1.
    """

    path: Path
    size: int
    digest: Digest
    inspection: Inspection | None = None
    seen: tuple[int, ...] = ()


def fingerprint(state: os.stat_result) -> tuple[int, ...]:
    """What changes when a file is written to, or when another takes its name."""
    return state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def hash_file(
    path: Path,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    inspector: ArchiveInspector | None = None,
) -> Whole:
    """Read a file and hash it, in constant memory.

    Args:
        path: The file.
        on_progress: Called now and then with the bytes read, and the bytes there are.
        inspector: Given the bytes, too, to check their structure; None leaves that out.

    Raises:
        StorageError: It is missing, is no regular file, or cannot be read.
    """
    descriptor = files.open_regular(path, os.O_RDONLY)
    with files.storage_errors(path, "read"), os.fdopen(descriptor, "rb", buffering=0) as stream:
        state = os.fstat(descriptor)
        if inspector is None:
            size, digest = hash_stream(stream, lambda done: on_progress(done, state.st_size))
            return Whole(path, size, digest, seen=fingerprint(state))
        inspector.restart()
        size, digest = hash_stream(stream, lambda done: on_progress(done, state.st_size), inspector.update)
        return Whole(path, size, digest, inspector.finish(), seen=fingerprint(state))


def here_already(path: Path, receipt: Receipt) -> str:
    """What to say of an archive that is not downloaded again, with what speaks for it."""
    since = f"{receipt.finished:%Y-%m-%d}"
    if receipt.proves:
        return f"{path} is here already, published on {since}: {receipt.proves}"
    return f"{path} is here already, {receipt.verdict} on {since}"


class Shelf:
    """The folder, as one job sees it.

    Args:
        folder: Where the files go.
        job_id: The restore job.
    """

    def __init__(self, folder: Path, job_id: str) -> None:
        self.folder = folder
        self.job_id = job_id

    def published(self, name: str | None = None) -> tuple[Path, Receipt] | None:
        """The archive of the job that is here with its receipt, the verified one first; None when there is none.

        The archive is not read again, unless it was touched after its receipt was written, or the receipt itself
        was touched or copied, so that its times say nothing.

        Args:
            name: What the archive is called, when that is known: the folder is not searched then.

        Raises:
            HashMismatchError: The file is not, or no longer, what its receipt says.
            StorageError: Something cannot be read.
        """
        found = receipts.find_receipts(self.folder, self.job_id, name)
        for path, receipt in sorted(found, key=lambda pair: pair[1].verdict != "verified"):
            state = files.require_regular(path)
            if state is None:
                continue
            beside = files.require_regular(receipts.receipt_path(path))
            touched = touched_since(state, beside) or _is_younger(beside, receipt.finished)
            if state.st_size != receipt.bytes or (touched and hash_file(path).digest != receipt.digest):
                raise HashMismatchError(
                    f"{path} is not what its receipt says: it was changed after it was verified",
                    path=path,
                    expected=receipt.sha1,
                    files="it was left untouched",
                    next_step="move it away, or download it again with --force",
                )
            return path, receipt
        return None

    def journal(self) -> JournalFile | None:
        """The journal of the job, when an earlier run left one.

        Raises:
            StorageError: It cannot be read, or is damaged.
        """
        return JournalFile.of_job(self.folder, self.job_id)

    def attempts(self) -> tuple[Attempt, ...]:
        """Every request for the archive recorded in this folder, oldest first.

        Raises:
            StorageError: A record cannot be read.
        """
        sources: list[Receipt | Rejection | Journal] = [
            receipt for _, receipt in receipts.find_receipts(self.folder, self.job_id)
        ]
        sources += receipts.find_rejections(self.folder, self.job_id)
        if (journal := self.journal()) is not None:
            sources.append(journal.state)
        return all_attempts(sources)

    def open_journal(self, name: str, job: JobRecord, delivery: DeliveryRecord) -> JournalFile:
        """The journal for a download that is about to begin or to go on; a new one is on disk when this returns.

        Args:
            name: The name the archive will have.
            job: The job.
            delivery: Its delivery.

        Raises:
            StorageError: Files of another job, or a stranger's, have the names that are needed.
        """
        journal = JournalFile.at(self.folder, name)
        if journal is None:
            journal = JournalFile(self.folder, Journal(file=name, job=job, delivery=delivery))
            for path in (journal.part, journal.unverified):
                if files.exists(path):
                    raise in_the_way(path)
            journal.update(attempts=self.attempts())
        elif journal.state.job.id != self.job_id:
            raise in_the_way(journal.path)
        for path in (journal.part, journal.unverified):
            files.require_regular(path)
        return journal

    def require_free_name(self, name: str, *, replace: bool) -> None:
        """Refuse to start what could not be published.

        Raises:
            StorageError: The name, or one that goes with it, is taken by something that may not be replaced.
        """
        archive = self.folder / name
        receipt, finding = receipts.receipt_path(archive), archive.with_name(name + receipts.REJECTION_SUFFIX)
        checksum, rejected = receipts.sha1_path(archive), archive.with_name(name + receipts.REJECTED_SUFFIX)
        there = {path for path in (archive, receipt, checksum, finding, rejected) if files.require_regular(path)}
        if replace:
            return
        if archive in there:
            raise in_the_way(archive)
        if receipt in there:
            self._require_ours(receipt, Receipt)
        elif checksum in there and not receipts.is_checksum(checksum):
            raise in_the_way(checksum)
        if finding in there:
            self._require_ours(finding, Rejection)
        elif rejected in there:
            raise in_the_way(rejected)

    def _require_ours(self, path: Path, kind: type[Receipt] | type[Rejection]) -> None:
        record = receipts.read_record(path, kind)
        if record is not None and record.job.id != self.job_id:
            raise in_the_way(path)


def all_attempts(records: Iterable[Receipt | Rejection | Journal]) -> tuple[Attempt, ...]:
    """Every request for the archive of a job that is on record, oldest first."""
    # Records repeat what an earlier one holds; within one, two of the same moment are two (a clock can stand).
    attempts: dict[datetime, list[Attempt]] = {}
    for record in records:
        for started, same in _by_start(record.attempts).items():
            if len(same) >= len(attempts.get(started, [])):
                attempts[started] = same
    return tuple(attempt for started in sorted(attempts) for attempt in attempts[started])


def seems_whole(archive: Path, receipt: Receipt) -> bool:
    """Whether an archive has the size in the receipt beside it, and was not touched since that was written.

    It is not read: what was touched may be right all the same, and what was not is.

    Raises:
        StorageError: It cannot be looked at, or something else has its name.
    """
    state = files.require_regular(archive)
    if state is None:
        return False
    return state.st_size == receipt.bytes and not touched_since(
        state, files.require_regular(receipts.receipt_path(archive))
    )


def touched_since(archive: os.stat_result, receipt: os.stat_result | None) -> bool:
    """Whether an archive may have changed since its receipt was written.

    The change time of its inode tells it too: another file moved to its name brings its old times along.
    """
    if receipt is None:
        return True
    return archive.st_mtime_ns > receipt.st_mtime_ns or archive.st_ctime_ns > receipt.st_ctime_ns


def _is_younger(receipt: os.stat_result | None, finished: datetime) -> bool:
    """Whether a receipt is younger than it says by more than clocks are apart: then its times prove nothing."""
    return receipt is not None and receipt.st_mtime - finished.timestamp() > TELL_SKEW_OVER.total_seconds()


def in_the_way(path: Path) -> StorageError:
    """The error about a file that this job did not make."""
    return StorageError(
        f"{path} is in the way: it was not made for this restore job",
        path=path,
        files="it was left untouched",
        next_step="move it, or choose another --out-dir",
    )


def _by_start(attempts: tuple[Attempt, ...]) -> dict[datetime, list[Attempt]]:
    found: dict[datetime, list[Attempt]] = {}
    for attempt in attempts:
        found.setdefault(attempt.started, []).append(attempt)
    return found
