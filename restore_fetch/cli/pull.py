"""`restore-fetch pull`: from the newest snapshot to verified archives."""

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


@click.command("pull", epilog=epilog(*CODES))
@option("--snapshot-id", metavar="HEX24", help="Pull this snapshot in place of the newest complete one.")
@option("--expiration-hours", type=click.IntRange(1), default=24, metavar="N",
        help="How long the download shall be possible.")  # fmt: skip
@option("--max-downloads", type=click.IntRange(1), default=5, metavar="N",
        help="How often each archive may be downloaded.")  # fmt: skip
@fetching_options
@click.pass_obj
def command(
    console: Console,
    snapshot_id: str | None,
    expiration_hours: int,
    max_downloads: int,
    only: str | None,
    index: int | None,
    parallel: int,
    dask: str | None,
    connect: Callable[[], Connection],
    options: Callable[[], FetchOptions],
) -> None:
    """Find the newest complete snapshot, make its restore job, and fetch what comes of it.

    Nothing is done when that snapshot is here and verified. A job that an interrupted pull made is used, not made
    again. The path of each verified archive is written to stdout.
    """
    from restore_fetch.batch_result import BatchResult
    from restore_fetch.cli.session import open_puller, show_batch, show_fetched
    from restore_fetch.members import Choice
    from restore_fetch.pull import Order
    from restore_fetch.settings import parse_object_id

    order = Order(max_downloads, expiration_hours)
    choice = Choice(only or None, index)
    snapshot = parse_object_id(snapshot_id, "--snapshot-id") if snapshot_id else None
    with open_puller(connect(), options(), order, parallel, console, dask or None) as puller:
        pulled = puller.pull(snapshot, choice)
    if isinstance(pulled, BatchResult):
        show_batch(console, pulled)
    else:
        show_fetched(console, pulled)
