"""One run at a time on a job and folder. The lock is the kernel's: a run that dies leaves none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from restore_fetch import files
from restore_fetch.errors import LockedError
from restore_fetch.shelf import in_the_way

_POLL_SECONDS = 0.1
_NAMES_SECONDS = 30.0


@contextlib.contextmanager
def job_lock(
    folder: Path,
    job_id: str,
    wait_seconds: float,
    on_wait: Callable[[str], None] = lambda _: None,
    *,
    what: str = "restore job",
) -> Iterator[None]:
    """Hold the lock of a job in a folder; or of a batch, or of a snapshot that is pulled.

    Args:
        folder: Where the files go.
        job_id: Its id.
        wait_seconds: How long to wait for another run.
        on_wait: Called with a sentence when there is another run to wait for.
        what: What the id is of.

    Raises:
        LockedError: Another run holds it.
        StorageError: The lock file cannot be made, or something else has its name.
    """
    path = folder / f".restore-fetch-{job_id}.lock"
    found = files.require_regular(path)
    if found is not None and found.st_size:  # ours are empty
        raise in_the_way(path)
    lock = FileLock(path, mode=files.FILE_MODE, poll_interval=_POLL_SECONDS)
    other = f"another run works on {what} {job_id} in {folder}"
    with files.storage_errors(path, "lock"):
        try:
            _acquire(lock, wait_seconds, lambda: on_wait(other))
        except Timeout as exc:  # which is an OSError, too
            raise LockedError(
                other, path=path, files="nothing was touched", next_step="let it finish, or use --lock-wait"
            ) from exc
    try:
        yield
    finally:
        # Removed while it is held: whoever opened it meanwhile finds it gone, and makes a new one.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


def names_lock(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the lock under which a job takes a name in a folder: two jobs must not both find the same one free.

    It is held for a moment only; the journal that was made meanwhile is what keeps the name.

    Args:
        folder: Where the files go.

    Raises:
        LockedError: Others have held it for half a minute.
        StorageError: The lock file cannot be made, or something else has its name.
    """
    return job_lock(folder, "names", _NAMES_SECONDS, what="the")


def _acquire(lock: FileLock, wait_seconds: float, on_wait: Callable[[], None]) -> None:
    if wait_seconds > 0:
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=0)
            return
        on_wait()
    lock.acquire(timeout=wait_seconds)
