"""`restore-fetch status`: one look at a job, at a batch, or at everything of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from restore_fetch.cli.console import Console
from restore_fetch.cli.exit_codes import epilog
from restore_fetch.cli.options import OUT_DIR, common_options, connection_options, option

if TYPE_CHECKING:
    from restore_fetch.settings import Connection

CODES = (10, 11, 12, 19, 130, 143)


@click.command("status", epilog=epilog(*CODES))
@click.argument("job_id", required=False)
@option("--batch-id", metavar="HEX24", help="Show every job of this batch.")
@OUT_DIR
@connection_options
@common_options
@click.pass_obj
def command(
    console: Console, job_id: str | None, batch_id: str | None, out_dir: Path, connect: Callable[[], Connection]
) -> None:
    """Show restore job JOB_ID: its state, its delivery, the time and the downloads left, its hashes.

    With --batch-id, a table of the jobs of a batch; with neither, tables of all restore jobs and snapshots of the
    cluster, the newest first. The files in --out-dir tell how many of the downloads allowed were used from here,
    and what is here. Nothing is downloaded.
    """
    if job_id is not None and batch_id:
        raise click.UsageError("JOB_ID and --batch-id exclude each other")
    if job_id is not None:
        _show_one(console, job_id, out_dir, connect)
        return
    from restore_fetch.cli.listing import show_batch, show_cluster

    if batch_id:
        show_batch(console, batch_id, out_dir, connect)
    else:
        show_cluster(console, out_dir, connect)


def _show_one(console: Console, job_id: str, out_dir: Path, connect: Callable[[], Connection]) -> None:
    from restore_fetch.cli.listing import seen_from_here, show_job
    from restore_fetch.cli.session import open_api
    from restore_fetch.settings import parse_object_id
    from restore_fetch.shelf import Shelf

    asked = parse_object_id(job_id, "JOB_ID")
    with open_api(connect()) as service:
        job = service.job(asked)
        now = service.now()
    used = sum(attempt.may_count for attempt in Shelf(out_dir, asked).attempts())
    document = show_job(job)
    here = seen_from_here(job, now, used)
    console.result(_table({**document, "": here}), {**document, "here": here})


def _table(document: Mapping[str, Any]) -> str:
    from restore_fetch.redaction import plain

    rows = [*_rows("", {name: value for name, value in document.items() if name}), *_words(document[""])]
    width = max(len(name) for name, _ in rows)
    # A line end in a value must not make a row of its own.
    return "\n".join(f"{name:<{width}}  {plain(value)}" for name, value in rows)


def _words(here: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from restore_fetch.units import show_duration

    if "seconds_left" in here:
        yield "time left", show_duration(here["seconds_left"]) if here["seconds_left"] else "none: it has expired"
    yield "downloads used from here", str(here["downloads_used"])
    if "downloads_left" in here:
        left = here["downloads_left"]
        yield "downloads left", "without limit" if left is None else str(left)


def _rows(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, element in value.items():
            yield from _rows(f"{prefix}.{name}" if prefix else name, element)
    elif isinstance(value, list):
        for number, element in enumerate(value):
            yield from _rows(f"{prefix}[{number}]", element)
    else:
        yield prefix, {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
