"""What the machine does to a run: full disks, signals, other runs, files in the way, odd surroundings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from restore_fetch.sandbox import Sandbox
from tests.run_support import Outcome, Running, add_job, change, names_in, published, run, sha1, shell, start

STOPS_WITHIN_SECONDS = 10.0
"""Far more than the two seconds promised, for a machine that is busy with other things."""

SIGNALS = {"SIGINT": (signal.SIGINT, 130), "SIGTERM": (signal.SIGTERM, 143), "SIGHUP": (signal.SIGHUP, 143)}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=64 * 1024) as sandbox:
        yield sandbox


def assert_published(outcome: Outcome, sandbox: Sandbox, job: str) -> None:
    assert outcome.code == 0, outcome.stderr
    name = sandbox.file_name(job)
    assert outcome.names == published(name)
    assert sha1(outcome.folder / name) == sandbox.archive(job).sha1


# --- no room -------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None:
        pytest.skip("there is no mount command")
    line = [mount, "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if subprocess.run(line, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a file system")
    yield disk
    subprocess.run([umount, str(disk)], check=True)


def test_a_disk_that_is_too_small_is_told_before_anything_is_received(small_disk: Path) -> None:
    with Sandbox(size_bytes=512 * 1024) as sandbox:
        outcome = run(sandbox, small_disk, "fetch")
        name = sandbox.file_name(sandbox.job_id)

    assert outcome.code == 19
    assert "free some space" in outcome.last_line
    assert outcome.names == {f"{name}.part.json"}


@pytest.mark.parametrize("min_free", ["0", "32KiB"])
def test_a_disk_that_fills_during_the_download_keeps_what_arrived_and_the_next_run_goes_on(
    small_disk: Path, min_free: str
) -> None:
    """Without a length nothing can be told beforehand."""
    with Sandbox(size_bytes=512 * 1024) as sandbox:
        # A pace at which the free space is looked at while bytes arrive.
        job = add_job(sandbox, framing="close", bytes_per_second=512 * 1024)
        name, whole = sandbox.file_name(job), sandbox.archive(job).path.read_bytes()
        full = run(sandbox, small_disk, "fetch", job, "--min-free", min_free)
        kept = full.bytes_of(f"{name}.part")

        assert full.code == 19
        assert full.names == {f"{name}.part", f"{name}.part.json"}
        assert 0 < len(kept) < len(whole)
        assert whole.startswith(kept)
        assert sandbox.delivery_gets(job) == 1

        subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
        outcome = run(sandbox, small_disk, "fetch", job, "--min-free", min_free)
        assert_published(outcome, sandbox, job)
        attempts = outcome.json_of(f"{name}.receipt.json")["attempts"]
        assert [attempt["resumed_from"] for attempt in attempts] == [0, len(kept)]


def test_a_file_size_limit_ends_with_19_and_the_download_goes_on_without_it(tmp_path: Path) -> None:
    with Sandbox(size_bytes=256 * 1024) as sandbox:
        job, name = sandbox.job_id, sandbox.file_name(sandbox.job_id)
        # The interpreter, too, would leave files that end at the limit: in its cache of compiled modules.
        no_cache = {"PYTHONDONTWRITEBYTECODE": "1"}
        limited = run(sandbox, tmp_path / "out", "fetch", environ=no_cache, through=shell("ulimit -f 32"))
        kept = limited.bytes_of(f"{name}.part")
        outcome = run(sandbox, tmp_path / "out", "fetch")

        assert limited.code == 19
        assert "does not allow a file so large" in limited.last_line
        assert limited.names == {f"{name}.part", f"{name}.part.json"}
        assert 0 < len(kept) < sandbox.archive(job).size
        assert sandbox.archive(job).path.read_bytes().startswith(kept)
        assert_published(outcome, sandbox, job)
        assert sandbox.requests[-2].range == f"bytes={len(kept)}-"


# --- signals and closed pipes --------------------------------------------------------------------------


def waiting(sandbox: Sandbox) -> tuple[str, dict[str, Any], str, set[str], int]:
    """A job that is not ready: its change for the better, what to wait for, files kept, GETs in all."""
    return add_job(sandbox, polls_until_finished=None), {"polls_until_finished": 0}, "IN_PROGRESS", set(), 1


def downloading(sandbox: Sandbox) -> tuple[str, dict[str, Any], str, set[str], int]:
    return add_job(sandbox, "stall"), {}, "", {".part", ".part.json"}, 2


def hash_wait(sandbox: Sandbox) -> tuple[str, dict[str, Any], str, set[str], int]:
    return (
        add_job(sandbox, "no-hash", max_downloads=1),
        {"hash_kind": "right"},
        "waiting for the service to publish",
        {".part", ".part.json"},
        1,
    )


@pytest.mark.parametrize("sent", SIGNALS.values(), ids=SIGNALS.keys())
@pytest.mark.parametrize("phase", [waiting, downloading, hash_wait])
def test_a_signal_stops_a_run_soon_and_the_next_one_goes_on_where_it_was(
    sandbox: Sandbox, tmp_path: Path, phase: Any, sent: tuple[int, int]
) -> None:
    job, better, sign, kept, gets = phase(sandbox)
    name, (number, code) = sandbox.file_name(job), sent
    with start(sandbox, tmp_path / "out", "fetch", job) as running:
        if sign:
            running.until(lambda: sign in running.stderr)
        else:
            running.until_bytes()
        began = time.monotonic()
        stopped = running.signal(number)
        seconds = time.monotonic() - began

    assert stopped.code == code
    assert seconds < STOPS_WITHIN_SECONDS
    assert stopped.names == {name + ending for ending in kept}
    assert "run the same command again" in stopped.last_line
    if phase is downloading:
        part = stopped.bytes_of(f"{name}.part")
        assert part == sandbox.archive(job).path.read_bytes()[: len(part)] != b""
        assert stopped.json_of(f"{name}.part.json")["attempts"][-1]["outcome"] == "interrupted"

    change(sandbox, job, **better)
    assert_published(run(sandbox, tmp_path / "out", "fetch", job), sandbox, job)
    assert sandbox.delivery_gets(job) == gets


def test_a_hang_up_that_was_to_be_ignored_is(sandbox: Sandbox, tmp_path: Path) -> None:
    job = add_job(sandbox, polls_until_finished=None)
    with start(sandbox, tmp_path / "out", "fetch", job, through=shell("trap '' HUP")) as running:
        running.until(lambda: "IN_PROGRESS" in running.stderr)
        running.process.send_signal(signal.SIGHUP)
        change(sandbox, job, polls_until_finished=0)
        assert_published(running.end(), sandbox, job)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_pipe_that_nobody_reads_any_more_does_not_stop_a_run(
    sandbox: Sandbox, tmp_path: Path, stream: str
) -> None:
    job = add_job(sandbox, polls_until_finished=None)
    reader, writer = os.pipe()
    try:
        to: dict[str, Any] = {stream: writer}
        with start(sandbox, tmp_path / "out", "fetch", job, **to) as running:
            running.until(lambda: any(request.job_id == job for request in sandbox.requests))
            os.close(reader)
            change(sandbox, job, polls_until_finished=0)
            outcome = running.end()
    finally:
        os.close(writer)

    assert_published(outcome, sandbox, job)
    if stream == "stdout":
        assert "cannot be written to stdout" in outcome.stderr


# --- other runs ----------------------------------------------------------------------------------------


def test_of_two_runs_started_together_one_works_and_the_other_ends_with_20(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    job = add_job(sandbox, polls_until_finished=None)
    with (
        start(sandbox, tmp_path / "out", "fetch", job) as one,
        start(sandbox, tmp_path / "out", "fetch", job) as other,
    ):
        first, second = _whoever_ends_first(one, other)
        refused = first.end()
        change(sandbox, job, polls_until_finished=0)
        worked = second.end()

    assert refused.code == 20
    assert "--lock-wait" in refused.last_line
    assert_published(worked, sandbox, job)
    assert sandbox.delivery_gets(job) == 1


def test_with_lock_wait_the_other_run_waits_and_finds_the_work_done(sandbox: Sandbox, tmp_path: Path) -> None:
    job = add_job(sandbox, polls_until_finished=None)
    with start(sandbox, tmp_path / "out", "fetch", job) as one:
        one.until(lambda: "IN_PROGRESS" in one.stderr)
        with start(sandbox, tmp_path / "out", "fetch", job, "--lock-wait", "60s") as other:
            other.until(lambda: "another run works on" in other.stderr)
            change(sandbox, job, polls_until_finished=0)
            outcomes = [one.end(), other.end()]

    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes[1].stderr
    assert outcomes[0].stdout == outcomes[1].stdout
    assert "is here already" in outcomes[1].stderr
    assert_published(outcomes[1], sandbox, job)
    assert sandbox.delivery_gets(job) == 1


def test_runs_on_different_jobs_of_one_folder_do_not_wait_for_each_other(sandbox: Sandbox, tmp_path: Path) -> None:
    held = add_job(sandbox, polls_until_finished=None)
    job = add_job(sandbox, "encrypted")
    with start(sandbox, tmp_path / "out", "fetch", held) as one:
        one.until(lambda: "IN_PROGRESS" in one.stderr)
        outcome = run(sandbox, tmp_path / "out", "fetch", job)

    assert outcome.code == 0, outcome.stderr


def test_a_killed_run_leaves_no_lock_that_holds(sandbox: Sandbox, tmp_path: Path) -> None:
    job = add_job(sandbox, polls_until_finished=None)
    with start(sandbox, tmp_path / "out", "fetch", job) as running:
        running.until(lambda: "IN_PROGRESS" in running.stderr)
        killed = running.kill()
    assert killed.names == {f".restore-fetch-{job}.lock"}
    change(sandbox, job, polls_until_finished=0)

    assert_published(run(sandbox, tmp_path / "out", "fetch", job), sandbox, job)


def _whoever_ends_first(one: Running, other: Running) -> tuple[Running, Running]:
    deadline = time.monotonic() + 60
    while one.process.poll() is None and other.process.poll() is None:
        assert time.monotonic() < deadline, "both go on"
        time.sleep(0.01)
    return (one, other) if one.process.poll() is not None else (other, one)


# --- files in the way ----------------------------------------------------------------------------------

STRANGERS = "a stranger's words\n"


def a_file(place: Path, _: Path) -> None:
    place.write_text(STRANGERS)


def a_link_to_a_file(place: Path, elsewhere: Path) -> None:
    elsewhere.write_text(STRANGERS)
    place.symlink_to(elsewhere)


def a_link_to_nothing(place: Path, elsewhere: Path) -> None:
    place.symlink_to(elsewhere)


def a_link_to_a_folder(place: Path, elsewhere: Path) -> None:
    elsewhere.mkdir()
    place.symlink_to(elsewhere)


def a_folder(place: Path, _: Path) -> None:
    place.mkdir()


def a_fifo(place: Path, _: Path) -> None:
    os.mkfifo(place)


PLACES = {
    "archive": "NAME",
    "part": "NAME.part",
    "journal": "NAME.part.json",
    "unverified": "NAME.unverified",
    "receipt": "NAME.receipt.json",
    "sha1": "NAME.sha1",
    "rejected": "NAME.rejected",
    "finding": "NAME.rejected.json",
    "lock": ".restore-fetch-JOB.lock",
}
MOST_TEMPTING = ("archive", "part", "journal", "lock")
IN_THE_WAY = [
    *((put, place) for place in PLACES for put in (a_file, a_link_to_a_file)),
    *((put, place) for place in MOST_TEMPTING for put in (a_link_to_nothing, a_link_to_a_folder, a_folder, a_fifo)),
]


def _state(place: Path, elsewhere: Path) -> tuple[object, ...]:
    """Everything about a thing in the way that a run could change."""
    found = place.lstat()
    return (
        found.st_ino,
        found.st_mode,
        found.st_mtime_ns,
        place.read_bytes() if stat.S_ISREG(found.st_mode) else None,
        names_in(place) if stat.S_ISDIR(found.st_mode) else None,
        elsewhere.read_bytes() if elsewhere.is_file() else names_in(elsewhere),
        elsewhere.exists(),
    )


@pytest.mark.parametrize(("put", "where"), IN_THE_WAY)
def test_what_is_in_the_way_is_neither_followed_nor_replaced(
    sandbox: Sandbox, tmp_path: Path, put: Any, where: str
) -> None:
    job = sandbox.job_for("one-download")
    change(sandbox, job, polls_until_finished=0)
    folder, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    folder.mkdir()
    place = folder / PLACES[where].replace("NAME", sandbox.file_name(job)).replace("JOB", job)
    put(place, elsewhere)
    before = _state(place, elsewhere)
    outcome = run(sandbox, folder, "fetch", job)

    assert outcome.code == 19
    assert place.name in outcome.last_line
    assert _state(place, elsewhere) == before
    assert outcome.names == {place.name}
    assert sandbox.delivery_gets(job) == 0


def test_what_was_left_beside_an_archive_that_was_moved_away_is_not_in_the_way(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    name = sandbox.file_name(sandbox.job_id)
    run(sandbox, tmp_path / "out", "fetch")
    (tmp_path / "out" / name).rename(tmp_path / name)

    assert_published(run(sandbox, tmp_path / "out", "fetch"), sandbox, sandbox.job_id)
    assert sandbox.delivery_gets() == 2


def test_with_force_what_is_in_the_way_is_replaced_but_no_link_is_followed(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    folder, name = tmp_path / "out", sandbox.file_name(sandbox.job_id)
    folder.mkdir()
    a_file(folder / f"{name}.receipt.json", tmp_path)
    a_file(folder / f"{name}.sha1", tmp_path)
    assert_published(run(sandbox, folder, "fetch", "--force"), sandbox, sandbox.job_id)

    (folder / name).unlink()
    a_link_to_a_file(folder / name, tmp_path / "elsewhere")
    outcome = run(sandbox, folder, "fetch", "--force")
    assert outcome.code == 19
    assert (tmp_path / "elsewhere").read_text() == STRANGERS
    assert (folder / name).is_symlink()


def test_a_folder_that_is_a_link_is_as_good_as_any(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")

    assert_published(run(sandbox, tmp_path / "out", "fetch"), sandbox, sandbox.job_id)


# --- a part that is not ours, or not any more ----------------------------------------------------------


def _broken_off(sandbox: Sandbox, folder: Path, **behaviour: Any) -> tuple[str, Path, Path]:
    job = add_job(sandbox, "cut-download", **behaviour)
    assert run(sandbox, folder, "fetch", job, "--retries", "0").code == 16
    part = folder / f"{sandbox.file_name(job)}.part"
    return job, part, part.with_name(part.name + ".json")


def _edit(path: Path, **elements: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | elements))


def test_a_part_without_its_journal_is_not_taken_up(sandbox: Sandbox, tmp_path: Path) -> None:
    job, part, journal = _broken_off(sandbox, tmp_path / "out")
    journal.unlink()
    outcome = run(sandbox, tmp_path / "out", "fetch", job)

    assert outcome.code == 19
    assert outcome.names == {part.name}
    assert sandbox.delivery_gets(job) == 1


def test_the_part_and_journal_of_another_job_are_not_taken_up(sandbox: Sandbox, tmp_path: Path) -> None:
    other, part, journal = _broken_off(sandbox, tmp_path / "out")
    job = add_job(sandbox)
    name = sandbox.file_name(job)
    _edit(journal, file=name)
    part.rename(part.with_name(f"{name}.part"))
    journal.rename(part.with_name(f"{name}.part.json"))
    outcome = run(sandbox, tmp_path / "out", "fetch", job)

    assert outcome.code == 19
    assert outcome.names == {f"{name}.part", f"{name}.part.json"}
    assert outcome.json_of(f"{name}.part.json")["job"]["id"] == other
    assert sandbox.delivery_gets(job) == 0


def test_a_part_that_was_edited_is_never_published(sandbox: Sandbox, tmp_path: Path) -> None:
    job, part, _ = _broken_off(sandbox, tmp_path / "out")
    with part.open("r+b") as stream:
        stream.seek(1000)
        stream.write(b"edited by hand")
    name = sandbox.file_name(job)
    mixed = run(sandbox, tmp_path / "out", "fetch", job, "--hash-wait", "1s")
    assert mixed.code == 17
    assert mixed.names == {f"{name}.rejected", f"{name}.rejected.json"}

    again = run(sandbox, tmp_path / "out", "fetch", job)
    assert again.code == 0, again.stderr
    assert sha1(tmp_path / "out" / name) == sandbox.archive(job).sha1


@pytest.mark.parametrize("size", [0, 1000], ids=["empty", "shorter"])
def test_a_part_that_was_shortened_goes_on_from_what_is_left(sandbox: Sandbox, tmp_path: Path, size: int) -> None:
    job, part, _ = _broken_off(sandbox, tmp_path / "out")
    os.truncate(part, size)

    assert_published(run(sandbox, tmp_path / "out", "fetch", job), sandbox, job)
    asked = [request.range for request in sandbox.requests if request.server == "delivery"]
    assert asked == [None, f"bytes={size}-" if size else None]


def test_a_part_that_is_gone_starts_the_download_over(sandbox: Sandbox, tmp_path: Path) -> None:
    job, part, _ = _broken_off(sandbox, tmp_path / "out")
    part.unlink()

    assert_published(run(sandbox, tmp_path / "out", "fetch", job), sandbox, job)


@pytest.mark.parametrize(
    "elements",
    [
        {"etag": '"another"'},
        {"etag": "no tag"},
        {"total_bytes": 7},
        {"boot_id": "another"},
        {"durable_bytes": 2**62},
    ],
    ids=["etag", "no-etag", "length", "boot", "durable"],
)
def test_an_edited_journal_never_leads_to_a_wrong_archive(
    sandbox: Sandbox, tmp_path: Path, elements: dict[str, Any]
) -> None:
    job, _, journal = _broken_off(sandbox, tmp_path / "out")
    _edit(journal, **elements)

    assert_published(run(sandbox, tmp_path / "out", "fetch", job), sandbox, job)


@pytest.mark.parametrize("content", ["", "[]", '{"schema": "restore-fetch/journal/v2"}'])
def test_a_journal_that_cannot_be_believed_is_left_alone(sandbox: Sandbox, tmp_path: Path, content: str) -> None:
    job, part, journal = _broken_off(sandbox, tmp_path / "out")
    journal.write_text(content)
    outcome = run(sandbox, tmp_path / "out", "fetch", job)

    assert outcome.code == 19
    assert journal.read_text() == content
    assert outcome.names == {part.name, journal.name}
    assert sandbox.delivery_gets(job) == 1


# --- odd surroundings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environ",
    [
        {"HOME": None},
        {"HOME": "/nowhere/at/all"},
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0"},
        {"TERM": "dumb"},
    ],
    ids=["no-home", "a-home-that-is-not-there", "c-locale", "posix-without-utf-8", "dumb-terminal"],
)
def test_a_run_needs_nothing_of_its_environment(
    sandbox: Sandbox, tmp_path: Path, environ: dict[str, str | None]
) -> None:
    outcome = run(sandbox, tmp_path / "Züri", "fetch", environ=environ)

    assert_published(outcome, sandbox, sandbox.job_id)


@pytest.mark.parametrize("option", ["--private-key-file", "--ca-file"])
def test_a_home_that_nobody_knows_is_a_matter_of_configuration(
    sandbox: Sandbox, tmp_path: Path, option: str
) -> None:
    outcome = run(sandbox, tmp_path / "out", "fetch", option, "~no-such-user/key")

    assert outcome.code == 2
    assert option in outcome.last_line
    assert "no home folder is known" in outcome.last_line


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", ">/dev/full", "2>/dev/full"])
def test_a_stream_that_cannot_be_used_costs_no_archive(sandbox: Sandbox, tmp_path: Path, redirection: str) -> None:
    outcome = run(sandbox, tmp_path / "out", "fetch", through=shell(":", redirection))

    assert_published(outcome, sandbox, sandbox.job_id)
    if redirection == ">/dev/full":
        assert "cannot be written to stdout" in outcome.stderr


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc to look into")
def test_no_file_of_a_run_takes_the_place_of_a_stream_that_was_closed(sandbox: Sandbox, tmp_path: Path) -> None:
    """Whatever writes to that stream, a library or another program, would write into the archive."""
    job = add_job(sandbox, "stall")
    with start(sandbox, tmp_path / "out", "fetch", job, through=shell(":", ">&- 2>&- <&-")) as running:
        running.until_bytes()
        streams = [Path(f"/proc/{running.process.pid}/fd/{number}").readlink() for number in (0, 1, 2)]
        running.kill()

    assert streams == [Path(os.devnull)] * 3


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", ">&- 2>&- <&-"])
def test_a_failure_keeps_its_code_when_nobody_can_be_told(
    sandbox: Sandbox, tmp_path: Path, redirection: str
) -> None:
    job = sandbox.job_for("broken-job")

    assert run(sandbox, tmp_path / "out", "fetch", job, through=shell(":", redirection)).code == 13


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777], ids=oct)
def test_modes_do_not_depend_on_the_umask(sandbox: Sandbox, tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "made" / "here"
    job = add_job(sandbox, "cut-download")
    broken = run(sandbox, folder, "fetch", job, "--retries", "0", umask=umask)
    assert broken.code == 16, broken.stderr
    modes = {name: stat.S_IMODE((folder / name).stat().st_mode) for name in broken.names}
    outcome = run(sandbox, folder, "fetch", job, umask=umask)

    assert_published(outcome, sandbox, job)
    modes |= {name: stat.S_IMODE((folder / name).stat().st_mode) for name in outcome.names}
    assert set(modes.values()) == {0o600}, modes
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)} == {0o700}


def test_a_run_needs_no_terminal_and_no_session(sandbox: Sandbox, tmp_path: Path) -> None:
    outcome = run(sandbox, tmp_path / "out", "fetch", start_new_session=True)

    assert_published(outcome, sandbox, sandbox.job_id)
    assert "\r" not in outcome.stderr
    assert "\x1b" not in outcome.stderr
