"""Progress: bars on a terminal, a line a minute elsewhere, never on stdout."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import tqdm

from restore_fetch.cli.console import Console
from restore_fetch.cli.progress import Progress
from restore_fetch.sandbox import SCENARIOS, Sandbox
from tests.command_support import (
    FAST,
    assert_no_secret,
    connection_flags,
    open_terminal,
    read_terminal,
    run_alone,
    run_on_terminal,
)
from tests.support import ManualClock

_MIB = 1024 * 1024


class _Terminal:
    """What a person at a terminal has seen, once everything is over."""

    shown = ""


@contextmanager
def _terminal(monkeypatch: pytest.MonkeyPatch, clock: ManualClock, columns: int = 100) -> Iterator[_Terminal]:
    """A terminal as stderr of this process, with the bars on a clock that is passed in."""
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)
    monkeypatch.setattr("tqdm.std.time", clock.monotonic)
    screen, end = open_terminal(columns)
    terminal = _Terminal()
    with os.fdopen(end, "w", encoding="utf-8") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        yield terminal
    terminal.shown = read_terminal(screen)
    os.close(screen)


# --- on a terminal ---------------------------------------------------------------------------------------


def test_waiting_shows_the_status_and_the_time_waited(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    with _terminal(monkeypatch, clock) as terminal, Progress(Console(), monotonic=clock.monotonic) as progress:
        progress.waiting("IN_PROGRESS/NOT_STARTED", 0)
        clock.advance(65)
        progress.waiting("IN_PROGRESS/NOT_STARTED", 65)
    assert "waiting for 1m05s: IN_PROGRESS/NOT_STARTED" in terminal.shown


def test_downloading_shows_bytes_rate_and_time_left(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    with _terminal(monkeypatch, clock) as terminal, Progress(Console(), monotonic=clock.monotonic) as progress:
        progress.downloading(0, 40 * _MIB)
        clock.advance(10)
        progress.downloading(10 * _MIB, 40 * _MIB)
    assert "downloading:  25%|" in terminal.shown
    assert re.search(r"10\.0M/40\.0M \[00:10<00:30, 1\.0\dMB/s\]", terminal.shown)


def test_without_a_total_there_is_no_share_and_no_time_left(
    monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    with _terminal(monkeypatch, clock) as terminal, Progress(Console(), monotonic=clock.monotonic) as progress:
        progress.downloading(0, None)
        clock.advance(10)
        progress.downloading(10 * _MIB, None)
    assert re.search(r"downloading: 10\.0MB \[00:10, 1\.0\dMB/s\]", terminal.shown)
    assert "%" not in terminal.shown
    assert "<" not in terminal.shown


def test_a_total_that_becomes_known_is_shown_and_one_that_is_not_any_more_is_dropped(
    monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    with _terminal(monkeypatch, clock) as terminal, Progress(Console(), monotonic=clock.monotonic) as progress:
        for done, total in ((0, None), (10, 40), (20, None)):
            progress.downloading(done * _MIB, total and total * _MIB)
            clock.advance(10)
    _, without, known, unknown, *_ = terminal.shown.split("\r")
    assert "%" not in without
    assert "25%|" in known
    assert "20.0MB [" in unknown


def test_a_resumed_download_starts_where_it_left_off(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    with _terminal(monkeypatch, clock) as terminal, Progress(Console(), monotonic=clock.monotonic) as progress:
        progress.downloading(20 * _MIB, 40 * _MIB)
        clock.advance(10)
        progress.downloading(30 * _MIB, 40 * _MIB)
    assert "50%" in terminal.shown
    assert re.search(r"30\.0M/40\.0M \[00:10<00:10, 1\.0\dMB/s\]", terminal.shown), "the rate is this run's"


def test_log_lines_do_not_tear_the_bar(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    with _terminal(monkeypatch, clock) as terminal, Progress(Console(), monotonic=clock.monotonic) as progress:
        progress.downloading(0, 40 * _MIB)
        progress.note("attempt-failed", "attempt failed: it broke off", level="warning")
    assert re.search(r"\r\x1b\[K|\r +\rwarning: attempt failed: it broke off\r\n", terminal.shown)


def test_the_bar_is_gone_when_it_is_over(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    with _terminal(monkeypatch, clock) as terminal, Progress(Console(), monotonic=clock.monotonic) as progress:
        progress.downloading(40 * _MIB, 40 * _MIB)
    assert terminal.shown.endswith("\r")
    assert not terminal.shown.rpartition("\r")[0].rpartition("\r")[2].strip()


def test_a_terminal_that_does_not_tell_its_width_gets_a_bar_all_the_same(
    monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    with (
        _terminal(monkeypatch, clock, columns=0) as terminal,
        Progress(Console(), monotonic=clock.monotonic) as progress,
    ):
        progress.downloading(10 * _MIB, 40 * _MIB)
    assert "25%|" in terminal.shown


@pytest.mark.parametrize("console", [Console(progress=False), Console(quiet=True), Console(json_logs=True)])
def test_no_bar_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch, clock: ManualClock, console: Console) -> None:
    with _terminal(monkeypatch, clock) as terminal, Progress(console, monotonic=clock.monotonic) as progress:
        progress.waiting("IN_PROGRESS/NOT_STARTED", 5)
        progress.downloading(10 * _MIB, 40 * _MIB)
        progress.rereading(10 * _MIB, 40 * _MIB)
    assert terminal.shown == ""


# --- elsewhere -------------------------------------------------------------------------------------------


def test_elsewhere_a_line_a_minute_is_enough(clock: ManualClock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(Console(), monotonic=clock.monotonic) as progress:
        for second in range(181):
            progress.waiting("IN_PROGRESS/NOT_STARTED", second)
            clock.advance(1)
    said = capsys.readouterr()
    assert said.err.splitlines() == [f"waiting for {n}m00s: IN_PROGRESS/NOT_STARTED" for n in (1, 2, 3)]
    assert said.out == ""


def test_a_line_says_bytes_share_rate_and_time_left(clock: ManualClock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(Console(), monotonic=clock.monotonic) as progress:
        progress.downloading(0, 240 * _MIB)
        clock.advance(60)
        progress.downloading(60 * _MIB, 240 * _MIB)
        clock.advance(60)
        progress.downloading(120 * _MIB, None)
    assert capsys.readouterr().err.splitlines() == [
        "downloading: 60.0 MiB of 240.0 MiB (25%), 1.0 MiB/s, 3m00s left",
        "downloading: 120.0 MiB, 1.0 MiB/s",
    ]


@pytest.mark.parametrize("console", [Console(progress=False), Console(quiet=True)])
def test_no_line_where_none_is_wanted(
    clock: ManualClock, capsys: pytest.CaptureFixture[str], console: Console
) -> None:
    with Progress(console, monotonic=clock.monotonic) as progress:
        clock.advance(300)
        progress.waiting("IN_PROGRESS/NOT_STARTED", 300)
        progress.downloading(10, 20)
    assert capsys.readouterr() == ("", "")


# --- the real command ------------------------------------------------------------------------------------


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=256 * 1024) as running:
        yield running


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_person_at_a_terminal_sees_the_wait_and_the_download(
    sandbox: Sandbox, tmp_path: Path, framing: str
) -> None:
    behaviour = {"framing": framing, "bytes_per_second": 512 * 1024, "polls_until_finished": 1}
    job = sandbox.add_job(replace(SCENARIOS["normal"], **behaviour))  # type: ignore[arg-type]
    options = ("--out-dir", tmp_path / "here")
    ran = run_on_terminal("fetch", job, *connection_flags(sandbox, tmp_path), *FAST, *options)
    assert ran.code == 0, ran.err
    assert re.search(r"waiting for \d+s: IN_PROGRESS/NOT_STARTED", ran.err)
    assert re.search(r"downloading: +\d+%\|" if framing == "length" else r"downloading: [\d.]+", ran.err)
    assert ran.out == f"{tmp_path / 'here' / sandbox.file_name(job)}\n"
    assert_no_secret(sandbox, ran.err, ran.out)


def test_no_progress_leaves_plain_lines_on_a_terminal_too(sandbox: Sandbox, tmp_path: Path) -> None:
    flags = connection_flags(sandbox, tmp_path)
    options = ("--out-dir", tmp_path / "here", "--no-progress")
    ran = run_on_terminal("fetch", sandbox.job_id, *flags, *FAST, *options)
    assert ran.code == 0, ran.err
    assert "%|" not in ran.err
    assert all(line.endswith("\r") for line in ran.err.split("\n")[:-1])
    assert "is verified: SHA1 " in ran.err


def test_without_a_terminal_nothing_is_drawn(sandbox: Sandbox, tmp_path: Path) -> None:
    flags = connection_flags(sandbox, tmp_path)
    ran = run_alone("fetch", sandbox.job_id, *flags, *FAST, "--out-dir", tmp_path / "here")
    assert ran.code == 0, ran.err
    assert "\r" not in ran.err
    assert "%|" not in ran.err
    assert ran.out == f"{tmp_path / 'here' / sandbox.file_name(sandbox.job_id)}\n"
