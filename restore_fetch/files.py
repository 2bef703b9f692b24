"""The few things done to files, done so that a crash, a full disk or a stranger's file cannot hurt.

Every function translates the operating system's errors into `StorageError`. Nothing here follows a symbolic
link in the last part of a path, opens a FIFO, or leaves a half-written file under its own name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from restore_fetch.errors import StorageError

FILE_MODE = 0o600
FOLDER_MODE = 0o700
_SMALL_FILE_LIMIT = 16 * 1024 * 1024
_WRITE_BYTES = 64 * 1024

_NEXT_STEP = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "the quota is used up: free some space and run the same command again",
    errno.EFBIG: "the file system or a limit does not allow a file so large",
    errno.EACCES: "check who owns the folder and its mode",
    errno.EPERM: "check who owns the folder and its mode",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "check the disk, then run the same command again",
    errno.ELOOP: "a symbolic link is in the way: move it, it will not be followed",
}


@contextlib.contextmanager
def storage_errors(path: Path, doing: str, *, files: str = "") -> Iterator[None]:
    """Translate what the operating system says while `doing` something to `path`.

    Raises:
        StorageError: In place of any `OSError`.
    """
    try:
        yield
    except OSError as exc:
        reason = exc.strerror or str(exc)
        raise StorageError(
            f"cannot {doing} {path}: {reason}",
            path=path,
            errno=exc.errno,
            files=files,
            next_step=_NEXT_STEP.get(exc.errno or 0, ""),
        ) from exc


def make_folder(folder: Path) -> None:
    """Create a folder, and those above it, for its owner only; an existing one is left as it is.

    Raises:
        StorageError: It cannot be made, or something else has its name.
    """
    with storage_errors(folder, "create the folder"):
        missing = []
        place = folder
        while not place.exists():
            missing.append(place)
            place = place.parent
        for place in reversed(missing):
            with contextlib.suppress(FileExistsError):
                place.mkdir(mode=FOLDER_MODE)
                place.chmod(FOLDER_MODE)  # a umask may have taken away even the owner's rights
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


def exists(path: Path) -> bool:
    """Whether something has this name, a dangling symbolic link included.

    Raises:
        StorageError: The folder cannot be looked into.
    """
    with storage_errors(path, "look at"):
        return os.path.lexists(path)


def require_regular(path: Path) -> os.stat_result | None:
    """The state of a regular file, or None when nothing has this name.

    Raises:
        StorageError: A link, folder, FIFO or device has this name, or it cannot be looked at.
    """
    with storage_errors(path, "look at"):
        try:
            found = path.lstat()
        except FileNotFoundError:
            return None
    if not stat.S_ISREG(found.st_mode):
        raise StorageError(
            f"{path} is in the way: it is {_kind(found.st_mode)}, not a file made by this tool",
            path=path,
            files="it was left untouched",
            next_step="move it, or choose another --out-dir",
        )
    return found


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    return "a special file"


def open_regular(path: Path, flags: int) -> int:
    """Open a regular file, without following a link and without waiting for a FIFO's other end.

    Args:
        path: The file.
        flags: As for `os.open`; created files belong to their owner only, whatever the umask.

    Returns:
        The descriptor, not inherited by child processes.

    Raises:
        StorageError: It cannot be opened, or is no regular file.
    """
    require_regular(path)
    with storage_errors(path, "open"):
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, FILE_MODE)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return descriptor


def read_small(path: Path) -> bytes | None:
    """The bytes of a small file, or None when there is none.

    Raises:
        StorageError: It cannot be read, is no regular file, or is far too large to be one of ours.
    """
    if require_regular(path) is None:
        return None
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except StorageError as exc:
        if exc.errno == errno.ENOENT:  # another run, of another job, has just removed its own
            return None
        raise
    with storage_errors(path, "read"), os.fdopen(descriptor, "rb") as stream:
        content = stream.read(_SMALL_FILE_LIMIT + 1)
    if len(content) > _SMALL_FILE_LIMIT:
        raise StorageError(f"{path} is too large to be what its name says", path=path)
    return content


def write_whole(path: Path, content: bytes, *, mode: int = FILE_MODE) -> None:
    """Write a small file so that its name holds the old content or the new, never a part, even after a power cut.

    Args:
        path: The file.
        content: All of it.
        mode: Who may read it, whatever the umask.

    Raises:
        StorageError: It cannot be written, or something other than a regular file has its name.
    """
    require_regular(path)
    beside = path.with_name(path.name + ".tmp")
    with storage_errors(path, "write"):
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        try:
            try:
                os.fchmod(descriptor, mode)
                write_all(descriptor, memoryview(content))
                if os.fstat(descriptor).st_size != len(content):  # the name must never hold less
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            beside.rename(path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
    sync_folder(path.parent)


def write_all(descriptor: int, view: memoryview) -> None:
    """Write every byte, in pieces; the operating system may take fewer at a time.

    Given a megabyte at once, the kernel looks for memory that hangs together, which costs a busy machine, or a
    virtual one that gave such memory back, more than the writing itself.

    Raises:
        OSError: As the operating system gives it.
    """
    while view:
        view = view[os.write(descriptor, view[:_WRITE_BYTES]) :]


def rename(source: Path, target: Path, *, replace: bool = False) -> None:
    """Give a file another name in the same folder, and make that last through a power cut.

    Args:
        source: The file as it is called now.
        target: Its new name.
        replace: Whether a regular file of that name may be replaced.

    Raises:
        StorageError: Something has the new name already, or the operating system refuses.
    """
    if require_regular(target) is not None and not replace:
        raise StorageError(
            f"{target} is in the way: it was not made by this run",
            path=target,
            files=f"it was left untouched, and {source.name} was kept",
            next_step="move it, or use --force to replace it",
        )
    with storage_errors(target, "rename to", files=f"{source.name} was kept"):
        source.rename(target)
    sync_folder(target.parent)


def remove(path: Path) -> None:
    """Remove a file; one that is not there is no error.

    Raises:
        StorageError: The operating system refuses.
    """
    with storage_errors(path, "remove"):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut.

    Raises:
        StorageError: The operating system says they may not.
    """
    with storage_errors(folder, "sync the folder"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as exc:
            if exc.errno != errno.EINVAL:  # some file systems cannot sync a folder, and then need not
                raise
        finally:
            os.close(descriptor)


def free_bytes(folder: Path) -> int:
    """How many bytes an ordinary user may still write in the file system of a folder.

    Raises:
        StorageError: The operating system does not say.
    """
    with storage_errors(folder, "ask for the free space of"):
        found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
