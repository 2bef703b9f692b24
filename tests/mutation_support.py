"""Documents as a broken or hostile service, or somebody with an editor, could make them out of a good one."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

Place = tuple[str | int, ...]

# What has broken parsers before, and the words that decide something here.
_WORDS = [
    *("FINISHED", "finished", "READY", "IN_PROGRESS", "BROKEN", "EXPIRED", "MAX_DOWNLOADS_EXCEEDED", "HTTP", "SCP"),
    *("SHA1", "sha-1", "MD5", "verified", "unverified", "publishing", "whole", "complete", "not sent"),
]
_HASHES = [
    "a" * 40,
    "A" * 40,
    " " + "a" * 40 + "\n",
    "b" * 40,
    "a" * 39,
    "a" * 41,
    "a" * 64,
    "g" * 40,
    "\u0661" * 40,
]
_MOMENTS = [
    *("0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00", "2026-01-31T12:00:00Z", "2026-01-31", "2026-02-30"),
    *("1969-12-31T23:59:60Z", "2026-01-31T12:00:00.9999999Z", "2026-01-31T24:00:00Z", "tomorrow", "1e18", "-1"),
]
_URLS = [
    *(
        "https://h/\ud800/x.tar.gz",
        "http://[::1/x.tar.gz",
        "https://h:99999999/x.tar.gz",
        "//h",
        "file:///etc/passwd",
    ),
    *("https://h/pull/%00%0a/..%2f.tar.gz", "https://h/pull/key-0123456789/..", "https://\u2100/x.tar.gz"),
]
_ODD_TEXTS = ["", " ", "\x00", "\x1b[2J", "\ud800", "\u202e", "../../etc/passwd", "1e999", "9" * 400]
_ODD_NUMBERS = [0, -1, 1, 2**31 - 1, 2**31, 2**63, 10**30, -(10**30), 0.5, 1e308, float("inf"), float("nan")]


def texts() -> st.SearchStrategy[str]:
    """Text of every kind, the odd ones often."""
    odd = st.sampled_from(_ODD_TEXTS + _WORDS + _HASHES + _MOMENTS + _URLS)
    return odd | st.text(max_size=40) | st.text(st.characters(codec=None), max_size=10)


def values() -> st.SearchStrategy[Any]:
    """JSON values of every kind."""
    scalars = st.none() | st.booleans() | st.sampled_from(_ODD_NUMBERS) | st.integers() | st.floats() | texts()
    return scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=8), scalars, max_size=3)


def _like(value: Any) -> st.SearchStrategy[Any]:
    """Values that could pass for this one."""
    if isinstance(value, bool):
        return st.booleans() | st.none()
    if isinstance(value, int | float):
        return st.sampled_from(_ODD_NUMBERS)
    if not isinstance(value, str):
        return values()
    if re.match(r"[0-9]{4}-[0-9]{2}-", value):
        return st.sampled_from(_MOMENTS)
    if re.fullmatch(r"[0-9a-f]{40}", value):
        return st.sampled_from(_HASHES)
    if "://" in value:
        return st.sampled_from(_URLS)
    return st.sampled_from(_WORDS) if value.isupper() else st.sampled_from(_ODD_TEXTS) | texts()


def _places(document: Any, here: Place = ()) -> Iterator[Place]:
    """Every place in a document, the document itself first."""
    yield here
    items: Any = ()
    if isinstance(document, dict):
        items = document.items()
    elif isinstance(document, list):
        items = enumerate(document)
    for key, value in items:
        yield from _places(value, (*here, key))


def _with(document: Any, place: Place, change: Any) -> Any:
    """A copy of a document with one place given to `change(container, key)`."""
    holder = {"": copy.deepcopy(document)}
    container: Any = holder
    for key in ("", *place)[:-1]:
        container = container[key]
    change(container, ("", *place)[-1])
    return holder.get("")


def _at(document: Any, place: Place) -> Any:
    for key in place:
        document = document[key]
    return document


@st.composite
def _changed(draw: st.DrawFn, document: Any) -> Any:
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(document))
        leaves = [place for place in places if not isinstance(_at(document, place), dict | list)]
        kind = draw(st.sampled_from(["like"] * 5 + ["replace", "remove", "wrap", "copy"]))
        place = draw(st.sampled_from(leaves if leaves and kind in ("like", "copy") else places))
        if kind == "remove":
            if place:
                document = _with(document, place, lambda holder, key: holder.pop(key))
            continue
        new = _at(document, place)
        if kind == "like":
            new = draw(_like(new))
        elif kind == "replace":
            new = draw(values())
        elif kind == "wrap":
            new = [new]
        else:
            new = copy.deepcopy(_at(document, draw(st.sampled_from(places))))
        document = _with(document, place, lambda holder, key, new=new: holder.__setitem__(key, new))
    return document


@st.composite
def mutations(draw: st.DrawFn, document: Any) -> bytes:
    """A JSON document with a few elements changed, at times in an envelope, at times with its bytes damaged."""
    changed = draw(_changed(document))
    if draw(st.integers(0, 15)) == 15:
        changed = {"status": draw(values()), "content": changed}
    content = json.dumps(changed).encode()
    damage = draw(st.sampled_from(["none"] * 30 + ["cut", "flip", "insert", "mark", "double"]))
    at = draw(st.integers(0, max(0, len(content) - 1)))
    if damage == "cut":
        return content[:at]
    if damage == "flip":
        return content[:at] + bytes([content[at] ^ (1 << draw(st.integers(0, 7)))]) + content[at + 1 :]
    if damage == "insert":
        return content[:at] + draw(st.binary(min_size=1, max_size=4)) + content[at:]
    if damage == "mark":
        return b"\xef\xbb\xbf" + content
    if damage == "double" and content.startswith(b"{") and len(content) > 2:
        return content[:-1] + b"," + content[1:]
    return content
