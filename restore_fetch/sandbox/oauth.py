"""The server's side of service accounts: OAuth 2.0 client credentials (RFC 6749, section 4.4; RFC 6750)."""

from __future__ import annotations

import base64
import binascii
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any
from urllib.parse import parse_qs

TOKEN_PATH = "/api/oauth/token"  # noqa: S105 - a path


@dataclass(frozen=True)
class TokenAnswer:
    """What the token endpoint says.

    Attributes:
        status: HTTP status.
        document: The body.
    """

    status: int
    document: dict[str, Any]


class TokenGate:
    """Hands out bearer tokens to one service account, and admits whoever has one that is still good."""

    def __init__(
        self, client_id: str, client_secret: str, *, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare the gate.

        Args:
            client_id: The service account.
            client_secret: Its secret.
            seconds: How long a token is good.
            clock: Seconds that only grow.
        """
        self._client_id = client_id
        self._client_secret = client_secret
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._ends: dict[str, float] = {}

    def issue(self, authorization: str | None, body: bytes) -> TokenAnswer:
        """Answer a request for a token.

        Args:
            authorization: Its `Authorization` header, when it has one.
            body: Its body, a form.
        """
        if not self._is_account(authorization):
            return _refusal(401, "invalid_client", "The client id or the client secret is wrong.")
        form = parse_qs(body.decode("latin-1"))
        if form.get("grant_type") != ["client_credentials"]:
            return _refusal(400, "unsupported_grant_type", "The grant type must be client_credentials.")
        token = secrets.token_urlsafe(48)
        with self._lock:
            self._ends[token] = self._clock() + self._seconds
        return TokenAnswer(200, {"access_token": token, "expires_in": int(self._seconds), "token_type": "Bearer"})

    def admits(self, authorization: str) -> bool:
        """Whether an `Authorization` header carries a token that is still good."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return False
        with self._lock:
            return self._clock() < self._ends.get(token.strip(), 0.0)

    def revoke(self) -> None:
        """Let every token end now."""
        with self._lock:
            self._ends = dict.fromkeys(self._ends, 0.0)

    def tokens(self) -> list[str]:
        """Every token handed out, good or not."""
        with self._lock:
            return list(self._ends)

    def _is_account(self, authorization: str | None) -> bool:
        scheme, _, encoded = (authorization or "").partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            pair = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        return compare_digest(pair, f"{self._client_id}:{self._client_secret}".encode())


def _refusal(status: int, error: str, words: str) -> TokenAnswer:
    """A body of RFC 6749, section 5.2."""
    return TokenAnswer(status, {"error": error, "error_description": words})
