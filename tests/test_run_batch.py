"""`restore-fetch fetch --batch-id`, as a user runs it."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from restore_fetch.sandbox import SCENARIOS, Sandbox
from tests.batch_support import end, expected_paths, lists, run, served, single_looks, start
from tests.delivery_support import memory_folder

READY = replace(SCENARIOS["normal"], polls_until_finished=0)
WRONG = replace(READY, hash_kind="wrong")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=4096) as sandbox:
        yield sandbox
        assert sandbox.errors == []


def fetch(sandbox: Sandbox, out_dir: Path, batch_id: str, *arguments: str) -> Any:
    return run(sandbox, out_dir, "fetch", "--batch-id", batch_id, *arguments)


def gets(sandbox: Sandbox, batch_id: str) -> list[int]:
    return [sandbox.delivery_gets(job_id) for job_id in sandbox.jobs_of(batch_id)]


# All of it


def test_every_part_of_a_sharded_cluster_is_fetched_and_the_second_run_asks_nobody(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    batch_id = sandbox.add_batch("normal", "late-hash", "normal")
    listed, looked = len(lists(sandbox)), len(single_looks(sandbox))
    ran = fetch(sandbox, tmp_path, batch_id)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == expected_paths(sandbox, tmp_path, batch_id)
    assert gets(sandbox, batch_id) == [1, 1, 1]
    assert len(lists(sandbox)) > listed
    assert len(single_looks(sandbox)) == looked
    asked = len(sandbox.requests)
    again = fetch(sandbox, tmp_path, batch_id)
    assert (again.code, again.out) == (0, ran.out)
    assert len(sandbox.requests) == asked


def test_the_receipt_of_a_batch_says_which_part_is_which_file(sandbox: Sandbox, tmp_path: Path) -> None:
    batch_id = sandbox.add_batch(READY, READY, READY)
    ran = fetch(sandbox, tmp_path, batch_id, "--json")
    assert ran.code == 0, ran.err
    receipts = ran.document["receipts"]
    assert [receipt["job"]["id"] for receipt in receipts] == sorted(sandbox.jobs_of(batch_id))
    assert {receipt["verdict"] for receipt in receipts} == {"verified"}
    receipt = json.loads((tmp_path / f"batch-{batch_id}.receipt.json").read_bytes())
    assert (receipt["schema"], receipt["verdict"]) == ("restore-fetch/batch-receipt/v1", "verified")
    assert (receipt["batch_id"], receipt["cluster_name"]) == (batch_id, sandbox.cluster)
    assert receipt["snapshot_id"] == receipts[0]["job"]["snapshot_id"]
    members = {member["member"]: member for member in receipt["members"]}
    assert sorted(members) == ["Cluster0-config-0", "Cluster0-shard-0", "Cluster0-shard-1"]
    assert members["Cluster0-config-0"]["type_name"] == "CONFIG_SERVER_REPLICA_SET"
    shards = sandbox.jobs_of(batch_id)
    for name, job_id in zip(["Cluster0-shard-0", "Cluster0-shard-1", "Cluster0-config-0"], shards, strict=True):
        member = members[name]
        assert member["job_id"] == job_id
        assert member["file"] == sandbox.file_name(job_id)
        assert member["sha1"] == sandbox.archive(job_id).sha1
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {0o600}
    assert not list(tmp_path.glob(".restore-fetch-*"))


def test_a_batch_of_250_is_verified_with_at_most_one_list_request_a_poll(tmp_path: Path) -> None:
    poll_seconds = 0.5
    with Sandbox(size_bytes=1024, shards=249) as sandbox, memory_folder(tmp_path) as out_dir:
        began = time.monotonic()
        ran = fetch(sandbox, out_dir, sandbox.batch_id, "--poll-interval", "0.5s", "--parallel", "4", "--quiet")
        polls = math.ceil((time.monotonic() - began) / poll_seconds)
        assert ran.code == 0, ran.err
        assert ran.out.splitlines() == expected_paths(sandbox, out_dir, sandbox.batch_id)
        assert set(gets(sandbox, sandbox.batch_id)) == {1}
        assert 0 < len(lists(sandbox)) <= polls
        assert len(served(sandbox)) == len(lists(sandbox))
        asked = len(sandbox.requests)
        again = fetch(sandbox, out_dir, sandbox.batch_id)
        assert (again.code, again.out) == (0, ran.out)
        assert len(sandbox.requests) == asked
        assert sandbox.errors == []


def test_a_service_that_cannot_answer_now_is_asked_again(sandbox: Sandbox, tmp_path: Path) -> None:
    batch_id = sandbox.add_batch("unavailable", "dropped", "nonsense")
    ran = fetch(sandbox, tmp_path, batch_id)
    assert ran.code == 0, ran.err
    assert gets(sandbox, batch_id) == [1, 1, 1]


def test_progress_can_be_followed_by_machines(sandbox: Sandbox, tmp_path: Path) -> None:
    batch_id = sandbox.add_batch(READY, WRONG, READY)
    ran = fetch(sandbox, tmp_path, batch_id, "--log-format", "json", "--hash-wait", "0", "--retries", "0")
    lines = [json.loads(line) for line in ran.err.splitlines()]
    assert {line["event"] for line in lines} >= {"batch", "download", "verified", "member-failed", "failed"}
    assert (lines[-1]["event"], lines[-1]["exit_code"], lines[-1]["error"]) == ("failed", 17, "BatchError")


# What fails


def test_one_bad_part_gives_17_and_all_others_are_verified(sandbox: Sandbox, tmp_path: Path) -> None:
    batch_id = sandbox.add_batch(READY, WRONG, READY)
    first, bad, last = sandbox.jobs_of(batch_id)
    ran = fetch(sandbox, tmp_path, batch_id)
    assert ran.code == 17
    good = [path for path in expected_paths(sandbox, tmp_path, batch_id) if bad not in path]
    assert ran.out.splitlines() == good
    assert ran.last_line.startswith("error: 1 of 3 jobs")
    assert bad in ran.last_line
    assert first not in ran.last_line
    assert last not in ran.last_line
    assert (tmp_path / f"{sandbox.file_name(bad)}.rejected").exists()
    assert not (tmp_path / sandbox.file_name(bad)).exists()
    assert not list(tmp_path.glob("batch-*"))
    again = fetch(sandbox, tmp_path, batch_id, "--hash-wait", "0.3s")
    assert (again.code, again.out) == (17, ran.out)
    assert gets(sandbox, batch_id) == [1, 2, 1]


def test_the_worst_of_several_failures_is_the_exit_code(sandbox: Sandbox, tmp_path: Path) -> None:
    batch_id = sandbox.add_batch("never-ready", "broken-job", replace(READY, hash_kind="none"))
    ran = fetch(sandbox, tmp_path, batch_id, "--wait", "1s", "--hash-wait", "0")
    assert (ran.code, ran.out) == (18, "")
    assert "3 of 3 jobs" in ran.last_line
    assert all(job_id in ran.last_line for job_id in sandbox.jobs_of(batch_id))
    batch_id = sandbox.add_batch("never-ready", "broken-job", READY)
    ran = fetch(sandbox, tmp_path, batch_id, "--wait", "1s")
    assert ran.code == 13
    assert len(ran.out.splitlines()) == 1


def test_what_is_verified_stays_so_when_the_jobs_have_expired(sandbox: Sandbox, tmp_path: Path) -> None:
    batch_id = sandbox.add_batch(READY, WRONG, READY)
    fetch(sandbox, tmp_path, batch_id)
    for job_id in sandbox.jobs_of(batch_id):
        sandbox.expire(job_id)
    ran = fetch(sandbox, tmp_path, batch_id)
    assert ran.code == 15
    assert len(ran.out.splitlines()) == 2
    assert gets(sandbox, batch_id) == [1, 1, 1]


def test_a_batch_that_nobody_knows_is_11(sandbox: Sandbox, tmp_path: Path) -> None:
    ran = fetch(sandbox, tmp_path, "0" * 24)
    assert (ran.code, ran.out) == (11, "")
    assert "--batch-id" in ran.last_line


def test_a_part_that_another_run_works_on_is_left_to_it(sandbox: Sandbox, tmp_path: Path) -> None:
    slow = replace(READY, bytes_per_second=2000)
    batch_id = sandbox.add_batch(READY, slow, READY)
    job_id = sandbox.jobs_of(batch_id)[1]
    other = start(sandbox, tmp_path, "fetch", job_id)
    try:
        wait_for(tmp_path / f".restore-fetch-{job_id}.lock")
        ran = fetch(sandbox, tmp_path, batch_id)
        assert ran.code == 20
        assert job_id in ran.last_line
        assert len(ran.out.splitlines()) == 2
    finally:
        other.terminate()
        end(other)


# Some of it


def test_a_pattern_chooses_by_names_that_are_known_only_later(sandbox: Sandbox, tmp_path: Path) -> None:
    batch_id = sandbox.add_batch("normal", "normal", "normal")
    shard_1 = sandbox.jobs_of(batch_id)[1]
    ran = fetch(sandbox, tmp_path, batch_id, "--only", "*-shard-1-*")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == [str(tmp_path / sandbox.file_name(shard_1))]
    assert gets(sandbox, batch_id) == [0, 1, 0]
    assert not list(tmp_path.glob("batch-*"))
    rest = fetch(sandbox, tmp_path, batch_id)
    assert rest.code == 0, rest.err
    assert gets(sandbox, batch_id) == [1, 1, 1]
    assert list(tmp_path.glob("batch-*"))


def test_a_pattern_that_fits_nothing_is_11(sandbox: Sandbox, tmp_path: Path) -> None:
    ran = fetch(sandbox, tmp_path, sandbox.add_batch(READY, READY, READY), "--only", "*-shard-7-*")
    assert (ran.code, ran.out) == (11, "")
    assert "*-shard-7-*" in ran.last_line


def test_a_job_whose_name_never_came_may_be_one_of_those_meant(sandbox: Sandbox, tmp_path: Path) -> None:
    batch_id = sandbox.add_batch(READY, "broken-job", READY)
    ran = fetch(sandbox, tmp_path, batch_id, "--only", "*-shard-*")
    assert ran.code == 13
    assert len(ran.out.splitlines()) == 1


def test_an_index_chooses_by_place_in_the_order_of_job_ids(sandbox: Sandbox, tmp_path: Path) -> None:
    batch_id = sandbox.add_batch("normal", "normal", "normal")
    for place, path in enumerate(expected_paths(sandbox, tmp_path, batch_id)):
        ran = fetch(sandbox, tmp_path, batch_id, "--index", str(place))
        assert (ran.code, ran.out.splitlines()) == (0, [path]), ran.err
    assert gets(sandbox, batch_id) == [1, 1, 1]
    assert list(tmp_path.glob("batch-*"))


def test_one_job_of_a_batch_fails_with_its_own_error(sandbox: Sandbox, tmp_path: Path) -> None:
    batch_id = sandbox.add_batch("killed-job", "killed-job", "killed-job")
    ran = fetch(sandbox, tmp_path, batch_id, "--index", "0", "--log-format", "json")
    assert ran.code == 13
    assert json.loads(ran.last_line)["error"] == "JobFailedError"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--batch-id", "5" * 24, "5" * 24),
        ("--batch-id", "nonsense"),
        (),
        ("5" * 24, "--only", "*"),
        ("5" * 24, "--index", "0"),
        ("--batch-id", "BATCH", "--index", "3"),
        ("--batch-id", "BATCH", "--index", "-1"),
        ("--batch-id", "BATCH", "--index", "0", "--only", "*"),
        ("--batch-id", "BATCH", "--parallel", "0"),
    ],
    ids=" ".join,
)
def test_a_wrong_choice_is_2(sandbox: Sandbox, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    given = [sandbox.batch_id if one == "BATCH" else one for one in arguments]
    ran = run(sandbox, tmp_path, "fetch", *given)
    assert (ran.code, ran.out) == (2, "")
    assert ran.last_line.startswith("error: ")


# Stopping


def wait_for(path: Path, content: bool = False) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or (content and path.stat().st_size == 0):
        assert time.monotonic() < deadline, f"{path.name} does not come"
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_every_download_and_keeps_its_bytes(
    sandbox: Sandbox, tmp_path: Path, number: int, code: int
) -> None:
    slow = replace(READY, bytes_per_second=1500)
    batch_id = sandbox.add_batch(slow, slow, slow)
    process = start(sandbox, tmp_path, "fetch", "--batch-id", batch_id, "--parallel", "2")
    try:
        deadline = time.monotonic() + 60
        while len([part for part in tmp_path.glob("*.part") if part.stat().st_size]) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
    finally:
        ran = end(process)
    assert (ran.code, ran.out) == (code, "")
    assert ran.last_line.startswith("error: stopped by a signal")
    journals = [json.loads(path.read_bytes()) for path in tmp_path.glob("*.part.json")]
    outcomes = [attempt["outcome"] for journal in journals for attempt in journal["attempts"]]
    assert outcomes == ["interrupted", "interrupted"]
    assert sum(gets(sandbox, batch_id)) == 2
    assert not list(tmp_path.glob(".restore-fetch-*.lock"))
