"""Lists, snapshots and the making of restore jobs, as the client of the legacy API has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from restore_fetch.clock import SystemClock
from restore_fetch.errors import (
    ApiError,
    AuthenticationError,
    NotFoundError,
    RestoreFetchError,
    ServiceUnavailableError,
)
from restore_fetch.sandbox import SCENARIOS, Sandbox
from restore_fetch.service import LegacyRestoreService, cluster, open_service
from restore_fetch.service.client import ApiClient
from tests.batch_support import connection, creations, lists
from tests.support import ManualClock

PROJECT = "6b77777887d9d61443b41645"
BATCH = "5a66783b80eef5354c77ee13"
SNAPSHOT = "5a6669d5e2bfb3461861360c"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=4096) as sandbox:
        yield sandbox
        assert sandbox.errors == []


@pytest.fixture
def service(sandbox: Sandbox) -> Iterator[LegacyRestoreService]:
    with open_service(connection(sandbox), clock=SystemClock(), user_agent="test") as service:
        yield service


class Body(httpx.SyncByteStream):
    """A body that has not been read yet, as it is on a wire."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self.content


def answering(answer: Callable[[httpx.Request], httpx.Response]) -> LegacyRestoreService:
    """A service on the other side of no network at all."""

    def on_the_wire(request: httpx.Request) -> httpx.Response:
        response = answer(request)
        return httpx.Response(response.status_code, stream=Body(response.content))

    clock = ManualClock()
    api = ApiClient(
        "https://service.example.net",
        httpx.BasicAuth("user", "word"),
        tls=True,
        clock=clock,
        user_agent="test",
        transport=httpx.MockTransport(on_the_wire),
    )
    return LegacyRestoreService("atlas", api, project_id=PROJECT, cluster="Cluster0", clock=clock)


def ids(count: int) -> list[str]:
    return [f"{number:024x}" for number in range(count)]


class Pages:
    """A list that is handed out so many documents a page, whatever is asked for."""

    def __init__(self, documents: list[dict[str, Any]], per_page: int, **shown: bool) -> None:
        self.documents = documents
        self.per_page = per_page
        self.shown = {"links": True, "count": True, **shown}
        self.asked: list[httpx.QueryParams] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.params)
        number = int(request.url.params["pageNum"])
        stop = number * self.per_page
        page: dict[str, Any] = {"results": self.documents[stop - self.per_page : stop]}
        if self.shown["links"] and stop < len(self.documents):
            page["links"] = [{"rel": "next", "href": "https://service.example.net/next"}]
        if self.shown["count"]:
            page["totalCount"] = len(self.documents)
        return httpx.Response(200, json=page)


def jobs(count: int) -> list[dict[str, Any]]:
    return [{"id": one, "batchId": BATCH, "groupId": PROJECT} for one in reversed(ids(count))]


# Pages


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"links": False},
        {"count": False},
    ],
    ids=["links-and-count", "count-only", "links-only"],
)
def test_every_page_of_a_list_is_asked_for_also_when_pages_are_smaller_than_asked(shown: dict[str, bool]) -> None:
    pages = Pages(jobs(250), per_page=100, **shown)
    found = answering(pages).jobs(BATCH)
    assert [job.id for job in found] == ids(250)
    assert [asked["pageNum"] for asked in pages.asked] == ["1", "2", "3"]
    assert {asked["batchId"] for asked in pages.asked} == {BATCH}


def test_a_batch_of_500_jobs_is_one_request() -> None:
    pages = Pages(jobs(500), per_page=500)
    assert len(answering(pages).jobs(BATCH)) == 500
    assert len(pages.asked) == 1


def test_full_pages_without_links_and_count_go_on_until_one_is_not_full() -> None:
    pages = Pages(jobs(600), per_page=500, links=False, count=False)
    assert len(answering(pages).jobs(BATCH)) == 600
    assert len(pages.asked) == 2


def test_a_job_that_moves_to_the_next_page_is_there_once() -> None:
    documents = jobs(3)
    pages = Pages([*documents[:2], documents[1], documents[2]], per_page=2)
    assert [job.id for job in answering(pages).jobs(BATCH)] == ids(3)


def test_a_count_that_is_too_high_ends_with_the_first_empty_page() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        first = request.url.params["pageNum"] == "1"
        return httpx.Response(200, json={"results": jobs(2) if first else [], "totalCount": 99})

    assert len(answering(answer).jobs(BATCH)) == 2


def test_a_list_of_many_small_pages_is_bounded_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_WHOLE_LIST_BYTES", 3_000)
    pages = Pages(jobs(600), per_page=5)
    with pytest.raises(ServiceUnavailableError, match="larger than 3000 bytes"):
        answering(pages).jobs(BATCH)
    assert len(pages.asked) < 100


def test_a_list_without_end_is_refused() -> None:
    page = {"results": jobs(1), "links": [{"rel": "next"}]}
    with pytest.raises(ServiceUnavailableError, match="does not come to an end"):
        answering(lambda _: httpx.Response(200, json=page)).jobs(BATCH)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"results": None},
        {"results": {}},
        {"results": [None]},
        {"results": ["job"]},
        {"results": [{}]},
        {"results": [{"id": None}]},
        {"results": [{"id": 7}]},
        {"results": [{"id": "../../../../etc/passwd000"}]},
        {"results": [{"id": ids(1)[0], "groupId": "f" * 24}]},
        {"results": [{"id": ids(1)[0], "delivery": []}]},
    ],
    ids=str,
)
def test_a_list_that_is_not_as_documented_is_nonsense(document: Any) -> None:
    with pytest.raises(ServiceUnavailableError):
        answering(lambda _: httpx.Response(200, json=document)).jobs(BATCH)


