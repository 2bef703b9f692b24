"""`restore-fetch prune`: what goes, what stays, and what a crash leaves."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from restore_fetch import files, receipts
from restore_fetch.errors import StorageError
from restore_fetch.locking import job_lock
from restore_fetch.observer import SilentObserver
from restore_fetch.pruning import Pruner
from restore_fetch.retention import Policy
from restore_fetch.sandbox import Sandbox
from tests.care_support import (
    claims,
    content_of,
    files_of,
    object_id,
    put,
    put_batch,
    put_unverified,
    state_of,
    write_batch_receipt,
)
from tests.command_support import FAST, Ran, assert_no_secret, connection_flags, run_alone, run_here
from tests.delivery_support import memory_folder
from tests.record_support import journal

START = datetime(2026, 1, 31, 2, 0, tzinfo=UTC)


def nights(folder: Path, count: int) -> list[Path]:
    """A pull a night, the newest first."""
    return [put(folder, number, START - timedelta(days=number)) for number in range(count)]


def prune(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: object) -> Ran:
    return run_here(capsys, "prune", "--out-dir", folder, *arguments)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- what goes -------------------------------------------------------------------------------------------


def test_a_pull_that_goes_takes_its_receipt_and_its_checksum_along(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pulls = nights(tmp_path, 5)
    ran = prune(capsys, tmp_path, "--keep-last", "2")
    assert ran.code == 0, ran.err
    assert names(tmp_path) == files_of(*pulls[:2])


def test_it_says_what_is_kept_and_why_and_what_went(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pulls = nights(tmp_path, 3)
    ran = prune(capsys, tmp_path, "--keep-daily", "2")
    first, second, third = ran.out.splitlines()
    assert first.startswith("kept     2026-01-31 02:00Z  Cluster0  ")
    assert first.endswith("(newest verified, daily 2026-01-31)")
    assert second.endswith("(daily 2026-01-30)")
    assert third.startswith("removed  2026-01-29 02:00Z")
    assert pulls[2].name in third
    assert pulls[2].name in ran.err


def test_the_document_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pulls = nights(tmp_path, 2)
    batch = put_batch(tmp_path, 10, START - timedelta(days=9))
    put_batch(tmp_path, 20, START)
    document = json.loads(prune(capsys, tmp_path, "--keep-last", "1", "--json").out)
    assert document["policy"] == {"keep_last": 1, "keep_daily": 0, "keep_weekly": 0, "keep_monthly": 0}
    assert (document["out_dir"], document["dry_run"], document["left"]) == (str(tmp_path), False, [])
    assert [one["files"] for one in document["removed"]] == [[pulls[1].name], [path.name for path in batch]]
    single, whole = document["removed"]
    assert single["job_id"] == object_id(1)
    assert single["taken"] == "2026-01-30T02:00:00Z"
    assert single["bytes"] == len(content_of(1))
    assert whole["batch_id"] == object_id(0xB000000 + 10)
    assert {reason for one in document["kept"] for reason in one["reasons"]} == {"newest verified", "last 1 of 1"}


def test_a_rehearsal_says_what_would_go_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nights(tmp_path, 6)
    put_batch(tmp_path, 50, START - timedelta(days=1))
    put_batch(tmp_path, 60, START)
    before = state_of(tmp_path)
    rehearsed = prune(capsys, tmp_path, "--keep-last", "1", "--dry-run")
    assert rehearsed.code == 0
    assert sum(line.startswith("would go ") for line in rehearsed.out.splitlines()) == 6
    assert state_of(tmp_path) == before
    done = prune(capsys, tmp_path, "--keep-last", "1")
    assert rehearsed.out.replace("would go ", "removed  ") == done.out


def test_a_second_prune_has_nothing_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nights(tmp_path, 4)
    prune(capsys, tmp_path, "--keep-last", "2")
    before = state_of(tmp_path)
    ran = prune(capsys, tmp_path, "--keep-last", "2")
    assert (ran.code, ran.err) == (0, "")
    assert "removed" not in ran.out
    assert state_of(tmp_path) == before


def test_a_batch_goes_as_a_whole_with_its_receipt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = put_batch(tmp_path, 10, START)
    put_batch(tmp_path, 20, START - timedelta(days=1))
    ran = prune(capsys, tmp_path, "--keep-last", "1")
    assert ran.code == 0, ran.err
    batch_receipt = receipts.batch_receipt_path(tmp_path, object_id(0xB000000 + 10))
    assert names(tmp_path) == files_of(*new) | {batch_receipt.name}


def test_the_newest_pull_of_a_cluster_stays_however_old_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pulls = nights(tmp_path, 3)
    old = put(tmp_path, 90, START - timedelta(days=2000), job={"cluster_name": "Old"})
    prune(capsys, tmp_path, "--keep-monthly", "1")
    assert names(tmp_path) == files_of(pulls[0], old)


def test_no_rule_at_all_is_refused_and_nothing_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nights(tmp_path, 3)
    before = state_of(tmp_path)
    for arguments in ((), ("--dry-run",), ("--keep-last", "0")):
        ran = prune(capsys, tmp_path, *arguments)
        assert (ran.code, ran.out) == (2, "")
        assert "--keep-daily" in ran.err
    assert state_of(tmp_path) == before


def test_a_rule_can_come_from_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pulls = nights(tmp_path, 3)
    monkeypatch.setenv("RESTORE_FETCH_KEEP_LAST", "1")
    monkeypatch.setenv("RESTORE_FETCH_OUT_DIR", str(tmp_path))
    assert run_here(capsys, "prune").code == 0
    assert names(tmp_path) == files_of(pulls[0])


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = prune(capsys, tmp_path / "nowhere", "--keep-last", "1")
    assert (ran.code, ran.out, names(tmp_path)) == (0, "", set())


# --- what is left alone ----------------------------------------------------------------------------------


def test_what_is_no_verified_pull_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pulls = nights(tmp_path, 2)
    archive = tmp_path / "old.tar.gz"
    strangers = {
        "old.tar.gz": b"somebody's own archive",
        "old.tar.gz.sha1": b"0" * 40 + b"  old.tar.gz\n",
        "x.tar.gz.part": b"half an archive",
        "x.tar.gz.part.json": journal(file="x.tar.gz").to_json(),
        "y.tar.gz.unverified": b"an archive that waits",
        "z.tar.gz.rejected": b"not the archive",
        "notes.txt": b"remember the milk",
        "theirs.receipt.json": b'{"schema": "of another program"}',
        "a-list.receipt.json": b"[]",
        "nothing.receipt.json": b"",
    }
    for name, content in strangers.items():
        archive.with_name(name).write_bytes(content)
    unverified = put_unverified(tmp_path, 70, START - timedelta(days=70))
    (tmp_path / "folder.receipt.json").mkdir()
    (tmp_path / "link.receipt.json").symlink_to(receipts.receipt_path(pulls[1]))
    ran = prune(capsys, tmp_path, "--keep-last", "1")
    assert ran.code == 0, ran.err
    expected = files_of(pulls[0], unverified) | set(strangers) | {"folder.receipt.json", "link.receipt.json"}
    assert names(tmp_path) == expected
    assert "theirs.receipt.json" in ran.err
    assert unverified.name in ran.err


def test_an_unverified_pull_takes_the_place_of_none_that_is_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verified = put(tmp_path, 1, START - timedelta(days=1))
    unverified = put_unverified(tmp_path, 2, START)
    assert prune(capsys, tmp_path, "--keep-last", "1").code == 0
    assert names(tmp_path) == files_of(verified, unverified)


def test_an_archive_that_was_changed_is_left_told_and_protects_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest, second, third = nights(tmp_path, 3)
    newest.write_bytes(b"X" * len(newest.read_bytes()))
    ran = prune(capsys, tmp_path, "--keep-last", "1")
    assert ran.code == 17
    assert "is not what its receipt says" in ran.err
    assert ran.err.splitlines()[-1].startswith("error: ")
    assert names(tmp_path) == files_of(newest, second)
    assert not third.exists()


def test_an_archive_that_was_only_touched_is_read_and_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pulls = nights(tmp_path, 3)
    for path in pulls:
        moved = path.stat().st_mtime_ns + 10**9
        os.utime(path, ns=(moved, moved))
    assert prune(capsys, tmp_path, "--keep-last", "1").code == 0
    assert names(tmp_path) == files_of(pulls[0])


def test_a_receipt_without_its_archive_is_no_pull(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest, second = nights(tmp_path, 2)
    newest.unlink()
    ran = prune(capsys, tmp_path, "--keep-last", "1")
    assert ran.code == 0
    assert receipts.receipt_path(newest).exists()
    assert second.exists()
    assert "no archive" in ran.err


def test_a_receipt_under_another_name_is_not_believed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest, second = nights(tmp_path, 2)
    content = receipts.receipt_path(second).read_bytes()
    (tmp_path / "copy.tar.gz.receipt.json").write_bytes(content)
    (tmp_path / "copy.tar.gz").write_bytes(second.read_bytes())
    assert prune(capsys, tmp_path, "--keep-last", "1").code == 0
    assert names(tmp_path) == files_of(newest) | {"copy.tar.gz", "copy.tar.gz.receipt.json"}


def test_a_receipt_cannot_lead_out_of_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "archives"
    folder.mkdir()
    nights(folder, 1)
    hostile = put(folder, 5, START - timedelta(days=5), job={"id": "../../escape"}, file="hostile.tar.gz")
    ran = prune(capsys, folder, "--keep-last", "1")
    assert ran.code == 0
    assert hostile.exists()
    assert names(tmp_path) == {"archives"}


@pytest.mark.parametrize("lost", ["batch receipt", "member receipt", "archive"])
def test_a_batch_that_is_not_whole_is_left_alone_and_takes_no_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: str
) -> None:
    whole = put_batch(tmp_path, 10, START - timedelta(days=1))
    older = put_batch(tmp_path, 20, START - timedelta(days=2))
    partly = put_batch(tmp_path, 30, START, whole=lost != "batch receipt")
    if lost == "member receipt":
        receipts.receipt_path(partly[1]).unlink()
    elif lost == "archive":
        partly[1].unlink()
    before = {name for name in names(tmp_path) if any(name.startswith(path.name) for path in partly)}
    ran = prune(capsys, tmp_path, "--keep-last", "1")
    assert ran.code == 0, ran.err
    assert before <= names(tmp_path)
    assert all(path.exists() for path in whole)
    assert not any(path.exists() for path in older)
    assert "left alone" in ran.err


def test_a_batch_receipt_that_lists_archives_of_others_removes_none_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    singles = nights(tmp_path, 3)
    put_batch(tmp_path, 40, START)
    write_batch_receipt(tmp_path, object_id(0xBAD), singles, START - timedelta(days=99))
    assert prune(capsys, tmp_path, "--keep-last", "1").code == 0
    assert all(path.exists() for path in singles)


@pytest.mark.parametrize("held", ["job", "batch", "snapshot"])
def test_a_pull_that_another_run_works_on_is_left_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], held: str
) -> None:
    put_batch(tmp_path, 10, START)
    busy = put_batch(tmp_path, 20, START - timedelta(days=1))
    idle = put_batch(tmp_path, 30, START - timedelta(days=2))
    for path in (busy, idle):  # of snapshots of their own
        batch = receipts.batch_receipt_path(
            tmp_path, json.loads(receipts.receipt_path(path[0]).read_bytes())["job"]["batch_id"]
        )
        document = json.loads(batch.read_bytes())
        batch.write_text(json.dumps({**document, "snapshot_id": document["members"][0]["job_id"][::-1]}))
    held_id = {"job": object_id(21), "batch": object_id(0xB000000 + 20), "snapshot": object_id(20)[::-1]}[held]
    with job_lock(tmp_path, held_id, 0):
        ran = prune(capsys, tmp_path, "--keep-last", "1")
        assert ran.code == 0, ran.err
        assert f"another run works on {'restore job' if held == 'job' else held}" in ran.err
        assert all(path.exists() for path in busy)
        assert claims(tmp_path) == []
        assert not any(path.exists() for path in idle)
    assert prune(capsys, tmp_path, "--keep-last", "1").code == 0
    assert not any(path.exists() for path in busy)
    assert not list(tmp_path.glob(".*"))


def test_what_another_run_changed_after_it_was_looked_at_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, second = nights(tmp_path, 2)
    real = Pruner._locked

    def locked_late(self: Pruner, pull: Any) -> Any:
        second.write_bytes(b"fetched again, and longer than before")
        return real(self, pull)

    monkeypatch.setattr(Pruner, "_locked", locked_late)
    done = Pruner(tmp_path, Policy(last=1), observer=SilentObserver()).prune()
    assert done.removed == []
    assert [left.what for left in done.left] == [second.name]
    assert second.exists()


def test_a_checksum_file_of_somebody_else_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest, second = nights(tmp_path, 2)
    theirs = receipts.sha1_path(second)
    theirs.write_text("something else\n")
    assert prune(capsys, tmp_path, "--keep-last", "1").code == 0
    assert names(tmp_path) == files_of(newest) | {theirs.name}


def test_a_folder_that_cannot_be_written_to_is_19(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nights(tmp_path, 2)

    def refuse(path: Path) -> None:
        raise StorageError(f"cannot remove {path}", path=path)

    monkeypatch.setattr(files, "remove", refuse)
    with pytest.raises(StorageError):
        Pruner(tmp_path, Policy(last=1), observer=SilentObserver()).prune()
    assert claims(tmp_path) == []


# --- crashes ---------------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process is gone."""


