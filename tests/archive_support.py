"""Archives to look into: whole ones, hostile ones, and a sandbox that serves them."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
from collections.abc import Iterable

from restore_fetch.delivery import ArchiveInspector, Inspection
from restore_fetch.sandbox import Sandbox
from restore_fetch.sandbox.archive import Archive

NAME = "rs0-1516661094.tar.gz"
RESTORE_INFO = b"Restore Information\nGroup Name: a: b\nReplica Set: rs0\nEmpty:\n"
DATA_DIRECTORY = ("WiredTiger", "WiredTiger.wt", "storage.bson", "journal/WiredTigerLog.0000000001")

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(content)
    return info, content


def data_directory(folder: str = "rs0") -> list[Member]:
    """The members of a small data directory, as the service packs one."""
    noise = random.Random(5)
    return [
        member(folder, kind=tarfile.DIRTYPE),
        member(f"{folder}/restoreInfo.txt", RESTORE_INFO),
        *(member(f"{folder}/{name}", noise.randbytes(noise.randint(0, 4000))) for name in DATA_DIRECTORY),
    ]


def tar(members: Iterable[Member], form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as file:
        for info, content in members:
            file.addfile(info, io.BytesIO(content))
    return out.getvalue()


def packed(members: Iterable[Member] | None = None) -> bytes:
    return gzip.compress(tar(data_directory() if members is None else members), 6, mtime=0)


def look(content: bytes, name: str = NAME, piece_bytes: int = 1 << 20) -> Inspection:
    inspector = ArchiveInspector(name)
    view = memoryview(content)
    for start in range(0, len(view), piece_bytes):
        inspector.update(view[start : start + piece_bytes])
    return inspector.finish()


def serve(sandbox: Sandbox, job_id: str, content: bytes) -> None:
    """Let a job deliver these bytes, and publish their hash."""
    archive = sandbox.archive(job_id)
    archive.path.write_bytes(content)
    made = sandbox._archives._made
    (kind,) = (kind for kind, other in made.items() if other is archive)
    made[kind] = Archive(archive.path, len(content), hashlib.sha1(content).hexdigest())
