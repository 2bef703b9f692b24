"""`restore-fetch status` without a job: the jobs and snapshots of a cluster, and the jobs of a batch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from restore_fetch import receipts
from restore_fetch.sandbox import SCENARIOS, Sandbox
from restore_fetch.settings import SERVICES
from tests.command_support import FAST, Ran, assert_no_secret, connection_flags, run_here

READY = replace(SCENARIOS["normal"], polls_until_finished=0)
_JOBS = "RESTORE JOBS of "
_SNAPSHOTS = "SNAPSHOTS of "


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=4096, polls=0) as running:
        yield running
        assert running.errors == []


def status(capsys: pytest.CaptureFixture[str], sandbox: Sandbox, folder: Path, *arguments: object) -> Ran:
    flags = connection_flags(sandbox, folder)
    return run_here(capsys, "status", *flags, "--out-dir", folder / "shelf", *arguments)


def fetch(capsys: pytest.CaptureFixture[str], sandbox: Sandbox, folder: Path, *arguments: object) -> Ran:
    flags = connection_flags(sandbox, folder)
    return run_here(capsys, *arguments, *flags, *FAST, "--out-dir", folder / "shelf")


def tables(out: str) -> dict[str, list[dict[str, str]]]:
    """Each table by the first word of its title; each row by the names of its columns."""
    found = {}
    for part in out.strip().split("\n\n"):
        title, *lines = part.splitlines()
        head = lines[0] if len(lines) > 1 else ""
        starts = [match.start() for match in re.finditer(r"(?<= {2})\S|^\S", head)]
        ends = [*starts[1:], None]
        rows = [[line[a:b].strip() for a, b in zip(starts, ends, strict=True)] for line in lines]
        found[title.split()[0]] = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    return found


def row_of(rows: list[dict[str, str]], column: str, value: str) -> dict[str, str]:
    (row,) = [row for row in rows if row[column] == value]
    return row


# --- a cluster -------------------------------------------------------------------------------------------


def test_every_job_and_every_snapshot_is_a_row_and_the_newest_is_first(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest_snapshot = sandbox.add_snapshot()
    newest_job = sandbox.add_job(READY)
    ran = status(capsys, sandbox, tmp_path)
    assert (ran.code, ran.err) == (0, "")
    shown = tables(ran.out)
    assert {row["JOB"] for row in shown["RESTORE"]} == set(sandbox._service.jobs)
    created = [row["CREATED"] for row in shown["RESTORE"]]
    assert created == sorted(created, reverse=True)
    assert newest_job in {row["JOB"] for row in shown["RESTORE"] if row["CREATED"] == created[0]}
    taken = [row["TAKEN"] for row in shown["SNAPSHOTS"]]
    assert taken == sorted(taken, reverse=True)
    assert newest_snapshot in {row["SNAPSHOT"] for row in shown["SNAPSHOTS"] if row["TAKEN"] == taken[0]}
    assert all(row["ARCHIVES"] == "3" for row in shown["SNAPSHOTS"])


def test_a_row_says_the_state_the_time_left_and_the_downloads(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limited = sandbox.add_job(replace(READY, max_downloads=5))
    gone = sandbox.add_job(READY)
    assert status(capsys, sandbox, tmp_path, gone).code == 0  # a first look: it is over, and its URL lives
    sandbox.expire(gone)
    rows = tables(status(capsys, sandbox, tmp_path).out)["RESTORE"]
    row = row_of(rows, "JOB", limited)
    assert row["STATE"] == "FINISHED/READY"
    assert re.fullmatch(r"\d+h\d\dm|1d00h", row["TIME LEFT"])
    assert (row["DOWNLOADS"], row["HERE"], row["BATCH"]) == ("0 of 5", "-", "-")
    assert row_of(rows, "JOB", gone)["TIME LEFT"] == "expired"
    assert row_of(rows, "JOB", sandbox.job_for("broken-job"))["STATE"].startswith("BROKEN/")
    assert row_of(rows, "JOB", sandbox.job_for("never-ready"))["TIME LEFT"] == "-"
    assert row_of(rows, "JOB", sandbox.job_id)["DOWNLOADS"] == "0"
    assert row_of(rows, "JOB", sandbox.jobs_of(sandbox.batch_id)[0])["BATCH"] == sandbox.batch_id


@pytest.mark.parametrize(
    ("scenario", "options", "word"),
    [
        ("normal", (), "verified"),
        ("no-hash", ("--hash-wait", "0"), "waiting for its hash"),
        ("no-hash", ("--hash-wait", "0", "--allow-unverified"), "unverified"),
        ("wrong-hash", ("--hash-wait", "5s"), "rejected"),
        ("cut-always", ("--retries", "0"), "in part"),
    ],
)
def test_what_is_here_of_a_job_is_said_in_a_word(
    sandbox: Sandbox,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    scenario: str,
    options: tuple[str, ...],
    word: str,
) -> None:
    job = sandbox.add_job(replace(SCENARIOS[scenario], polls_until_finished=0))
    fetch(capsys, sandbox, tmp_path, "fetch", job, *options)
    gets = sandbox.delivery_gets()
    row = row_of(tables(status(capsys, sandbox, tmp_path).out)["RESTORE"], "JOB", job)
    assert row["HERE"] == word
    assert row["DOWNLOADS"].split()[0] == "1"
    document = json.loads(status(capsys, sandbox, tmp_path, "--json").out)
    (listed,) = [one for one in document["jobs"] if one["id"] == job]
    assert listed["here"]["standing"] == word
    assert listed["here"]["downloads_used"] == 1
    assert sandbox.delivery_gets() == gets, "a look downloads nothing"


def test_an_archive_that_was_changed_or_removed_is_not_called_verified(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(capsys, sandbox, tmp_path, "fetch", sandbox.job_id)
    archive = tmp_path / "shelf" / sandbox.file_name(sandbox.job_id)
    content = archive.read_bytes()
    receipt_written = receipts.receipt_path(archive).stat().st_mtime_ns
    while archive.stat().st_mtime_ns <= receipt_written:  # the clock of a file system ticks slowly
        archive.write_bytes(content[:-1] + b"X")
    rows = tables(status(capsys, sandbox, tmp_path).out)["RESTORE"]
    assert row_of(rows, "JOB", sandbox.job_id)["HERE"] == "changed"
    archive.unlink()
    rows = tables(status(capsys, sandbox, tmp_path).out)["RESTORE"]
    assert row_of(rows, "JOB", sandbox.job_id)["HERE"] == "-"


def test_a_snapshot_is_verified_once_all_of_it_is_here(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = sandbox.add_snapshot()

    def standing() -> str:
        return row_of(tables(status(capsys, sandbox, tmp_path).out)["SNAPSHOTS"], "SNAPSHOT", newest)["HERE"]

    assert standing() == "-"
    assert fetch(capsys, sandbox, tmp_path, "pull", "--index", "0").code == 0
    assert standing() == "in part"
    assert fetch(capsys, sandbox, tmp_path, "pull").code == 0
    assert standing() == "verified"
    next((tmp_path / "shelf").glob("*-shard-1-*.tar.gz")).unlink()
    assert standing() == "in part"


def test_the_snapshot_of_a_replica_set_is_verified_with_its_only_archive(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = ("--cluster", sandbox.replica_set_cluster)
    flags = [*connection_flags(sandbox, tmp_path), *cluster, "--out-dir", tmp_path / "shelf"]
    assert run_here(capsys, "pull", *flags, *FAST).code == 0
    document = json.loads(run_here(capsys, "status", *flags, "--json").out)
    standings = [one["here"]["standing"] for one in document["snapshots"] if one["complete"]]
    assert standings[0] == "verified"
    assert set(standings[1:]) == {None}
    assert [one["here"]["files"] for one in document["jobs"]] == [
        [path.name for path in (tmp_path / "shelf").glob("*.tar.gz")]
    ]


def test_a_cluster_without_jobs_says_so(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = ("--cluster", sandbox.replica_set_cluster)
    for snapshot in list(sandbox._service.snapshots):
        sandbox.drop_snapshot(snapshot)
    ran = status(capsys, sandbox, tmp_path, *cluster)
    assert ran.code == 0
    assert ran.out.count("there is none") == 2
    assert json.loads(status(capsys, sandbox, tmp_path, *cluster, "--json").out) == {"jobs": [], "snapshots": []}


def test_the_document_has_the_names_of_the_api(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(status(capsys, sandbox, tmp_path, "--json").out)
    (job,) = [one for one in document["jobs"] if one["id"] == sandbox.job_id]
    assert job["delivery"]["maxDownloads"] == 2147483647
    assert job["here"]["downloads_left"] is None
    assert 0 < job["here"]["seconds_left"] <= 24 * 3600
    snapshot = document["snapshots"][0]
    assert snapshot["groupId"] == sandbox.project_id
    assert datetime.fromisoformat(snapshot["created"]).tzinfo == UTC
    assert len(snapshot["parts"]) == 3


@pytest.mark.parametrize("form", [(), ("--json",), ("-vv",)])
def test_no_table_shows_a_secret_and_no_look_downloads(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: tuple[str, ...]
) -> None:
    for choice in ((), ("--batch-id", sandbox.batch_id)):
        ran = status(capsys, sandbox, tmp_path, *choice, *form)
        assert ran.code == 0, ran.err
        assert_no_secret(sandbox, ran.out, ran.err)
    assert sandbox.delivery_gets() == 0
    assert not (tmp_path / "shelf").exists(), "a look makes no folder"


def test_a_damaged_record_is_told_and_hides_nothing_else(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(capsys, sandbox, tmp_path, "fetch", sandbox.job_id)
    (tmp_path / "shelf" / "x.tar.gz.receipt.json").write_text('{"half')
    (tmp_path / "shelf" / "batch-abc.txt").write_text("nothing of ours")
    ran = status(capsys, sandbox, tmp_path)
    assert ran.code == 0
    assert "x.tar.gz.receipt.json is damaged" in ran.err
    assert row_of(tables(ran.out)["RESTORE"], "JOB", sandbox.job_id)["HERE"] == "verified"


# --- a batch ---------------------------------------------------------------------------------------------


def test_the_jobs_of_a_batch_are_listed_and_whether_all_of_it_is_here(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choice = ("--batch-id", sandbox.batch_id)
    before = status(capsys, sandbox, tmp_path, *choice)
    assert before.code == 0, before.err
    assert before.out.startswith(f"BATCH {sandbox.batch_id}: 3 jobs, not all of it is here and verified\n")
    assert [row["JOB"] for row in tables(before.out)["BATCH"]] == sorted(sandbox.jobs_of(sandbox.batch_id))
    assert fetch(capsys, sandbox, tmp_path, "fetch", *choice).code == 0
    after = status(capsys, sandbox, tmp_path, *choice)
    assert "3 jobs, all of it is here and verified" in after.out
    assert {row["HERE"] for row in tables(after.out)["BATCH"]} == {"verified"}
    document = json.loads(status(capsys, sandbox, tmp_path, *choice, "--json").out)
    assert (document["batch_id"], document["here"]["complete"]) == (sandbox.batch_id, True)
    assert {name for job in document["jobs"] for name in job["here"]["files"]} == {
        path.name for path in (tmp_path / "shelf").glob("*.tar.gz")
    }


def test_a_batch_that_nobody_knows_is_11(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = status(capsys, sandbox, tmp_path, "--batch-id", "f" * 24)
    assert (ran.code, ran.out) == (11, "")
    assert "batch" in ran.last


# --- services --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_has_its_lists(service: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Sandbox(size_bytes=4096, polls=0, service=service) as sandbox:
        told = sandbox.description()
        flags = [*connection_flags(sandbox, tmp_path), "--service", service, "--cluster", told["cluster"]]
        ran = run_here(capsys, "status", *flags, "--out-dir", tmp_path / "shelf")
        assert ran.code == 0, ran.err
        shown = tables(ran.out)
        assert any(row["JOB"].startswith(sandbox.job_id) for row in shown["RESTORE"])
        assert {"complete"} <= {row["STATE"] for row in shown["SNAPSHOTS"]}
        assert_no_secret(sandbox, ran.out, ran.err)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("--public-key", "somebody"), 10),
        (("--cluster", "NoSuchCluster"), 11),
        (("--base-url", "http://127.0.0.1:1"), 12),
    ],
)
def test_each_failure_has_its_code(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], code: int
) -> None:
    ran = status(capsys, sandbox, tmp_path, *change)
    assert (ran.code, ran.out) == (code, "")
    assert ran.last.startswith("error: ")
