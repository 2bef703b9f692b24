"""The simulated API, seen by clients that know nothing of it but the documentation."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from restore_fetch.sandbox import SCENARIOS, Sandbox

READY = replace(SCENARIOS["normal"], polls_until_finished=0)
NOBODY = "0123456789abcdef01234567"
ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
V2_TYPE = "application/vnd.atlas.2023-01-01+json"

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=64 * 1024) as sandbox:
        yield sandbox
        assert sandbox.errors == []


@pytest.fixture(scope="module")
def client(sandbox: Sandbox) -> Iterator[httpx.Client]:
    auth = httpx.DigestAuth(sandbox.public_key, sandbox.private_key)
    with httpx.Client(base_url=sandbox.base_url, auth=auth, trust_env=False) as client:
        yield client


def cluster_path(sandbox: Sandbox, cluster: str | None = None, prefix: str = "/api/atlas/v1.0") -> str:
    return f"{prefix}/groups/{sandbox.project_id}/clusters/{cluster or sandbox.cluster}"


def job_path(sandbox: Sandbox, job_id: str) -> str:
    return f"{cluster_path(sandbox)}/restoreJobs/{job_id}"


def order(snapshot_id: str, **delivery: Any) -> dict[str, Any]:
    return {"snapshotId": snapshot_id, "delivery": {"methodName": "HTTP", **delivery}}


def newest_snapshot(client: httpx.Client, sandbox: Sandbox, cluster: str) -> str:
    found = client.get(cluster_path(sandbox, cluster) + "/snapshots").json()["results"]
    return str(found[0]["id"])


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is an error of the documented shape, and give its body."""
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/json"
    body = answer.json()
    assert (body["error"], body["errorCode"]) == (status, code)
    assert body["reason"] == answer.reason_phrase
    assert body["detail"].endswith(".")
    assert isinstance(body["parameters"], list)
    return dict(body)


# The documentation's own request


