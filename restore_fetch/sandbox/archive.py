"""The archives that the delivery hands out: a real folder packed, or a synthetic data directory.

An archive holds one folder of raw `mongod` data files and `restoreInfo.txt`. It is never held in memory.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

_POOL_BYTES = 4 << 20
_COPY_BYTES = 1 << 20
_FAST_ABOVE_BYTES = 64 << 20
_SMALL_FILES = {
    "WiredTiger": 47,
    "WiredTiger.lock": 21,
    "WiredTiger.turtle": 1_200,
    "WiredTiger.wt": 8_192,
    "_mdb_catalog.wt": 8_192,
    "sizeStorer.wt": 4_096,
    "storage.bson": 114,
    "journal/WiredTigerLog.0000000001": 4_096,
    "journal/WiredTigerPreplog.0000000001": 128,
}
_BIG_FILES = {
    "collection-0--1516661094.wt": 0.45,
    "collection-2--1516661094.wt": 0.25,
    "collection-4--1516661094.wt": 0.15,
    "index-1--1516661094.wt": 0.10,
    "index-3--1516661094.wt": 0.05,
}


@dataclass(frozen=True)
class Archive:
    """One archive on disk.

    Attributes:
        path: Where its bytes are, for as long as the sandbox runs.
        size: Their number.
        sha1: Their SHA1, in lower-case hexadecimal.
    """

    path: Path
    size: int
    sha1: str


@dataclass(frozen=True)
class ArchiveKind:
    """What tells one archive from another; jobs whose kinds are equal share the file.

    Attributes:
        group_name: Name of the project.
        replica_set: Name of the replica set it was taken from.
        cluster_id: Identifier of that replica set's cluster.
        taken: When the snapshot was taken.
        master_key: UUID of the KMIP master key, when it is encrypted.
        edition: Which of several builds of the same data, which differ in their bytes.
        damaged: Whether a byte is flipped after packing.
    """

    group_name: str
    replica_set: str
    cluster_id: str
    taken: datetime
    master_key: str | None = None
    edition: int = 0
    damaged: bool = False


class ArchiveStore:
    """Packs archives when they are first needed and keeps them in a temporary folder, until it is closed."""

    def __init__(self, *, size_bytes: int, snapshot: Path | None, seed: int) -> None:
        """Prepare the store; nothing is written yet.

        Args:
            size_bytes: About how large a synthetic archive is, in bytes.
            snapshot: A folder to pack instead.
            seed: What the synthetic bytes are made from.

        Raises:
            NotADirectoryError: `snapshot` is no folder.
        """
        if snapshot is not None and not snapshot.is_dir():
            raise NotADirectoryError(f"{snapshot} is not a folder that could be packed")
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._size_bytes = size_bytes
        self._snapshot = snapshot
        self._seed = seed
        self._made: dict[ArchiveKind, Archive] = {}
        self._lock = threading.Lock()

    @property
    def folder(self) -> Path:
        """Where archives are written, made when it is first needed.

        Raises:
            OSError: It cannot be made.
        """
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="restore-sandbox-", ignore_cleanup_errors=True)
        return Path(self._temporary.name)

    def close(self) -> None:
        """Delete every archive. A second call does nothing."""
        if self._temporary is not None:
            self._temporary.cleanup()

    def get(self, kind: ArchiveKind) -> Archive:
        """The archive of this kind, packed now if it was not before.

        Raises:
            OSError: It cannot be written, or the folder to pack cannot be read.
        """
        with self._lock:
            if kind not in self._made:
                self._made[kind] = self._make(kind, self.folder / f"archive-{len(self._made)}.tar.gz")
            return self._made[kind]

    def _make(self, kind: ArchiveKind, path: Path) -> Archive:
        level = 0 if self._size_bytes > _FAST_ABOVE_BYTES and self._snapshot is None else 1
        with path.open("wb") as file:
            out = _HashingWriter(file)
            # The edition goes into gzip's own time stamp, so that even a packed folder has other bytes.
            packed = gzip.GzipFile("", "wb", level, out, mtime=kind.edition)
            with packed, tarfile.TarFile(mode="w", fileobj=packed, copybufsize=_COPY_BYTES) as tar:
                if self._snapshot is None:
                    self._add_synthetic(tar, kind)
                else:
                    tar.add(self._snapshot.resolve(), arcname=self._snapshot.resolve().name)
        sha1 = _damage(path) if kind.damaged else out.sha1.hexdigest()
        return Archive(path, path.stat().st_size, sha1)

    def _add_synthetic(self, tar: tarfile.TarFile, kind: ArchiveKind) -> None:
        folder = f"{kind.replica_set}-{int(kind.taken.timestamp())}"
        noise = _Noise(random.Random(f"{self._seed}/{kind.replica_set}/{kind.edition}"))
        mtime = int(kind.taken.timestamp())
        for name in (folder, f"{folder}/journal"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o700, mtime
            tar.addfile(entry)
        info = _restore_info(kind).encode()
        files: dict[str, BinaryIO | int] = {"restoreInfo.txt": io.BytesIO(info), **_SMALL_FILES}
        spare = max(0, self._size_bytes - sum(_SMALL_FILES.values()) - len(info) - 20 * 1024)
        files |= {name: max(512, int(spare * share)) for name, share in _BIG_FILES.items()}
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.mode, entry.mtime = 0o600, mtime
            entry.size = content if isinstance(content, int) else len(info)
            tar.addfile(entry, noise if isinstance(content, int) else content)


class _Noise(io.RawIOBase):
    """An endless file of bytes that do not compress.

    One pool is repeated: gzip looks back 32 KiB, so it never meets the same bytes twice, and a large archive
    costs no more randomness than a small one.
    """

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._pool = memoryview(rng.randbytes(_POOL_BYTES))
        self._at = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        return b"".join(self._take(size))

    def _take(self, size: int) -> Iterator[memoryview]:
        while size > 0:
            piece = self._pool[self._at : self._at + size]
            self._at = (self._at + len(piece)) % _POOL_BYTES
            size -= len(piece)
            yield piece


class _HashingWriter(io.RawIOBase):
    """Writes through to a file and knows the SHA1 of it, which saves reading a large archive again."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.sha1 = hashlib.sha1()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        self.sha1.update(data)
        return self._file.write(data)


def _damage(path: Path) -> str:
    """Flip one byte in the middle and return the SHA1 of what is there now."""
    with path.open("r+b") as file:
        middle = path.stat().st_size // 2
        file.seek(middle)
        byte = file.read(1)
        file.seek(middle)
        file.write(bytes([byte[0] ^ 0xFF]))
        file.seek(0)
        return hashlib.file_digest(file, "sha1").hexdigest()


def _restore_info(kind: ArchiveKind) -> str:
    """The text file that the service puts beside the data files."""
    taken = kind.taken.astimezone(UTC)
    date = taken.strftime("%a %b %d %H:%M:%S GMT %Y")
    options = "--enableEncryption" if kind.master_key else ""
    lines = [
        "Restore Information",
        f"Group Name: {kind.group_name}",
        f"Replica Set: {kind.replica_set}",
        f"Cluster ID: {kind.cluster_id}",
        f"Snapshot timestamp: {date}",
        f"Last Oplog Applied: {date} ({int(taken.timestamp())}, 1)",
        "MongoDB Version: 4.0.28",
        "Storage Engine: wiredTiger",
        f"mongod Options: --wiredTigerDirectoryForIndexes=false {options}".rstrip(),
    ]
    if kind.master_key:
        lines.append(f"Master Key UUID: {kind.master_key}")
    return "\n".join(lines) + "\n"
