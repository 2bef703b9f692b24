"""The journal beside a part file: written before each request, so that no crash can hide a download."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from restore_fetch import files
from restore_fetch.receipts import damaged, read_record, records_of_job
from restore_fetch.records import Attempt, Journal

JOURNAL_SUFFIX = ".part.json"
PART_SUFFIX = ".part"
UNVERIFIED_SUFFIX = ".unverified"


class JournalFile:
    """A journal and its place on disk; every change is on disk before the call returns.

    Args:
        folder: Where the archive will be.
        state: The journal as it is on disk, or as it is to be written first.

    Attributes:
        state: The journal as it is now.
    """

    def __init__(self, folder: Path, state: Journal) -> None:
        self.state = state
        self.archive = folder / state.file
        self.path = self.archive.with_name(state.file + JOURNAL_SUFFIX)
        self.part = self.archive.with_name(state.file + PART_SUFFIX)
        self.unverified = self.archive.with_name(state.file + UNVERIFIED_SUFFIX)

    @classmethod
    def of_job(cls, folder: Path, job_id: str) -> Self | None:
        """The journal of a job, when there is one.

        Raises:
            StorageError: It cannot be read, or is damaged.
        """
        for path, state in records_of_job(folder, JOURNAL_SUFFIX, Journal, job_id):
            if path.name == state.file + JOURNAL_SUFFIX:
                return cls(folder, state)
        return None

    @classmethod
    def at(cls, folder: Path, archive_name: str) -> Self | None:
        """The journal for an archive of that name, whosever job it is.

        Raises:
            StorageError: It cannot be read, or is damaged.
        """
        path = folder / (archive_name + JOURNAL_SUFFIX)
        state = read_record(path, Journal)
        if state is None:
            return None
        if state.file != archive_name:  # the name it gives is no name to write to
            raise damaged(path, Journal)
        return cls(folder, state)

    def update(self, **changes: Any) -> None:
        """Change some of its elements, and write it.

        Raises:
            StorageError: It cannot be written; the journal on disk is then the old one.
        """
        state = self.state.model_copy(update=changes)
        files.write_whole(self.path, state.to_json())
        self.state = state

    def begin(self, attempt: Attempt) -> None:
        """Record an attempt that is about to be made.

        Raises:
            StorageError: It cannot be written, and so must not be made.
        """
        self.update(attempts=(*self.state.attempts, attempt))

    def end(self, attempt: Attempt, **changes: Any) -> None:
        """Record how the last attempt ended.

        Raises:
            StorageError: It cannot be written.
        """
        self.update(attempts=(*self.state.attempts[:-1], attempt), **changes)

    def remove(self) -> None:
        """Remove the journal: the receipt or the finding says all from now on.

        Raises:
            StorageError: It cannot be removed.
        """
        files.remove(self.path)