@pytest.fixture
def crash_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Counter[str]]]:
    """Let the process end before its nth change to the folder; counts the changes made."""
    real = {name: getattr(files, name) for name in ("rename", "remove")}

    def arm(number: int) -> Counter[str]:
        made: Counter[str] = Counter()

        def counted(name: str) -> Callable[..., None]:
            def change(*arguments: Any, **options: Any) -> None:
                if made.total() >= number:
                    raise Crash
                made[name] += 1
                real[name](*arguments, **options)

            return change

        for name in real:
            monkeypatch.setattr(files, name, counted(name))
        return made

    yield arm
    monkeypatch.undo()


@pytest.mark.parametrize("kind", ["single", "batch"])
def test_a_crash_anywhere_leaves_no_false_claim_and_the_next_run_finishes(
    tmp_path: Path, kind: str, crash_at: Callable[[int], Counter[str]]
) -> None:
    crashes = 0
    while True:
        folder = tmp_path / str(crashes)
        folder.mkdir()
        if kind == "single":
            single, _ = nights(folder, 2)
            expected = files_of(single)
        else:
            newest = put_batch(folder, 10, START)
            put_batch(folder, 20, START - timedelta(days=1))
            expected = files_of(*newest) | {receipts.batch_receipt_path(folder, object_id(0xB000000 + 10)).name}
        pruner = Pruner(folder, Policy(last=1), observer=SilentObserver())
        crash_at(crashes)
        try:
            pruner.prune()
        except Crash:
            assert claims(folder) == [], f"after {crashes} changes"
        else:
            break
        crash_at(10**6)
        done = pruner.prune()
        assert done.errors == []
        assert names(folder) == expected, f"after {crashes} changes"
        crashes += 1
    assert names(folder) == expected
    assert crashes == (5 if kind == "single" else 11)


