"""The part file: the bytes of an archive that is not published yet, their SHA1, and perhaps their structure."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from restore_fetch import files
from restore_fetch.delivery.structure import ArchiveInspector, Inspection
from restore_fetch.delivery.writeback import WriteBehind, forget_cache
from restore_fetch.errors import StorageError
from restore_fetch.hashes import Digest, StreamingHasher
from restore_fetch.units import show_size

_READ_BYTES = 1024 * 1024
_PROGRESS_EVERY_BYTES = 64 * 1024 * 1024
_BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system's own is
_KEEP_SIZE = 0x01  # FALLOC_FL_KEEP_SIZE
_RESERVING = threading.Lock()
_STATFS_BYTES = 256  # more than any platform's struct statfs, whose first element is the type
_TMPFS_MAGIC = 0x01021994
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class PartFile:
    """A file that grows at its end while its SHA1 is kept.

    Args:
        path: The file; it is created when missing.
        min_free_bytes: What must stay free in its file system.
        inspector: Checks the structure of what it holds; None leaves that out.

    Attributes:
        size: How many bytes are written and hashed.
        durable_bytes: How many of them are certain to be on the disk.
        inspects: Whether `inspect` is to be given the bytes, too.

    Raises:
        StorageError: The file cannot be opened, or is no regular file.
    """

    def __init__(self, path: Path, *, min_free_bytes: int = 0, inspector: ArchiveInspector | None = None) -> None:
        self.path = path
        self.size = 0
        self.durable_bytes = 0
        self._min_free_bytes = min_free_bytes
        self.inspects = inspector is not None
        self._inspector = inspector
        self._hasher = StreamingHasher()
        self._descriptor = files.open_regular(path, os.O_RDWR | os.O_CREAT)
        with files.storage_errors(path, "set the mode of"):
            os.fchmod(self._descriptor, files.FILE_MODE)
        self._written_bytes = 0
        self._behind = WriteBehind(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what it holds stays.

        Raises:
            StorageError: The disk reports, late, that something was not written.
        """
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with self._errors("close"):
                os.close(descriptor)

    def forget_if_empty(self) -> None:
        """Remove a file that holds nothing, and with it the room that was set aside for it, if that can be done."""
        with contextlib.suppress(OSError):
            state = os.fstat(self._descriptor)
            if state.st_size == 0 and os.path.samestat(state, self.path.lstat()):
                self.path.unlink()

    def stored_bytes(self) -> int:
        """How many bytes the file has, whether hashed yet or not."""
        return self.state().st_size

    def state(self) -> os.stat_result:
        """What the operating system says of the file.

        Raises:
            StorageError: It cannot be asked.
        """
        with self._errors("look at"):
            return os.fstat(self._descriptor)

    def start_over(self) -> None:
        """Forget every byte.

        Raises:
            StorageError: The file cannot be truncated.
        """
        with self._errors("truncate"):
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
        self.durable_bytes = 0
        self.start_hash()
        self._go_on_writing_at(0)

    def take_up(self, size: int, on_progress: Callable[[int], None] = lambda _: None) -> None:
        """Go on from bytes that an earlier run left: keep the first `size`, and hash them again from the disk.

        They are flushed and then dropped from the page cache first. After a failed flush the cache may still show
        bytes that the disk never got; what is read back from the disk can be believed.

        Raises:
            StorageError: The file is shorter than that, or cannot be read.
        """
        self.start_hash()
        with self._errors("read"):
            if os.fstat(self._descriptor).st_size < size:  # truncating would make up the rest
                raise OSError(errno.EIO, "the file is shorter than it was")
            os.ftruncate(self._descriptor, size)
            os.fsync(self._descriptor)
            forget_cache(self._descriptor)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            view = memoryview(bytearray(_READ_BYTES))
            told = 0
            while self.size < size:
                count = os.readv(self._descriptor, [view])
                if count == 0:
                    raise OSError(errno.EIO, "the file is shorter than it was")
                self.hash(view[:count])
                self.inspect(view[:count])
                if self.size - told >= _PROGRESS_EVERY_BYTES:
                    told = self.size
                    on_progress(told)
        self.durable_bytes = self.size
        self._go_on_writing_at(self.size)

    def start_hash(self) -> None:
        """Begin the hash and the inspection anew, before the bytes are read again."""
        self.size = 0
        self._hasher = StreamingHasher()
        if self._inspector is not None:
            self._inspector.restart()

    def reserve(self, total_bytes: int) -> None:
        """Make sure that there is room for the whole archive before the first byte of it is asked for.

        Where the file system can (Linux), the blocks are set aside without changing the file's size, so that the
        size goes on saying how much has arrived.

        Raises:
            StorageError: There is not enough room.
        """
        with _RESERVING:  # or two downloads at once would both count on the same free blocks
            self._reserve(total_bytes)

    def _reserve(self, total_bytes: int) -> None:
        with self._errors("look at"):
            set_aside = os.fstat(self._descriptor).st_blocks * _BLOCK_BYTES  # by an earlier attempt
        missing = max(0, total_bytes - max(self.size, set_aside))
        free = files.free_bytes(self.path.parent)
        if missing + self._min_free_bytes > free:
            raise StorageError(
                f"not enough space in {self.path.parent}: {show_size(missing)} to come and "
                f"{show_size(self._min_free_bytes)} to stay free, {show_size(free)} there",
                path=self.path,
                errno=errno.ENOSPC,
                files=self.kept(),
                next_step="free some space, or choose another --out-dir, and run the same command again",
            )
        with self._errors("reserve space for"):
            _set_aside(self._descriptor, total_bytes)

    def check_room(self) -> None:
        """Stop before the disk is full.

        Raises:
            StorageError: Less than `min_free_bytes` is left.
        """
        if self._min_free_bytes and files.free_bytes(self.path.parent) < self._min_free_bytes:
            raise StorageError(
                f"less than {show_size(self._min_free_bytes)} is free in {self.path.parent}",
                path=self.path,
                errno=errno.ENOSPC,
                files=self.kept(),
                next_step="free some space, or lower --min-free, and run the same command again",
            )

    def write(self, view: memoryview) -> None:
        """Write bytes at the end. They count only when `hash` was given them, too, in the same order.

        Raises:
            StorageError: The disk refuses.
        """
        with self._errors("write to"):
            files.write_all(self._descriptor, view)
        self._written_bytes += len(view)
        self._behind.wrote(self._written_bytes)

    def hash(self, view: memoryview) -> None:
        """Take bytes that were written into the hash, and into the size; another thread may do so than writes."""
        self._hasher.update(view)
        self.size += len(view)

    def inspect(self, view: memoryview) -> None:
        """Check the structure of bytes that were hashed, in the same order; `inspection` tells what is damaged."""
        if self._inspector is not None:
            self._inspector.update(view)

    def checkpoint(self) -> None:
        """Make what is written so far last through a power cut.

        Raises:
            StorageError: It may not; the flush is not tried again, because a second one would say nothing.
        """
        size = self.size
        with self._errors("flush"):
            os.fsync(self._descriptor)
        self.durable_bytes = size

    def kept(self) -> str:
        """What state it is in, in words for people."""
        return f"{self.size} bytes are kept in {self.path.name}" if self.size else "nothing was kept"

    def digest(self) -> Digest:
        """The SHA1 of everything in the file."""
        return self._hasher.digest()

    def inspection(self) -> Inspection | None:
        """What everything in the file is as a whole archive; None when it was not inspected."""
        return self._inspector.finish() if self._inspector is not None else None

    def _go_on_writing_at(self, size: int) -> None:
        self._written_bytes = size
        self._behind.restart(size)

    def _errors(self, doing: str) -> contextlib.AbstractContextManager[None]:
        return files.storage_errors(self.path, doing, files=f"what arrived is kept in {self.path.name}")


def boot_id() -> str | None:
    """Which boot of the machine this is, where the system tells; None elsewhere."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip() or None
    except (OSError, ValueError):
        return None


def _set_aside(descriptor: int, total_bytes: int) -> None:
    if not sys.platform.startswith("linux") or _is_memory(descriptor):
        return
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    if fallocate(descriptor, _KEEP_SIZE, ctypes.c_longlong(0), ctypes.c_longlong(total_bytes)) != 0:
        number = ctypes.get_errno()
        if number in _NO_ROOM:
            raise OSError(number, os.strerror(number))


def _is_memory(descriptor: int) -> bool:
    """Whether a file is in a tmpfs, which sets every page aside one by one: that takes as long as to write it."""
    told = ctypes.create_string_buffer(_STATFS_BYTES)
    if ctypes.CDLL(None).fstatfs(descriptor, told) != 0:
        return False
    return ctypes.c_long.from_buffer(told).value == _TMPFS_MAGIC
