"""The journal of a pull: what the service was asked to make, written before it is asked."""

from __future__ import annotations

from pathlib import Path

from restore_fetch import files, receipts
from restore_fetch.records import PullJournal


class PullFile:
    """The journal of a pull and its place on disk.

    Args:
        folder: Where the archives go.
        snapshot_id: The snapshot that is pulled.
    """

    def __init__(self, folder: Path, snapshot_id: str) -> None:
        self._path = folder / f".restore-fetch-pull-{snapshot_id}.json"
        self._snapshot_id = snapshot_id

    def read(self) -> PullJournal | None:
        """What the last pull of the snapshot asked for; None when there is nothing to find again.

        Raises:
            StorageError: It cannot be read, or is damaged.
        """
        journal = receipts.read_record(self._path, PullJournal)
        return journal if journal is not None and journal.snapshot_id == self._snapshot_id else None

    def write(self, journal: PullJournal) -> None:
        """Put it on the disk, before this returns.

        Raises:
            StorageError: It cannot be written.
        """
        files.write_whole(self._path, journal.to_json())

    def remove(self) -> None:
        """Remove it; one that is not there is no error.

        Raises:
            StorageError: The operating system refuses.
        """
        files.remove(self._path)
