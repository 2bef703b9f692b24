"""Cloud Backup's documents, made into the values that the walk knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from restore_fetch import rules
from restore_fetch.errors import (
    ApiError,
    AuthenticationError,
    DeliveryExpiredError,
    DeliveryUnusableError,
    JobFailedError,
    NotFoundError,
    ServiceUnavailableError,
    SeveralFilesError,
)
from restore_fetch.members import made_for
from restore_fetch.models import RestoreJob
from restore_fetch.offer import Offer
from tests.services_support import (
    CLOUD,
    CLUSTER,
    JOB,
    PROJECT,
    SNAPSHOT,
    VERSIONED,
    answers,
    archive_url,
    asked,
    cloud_job,
    cloud_service,
    cloud_snapshot,
    legacy_service,
    listed,
)
from tests.support import ManualClock

MEMBERS = ("Cluster0-config-0", "Cluster0-shard-0", "Cluster0-shard-1")
NOT_FOUND = {"error": 404, "errorCode": "RESOURCE_NOT_FOUND", "detail": None}


def one_look(server: HTTPServer, clock: ManualClock, **elements: Any) -> RestoreJob:
    server.expect_request(f"{CLOUD}/restoreJobs/{JOB}").respond_with_handler(answers(cloud_job(**elements)))
    return cloud_service(server, clock).job(JOB)


def three_files() -> dict[str, Any]:
    components = [
        {"replicaSetName": name, "downloadUrl": archive_url(f"restore-{name}.tar.gz")} for name in reversed(MEMBERS)
    ]
    return cloud_job(components=components, deliveryUrl=[part["downloadUrl"] for part in components])


# one file


def test_a_job_is_asked_for_by_its_versioned_path(httpserver: HTTPServer, clock: ManualClock):
    one_look(httpserver, clock)

    assert asked(httpserver) == [f"GET {CLOUD}/restoreJobs/{JOB}"]
    assert httpserver.log[0][0].headers["Accept"] == VERSIONED


def test_a_job_without_a_url_is_not_ready(httpserver: HTTPServer, clock: ManualClock):
    assert not rules.is_ready(one_look(httpserver, clock))


def test_a_job_with_a_url_is_ready_although_nothing_says_finished(httpserver: HTTPServer, clock: ManualClock):
    job = one_look(httpserver, clock, deliveryUrl=[archive_url()], expiresAt="2026-08-10T04:44:52Z")

    assert rules.is_ready(job)
    assert (job.id, job.batch_id, job.snapshot_id) == (JOB, None, SNAPSHOT)
    assert (job.group_id, job.cluster_name) == (PROJECT, CLUSTER)
    offer = Offer.of(job)
    assert offer.source.url == archive_url()
    assert offer.file_name == f"restore-{SNAPSHOT}.tar.gz"
    assert offer.delivery.expires == datetime(2026, 8, 10, 4, 44, 52, tzinfo=UTC)
    assert rules.downloads_left(offer.delivery, used=7) is None
    assert job.hashes == ()


@pytest.mark.parametrize("flag", ["failed", "cancelled"])
def test_a_job_that_failed_says_so_in_the_words_of_the_service(
    httpserver: HTTPServer, clock: ManualClock, flag: str
):
    job = one_look(httpserver, clock, deliveryUrl=[archive_url()], **{flag: True})

    with pytest.raises(JobFailedError, match=f"{JOB} is {flag}"):
        rules.is_ready(job)


def test_an_expired_job_is_told_from_one_that_waits(httpserver: HTTPServer, clock: ManualClock):
    job = one_look(httpserver, clock, expired=True)

    with pytest.raises(DeliveryExpiredError):
        rules.is_ready(job)


@pytest.mark.parametrize("kind", ["automated", "pointInTime"])
def test_a_job_that_restores_into_a_cluster_is_no_download(httpserver: HTTPServer, clock: ManualClock, kind: str):
    job = one_look(httpserver, clock, deliveryType=kind, finishedAt="2026-08-10T03:40:10Z")

    with pytest.raises(DeliveryUnusableError, match=kind):
        rules.is_ready(job)


def test_whatever_is_missing_or_null_is_no_error(httpserver: HTTPServer, clock: ManualClock):
    httpserver.expect_request(f"{CLOUD}/restoreJobs/{JOB}").respond_with_json(
        {"id": JOB, "deliveryUrl": None, "components": None, "failed": None, "expiresAt": "", "timestamp": None}
    )

    assert not rules.is_ready(cloud_service(httpserver, clock).job(JOB))


@pytest.mark.parametrize(
    "document",
    [
        cloud_job(id="0123456789abcdef01234567"),
        cloud_job(id=None),
        cloud_job(id="../../etc/passwd"),
        cloud_job(deliveryUrl="https://files.example.net/not-in-a-list.tar.gz"),
        cloud_job(deliveryUrl=[7]),
        cloud_job(failed="perhaps"),
        cloud_job(expiresAt="tomorrow"),
        cloud_job(components=[7]),
        {"results": []},
    ],
)
def test_a_document_that_is_not_of_this_job_or_not_as_documented_is_refused(
    httpserver: HTTPServer, clock: ManualClock, document: dict[str, Any]
):
    httpserver.expect_request(f"{CLOUD}/restoreJobs/{JOB}").respond_with_json(document)

    with pytest.raises(ServiceUnavailableError):
        cloud_service(httpserver, clock).job(JOB)


# several files


def test_one_of_several_files_is_never_taken_for_the_job(httpserver: HTTPServer, clock: ManualClock):
    httpserver.expect_request(f"{CLOUD}/restoreJobs/{JOB}").respond_with_json(three_files())

    with pytest.raises(SeveralFilesError, match=f"3 files.*--batch-id {JOB}") as caught:
        cloud_service(httpserver, clock).job(JOB)

    assert caught.value.batch_id == JOB
    assert isinstance(caught.value, DeliveryUnusableError)


def test_several_files_are_a_batch_in_one_request(httpserver: HTTPServer, clock: ManualClock):
    httpserver.expect_request(f"{CLOUD}/restoreJobs/{JOB}").respond_with_json(three_files())

    files = cloud_service(httpserver, clock).jobs(JOB)

    assert [file.id for file in files] == [f"{JOB}-0", f"{JOB}-1", f"{JOB}-2"]
    assert {file.batch_id for file in files} == {JOB}
    assert [file.replica_set_name for file in files] == list(MEMBERS)
    assert [Offer.of(file).file_name for file in files] == [f"restore-{name}.tar.gz" for name in MEMBERS]
    assert all(rules.is_ready(file) for file in files)
    assert len(httpserver.log) == 1


def test_each_of_several_files_keeps_its_id_when_the_service_changes_their_order(
    httpserver: HTTPServer, clock: ManualClock
):
    document = three_files()
    shuffled = {**document, "components": list(reversed(document["components"]))}
    for one in (document, shuffled):
        httpserver.expect_ordered_request(f"{CLOUD}/restoreJobs/{JOB}").respond_with_json(one)
    service = cloud_service(httpserver, clock)

    before, after = service.job(f"{JOB}-2"), service.job(f"{JOB}-2")

    assert before == after
    assert before.replica_set_name == MEMBERS[2]


def test_urls_without_names_of_replica_sets_are_told_apart_by_their_files(
    httpserver: HTTPServer, clock: ManualClock
):
    urls = [archive_url("restore-b.tar.gz", host="one.example.net"), archive_url("restore-a.tar.gz")]
    httpserver.expect_request(f"{CLOUD}/restoreJobs/{JOB}").respond_with_json(cloud_job(deliveryUrl=urls))

    files = cloud_service(httpserver, clock).jobs(JOB)

    assert [Offer.of(file).file_name for file in files] == ["restore-a.tar.gz", "restore-b.tar.gz"]


def test_a_job_some_of_whose_files_have_no_url_yet_is_not_ready(httpserver: HTTPServer, clock: ManualClock):
    components = [
        {"replicaSetName": MEMBERS[0], "downloadUrl": archive_url()},
        {"replicaSetName": MEMBERS[1], "downloadUrl": None},
    ]
    document = cloud_job(components=components, deliveryUrl=[archive_url()])
    httpserver.expect_request(f"{CLOUD}/restoreJobs/{JOB}").respond_with_json(document)

    (job,) = cloud_service(httpserver, clock).jobs(JOB)

    assert (job.id, job.batch_id) == (JOB, None)
    assert not rules.is_ready(job)


def test_a_file_shares_the_state_of_a_job_whose_urls_are_gone(httpserver: HTTPServer, clock: ManualClock):
    httpserver.expect_request(f"{CLOUD}/restoreJobs/{JOB}").respond_with_json(cloud_job(expired=True))

    file = cloud_service(httpserver, clock).job(f"{JOB}-1")

    assert (file.id, file.batch_id) == (f"{JOB}-1", JOB)
    with pytest.raises(DeliveryExpiredError):
        rules.is_ready(file)


@pytest.mark.parametrize("document", [three_files(), cloud_job(deliveryUrl=[archive_url()])])
def test_a_file_that_the_job_does_not_deliver_is_not_found(
    httpserver: HTTPServer, clock: ManualClock, document: dict[str, Any]
):
    httpserver.expect_request(f"{CLOUD}/restoreJobs/{JOB}").respond_with_json(document)

    with pytest.raises(NotFoundError, match="no file number 3"):
        cloud_service(httpserver, clock).job(f"{JOB}-3")


# lists and orders


def test_every_job_of_the_cluster_is_listed_newest_first(httpserver: HTTPServer, clock: ManualClock):
    older = cloud_job(id="6a0000002c88faeba59eb866", deliveryUrl=[archive_url()])
    newest = cloud_job(id="6b0000002c88faeba59eb866")
    httpserver.expect_request(f"{CLOUD}/restoreJobs").respond_with_json(listed(older, three_files(), newest))

    jobs = cloud_service(httpserver, clock).all_jobs()

    assert [job.id for job in jobs] == [newest["id"], f"{JOB}-0", f"{JOB}-1", f"{JOB}-2", older["id"]]


def test_a_list_of_jobs_is_read_to_its_last_page(httpserver: HTTPServer, clock: ManualClock):
    def page(number: int) -> dict[str, Any]:
        more = [{"rel": "next", "href": ""}] if number < 3 else []
        return listed(cloud_job(id=f"6a000000000000000000000{number}"), links=more, totalCount=3)

    for number in (1, 2, 3):
        query = {"pageNum": str(number), "itemsPerPage": "500"}
        httpserver.expect_ordered_request(f"{CLOUD}/restoreJobs", query_string=query).respond_with_json(
            page(number)
        )

    assert len(cloud_service(httpserver, clock).all_jobs()) == 3
    assert len(httpserver.log) == 3


def test_snapshots_of_a_replica_set_are_listed_newest_first(httpserver: HTTPServer, clock: ManualClock):
    newer = cloud_snapshot(id="6b79468a2c88faeba59de489", createdAt="2026-08-11T03:28:08Z", status="inProgress")
    httpserver.expect_request(f"{CLOUD}/snapshots").respond_with_json(listed(cloud_snapshot(), newer))

    first, second = cloud_service(httpserver, clock).snapshots()

    assert (first.id, first.complete) == (newer["id"], False)
    assert (second.id, second.complete) == (SNAPSHOT, True)
    assert second.created == datetime(2026, 8, 10, 3, 28, 8, tzinfo=UTC)
    assert second.expires == datetime(2026, 8, 11, 3, 29, 21, tzinfo=UTC)
    assert [part.replica_set_name for part in second.parts] == [CLUSTER]
    assert len(httpserver.log) == 1


@pytest.mark.parametrize("first_answer", [(200, listed()), (400, NOT_FOUND), (404, NOT_FOUND)])
def test_snapshots_of_a_sharded_cluster_are_found_at_their_own_place(
    httpserver: HTTPServer, clock: ManualClock, first_answer: tuple[int, dict[str, Any]]
):
    status, document = first_answer
    httpserver.expect_request(f"{CLOUD}/snapshots").respond_with_handler(answers(document, status))
    members = [{"replicaSetName": name, "id": SNAPSHOT, "cloudProvider": "AWS"} for name in MEMBERS]
    sharded = cloud_snapshot(type="shardedCluster", members=members, replicaSetName=None)
    httpserver.expect_request(f"{CLOUD}/snapshots/shardedClusters").respond_with_json(listed(sharded))

    (snapshot,) = cloud_service(httpserver, clock).snapshots()

    assert snapshot.complete
    assert [part.replica_set_name for part in snapshot.parts] == list(MEMBERS)


def test_a_cluster_without_snapshots_has_none(httpserver: HTTPServer, clock: ManualClock):
    httpserver.expect_request(f"{CLOUD}/snapshots").respond_with_json(listed())
    httpserver.expect_request(f"{CLOUD}/snapshots/shardedClusters").respond_with_json(NOT_FOUND, status=404)

    assert cloud_service(httpserver, clock).snapshots() == ()


@pytest.mark.parametrize(("status", "error"), [(403, AuthenticationError), (503, ServiceUnavailableError)])
def test_a_refusal_is_not_taken_for_another_kind_of_cluster(
    httpserver: HTTPServer, clock: ManualClock, status: int, error: type[ApiError]
):
    httpserver.expect_request(f"{CLOUD}/snapshots").respond_with_json({}, status=status)

    with pytest.raises(error):
        cloud_service(httpserver, clock).snapshots()

    assert len(httpserver.log) == 1


def test_a_cluster_that_does_not_exist_is_not_found(httpserver: HTTPServer, clock: ManualClock):
    missing = {"error": 404, "errorCode": "CLUSTER_NOT_FOUND", "detail": "No cluster named Cluster0 exists."}
    httpserver.expect_request(f"{CLOUD}/snapshots").respond_with_json(missing, status=404)
    httpserver.expect_request(f"{CLOUD}/snapshots/shardedClusters").respond_with_json(NOT_FOUND, status=404)

    with pytest.raises(NotFoundError, match="CLUSTER_NOT_FOUND"):
        cloud_service(httpserver, clock).snapshots()


def test_one_snapshot_is_found_of_either_kind(httpserver: HTTPServer, clock: ManualClock):
    httpserver.expect_request(f"{CLOUD}/snapshots/{SNAPSHOT}").respond_with_json(NOT_FOUND, status=404)
    httpserver.expect_request(f"{CLOUD}/snapshots/shardedCluster/{SNAPSHOT}").respond_with_json(cloud_snapshot())

    assert cloud_service(httpserver, clock).snapshot(SNAPSHOT).id == SNAPSHOT


def test_another_snapshot_than_the_one_asked_for_is_refused(httpserver: HTTPServer, clock: ManualClock):
    other = cloud_snapshot(id="0123456789abcdef01234567")
    httpserver.expect_request(f"{CLOUD}/snapshots/{SNAPSHOT}").respond_with_json(other)

    with pytest.raises(ServiceUnavailableError, match="not of the snapshot asked for"):
        cloud_service(httpserver, clock).snapshot(SNAPSHOT)


def test_a_restore_is_ordered_as_a_download(httpserver: HTTPServer, clock: ManualClock):
    httpserver.expect_request(f"{CLOUD}/restoreJobs", method="POST").respond_with_json(cloud_job())

    (job,) = cloud_service(httpserver, clock).create_restore(SNAPSHOT, max_downloads=5, expiration_hours=24)

    request = httpserver.log[0][0]
    assert request.get_json() == {"snapshotId": SNAPSHOT, "deliveryType": "download"}
    assert request.headers["Accept"] == VERSIONED
    assert (job.id, job.snapshot_id) == (JOB, SNAPSHOT)


def test_an_order_that_is_answered_without_an_id_is_no_job(httpserver: HTTPServer, clock: ManualClock):
    httpserver.expect_request(f"{CLOUD}/restoreJobs", method="POST").respond_with_json(cloud_job(id=None))

    with pytest.raises(ServiceUnavailableError):
        cloud_service(httpserver, clock).create_restore(SNAPSHOT, max_downloads=1, expiration_hours=1)


@pytest.mark.parametrize("document", [cloud_job(), three_files()], ids=["waiting", "ready"])
def test_an_order_whose_answer_was_lost_is_found_again(
    httpserver: HTTPServer, clock: ManualClock, document: dict[str, Any]
):
    members = [{"replicaSetName": name, "id": SNAPSHOT, "cloudProvider": "AWS"} for name in MEMBERS]
    sharded = cloud_snapshot(type="shardedCluster", members=members, replicaSetName=None)
    other = cloud_job(id="6b0000002c88faeba59eb866", snapshotId="0123456789abcdef01234567")
    httpserver.expect_request(f"{CLOUD}/snapshots/{SNAPSHOT}").respond_with_json(sharded)
    httpserver.expect_request(f"{CLOUD}/restoreJobs").respond_with_json(listed(other, document))
    service = cloud_service(httpserver, clock)
    ordered = datetime(2026, 8, 10, 3, 40, 30, tzinfo=UTC)

    found = made_for(service.all_jobs(), service.snapshot(SNAPSHOT), ordered)
    too_old = made_for(service.all_jobs(), service.snapshot(SNAPSHOT), ordered + timedelta(hours=1))

    assert {job.batch_id or job.id for job in found} == {JOB}
    assert too_old == ()


def test_only_this_service_says_that_it_publishes_no_hashes(httpserver: HTTPServer, clock: ManualClock):
    assert not cloud_service(httpserver, clock).publishes_hashes
    for name in ("atlas", "atlas-v2", "cloud-manager", "ops-manager"):
        assert legacy_service(httpserver, clock, name).publishes_hashes
