"""The documents of the API, made into values: a job, a snapshot, a page of a list."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError

from restore_fetch.errors import ServiceUnavailableError
from restore_fetch.models import Element, RestoreJob, Snapshot

_OBJECT_ID = re.compile(r"[0-9a-fA-F]{24}\Z")
_E = TypeVar("_E", bound=Element)


class Identified(Protocol):
    """Something with an id of its own."""

    @property
    def id(self) -> str | None:
        """The id, when the service tells it."""
        ...


def parse_job(document: Mapping[str, Any]) -> RestoreJob:
    """A job document, plain or in the envelope that `envelope=true` puts around it.

    Raises:
        ServiceUnavailableError: An element has another type than the documented one.
    """
    content = document.get("content")
    if isinstance(content, dict) and "status" in document and "statusName" not in document:
        document = content
    return parse_as(RestoreJob, "job", document)


def parse_snapshot(document: Mapping[str, Any]) -> Snapshot:
    """A snapshot document.

    Raises:
        ServiceUnavailableError: An element has another type than the documented one.
    """
    return parse_as(Snapshot, "snapshot", document)


def parse_as(kind: type[_E], what: str, document: Mapping[str, Any]) -> _E:
    """A document as a value.

    Args:
        kind: Which value.
        what: What it is of, for the error: `job`, `snapshot`.
        document: The document.

    Raises:
        ServiceUnavailableError: An element has another type than the documented one.
    """
    try:
        return kind.model_validate(document)
    except ValidationError as exc:
        place = ".".join(str(step) for step in exc.errors()[0]["loc"])
        raise ServiceUnavailableError(
            f"the service answered with a {what} whose {place} is not as documented"
        ) from exc
    except (RecursionError, OverflowError) as exc:
        raise ServiceUnavailableError(
            f"the service answered with a {what} whose nesting or dates are without measure"
        ) from exc


@dataclass(frozen=True)
class Page:
    """One page of a list.

    Attributes:
        results: The documents on it.
        has_next: Whether it links to another.
        total_count: How many there are on all pages, when the service says so; it may be an estimate.
    """

    results: tuple[Mapping[str, Any], ...]
    has_next: bool
    total_count: int | None

    def is_last(self, asked_items: int, seen_items: int) -> bool:
        """Whether there is no page after it.

        A service may put fewer documents on a page than it was asked for, so a short page proves nothing: its link
        to the next page decides, then the count.

        Args:
            asked_items: How many documents a page was asked to hold.
            seen_items: How many were on this page and those before.
        """
        if not self.results:
            return True
        if self.has_next:
            return False
        if self.total_count is not None:
            return seen_items >= self.total_count
        return len(self.results) < asked_items


def parse_page(document: Mapping[str, Any]) -> Page:
    """A page of a list: `results`, `links`, `totalCount`.

    Raises:
        ServiceUnavailableError: It is no list, or not one of objects.
    """
    results = document.get("results")
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise ServiceUnavailableError("the service answered with a list that is not as documented")
    links = document.get("links")
    total = document.get("totalCount")
    return Page(
        results=tuple(results),
        has_next=isinstance(links, list)
        and any(isinstance(link, dict) and link.get("rel") == "next" for link in links),
        total_count=total if isinstance(total, int) else None,
    )


def listed_id(found: Identified) -> str:
    """The id of something in a list, in lower case. It will be part of file names, so it must be one.

    Raises:
        ServiceUnavailableError: It is not 24 hexadecimal digits.
    """
    if found.id is None or not _OBJECT_ID.match(found.id):
        raise ServiceUnavailableError("the service's list holds something whose id is not as documented")
    return found.id.lower()
