"""`restore-fetch fetch JOB_ID`: the main job."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from restore_fetch.cli.console import Console
from restore_fetch.cli.exit_codes import epilog
from restore_fetch.cli.options import common_options, connection_options, fetch_options

if TYPE_CHECKING:
    from restore_fetch.settings import Connection, FetchOptions

CODES = (10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 130, 143)


@click.command("fetch", epilog=epilog(*CODES))
@click.argument("job_id")
@connection_options
@fetch_options
@common_options
@click.pass_obj
def command(
    console: Console, job_id: str, connect: Callable[[], Connection], options: Callable[[], FetchOptions]
) -> None:
    """Wait for restore job JOB_ID, download its archive, verify and publish it.

    The path of the verified archive is written to stdout. Running the same command again is always safe: what
    is verified is not downloaded again, what broke off goes on where the delivery allows it.
    """
    from restore_fetch.cli.session import open_fetcher, show_fetched
    from restore_fetch.settings import parse_object_id

    job = parse_object_id(job_id, "JOB_ID")
    with open_fetcher(connect(), options(), console) as fetcher:
        show_fetched(console, fetcher.fetch(job))