def test_a_pull_fetched_again_after_a_crash_is_not_removed(
    tmp_path: Path, crash_at: Callable[[int], Counter[str]]
) -> None:
    newest, old = nights(tmp_path, 2)
    pruner = Pruner(tmp_path, Policy(last=2), observer=SilentObserver())
    crash_at(1)
    with pytest.raises(Crash):
        Pruner(tmp_path, Policy(last=1), observer=SilentObserver()).prune()
    crash_at(10**6)
    assert not receipts.receipt_path(old).exists()
    put(tmp_path, 1, START - timedelta(days=1))
    pruner.prune()
    assert names(tmp_path) == files_of(newest, old)


@pytest.mark.parametrize("again", ["all", "one"])
def test_a_batch_fetched_again_after_a_crash_is_not_removed(
    tmp_path: Path, crash_at: Callable[[int], Counter[str]], again: str
) -> None:
    put_batch(tmp_path, 10, START)
    old = put_batch(tmp_path, 20, START - timedelta(days=1))
    crash_at(2)
    with pytest.raises(Crash):
        Pruner(tmp_path, Policy(last=1), observer=SilentObserver()).prune()
    crash_at(10**6)
    if again == "all":
        put_batch(tmp_path, 20, START - timedelta(days=1))
    else:
        job = {"batch_id": object_id(0xB000000 + 20), "cluster_id": object_id(0xC000000 + 1)}
        put(tmp_path, 21, START - timedelta(days=1), job=job, finished=START + timedelta(days=9))
    Pruner(tmp_path, Policy(last=2), observer=SilentObserver()).prune()
    assert [path.exists() for path in old] == ([True] * 3 if again == "all" else [False, True, False])
    assert claims(tmp_path) == []
    assert not list(tmp_path.glob(".*"))


