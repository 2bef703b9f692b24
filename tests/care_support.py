"""Folders with pulls of many dates in them, made without a service."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from restore_fetch import receipts
from restore_fetch.records import BatchMember, BatchReceipt, Receipt
from tests.record_support import JOB, receipt

GROUP = "a" * 24


def object_id(number: int) -> str:
    return f"{number:024x}"


def receipt_of(number: int, moment: datetime, **changes: Any) -> Receipt:
    """The receipt of a small archive; `job` may name elements of the job that are other ones."""
    job_id = object_id(number)
    content = content_of(number)
    digest = hashlib.sha1(content).hexdigest()
    job = {
        **JOB,
        "id": job_id,
        "group_id": GROUP,
        "snapshot_id": object_id(number + 0xA000000),
        "created": moment + timedelta(hours=1),
        "timestamp": {"date": moment, "increment": 1},
        **changes.pop("job", {}),
    }
    elements = {
        "file": f"{job['cluster_name']}-{number}-{job_id}.tar.gz",
        "bytes": len(content),
        "sha1": digest,
        "published_hash": {"type_name": "SHA1", "hash": digest, "file_name": None},
        "job": job,
        "finished": moment + timedelta(hours=2),
    }
    return receipt(**elements | changes)


def content_of(number: int) -> bytes:
    return f"the bytes of archive {number}".encode()


def put(folder: Path, number: int, moment: datetime, **changes: Any) -> Path:
    """Put a pull of one archive into a folder, as it is once it was published."""
    made = receipt_of(number, moment, **changes)
    archive = folder / made.file
    archive.write_bytes(content_of(number))
    receipts.write_receipt(archive, made)
    return archive


def put_unverified(folder: Path, number: int, moment: datetime) -> Path:
    return put(folder, number, moment, verdict="unverified", published_hash=None, checks={})


def put_batch(folder: Path, number: int, moment: datetime, *, members: int = 3, whole: bool = True) -> list[Path]:
    """Put a pull of several archives into a folder; without its own receipt when it is not whole."""
    batch_id = object_id(0xB000000 + number)
    archives = [
        put(folder, number + place, moment, job={"batch_id": batch_id, "cluster_id": object_id(0xC000000 + place)})
        for place in range(members)
    ]
    if whole:
        write_batch_receipt(folder, batch_id, archives, moment + timedelta(hours=3))
    return archives


def write_batch_receipt(folder: Path, batch_id: str, archives: list[Path], finished: datetime) -> Path:
    parts = [json.loads(receipts.receipt_path(archive).read_bytes()) for archive in archives]
    made = BatchReceipt(
        batch_id=batch_id,
        snapshot_id=object_id(0xD000000),
        group_id=GROUP,
        cluster_name=parts[0]["job"]["cluster_name"],
        members=tuple(
            BatchMember(
                member=f"shard-{place}",
                job_id=part["job"]["id"],
                file=part["file"],
                bytes=part["bytes"],
                sha1=part["sha1"],
            )
            for place, part in enumerate(parts)
        ),
        finished=finished,
        service="atlas",
        tool="restore-fetch 0.1.0",
    )
    path = receipts.batch_receipt_path(folder, batch_id)
    path.write_bytes(made.to_json())
    return path


def files_of(*archives: Path) -> set[str]:
    """The names that archives bring along."""
    return {name for path in archives for name in (path.name, f"{path.name}.sha1", f"{path.name}.receipt.json")}


def state_of(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Everything in a folder: names, contents, and when each was touched."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ctime_ns)
        for path in folder.iterdir()
        if path.is_file()
    }


def claims(folder: Path) -> list[str]:
    """What in a folder says that something is verified which is not there: no such thing may ever be seen."""
    false = []
    for path in folder.glob("*.receipt.json"):
        document = json.loads(path.read_bytes())
        parts = document.get("members", [document])
        for part in parts:
            archive = folder / part["file"]
            if not archive.is_file() or hashlib.sha1(archive.read_bytes()).hexdigest() != part["sha1"]:
                false.append(f"{path.name}: {part['file']}")
    return false
