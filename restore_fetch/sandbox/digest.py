"""The server's side of HTTP Digest access authentication (RFC 7616)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from urllib.request import parse_http_list, parse_keqv_list

_HASHES: dict[str, Callable[[bytes], str]] = {
    "MD5": lambda text: hashlib.md5(text).hexdigest(),
    "SHA-256": lambda text: hashlib.sha256(text).hexdigest(),
}


class Verdict(Enum):
    """What became of a request's `Authorization`."""

    ADMITTED = "admitted"
    STALE = "stale"
    REFUSED = "refused"


@dataclass
class _Nonce:
    born: float
    counts: set[str] = field(default_factory=set)


class DigestGate:
    """Admits requests signed with one key, and lets nonces go stale as the service does.

    Source: RFC 7616, sections 3.3 (challenge), 3.4 (credentials), 3.5 (`nc` against replays).
    """

    def __init__(
        self,
        username: str,
        password: str,
        *,
        realm: str = "MMS Public API",
        algorithms: Sequence[str] = ("SHA-256", "MD5"),
        nonce_uses: int = 20,
        nonce_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the gate.

        Args:
            username: The public API key.
            password: The private API key.
            realm: Protection space shown in the challenge.
            algorithms: One challenge each, the preferred first; `MD5` and `SHA-256` are known.
            nonce_uses: How many requests one nonce is good for.
            nonce_seconds: How long a nonce is good for.
            clock: Seconds that only grow.

        Raises:
            ValueError: An algorithm is not known, or there is none.
        """
        unknown = [name for name in algorithms if name not in _HASHES]
        if unknown or not algorithms:
            raise ValueError(f"digest algorithms are some of {', '.join(_HASHES)}, not {list(algorithms)}")
        self._username = username
        self._password = password
        self._realm = realm
        self._algorithms = tuple(algorithms)
        self._nonce_uses = nonce_uses
        self._nonce_seconds = nonce_seconds
        self._clock = clock
        self._nonces: dict[str, _Nonce] = {}
        self._lock = threading.Lock()

    def challenges(self, *, stale: bool = False) -> list[str]:
        """Values for the `WWW-Authenticate` headers of a 401, one an algorithm.

        Args:
            stale: Whether the key was right and only the nonce was too old, so that a client may sign again
                without asking anybody (RFC 7616, section 3.3).
        """
        nonce = secrets.token_urlsafe(24)
        with self._lock:
            now = self._clock()
            self._nonces = {
                text: known for text, known in self._nonces.items() if now - known.born <= self._nonce_seconds
            }
            self._nonces[nonce] = _Nonce(now)
        return [
            f'Digest realm="{self._realm}", nonce="{nonce}", qop="auth", algorithm={algorithm}, '
            f"stale={'true' if stale else 'false'}"
            for algorithm in self._algorithms
        ]

    def admit(self, method: str, target: str, authorization: str | None) -> Verdict:
        """Judge one request.

        Args:
            method: Its HTTP method.
            target: Its request target, as it stands in the request line.
            authorization: Its `Authorization` header, when it has one.
        """
        scheme, _, rest = (authorization or "").partition(" ")
        if scheme.lower() != "digest":
            return Verdict.REFUSED
        try:
            said = parse_keqv_list(parse_http_list(rest))
        except (ValueError, IndexError):  # the latter for a parameter without a value
            return Verdict.REFUSED
        if said.get("uri") != target or not self._signed(method, said):
            return Verdict.REFUSED
        return Verdict.ADMITTED if self._spend(said["nonce"], said["nc"]) else Verdict.STALE

    def _signed(self, method: str, said: dict[str, str]) -> bool:
        digest = _HASHES.get(said.get("algorithm", "MD5").upper())
        needed = ("username", "realm", "nonce", "nc", "cnonce", "response")
        if digest is None or said.get("qop") != "auth" or any(name not in said for name in needed):
            return False
        if said.get("algorithm", "MD5").upper() not in self._algorithms or said["realm"] != self._realm:
            return False
        secret = digest(f"{self._username}:{self._realm}:{self._password}".encode())
        request = digest(f"{method}:{said['uri']}".encode())
        signed = f"{secret}:{said['nonce']}:{said['nc']}:{said['cnonce']}:auth:{request}"
        # Both are compared, whatever the first says, so that the time taken tells nothing.
        right_name = hmac.compare_digest(said["username"].encode(), self._username.encode())
        right_response = hmac.compare_digest(said["response"].lower().encode(), digest(signed.encode()).encode())
        return right_name and right_response

    def _spend(self, nonce: str, count: str) -> bool:
        """Use a nonce once; `False` when it is unknown, too old, used up, or this count was seen before."""
        with self._lock:
            known = self._nonces.get(nonce)
            if known is None or self._clock() - known.born > self._nonce_seconds:
                return False
            if len(known.counts) >= self._nonce_uses or count in known.counts:
                return False
            known.counts.add(count)
            return True
