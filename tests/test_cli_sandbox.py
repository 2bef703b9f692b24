"""`restore-fetch sandbox`: a service to rehearse against, used as people would: from outside, by its ready line."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from restore_fetch.cli.signals import Stopped
from restore_fetch.sandbox import SCENARIOS
from tests.command_support import PATIENCE_SECONDS, command_line, run_alone, run_here

_KEYS = {
    *("base_url", "service", "project_id", "cluster", "job_id", "batch_id"),
    *("public_key", "private_key", "ca_file", "scenarios"),
}
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@contextlib.contextmanager
def _serving(*options: object) -> Iterator[dict[str, Any]]:
    """The real command, until it has said that it is ready; stopped with SIGTERM afterwards."""
    with subprocess.Popen(
        command_line("sandbox", "--size", "64KiB", *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            yield json.loads(line)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                rest, said = process.communicate(timeout=PATIENCE_SECONDS)
            finally:
                process.kill()
    assert process.returncode == 0, said
    assert not rest, "one line on stdout, and no more"
    assert "Traceback" not in said


def _variables(ready: Mapping[str, Any]) -> dict[str, str]:
    variables = {
        "RESTORE_FETCH_BASE_URL": ready["base_url"],
        "RESTORE_FETCH_SERVICE": ready["service"],
        "RESTORE_FETCH_PROJECT_ID": ready["project_id"],
        "RESTORE_FETCH_CLUSTER": ready["cluster"],
        "RESTORE_FETCH_PUBLIC_KEY": ready["public_key"],
        "MONGODB_ATLAS_PRIVATE_API_KEY": ready["private_key"],
        "RESTORE_FETCH_POLL_INTERVAL": "0.05s",
        "RESTORE_FETCH_MIN_FREE": "0",
    }
    return variables | ({"RESTORE_FETCH_CA_FILE": ready["ca_file"]} if ready["ca_file"] else {})


def test_the_ready_line_is_all_that_a_client_needs(tmp_path: Path) -> None:
    with _serving() as ready:
        assert set(ready) >= _KEYS
        assert set(ready["scenarios"]) == set(SCENARIOS)
        assert ready["ca_file"] is None
        assert ready["job_id"] == ready["scenarios"]["normal"]
        ran = run_alone("fetch", ready["job_id"], env=_variables(ready), cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert (tmp_path / ran.out.strip()).is_file()


def test_a_stopped_sandbox_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with _serving():
        assert list(tmp_path.iterdir()), "its archives are somewhere while it serves"
    assert list(tmp_path.iterdir()) == []


def test_a_port_can_be_chosen() -> None:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, delivery_port = one.getsockname()[1], other.getsockname()[1]
    with _serving("--port", port, "--delivery-port", delivery_port) as ready:
        assert ready["base_url"] == f"http://127.0.0.1:{port}"
        for number in (port, delivery_port):
            socket.create_connection(("127.0.0.1", number), timeout=PATIENCE_SECONDS).close()


def test_a_port_that_is_taken_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ran = run_here(capsys, "sandbox", "--port", taken.getsockname()[1])
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: cannot listen on 127.0.0.1")
    assert ran.err.count("\n") == 1


def test_over_tls_the_real_client_trusts_it_by_its_ca_file_only(tmp_path: Path) -> None:
    pytest.importorskip("trustme")
    with _serving("--tls") as ready:
        assert ready["base_url"].startswith("https://127.0.0.1:")
        variables = _variables(ready)
        ran = run_alone("fetch", ready["job_id"], env=variables, cwd=tmp_path)
        assert ran.code == 0, ran.err
        stranger = run_alone("status", ready["job_id"], env=variables | {"RESTORE_FETCH_CA_FILE": ""}, cwd=tmp_path)
    assert stranger.code == 2
    assert "--ca-file" in stranger.last


def test_a_real_folder_is_packed_and_arrives_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "journal").mkdir(parents=True)
    (folder / "WiredTiger").write_text("WiredTiger\n")
    (folder / "journal" / "WiredTigerLog.0000000001").write_bytes(bytes(range(256)) * 16)
    with _serving("--snapshot", folder) as ready:
        ran = run_alone("fetch", ready["job_id"], env=_variables(ready), cwd=tmp_path)
    assert ran.code == 0, ran.err
    with tarfile.open(tmp_path / ran.out.strip()) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    for original in (path for path in folder.rglob("*") if path.is_file()):
        (found,) = (tmp_path / "unpacked").rglob(original.name)
        assert found.read_bytes() == original.read_bytes()


def test_every_named_scenario_can_be_started(capsys: pytest.CaptureFixture[str]) -> None:
    listed = run_here(capsys, "sandbox", "--list-scenarios")
    assert [line.split()[0] for line in listed.out.splitlines()] == list(SCENARIOS)
    for scenario in SCENARIOS.values():
        assert f"{scenario.name} " in listed.out
        assert scenario.summary in listed.out
    named = json.loads(run_here(capsys, "sandbox", "--list-scenarios", "--json").out)
    assert list(named) == list(SCENARIOS)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_chosen_is_played_by_job_id(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_at_once() -> None:
        raise Stopped(signal.SIGINT)

    monkeypatch.setattr("restore_fetch.cli.sandbox._serve_until_stopped", stop_at_once)
    ran = run_here(capsys, "sandbox", "--scenario", name, "--size", "16KiB")
    ready = json.loads(ran.out)
    assert ran.code == 0
    assert ready["job_id"] == ready["scenarios"][name]


@pytest.mark.parametrize(
    "arguments",
    [("--scenario", "nothing"), ("--snapshot", "/no/such/folder"), ("--port", "99999"), ("--size", "big"), ("x",)],
)
def test_what_cannot_be_served_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    ran = run_here(capsys, "sandbox", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1


# --- the documentation's own request ---------------------------------------------------------------------


def _curl(ready: Mapping[str, Any], query: str = "", private_key: str | None = None) -> tuple[int, str, str]:
    """The request of the endpoint's documentation, word for word; status, header and body of the last answer."""
    url = (
        f"{ready['base_url']}/api/atlas/v1.0/groups/{ready['project_id']}/clusters/{ready['cluster']}"
        f"/restoreJobs/{ready['job_id']}{query}"
    )
    key = private_key or ready["private_key"]
    done = subprocess.run(
        ["curl", "--silent", "--noproxy", "*", "--user", f"{ready['public_key']}:{key}", "--digest",
         "--header", "Accept: application/json", "--include", "-X", "GET", url],
        capture_output=True, timeout=PATIENCE_SECONDS, check=True,
    )  # fmt: skip
    *_, header, body = done.stdout.decode().split("\r\n\r\n")
    return int(header.rpartition("HTTP/1.1 ")[2][:3]), header, body


