"""The workers of a Dask cluster that somebody else runs, as an executor; needs the extra `dask`.

Dask is imported only when a scheduler is connected to. Certificates for `tls://`, and how long to wait for a
scheduler, come from Dask's own configuration.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, InvalidStateError
from ssl import SSLError
from types import TracebackType
from typing import Any, Self

from restore_fetch.errors import ConfigurationError, RestoreFetchError, ServiceUnavailableError

_ADDRESS = re.compile(r"(?:tcp|tls)://[^\s/@]+:[0-9]{1,5}\Z")
_LOGGERS = re.compile(r"(?:distributed|tornado|asyncio|bokeh)(?:\.|\Z)")
_CLOSE_SECONDS = 1.0
_AGAIN = "run the same command again: it does only what is missing"


class DaskWorkers(Executor):
    """Workers that are connected to when they are needed, and left running at the end.

    Args:
        address: The scheduler, as `tcp://HOST:PORT` or `tls://HOST:PORT`.
        on_connect: Called with the number of workers there are.

    Raises:
        ConfigurationError: The extra is not installed, or the address is none.
    """

    def __init__(self, address: str, on_connect: Callable[[int], None] = lambda _: None) -> None:
        if not _ADDRESS.match(address):
            raise ConfigurationError("--dask must be like tcp://scheduler.example.net:8786, or tls://...")
        if importlib.util.find_spec("distributed") is None:
            raise ConfigurationError(
                "--dask needs the extra dask, which is not installed",
                next_step='install it: pip install "restore-fetch[dask]"',
            )
        self._address = address
        self._on_connect = on_connect
        self._client: Any = None
        self._executor: Any = None

    def connect(self) -> Executor:
        """Connect to the scheduler, once.

        Raises:
            ConfigurationError: Dask's certificates are missing or cannot be used, or what answers is no scheduler.
            ServiceUnavailableError: The scheduler cannot be reached in the time that Dask is configured to wait.
        """
        if self._executor is None:
            self._client = _client(self._address)
            self._executor = self._client.get_executor(pure=False)
            self._on_connect(len(self._client.scheduler_info(n_workers=-1)["workers"]))
        return self

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `Executor.submit`. A worker that dies is replaced by another as often as Dask is configured to."""
        self.connect()
        theirs: Future[Any] = self._executor.submit(fn, *args, **kwargs)
        ours: Future[Any] = Future()
        theirs.add_done_callback(lambda done: _pass_on(done, ours))
        return ours

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster. What has not been begun there is forgotten; what has been comes to its end."""
        client, self._client, self._executor = self._client, None, None
        if client is not None:
            with _quiet():
                client.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        self.shutdown()


def _client(address: str) -> Any:
    try:
        with _quiet():
            import distributed

            _silence()
            return _bounded(distributed.Client)(address, set_as_default=False)
    except (FileNotFoundError, IsADirectoryError, PermissionError, SSLError) as exc:
        raise ConfigurationError(
            f"a certificate or key in Dask's own configuration cannot be used: {exc.strerror or exc}",
            next_step="check distributed.comm.tls there",
        ) from exc
    except OSError as exc:
        raise ServiceUnavailableError(
            f"the Dask scheduler at {address} cannot be reached ({type(exc).__name__})",
            files="nothing was begun",
            next_step="check --dask, and that the scheduler runs",
        ) from exc
    except Exception as exc:
        raise ConfigurationError(
            f"Dask cannot connect to {address}: {' '.join(str(exc).split()) or type(exc).__name__}",
            next_step="check --dask, and the certificates in Dask's own configuration",
        ) from exc


def _bounded(client: Any) -> Any:
    """Dask's client, but one that comes to an end: Dask's own waits without limit for a peer that says nothing.

    And one that could not begin, or whose scheduler is gone, closes itself once more when the process ends, for as
    long as two timeouts.
    """
    import asyncio

    class Bounded(client):  # type: ignore[misc]
        async def _start(self, **options: Any) -> Any:
            return await asyncio.wait_for(super()._start(**options), self._timeout)

        def start(self, **options: Any) -> None:
            try:
                super().start(**options)
            except BaseException:
                self.leave()
                raise

        def leave(self) -> None:
            try:
                with contextlib.suppress(Exception):
                    self.close(timeout=_CLOSE_SECONDS)
            finally:
                self.status = "closed"

    return Bounded


def _pass_on(theirs: Future[Any], ours: Future[Any]) -> None:
    with contextlib.suppress(InvalidStateError):  # nobody waits for it any more
        error = CancelledError() if theirs.cancelled() else theirs.exception()
        if error is None:
            ours.set_result(theirs.result())
        else:
            ours.set_exception(_translated(error))


def _translated(error: BaseException) -> BaseException:
    """Dask's own errors in the words of this package; any other is as it was."""
    if isinstance(error, RestoreFetchError):
        return error
    found: RestoreFetchError
    if isinstance(error, CancelledError):
        found = ServiceUnavailableError("the Dask scheduler was lost during the run", next_step=_AGAIN)
    elif type(error).__name__ == "KilledWorker":
        found = ServiceUnavailableError("each Dask worker that tried died on it", next_step=_AGAIN)
    elif isinstance(error, ImportError) or "deserializ" in str(error):
        found = ConfigurationError(
            f"the Dask cluster cannot run this program ({type(error).__name__})",
            next_step="install the same version of it on the scheduler and on every worker",
        )
    else:
        return error
    found.__cause__ = error
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings, as of versions that differ: stderr has lines of this program alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _silence() -> None:
    """Take away the handlers by which Dask writes to stderr, where only lines of this program belong."""
    for name in [name for name in logging.root.manager.loggerDict if _LOGGERS.match(name)]:
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False
