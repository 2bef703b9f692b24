"""HTTP Digest, which the API's keys use (RFC 7616), with its failures made ours."""

from __future__ import annotations

import re
from collections.abc import Generator

import httpx

from restore_fetch.errors import ApiError
from restore_fetch.redaction import Secret

_NEXT_CHALLENGE = re.compile(r",\s*(?=[A-Za-z][A-Za-z0-9._~-]*\s+[A-Za-z][A-Za-z0-9_-]*\s*=)")
_ANSWERABLE = re.compile(r'algorithm\s*=\s*"?(MD5|SHA|SHA-256|SHA-512)(-SESS)?"?\s*(,|\Z)', re.IGNORECASE)


class DigestKey(httpx.Auth):
    """Answers the service's Digest challenges with an API key: public key as user name, private key as password.

    A fresh challenge is answered once. A nonce that has gone stale brings a new challenge, and so one more
    request; a wrong key brings the same, and then the 401 stands. There is never a third request, because
    services lock accounts.

    Raises:
        ApiError: From the request that carries it, when the challenge is one that cannot be answered.
    """

    def __init__(self, public_key: str, private_key: Secret) -> None:
        self._digest = httpx.DigestAuth(public_key, private_key.reveal())

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send the request, and once more with an answer to the challenge (see `httpx.Auth`)."""
        flow = self._digest.auth_flow(request)
        try:
            outgoing = next(flow)
            while True:
                response = yield outgoing
                _offer_one_challenge(response)
                outgoing = flow.send(response)
        except StopIteration:
            return
        except (KeyError, ValueError, NotImplementedError, UnicodeError, httpx.ProtocolError) as exc:
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
