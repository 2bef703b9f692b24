"""Service accounts: OAuth 2.0 client credentials (RFC 6749, section 4.4), with their failures made ours.

Source: "Service Accounts" of the Atlas Administration API: `POST /api/oauth/token` with HTTP Basic, and a bearer
token that is good for an hour.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import httpx

from restore_fetch.clock import Clock
from restore_fetch.errors import ApiError, AuthenticationError, ServiceUnavailableError
from restore_fetch.redaction import Secret, plain, remember
from restore_fetch.rules import retry_after_seconds
from restore_fetch.service.auth import keep_small
from restore_fetch.service.client import date_of, is_worth_another_try, parse_object, read_error_body

TOKEN_PATH = "/api/oauth/token"  # noqa: S105 - a path
_DEFAULT_SECONDS = 3600.0
_LONGEST_SECONDS = 86400.0
_MARGIN_SECONDS = 60.0
_MARGIN_PART = 0.25
_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}\Z")
_LONGEST_REASON = 300


@dataclass(frozen=True)
class _Token:
    value: Secret
    renew_at: float


class ServiceAccount(httpx.Auth):
    """Asks for a token, sends it with every request, and renews it before it ends.

    The token stays in memory, and neither it nor the secret goes to another origin. A token that the service
    refuses all the same (it was revoked, or the clocks are at odds) is renewed once for the request; the second
    refusal stands. May be used from several threads: they share the token.

    Args:
        client_id: The service account.
        client_secret: Its secret.
        origin: The only origin that hears of either.
        clock: The time.

    Raises:
        AuthenticationError: From the request that carries it, when the service refuses the account.
        ServiceUnavailableError: Likewise, when no token can be had now.
        ApiError: Likewise, when the answer is one that cannot be used.
    """

    def __init__(self, client_id: str, client_secret: Secret, *, origin: str, clock: Clock) -> None:
        pair = f"{client_id}:{client_secret.reveal()}"
        remember(pair)
        self._basic = Secret(base64.b64encode(pair.encode()).decode("ascii"))
        self._token_url = httpx.URL(origin).join(TOKEN_PATH)
        self._clock = clock
        self._lock = threading.Lock()
        self._token: _Token | None = None

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Get a token if there is none that is fresh, and send the request with it (see `httpx.Auth`)."""
        if _origin(request.url) != _origin(self._token_url):
            raise ApiError("a request to another origin does not get the token of the service account")
        used = yield from self._fresh_token(request, refused=None)
        request.headers["Authorization"] = f"Bearer {used.value.reveal()}"
        response = yield request
        if response.status_code != httpx.codes.UNAUTHORIZED:
            return
        keep_small(response, self._clock)
        renewed = yield from self._fresh_token(request, refused=used)
        request.headers["Authorization"] = f"Bearer {renewed.value.reveal()}"
        yield request

    def _fresh_token(
        self, request: httpx.Request, *, refused: _Token | None
    ) -> Generator[httpx.Request, httpx.Response, _Token]:
        """The token in use, or a new one when it is about to end or was refused; one thread at a time asks."""
        with self._lock:
            token = self._token
            if token is None or token is refused or self._clock.monotonic() >= token.renew_at:
                asked_at = self._clock.monotonic()
                response = yield self._order(request)
                token = self._token = self._read(response, asked_at)
            return token

    def _order(self, request: httpx.Request) -> httpx.Request:
        headers = {
            "Authorization": f"Basic {self._basic.reveal()}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": request.headers.get("User-Agent", ""),
        }
        # The extensions carry the client's timeouts: a request of one's own making has none.
        return httpx.Request(
            "POST",
            self._token_url,
            headers=headers,
            data={"grant_type": "client_credentials"},
            extensions=dict(request.extensions),
        )

    def _read(self, response: httpx.Response, asked_at: float) -> _Token:
        keep_small(response, self._clock)
        content = response.read()
        if response.status_code != httpx.codes.OK:
            raise self._refusal(response, content)
        document = parse_object(content)
        value = document.get("access_token")
        kind = document.get("token_type", "Bearer")
        if not isinstance(value, str) or not _TOKEN.match(value) or str(kind).lower() != "bearer":
            raise ServiceUnavailableError("the service answered with something that is not a bearer token")
        seconds = _lifetime(document)
        return _Token(Secret(value), asked_at + seconds - min(_MARGIN_SECONDS, seconds * _MARGIN_PART))

    def _refusal(self, response: httpx.Response, content: bytes) -> ApiError:
        """The error that a status other than 200 stands for; 400 and 401 are about the account (RFC 6749, 5.2)."""
        status = response.status_code
        error_code, said = _reason(content)
        shown = f"{status} {error_code or ''}".strip() + (f": {said}" if said else "")
        if status in (httpx.codes.BAD_REQUEST, httpx.codes.UNAUTHORIZED):
            return AuthenticationError(
                f"the service refuses the service account ({shown})",
                status=status,
                error_code=error_code,
                next_step="check the client id and the client secret, and whether the secret has expired",
            )
        if status == httpx.codes.FORBIDDEN:
            return AuthenticationError(
                f"the service account is not allowed to do this ({shown})",
                status=status,
                error_code=error_code,
                next_step="check the account's role in the project and the service's IP access list",
            )
        if is_worth_another_try(status):
            return ServiceUnavailableError(
                f"the service cannot give a token now ({shown})",
                status=status,
                error_code=error_code,
                retry_after_seconds=retry_after_seconds(
                    response.headers.get("Retry-After"), date_of(response, self._clock)
                ),
            )
        return ApiError(
            f"the service gives no tokens at {TOKEN_PATH} ({shown})",
            status=status,
            error_code=error_code,
            next_step="check --base-url; only Atlas knows service accounts",
        )


def _lifetime(document: dict[str, Any]) -> float:
    """For how many seconds a token is good: `expires_in`, or the documented hour when that makes no sense."""
    seconds = document.get("expires_in")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        return _DEFAULT_SECONDS
    return float(min(seconds, _LONGEST_SECONDS))


def _reason(content: bytes) -> tuple[str | None, str | None]:
    """Code and words of a refusal: the API's own (`errorCode`, `detail`) or those of RFC 6749, section 5.2."""
    error_code, detail = read_error_body(content)
    if error_code or detail:
        return error_code, detail
    try:
        document = parse_object(content)
    except ServiceUnavailableError:
        return None, None
    return _shown(document.get("error")), _shown(document.get("error_description"))


def _shown(value: object) -> str | None:
    return plain(value[:_LONGEST_REASON]) if isinstance(value, str) and value else None


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
