"""`restore-fetch status`: one look at a job, for people and for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from restore_fetch.sandbox import SCENARIOS, Sandbox
from tests.command_support import FAST, assert_no_secret, connection_flags, run_here

_DOCUMENTED = (
    *("id", "groupId", "clusterId", "clusterName", "snapshotId", "created", "statusName", "pointInTime"),
    *("encryptionEnabled", "timestamp.date", "timestamp.increment"),
    *("delivery.methodName", "delivery.statusName", "delivery.url", "delivery.expires"),
    *("delivery.expirationHours", "delivery.maxDownloads"),
)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=64 * 1024, polls=0) as running:
        yield running


def _rows(out: str) -> dict[str, str]:
    return dict(re.split(r" {2,}", line, maxsplit=1) for line in out.splitlines())


def test_every_documented_element_that_is_present_is_a_row(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = run_here(capsys, "status", sandbox.job_for("both-urls"), *connection_flags(sandbox, tmp_path))
    assert ran.code == 0, ran.err
    rows = _rows(ran.out)
    assert {*_DOCUMENTED, "delivery.urlV2", "delivery.authHeader"} <= set(rows)
    assert (rows["statusName"], rows["delivery.statusName"]) == ("FINISHED", "READY")
    assert rows["pointInTime"] == "false"
    assert not ran.err


def test_what_a_job_does_not_have_is_not_shown(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = run_here(capsys, "status", sandbox.job_for("never-ready"), *connection_flags(sandbox, tmp_path))
    rows = _rows(ran.out)
    assert rows["statusName"] == "IN_PROGRESS"
    assert not {"delivery.url", "delivery.expires", "batchId", "masterKeyUUID", "time left"} & set(rows)
    assert not any("hashes" in name for name in rows)


def test_the_key_in_the_url_and_the_auth_value_are_never_shown(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = connection_flags(sandbox, tmp_path)
    text = run_here(capsys, "status", sandbox.job_for("both-urls"), *flags, "-vv")
    document = run_here(capsys, "status", sandbox.job_for("both-urls"), *flags, "--json")
    assert_no_secret(sandbox, text.out, text.err, document.out, document.err)
    name = sandbox.file_name(sandbox.job_for("both-urls"))
    assert _rows(text.out)["delivery.url"] == f"{sandbox.delivery_url}/…/{name}"
    assert set(json.loads(document.out)["delivery"]["authValue"]) == {"*"}


def test_json_has_the_names_of_the_api_and_what_is_known_here(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = run_here(capsys, "-o", "json", "status", sandbox.job_id, *connection_flags(sandbox, tmp_path))
    document = json.loads(ran.out)
    assert document["id"] == sandbox.job_id
    assert document["timestamp"]["increment"] == 1
    assert document["delivery"]["maxDownloads"] == 2147483647
    assert document["here"]["downloads_used"] == 0
    assert document["here"]["downloads_left"] is None
    assert 0 < document["here"]["seconds_left"] <= 24 * 3600


def test_time_and_downloads_left_are_said_in_words(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = connection_flags(sandbox, tmp_path)
    limited = sandbox.add_job(replace(SCENARIOS["normal"], polls_until_finished=0, max_downloads=5))
    rows = _rows(run_here(capsys, "status", limited, *flags).out)
    assert re.fullmatch(r"\d+h\d\dm|1d00h", rows["time left"])
    assert (rows["downloads used from here"], rows["downloads left"]) == ("0", "5")
    sandbox.expire(limited)
    assert _rows(run_here(capsys, "status", limited, *flags).out)["time left"] == "none: it has expired"
    rows = _rows(run_here(capsys, "status", sandbox.job_id, *flags).out)
    assert rows["downloads left"] == "without limit"


def test_after_a_fetch_the_hash_and_the_download_used_are_shown(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = connection_flags(sandbox, tmp_path)
    job = sandbox.job_for("one-download")
    assert run_here(capsys, "fetch", job, *flags, *FAST, "--out-dir", tmp_path / "here").code == 0
    gets = sandbox.delivery_gets(job)
    rows = _rows(run_here(capsys, "status", job, *flags, "--out-dir", tmp_path / "here").out)
    assert rows["hashes[0].hash"] == sandbox.archive(job).sha1
    assert rows["hashes[0].typeName"] == "SHA1"
    assert (rows["downloads used from here"], rows["downloads left"]) == ("1", "0")
    elsewhere = _rows(run_here(capsys, "status", job, *flags, "--out-dir", tmp_path / "elsewhere").out)
    assert elsewhere["downloads used from here"] == "0"
    assert sandbox.delivery_gets(job) == gets == 1


def test_an_encrypted_job_shows_its_master_key(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = run_here(capsys, "status", sandbox.job_for("encrypted"), *connection_flags(sandbox, tmp_path))
    rows = _rows(ran.out)
    assert rows["encryptionEnabled"] == "true"
    assert len(rows["masterKeyUUID"]) == 36


@pytest.mark.parametrize("scenario", ["broken-job", "expired", "max-downloads", "not-http", "delivery-failed"])
def test_a_job_that_cannot_be_fetched_is_shown_all_the_same(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str], scenario: str
) -> None:
    ran = run_here(capsys, "status", sandbox.job_for(scenario), *connection_flags(sandbox, tmp_path))
    assert ran.code == 0, ran.err
    assert _rows(ran.out)["statusName"] in ("BROKEN", "FINISHED")


@pytest.mark.parametrize(
    ("change", "code", "word"),
    [
        (("--public-key", "somebody"), 10, "401"),
        (("--project-id", "0" * 24), 11, "404"),
        (("--cluster", "NoSuchCluster"), 11, "404"),
        (("--base-url", "http://127.0.0.1:1"), 12, "cannot be reached"),
    ],
)
def test_each_failure_has_its_code_and_one_clear_line(
    sandbox: Sandbox,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, str],
    code: int,
    word: str,
) -> None:
    ran = run_here(capsys, "status", sandbox.job_id, *connection_flags(sandbox, tmp_path), *change)
    assert ran.code == code
    assert not ran.out
    assert ran.err.count("\n") == 1
    assert ran.err.startswith("error: ")
    assert word in ran.err


def test_a_refused_address_and_an_unknown_job_are_told_apart(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = connection_flags(sandbox, tmp_path)
    assert run_here(capsys, "status", sandbox.job_for("forbidden"), *flags).code == 10
    assert run_here(capsys, "status", "f" * 24, *flags).code == 11


def test_a_damaged_record_beside_the_archive_is_told_not_skipped(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.tar.gz.receipt.json").write_text(f'{{"job": {{"id": "{sandbox.job_id}"')
    flags = connection_flags(sandbox, tmp_path)
    ran = run_here(capsys, "status", sandbox.job_id, *flags, "--out-dir", tmp_path)
    assert ran.code == 19
    assert "x.tar.gz.receipt.json" in ran.last


def test_the_same_resource_is_shown_by_cluster_id_at_ops_manager(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*connection_flags(sandbox, tmp_path), "--service", "ops-manager", "--cluster", sandbox.cluster_id]
    ran = run_here(capsys, "status", sandbox.job_id, *flags)
    assert ran.code == 0, ran.err
    assert any(request.path.startswith("/api/public/v1.0/") for request in sandbox.requests)
