"""`restore-fetch pull`, as a user runs it, by cron and by hand."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from restore_fetch.sandbox import SCENARIOS, Sandbox
from tests.batch_support import Ran, creations, end, run, start

READY = replace(SCENARIOS["normal"], polls_until_finished=0)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=4096) as sandbox:
        yield sandbox
        assert sandbox.errors == []


def pull(sandbox: Sandbox, out_dir: Path, *arguments: str) -> Ran:
    """Pull the replica set, which is one archive."""
    return run(sandbox, out_dir, "pull", *arguments, cluster=sandbox.replica_set_cluster)


def pull_shards(sandbox: Sandbox, out_dir: Path, *arguments: str) -> Ran:
    return run(sandbox, out_dir, "pull", *arguments)


def journals(out_dir: Path) -> list[Path]:
    return sorted(out_dir.glob(".restore-fetch-pull-*.json"))


# Once, and only once


def test_two_pulls_are_one_creation_and_one_download(sandbox: Sandbox, tmp_path: Path) -> None:
    newest = sandbox.add_snapshot(sandbox.replica_set_cluster)
    first = pull(sandbox, tmp_path, "--json")
    assert first.code == 0, first.err
    assert first.document["verdict"] == "verified"
    assert first.document["job"]["snapshot_id"] == newest
    again = pull(sandbox, tmp_path, "--json")
    assert (again.code, again.out) == (0, first.out)
    assert len(creations(sandbox)) == 1
    assert sandbox.delivery_gets() == 1
    assert journals(tmp_path) == []


def test_a_sharded_cluster_is_pulled_as_one_batch_and_only_once(sandbox: Sandbox, tmp_path: Path) -> None:
    newest = sandbox.add_snapshot()
    first = pull_shards(sandbox, tmp_path)
    assert first.code == 0, first.err
    assert len(first.out.splitlines()) == 3
    (path,) = tmp_path.glob("batch-*.receipt.json")
    receipt = json.loads(path.read_bytes())
    assert (receipt["snapshot_id"], len(receipt["members"])) == (newest, 3)
    again = pull_shards(sandbox, tmp_path)
    assert (again.code, again.out) == (0, first.out)
    assert len(creations(sandbox)) == 1
    assert sandbox.delivery_gets() == 3
    assert journals(tmp_path) == []


def test_each_new_snapshot_is_pulled_once(sandbox: Sandbox, tmp_path: Path) -> None:
    pulled = []
    for _ in range(3):
        sandbox.add_snapshot(sandbox.replica_set_cluster)
        for _ in range(2):
            ran = pull(sandbox, tmp_path)
            assert ran.code == 0, ran.err
        pulled.append(ran.out)
    assert len(set(pulled)) == 3
    assert len(creations(sandbox)) == 3
    assert sandbox.delivery_gets() == 3


def test_a_snapshot_can_be_named(sandbox: Sandbox, tmp_path: Path) -> None:
    older = sandbox.add_snapshot(sandbox.replica_set_cluster)
    sandbox.set_clock_offset(2)  # snapshots are told apart by the second
    sandbox.add_snapshot(sandbox.replica_set_cluster)
    ran = pull(sandbox, tmp_path, "--json", "--snapshot-id", older)
    assert ran.code == 0, ran.err
    assert ran.document["job"]["snapshot_id"] == older


def test_what_a_new_job_allows_is_what_was_asked_for(sandbox: Sandbox, tmp_path: Path) -> None:
    ran = pull(sandbox, tmp_path, "--json", "--max-downloads", "3", "--expiration-hours", "7")
    assert ran.code == 0, ran.err
    delivery = ran.document["delivery"]
    assert delivery["max_downloads"] == 3
    # The delivery expires the hours asked for after the job was done.
    expires, began = (moment(text) for text in (delivery["expires"], ran.document["started"]))
    assert 6.9 * 3600 < expires - began < 7.1 * 3600


def moment(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def test_a_part_fetched_by_itself_is_not_taken_for_the_whole_cluster(sandbox: Sandbox, tmp_path: Path) -> None:
    alone = sandbox.add_job(READY)
    assert run(sandbox, tmp_path, "fetch", alone).code == 0
    ran = pull_shards(sandbox, tmp_path)
    assert ran.code == 0, ran.err
    assert len(ran.out.splitlines()) == 3
    assert len(creations(sandbox)) == 1


def test_force_makes_a_new_job_although_all_is_here(sandbox: Sandbox, tmp_path: Path) -> None:
    first = pull(sandbox, tmp_path)
    again = pull(sandbox, tmp_path, "--force")
    assert (first.code, again.code) == (0, 0)
    assert first.out != again.out
    assert len(creations(sandbox)) == 2


# Interrupted


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("sharded", [False, True], ids=["replica-set", "sharded"])
def test_a_pull_killed_after_it_made_a_job_goes_on_with_that_job(tmp_path: Path, sharded: bool) -> None:
    with Sandbox(size_bytes=4096, scenario="never-ready") as sandbox:
        cluster = sandbox.cluster if sharded else sandbox.replica_set_cluster
        process = start(sandbox, tmp_path, "pull", cluster=cluster)
        try:
            wait_until(lambda: process.poll() is not None or (creations(sandbox) and answered(tmp_path)))
            process.send_signal(signal.SIGKILL)
        finally:
            assert end(process).code == -signal.SIGKILL
        ready(sandbox)
        ran = run(sandbox, tmp_path, "pull", cluster=cluster)
        assert ran.code == 0, ran.err
        assert len(ran.out.splitlines()) == (3 if sharded else 1)
        assert len(creations(sandbox)) == 1
        assert sandbox.delivery_gets() == (3 if sharded else 1)
        assert journals(tmp_path) == []


def test_a_pull_killed_before_it_heard_the_answer_finds_the_job_in_the_list(tmp_path: Path) -> None:
    with Sandbox(size_bytes=4096, scenario="never-ready") as sandbox:
        ran = pull(sandbox, tmp_path, "--wait", "0")
        assert ran.code == 14
        forget_answer(tmp_path)
        ready(sandbox)
        again = pull(sandbox, tmp_path)
        assert again.code == 0, again.err
        assert len(creations(sandbox)) == 1
        assert sandbox.delivery_gets() == 1


def test_the_parts_of_a_batch_are_found_in_the_list_too(tmp_path: Path) -> None:
    with Sandbox(size_bytes=4096, scenario="never-ready") as sandbox:
        assert pull_shards(sandbox, tmp_path, "--wait", "0").code == 14
        forget_answer(tmp_path)
        ready(sandbox)
        again = pull_shards(sandbox, tmp_path)
        assert again.code == 0, again.err
        assert len(again.out.splitlines()) == 3
        assert len(creations(sandbox)) == 1


def answered(out_dir: Path) -> bool:
    return any(json.loads(path.read_bytes())["job_ids"] for path in journals(out_dir))


def forget_answer(out_dir: Path) -> None:
    """Put the journal back to where it was before the answer came."""
    (path,) = journals(out_dir)
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "job_ids": [], "batch_id": None}))


def ready(sandbox: Sandbox) -> None:
    """Let every job be over."""
    with sandbox._service.lock:
        for job in sandbox._service.jobs.values():
            job.scenario = READY


# An earlier job that is of no more use


@pytest.mark.parametrize("scenario", ["broken-job", "delivery-failed", "max-downloads", "expired"])
def test_a_job_that_is_of_no_more_use_is_made_anew_by_the_next_pull(tmp_path: Path, scenario: str) -> None:
    with Sandbox(size_bytes=4096, scenario=scenario) as sandbox:
        ran = pull(sandbox, tmp_path)
        assert ran.code in (13, 15)
        assert len(creations(sandbox)) == 1
        sandbox._service._created_scenario = READY
        again = pull(sandbox, tmp_path)
        assert again.code == 0, again.err
        assert len(creations(sandbox)) == 2
        assert sandbox.delivery_gets() == 1


def test_downloads_that_are_spent_make_a_new_job_and_others_do_not(tmp_path: Path) -> None:
    with Sandbox(size_bytes=4096, scenario="cut-always") as sandbox:
        for _ in range(2):
            ran = pull(sandbox, tmp_path, "--max-downloads", "4", "--retries", "1")
            assert ran.code == 16
        assert len(creations(sandbox)) == 1
        sandbox._service._created_scenario = READY
        again = pull(sandbox, tmp_path, "--max-downloads", "4")
        assert again.code == 0, again.err
        assert len(creations(sandbox)) == 2


def test_an_archive_that_only_lacks_its_hash_is_not_asked_for_again(tmp_path: Path) -> None:
    with Sandbox(size_bytes=4096, scenario="no-hash") as sandbox:
        assert pull(sandbox, tmp_path, "--hash-wait", "0").code == 18
        for job_id in list(sandbox._service.jobs):
            sandbox.expire(job_id)
        assert pull(sandbox, tmp_path, "--hash-wait", "0").code == 18
        ready(sandbox)
        ran = pull(sandbox, tmp_path, "--hash-wait", "0")
        assert ran.code == 0, ran.err
        assert len(creations(sandbox)) == 1
        assert sandbox.delivery_gets() == 1


# What cannot be


def test_a_bad_part_of_a_pull_gives_17_and_the_next_pull_does_only_what_is_missing(tmp_path: Path) -> None:
    with Sandbox(size_bytes=4096, scenario="normal") as sandbox:
        process = start(sandbox, tmp_path, "pull")
        try:
            wait_until(lambda: process.poll() is not None or creations(sandbox))
            with sandbox._service.lock:
                bad = list(sandbox._service.jobs.values())[-1]
                bad.scenario = replace(bad.scenario, hash_kind="wrong")
        finally:
            ran = end(process)
        assert ran.code == 17, ran.err
        assert len(ran.out.splitlines()) == 2
        bad.scenario = READY
        again = pull_shards(sandbox, tmp_path)
        assert again.code == 0, again.err
        assert len(again.out.splitlines()) == 3
        assert len(creations(sandbox)) == 1
        assert sandbox.delivery_gets() == 4


def test_a_snapshot_that_nobody_knows_is_11(sandbox: Sandbox, tmp_path: Path) -> None:
    ran = pull(sandbox, tmp_path, "--snapshot-id", "0" * 24)
    assert (ran.code, ran.out) == (11, "")


def test_a_cluster_without_a_complete_snapshot_is_11(sandbox: Sandbox, tmp_path: Path) -> None:
    for snapshot in list(sandbox._service.snapshots.values()):
        if snapshot.complete:
            sandbox.drop_snapshot(snapshot.id)
    ran = pull(sandbox, tmp_path)
    assert (ran.code, ran.out) == (11, "")
    assert "no complete snapshot" in ran.last_line
    assert creations(sandbox) == []


def test_a_snapshot_in_the_making_is_not_pulled(sandbox: Sandbox, tmp_path: Path) -> None:
    unfinished = next(one for one in sandbox._service.snapshots.values() if not one.complete)
    cluster = unfinished.cluster.name
    ran = run(sandbox, tmp_path, "pull", "--snapshot-id", unfinished.id, cluster=cluster)
    assert (ran.code, ran.out) == (11, "")
    assert creations(sandbox) == []


def test_a_second_pull_of_the_same_snapshot_waits_for_its_turn_or_is_20(tmp_path: Path) -> None:
    with Sandbox(size_bytes=4096, scenario="never-ready") as sandbox:
        first = start(sandbox, tmp_path, "pull", cluster=sandbox.replica_set_cluster)
        try:
            wait_until(lambda: first.poll() is not None or answered(tmp_path))
            second = pull(sandbox, tmp_path)
            assert second.code == 20
            waiting = start(sandbox, tmp_path, "pull", "--lock-wait", "1m", cluster=sandbox.replica_set_cluster)
            ready(sandbox)
            assert end(first).code == 0
            ran = end(waiting)
        finally:
            first.kill()
        assert ran.code == 0, ran.err
        assert len(creations(sandbox)) == 1
        assert sandbox.delivery_gets() == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--snapshot-id", "nonsense"),
        ("--max-downloads", "0"),
        ("--max-downloads", "2147483648"),
        ("--expiration-hours", "0"),
        ("--expiration-hours", "99999"),
        ("--index", "0"),
        ("--only", "*"),
    ],
    ids=" ".join,
)
def test_a_wrong_option_is_2_and_makes_nothing(
    sandbox: Sandbox, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    ran = pull(sandbox, tmp_path, *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert creations(sandbox) == []
