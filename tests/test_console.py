"""What goes to stdout, what to stderr, and what to neither."""

from __future__ import annotations

import json
import os
import re
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from restore_fetch.cli.console import Console
from restore_fetch.redaction import Secret
from tests.command_support import PATIENCE_SECONDS, command_line

_KEY = "2f9b1c57-9d3e-4b0a"


def test_results_go_to_stdout_and_everything_else_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.note("status", "it is READY")
    console.note("clock", "the clock is wrong", level="warning")
    console.result("/backups/a.tar.gz")
    console.fail(ValueError(), "it went wrong", 12)
    said = capsys.readouterr()
    assert said.out == "/backups/a.tar.gz\n"
    assert said.err == "it is READY\nwarning: the clock is wrong\nerror: it went wrong\n"


def test_with_json_the_result_is_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    Console(json_output=True).result("for people", {"path": "/backups/ä.tar.gz", "n": None})
    assert json.loads(capsys.readouterr().out) == {"path": "/backups/ä.tar.gz", "n": None}


def test_an_empty_result_is_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Console().result("")
    assert capsys.readouterr().out == ""


def test_quiet_tells_only_the_error_that_ends_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True)
    console.note("status", "it is READY")
    console.note("clock", "the clock is wrong", level="warning")
    console.fail(ValueError(), "it went wrong", 12)
    assert capsys.readouterr().err == "error: it went wrong\n"


def test_details_are_told_only_when_asked_for_and_then_with_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    Console().note("settings", "a detail", level="debug")
    assert capsys.readouterr().err == ""
    Console(verbose=1).note("settings", "a detail", level="debug")
    said = capsys.readouterr().err
    assert re.fullmatch(r"[0-2]\d:[0-5]\d:[0-5]\dZ a detail\n", said)


def test_json_log_lines_have_what_a_collector_needs(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(json_logs=True)
    console.note("status", "it is READY", job="a" * 24)
    console.fail(FileNotFoundError(), "it went wrong", 19)
    first, last = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert {"level": "info", "event": "status", "message": "it is READY", "job": "a" * 24}.items() <= first.items()
    assert datetime.fromisoformat(first["ts"]).tzinfo is not None
    failed = {"event": "failed", "exit_code": 19, "error": "FileNotFoundError", "message": "it went wrong"}
    assert failed.items() <= last.items()


@pytest.mark.parametrize("json_logs", [False, True])
def test_no_secret_passes(capsys: pytest.CaptureFixture[str], json_logs: bool) -> None:
    Secret(_KEY)
    console = Console(json_logs=json_logs, json_output=json_logs, verbose=2)
    console.note("x", f"the key is {_KEY}")
    console.raw(f"Traceback: {_KEY}")
    console.result(f"here: {_KEY}", {"key": _KEY})
    console.fail(ValueError(_KEY), f"it was {_KEY}", 1)
    said = capsys.readouterr()
    assert _KEY not in said.out + said.err + "".join(console.last_lines)
    assert "***" in said.out
    assert "***" in said.err


def test_nothing_that_a_service_says_can_write_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.note("x", "a\x1b[2Jb\rc\nerror: d\u202e")
    console.result("a\x1b]0;title\x07b")
    said = capsys.readouterr()
    for character in "\x1b\r\x07\u202e":
        assert character not in said.out + said.err
    assert said.err.count("\n") == 1


def test_the_last_lines_are_kept_for_those_who_send_them_on() -> None:
    console = Console()
    for number in range(60):
        console.note("x", f"line {number}")
    assert console.last_lines == [f"line {number}" for number in range(10, 60)]


# --- streams that are not there --------------------------------------------------------------------------


def _run(redirection: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    (tmp_path / "a.tar").write_bytes(b"x")
    command = [*command_line("verify", "a.tar", "--sha1", "11f6ad8ec52a2984abaafd7c3b516503785c2072")]
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *command],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        cwd=tmp_path,
        check=False,
    )


def test_without_stderr_the_result_and_the_code_still_tell(tmp_path: Path) -> None:
    for redirection in ("2>&-", "2>/dev/full"):
        done = _run(redirection, tmp_path)
        assert (done.returncode, done.stdout) == (0, "a.tar\n")


def test_without_stdout_nothing_breaks(tmp_path: Path) -> None:
    done = _run(">&-", tmp_path)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def test_a_full_stdout_is_told_without_a_traceback(tmp_path: Path) -> None:
    done = _run(">/dev/full", tmp_path)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr


def test_a_locale_without_the_characters_does_not_end_a_run(tmp_path: Path) -> None:
    name = "sicherung-ä.tar"
    (tmp_path / name).write_bytes(b"x")
    done = subprocess.run(
        command_line("verify", name, "--sha1", "11f6ad8ec52a2984abaafd7c3b516503785c2072"),
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"sicherung-")
