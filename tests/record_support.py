"""Receipts, journals and findings to test with: whole and believable ones, with elements changed at will."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from restore_fetch.records import Attempt, Journal, Receipt, Rejection

JOB_ID = "6b77893b80eef5354c77ee15"
NAME = f"Cluster0-1516661094-{JOB_ID}.tar.gz"
BYTES = b"the bytes of an archive"
SHA1 = "a2ef3aa0c4bff654b55a42bdb93d5877e8c048d2"
STARTED = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
JOB = {
    "id": JOB_ID,
    "group_id": "a" * 24,
    "cluster_id": "b" * 24,
    "cluster_name": "Cluster0",
    "snapshot_id": "c" * 24,
    "created": STARTED - timedelta(hours=1),
    "point_in_time": False,
    "timestamp": {"date": STARTED - timedelta(hours=2), "increment": 1},
    "encryption_enabled": False,
}
DELIVERY = {"host": "backup.example.net", "expires": STARTED + timedelta(days=1), "max_downloads": 3}

STRUCTURE: dict[str, Any] = {
    "verdict": "structure",
    "proves": "the archive is whole",
    "published_hash": None,
    "checks": {"length": True, "gzip": True, "tar": True},
    "archive": {"members": 6, "unpacked_bytes": 10240, "restore_info": {"Replica Set": "rs0"}},
}


def attempt(number: int = 1, **changes: Any) -> Attempt:
    began = STARTED + timedelta(seconds=number, milliseconds=250)
    elements = {"started": began, "ended": began + timedelta(seconds=1), "bytes": len(BYTES), "outcome": "complete"}
    return Attempt.model_validate(elements | changes)


def receipt(**changes: Any) -> Receipt:
    """The receipt of `BYTES`, verified."""
    elements = {
        "verdict": "verified",
        "file": NAME,
        "bytes": len(BYTES),
        "sha1": SHA1,
        "published_hash": {"type_name": "SHA1", "file_name": NAME, "hash": SHA1},
        "checks": {"length": True, "hash": True},
        "job": JOB,
        "delivery": DELIVERY,
        "attempts": (attempt(),),
        "started": STARTED,
        "finished": STARTED + timedelta(seconds=90),
        "seconds": {"waiting": 61.0, "downloading": 12.4, "verifying": 0.8},
        "service": "atlas",
        "tool": "restore-fetch 0.1.0",
    }
    return Receipt.model_validate(elements | changes)


def journal(**changes: Any) -> Journal:
    """The journal of `BYTES`, still downloading."""
    elements = {"file": NAME, "job": JOB, "delivery": DELIVERY, "attempts": (attempt(),)}
    return Journal.model_validate(elements | changes)


def rejection(**changes: Any) -> Rejection:
    """The finding that `BYTES` are not what was published."""
    elements = {
        "finding": "the SHA1 of the bytes received is not the published one",
        "file": f"{NAME}.rejected",
        "bytes": len(BYTES),
        "sha1": SHA1,
        "published_hash": {"type_name": "SHA1", "file_name": NAME, "hash": "f" * 40},
        "job": JOB,
        "delivery": DELIVERY,
        "attempts": (attempt(),),
        "found": STARTED,
        "service": "atlas",
        "tool": "restore-fetch 0.1.0",
    }
    return Rejection.model_validate(elements | changes)
