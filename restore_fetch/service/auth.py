"""HTTP Digest, which the API's keys use (RFC 7616), with its failures made ours."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator

import httpx

from restore_fetch.clock import Clock, SystemClock
from restore_fetch.errors import ApiError
from restore_fetch.redaction import Secret

_NEXT_CHALLENGE = re.compile(r",\s*(?=[A-Za-z][A-Za-z0-9._~-]*\s+[A-Za-z][A-Za-z0-9_-]*\s*=)")
_MOST_CHALLENGE_BYTES = 16 * 1024
_MOST_CHALLENGE_SECONDS = 30.0
_ANSWERABLE = re.compile(r'algorithm\s*=\s*"?(MD5|SHA|SHA-256|SHA-512)(-SESS)?"?\s*(,|\Z)', re.IGNORECASE)


class DigestKey(httpx.Auth):
    """Answers the service's Digest challenges with an API key: public key as user name, private key as password.

    A fresh challenge is answered once. A nonce that has gone stale brings a new challenge, and so one more
    request; a wrong key brings the same, and then the 401 stands. There is never a third request, because
    services lock accounts.

    Raises:
        ApiError: From the request that carries it, when the challenge is one that cannot be answered.
    """

    def __init__(self, public_key: str, private_key: Secret, *, clock: Clock | None = None) -> None:
        self._digest = httpx.DigestAuth(public_key, private_key.reveal())
        self._clock = clock or SystemClock()

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send the request, and once more with an answer to the challenge (see `httpx.Auth`)."""
        flow = self._digest.auth_flow(request)
        try:
            outgoing = next(flow)
            while True:
                response = yield outgoing
                _offer_one_challenge(response)
                outgoing = flow.send(response)
                keep_small(response, self._clock)
        except StopIteration:
            return
        except (LookupError, ValueError, NotImplementedError, httpx.ProtocolError) as exc:
            raise ApiError(
                "the service asks to authenticate in a way that cannot be answered "
                f"({type(exc).__name__} in its Digest challenge)",
                status=401,
                next_step="check --base-url, and any proxy in between",
            ) from exc


def _offer_one_challenge(response: httpx.Response) -> None:
    """Of several challenges, in one header or more, leave the first Digest that can be answered."""
    if response.status_code != httpx.codes.UNAUTHORIZED:
        return
    offered = [
        challenge.strip()
        for header in response.headers.get_list("www-authenticate")
        for challenge in _NEXT_CHALLENGE.split(header)
    ]
    digests = [challenge for challenge in offered if challenge.lower().startswith("digest ")]
    if not digests:
        return
    usable = [text for text in digests if "algorithm" not in text.lower() or _ANSWERABLE.search(text)]
    response.headers["www-authenticate"] = (usable or digests)[0]


def keep_small(response: httpx.Response, clock: Clock) -> None:
    """Bound a body in size and time that is about to be read whole, and decoded: that of an answered challenge."""
    response.headers.pop("content-encoding", None)
    response.stream = _Beginning(response.stream, clock)


class _Beginning(httpx.SyncByteStream):
    """The first bytes of a stream; of the rest nobody wants to know."""

    def __init__(self, stream: httpx.SyncByteStream | httpx.AsyncByteStream, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock

    def __iter__(self) -> Iterator[bytes]:
        missing = _MOST_CHALLENGE_BYTES
        deadline = self._clock.monotonic() + _MOST_CHALLENGE_SECONDS
        if isinstance(self._stream, httpx.SyncByteStream):
            for chunk in self._stream:
                yield chunk
                missing -= len(chunk)
                if missing <= 0 or self._clock.monotonic() > deadline:
                    return

    def close(self) -> None:
        if isinstance(self._stream, httpx.SyncByteStream):
            self._stream.close()
