"""What is released: metadata, the version in one place, and what the packages hold."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from restore_fetch import __version__

_ROOT = Path(__file__).resolve().parent.parent
_PYPROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())
_LONG = os.environ.get("RESTORE_FETCH_TEST_LONG") == "1"


def test_the_version_is_in_one_place() -> None:
    assert "version" in _PYPROJECT["project"]["dynamic"]
    assert _PYPROJECT["tool"]["hatch"]["version"]["path"] == "restore_fetch/__init__.py"
    said = [
        path
        for path in (*_ROOT.glob("*.toml"), *(_ROOT / "restore_fetch").rglob("*.py"))
        if re.search(rf'["\']{re.escape(__version__)}["\']', path.read_text("utf-8"))
    ]
    assert said == [_ROOT / "restore_fetch" / "__init__.py"]


def test_what_is_installed_is_this_version_with_its_command() -> None:
    installed = importlib.metadata.distribution("restore-fetch")
    assert installed.version == __version__
    (command,) = [one for one in installed.entry_points if one.group == "console_scripts"]
    assert command.name == "restore-fetch"
    assert callable(command.load())


def test_the_metadata_say_what_people_look_for() -> None:
    project = _PYPROJECT["project"]
    assert project["license"] == "Apache-2.0"
    assert (_ROOT / project["readme"]).is_file()
    assert all((_ROOT / name).is_file() for name in project["license-files"])
    assert len(project["description"]) < 120
    oldest = project["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {oldest}" in project["classifiers"]
    assert "Typing :: Typed" in project["classifiers"]
    assert (_ROOT / "restore_fetch" / "py.typed").is_file()
    assert project["classifiers"] == sorted(project["classifiers"])


def test_every_library_that_is_imported_is_asked_for() -> None:
    names = {re.split(r"[>=\[]", one)[0] for one in _PYPROJECT["project"]["dependencies"]}
    source = "\n".join(path.read_text("utf-8") for path in (_ROOT / "restore_fetch").rglob("*.py"))
    for name in names:
        assert re.search(rf"^\s*(import|from) {name}\b", source, re.MULTILINE), name


def test_the_sdist_holds_what_its_own_tests_need() -> None:
    included = set(_PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])
    assert {"restore_fetch", "tests", "scripts", ".ci", "docs", "CHANGELOG.md", "README.md", "LICENSE"} <= included


@pytest.mark.skipif(not _LONG, reason="needs a package index and half a minute: RESTORE_FETCH_TEST_LONG=1")
@pytest.mark.timeout(900)
def test_wheel_and_sdist_run_the_demo_in_an_empty_environment() -> None:
    done = subprocess.run([_ROOT / "scripts" / "check-release"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"installed in \d+ s, demo in \d+ s", done.stdout)) == 2
