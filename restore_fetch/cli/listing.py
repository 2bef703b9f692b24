"""What `restore-fetch status` shows of jobs and snapshots; the tables of a batch and of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from restore_fetch.cli.console import Console
from restore_fetch.cli.session import open_api
from restore_fetch.errors import NotFoundError
from restore_fetch.inventory import Inventory, take_inventory
from restore_fetch.models import RestoreJob, Snapshot
from restore_fetch.redaction import display_url, plain
from restore_fetch.rules import UNLIMITED_DOWNLOADS, downloads_left, show_status
from restore_fetch.settings import Connection, parse_object_id
from restore_fetch.units import show_duration

_NOTHING = "-"
_JOB_COLUMNS = ("JOB", "CREATED", "STATE", "TIME LEFT", "DOWNLOADS", "HERE", "SNAPSHOT", "BATCH")
_SNAPSHOT_COLUMNS = ("SNAPSHOT", "TAKEN", "STATE", "EXPIRES", "ARCHIVES", "HERE")


def show_batch(console: Console, batch_id: str, out_dir: Path, connect: Callable[[], Connection]) -> None:
    """Show every job of a batch.

    Raises:
        NotFoundError: The service knows no job of it.
        ConfigurationError: The id is malformed, or a value of the connection cannot be used.
        ApiError: The service refuses, is out of reach, or talks nonsense.
        StorageError: The folder cannot be looked into.
    """
    asked = parse_object_id(batch_id, "--batch-id")
    with open_api(connect()) as service:
        jobs = service.jobs(asked)
        now = service.now()
    if not jobs:
        raise NotFoundError(
            f"the service knows no restore job of batch {asked}",
            next_step="check --batch-id, --project-id and --cluster",
        )
    here = _look_here(console, out_dir)
    receipt = here.batches.get(asked)
    whole = receipt is not None and here.is_complete(receipt)
    total = f"all of it is here and {receipt.proved}" if receipt and whole else "not all of it is here and verified"
    console.result(
        f"BATCH {asked}: {len(jobs)} jobs, {total}\n{_job_table(jobs, now, here)}",
        {"batch_id": asked, "jobs": _job_documents(jobs, now, here), "here": {"complete": whole}},
    )


def show_cluster(console: Console, out_dir: Path, connect: Callable[[], Connection]) -> None:
    """Show the restore jobs and the snapshots of the cluster.

    Raises:
        ConfigurationError: A value of the connection cannot be used.
        ApiError: The service refuses, is out of reach, or talks nonsense.
        StorageError: The folder cannot be looked into.
    """
    connection = connect()
    with open_api(connection) as service:
        jobs = service.all_jobs()
        snapshots = service.snapshots()
        now = service.now()
    here = _look_here(console, out_dir)
    console.result(
        f"RESTORE JOBS of {connection.cluster}, the newest first\n{_job_table(jobs, now, here)}\n\n"
        f"SNAPSHOTS of {connection.cluster}, the newest first\n{_snapshot_table(snapshots, here)}",
        {
            "jobs": _job_documents(jobs, now, here),
            "snapshots": [
                {
                    **snapshot.model_dump(mode="json", by_alias=True, exclude_none=True),
                    "here": {"standing": here.standing_of_snapshot(snapshot)},
                }
                for snapshot in snapshots
            ],
        },
    )


def show_job(job: RestoreJob) -> dict[str, Any]:
    """A job's elements that are present, by the API's names, without anything secret."""
    document = job.model_dump(mode="json", by_alias=True, exclude_none=True)
    delivery = document.get("delivery", {})
    if job.delivery is not None:
        for name, url in (("url", job.delivery.url), ("urlV2", job.delivery.url_v2)):
            if url is not None:
                delivery[name] = display_url(url.get_secret_value())
    document["links"] = [link for link in document.get("links", []) if link.get("href")]
    return {name: value for name, value in document.items() if value not in ([], {}, None)}


def seen_from_here(job: RestoreJob, now: datetime, used: int) -> dict[str, Any]:
    """What is known here about a job's delivery: downloads used and left, seconds left."""
    here: dict[str, Any] = {"downloads_used": used}
    if job.delivery is not None:
        here["downloads_left"] = downloads_left(job.delivery, used)
        if job.delivery.expires is not None:
            here["seconds_left"] = max(0, round((job.delivery.expires - now).total_seconds()))
    return here


def _look_here(console: Console, out_dir: Path) -> Inventory:
    here = take_inventory(out_dir)
    for error in here.damaged:
        console.note("damaged", str(error), level="warning")
    return here


def _job_documents(jobs: Iterable[RestoreJob], now: datetime, here: Inventory) -> list[dict[str, Any]]:
    documents = []
    for job in jobs:
        job_id = job.id or ""
        known = {
            **seen_from_here(job, now, here.downloads_used(job_id)),
            "standing": here.standing(job_id),
            "files": [receipt.file for receipt in here.receipts_of(job_id)],
        }
        documents.append({**show_job(job), "here": known})
    return documents


def _job_table(jobs: Sequence[RestoreJob], now: datetime, here: Inventory) -> str:
    return _table(_JOB_COLUMNS, [_job_row(job, now, here) for job in jobs], "there is none")


def _job_row(job: RestoreJob, now: datetime, here: Inventory) -> tuple[str, ...]:
    job_id = job.id or ""
    known = seen_from_here(job, now, here.downloads_used(job_id))
    left = known.get("seconds_left")
    allowed = job.delivery.max_downloads if job.delivery else None
    of = "" if allowed is None or allowed >= UNLIMITED_DOWNLOADS else f" of {allowed}"
    return (
        job_id,
        _moment(job.created),
        show_status(job),
        _NOTHING if left is None else show_duration(left) if left else "expired",
        f"{known['downloads_used']}{of}",
        here.standing(job_id) or _NOTHING,
        job.snapshot_id or _NOTHING,
        job.batch_id or _NOTHING,
    )


def _snapshot_table(snapshots: Sequence[Snapshot], here: Inventory) -> str:
    rows = [
        (
            snapshot.id or _NOTHING,
            _moment(snapshot.created),
            "in the making" if snapshot.complete is False else "complete",
            _moment(snapshot.expires),
            str(len(snapshot.parts) or _NOTHING),
            here.standing_of_snapshot(snapshot) or _NOTHING,
        )
        for snapshot in snapshots
    ]
    return _table(_SNAPSHOT_COLUMNS, rows, "there is none")


def _moment(moment: datetime | None) -> str:
    return _NOTHING if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}Z"


def _table(columns: tuple[str, ...], rows: Collection[tuple[str, ...]], none: str) -> str:
    """Columns as wide as they need to be; a line end in a value makes no row of its own."""
    if not rows:
        return none
    shown = [columns, *(tuple(plain(cell) for cell in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown
    )
