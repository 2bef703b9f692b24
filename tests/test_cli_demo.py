"""`restore-fetch demo`: the whole job without an account, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.command_support import PATIENCE_SECONDS, command_line, run_alone, run_here, run_on_terminal

_SMALL = ("--size", "64KiB")


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_every_step_is_told_and_taken_and_nothing_is_left(temporary_folder: Path) -> None:
    ran = run_alone("demo", *_SMALL)
    assert ran.code == 0, ran.err
    assert re.findall(r"Step (\d)", ran.err) == ["1", "2", "3", "4", "5"]
    for word in ("FINISHED/READY", "is verified", "1 download in all", "exit code 17", "Done"):
        assert word in ran.err
    assert json.loads(ran.out)["verdict"] == "verified"
    assert list(temporary_folder.iterdir()) == []


def test_keep_leaves_a_verified_archive(
    temporary_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    ran = run_here(capsys, "demo", *_SMALL, "--keep", "--json")
    assert ran.code == 0, ran.err
    (folder,) = temporary_folder.glob("restore-fetch-demo-*")
    assert str(folder) in ran.err
    receipt = json.loads(ran.out)
    archive = folder / receipt["file"]
    assert {path.name for path in folder.iterdir()} == {
        archive.name,
        f"{archive.name}.sha1",
        f"{archive.name}.receipt.json",
    }
    assert run_here(capsys, "verify", archive).code == 0


def test_on_a_terminal_the_bars_are_shown() -> None:
    ran = run_on_terminal("demo", *_SMALL)
    assert ran.code == 0, ran.err
    assert re.search(r"waiting for \d+s: IN_PROGRESS", ran.err)
    assert re.search(r"downloading: +\d+%\|", ran.err)
    assert json.loads(ran.out)["verdict"] == "verified"


def test_quiet_shows_the_receipt_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    ran = run_here(capsys, "demo", *_SMALL, "--quiet")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["verdict"] == "verified"


@pytest.mark.parametrize("size", ["0", "1"])
def test_the_smallest_archive_is_as_good_as_any(capsys: pytest.CaptureFixture[str], size: str) -> None:
    assert run_here(capsys, "demo", "--size", size, "--quiet").code == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_in_the_middle_it_cleans_up(temporary_folder: Path, number: int, code: int) -> None:
    with subprocess.Popen(
        command_line("demo", "--size", "32MiB"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "downloading" in line:
                process.send_signal(number)
                break
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == code
    assert "Traceback" not in said
    assert "kept" not in said
    assert list(temporary_folder.iterdir()) == []


def test_a_proxy_of_the_environment_is_not_asked() -> None:
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:1")
    ran = run_alone("demo", *_SMALL, env={**proxies, "PATH": os.environ["PATH"]})
    assert ran.code == 0, ran.err
