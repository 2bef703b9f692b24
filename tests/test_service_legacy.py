"""The restore job resource in each of its homes: the path that is asked, whose job it is, whose clock counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from restore_fetch.errors import ServiceUnavailableError
from restore_fetch.redaction import Secret
from restore_fetch.service import LegacyRestoreService
from restore_fetch.service.auth import DigestKey
from restore_fetch.service.client import ApiClient
from tests.support import ManualClock
from tests.test_models import DOCUMENTED

PROJECT = DOCUMENTED["groupId"]
JOB_ID = DOCUMENTED["id"]


def service(
    answer: Callable[[httpx.Request], httpx.Response], name: str = "atlas", cluster: str = "Cluster0"
) -> tuple[LegacyRestoreService, ManualClock]:
    clock = ManualClock()
    api = ApiClient(
        "https://ops.example.net",
        DigestKey("public", Secret("private-key")),
        tls=True,
        clock=clock,
        user_agent="restore-fetch/test",
        transport=httpx.MockTransport(answer),
    )
    return LegacyRestoreService(name, api, project_id=PROJECT, cluster=cluster, clock=clock), clock


def says(document: object, **headers: str) -> Callable[[httpx.Request], httpx.Response]:
    content = json.dumps(document).encode()
    return lambda _: httpx.Response(200, headers=headers, stream=httpx.ByteStream(content))


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("atlas", "/api/atlas/v1.0"), ("cloud-manager", "/api/public/v1.0"), ("ops-manager", "/api/public/v1.0")],
)
def test_each_home_is_asked_at_its_documented_path(name, prefix):
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.method} {request.url.raw_path.decode()}")
        return says(DOCUMENTED)(request)

    with service(answer, name)[0] as legacy:
        assert legacy.job(JOB_ID).id == JOB_ID
    assert asked == [f"GET {prefix}/groups/{PROJECT}/clusters/Cluster0/restoreJobs/{JOB_ID}"]


@pytest.mark.parametrize(
    ("cluster", "segment"),
    [
        ("a b", "a%20b"),
        ("../../users", "..%2F..%2Fusers"),
        ("a?b#c", "a%3Fb%23c"),
        ("a%2Fb", "a%252Fb"),
        ("\u00fc", "%C3%BC"),
    ],
)
def test_a_clusters_name_never_leaves_its_place_in_the_path(cluster, segment):
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path.decode())
        return says(DOCUMENTED)(request)

    with service(answer, cluster=cluster)[0] as legacy:
        legacy.job(JOB_ID)
    assert asked == [f"/api/atlas/v1.0/groups/{PROJECT}/clusters/{segment}/restoreJobs/{JOB_ID}"]


@pytest.mark.parametrize(
    "change",
    [{"id": "7" * 24}, {"id": None}, {"groupId": "7" * 24}],
    ids=["another job", "no id", "another project"],
)
def test_the_job_of_somebody_else_is_nonsense(change):
    with service(says(DOCUMENTED | change))[0] as legacy, pytest.raises(ServiceUnavailableError):
        legacy.job(JOB_ID)


def test_an_enveloped_answer_is_read_too():
    with service(says({"status": 200, "content": DOCUMENTED}))[0] as legacy:
        assert legacy.job(JOB_ID).status_name == "FINISHED"


def test_the_time_is_the_services_own_from_its_last_answer_on():
    legacy, clock = service(says(DOCUMENTED, Date="Tue, 03 Mar 2026 04:05:06 GMT"))
    with legacy:
        assert legacy.now() == clock.now()
        legacy.job(JOB_ID)
        clock.advance(60)
        assert legacy.now() == datetime(2026, 3, 3, 4, 6, 6, tzinfo=UTC)


def test_without_a_date_the_local_clock_counts():
    legacy, clock = service(says(DOCUMENTED))
    with legacy:
        legacy.job(JOB_ID)
        assert abs(legacy.now() - clock.now()) < timedelta(milliseconds=1)
