"""Keeping secrets out of everything that people or machines may read.

Two lines of defence: values that are secret are carried as `Secret`, which does not print itself; and every
secret that this process has learnt is remembered here, so that `scrub` can take it out of any text on its way
to a terminal or a log, however it got there.

Who uses the package from Python and logs everything sees no secret either: the libraries under the API's client
log its URLs and the headers of answers, which hold none, and the client of the deliveries logs nothing.
"""

from __future__ import annotations

import base64
import json
import re
from urllib.parse import parse_qsl, quote, unquote, urlsplit

MASK = "***"
_SHORTEST_SECRET = 4  # a shorter one would blank out ordinary words, and is no secret
_SHORTEST_URL_KEY = 12  # an ordinary folder name in a URL's path is no secret
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]")
_FILE_ENDINGS = (".tar.gz", ".tgz", ".tar")
_ENCODED = re.compile(r"%[0-9A-F]{2}")
_OBJECT_ID = re.compile(r"[0-9a-f]{24}\Z")
_known: set[str] = set()


class Secret:
    """A value that is shown as `***` wherever it is printed, logged or represented."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value
        remember(value)

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        # Made anew where it is unpickled, so that the other process, too, keeps it out of its output.
        return Secret, (self._value,)

    def reveal(self) -> str:
        """The value itself, for the one place that has to send it."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __str__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


def remember(value: str) -> None:
    """Learn a secret, so that `scrub` knows it in each form it could appear in.

    These are: plain, percent-encoded in upper or lower case, in base64, in JSON; of several words, as in
    `Bearer TOKEN`, each long one.
    """
    if len(value) < _SHORTEST_SECRET:
        return
    raw = value.encode("utf-8", "surrogateescape")
    _known.add(value)
    for encoded_text in (quote(raw, safe=""), quote(raw)):
        _known.add(encoded_text)
        _known.add(_ENCODED.sub(lambda byte: byte[0].lower(), encoded_text))
    for word in value.split():
        if len(word) >= _SHORTEST_URL_KEY and word != value:
            remember(word)
    _known.add(json.dumps(value)[1:-1])
    _known.add(json.dumps(value, ensure_ascii=False)[1:-1])
    for encoded in (base64.b64encode(raw), base64.urlsafe_b64encode(raw)):
        _known.add(encoded.decode("ascii"))
        _known.add(encoded.decode("ascii").rstrip("="))


def remember_url(url: str) -> None:
    """Learn the secret parts of a delivery URL: the key in its path, its query, a password.

    Raises:
        ValueError: It is not a URL.
    """
    parts = urlsplit(url)
    *folders, name = parts.path.split("/")
    for segment in (*folders, name):
        # What the file is named after is shown with its name; masking it would only garble that.
        if _may_be_a_key(segment) and (segment is name or segment not in name):
            remember(segment)
            remember(unquote(segment))
    values = (value for _, value in parse_qsl(parts.query) if len(value) >= _SHORTEST_URL_KEY)
    for secret in (parts.query, parts.password, *values):
        if secret:
            remember(secret)


def _may_be_a_key(segment: str) -> bool:
    return (
        len(segment) >= _SHORTEST_URL_KEY and not _OBJECT_ID.match(segment) and not segment.endswith(_FILE_ENDINGS)
    )


def scrub(text: str) -> str:
    """The text without any secret known to this process.

    Longer secrets are taken out first, so that one which contains another leaves nothing behind.
    """
    for secret in sorted(_known, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, MASK)
    return text


def plain(text: str) -> str:
    """The text without control characters, which a hostile service could use to rewrite a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def display_url(url: str) -> str:
    """A URL as it may be shown: host and file name, with everything between them left out."""
    parts = urlsplit(url)
    host = parts.hostname or "?"
    if ":" in host:
        host = f"[{host}]"
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    name = parts.path.rsplit("/", 1)[-1]
    return plain(f"{parts.scheme}://{host}{port}/…/{'' if _may_be_a_key(name) else name}")