def test_another_file_that_took_the_name_after_a_crash_is_not_removed(
    tmp_path: Path, crash_at: Callable[[int], Counter[str]]
) -> None:
    _, old = nights(tmp_path, 2)
    crash_at(1)
    with pytest.raises(Crash):
        Pruner(tmp_path, Policy(last=1), observer=SilentObserver()).prune()
    crash_at(10**6)
    old.write_bytes(b"somebody's own archive, by chance of that name")
    Pruner(tmp_path, Policy(last=1), observer=SilentObserver()).prune()
    assert old.read_bytes().startswith(b"somebody's own")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"schema": "restore-fetch/batch-receipt/v1"}'])
def test_a_record_of_a_removal_that_is_damaged_removes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    nights(tmp_path, 1)
    (tmp_path / f".restore-fetch-prune-{object_id(1)}.json").write_bytes(content)
    before = state_of(tmp_path)
    assert prune(capsys, tmp_path, "--keep-last", "1").code == 19
    assert state_of(tmp_path) == before


def test_a_record_of_a_removal_cannot_lead_out_of_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "archives"
    folder.mkdir()
    victim = put(tmp_path, 1, START)
    receipts.receipt_path(victim).unlink()
    record = receipts.receipt_path(put(folder, 1, START))
    document = json.loads(record.read_bytes()) | {"file": f"../{victim.name}"}
    (folder / f".restore-fetch-prune-{object_id(1)}.json").write_text(json.dumps(document))
    assert prune(capsys, folder, "--keep-last", "1").code == 19
    assert victim.exists()


