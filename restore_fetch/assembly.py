"""The working parts of a run, put together: for the command line, for batches, and for workers elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from random import random

from restore_fetch import __version__
from restore_fetch.clock import Clock, SystemClock
from restore_fetch.delivery import DeliveryClient
from restore_fetch.delivery.guards import RateLimit
from restore_fetch.network import tls_context
from restore_fetch.observer import Observer
from restore_fetch.restore_service import RestoreService
from restore_fetch.service import open_service
from restore_fetch.settings import Connection, FetchOptions
from restore_fetch.workflow import RestoreFetcher

TOOL = f"restore-fetch {__version__}"
USER_AGENT = f"restore-fetch/{__version__}"


def open_deliveries(connection: Connection, options: FetchOptions) -> DeliveryClient:
    """The client for archives that a connection describes.

    Raises:
        ConfigurationError: The certificates to trust cannot be used.
    """
    return DeliveryClient(
        tls_context(connection.ca_file),
        allow_http=connection.allow_http,
        user_agent=USER_AGENT,
        head_seconds=options.stall_seconds,
    )


@contextlib.contextmanager
def open_fetcher(connection: Connection, options: FetchOptions, observer: Observer) -> Iterator[RestoreFetcher]:
    """A fetcher of single jobs, with connections of its own.

    Raises:
        ConfigurationError: The certificates to trust, or a proxy of the environment, cannot be used.
    """
    clock = SystemClock()
    deliveries = open_deliveries(connection, options)
    wait_seconds = options.wait_seconds
    with open_service(connection, clock=clock, user_agent=USER_AGENT, wait_seconds=wait_seconds) as service:
        yield RestoreFetcher(service, deliveries, options, observer=observer, clock=clock, random=random, tool=TOOL)


class FetcherFactory:
    """Makes fetchers that work at the same time: they share the deliveries' client and the limit of the rate.

    Args:
        connection: How to reach the deliveries.
        options: How each job is fetched.

    Raises:
        ConfigurationError: The certificates to trust cannot be used.
    """

    def __init__(self, connection: Connection, options: FetchOptions) -> None:
        self._deliveries = open_deliveries(connection, options)
        self._options = options
        self._limit = RateLimit(options.limit_rate) if options.limit_rate else None

    def make(
        self,
        service: RestoreService,
        *,
        observer: Observer,
        clock: Clock,
        cancelled: Callable[[], bool],
        turn: Callable[[], contextlib.AbstractContextManager[float]],
    ) -> RestoreFetcher:
        """A fetcher; see `RestoreFetcher`."""
        return RestoreFetcher(
            service,
            self._deliveries,
            self._options,
            observer=observer,
            clock=clock,
            random=random,
            tool=TOOL,
            cancelled=cancelled,
            limit=self._limit,
            turn=turn,
        )
