"""A deadline for a whole request: its connection, its challenge and the answer to that, the head and the body.

httpx bounds each read on its own, so that a head which comes a byte at a time is waited for without end. The place
where every byte of every request passes, and where nothing else need be known of it, is the network backend of
httpcore; what it gives to read and write is bounded here by what is left of the time.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore
import httpx

from restore_fetch.clock import Clock
from restore_fetch.errors import ServiceUnavailableError


class Deadline:
    """Until when the request of this thread must be over.

    Args:
        clock: The time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._mine = threading.local()

    @contextlib.contextmanager
    def of(self, seconds: float) -> Iterator[None]:
        """Bound everything that this thread sends and receives meanwhile.

        Args:
            seconds: How long it may take in all.
        """
        self._mine.seconds, self._mine.at = seconds, self._clock.monotonic() + seconds
        try:
            yield
        finally:
            del self._mine.at

    def left(self, timeout: float | None = None) -> float | None:
        """The smaller of a time limit and what is left, in seconds; None is no limit.

        Raises:
            ServiceUnavailableError: Nothing is left.
        """
        at = getattr(self._mine, "at", None)
        if at is None:
            return timeout
        left: float = at - self._clock.monotonic()
        if left <= 0:
            raise ServiceUnavailableError(f"the service's answer takes longer than {self._mine.seconds:.0f} s")
        return left if timeout is None else min(left, timeout)

    def bind(self, client: httpx.Client) -> None:
        """Hold every connection that a client makes from now on to this deadline, through a proxy or not.

        httpx offers no public way to name the backend. Where a later one keeps it elsewhere, nothing breaks: each
        read stays bounded alone, as httpx does it, and the body as a whole, by who reads it.
        """
        for transport in (getattr(client, "_transport", None), *getattr(client, "_mounts", {}).values()):
            pool = getattr(transport, "_pool", None)
            backend = getattr(pool, "_network_backend", None)
            if pool is not None and isinstance(backend, httpcore.NetworkBackend):
                pool._network_backend = _Backend(backend, self)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, inner: httpcore.NetworkBackend, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._inner.connect_tcp(
            host, port, self._deadline.left(timeout), local_address=local_address, socket_options=socket_options
        )
        return _Stream(stream, self._deadline)

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return self._inner.read(max_bytes, self._deadline.left(timeout))
        except httpcore.TimeoutException:
            self._deadline.left()  # which knows the better word when it was its time that was up
            raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._deadline.left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        inner = self._inner.start_tls(ssl_context, server_hostname, self._deadline.left(timeout))
        return _Stream(inner, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