def documented_curl(sandbox: Sandbox, job_id: str, private_key: str | None = None, *more: str) -> tuple[int, str]:
    url = f"{sandbox.base_url}{job_path(sandbox, job_id)}?pretty=true"
    command = [
        "curl",
        "--silent",
        "--user",
        f"{sandbox.public_key}:{private_key or sandbox.private_key}",
        "--digest",
    ]
    command += ["--header", "Accept: application/json", "--include", "-X", "GET", *more, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout


@needs_curl
def test_the_documented_curl_command_shows_the_job(sandbox: Sandbox):
    code, output = documented_curl(sandbox, sandbox.add_job(READY))

    assert code == 0
    challenge, head, body = re.split(r"\r?\n\r?\n", output, maxsplit=2)
    assert challenge.startswith("HTTP/1.1 401")
    assert head.startswith("HTTP/1.1 200 OK")
    assert json.loads(body)["statusName"] == "FINISHED"
    assert "\n  " in body, "pretty=true indents the document"


@needs_curl
def test_curl_with_a_wrong_key_is_shown_401_and_succeeds_unless_told_to_fail(sandbox: Sandbox):
    job_id = sandbox.add_job(READY)

    code, output = documented_curl(sandbox, job_id, "wrong")

    assert code == 0
    assert output.count("HTTP/1.1 401") == 2
    assert "HTTP/1.1 200" not in output
    assert '"USER_UNAUTHORIZED"' in output
    assert documented_curl(sandbox, job_id, "wrong", "--fail")[0] == 22


@needs_curl
@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
def test_curl_signs_with_either_algorithm(algorithm: str):
    with Sandbox(size_bytes=64 * 1024, digest_algorithms=[algorithm]) as sandbox:
        code, output = documented_curl(sandbox, sandbox.job_id, None, "--fail")

        assert code == 0
        assert f"algorithm={algorithm}" in output


# One job


def test_a_downloaded_job_of_a_batch_has_every_documented_element(client: httpx.Client, sandbox: Sandbox):
    job_id = sandbox.jobs_of(sandbox.add_batch(READY, READY, READY))[0]
    first = client.get(job_path(sandbox, job_id)).json()
    httpx.get(first["delivery"]["url"], trust_env=False).raise_for_status()

    job = client.get(job_path(sandbox, job_id)).json()

    elements = (
        "batchId clusterId clusterName created delivery encryptionEnabled groupId hashes id links pointInTime"
    )
    assert set(job) == {*elements.split(), "snapshotId", "statusName", "timestamp"}
    assert set(job["delivery"]) == {"expirationHours", "expires", "maxDownloads", "methodName", "statusName", "url"}
    assert (job["id"], job["groupId"], job["clusterName"]) == (job_id, sandbox.project_id, sandbox.cluster)
    assert (job["statusName"], job["delivery"]["statusName"]) == ("FINISHED", "READY")
    assert job["encryptionEnabled"] is False
    assert job["pointInTime"] is False
    assert set(job["timestamp"]) == {"date", "increment"}
    assert all(map(ISO.fullmatch, (job["created"], job["delivery"]["expires"], job["timestamp"]["date"])))
    [published] = job["hashes"]
    assert published == {
        "fileName": sandbox.file_name(job_id),
        "hash": sandbox.archive(job_id).sha1,
        "typeName": "SHA1",
    }
    assert job["delivery"]["url"].endswith("/" + published["fileName"])


def test_a_job_outside_a_batch_has_no_batch(client: httpx.Client, sandbox: Sandbox):
    job = client.get(job_path(sandbox, sandbox.add_job(READY))).json()

    assert "batchId" not in job
    assert "masterKeyUUID" not in job


def test_an_encrypted_job_names_its_master_key(client: httpx.Client, sandbox: Sandbox):
    job = client.get(job_path(sandbox, sandbox.add_job(SCENARIOS["encrypted"]))).json()

    assert job["encryptionEnabled"] is True
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", job["masterKeyUUID"])


def test_the_links_of_a_job_lead_to_itself_and_to_its_snapshot(client: httpx.Client, sandbox: Sandbox):
    job = client.get(job_path(sandbox, sandbox.add_job(READY))).json()
    links = {link["rel"]: link["href"] for link in job["links"]}

    assert client.get(links["self"]).json()["id"] == job["id"]
    snapshot = next(href for rel, href in links.items() if rel.endswith("/snapshot"))
    assert client.get(snapshot).json()["id"] == job["snapshotId"]


def test_the_job_is_also_served_by_cluster_identifier_as_cloud_manager_does(client: httpx.Client, sandbox: Sandbox):
    job_id = sandbox.add_job(READY)
    path = cluster_path(sandbox, sandbox.cluster_id, "/api/public/v1.0")

    answer = client.get(f"{path}/restoreJobs/{job_id}")

    assert answer.json()["id"] == job_id
    assert f"{path}/restoreJobs/{job_id}" in answer.json()["links"][0]["href"]
    by_name = client.get(f"{cluster_path(sandbox, prefix='/api/public/v1.0')}/restoreJobs/{job_id}")
    refused(by_name, 404, "CLUSTER_NOT_FOUND")


def test_the_versioned_api_answers_in_the_version_asked_for(client: httpx.Client, sandbox: Sandbox):
    path = f"{cluster_path(sandbox, prefix='/api/atlas/v2')}/restoreJobs/{sandbox.add_job(READY)}"

    answer = client.get(path, headers={"Accept": V2_TYPE})

    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith(V2_TYPE)


@pytest.mark.parametrize("accept", ["application/json", "*/*", "application/vnd.atlas.2022-12-31+json"])
def test_the_versioned_api_needs_a_version(client: httpx.Client, sandbox: Sandbox, accept: str):
    path = f"{cluster_path(sandbox, prefix='/api/atlas/v2')}/restoreJobs/{sandbox.add_job(READY)}"

    refused(client.get(path, headers={"Accept": accept}), 406, "NOT_ACCEPTABLE")


# The shape of answers


def test_answers_are_compact_unless_pretty(client: httpx.Client, sandbox: Sandbox):
    path = job_path(sandbox, sandbox.add_job(READY))

    plain, pretty = client.get(path).text, client.get(path, params={"pretty": "true"}).text

    assert "\n" not in plain
    assert pretty.startswith('{\n  "')
    assert json.loads(plain) == json.loads(pretty)


def test_an_envelope_holds_the_status_and_the_job(client: httpx.Client, sandbox: Sandbox):
    path = job_path(sandbox, sandbox.add_job(READY))

    plain, enveloped = client.get(path).json(), client.get(path, params={"envelope": "true"}).json()

    assert enveloped == {"status": 200, "content": plain}


def test_the_envelope_of_a_list_is_the_list_with_a_status(client: httpx.Client, sandbox: Sandbox):
    path = cluster_path(sandbox) + "/snapshots"

    plain, enveloped = client.get(path).json(), client.get(path, params={"envelope": "true"}).json()

    assert enveloped == {"status": 200, **plain}


def test_errors_come_in_an_envelope_too(client: httpx.Client, sandbox: Sandbox):
    answer = client.get(job_path(sandbox, NOBODY), params={"envelope": "true"})

    assert answer.status_code == 404
    assert answer.json()["status"] == 404
    assert answer.json()["content"]["errorCode"] == "RESTORE_JOB_NOT_FOUND"


def test_even_a_refused_key_comes_in_an_envelope(sandbox: Sandbox):
    url = sandbox.base_url + job_path(sandbox, sandbox.job_id)

    answer = httpx.get(url, params={"envelope": "true"}, trust_env=False)

    assert answer.status_code == 401
    assert answer.json()["status"] == 401
    assert answer.json()["content"]["errorCode"] == "USER_UNAUTHORIZED"


# Refusals


def test_without_a_key_there_is_only_a_challenge(sandbox: Sandbox):
    answer = httpx.get(sandbox.base_url + job_path(sandbox, sandbox.job_id), trust_env=False)

    refused(answer, 401, "USER_UNAUTHORIZED")
    assert all(one.startswith("Digest ") for one in answer.headers.get_list("WWW-Authenticate"))


def test_an_unknown_project_is_not_found(client: httpx.Client, sandbox: Sandbox):
    path = f"/api/atlas/v1.0/groups/{NOBODY}/clusters/{sandbox.cluster}/restoreJobs"

    assert NOBODY in refused(client.get(path), 404, "GROUP_NOT_FOUND")["detail"]


def test_an_unknown_cluster_is_not_found(client: httpx.Client, sandbox: Sandbox):
    body = refused(client.get(cluster_path(sandbox, "Nowhere") + "/restoreJobs"), 404, "CLUSTER_NOT_FOUND")

    assert body["parameters"] == ["Nowhere", sandbox.project_id]


def test_an_unknown_job_is_not_found(client: httpx.Client, sandbox: Sandbox):
    body = refused(client.get(job_path(sandbox, NOBODY)), 404, "RESTORE_JOB_NOT_FOUND")

    assert body["parameters"] == [NOBODY]


def test_a_job_of_another_cluster_is_not_found(client: httpx.Client, sandbox: Sandbox):
    path = f"{cluster_path(sandbox, sandbox.replica_set_cluster)}/restoreJobs/{sandbox.job_id}"

    refused(client.get(path), 404, "RESTORE_JOB_NOT_FOUND")


def test_a_snapshot_of_another_cluster_is_not_found(client: httpx.Client, sandbox: Sandbox):
    snapshot_id = newest_snapshot(client, sandbox, sandbox.cluster)

    path = f"{cluster_path(sandbox, sandbox.replica_set_cluster)}/snapshots/{snapshot_id}"

    refused(client.get(path), 404, "SNAPSHOT_NOT_FOUND")


@pytest.mark.parametrize("path", ["/", "/api/atlas/v1.0", "/api/atlas/v3.0/groups/x/clusters/y/restoreJobs"])
def test_any_other_path_is_not_found(client: httpx.Client, path: str):
    refused(client.get(path), 404, "RESOURCE_NOT_FOUND")


@pytest.mark.parametrize("job_id", ["1", "z" * 24, NOBODY.upper(), NOBODY + "0"])
def test_what_cannot_be_an_identifier_is_a_bad_request(client: httpx.Client, sandbox: Sandbox, job_id: str):
    body = refused(client.get(job_path(sandbox, job_id)), 400, "INVALID_ATTRIBUTE")

    assert body["parameters"] == ["jobId"]


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"pageNum": "0"}, "pageNum"),
        ({"pageNum": "one"}, "pageNum"),
        ({"pageNum": "-1"}, "pageNum"),
        ({"pageNum": "9" * 5000}, "pageNum"),
        ({"itemsPerPage": "0"}, "itemsPerPage"),
        ({"itemsPerPage": "501"}, "itemsPerPage"),
        ({"batchId": "short"}, "batchId"),
    ],
)
def test_a_wrong_query_parameter_is_named(
    client: httpx.Client, sandbox: Sandbox, params: dict[str, str], name: str
):
    answer = client.get(cluster_path(sandbox) + "/restoreJobs", params=params)

    assert refused(answer, 400, "INVALID_ATTRIBUTE")["parameters"] == [name]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_job_can_only_be_read(client: httpx.Client, sandbox: Sandbox, method: str):
    answer = client.request(method, job_path(sandbox, sandbox.job_id), content=b"{}")

    refused(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer.headers["Allow"] == "GET"


def test_the_list_of_jobs_can_be_read_and_added_to(client: httpx.Client, sandbox: Sandbox):
    answer = client.delete(cluster_path(sandbox) + "/restoreJobs")

    refused(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer.headers["Allow"] == "GET, POST"


def test_a_head_request_is_refused_without_a_body(client: httpx.Client, sandbox: Sandbox):
    answer = client.head(job_path(sandbox, sandbox.job_id))

    assert (answer.status_code, answer.content) == (405, b"")
    # The next answer on the same connection would be garbled if a body had been sent.
    assert client.get(cluster_path(sandbox) + "/snapshots").status_code == 200


@pytest.mark.parametrize("length", [None, "9" * 5000, str(1 << 21), "many"])
def test_a_body_without_a_reasonable_length_is_refused(sandbox: Sandbox, length: str | None):
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    host, port = sandbox.base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"POST {cluster_path(sandbox)}/restoreJobs HTTP/1.1\r\n{framing}\r\n\r\n".encode())

        answer = connection.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.1 411 ")
    assert b'"errorCode":"LENGTH_REQUIRED"' in answer


# Lists


def test_a_batch_lists_its_three_jobs(client: httpx.Client, sandbox: Sandbox):
    answer = client.get(cluster_path(sandbox) + "/restoreJobs", params={"batchId": sandbox.batch_id}).json()

    assert answer["totalCount"] == 3
    assert {job["id"] for job in answer["results"]} == set(sandbox.jobs_of(sandbox.batch_id))
    assert {job["batchId"] for job in answer["results"]} == {sandbox.batch_id}
    assert len({job["clusterId"] for job in answer["results"]}) == 3


def test_the_jobs_of_a_batch_are_told_apart_by_their_files(sandbox: Sandbox):
    shard_0, shard_1, config = map(sandbox.file_name, sandbox.jobs_of(sandbox.batch_id))

    assert re.fullmatch(r"Cluster0-shard-0-\d+-[0-9a-f]{24}\.tar\.gz", shard_0)
    assert re.fullmatch(r"Cluster0-shard-1-\d+-[0-9a-f]{24}\.tar\.gz", shard_1)
    assert re.fullmatch(r"config-Cluster0-config-0-[0-9a-f]{24}-\d+-[0-9a-f]{24}\.tar\.gz", config)


def test_an_unknown_batch_is_an_empty_list(client: httpx.Client, sandbox: Sandbox):
    answer = client.get(cluster_path(sandbox) + "/restoreJobs", params={"batchId": NOBODY})

    assert answer.status_code == 200
    assert (answer.json()["results"], answer.json()["totalCount"]) == ([], 0)


def test_every_job_is_on_exactly_one_page(client: httpx.Client, sandbox: Sandbox):
    url: str | None = f"{cluster_path(sandbox)}/restoreJobs?itemsPerPage=20"
    seen: list[str] = []
    while url is not None:
        page = client.get(url).json()
        links = {link["rel"]: link["href"] for link in page["links"]}
        assert ("previous" in links) is bool(seen)
        seen += [job["id"] for job in page["results"]]
        url = links.get("next")

    assert len(seen) == len(set(seen)) == page["totalCount"]
    assert set(sandbox.scenarios.values()) <= set(seen)


def test_the_previous_page_is_where_one_came_from(client: httpx.Client, sandbox: Sandbox):
    def page(url: str) -> tuple[list[str], dict[str, str]]:
        answer = client.get(url).json()
        return [one["id"] for one in answer["results"]], {link["rel"]: link["href"] for link in answer["links"]}

    first, links = page(f"{cluster_path(sandbox)}/snapshots?itemsPerPage=1&completed=all")
    second, onward = page(links["next"])

    assert first != second
    assert page(onward["previous"])[0] == first
    assert page(onward["self"])[0] == second


def test_a_page_beyond_the_last_is_empty(client: httpx.Client, sandbox: Sandbox):
    answer = client.get(cluster_path(sandbox) + "/snapshots", params={"pageNum": 1000}).json()

    assert answer["results"] == []
    assert "next" not in [link["rel"] for link in answer["links"]]


def test_the_count_can_be_left_out_and_stays_out_on_further_pages(client: httpx.Client, sandbox: Sandbox):
    params = {"includeCount": "false", "itemsPerPage": 1}
    first = client.get(cluster_path(sandbox) + "/snapshots", params=params).json()
    second = client.get(next(link["href"] for link in first["links"] if link["rel"] == "next")).json()

    assert "totalCount" not in first
    assert "totalCount" not in second


# Snapshots


def test_only_completed_snapshots_are_listed_the_newest_first(client: httpx.Client, sandbox: Sandbox):
    found = client.get(cluster_path(sandbox) + "/snapshots").json()["results"]

    assert len(found) >= 2
    assert all(snapshot["complete"] for snapshot in found)
    dates = [snapshot["created"]["date"] for snapshot in found]
    assert dates == sorted(dates, reverse=True)


def test_incomplete_snapshots_are_listed_when_asked_for(client: httpx.Client, sandbox: Sandbox):
    def listed(completed: str) -> dict[str, bool]:
        answer = client.get(cluster_path(sandbox) + "/snapshots", params={"completed": completed}).json()
        return {snapshot["id"]: snapshot["complete"] for snapshot in answer["results"]}

    whole, unfinished = listed("true"), listed("false")

    assert set(whole.values()) == {True}
    assert set(unfinished.values()) == {False}
    assert listed("all") == whole | unfinished


def test_the_completed_flag_is_true_false_or_all(client: httpx.Client, sandbox: Sandbox):
    answer = client.get(cluster_path(sandbox) + "/snapshots", params={"completed": "perhaps"})

    assert refused(answer, 400, "INVALID_ATTRIBUTE")["parameters"] == ["completed"]


def test_one_snapshot_is_shown_as_in_the_list(client: httpx.Client, sandbox: Sandbox):
    listed = client.get(cluster_path(sandbox) + "/snapshots").json()["results"][0]

    assert client.get(f"{cluster_path(sandbox)}/snapshots/{listed['id']}").json() == listed


def test_a_snapshot_has_a_part_for_every_member(client: httpx.Client, sandbox: Sandbox):
    def parts(cluster: str) -> list[str]:
        newest = client.get(cluster_path(sandbox, cluster) + "/snapshots").json()["results"][0]
        return [part["typeName"] for part in newest["parts"]]

    assert parts(sandbox.replica_set_cluster) == ["REPLICA_SET"]
    assert sorted(parts(sandbox.cluster)) == ["CONFIG_SERVER_REPLICA_SET", "REPLICA_SET", "REPLICA_SET"]


def test_a_new_snapshot_comes_first(client: httpx.Client, sandbox: Sandbox):
    snapshot_id = sandbox.add_snapshot(sandbox.replica_set_cluster)

    assert newest_snapshot(client, sandbox, sandbox.replica_set_cluster) == snapshot_id


def test_unknown_snapshots_are_not_found(client: httpx.Client, sandbox: Sandbox):
    refused(client.get(f"{cluster_path(sandbox)}/snapshots/{NOBODY}"), 404, "SNAPSHOT_NOT_FOUND")
    refused(client.get(f"{cluster_path(sandbox)}/snapshots/latest"), 400, "INVALID_ATTRIBUTE")


# Creating jobs


def test_restoring_a_replica_set_makes_one_job_without_a_batch(client: httpx.Client, sandbox: Sandbox):
    path = cluster_path(sandbox, sandbox.replica_set_cluster) + "/restoreJobs"
    snapshot_id = newest_snapshot(client, sandbox, sandbox.replica_set_cluster)

    answer = client.post(path, json=order(snapshot_id, maxDownloads=3, expirationHours=2))

    assert answer.status_code == 200
    assert answer.json()["totalCount"] == 1
    [job] = answer.json()["results"]
    assert "batchId" not in job
    assert (job["snapshotId"], job["statusName"]) == (snapshot_id, "IN_PROGRESS")
    assert (job["delivery"]["maxDownloads"], job["delivery"]["expirationHours"]) == (3, 2)
    assert client.get(f"{path}/{job['id']}").json()["id"] == job["id"]


def test_restoring_a_sharded_cluster_makes_a_batch_with_a_job_a_member(client: httpx.Client, sandbox: Sandbox):
    path = cluster_path(sandbox) + "/restoreJobs"

    created = client.post(path, json=order(newest_snapshot(client, sandbox, sandbox.cluster))).json()["results"]

    [batch_id] = {job["batchId"] for job in created}
    assert batch_id != sandbox.batch_id
    assert len({job["clusterId"] for job in created}) == 3
    listed = client.get(path, params={"batchId": batch_id}).json()["results"]
    assert {job["id"] for job in listed} == {job["id"] for job in created} == set(sandbox.jobs_of(batch_id))


def test_a_created_job_finishes_and_can_be_downloaded(client: httpx.Client, sandbox: Sandbox):
    path = cluster_path(sandbox, sandbox.replica_set_cluster) + "/restoreJobs"
    snapshot_id = newest_snapshot(client, sandbox, sandbox.replica_set_cluster)
    job_id = client.post(path, json=order(snapshot_id)).json()["results"][0]["id"]

    looks = [client.get(f"{path}/{job_id}").json() for _ in range(3)]

    assert [job["statusName"] for job in looks] == ["IN_PROGRESS", "IN_PROGRESS", "FINISHED"]
    download = httpx.get(looks[-1]["delivery"]["url"], trust_env=False)
    assert download.content == sandbox.archive(job_id).path.read_bytes()


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b"[" * 100_000, b"[]", b"null", b'"snapshotId"'],
    ids=["empty", "half", "not text", "too deep", "list", "null", "string"],
)
def test_a_body_that_is_no_order_is_a_bad_request(client: httpx.Client, sandbox: Sandbox, body: bytes):
    answer = client.post(cluster_path(sandbox) + "/restoreJobs", content=body)

    assert answer.status_code == 400
    assert answer.json()["errorCode"] in ("INVALID_JSON", "INVALID_ATTRIBUTE")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"snapshotId": None}, "snapshotId"),
        ({"snapshotId": "short"}, "snapshotId"),
        ({"delivery": None}, "delivery.methodName"),
        ({"delivery": {"methodName": "SCP"}}, "delivery.methodName"),
        ({"delivery": {"methodName": "HTTP", "maxDownloads": 0}}, "delivery.maxDownloads"),
        ({"delivery": {"methodName": "HTTP", "maxDownloads": True}}, "delivery.maxDownloads"),
        ({"delivery": {"methodName": "HTTP", "maxDownloads": 1 << 31}}, "delivery.maxDownloads"),
        ({"delivery": {"methodName": "HTTP", "expirationHours": "24"}}, "delivery.expirationHours"),
        ({"delivery": {"methodName": "HTTP", "expirationHours": (1 << 31) - 1}}, "delivery.expirationHours"),
    ],
)
def test_a_wrong_order_names_what_is_wrong(
    client: httpx.Client, sandbox: Sandbox, change: dict[str, Any], name: str
):
    body = order(newest_snapshot(client, sandbox, sandbox.cluster)) | change
    answer = client.post(cluster_path(sandbox) + "/restoreJobs", json=body)

    assert refused(answer, 400, "INVALID_ATTRIBUTE")["parameters"] == [name]


def test_an_incomplete_snapshot_cannot_be_restored(client: httpx.Client, sandbox: Sandbox):
    params = {"completed": "false"}
    [unfinished] = client.get(cluster_path(sandbox) + "/snapshots", params=params).json()["results"]

    answer = client.post(cluster_path(sandbox) + "/restoreJobs", json=order(unfinished["id"]))

    refused(answer, 400, "SNAPSHOT_NOT_COMPLETE")


def test_the_snapshot_to_restore_must_exist(client: httpx.Client, sandbox: Sandbox):
    refused(client.post(cluster_path(sandbox) + "/restoreJobs", json=order(NOBODY)), 404, "SNAPSHOT_NOT_FOUND")


# The service's clock


def test_the_date_header_follows_the_clock_of_the_service():
    with Sandbox(size_bytes=64 * 1024) as sandbox:
        before = httpx.get(sandbox.base_url, trust_env=False).headers["Date"]
        sandbox.set_clock_offset(86400 * 400)
        after = httpx.get(sandbox.base_url, trust_env=False).headers["Date"]

    assert int(after.split()[3]) > int(before.split()[3])
