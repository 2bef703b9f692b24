"""One run's working parts, put together for the commands that fetch."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

from restore_fetch import __version__
from restore_fetch.cli.console import Console
from restore_fetch.cli.progress import Progress
from restore_fetch.clock import SystemClock
from restore_fetch.delivery import DeliveryClient
from restore_fetch.network import tls_context
from restore_fetch.service import LegacyRestoreService, open_service
from restore_fetch.settings import Connection, FetchOptions
from restore_fetch.workflow import Fetched, RestoreFetcher

TOOL = f"restore-fetch {__version__}"
USER_AGENT = f"restore-fetch/{__version__}"


@contextlib.contextmanager
def open_fetcher(connection: Connection, options: FetchOptions, console: Console) -> Iterator[RestoreFetcher]:
    """A fetcher that shows on a console what it does.

    Raises:
        ConfigurationError: The certificates to trust, or a proxy of the environment, cannot be used.
    """
    clock = SystemClock()
    tls = tls_context(connection.ca_file)
    deliveries = DeliveryClient(
        tls, allow_http=connection.allow_http, user_agent=USER_AGENT, head_seconds=options.stall_seconds
    )
    with open_service(connection, clock=clock, user_agent=USER_AGENT) as service, Progress(console) as progress:
        yield RestoreFetcher(
            service,
            deliveries,
            options,
            observer=progress,
            clock=clock,
            random=random.random,
            tool=TOOL,
        )


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
