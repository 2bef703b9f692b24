"""What the commands that download have in common: their options, in one order, and their exit codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from restore_fetch.cli.options import apply, common_options, connection_options, fetch_options, option
from restore_fetch.cli.unattended import unattended_options

_F = TypeVar("_F", bound=Callable[..., Any])
CODES = (10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 130, 143)

_BATCH = (
    option("--only", metavar="GLOB", help="Only jobs of the batch whose delivered file is called so."),
    option("--index", type=click.IntRange(0), metavar="I",
           help="Only this job of the batch, counted from 0 in the order of job ids."),
    option("--parallel", type=click.IntRange(1, 1000), default=2, metavar="N",
           help="How many jobs of a batch are downloaded at once."),
    option("--dask", metavar="ADDRESS",
           help="Let workers of this Dask scheduler fetch the jobs of a batch: tcp://HOST:PORT."),
)  # fmt: skip


def fetching_options(command: _F) -> _F:
    """How one job or a batch is fetched.

    The command gets `only`, `index`, `parallel`, `dask`, and the two functions `connect` and `options` (see
    `connection_options` and `fetch_options`).
    """
    groups = (unattended_options, connection_options, fetch_options, common_options)
    return apply(command, *_BATCH, *groups)
