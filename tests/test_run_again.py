"""The same command again: after success, after failure, after a kill; and never more downloads than allowed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from restore_fetch.sandbox import Sandbox
from tests.run_support import Running, add_job, change, names_in, published, run, sha1, start


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=64 * 1024) as sandbox:
        yield sandbox


def watch(running: Running, archive: Path, right: str) -> None:
    """Let a run go on to its end; whenever the final name is there, it is of the right bytes."""
    while running.process.poll() is None:
        assert not archive.exists() or sha1(archive) == right


def ranges(sandbox: Sandbox, job: str) -> list[str | None]:
    """The `Range` of each request for an archive."""
    return [request.range for request in sandbox.requests if request.server == "delivery" and request.job_id == job]


# --- after success -------------------------------------------------------------------------------------


def test_a_second_run_downloads_nothing_and_asks_nobody(sandbox: Sandbox, tmp_path: Path) -> None:
    first = run(sandbox, tmp_path / "out", "fetch")
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in first.names}
    asked = len(sandbox.requests)
    second = run(sandbox, tmp_path / "out", "fetch")

    assert (first.code, second.code) == (0, 0), second.stderr
    assert second.stdout == first.stdout
    assert sandbox.delivery_gets() == 1
    assert len(sandbox.requests) == asked
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in second.names} == before


def test_a_second_run_succeeds_also_when_the_job_has_expired_since(sandbox: Sandbox, tmp_path: Path) -> None:
    first = run(sandbox, tmp_path / "out", "fetch")
    sandbox.expire(sandbox.job_id)
    second = run(sandbox, tmp_path / "out", "fetch", "--json")

    assert (first.code, second.code) == (0, 0), second.stderr
    assert second.stdout.encode() == second.bytes_of(f"{sandbox.file_name(sandbox.job_id)}.receipt.json")
    assert sandbox.delivery_gets() == 1


def test_a_second_run_succeeds_also_when_the_service_is_gone(tmp_path: Path) -> None:
    with Sandbox(size_bytes=64 * 1024) as sandbox:
        first = run(sandbox, tmp_path / "out", "fetch")
    second = run(sandbox, tmp_path / "out", "fetch", "--wait", "0")

    assert (first.code, second.code) == (0, 0), second.stderr


def test_another_folder_is_another_download(sandbox: Sandbox, tmp_path: Path) -> None:
    run(sandbox, tmp_path / "here", "fetch")
    there = run(sandbox, tmp_path / "there", "fetch")

    assert there.code == 0, there.stderr
    assert there.names == published(sandbox.file_name(sandbox.job_id))
    assert sandbox.delivery_gets() == 2


def test_two_jobs_share_a_folder(sandbox: Sandbox, tmp_path: Path) -> None:
    jobs = [add_job(sandbox), add_job(sandbox, "encrypted")]
    outcomes = [run(sandbox, tmp_path / "out", "fetch", job) for job in jobs]

    assert [outcome.code for outcome in outcomes] == [0, 0]
    assert outcomes[1].names == set().union(*(published(sandbox.file_name(job)) for job in jobs))


def test_with_force_a_verified_archive_is_downloaded_again(sandbox: Sandbox, tmp_path: Path) -> None:
    name = sandbox.file_name(sandbox.job_id)
    run(sandbox, tmp_path / "out", "fetch")
    forced = run(sandbox, tmp_path / "out", "fetch", "--force")

    assert forced.code == 0, forced.stderr
    assert forced.names == published(name)
    assert len(forced.json_of(f"{name}.receipt.json")["attempts"]) == sandbox.delivery_gets() == 2


def test_a_lost_receipt_is_no_reason_to_overwrite_the_archive(sandbox: Sandbox, tmp_path: Path) -> None:
    name = sandbox.file_name(sandbox.job_id)
    run(sandbox, tmp_path / "out", "fetch")
    (tmp_path / "out" / f"{name}.receipt.json").unlink()
    outcome = run(sandbox, tmp_path / "out", "fetch")

    assert outcome.code == 19
    assert sha1(tmp_path / "out" / name) == sandbox.archive(sandbox.job_id).sha1
    assert sandbox.delivery_gets() == 1


# --- after a kill --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut_at", [0.1, 0.5, 0.95])
def test_a_killed_download_goes_on_where_it_was_and_is_verified(
    sandbox: Sandbox, tmp_path: Path, cut_at: float
) -> None:
    job = add_job(sandbox, "stall", cut_at=cut_at)
    archive, right = tmp_path / "out" / sandbox.file_name(job), sandbox.archive(job).sha1
    sent = int(sandbox.archive(job).size * cut_at)
    with start(sandbox, tmp_path / "out", "fetch", job) as running:
        running.until_bytes(sent)
        killed = running.kill()
    assert killed.code == -9
    assert archive.name not in killed.names

    with start(sandbox, tmp_path / "out", "fetch", job) as running:
        watch(running, archive, right)
        outcome = running.end()
    assert outcome.code == 0, outcome.stderr
    assert outcome.names == published(archive.name)
    assert sha1(archive) == right
    assert ranges(sandbox, job) == [None, f"bytes={sent}-"]
    attempts = outcome.json_of(f"{archive.name}.receipt.json")["attempts"]
    assert [attempt["resumed_from"] for attempt in attempts] == [0, sent]
    assert [attempt["outcome"] for attempt in attempts] == [None, "complete"]


@pytest.mark.parametrize(
    "behaviour",
    [
        {"ranges": "none"},
        {"ranges": "ignore"},
        {"etag": False},
        {"changes": True},
        {"ranges": "none", "etag": False, "framing": "chunked"},
        {"ranges": "none", "etag": False, "framing": "close"},
    ],
    ids=["no-ranges", "ranges-ignored", "no-etag", "another-archive", "chunked", "close"],
)
def test_a_killed_download_that_cannot_be_resumed_starts_over_and_is_verified(
    sandbox: Sandbox, tmp_path: Path, behaviour: dict[str, object]
) -> None:
    job = add_job(sandbox, "stall", **behaviour)
    archive, right = tmp_path / "out" / sandbox.file_name(job), sandbox.archive(job).sha1
    with start(sandbox, tmp_path / "out", "fetch", job) as running:
        running.until_bytes()
        running.kill()
    with start(sandbox, tmp_path / "out", "fetch", job) as running:
        watch(running, archive, right)
        outcome = running.end()

    assert outcome.code == 0, outcome.stderr
    assert outcome.names == published(archive.name)
    assert sha1(archive) == right
    assert sandbox.delivery_gets(job) == 2
    attempts = outcome.json_of(f"{archive.name}.receipt.json")["attempts"]
    assert [attempt["resumed_from"] for attempt in attempts] == [0, 0]


def test_a_run_killed_while_it_waits_for_the_hash_needs_no_other_download(sandbox: Sandbox, tmp_path: Path) -> None:
    job = add_job(sandbox, "no-hash", max_downloads=1)
    name = sandbox.file_name(job)
    with start(sandbox, tmp_path / "out", "fetch", job) as running:
        running.until(lambda: "waiting for the service to publish the hash" in running.stderr)
        killed = running.kill()
    assert name not in killed.names
    change(sandbox, job, hash_kind="right")
    sandbox.expire(job)
    outcome = run(sandbox, tmp_path / "out", "fetch", job)

    assert outcome.code == 0, outcome.stderr
    assert outcome.names == published(name)
    assert sandbox.delivery_gets(job) == 1


def test_a_run_killed_while_it_waits_for_the_job_leaves_nothing_that_matters(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    job = add_job(sandbox, polls_until_finished=None)
    with start(sandbox, tmp_path / "out", "fetch", job) as running:
        running.until(lambda: "IN_PROGRESS" in running.stderr)
        killed = running.kill()
    assert killed.names == {f".restore-fetch-{job}.lock"}
    change(sandbox, job, polls_until_finished=0)
    outcome = run(sandbox, tmp_path / "out", "fetch", job)

    assert outcome.code == 0, outcome.stderr
    assert outcome.names == published(sandbox.file_name(job))


def test_a_whole_download_whose_run_was_killed_before_it_said_so_is_not_repeated(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    job = add_job(sandbox, "cut-always", cut_at=0.999999, max_downloads=1)
    name, whole = sandbox.file_name(job), sandbox.archive(job).path.read_bytes()
    run(sandbox, tmp_path / "out", "fetch", job, "--retries", "0")
    # What a kill between the last write and the next change of the journal leaves behind.
    with (tmp_path / "out" / f"{name}.part").open("r+b") as part:
        part.write(whole)
        os.fsync(part.fileno())
    sandbox._service.sent(sandbox._service.jobs[job], sandbox.archive(job), 0, len(whole))
    sandbox.expire(job)
    outcome = run(sandbox, tmp_path / "out", "fetch", job)

    assert outcome.code == 0, outcome.stderr
    assert sha1(tmp_path / "out" / name) == sandbox.archive(job).sha1
    assert sandbox.delivery_gets(job) == 1


# --- after failure -------------------------------------------------------------------------------------


def test_a_download_that_broke_off_goes_on_in_the_same_run(sandbox: Sandbox, tmp_path: Path) -> None:
    job = add_job(sandbox, "cut-download")
    outcome = run(sandbox, tmp_path / "out", "fetch", job)

    assert outcome.code == 0, outcome.stderr
    half = sandbox.archive(job).size // 2
    assert ranges(sandbox, job) == [None, f"bytes={half}-"]
    receipt = outcome.json_of(f"{sandbox.file_name(job)}.receipt.json")
    assert [attempt["outcome"] for attempt in receipt["attempts"]] == ["cut", "complete"]


def test_a_failed_run_and_a_later_one_share_the_record_of_their_attempts(sandbox: Sandbox, tmp_path: Path) -> None:
    job = add_job(sandbox, "cut-download", cut_attempts=2)
    failed = run(sandbox, tmp_path / "out", "fetch", job, "--retries", "1")
    outcome = run(sandbox, tmp_path / "out", "fetch", job)

    assert (failed.code, outcome.code) == (16, 0), outcome.stderr
    receipt = outcome.json_of(f"{sandbox.file_name(job)}.receipt.json")
    assert [attempt["outcome"] for attempt in receipt["attempts"]] == ["cut", "cut", "complete"]
    assert [attempt["resumed_from"] > 0 for attempt in receipt["attempts"]] == [False, True, True]
    assert receipt["sha1"] == sandbox.archive(job).sha1


def test_a_part_goes_on_although_the_job_was_seen_to_expire_and_was_renewed(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    job = add_job(sandbox, "cut-download")
    name = sandbox.file_name(job)
    run(sandbox, tmp_path / "out", "fetch", job, "--retries", "0")
    expires = sandbox._service.jobs[job].expires
    sandbox.expire(job)
    expired = run(sandbox, tmp_path / "out", "fetch", job)
    assert expired.code == 15
    assert expired.names == {f"{name}.part", f"{name}.part.json"}

    sandbox._service.jobs[job].expires = expires
    outcome = run(sandbox, tmp_path / "out", "fetch", job)
    assert outcome.code == 0, outcome.stderr
    assert sandbox.delivery_gets(job) == 2


# --- the downloads allowed -----------------------------------------------------------------------------
#
# The service of these tests would go on serving: what keeps to the number allowed is the tool alone.


@pytest.mark.parametrize("allowed", [1, 2, 3])
def test_retries_never_go_beyond_the_downloads_allowed(sandbox: Sandbox, tmp_path: Path, allowed: int) -> None:
    job = add_job(sandbox, "cut-always", max_downloads=allowed, broken_downloads_count=False)
    first = run(sandbox, tmp_path / "out", "fetch", job, "--retries", "9")
    second = run(sandbox, tmp_path / "out", "fetch", job, "--retries", "9")

    assert first.code in (15, 16)
    assert second.code == 15
    assert sandbox.delivery_gets(job) == allowed
    assert f"{sandbox.file_name(job)}.part" in second.names


@pytest.mark.parametrize("allowed", [1, 3])
def test_kills_right_after_the_request_never_lead_to_more_than_the_downloads_allowed(
    sandbox: Sandbox, tmp_path: Path, allowed: int
) -> None:
    job = add_job(
        sandbox, "stall-always", cut_at=0.0, max_downloads=allowed, broken_downloads_count=False, ranges="none"
    )
    for number in range(1, allowed + 1):
        with start(sandbox, tmp_path / "out", "fetch", job) as running:
            running.until(lambda number=number: sandbox.delivery_gets(job) == number)  # type: ignore[misc]
            running.kill()
    outcome = run(sandbox, tmp_path / "out", "fetch", job)

    assert outcome.code == 15
    assert f"{allowed} started from here" in outcome.last_line
    assert sandbox.delivery_gets(job) == allowed


def test_a_mixture_of_failures_kills_and_refusals_stays_within_the_downloads_allowed(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    job = add_job(sandbox, "cut-always", max_downloads=4, broken_downloads_count=False, hash_kind="wrong")
    folder, name = tmp_path / "out", sandbox.file_name(job)

    assert run(sandbox, folder, "fetch", job, "--retries", "0").code == 16
    change(sandbox, job, cut_style="stall", cut_at=0.2)
    with start(sandbox, folder, "fetch", job) as running:
        running.until(lambda: sandbox.delivery_gets(job) == 2)
        running.kill()
    change(sandbox, job, cut_at=None, refusal_status=503)
    assert run(sandbox, folder, "fetch", job, "--retries", "0").code == 16
    change(sandbox, job, refusal_status=None)
    assert run(sandbox, folder, "fetch", job, "--hash-wait", "0").code == 17
    assert names_in(folder) == {f"{name}.rejected", f"{name}.rejected.json"}
    spent = run(sandbox, folder, "fetch", job)

    assert spent.code == 15
    assert sandbox.delivery_gets(job) == 4
    change(sandbox, job, hash_kind="right", max_downloads=100)
    sandbox._service.jobs[job].downloads = 0
    forced = run(sandbox, folder, "fetch", job, "--force")
    assert forced.code == 0, forced.stderr
    assert sha1(folder / name) == sandbox.archive(job).sha1
    assert sandbox.delivery_gets(job) == 5


def test_a_request_that_never_left_uses_no_download_up(sandbox: Sandbox, tmp_path: Path) -> None:
    job = add_job(sandbox, max_downloads=1)
    address = sandbox._service.delivery_url
    sandbox._service.delivery_url = "http://127.0.0.1:9"
    failed = run(sandbox, tmp_path / "out", "fetch", job, "--retries", "1")
    sandbox._service.delivery_url = address
    outcome = run(sandbox, tmp_path / "out", "fetch", job)

    assert (failed.code, outcome.code) == (16, 0), outcome.stderr
    assert sandbox.delivery_gets(job) == 1
