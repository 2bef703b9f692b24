"""The HTTP client of the API: it knows the key, and talks to the API's origin only."""

from __future__ import annotations

import contextlib
import email.utils
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, Self

import httpx

from restore_fetch import network
from restore_fetch.clock import Clock
from restore_fetch.errors import (
    ApiError,
    AuthenticationError,
    ConfigurationError,
    NotFoundError,
    ServiceUnavailableError,
)
from restore_fetch.redaction import plain, scrub
from restore_fetch.rules import retry_after_seconds
from restore_fetch.service.deadline import Deadline

ONE_DOCUMENT_BYTES = 1024 * 1024
ONE_LIST_BYTES = 16 * 1024 * 1024
_TIMEOUT_SECONDS = 30.0
_LONGEST_REQUEST_SECONDS = 120.0
_WORTH_ANOTHER_TRY = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_DETAIL = 300
_PLAUSIBLE_YEARS = range(2000, 3000)


@dataclass(frozen=True)
class Answer:
    """A JSON object from the service, with the time it was given, by the service's clock, and its size."""

    document: dict[str, Any]
    date: datetime
    size_bytes: int


class ApiClient:
    """Asks one origin for JSON documents, within bounds of time and size, and turns every failure into our errors.

    Redirects are not followed, so that credentials never leave the origin, and cookies are not kept, so that one
    answer cannot spoil the next request. Answers are asked for uncompressed, so that their size is what was
    received.

    Args:
        origin: Scheme, host and port.
        auth: How requests are authenticated.
        tls: Whom to trust.
        clock: The time, where the service does not tell it.
        user_agent: What the client calls itself.
        wait_seconds: How long the run waits for the service in all. No single request gets more, unless that is
            less than half a minute.
        transport: Another transport, for tests.
    """

    def __init__(
        self,
        origin: str,
        auth: httpx.Auth,
        *,
        tls: Any,
        clock: Clock,
        user_agent: str,
        wait_seconds: float = math.inf,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._origin = origin
        self._clock = clock
        self._deadline = Deadline(clock)
        self._request_seconds = min(_LONGEST_REQUEST_SECONDS, max(_TIMEOUT_SECONDS, wait_seconds))
        network.remember_proxy_passwords()
        try:
            base_url = httpx.URL(origin)
        except httpx.InvalidURL as exc:
            raise ConfigurationError("the address of the service is no URL", next_step="check --base-url") from exc
        try:
            self._http = httpx.Client(
                base_url=base_url,
                auth=auth,
                verify=tls,
                timeout=_TIMEOUT_SECONDS,
                follow_redirects=False,
                event_hooks={"response": [_forget_target]},
                cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
                headers={"Accept-Encoding": "identity", "User-Agent": user_agent},
                transport=transport,
            )
        except (ValueError, ImportError, httpx.InvalidURL) as exc:
            raise ConfigurationError(
                "a proxy named in the environment cannot be used",
                next_step="check HTTPS_PROXY and HTTP_PROXY",
            ) from exc
        self._deadline.bind(self._http)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(
        self,
        path: str,
        *,
        accept: str,
        params: Mapping[str, str] | None = None,
        max_bytes: int = ONE_DOCUMENT_BYTES,
    ) -> Answer:
        """Ask for a document.

        Args:
            path: The path below the origin, percent-encoded.
            accept: The media type asked for.
            params: Query parameters.
            max_bytes: The largest answer accepted.

        Returns:
            The JSON object and when it was given.

        Raises:
            AuthenticationError: 401 or 403.
            NotFoundError: 404 or 410.
            ServiceUnavailableError: No answer, an overloaded or failing service, or no JSON object.
            ConfigurationError: The service's certificate is not trusted.
            ApiError: Any other answer that cannot be used.
        """
        return self._ask("GET", path, accept=accept, params=params, max_bytes=max_bytes)

    def post(self, path: str, *, accept: str, body: Mapping[str, Any], max_bytes: int = ONE_LIST_BYTES) -> Answer:
        """Ask for something to be made. It is sent once: whether it was made is unknown when no answer comes.

        Args:
            path: The path below the origin, percent-encoded.
            accept: The media type asked for.
            body: The JSON object to send.
            max_bytes: The largest answer accepted.

        Returns:
            The JSON object and when it was given.

        Raises:
            ApiError, ConfigurationError: As `get`.
        """
        return self._ask("POST", path, accept=accept, params=None, max_bytes=max_bytes, body=body)

    def _ask(
        self,
        method: str,
        path: str,
        *,
        accept: str,
        params: Mapping[str, str] | None,
        max_bytes: int,
        body: Mapping[str, Any] | None = None,
    ) -> Answer:
        try:
            request = self._http.build_request(method, path, params=params, json=body, headers={"Accept": accept})
            with self._deadline.of(self._request_seconds), contextlib.closing(self._send(request)) as response:
                date = self._date(response)
                content = self._content(response, max_bytes)
        except (httpx.InvalidURL, UnicodeError) as exc:
            raise ConfigurationError(
                "the service's address, with the project, cluster and job, makes no valid URL",
                next_step="check --base-url, --project-id, --cluster and the job id",
            ) from exc
        except (httpx.HTTPError, httpx.StreamError) as exc:
            raise self._unreachable(exc) from exc
        if response.status_code == httpx.codes.OK or response.status_code == httpx.codes.CREATED:
            return Answer(parse_object(content), date, len(content))
        raise _refusal(response, content, date)

    def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            return self._http.send(request, stream=True)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            if request.method != "GET":
                raise
            # The service may close a kept connection just as it is used again (RFC 9112, section 9.3.1): that is
            # no outage, and a look that may be the only one allowed is not lost to it.
            return self._http.send(request, stream=True)

    def _date(self, response: httpx.Response) -> datetime:
        return date_of(response, self._clock)

    def _content(self, response: httpx.Response, max_bytes: int) -> bytes:
        try:
            return self._read(response, max_bytes)
        except (httpx.HTTPError, ServiceUnavailableError):
            if response.is_success:
                raise
            return b""  # the status says enough

    def _read(self, response: httpx.Response, max_bytes: int) -> bytes:
        if response.headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
            raise ServiceUnavailableError("the service answers in a content encoding it was not asked for")
        content = bytearray()
        for chunk in response.iter_raw():
            content += chunk
            if len(content) > max_bytes:
                raise ServiceUnavailableError(f"the service's answer is larger than {max_bytes} bytes")
            self._deadline.left()
        return bytes(content)

    def _unreachable(self, exc: Exception) -> ApiError | ConfigurationError:
        if reason := network.distrust(self._origin, exc):
            return ConfigurationError(reason, next_step=network.DISTRUST_NEXT_STEP)
        reason = plain(str(exc)) or type(exc).__name__
        return ServiceUnavailableError(
            f"{self._origin} cannot be reached: {reason}",
            next_step="check --base-url, the network and any proxy",
        )


def date_of(response: httpx.Response, clock: Clock) -> datetime:
    """When an answer was given, by the service's clock; by the local one when it does not tell."""
    try:
        date = email.utils.parsedate_to_datetime(response.headers.get("Date", ""))
        date = date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return clock.now()
    return date if date.year in _PLAUSIBLE_YEARS else clock.now()


def is_worth_another_try(status: int) -> bool:
    """Whether a status means that the service cannot answer now, but may later."""
    return status in _WORTH_ANOTHER_TRY or status > httpx.codes.GATEWAY_TIMEOUT


def _forget_target(response: httpx.Response) -> None:
    """Forget where an answer redirects to: httpx prepares that request even unasked, and trips over a bad one."""
    response.headers.pop("location", None)


def _refusal(response: httpx.Response, content: bytes, date: datetime) -> ApiError:
    """The error that a status other than 200 stands for; the status decides, never the service's error code."""
    status = response.status_code
    error_code, detail = read_error_body(content)
    said = f"{status} {error_code or ''}".strip() + (f": {detail}" if detail else "")
    if status == httpx.codes.UNAUTHORIZED:
        return AuthenticationError(
            f"the service refuses the key ({said})",
            status=status,
            error_code=error_code,
            next_step="check the public and the private key",
        )
    if status == httpx.codes.FORBIDDEN:
        return AuthenticationError(
            f"the key is not allowed to do this ({said})",
            status=status,
            error_code=error_code,
            next_step="check the key's role in the project and the service's IP access list",
        )
    if status in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
        return NotFoundError(
            f"the service does not know it ({said})",
            status=status,
            error_code=error_code,
            next_step="check --project-id, --cluster and the job id",
        )
    if is_worth_another_try(status):
        return ServiceUnavailableError(
            f"the service cannot answer now ({said})",
            status=status,
            error_code=error_code,
            retry_after_seconds=retry_after_seconds(response.headers.get("Retry-After"), date),
        )
    if response.is_success:
        return ServiceUnavailableError(f"the service answered {status} without a document", status=status)
    if response.is_redirect:
        return ApiError(
            f"the service redirects ({status}), which is not followed with credentials",
            status=status,
            next_step="check --base-url",
        )
    return ApiError(f"the service refuses the request ({said})", status=status, error_code=error_code)


def parse_object(content: bytes) -> dict[str, Any]:
    """A JSON object, read with suspicion.

    Raises:
        ServiceUnavailableError: It is no JSON, no object, names an element twice, or is nested without measure.
    """
    try:
        document = json.loads(content, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as exc:
        raise ServiceUnavailableError(
            "the service answered with something that is not the documented JSON"
        ) from exc
    if not isinstance(document, dict):
        raise ServiceUnavailableError("the service answered with JSON that is not an object")
    return document


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("an element is named twice")
    return document


def read_error_body(content: bytes) -> tuple[str | None, str | None]:
    """`errorCode` and `detail` of an error body, as text that may be shown; None for what is not there.

    Gateways answer HTML, and every element may be null: whatever this is, reading it never fails.
    """
    try:
        document = parse_object(content)
    except ServiceUnavailableError:
        return None, None
    texts = []
    for element in ("errorCode", "detail"):
        value = document.get(element)
        texts.append(plain(scrub(value)[:_LONGEST_DETAIL]) if isinstance(value, str) and value else None)
    return texts[0], texts[1]
