"""The sandbox as Cloud Backup: the shape that was recorded, and a life cycle of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from restore_fetch.sandbox import SCENARIOS, SERVICES, Sandbox
from tests.services_support import VERSIONED

SHARED = Path(__file__).parents[2] / "shared" / "api"
READY = replace(SCENARIOS["normal"], polls_until_finished=0)
NOBODY = "0123456789abcdef01234567"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(service="atlas-cloud", size_bytes=16 * 1024, polls=1) as sandbox:
        yield sandbox
        assert sandbox.errors == []


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[httpx.Client]:
    with client_of(sandbox, sandbox.cluster) as client:
        yield client


def client_of(sandbox: Sandbox, cluster: str) -> httpx.Client:
    return httpx.Client(
        base_url=f"{sandbox.base_url}/api/atlas/v2/groups/{sandbox.project_id}/clusters/{cluster}/backup",
        auth=httpx.DigestAuth(sandbox.public_key, sandbox.private_key),
        headers={"Accept": VERSIONED},
        trust_env=False,
    )


def looks(client: httpx.Client, job_id: str, count: int = 4) -> list[dict[str, Any]]:
    return [client.get(f"/restoreJobs/{job_id}").json() for _ in range(count)]


# jobs


def test_a_job_is_ready_once_it_has_a_url_and_never_says_finished(client: httpx.Client, sandbox: Sandbox):
    first, second, third, _ = looks(client, sandbox.job_for("normal"))

    assert (first["deliveryUrl"], "expiresAt" in first) == ([], False)
    assert len(second["deliveryUrl"]) == 1
    assert second == third
    assert "finishedAt" not in second
    assert "components" not in second
    assert not {"hashes", "statusName", "delivery"} & set(second)


def test_the_url_delivers_the_archive_without_any_credentials(client: httpx.Client, sandbox: Sandbox):
    job_id = sandbox.add_job(READY)
    job = client.get(f"/restoreJobs/{job_id}").json()

    answer = httpx.get(job["deliveryUrl"][0], trust_env=False)

    assert answer.content == sandbox.archive(job_id).path.read_bytes()
    assert job["deliveryUrl"][0].endswith(f"/restore-{job['snapshotId']}.tar.gz")
    assert sandbox.file_name(job_id) == f"restore-{job['snapshotId']}.tar.gz"
    assert sandbox.delivery_gets(job_id) == 1


def test_no_hash_appears_after_a_download(client: httpx.Client, sandbox: Sandbox):
    job_id = sandbox.add_job(READY)
    url = client.get(f"/restoreJobs/{job_id}").json()["deliveryUrl"][0]
    digest = sandbox.archive(job_id).sha1
    httpx.get(url, trust_env=False).raise_for_status()

    assert all(digest not in json.dumps(look) for look in looks(client, job_id))


@pytest.mark.parametrize(
    ("scenario", "flag"),
    [
        ("broken-job", "failed"),
        ("killed-job", "cancelled"),
        ("delivery-failed", "failed"),
        ("interrupted", "failed"),
        ("expired", "expired"),
    ],
)
def test_a_job_that_ends_badly_shows_it_by_a_flag(client: httpx.Client, sandbox: Sandbox, scenario: str, flag: str):
    last = looks(client, sandbox.job_for(scenario))[-1]

    assert {name for name in ("failed", "cancelled", "expired") if last[name]} == {flag}
    assert last["deliveryUrl"] == []


def test_a_job_that_is_not_delivered_by_http_restores_into_a_cluster(client: httpx.Client, sandbox: Sandbox):
    last = looks(client, sandbox.job_for("not-http"))[-1]

    assert last["deliveryType"] == "automated"


def test_a_job_expires_when_it_is_told_to(client: httpx.Client, sandbox: Sandbox):
    job_id = sandbox.add_job(READY)
    url = client.get(f"/restoreJobs/{job_id}").json()["deliveryUrl"][0]

    sandbox.expire(job_id)

    assert client.get(f"/restoreJobs/{job_id}").json()["expired"] is True
    assert httpx.get(url, trust_env=False).status_code == 410


def test_a_job_of_a_sharded_cluster_has_a_file_for_each_replica_set(client: httpx.Client, sandbox: Sandbox):
    first, *_, last = looks(client, sandbox.batch_id)

    assert (first["deliveryUrl"], first.get("components")) == ([], None)
    assert len(last["deliveryUrl"]) == 3
    assert [part["downloadUrl"] for part in last["components"]] == last["deliveryUrl"]
    names = [part["replicaSetName"] for part in last["components"]]
    assert names == ["Cluster0-shard-0", "Cluster0-shard-1", "Cluster0-config-0"]
    assert len({url.rsplit("/", 1)[-1] for url in last["deliveryUrl"]}) == 3
    for url, file_id in zip(last["deliveryUrl"], sandbox.jobs_of(sandbox.batch_id), strict=True):
        assert httpx.get(url, trust_env=False).content == sandbox.archive(file_id).path.read_bytes()


def test_each_file_of_a_job_can_behave_by_itself(client: httpx.Client, sandbox: Sandbox):
    job_id = sandbox.add_batch(READY, replace(READY, refusal_status=404), READY)
    urls = client.get(f"/restoreJobs/{job_id}").json()["deliveryUrl"]

    assert [httpx.get(url, trust_env=False).status_code for url in urls] == [200, 404, 200]


def test_a_batch_needs_a_scenario_for_each_file(sandbox: Sandbox):
    with pytest.raises(ValueError, match="3 files, not 1"):
        sandbox.add_batch("normal")


def test_jobs_are_listed_newest_first_and_by_page(client: httpx.Client, sandbox: Sandbox):
    newest = sandbox.add_job(READY)
    whole = client.get("/restoreJobs", params={"itemsPerPage": "500"}).json()
    page = client.get("/restoreJobs", params={"itemsPerPage": "2", "pageNum": "2"}).json()

    assert whole["totalCount"] == len(whole["results"])
    assert whole["results"][0]["id"] == newest
    assert [job["id"] for job in page["results"]] == [job["id"] for job in whole["results"][2:4]]
    assert {link["rel"] for link in page["links"]} == {"self", "previous", "next"}


@pytest.mark.parametrize(("cluster", "files"), [("cluster", 3), ("replica_set_cluster", 1)])
def test_an_order_makes_one_job_for_the_whole_cluster(sandbox: Sandbox, cluster: str, files: int):
    with client_of(sandbox, getattr(sandbox, cluster)) as client:
        kind = "/snapshots/shardedClusters" if files > 1 else "/snapshots"
        newest = next(one for one in client.get(kind).json()["results"] if one["status"] == "completed")
        order = {"snapshotId": newest["id"], "deliveryType": "download"}

        made = client.post("/restoreJobs", json=order).json()

        assert (made["snapshotId"], made["deliveryUrl"]) == (newest["id"], [])
        assert len(looks(client, made["id"])[-1]["deliveryUrl"]) == files


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"snapshotId": 7, "deliveryType": "download"},
        {"snapshotId": NOBODY},
        {"snapshotId": NOBODY, "deliveryType": "automated"},
        {"snapshotId": "short", "deliveryType": "download"},
        [],
    ],
)
def test_an_order_that_cannot_be_is_refused(client: httpx.Client, order: Any):
    assert client.post("/restoreJobs", json=order).status_code == 400


def test_a_snapshot_that_is_still_being_made_cannot_be_ordered(client: httpx.Client, sandbox: Sandbox):
    order = {"snapshotId": sandbox.add_snapshot(complete=False), "deliveryType": "download"}

    answer = client.post("/restoreJobs", json=order)

    assert (answer.status_code, answer.json()["errorCode"]) == (400, "SNAPSHOT_NOT_COMPLETE")
    sandbox.complete_snapshot(order["snapshotId"])
    assert client.post("/restoreJobs", json=order).status_code == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_nothing_here_can_be_changed_or_deleted(client: httpx.Client, method: str):
    assert client.request(method, "/restoreJobs").status_code == 405


def test_other_apis_know_no_cloud_backup(client: httpx.Client, sandbox: Sandbox):
    for prefix in ("/api/atlas/v1.0", "/api/public/v1.0"):
        url = str(client.base_url).replace("/api/atlas/v2", prefix)
        assert client.get(f"{url}restoreJobs").status_code == 404
    assert client.get("/restoreJobs", headers={"Accept": "application/json"}).status_code == 406
    for path in (f"/restoreJobs/{NOBODY}", f"/snapshots/{NOBODY}", "/exports"):
        assert client.get(path).status_code == 404


# snapshots


def test_each_kind_of_cluster_has_its_own_list_of_snapshots(sandbox: Sandbox):
    with client_of(sandbox, sandbox.cluster) as sharded:
        assert sharded.get("/snapshots").json()["results"] == []
        found = sharded.get("/snapshots/shardedClusters").json()["results"]
        assert {one["type"] for one in found} == {"shardedCluster"}
        one = sharded.get(f"/snapshots/shardedCluster/{found[0]['id']}").json()
        assert one == found[0]
        assert sharded.get(f"/snapshots/{found[0]['id']}").status_code == 404
    with client_of(sandbox, sandbox.replica_set_cluster) as single:
        assert single.get("/snapshots/shardedClusters").json()["results"] == []
        found = single.get("/snapshots").json()["results"]
        assert {one["type"] for one in found} == {"replicaSet"}
        assert single.get(f"/snapshots/{found[0]['id']}").json() == found[0]


def test_a_snapshot_comes_is_completed_and_goes(client: httpx.Client, sandbox: Sandbox):
    def statuses() -> dict[str, str]:
        results = client.get("/snapshots/shardedClusters").json()["results"]
        return {one["id"]: one["status"] for one in results}

    snapshot_id = sandbox.add_snapshot(complete=False)
    assert statuses()[snapshot_id] == "inProgress"
    sandbox.complete_snapshot(snapshot_id)
    assert statuses()[snapshot_id] == "completed"
    sandbox.drop_snapshot(snapshot_id)
    assert snapshot_id not in statuses()


def test_snapshots_come_and_go_by_themselves():
    quickly = Sandbox(service="atlas-cloud", size_bytes=16 * 1024, snapshot_seconds=1e-6)
    with quickly as sandbox, client_of(sandbox, sandbox.replica_set_cluster) as client:
        seen = [client.get("/snapshots").json()["results"] for _ in range(20)]

    assert all(len(snapshots) <= 8 for snapshots in seen)
    first, last = ({one["id"] for one in snapshots} for snapshots in (seen[0], seen[-1]))
    assert not first & last, "the first ones are gone"
    # What a list shows first is still being made, and everything else is complete.
    for snapshots in seen:
        assert [one["status"] for one in snapshots] == ["inProgress", *["completed"] * (len(snapshots) - 1)]


# the rest of it


def test_a_sandbox_is_of_one_of_five_services():
    assert SERVICES == ("atlas", "atlas-v2", "atlas-cloud", "cloud-manager", "ops-manager")
    with pytest.raises(ValueError, match="no service is called 'atlas-v3'"):
        Sandbox(service="atlas-v3")


@pytest.mark.parametrize("service", ["cloud-manager", "ops-manager"])
def test_services_that_name_clusters_by_id_are_described_so(service: str):
    with Sandbox(service=service, size_bytes=16 * 1024) as sandbox:
        assert sandbox.description()["service"] == service
        assert sandbox.description()["cluster"] == sandbox.cluster_id


def same_shape(made: Any, recorded: Any, place: str = "") -> None:
    """Hold a document to one that was recorded: the same elements of the same types, null where it is null."""
    assert type(made) is type(recorded), place
    if isinstance(recorded, dict):
        assert set(made) == set(recorded), place
        for name, value in recorded.items():
            same_shape(made[name], value, f"{place}.{name}")
    elif isinstance(recorded, list) and recorded:
        for one in made:
            same_shape(one, recorded[0], f"{place}[]")


@pytest.mark.parametrize(
    ("name", "look"), [("cloud-download-created", 0), ("cloud-download-pending", 0), ("cloud-download-ready", 1)]
)
def test_a_job_looks_as_it_was_recorded(client: httpx.Client, sandbox: Sandbox, name: str, look: int):
    path = SHARED / "recorded" / f"{name}.json"
    if not path.is_file():
        pytest.skip("the recorded answers are not beside the project (shared/api/recorded)")
    job_id = sandbox.add_job(replace(READY, polls_until_finished=1))

    same_shape(looks(client, job_id)[look], json.loads(path.read_text("utf-8"))["body"])


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("/restoreJobs", "PaginatedCloudBackupRestoreJobView"),
        ("/snapshots/shardedClusters", "PaginatedCloudBackupShardedClusterSnapshotView"),
        ("/snapshots", "PaginatedCloudBackupReplicaSetView"),
    ],
)
def test_lists_fit_their_schemas(sandbox: Sandbox, path: str, schema: str):
    document = SHARED / "openapi-backup.yaml"
    if not document.is_file():
        pytest.skip("the OpenAPI document of the backup endpoints is not beside the project (shared/api)")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    components = yaml.load(document.read_text("utf-8"), Loader=loader)["components"]
    # The service was seen to answer with nulls here, which the document does not allow.
    components["schemas"]["DiskBackupSnapshotRestoreJob"]["properties"]["desiredTimestamp"] = {}
    root = {"$ref": f"#/components/schemas/{schema}", "components": components}
    cluster = sandbox.cluster if path != "/snapshots" else sandbox.replica_set_cluster
    with client_of(sandbox, cluster) as client:
        answer = client.get(path, params={"itemsPerPage": "500"}).json()

    assert answer["results"]
    jsonschema.Draft4Validator(root, format_checker=jsonschema.FormatChecker()).validate(answer)
