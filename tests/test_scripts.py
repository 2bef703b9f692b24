"""The scripts that people run first: each is a script, executable, and finds its own place."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent
_SCRIPTS = sorted(path for path in (_ROOT / "scripts").iterdir() if path.is_file())
_SHELL = [path for path in [*_SCRIPTS, _ROOT / ".ci" / "run"] if path.read_text().startswith("#!/usr/bin/env bash")]


def _id(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", [_ROOT / "scripts" / name for name in ("demo", "test", "lint", "setup")], ids=_id)
def test_the_scripts_of_the_readme_are_executable(path: Path) -> None:
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env ")


@pytest.mark.parametrize("path", _SHELL, ids=_id)
def test_shell_scripts_are_well_formed_and_stop_at_the_first_error(path: Path) -> None:
    checked = subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "set -euo pipefail" in path.read_text()


@pytest.mark.parametrize("path", _SHELL, ids=_id)
def test_scripts_call_only_scripts_that_exist(path: Path) -> None:
    for called in re.findall(r"(?<![\w/.])scripts/([a-z-]+)\b", path.read_text()):
        assert (_ROOT / "scripts" / called).is_file(), called


def _copy(tmp_path: Path) -> Path:
    """What the scripts need of a clone, with a virtual environment that only notes what it is asked for."""
    clone = tmp_path / "clone"
    shutil.copytree(_ROOT / "scripts", clone / "scripts")
    shutil.copy(_ROOT / "pyproject.toml", clone)
    (clone / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "restore-fetch", "ruff", "mypy"):
        tool = clone / ".venv" / "bin" / name
        tool.write_text(f'#!/bin/sh\ncase "$1" in -c) exit 0;; esac\necho "{name} $*" >> "{tmp_path}/calls"\n')
        tool.chmod(0o755)
    return clone


def _calls(tmp_path: Path, clone: Path, script: str, *arguments: str) -> list[str]:
    (tmp_path / "calls").write_text("")
    subprocess.run([clone / "scripts" / script, *arguments], cwd="/", check=True, capture_output=True)
    return (tmp_path / "calls").read_text().splitlines()


def test_demo_installs_once_and_runs_the_demo_from_anywhere(tmp_path: Path) -> None:
    clone = _copy(tmp_path)
    first = _calls(tmp_path, clone, "demo", "--size", "1MiB")
    assert "pip install" in first[0]
    assert first[0].endswith(".[sandbox]")
    assert first[1:] == ["restore-fetch demo --size 1MiB"]
    assert _calls(tmp_path, clone, "demo") == ["restore-fetch demo"]


def test_another_pyproject_is_installed_again(tmp_path: Path) -> None:
    clone = _copy(tmp_path)
    _calls(tmp_path, clone, "demo")
    stamp = clone / ".venv" / ".installed-sandbox"
    os.utime(stamp, (1, 1))
    assert any("pip install" in call for call in _calls(tmp_path, clone, "demo"))


def test_test_runs_lint_types_and_tests(tmp_path: Path) -> None:
    calls = " | ".join(_calls(tmp_path, _copy(tmp_path), "test"))
    for word in ("ruff check", "ruff format --check", "mypy", "pytest --numprocesses", " --cov "):
        assert word in calls


def test_without_a_python_that_is_new_enough_it_is_said(tmp_path: Path) -> None:
    clone = _copy(tmp_path)
    shutil.rmtree(clone / ".venv")
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        [clone / "scripts" / "setup"],
        env={"PATH": os.environ["PATH"], "PYTHON": str(old)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        pytest.fail("a Python that cannot be used was used")
    assert "Python 3.11 or newer" in done.stderr
    assert not (clone / ".venv").exists()
