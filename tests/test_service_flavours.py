"""The legacy resource in each of its homes: the path, the media type, and how the cluster is named."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from restore_fetch.offer import Offer
from restore_fetch.redaction import Secret
from restore_fetch.service import CloudBackupService, LegacyRestoreService, open_service
from restore_fetch.settings import SERVICES, Connection
from tests.services_support import CLUSTER, JOB, PROJECT, SNAPSHOT, VERSIONED, answers, asked, legacy_service
from tests.support import ManualClock

HOMES = {
    "atlas": ("/api/atlas/v1.0", "application/json"),
    "atlas-v2": ("/api/atlas/v2", VERSIONED),
    "cloud-manager": ("/api/public/v1.0", "application/json"),
    "ops-manager": ("/api/public/v1.0", "application/json"),
}


def a_job(**delivery: Any) -> dict[str, Any]:
    return {
        "id": JOB,
        "groupId": PROJECT,
        "snapshotId": SNAPSHOT,
        "statusName": "FINISHED",
        "delivery": {"methodName": "HTTP", "statusName": "READY", **delivery},
    }


@pytest.mark.parametrize("name", HOMES)
def test_each_home_is_asked_at_its_own_path_for_its_own_type(httpserver: HTTPServer, clock: ManualClock, name: str):
    prefix, accept = HOMES[name]
    base = f"{prefix}/groups/{PROJECT}/clusters/My%20Cluster"
    snapshot = {"id": SNAPSHOT, "groupId": PROJECT, "complete": True}
    one_job = {"results": [a_job()], "totalCount": 1}
    plain = base.replace("%20", " ")
    httpserver.expect_request(f"{plain}/restoreJobs/{JOB}").respond_with_handler(answers(a_job()))
    httpserver.expect_request(f"{plain}/restoreJobs").respond_with_handler(answers(one_job))
    httpserver.expect_request(f"{plain}/snapshots/{SNAPSHOT}").respond_with_handler(answers(snapshot))
    httpserver.expect_request(f"{plain}/snapshots").respond_with_handler(
        answers({"results": [snapshot], "totalCount": 1})
    )
    service = legacy_service(httpserver, clock, name, cluster="My Cluster")

    assert service.job(JOB).id == JOB
    assert [job.id for job in service.all_jobs()] == [JOB]
    assert service.snapshot(SNAPSHOT).id == SNAPSHOT
    assert [one.id for one in service.snapshots()] == [SNAPSHOT]
    assert [job.id for job in service.create_restore(SNAPSHOT, max_downloads=1, expiration_hours=1)] == [JOB]

    assert {request.headers["Accept"] for request, _ in httpserver.log} == {accept}
    assert all(request.environ["REQUEST_URI"].startswith(f"{base}/") for request, _ in httpserver.log)
    assert [line.split()[0] for line in asked(httpserver)] == ["GET", "GET", "GET", "GET", "POST"]


def test_the_url_that_needs_a_header_is_preferred_to_the_one_with_a_key(httpserver: HTTPServer, clock: ManualClock):
    job = a_job(
        url="https://files.example.net/0123456789abcdef0123/a.tar.gz",
        urlV2="https://files.example.net/v2/a.tar.gz",
        authHeader="X-Restore-Key",
        authValue="value-of-the-header",
    )
    path = f"/api/atlas/v2/groups/{PROJECT}/clusters/{CLUSTER}/restoreJobs/{JOB}"
    httpserver.expect_request(path).respond_with_json(job)

    source = Offer.of(legacy_service(httpserver, clock, "atlas-v2").job(JOB)).source

    assert source.url == "https://files.example.net/v2/a.tar.gz"
    assert source.auth == ("X-Restore-Key", "value-of-the-header")


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_opened_by_its_name(clock: ManualClock, name: str):
    connection = Connection(
        name,
        "https://cloud.mongodb.com",
        PROJECT,
        CLUSTER,
        public_key="abcdefgh",
        private_key=Secret("private-key"),
    )

    with open_service(connection, clock=clock, user_agent="test/1") as service:
        assert service.name == name
        assert isinstance(service, CloudBackupService if name == "atlas-cloud" else LegacyRestoreService)