@needs_curl
def test_the_documented_request_is_answered_as_documented() -> None:
    with _serving("--polls", "0", "--scenario", "both-urls") as ready:
        status, header, body = _curl(ready, "?pretty=true")
        assert status == 200
        assert "application/json" in header.lower()
        job = json.loads(body)
        assert {"id", "groupId", "clusterId", "snapshotId", "created", "statusName", "delivery", "links"} <= set(
            job
        )
        assert {"methodName", "statusName", "url", "expires", "expirationHours", "maxDownloads"} <= set(
            job["delivery"]
        )
        assert job["id"] == ready["job_id"]
        assert body.count("\n") > 10, "pretty=true is for people"

        status, _, plain = _curl(ready)
        assert (status, plain.strip().count("\n")) == (200, 0)

        status, _, body = _curl(ready, "?envelope=true&pretty=true")
        assert status == 200
        enveloped = json.loads(body)
        assert set(enveloped) == {"status", "content"}
        assert (enveloped["status"], enveloped["content"]["id"]) == (200, ready["job_id"])


@needs_curl
def test_the_documented_request_with_a_wrong_key_is_refused() -> None:
    with _serving() as ready:
        status, _, body = _curl(ready, "?pretty=true", private_key="wrong")
    assert status == 401
    assert json.loads(body)["error"] == 401
