"""One run at a time on a job and folder. The lock is the kernel's: a run that dies leaves none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from restore_fetch import files
from restore_fetch.errors import LockedError

_POLL_SECONDS = 0.1


@contextlib.contextmanager
def job_lock(folder: Path, job_id: str, wait_seconds: float, *, what: str = "restore job") -> Iterator[None]:
    """Hold the lock of a job in a folder; or of a batch, or of a snapshot that is pulled.

    Args:
        folder: Where the files go.
        job_id: Its id.
        wait_seconds: How long to wait for another run.
        what: What the id is of.

    Raises:
        LockedError: Another run holds it.
        StorageError: The lock file cannot be made, or something else has its name.
    """
    path = folder / f".restore-fetch-{job_id}.lock"
    files.require_regular(path)
    lock = FileLock(path, mode=files.FILE_MODE, poll_interval=_POLL_SECONDS)
    with files.storage_errors(path, "lock"):
        try:
            lock.acquire(timeout=wait_seconds)
        except Timeout as exc:  # which is an OSError, too
            raise LockedError(
                f"another run works on {what} {job_id} in {folder}",
                path=path,
                files="nothing was touched",
                next_step="let it finish, or use --lock-wait",
            ) from exc
    try:
        yield
    finally:
        # Removed while it is held: whoever opened it meanwhile finds it gone, and makes a new one.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()