# Against the sandbox


def test_a_batch_comes_in_the_order_of_job_ids(sandbox: Sandbox, service: LegacyRestoreService) -> None:
    found = service.jobs(sandbox.batch_id)
    assert [job.id for job in found] == sorted(sandbox.jobs_of(sandbox.batch_id))
    assert {job.batch_id for job in found} == {sandbox.batch_id}


def test_a_batch_that_nobody_knows_has_no_jobs(service: LegacyRestoreService) -> None:
    assert service.jobs("0" * 24) == ()


def test_all_jobs_of_a_cluster_come_the_newest_first(sandbox: Sandbox, service: LegacyRestoreService) -> None:
    found = service.all_jobs()
    assert len(found) >= len(SCENARIOS) + 3
    created = [job.created for job in found if job.created]
    assert created == sorted(created, reverse=True)


def test_the_newest_complete_snapshot_comes_first(sandbox: Sandbox, service: LegacyRestoreService) -> None:
    before = service.snapshots()
    added = sandbox.add_snapshot()
    found = service.snapshots()
    assert [snapshot.id for snapshot in found] == [added, *(snapshot.id for snapshot in before)]
    assert all(snapshot.complete for snapshot in found)
    parts = [(part.replica_set_name, part.type_name) for part in found[0].parts]
    assert parts[0] == ("Cluster0-shard-0", "REPLICA_SET")
    assert parts[2] == ("Cluster0-config-0", "CONFIG_SERVER_REPLICA_SET")
    sandbox.drop_snapshot(added)
    assert service.snapshots() == before


def test_one_snapshot_is_the_one_asked_for(sandbox: Sandbox, service: LegacyRestoreService) -> None:
    added = sandbox.add_snapshot()
    assert service.snapshot(added).id == added
    with pytest.raises(NotFoundError):
        service.snapshot("0" * 24)


def test_a_snapshot_that_was_not_asked_for_is_refused() -> None:
    other = httpx.Response(200, json={"id": "f" * 24})
    with pytest.raises(ServiceUnavailableError, match="not of the snapshot"):
        answering(lambda _: other).snapshot(SNAPSHOT)


def test_a_snapshot_of_another_project_is_refused() -> None:
    other = httpx.Response(200, json={"results": [{"id": SNAPSHOT, "groupId": "f" * 24}]})
    with pytest.raises(ServiceUnavailableError, match="another project"):
        answering(lambda _: other).snapshots()


def test_a_snapshot_says_when_it_was_taken_in_either_form() -> None:
    dates = ["2018-01-22T22:44:54Z", {"date": "2018-01-22T22:44:54Z", "increment": 1}, None]
    documents = [{"id": one, "created": date} for one, date in zip(ids(3), dates, strict=True)]
    answer = httpx.Response(200, json={"results": documents})
    found = {snapshot.id: snapshot.created for snapshot in answering(lambda _: answer).snapshots()}
    first, second, third = (found[one] for one in ids(3))
    assert first == second
    assert first is not None
    assert first.isoformat() == "2018-01-22T22:44:54+00:00"
    assert third is None


def test_a_restore_of_a_sharded_cluster_is_a_batch(sandbox: Sandbox, service: LegacyRestoreService) -> None:
    snapshot = sandbox.add_snapshot()
    before = len(creations(sandbox))
    made = service.create_restore(snapshot, max_downloads=3, expiration_hours=7)
    assert len(creations(sandbox)) == before + 1
    assert len(made) == 3
    assert len({job.batch_id for job in made}) == 1
    assert {job.snapshot_id for job in made} == {snapshot}
    assert {(job.delivery.max_downloads, job.delivery.expiration_hours) for job in made if job.delivery} == {(3, 7)}
    assert [job.id for job in service.jobs(made[0].batch_id or "")] == [job.id for job in made]


def test_a_restore_that_is_refused_says_why(service: LegacyRestoreService) -> None:
    with pytest.raises(NotFoundError, match="SNAPSHOT_NOT_FOUND"):
        service.create_restore("0" * 24, max_downloads=1, expiration_hours=1)


def test_a_restore_is_asked_for_in_the_documented_words() -> None:
    bodies: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(200, json={"results": jobs(1)})

    answering(answer).create_restore(SNAPSHOT, max_downloads=5, expiration_hours=24)
    delivery = {"methodName": "HTTP", "maxDownloads": 5, "expirationHours": 24}
    assert bodies == [{"snapshotId": SNAPSHOT, "delivery": delivery}]


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (httpx.Response(200, json={"results": []}), ServiceUnavailableError),
        (httpx.Response(200, content=b"<html>"), ServiceUnavailableError),
        (httpx.Response(503), ServiceUnavailableError),
        (httpx.Response(403), AuthenticationError),
        (httpx.Response(400, json={"errorCode": "SNAPSHOT_NOT_COMPLETE"}), ApiError),
    ],
    ids=["nothing-made", "html", "503", "403", "400"],
)
def test_a_restore_without_a_usable_answer_is_an_error(
    response: httpx.Response, error: type[RestoreFetchError]
) -> None:
    asked = 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        return response

    with pytest.raises(error):
        answering(answer).create_restore(SNAPSHOT, max_downloads=5, expiration_hours=24)
    assert asked == 1


def test_lists_are_asked_for_in_pages_of_500(sandbox: Sandbox, service: LegacyRestoreService) -> None:
    before = len(lists(sandbox))
    service.jobs(sandbox.batch_id)
    (asked,) = lists(sandbox)[before:]
    assert "itemsPerPage=500" in asked.path
    assert f"batchId={sandbox.batch_id}" in asked.path
