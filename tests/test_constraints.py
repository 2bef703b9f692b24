"""The lock for development: it pins what the project asks for, within its bounds, and is used when asked for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).resolve().parent.parent
_LOCK = _ROOT / "scripts" / "constraints.txt"


def _pins() -> dict[str, str]:
    lines = [line for line in _LOCK.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!-]+", line) for line in lines)
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_every_dependency_is_pinned_within_its_bounds() -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]
    pins = _pins()
    for requirement in map(Requirement, wanted):
        if requirement.name != project["name"]:
            version = pins[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"


def test_setup_uses_the_lock_only_when_it_is_asked_to(tmp_path: Path) -> None:
    shutil.copytree(_ROOT / "scripts", tmp_path / "scripts")
    shutil.copy(_ROOT / "pyproject.toml", tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\ncase "$1" in -c) exit 0;; esac\necho "$*" >> "{tmp_path}/calls"\n')
    python.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "LOCKED"}
    for locked in ({}, {"LOCKED": "1"}):
        subprocess.run([tmp_path / "scripts" / "setup"], env=environment | locked, check=True, capture_output=True)
    free, pinned = (tmp_path / "calls").read_text().splitlines()
    assert "--constraint" not in free
    assert "--constraint scripts/constraints.txt" in pinned
