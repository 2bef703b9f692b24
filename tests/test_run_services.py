"""Each of the five services, end to end: the real command against a sandbox that plays it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from restore_fetch.sandbox import SCENARIOS, Sandbox
from tests.services_support import command, fetch, run_told

SIZE = 16 * 1024
READY = replace(SCENARIOS["normal"], polls_until_finished=0)
WITH_HASHES = ("atlas", "atlas-v2", "cloud-manager", "ops-manager")


def receipt_of(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*.receipt.json")
    receipt: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return receipt


# services that publish hashes


@pytest.mark.parametrize(
    ("service", "account"),
    [*((name, False) for name in WITH_HASHES), ("atlas-v2", True)],
)
def test_a_job_of_the_service_ends_verified(tmp_path: Path, service: str, account: bool):
    with Sandbox(service=service, size_bytes=SIZE, polls=1) as sandbox:
        ended = fetch(sandbox, tmp_path, sandbox.job_id, account=account)
        archive = sandbox.archive(sandbox.job_id)

        assert ended.code == 0, ended.stderr
        assert ended.stdout == f"{tmp_path / sandbox.file_name(sandbox.job_id)}\n"
        assert sandbox.delivery_gets() == 1
        receipt = receipt_of(tmp_path)
        assert (receipt["service"], receipt["verdict"], receipt["sha1"]) == (service, "verified", archive.sha1)


def test_the_versioned_api_delivers_by_the_header_it_prefers(tmp_path: Path):
    with Sandbox(service="atlas-v2", size_bytes=SIZE) as sandbox:
        job_id = sandbox.add_job(replace(READY, key_place="both"))

        assert fetch(sandbox, tmp_path, job_id).code == 0
        (get,) = [request for request in sandbox.requests if request.server == "delivery"]
        assert "x-restore-key" in get.headers


def test_a_service_account_never_reaches_the_delivery(tmp_path: Path):
    with Sandbox(service="atlas-v2", size_bytes=SIZE) as sandbox:
        assert fetch(sandbox, tmp_path, sandbox.job_id, account=True).code == 0

        deliveries = [request for request in sandbox.requests if request.server == "delivery"]
        assert deliveries
        assert all("authorization" not in request.headers for request in deliveries)


def test_tokens_that_end_during_a_long_wait_are_renewed_unnoticed(tmp_path: Path):
    with Sandbox(service="atlas-v2", size_bytes=SIZE, token_seconds=1) as sandbox:
        job_id = sandbox.add_job(replace(READY, polls_until_finished=8))

        ended = fetch(sandbox, tmp_path, job_id, account=True)

        assert ended.code == 0, ended.stderr
        given = [request for request in sandbox.requests if request.path == "/api/oauth/token"]
        assert len(given) > 1
        assert {request.status for request in given} == {200}


def test_an_account_that_is_refused_ends_with_10_and_is_not_tried_again(tmp_path: Path):
    with Sandbox(service="atlas-v2", size_bytes=SIZE) as sandbox:
        wrong = {"MONGODB_ATLAS_CLIENT_SECRET": "mdb_sa_sk_of_somebody_else"}
        ended = fetch(sandbox, tmp_path, sandbox.job_id, account=True, environ=wrong)

        assert ended.code == 10
        assert "invalid_client" in ended.stderr
        assert "somebody_else" not in ended.stderr
        assert len(sandbox.requests) == 1


def test_a_client_secret_may_be_in_a_file(tmp_path: Path):
    with Sandbox(service="atlas-v2", size_bytes=SIZE) as sandbox:
        secret = tmp_path / "secret"
        secret.write_text(f"{sandbox.client_secret}\n")
        arguments = ("--client-id", sandbox.client_id, "--client-secret-file", str(secret))

        ended = command(sandbox, "status", sandbox.job_id, *arguments, account=False)

        assert ended.code == 0, ended.stderr
        assert any(request.path == "/api/oauth/token" for request in sandbox.requests)


@pytest.mark.parametrize("service", ["atlas", "ops-manager"])
def test_an_account_for_a_service_without_accounts_is_a_configuration_error(tmp_path: Path, service: str):
    with Sandbox(service=service, size_bytes=SIZE) as sandbox:
        ended = fetch(sandbox, tmp_path, sandbox.job_id, account=True)

        assert ended.code == 2
        assert "knows no service accounts" in ended.stderr
        assert sandbox.requests == []


# Cloud Backup


@pytest.mark.parametrize("account", [False, True])
def test_an_archive_of_cloud_backup_is_whole_and_never_called_verified(tmp_path: Path, account: bool):
    with Sandbox(service="atlas-cloud", size_bytes=SIZE, polls=1) as sandbox:
        ended = fetch(sandbox, tmp_path, sandbox.job_id, "--allow-unverified", account=account)

        assert ended.code == 0, ended.stderr
        receipt = receipt_of(tmp_path)
        archive = sandbox.archive(sandbox.job_id)
        content = (tmp_path / receipt["file"]).read_bytes()
        assert hashlib.sha1(content).hexdigest() == archive.sha1 == receipt["sha1"]
        assert receipt["service"] == "atlas-cloud"
        assert receipt["verdict"] != "verified"
        assert (receipt["published_hash"], receipt["checks"]["hash"]) == (None, None)
        assert (receipt["job"]["id"], receipt["job"]["cluster_name"]) == (sandbox.job_id, sandbox.cluster)
        assert sandbox.delivery_gets() == 1


def test_a_hash_that_never_comes_is_not_waited_for(tmp_path: Path):
    with Sandbox(service="atlas-cloud", size_bytes=SIZE) as sandbox:
        job_id = sandbox.add_job(READY)

        # With a wait, this run would take longer than the command is given.
        ended = fetch(sandbox, tmp_path, job_id, "--hash-wait", "1d")

        assert ended.code in (0, 18), ended.stderr
        after = [request for request in sandbox.requests if request.job_id == job_id and request.server == "api"]
        assert len(after) <= 3


@pytest.mark.parametrize(
    ("scenario", "code", "words"),
    [
        ("broken-job", 13, "failed"),
        ("killed-job", 13, "cancelled"),
        ("expired", 15, "EXPIRED"),
        ("not-http", 15, "automated"),
    ],
)
def test_a_job_of_cloud_backup_that_ends_badly_says_how(tmp_path: Path, scenario: str, code: int, words: str):
    with Sandbox(service="atlas-cloud", size_bytes=SIZE, scenario=scenario) as sandbox:
        ended = fetch(sandbox, tmp_path, sandbox.job_id)

        assert ended.code == code, ended.stderr
        assert words in ended.stderr.splitlines()[-1]
        assert list(tmp_path.iterdir()) == []
        assert sandbox.delivery_gets() == 0


def test_a_cut_download_of_cloud_backup_goes_on(tmp_path: Path):
    with Sandbox(service="atlas-cloud", size_bytes=SIZE, scenario="cut-download") as sandbox:
        ended = fetch(sandbox, tmp_path, sandbox.job_id, "--allow-unverified")

        assert ended.code == 0, ended.stderr
        receipt = receipt_of(tmp_path)
        assert receipt["sha1"] == sandbox.archive(sandbox.job_id).sha1
        assert receipt["attempts"][1]["resumed_from"] > 0


def test_one_of_several_files_is_never_fetched_in_place_of_all(tmp_path: Path):
    with Sandbox(service="atlas-cloud", size_bytes=SIZE, polls=1) as sandbox:
        ended = fetch(sandbox, tmp_path, sandbox.batch_id)

        if ended.code != 0:  # all three or nothing
            assert ended.code in (15, 18)
            assert ended.code == 18 or f"--batch-id {sandbox.batch_id}" in ended.stderr
        assert sandbox.delivery_gets() in (0, 3)


def test_a_job_of_cloud_backup_is_shown_without_its_key(tmp_path: Path):
    with Sandbox(service="atlas-cloud", size_bytes=SIZE) as sandbox:
        ended = command(sandbox, "status", sandbox.add_job(READY), "--json", "--out-dir", str(tmp_path))

        assert ended.code == 0, ended.stderr
        shown = json.loads(ended.stdout)
        assert (shown["statusName"], shown["delivery"]["statusName"]) == ("FINISHED", "READY")
        assert "/…/restore-" in shown["delivery"]["url"]


# the command `sandbox`


def test_the_command_sandbox_tells_what_a_client_of_the_service_needs(tmp_path: Path):
    words = (
        "sandbox",
        "--service",
        "atlas-cloud",
        "--size",
        "16KiB",
        "--token-life",
        "30s",
        "--snapshot-every",
        "1h",
    )
    with subprocess.Popen(
        [sys.executable, "-m", "restore_fetch", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            ended = run_told(told, "status", told["job_id"], "--out-dir", str(tmp_path), account=True)
        finally:
            process.terminate()

    assert process.returncode == 0
    assert told["service"] == "atlas-cloud"
    assert ended.code == 0, ended.stderr
    assert told["job_id"] in ended.stdout


def test_the_command_sandbox_knows_the_services():
    done = subprocess.run(
        [sys.executable, "-m", "restore_fetch", "sandbox", "--service", "atlas-v3"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2
    assert "no service is called 'atlas-v3'" in done.stderr