def test_a_rehearsal_does_not_finish_what_was_begun(
    tmp_path: Path, crash_at: Callable[[int], Counter[str]]
) -> None:
    nights(tmp_path, 2)
    crash_at(1)
    with pytest.raises(Crash):
        Pruner(tmp_path, Policy(last=1), observer=SilentObserver()).prune()
    crash_at(10**6)
    before = state_of(tmp_path)
    Pruner(tmp_path, Policy(last=1), observer=SilentObserver(), dry_run=True).prune()
    assert state_of(tmp_path) == before


# --- whole runs ------------------------------------------------------------------------------------------


def test_prune_alone_needs_no_service_and_no_settings(tmp_path: Path) -> None:
    pulls = nights(tmp_path, 3)
    ran = run_alone("prune", "--keep-last", "1", cwd=tmp_path, env={"HOME": "/nonexistent"})
    assert ran.code == 0, ran.err
    assert names(tmp_path) == files_of(pulls[0])


def test_the_real_tools_still_prove_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pulls = nights(tmp_path, 3)
    prune(capsys, tmp_path, "--keep-last", "2")
    done = subprocess.run(
        ["sha1sum", "-c", *(f"{path.name}.sha1" for path in pulls[:2])],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert run_here(capsys, "verify", *pulls[:2]).code == 0


FIRST_NIGHT = datetime(2024, 2, 5, 2, 0, tzinfo=UTC)  # a Monday


def test_thirty_nights_of_pull_and_prune_leave_the_right_pulls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Sandbox(size_bytes=4096, polls=0) as sandbox, memory_folder(tmp_path) as folder:
        for snapshot_id in list(sandbox._service.snapshots):
            sandbox.drop_snapshot(snapshot_id)
        flags = connection_flags(sandbox, tmp_path)
        flags += ["--cluster", sandbox.replica_set_cluster]
        shelf = folder / "shelf"
        snapshots: list[str] = []
        for night in range(30):
            now = FIRST_NIGHT + timedelta(days=night)
            sandbox.set_clock_offset((now - datetime.now(UTC)).total_seconds())
            snapshots.append(sandbox.add_snapshot(sandbox.replica_set_cluster))
            if night >= 3:  # the service keeps three
                sandbox.drop_snapshot(snapshots[night - 3])
            pulled = run_here(capsys, "pull", *flags, *FAST, "--out-dir", shelf)
            assert pulled.code == 0, pulled.err
            policy = ("--keep-daily", "7", "--keep-weekly", "4")
            pruned = run_here(capsys, "prune", *policy, "--out-dir", shelf)
            assert pruned.code == 0, pruned.err
            assert_no_secret(sandbox, pulled.out, pulled.err, pruned.out, pruned.err)
            assert pulled.out.strip() in {str(path) for path in shelf.iterdir()}, "the pull of tonight is here"
            assert days_in(shelf) == expected_days(night), f"night {night}"
        assert sandbox.delivery_gets() == 30
        # 2024-03-05 was a Tuesday: seven days, and the Sundays (the newest days) of the two further weeks before.
        assert days_in(shelf) == ["02-18", "02-25", "02-28", "02-29", "03-01", "03-02", "03-03", "03-04", "03-05"]
        assert claims(shelf) == []
        assert len(list(shelf.iterdir())) == 3 * len(days_in(shelf))


def days_in(folder: Path) -> list[str]:
    found = [json.loads(path.read_bytes()) for path in folder.glob("*.receipt.json")]
    return sorted(document["job"]["timestamp"]["date"][5:10] for document in found)


def expected_days(night: int) -> list[str]:
    """Of all nights so far the last seven, and of the last four weeks the Sunday, or tonight."""
    last_seven = set(range(max(0, night - 6), night + 1))
    sundays = [day for day in range(night + 1) if day % 7 == 6 or day == night]
    kept = last_seven | set(sundays[-4:])
    return sorted(f"{FIRST_NIGHT + timedelta(days=day):%m-%d}" for day in kept)


def test_whole_clusters_are_pulled_and_pruned_as_whole_clusters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Sandbox(size_bytes=4096, polls=0) as sandbox:
        for snapshot_id in list(sandbox._service.snapshots):
            sandbox.drop_snapshot(snapshot_id)
        flags = connection_flags(sandbox, tmp_path)
        shelf = tmp_path / "shelf"
        for night in range(4):
            now = FIRST_NIGHT + timedelta(days=night)
            sandbox.set_clock_offset((now - datetime.now(UTC)).total_seconds())
            sandbox.add_snapshot()
            assert run_here(capsys, "pull", *flags, *FAST, "--out-dir", shelf).code == 0
            assert run_here(capsys, "prune", "--keep-daily", "2", "--out-dir", shelf).code == 0
            whole = min(night + 1, 2)
            assert len(list(shelf.glob("batch-*.receipt.json"))) == whole
            assert len(list(shelf.iterdir())) == whole * (3 * 3 + 1)
            again = run_here(capsys, "pull", *flags, *FAST, "--out-dir", shelf)
            assert (again.code, len(again.out.splitlines())) == (0, 3)
        assert sandbox.delivery_gets() == 4 * 3


def test_a_folder_that_is_not_there_is_told_since_it_may_be_a_slip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = prune(capsys, tmp_path / "nowhere", "--keep-last", "1")
    assert ran.err == f"warning: there is no folder {tmp_path / 'nowhere'} to prune; check --out-dir\n"


def test_a_file_in_place_of_the_folder_is_not_taken_for_an_empty_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "place"
    place.touch()
    ran = prune(capsys, place, "--keep-last", "1")
    assert ran.code == 19
    assert ran.err == f"error: {place} is no folder; nothing was removed; check --out-dir\n"
