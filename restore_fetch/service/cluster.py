"""What every flavour of the API has in common: one cluster, an API client, and the service's clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

from restore_fetch.clock import Clock
from restore_fetch.errors import ServiceUnavailableError
from restore_fetch.service.client import ONE_LIST_BYTES, Answer, ApiClient
from restore_fetch.service.documents import Identified, parse_page

PLAIN_JSON = "application/json"
VERSIONED_JSON = "application/vnd.atlas.2023-01-01+json"
_PAGE_ITEMS = 500  # the most that the service puts on a page
_MOST_PAGES = 1000
_WHOLE_LIST_BYTES = 8 * ONE_LIST_BYTES  # a hundred thousand jobs
_T = TypeVar("_T", bound=Identified)


class ClusterService:
    """One cluster of one project, asked about through one API.

    Args:
        name: The service, as `--service` calls it.
        api: The client of its API.
        prefix: The path of the API below its origin.
        accept: The media type that it is asked for.
        project_id: The project that owns the cluster.
        cluster: The cluster's name or id.
        clock: The local time.

    Attributes:
        name: The service, as `--service` calls it.
        publishes_hashes: Whether the service ever publishes the hash of a file.
    """

    publishes_hashes = True

    def __init__(
        self,
        name: str,
        api: ApiClient,
        *,
        prefix: str,
        accept: str,
        project_id: str,
        cluster: str,
        clock: Clock,
    ) -> None:
        self.name = name
        self._api = api
        self._accept = accept
        self._project_id = project_id
        self._cluster = cluster
        self._clock = clock
        self._path = f"{prefix}/groups/{project_id}/clusters/{quote(cluster, safe='')}"
        self._ahead_seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._api.close()

    def now(self) -> datetime:
        """The time by the service's clock, as far as its last answer told."""
        local = self._clock.now()
        return datetime.fromtimestamp(local.timestamp() + self._ahead_seconds, tz=local.tzinfo)

    def _get(self, path: str) -> Mapping[str, Any]:
        """A document below the cluster's path; see `ApiClient.get` for the errors."""
        return self._heard(self._api.get(self._path + path, accept=self._accept))

    def _post(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the service made of an order; see `ApiClient.post` for the errors."""
        return self._heard(self._api.post(self._path + path, accept=self._accept, body=body))

    def _heard(self, answer: Answer) -> Mapping[str, Any]:
        """Take the service's time from an answer."""
        self._ahead_seconds = (answer.date - self._clock.now()).total_seconds()
        return answer.document

    def _list(
        self, path: str, parse: Callable[[Mapping[str, Any]], _T], params: Mapping[str, str] | None = None
    ) -> list[_T]:
        """Every page of a list, one request a page; see `ApiClient.get` for the errors.

        What moves to the next page between two requests is on both, and taken once.
        """
        found: dict[str, _T] = {}
        seen = size_bytes = 0
        for number in range(1, _MOST_PAGES + 1):
            answer = self._api.get(
                self._path + path,
                accept=self._accept,
                params={**(params or {}), "pageNum": str(number), "itemsPerPage": str(_PAGE_ITEMS)},
                max_bytes=ONE_LIST_BYTES,
            )
            page = parse_page(self._heard(answer))
            for document in page.results:
                one = parse(document)
                found.setdefault(one.id or "", one)
            seen += len(page.results)
            size_bytes += answer.size_bytes
            if size_bytes > _WHOLE_LIST_BYTES:
                raise ServiceUnavailableError(f"the service's list is larger than {_WHOLE_LIST_BYTES} bytes")
            if page.is_last(_PAGE_ITEMS, seen):
                return list(found.values())
        raise ServiceUnavailableError("the service's list does not come to an end")
