"""`restore-fetch doctor`: what a pull would lack, found beforehand and without a trace."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from restore_fetch import files, receipts
from restore_fetch.cli.exit_codes import exit_code_of
from restore_fetch.doctor import Seen, check_folder, check_pull
from restore_fetch.locking import job_lock
from restore_fetch.sandbox import Sandbox
from restore_fetch.settings import SERVICES
from tests.care_support import put, put_batch, state_of
from tests.command_support import FAST, Ran, assert_no_secret, connection_flags, key_file, run_here
from tests.record_support import journal


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=4096, polls=0) as running:
        yield running
        assert running.errors == []


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    folder = tmp_path / "shelf"
    folder.mkdir()
    return folder


def doctor(capsys: pytest.CaptureFixture[str], sandbox: Sandbox, folder: Path, *arguments: object) -> Ran:
    flags = connection_flags(sandbox, folder)
    ran = run_here(capsys, "doctor", *flags, "--min-free", "0", "--out-dir", folder / "shelf", *arguments)
    assert_no_secret(sandbox, ran.out, ran.err)
    return ran


def found(
    capsys: pytest.CaptureFixture[str], sandbox: Sandbox, folder: Path, *arguments: object
) -> dict[str, dict[str, Any]]:
    """The checks by name; of several of one name the last."""
    document = json.loads(doctor(capsys, sandbox, folder, *arguments, "--json").out)
    return {check["name"]: check for check in document["checks"]}


def states(checks: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: check["state"] for name, check in checks.items()}


def orders(sandbox: Sandbox) -> list[str]:
    return [request.method for request in sandbox.requests if request.method != "GET"]


# --- all is well -----------------------------------------------------------------------------------------


def test_when_all_is_well_it_is_0_and_says_what_would_be_pulled(
    sandbox: Sandbox, tmp_path: Path, shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = sandbox.add_snapshot()
    ran = doctor(capsys, sandbox, tmp_path)
    assert (ran.code, ran.err) == (0, "")
    assert "FAIL" not in ran.out
    checks = found(capsys, sandbox, tmp_path)
    assert states(checks) == {
        **dict.fromkeys(("configuration", "reachability", "authentication", "role", "clock", "folder"), "ok"),
        "space": "warn",  # nothing was pulled yet that tells how much is needed
        "leftovers": "ok",
        "pull": "ok",
    }
    assert newest in checks["pull"]["what"]
    assert "3 archives" in checks["pull"]["what"]
    assert list(shelf.iterdir()) == []


def test_a_pull_that_the_doctor_passed_goes_through_and_is_then_done(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*connection_flags(sandbox, tmp_path), "--out-dir", tmp_path / "shelf"]
    assert doctor(capsys, sandbox, tmp_path).code == 0
    assert run_here(capsys, "pull", *flags, *FAST).code == 0
    checks = found(capsys, sandbox, tmp_path)
    assert "nothing would be done" in checks["pull"]["what"]
    assert states(checks)["space"] == "ok"
    assert set(states(checks).values()) == {"ok"}


def test_it_changes_nothing_and_makes_no_job(
    sandbox: Sandbox, tmp_path: Path, shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_batch(shelf, 10, datetime(2026, 1, 1, tzinfo=UTC))
    (shelf / "x.tar.gz.part").write_bytes(b"half")
    (shelf / "x.tar.gz.part.json").write_bytes(journal(file="x.tar.gz").to_json())
    before = (state_of(shelf), shelf.stat().st_mtime_ns, len(sandbox._service.jobs))
    assert doctor(capsys, sandbox, tmp_path).code == 0
    assert (state_of(shelf), shelf.stat().st_mtime_ns, len(sandbox._service.jobs)) == before
    assert orders(sandbox) == []
    assert sandbox.delivery_gets() == 0


def test_a_folder_that_would_be_made_is_not_made(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = doctor(capsys, sandbox, tmp_path, "--out-dir", tmp_path / "a" / "b")
    assert ran.code == 0
    assert "would be made" in ran.out
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("service", SERVICES)
def test_it_knows_each_service(service: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Sandbox(size_bytes=4096, polls=0, service=service) as sandbox:
        cluster = sandbox.description()["cluster"]
        ran = doctor(capsys, sandbox, tmp_path, "--service", service, "--cluster", cluster)
        assert ran.code == 0, ran.out


def test_it_knows_service_accounts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Sandbox(size_bytes=4096, polls=0, service="atlas-v2") as sandbox:
        secret = tmp_path / "secret"
        secret.write_text(sandbox.client_secret)
        flags = ["--base-url", sandbox.base_url, "--project-id", sandbox.project_id, "--cluster", sandbox.cluster]
        flags += ["--client-id", sandbox.client_id, "--client-secret-file", str(secret), "--service", "atlas-v2"]
        ran = run_here(capsys, "doctor", *flags, "--out-dir", tmp_path / "shelf", "--min-free", "0")
        assert ran.code == 0, ran.out
        assert sandbox.client_id in ran.out
        assert_no_secret(sandbox, ran.out, ran.err)


# --- the configuration -----------------------------------------------------------------------------------


def test_each_value_is_shown_with_its_place_and_a_secret_only_with_its_place(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCLI_PROJECT_ID", sandbox.project_id)
    monkeypatch.setenv("RESTORE_FETCH_CLUSTER", sandbox.cluster)
    monkeypatch.setenv("RESTORE_FETCH_OUT_DIR", str(tmp_path))
    flags = ["--base-url", sandbox.base_url, "--public-key", sandbox.public_key]
    flags += ["--private-key-file", key_file(sandbox, tmp_path)]
    ran = run_here(capsys, "doctor", *flags, "--json")
    settings = json.loads(ran.out)["settings"]
    assert settings["project_id"] == {"value": sandbox.project_id, "source": "MCLI_PROJECT_ID"}
    assert settings["cluster"] == {"value": sandbox.cluster, "source": "RESTORE_FETCH_CLUSTER"}
    assert settings["base_url"] == {"value": sandbox.base_url, "source": "--base-url"}
    assert settings["service"] == {"value": "atlas", "source": "default"}
    assert settings["private_key"] == {"value": None, "source": "--private-key-file"}
    assert settings["out_dir"] == {"value": str(tmp_path), "source": "RESTORE_FETCH_OUT_DIR"}
    text = run_here(capsys, "doctor", *flags, "-vv")
    assert "set, not shown  from --private-key-file" in text.out
    assert_no_secret(sandbox, ran.out, ran.err, text.out, text.err)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (("--cluster", ""), "cluster is missing"),
        (("--private-key-file", "/nonexistent"), "/nonexistent"),
        (("--ca-file", "/nonexistent"), "/nonexistent"),
        (("--profile", "nobody"), "nobody"),
        (("--project-id", "abc"), "24 hexadecimal digits"),
    ],
)
def test_a_configuration_that_lacks_something_is_2_and_the_folder_is_looked_at_all_the_same(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], word: str
) -> None:
    ran = doctor(capsys, sandbox, tmp_path, *change, "--json")
    assert ran.code == 2
    assert word in ran.last
    checks = {check["name"]: check for check in json.loads(ran.out)["checks"]}
    assert (checks["configuration"]["state"], checks["configuration"]["exit_code"]) == ("fail", 2)
    assert {"folder", "space", "leftovers"} <= set(checks)
    assert "pull" not in checks
    assert sandbox.requests == []


# --- the service -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code", "failing", "passing"),
    [
        (("--base-url", "http://127.0.0.1:1"), 12, "reachability", ()),
        (("--public-key", "somebody"), 10, "authentication", ("reachability",)),
        (("--cluster", "NoSuchCluster"), 11, "cluster", ("reachability", "authentication")),
        (("--project-id", "0" * 24), 11, "cluster", ("reachability", "authentication")),
    ],
)
def test_what_the_service_refuses_is_told_apart(
    sandbox: Sandbox,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, str],
    code: int,
    failing: str,
    passing: tuple[str, ...],
) -> None:
    ran = doctor(capsys, sandbox, tmp_path, *change)
    assert ran.code == code
    assert ran.last.startswith("error: ")
    checks = found(capsys, sandbox, tmp_path, *change)
    assert {name for name, state in states(checks).items() if state == "fail"} == {failing}
    assert checks[failing]["exit_code"] == code
    assert checks[failing]["next_step"]
    assert all(checks[name]["state"] == "ok" for name in passing)


def test_a_key_without_the_role_is_known_but_may_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from restore_fetch.errors import AuthenticationError
    from restore_fetch.service import LegacyRestoreService

    def forbid(_: object) -> None:
        raise AuthenticationError("the key is not allowed to do this (403)", status=403, next_step="check the role")

    monkeypatch.setattr(LegacyRestoreService, "all_jobs", forbid)
    with Sandbox(size_bytes=4096) as sandbox:
        checks = found(capsys, sandbox, tmp_path)
        assert (checks["authentication"]["state"], checks["role"]["state"]) == ("ok", "fail")
        assert doctor(capsys, sandbox, tmp_path).code == 10


def test_a_certificate_that_is_not_trusted_is_a_failure_with_a_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Sandbox(size_bytes=4096, tls=True) as sandbox:
        flags = connection_flags(sandbox, tmp_path)
        flags = flags[: flags.index("--ca-file")]
        ran = run_here(capsys, "doctor", *flags, "--out-dir", tmp_path / "shelf", "--min-free", "0")
        assert ran.code == 2
        assert "--ca-file" in ran.last
        assert doctor(capsys, sandbox, tmp_path).code == 0


@pytest.mark.parametrize(("hours", "word"), [(3, "behind"), (-3, "ahead of")])
def test_a_clock_that_is_wrong_is_a_warning(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str], hours: int, word: str
) -> None:
    sandbox.set_clock_offset(hours * 3600)
    checks = found(capsys, sandbox, tmp_path)
    assert checks["clock"]["state"] == "warn"
    assert word in checks["clock"]["what"]
    assert doctor(capsys, sandbox, tmp_path).code == 0


def test_a_cluster_without_a_complete_snapshot_is_11(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for snapshot in list(sandbox._service.snapshots.values()):
        if snapshot.complete:
            sandbox.drop_snapshot(snapshot.id)
    assert doctor(capsys, sandbox, tmp_path).code == 11
    assert found(capsys, sandbox, tmp_path)["pull"]["state"] == "fail"


def test_a_pull_that_was_interrupted_would_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Sandbox(size_bytes=4096, scenario="never-ready") as sandbox:
        flags = [*connection_flags(sandbox, tmp_path), "--cluster", sandbox.replica_set_cluster]
        flags += ["--out-dir", tmp_path / "shelf"]
        assert run_here(capsys, "pull", *flags, *FAST, "--wait", "0").code == 14
        (made,) = [job.id for job in sandbox._service.jobs.values() if not job.snapshot.cluster.sharded]
        ran = doctor(capsys, sandbox, tmp_path, "--cluster", sandbox.replica_set_cluster)
        assert ran.code == 0
        assert f"the pull of restore job {made} would go on" in ran.out


def test_an_archive_of_the_newest_snapshot_that_was_touched_is_told(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = ("--cluster", sandbox.replica_set_cluster)
    flags = [*connection_flags(sandbox, tmp_path), *cluster, "--out-dir", tmp_path / "shelf"]
    assert run_here(capsys, "pull", *flags, *FAST).code == 0
    (archive,) = (tmp_path / "shelf").glob("*.tar.gz")
    later = archive.stat().st_mtime_ns + 10**10
    os.utime(archive, ns=(later, later))
    check = found(capsys, sandbox, tmp_path, *cluster)["pull"]
    assert check["state"] == "warn"
    assert "touched" in check["what"]


# --- the folder ------------------------------------------------------------------------------------------


def test_too_little_space_for_another_pull_like_the_last_is_19(
    sandbox: Sandbox,
    tmp_path: Path,
    shelf: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archives = put_batch(shelf, 10, datetime(2026, 1, 1, tzinfo=UTC))
    put(shelf, 50, datetime(2025, 1, 1, tzinfo=UTC))
    size = sum(path.stat().st_size for path in archives)
    for free, code in ((size - 1, 19), (size, 0)):
        monkeypatch.setattr(files, "free_bytes", lambda _, free=free: free)
        ran = doctor(capsys, sandbox, tmp_path)
        assert ran.code == code, ran.out
    monkeypatch.setattr(files, "free_bytes", lambda _: size)
    ran = doctor(capsys, sandbox, tmp_path, "--min-free", "1")
    assert ran.code == 19
    assert "--min-free" in ran.last


def test_less_than_what_is_to_stay_free_is_19_even_before_the_first_pull(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = doctor(capsys, sandbox, tmp_path, "--min-free", "1000000TB")
    assert ran.code == 19
    assert "free" in ran.last


def test_no_space_is_needed_for_what_is_here(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*connection_flags(sandbox, tmp_path), "--out-dir", tmp_path / "shelf"]
    assert run_here(capsys, "pull", *flags, *FAST).code == 0
    monkeypatch.setattr(files, "free_bytes", lambda _: 0)
    assert doctor(capsys, sandbox, tmp_path).code == 0


def test_a_file_where_the_folder_should_be_is_19(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        ran = doctor(capsys, sandbox, tmp_path, "--out-dir", place)
        assert ran.code == 19, ran.out
        assert "no folder" in ran.last


def test_a_folder_that_cannot_be_written_to_is_19(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever runs the tests may be allowed everything.
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    check, here = check_folder(tmp_path)
    assert (check.state, here) == ("fail", None)
    assert check.error is not None
    assert exit_code_of(check.error) == 19


def test_what_earlier_runs_left_is_told_with_what_to_do(
    sandbox: Sandbox, tmp_path: Path, shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shelf / "x.tar.gz.part.json").write_bytes(journal(file="x.tar.gz").to_json())
    (shelf / "y.tar.gz.unverified").write_bytes(b"y")
    (shelf / "z.tar.gz.rejected").write_bytes(b"z")
    (shelf / "broken.tar.gz.receipt.json").write_bytes(b"{")
    (shelf / f".restore-fetch-prune-{'a' * 24}.json").write_bytes(b"{}")
    with job_lock(shelf, "b" * 24, 0):
        ran = doctor(capsys, sandbox, tmp_path)
        assert ran.code == 0
    warned = [line for line in ran.out.splitlines() if line.startswith("WARN  leftovers")]
    assert len(warned) == 6
    for word in ("x.tar.gz", "y.tar.gz.unverified", "z.tar.gz.rejected", "broken.tar.gz", "prune-a", "b" * 24):
        assert any(word in line for line in warned), word


def test_a_damaged_receipt_of_a_batch_stops_a_pull_and_so_the_doctor(
    sandbox: Sandbox, tmp_path: Path, shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    receipts.batch_receipt_path(shelf, "a" * 24).write_bytes(b"{")
    flags = [*connection_flags(sandbox, tmp_path), "--out-dir", shelf]
    assert doctor(capsys, sandbox, tmp_path).code == 19
    assert run_here(capsys, "pull", *flags, *FAST).code == 19


def test_a_strangers_file_in_the_place_of_the_lock_stops_a_pull_and_so_the_doctor(
    sandbox: Sandbox, tmp_path: Path, shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = sandbox.add_snapshot()
    (shelf / f".restore-fetch-{newest}.lock").write_bytes(b"not empty")
    flags = [*connection_flags(sandbox, tmp_path), "--out-dir", shelf]
    assert doctor(capsys, sandbox, tmp_path).code == 19
    assert run_here(capsys, "pull", *flags, *FAST).code == 19


def test_of_several_failures_the_worst_decides(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = doctor(capsys, sandbox, tmp_path, "--cluster", "NoSuchCluster", "--min-free", "1000000TB")
    assert ran.code == 19
    assert ran.out.count("FAIL") == 2


def test_without_a_snapshot_there_is_nothing_to_pull() -> None:
    check = check_pull(None, Seen((), None), datetime(2026, 1, 1, tzinfo=UTC))
    assert check.state == "fail"
    assert check.error is not None
    assert exit_code_of(check.error) == 11
