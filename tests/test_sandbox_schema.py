"""Every answer of the simulated API against the schemas of the published OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from restore_fetch.sandbox import SCENARIOS, Sandbox

OPENAPI = Path(__file__).parents[2] / "shared" / "api" / "openapi-backup.yaml"
READY = replace(SCENARIOS["normal"], polls_until_finished=0)
NOBODY = "0123456789abcdef01234567"

Check = Callable[[Any, str], None]


@pytest.fixture(scope="module")
def components() -> dict[str, Any]:
    if not OPENAPI.is_file():
        pytest.skip("the OpenAPI document of the backup endpoints is not beside the project (shared/api)")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    schemas = yaml.load(OPENAPI.read_text(encoding="utf-8"), Loader=loader)["components"]["schemas"]
    # Where the document is at odds with what the service was seen to answer, the service is right:
    # an increment counts from 1, and the parameters of an error are text and numbers.
    del schemas["ApiBSONTimestampView"]["properties"]["increment"]["minimum"]
    del schemas["ApiError"]["properties"]["parameters"]["items"]
    # This one element is documented for the older version of the API only.
    schemas["BackupRestoreJob"]["properties"]["pointInTime"] = {"type": "boolean"}
    return {"schemas": {name: closed(schema) for name, schema in schemas.items()}}


def closed(schema: Any) -> Any:
    """A schema in JSON Schema's words, which knows no elements but its own and none that are only written."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: closed(one) for name, one in schema.items()}
    if schema.get("nullable") is True:
        schema["type"] = [schema["type"], "null"]
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        shown = {name: one for name, one in schema["properties"].items() if one.get("writeOnly") is not True}
        schema |= {"properties": shown, "additionalProperties": False}
    return schema


@pytest.fixture(scope="module")
def check(components: dict[str, Any]) -> Check:
    def check(document: Any, schema: str) -> None:
        root = {"$ref": f"#/components/schemas/{schema}", "components": components}
        jsonschema.Draft4Validator(root, format_checker=jsonschema.FormatChecker()).validate(document)

    return check


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=64 * 1024, polls=1) as sandbox:
        yield sandbox
        assert sandbox.errors == []


@pytest.fixture(scope="module")
def client(sandbox: Sandbox) -> Iterator[httpx.Client]:
    auth = httpx.DigestAuth(sandbox.public_key, sandbox.private_key)
    base = f"{sandbox.base_url}/api/atlas/v1.0/groups/{sandbox.project_id}/clusters/{sandbox.cluster}"
    with httpx.Client(base_url=base, auth=auth, trust_env=False) as client:
        yield client


def test_the_schemas_would_notice_a_wrong_job(check: Check):
    for document in ({}, {"delivery": {"methodName": "FAX"}}, {"delivery": {"methodName": "HTTP"}, "name": "x"}):
        with pytest.raises(jsonschema.ValidationError):
            check(document, "BackupRestoreJob")


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name not in ("unknown-status", "nonsense")])
def test_every_look_at_a_job_fits_its_schema(check: Check, client: httpx.Client, sandbox: Sandbox, scenario: str):
    path = f"/restoreJobs/{sandbox.add_job(SCENARIOS[scenario])}"
    for _ in range(4):
        try:
            answer = client.get(path)
        except httpx.RemoteProtocolError:
            continue
        if answer.headers["Content-Type"] == "application/json":
            check(answer.json(), "BackupRestoreJob" if answer.status_code == 200 else "ApiError")


@pytest.mark.parametrize("key_place", ["path", "header", "both"])
def test_a_downloaded_job_fits_its_schema(check: Check, client: httpx.Client, sandbox: Sandbox, key_place: Any):
    path = f"/restoreJobs/{sandbox.add_job(replace(READY, key_place=key_place))}"
    delivery = client.get(path).json()["delivery"]
    headers = {delivery["authHeader"]: delivery["authValue"]} if "authHeader" in delivery else {}
    url = delivery.get("urlV2", delivery.get("url"))
    httpx.get(url, headers=headers, trust_env=False).raise_for_status()

    job = client.get(path).json()

    assert len(job["hashes"]) == 1
    check(job, "BackupRestoreJob")


@pytest.mark.parametrize(
    "params",
    [{}, {"includeCount": "false"}, {"itemsPerPage": "2", "pageNum": "2"}, {"batchId": NOBODY}],
    ids=["all", "not counted", "page", "empty"],
)
def test_a_list_of_jobs_fits_its_schema(
    check: Check, client: httpx.Client, sandbox: Sandbox, params: dict[str, str]
):
    # The one scenario that shows a status nobody has heard of shows it in the list as well.
    document = client.get("/restoreJobs", params=params).json()
    document["results"] = [job for job in document["results"] if job["id"] != sandbox.job_for("unknown-status")]

    check(document, "PaginatedRestoreJobView")


def test_a_batch_fits_its_schema(check: Check, client: httpx.Client, sandbox: Sandbox):
    document = client.get("/restoreJobs", params={"batchId": sandbox.batch_id}).json()

    assert len(document["results"]) == 3
    check(document, "PaginatedRestoreJobView")


def test_created_jobs_fit_their_schema(check: Check, client: httpx.Client):
    snapshot_id = client.get("/snapshots").json()["results"][0]["id"]
    order = {"snapshotId": snapshot_id, "delivery": {"methodName": "HTTP"}}

    check(client.post("/restoreJobs", json=order).json(), "PaginatedRestoreJobView")


def test_snapshots_fit_their_schema(check: Check, client: httpx.Client):
    document = client.get("/snapshots", params={"completed": "all"}).json()

    check(document, "PaginatedSnapshotView")
    for snapshot in document["results"]:
        check(client.get(f"/snapshots/{snapshot['id']}").json(), "BackupSnapshot")
    assert any("masterKeyUUID" in part for snapshot in document["results"] for part in snapshot["parts"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/restoreJobs/short", 400),
        ("POST", "/restoreJobs", 400),
        ("GET", "/restoreJobs?pageNum=0", 400),
        ("GET", f"/restoreJobs/{NOBODY}", 404),
        ("GET", f"/snapshots/{NOBODY}", 404),
        ("GET", "/nothing", 404),
        ("DELETE", "/snapshots", 405),
    ],
)
def test_errors_fit_their_schema(check: Check, client: httpx.Client, method: str, path: str, status: int):
    answer = client.request(method, path)

    assert answer.status_code == status
    check(answer.json(), "ApiError")
    assert answer.headers["X-Error-Code"] == answer.json()["errorCode"]


def test_a_refused_key_and_a_missing_version_fit_the_schema_of_errors(
    check: Check, client: httpx.Client, sandbox: Sandbox
):
    refused = httpx.get(sandbox.base_url, trust_env=False)
    unversioned = client.get(str(client.base_url).replace("/v1.0/", "/v2/") + "snapshots")

    assert (refused.status_code, unversioned.status_code) == (401, 406)
    check(refused.json(), "ApiError")
    check(unversioned.json(), "ApiError")


def test_a_rate_limited_answer_says_how_long_to_wait(check: Check, client: httpx.Client, sandbox: Sandbox):
    answer = client.get(f"/restoreJobs/{sandbox.add_job(SCENARIOS['rate-limited'])}")

    assert answer.status_code == 429
    check(answer.json(), "ApiError")
    numbers = [answer.headers[name] for name in ("Retry-After", "RateLimit-Limit", "RateLimit-Remaining")]
    assert all(re.fullmatch(r"\d+", number) for number in numbers)
