"""`restore-fetch fetch`: the main job, for one restore job or for a whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from restore_fetch.cli.console import Console
from restore_fetch.cli.exit_codes import epilog
from restore_fetch.cli.fetching import CODES, fetching_options
from restore_fetch.cli.options import option

if TYPE_CHECKING:
    from restore_fetch.settings import Connection, FetchOptions


@click.command("fetch", epilog=epilog(*CODES))
@click.argument("job_id", required=False)
@option("--batch-id", metavar="HEX24", help="Fetch every job of this batch, in place of JOB_ID.")
@fetching_options
@click.pass_obj
def command(
    console: Console,
    job_id: str | None,
    batch_id: str | None,
    only: str | None,
    index: int | None,
    parallel: int,
    dask: str | None,
    connect: Callable[[], Connection],
    options: Callable[[], FetchOptions],
) -> None:
    """Wait for restore job JOB_ID, download its archive, verify and publish it; or for every job of --batch-id.

    The path of each verified archive is written to stdout. Running the same command again is always safe: what
    is verified is not downloaded again, what broke off goes on where the delivery allows it.
    """
    from restore_fetch.cli.session import open_batch_fetcher, open_fetcher, show_batch, show_fetched
    from restore_fetch.errors import SeveralFilesError
    from restore_fetch.members import Choice
    from restore_fetch.settings import parse_object_id

    choice = Choice(only or None, index)
    if batch_id and job_id is not None:
        raise click.UsageError("JOB_ID and --batch-id exclude each other")
    if batch_id:
        batch = parse_object_id(batch_id, "--batch-id")
        with open_batch_fetcher(connect(), options(), parallel, console, dask or None) as fetcher:
            result = fetcher.fetch(batch, choice=choice)
        show_batch(console, result)
        return
    if choice != Choice():
        raise click.UsageError("--only and --index choose among the jobs of --batch-id")
    if job_id is None:
        raise click.UsageError("Missing argument 'JOB_ID', or --batch-id")
    job = parse_object_id(job_id, "JOB_ID")
    connection, fetching = connect(), options()
    try:
        with open_fetcher(connection, fetching, console) as one:
            show_fetched(console, one.fetch(job))
    except SeveralFilesError as exc:
        console.note("batch", f"{exc.what}: they are fetched as a batch")
        with open_batch_fetcher(connection, fetching, parallel, console, dask or None) as fetcher:
            result = fetcher.fetch(exc.batch_id)
        show_batch(console, result)
