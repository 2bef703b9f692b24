"""One run's working parts, put together for the commands that fetch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from restore_fetch import assembly
from restore_fetch.assembly import TOOL, USER_AGENT
from restore_fetch.cli.console import Console
from restore_fetch.cli.progress import Progress
from restore_fetch.clock import SystemClock
from restore_fetch.service import LegacyRestoreService, open_service
from restore_fetch.settings import Connection, FetchOptions
from restore_fetch.workflow import Fetched, RestoreFetcher

__all__ = ["TOOL", "USER_AGENT", "open_api", "open_fetcher", "show_fetched"]


@contextlib.contextmanager
def open_fetcher(connection: Connection, options: FetchOptions, console: Console) -> Iterator[RestoreFetcher]:
    """A fetcher that shows on a console what it does.

    Raises:
        ConfigurationError: The certificates to trust, or a proxy of the environment, cannot be used.
    """
    with Progress(console) as progress, assembly.open_fetcher(connection, options, progress) as fetcher:
        yield fetcher


def open_api(connection: Connection) -> contextlib.AbstractContextManager[LegacyRestoreService]:
    """The service alone, for commands that only look.

    Raises:
        ConfigurationError: The certificates to trust, or a proxy of the environment, cannot be used.
    """
    return open_service(connection, clock=SystemClock(), user_agent=USER_AGENT)


def show_fetched(console: Console, fetched: Fetched) -> None:
    """Write what was fetched to stdout. The archive is in place by now: a broken stdout is worth a warning only."""
    try:
        console.result(str(fetched.path), fetched.receipt.model_dump(mode="json"))
    except OSError as exc:
        console.note("stdout", f"the result cannot be written to stdout: {exc.strerror}", level="warning")
