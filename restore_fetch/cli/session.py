"""One run's working parts, put together for the commands that fetch.

What only batches, pulls or Dask need is imported when there is one: most runs are of one job.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from restore_fetch import assembly, receipts
from restore_fetch.assembly import USER_AGENT
from restore_fetch.cli.console import Console
from restore_fetch.cli.progress import BatchProgress, Progress
from restore_fetch.clock import SystemClock
from restore_fetch.notify import Archive
from restore_fetch.service import Service, open_service
from restore_fetch.settings import Connection, FetchOptions
from restore_fetch.workflow import Fetched, RestoreFetcher

if TYPE_CHECKING:
    from restore_fetch.batch import BatchFetcher
    from restore_fetch.batch_result import BatchResult
    from restore_fetch.dask_workers import DaskWorkers
    from restore_fetch.pull import Order, Puller

# A worker that takes over from one that died waits for the system to notice, and give its lock free.
_TAKE_OVER_SECONDS = 60.0


@contextlib.contextmanager
def open_fetcher(connection: Connection, options: FetchOptions, console: Console) -> Iterator[RestoreFetcher]:
    """A fetcher that shows on a console what it does.

    Raises:
        ConfigurationError: The certificates to trust, or a proxy of the environment, cannot be used.
    """
    with Progress(console) as progress, assembly.open_fetcher(connection, options, progress) as fetcher:
        yield fetcher


@contextlib.contextmanager
def open_batch_fetcher(
    connection: Connection, options: FetchOptions, parallel: int, console: Console, dask: str | None = None
) -> Iterator[BatchFetcher]:
    """A fetcher of batches that shows on a console what it does.

    Args:
        connection: How to reach the service.
        options: How each job is fetched.
        parallel: How many jobs this process fetches at once.
        console: Where it is shown.
        dask: The scheduler of the Dask cluster whose workers do it in place of this process.

    Raises:
        ConfigurationError: The certificates to trust, a proxy of the environment, or Dask cannot be used.
    """
    from restore_fetch.batch import batch_fetcher

    workers = None if dask is None else _workers(dask, console)
    elsewhere, shared = (connection, options) if dask is None else _for_workers(connection, options)
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(open_api(connection, options))
        progress = stack.enter_context(BatchProgress(console))
        connect = stack.enter_context(workers).connect if workers is not None else None
        yield batch_fetcher(service, elsewhere, shared, parallel=parallel, observer=progress, workers=connect)


def _workers(address: str, console: Console) -> DaskWorkers:
    from restore_fetch.dask_workers import DaskWorkers

    return DaskWorkers(address, lambda count: _tell_workers(console, count))


def _for_workers(connection: Connection, options: FetchOptions) -> tuple[Connection, FetchOptions]:
    """The same for other machines: without the secret, and with paths that do not depend on where a worker runs.

    Raises:
        ConfigurationError: The secret is in no place where workers could read it.
    """
    lock_wait = max(options.lock_wait_seconds, _TAKE_OVER_SECONDS)
    return connection.without_secret(), replace(
        options, out_dir=options.out_dir.absolute(), lock_wait_seconds=lock_wait
    )


def _tell_workers(console: Console, count: int) -> None:
    if count:
        console.note("workers", f"the Dask cluster has {count} worker{'s' if count > 1 else ''}")
    else:
        console.note("workers", "the Dask cluster has no worker yet: the jobs wait for one", level="warning")


@contextlib.contextmanager
def open_puller(
    connection: Connection,
    options: FetchOptions,
    order: Order,
    parallel: int,
    console: Console,
    dask: str | None = None,
) -> Iterator[Puller]:
    """A puller that shows on a console what it does; for `parallel` and `dask` see `open_batch_fetcher`.

    Raises:
        ConfigurationError: The certificates to trust, a proxy of the environment, or Dask cannot be used.
    """
    from restore_fetch.pull import Fetchers, Puller

    if dask is not None:  # before a job is made for it
        _workers(dask, console)
        connection.without_secret()
    fetchers = Fetchers(
        one=lambda: open_fetcher(connection, options, console),
        batch=lambda: open_batch_fetcher(connection, options, parallel, console, dask),
    )
    with open_api(connection, options) as service, Progress(console) as progress:
        yield Puller(
            service, options, order, fetchers, observer=progress, clock=SystemClock(), random=random.random
        )


def open_api(
    connection: Connection, options: FetchOptions | None = None
) -> contextlib.AbstractContextManager[Service]:
    """The service alone, for commands that only look; with options, for one that waits as long as they say.

    Raises:
        ConfigurationError: The certificates to trust, or a proxy of the environment, cannot be used.
    """
    wait_seconds = options.wait_seconds if options else math.inf
    return open_service(connection, clock=SystemClock(), user_agent=USER_AGENT, wait_seconds=wait_seconds)


def show_fetched(console: Console, fetched: Fetched) -> None:
    """Write what was fetched to stdout. The archive is in place by now: a broken stdout is worth a warning only."""
    _keep(console, fetched)
    _show(console, str(fetched.path), fetched.receipt.model_dump(mode="json"))


def show_batch(console: Console, result: BatchResult) -> None:
    """Write what is here of a batch to stdout, and then say what is not.

    Raises:
        RestoreFetchError: See `BatchResult.require_all`.
    """
    for fetched in result.fetched:
        _keep(console, fetched)
    if result.receipt is not None and result.fetched:
        console.receipt = receipts.batch_receipt_path(result.fetched[0].path.parent, result.batch_id)
    if result.fetched:
        documents = [fetched.receipt.model_dump(mode="json") for fetched in result.fetched]
        _show(console, "\n".join(str(fetched.path) for fetched in result.fetched), {"receipts": documents})
    result.require_all()


def _keep(console: Console, fetched: Fetched) -> None:
    """Let those who are told of the run know what it brought."""
    path, receipt = fetched.path, fetched.receipt
    place = receipts.receipt_path(path)
    console.archives.append(Archive(path, receipt.sha1, receipt.bytes, receipt.verdict, place))


def _show(console: Console, text: str, document: Any) -> None:
    try:
        console.result(text, document)
    except OSError as exc:
        console.note("stdout", f"the result cannot be written to stdout: {exc.strerror}", level="warning")
