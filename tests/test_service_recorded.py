"""Answers that were recorded from the service, and the documented examples: all of them are understood.

They lie beside the project; where they do not, these tests are skipped. Documents of the same shapes, made up for
the purpose, are in the tests of each service.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pytest_httpserver import HTTPServer

from restore_fetch import redaction, rules
from restore_fetch.errors import ApiError, DeliveryUnusableError, ServiceUnavailableError
from restore_fetch.offer import Offer
from restore_fetch.service import parse_job
from tests.services_support import CLOUD, cloud_service
from tests.support import ManualClock

RECORDED = Path(__file__).parents[2] / "shared" / "api" / "recorded"
pytestmark = pytest.mark.skipif(
    not RECORDED.is_dir(), reason="the recorded answers are not beside the project (shared/api/recorded)"
)


def play(server: HTTPServer, name: str, path: str) -> dict[str, Any]:
    """Let a server give a recorded answer at a path; returns its body."""
    answer = json.loads((RECORDED / f"{name}.json").read_text("utf-8"))
    headers = {key: value for key, value in answer["headers"].items() if key != "Date"}
    server.expect_request(f"{CLOUD}{path}").respond_with_data(
        json.dumps(answer["body"]), status=answer["status"], headers=headers
    )
    body: dict[str, Any] = answer["body"]
    return body


def recorded_id(name: str) -> str:
    job_id: str = json.loads((RECORDED / f"{name}.json").read_text("utf-8"))["body"]["id"]
    return job_id


def test_a_ready_download_is_recognised_as_ready(httpserver: HTTPServer, clock: ManualClock):
    job_id = recorded_id("cloud-download-ready")
    body = play(httpserver, "cloud-download-ready", f"/restoreJobs/{job_id}")

    job = cloud_service(httpserver, clock).job(job_id)

    assert "finishedAt" not in body
    assert rules.is_ready(job)
    offer = Offer.of(job)
    assert offer.source.url == body["deliveryUrl"][0]
    assert offer.file_name == f"restore-{body['snapshotId']}.tar.gz"
    assert offer.record.host == urlsplit(body["deliveryUrl"][0]).hostname
    assert offer.delivery.expires == datetime(2026, 8, 10, 4, 44, 52, tzinfo=UTC)
    assert job.snapshot_id == body["snapshotId"]


def test_the_key_in_a_recorded_url_is_a_secret(httpserver: HTTPServer, clock: ManualClock):
    job_id = recorded_id("cloud-download-ready")
    body = play(httpserver, "cloud-download-ready", f"/restoreJobs/{job_id}")
    key = urlsplit(body["deliveryUrl"][0]).path.split("/")[1]

    job = cloud_service(httpserver, clock).job(job_id)

    assert key not in repr(job)
    assert key not in redaction.scrub(f"GET {body['deliveryUrl'][0]}")


@pytest.mark.parametrize("name", ["cloud-download-created", "cloud-download-pending"])
def test_a_download_that_is_being_made_is_not_ready(httpserver: HTTPServer, clock: ManualClock, name: str):
    job_id = recorded_id(name)
    play(httpserver, name, f"/restoreJobs/{job_id}")

    assert not rules.is_ready(cloud_service(httpserver, clock).job(job_id))


@pytest.mark.parametrize("name", ["cloud-automated-running", "cloud-automated-finished"])
def test_a_restore_into_a_cluster_is_no_download(httpserver: HTTPServer, clock: ManualClock, name: str):
    job_id = recorded_id(name)
    play(httpserver, name, f"/restoreJobs/{job_id}")

    with pytest.raises(DeliveryUnusableError):
        rules.is_ready(cloud_service(httpserver, clock).job(job_id))


def test_the_list_of_jobs_is_understood(httpserver: HTTPServer, clock: ManualClock):
    body = play(httpserver, "cloud-restore-jobs-list", "/restoreJobs")

    jobs = cloud_service(httpserver, clock).all_jobs()

    assert [job.id for job in jobs] == [document["id"] for document in body["results"]]


def test_the_answer_to_an_order_is_understood(httpserver: HTTPServer, clock: ManualClock):
    body = play(httpserver, "cloud-download-created", "/restoreJobs")

    (job,) = cloud_service(httpserver, clock).create_restore(
        body["snapshotId"], max_downloads=1, expiration_hours=1
    )

    assert (job.id, job.snapshot_id) == (body["id"], body["snapshotId"])


def test_snapshots_are_understood(httpserver: HTTPServer, clock: ManualClock):
    snapshot_id = recorded_id("cloud-snapshot")
    play(httpserver, "cloud-snapshot", f"/snapshots/{snapshot_id}")
    play(httpserver, "cloud-snapshots-list", "/snapshots")
    service = cloud_service(httpserver, clock)

    (listed,) = service.snapshots()

    assert listed == service.snapshot(snapshot_id)
    assert listed.complete
    assert listed.created == datetime(2026, 8, 10, 3, 28, 8, tzinfo=UTC)
    assert listed.expires == datetime(2026, 8, 11, 3, 29, 21, tzinfo=UTC)


def test_a_rate_limit_says_how_long_to_wait(httpserver: HTTPServer, clock: ManualClock):
    play(httpserver, "error-rate-limited", "/restoreJobs")

    with pytest.raises(ServiceUnavailableError, match="RATE_LIMITED_TOKEN_BUCKET") as caught:
        cloud_service(httpserver, clock).all_jobs()

    assert caught.value.retry_after_seconds == 55


def test_an_error_is_shown_in_the_services_words(httpserver: HTTPServer, clock: ManualClock):
    body = play(httpserver, "error-not-a-flex-cluster", "/restoreJobs")

    with pytest.raises(ApiError) as caught:
        cloud_service(httpserver, clock).all_jobs()

    assert caught.value.error_code == body["errorCode"]
    assert body["detail"] in str(caught.value)


def test_the_documented_examples_of_the_legacy_resource_are_understood():
    examples = RECORDED.parent / "examples"
    documents = [json.loads(path.read_text("utf-8")) for path in sorted(examples.glob("*.json"))]

    jobs = [parse_job(one) for document in documents for one in document.get("results", [document])]

    assert len(jobs) > len(documents)
    for job in jobs:
        assert job.id is not None
        assert job.delivery is not None
        assert Offer.of(job).file_name.endswith(f"{job.id}.tar.gz")
