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


@pytest.mark.parametrize("named", [(), ("--batch-id",)], ids=["job", "batch"])
def test_a_job_of_several_files_is_fetched_as_a_batch(tmp_path: Path, named: tuple[str, ...]):
    with Sandbox(service="atlas-cloud", size_bytes=SIZE, polls=2) as sandbox:
        ended = fetch(sandbox, tmp_path, *named, sandbox.batch_id, "--allow-unverified")

        assert ended.code == 0, ended.stderr
        files = sandbox.jobs_of(sandbox.batch_id)
        paths = {str(tmp_path / sandbox.file_name(file_id)) for file_id in files}
        assert set(ended.stdout.splitlines()) == paths
        for file_id in files:
            content = (tmp_path / sandbox.file_name(file_id)).read_bytes()
            assert hashlib.sha1(content).hexdigest() == sandbox.archive(file_id).sha1
            assert sandbox.delivery_gets(file_id) == 1

        again = fetch(sandbox, tmp_path, *named, sandbox.batch_id, "--allow-unverified")

        assert again.code == 0, again.stderr
        assert set(again.stdout.splitlines()) == paths
        assert sandbox.delivery_gets() == 3


def test_a_job_of_a_single_file_may_be_called_a_batch(tmp_path: Path):
    with Sandbox(service="atlas-cloud", size_bytes=SIZE, polls=1) as sandbox:
        ended = fetch(sandbox, tmp_path, "--batch-id", sandbox.job_id, "--allow-unverified")

        assert ended.code == 0, ended.stderr
        assert ended.stdout == f"{tmp_path / sandbox.file_name(sandbox.job_id)}\n"


def test_a_batch_of_cloud_backup_that_fails_does_not_wait_for_its_files(tmp_path: Path):
    with Sandbox(service="atlas-cloud", size_bytes=SIZE) as sandbox:
        broken = sandbox.add_batch(*[SCENARIOS["broken-job"]] * 3)

        ended = fetch(sandbox, tmp_path, "--batch-id", broken)

        assert ended.code == 13, ended.stderr
        assert "failed" in ended.stderr.splitlines()[-1]


def test_a_batch_of_cloud_backup_that_is_never_ready_ends_with_the_time(tmp_path: Path):
    with Sandbox(service="atlas-cloud", size_bytes=SIZE) as sandbox:
        waiting = sandbox.add_batch(*[SCENARIOS["never-ready"]] * 3)

        assert fetch(sandbox, tmp_path, "--batch-id", waiting, "--wait", "0.2s").code == 14


def test_one_bad_file_of_several_leaves_the_others_to_finish(tmp_path: Path):
    with Sandbox(service="atlas-cloud", size_bytes=SIZE) as sandbox:
        batch_id = sandbox.add_batch(READY, replace(READY, refusal_status=404), READY)

        ended = fetch(sandbox, tmp_path, batch_id, "--allow-unverified")

        assert ended.code == 16, ended.stderr
        assert len(list(tmp_path.glob("*.receipt.json"))) == 2


# pull


@pytest.mark.parametrize("service", ["atlas", "atlas-v2", "atlas-cloud", "cloud-manager", "ops-manager"])
def test_a_pull_of_the_service_creates_and_downloads_once(tmp_path: Path, service: str):
    with Sandbox(service=service, size_bytes=SIZE, polls=1) as sandbox:
        by_hand = ("--out-dir", str(tmp_path), "--poll-interval", "0.05s", "--min-free", "0", "--allow-unverified")
        first = command(sandbox, "pull", *by_hand)
        second = command(sandbox, "pull", *by_hand)

        assert (first.code, second.code) == (0, 0), first.stderr + second.stderr
        assert len(first.stdout.splitlines()) == 3
        assert first.stdout == second.stdout
        assert sandbox.delivery_gets() == 3
        orders = [request for request in sandbox.requests if request.method == "POST" and request.status == 200]
        assert len(orders) == 1


def test_a_pull_of_cloud_backup_that_was_given_up_is_gone_on_with(tmp_path: Path):
    with Sandbox(service="atlas-cloud", size_bytes=SIZE, polls=3) as sandbox:
        by_hand = ("--out-dir", str(tmp_path), "--poll-interval", "0.05s", "--min-free", "0", "--allow-unverified")
        codes = [command(sandbox, "pull", *by_hand, "--wait", "0").code for _ in range(2)]
        last = command(sandbox, "pull", *by_hand)

        assert codes == [14, 14]
        assert last.code == 0, last.stderr
        orders = [request for request in sandbox.requests if request.method == "POST" and request.status == 200]
        assert len(orders) == 1


def test_a_pull_of_a_replica_set_in_cloud_backup_is_one_archive(tmp_path: Path):
    with Sandbox(service="atlas-cloud", size_bytes=SIZE, polls=1) as sandbox:
        ended = command(
            sandbox, "pull", "--cluster", sandbox.replica_set_cluster, "--out-dir", str(tmp_path),
            "--poll-interval", "0.05s", "--min-free", "0", "--allow-unverified", account=True,
        )  # fmt: skip

        assert ended.code == 0, ended.stderr
        assert len(ended.stdout.splitlines()) == 1
        assert receipt_of(tmp_path)["job"]["cluster_name"] == sandbox.replica_set_cluster


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
