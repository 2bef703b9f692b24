"""A sample of what `scripts/crash-test` does in full: real runs, killed and failed by strace at chosen calls."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from restore_fetch.sandbox import SCENARIOS
from tests.crash_support import (
    KILLED,
    LIMITED,
    SHORT_WRITES,
    Point,
    Workshop,
    attempt_recorded_before_request,
    cut_short,
    parse_trace,
    points_of,
    power_cuts,
    prepare_part,
    prepare_publication,
    why_no_strace,
    wrong_after_power_cut,
    wrong_order,
)

_REASON = why_no_strace()
traced = pytest.mark.skipif(_REASON is not None, reason=_REASON or "")


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with Workshop(size_bytes=1_000_000) as workshop:  # more than one buffer, and several writes each
        yield workshop
        assert not workshop.sandbox.errors
        assert not workshop.tally.false_successes


@traced
@pytest.mark.parametrize("scenario", ["normal", "chunked"])
def test_bytes_are_flushed_before_the_rename_then_the_folder_then_the_receipt(
    workshop: Workshop, scenario: str
) -> None:
    case = workshop.case(scenario)
    run = case.traced()
    assert run.code == 0
    assert wrong_order(case, run.calls) == []
    assert case.wrong_when_verified(run) == []
    assert len(points_of(case, run.calls)) > 50


@traced
def test_the_journal_is_on_disk_before_the_archive_is_asked_for(workshop: Workshop) -> None:
    case = workshop.case("normal")
    run = case.traced(everything=True)
    assert run.code == 0
    assert attempt_recorded_before_request(case, run.calls)


@traced
@pytest.mark.parametrize(
    ("scenario", "point"),
    [
        ("normal", Point("rename", ".part.json.tmp", 1)),
        ("normal", Point("write", ".part", 2)),
        ("chunked", Point("write", ".part", 2)),
        ("normal", Point("fsync", ".part", 1)),
        ("chunked", Point("rename", ".part", 1)),
        ("normal", Point("openat", ".sha1.tmp", 1)),
        ("normal", Point("rename", ".receipt.json.tmp", 1)),
        ("normal", Point("unlink", ".part.json", 1)),
    ],
    ids=str,
)
def test_a_run_that_is_killed_at_any_call_is_finished_by_the_next_one(
    workshop: Workshop, scenario: str, point: Point
) -> None:
    case = workshop.case(scenario)
    run = case.inject(point, "signal=KILL")
    assert run.code == KILLED
    assert case.wrong_after(run) == []
    assert case.finish() == []


@traced
def test_a_run_that_goes_on_can_be_killed_too(workshop: Workshop) -> None:
    case = workshop.case("normal")
    prepare_part(case)
    assert case.inject(Point("write", ".part", 1), "signal=KILL").code == KILLED
    assert case.finish() == []


@traced
def test_a_run_that_finishes_a_publication_can_be_killed_too(workshop: Workshop) -> None:
    case = workshop.case("chunked")
    prepare_publication(case)
    assert case.inject(Point("rename", ".sha1.tmp", 1), "signal=KILL").code == KILLED
    assert case.finish() == []


@traced
@pytest.mark.parametrize(
    ("point", "error"),
    [
        (Point("openat", "the lock", 1), "ENOSPC"),
        (Point("write", ".part.json.tmp", 1), "EDQUOT"),
        (Point("fallocate", ".part", 1), "ENOSPC"),
        (Point("write", ".part", 2), "ENOSPC"),
        (Point("fsync", ".part", 1), "EIO"),
        (Point("close", ".part", 1), "EIO"),
        (Point("fsync", ".part.json.tmp", 3), "EIO"),
        (Point("rename", ".part", 1), "EIO"),
        (Point("write", ".receipt.json.tmp", 1), "ENOSPC"),
        (Point("close", "the lock", 1), "EIO"),
    ],
    ids=str,
)
def test_an_error_of_the_disk_is_told_in_one_line_and_loses_nothing(
    workshop: Workshop, point: Point, error: str
) -> None:
    case = workshop.case("normal")
    run = case.inject(point, f"error={error}")
    assert any(call.injected for call in run.calls)
    assert case.wrong_after_error(run, point.codes_of_error) == []
    assert case.finish() == []


@traced
def test_a_folder_that_cannot_be_flushed_after_the_archive_got_its_name_is_an_error(workshop: Workshop) -> None:
    case = workshop.case("normal")
    points = points_of(case, case.traced().calls)
    renamed = points.index(Point("rename", ".part", 1))
    flush = next(point for point in points[renamed:] if (point.name, point.ending) == ("fsync", "the folder"))
    case = workshop.case("normal")
    run = case.inject(flush, "error=EIO")
    assert case.wrong_after_error(run) == []
    assert case.is_right()
    assert not case.file(".receipt.json").exists()
    assert case.finish() == []
    assert case.gets == 1


@traced
@pytest.mark.parametrize("ending", [".part", ".part.json.tmp", ".receipt.json.tmp"])
def test_a_write_that_claims_more_than_it_did_is_never_verified(workshop: Workshop, ending: str) -> None:
    case = workshop.case("normal")
    run = case.inject(Point("write", ending, 1), "retval=100")
    assert case.wrong_after_error(run) == []
    assert case.finish() == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads what a descriptor holds in /proc")
@pytest.mark.parametrize("scenario", ["normal", "chunked"])
def test_whatever_a_power_cut_leaves_the_next_run_ends_verified(workshop: Workshop, scenario: str) -> None:
    case = workshop.case(scenario)
    states = power_cuts(case)
    assert len(states) > 30
    assert {state.name: wrong_after_power_cut(case, state, case.run_here) for state in states} == {
        state.name: [] for state in states
    }
    case.close()


def test_writes_that_take_only_a_part_are_gone_on_with(workshop: Workshop) -> None:
    case = workshop.case("normal")
    run = cut_short(case, SHORT_WRITES)
    assert run.code == 0, run.err
    assert case.wrong_when_verified(run) == []


@pytest.mark.parametrize("limit", [600, 950_000])
def test_a_limit_on_the_size_of_files_ends_a_run_and_the_next_one_goes_on(workshop: Workshop, limit: int) -> None:
    case = workshop.case("normal")
    run = cut_short(case, LIMITED, limit)
    assert case.wrong_after_error(run) == []
    assert case.finish() == []


def test_a_download_that_a_signal_stopped_goes_on_where_it_was(workshop: Workshop) -> None:
    case = workshop.case(replace(SCENARIOS["normal"], bytes_per_second=500_000))
    process = case.start()
    while process.poll() is None and not (case.part.exists() and case.part.stat().st_size):
        time.sleep(0.01)
    process.terminate()
    run = case.wait(process)
    assert run.code == 143, run.err
    assert 0 < case.part.stat().st_size < case.archive.size
    assert case.wrong_after(run) == []
    assert case.finish() == []
    assert case.gets == 2


def test_a_trace_is_read_across_threads_that_interrupt_each_other() -> None:
    log = (
        '7 write(5</d/a.part>, "x", 9 <unfinished ...>\n'
        "8 fsync(6</d>) = -1 EIO (Input/output error) (INJECTED)\n"
        "7 <... write resumed>) = 9\n"
        '7 rename("/d/a.part", "/d/a") = ?\n'
        "7 +++ killed by SIGKILL +++\n"
    )
    calls = [(call.thread, call.name, call.paths, call.result, call.injected) for call in parse_trace(log)]
    assert calls == [
        (8, "fsync", ("/d",), -1, True),
        (7, "write", ("/d/a.part",), 9, False),
        (7, "rename", ("/d/a.part", "/d/a"), None, False),
    ]
