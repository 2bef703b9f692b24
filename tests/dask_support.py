"""A Dask cluster on loopback: a scheduler and workers, each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PATIENCE_SECONDS = 60.0
"""How long anything may take on a machine that is busy with other things; no test measures by it."""

_LOCAL = ("--host", "127.0.0.1", "--no-dashboard")


class Cluster:
    """A scheduler that runs.

    Attributes:
        address: What `--dask` is given.
        process: The scheduler.
    """

    def __init__(self, place: Path, process: subprocess.Popen[bytes], variables: Mapping[str, str]) -> None:
        self.process = process
        self._place = place
        self._variables = variables
        self.address = json.loads((place / "scheduler.json").read_bytes())["address"]

    @contextmanager
    def worker(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """A worker with one thread, that has joined; killed at the end of the block.

        It runs in a folder of its own, and knows of the sandbox the private key alone.
        """
        place = self._place / name
        place.mkdir()
        joining = ("--nthreads", "1", "--no-nanny", "--local-directory", str(place))
        line = _dask("worker", *_LOCAL, *joining, "--name", name, self.address)
        with _process(line, place, self._variables) as process:
            _until(process, place, lambda: b"Registered to:" in (place / "said").read_bytes())
            yield process


@contextmanager
def dask_cluster(place: Path, variables: Mapping[str, str]) -> Iterator[Cluster]:
    """A scheduler; it is killed at the end of the block.

    Args:
        place: A folder for what the processes need and say.
        variables: What workers have in their environment, beside the path.
    """
    file = place / "scheduler.json"
    line = _dask("scheduler", *_LOCAL, "--port", "0", "--scheduler-file", str(file))
    with _process(line, place, {}) as process:
        _until(process, place, lambda: _is_document(file))
        yield Cluster(place, process, variables)


def _dask(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dask", *arguments]


@contextmanager
def _process(line: list[str], place: Path, variables: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    root = Path(__file__).resolve().parent.parent
    kept = {"PATH": os.environ["PATH"], "HOME": str(place), "LC_ALL": "C.UTF-8", "PYTHONPATH": str(root)}
    with (
        (place / "said").open("wb") as said,
        subprocess.Popen(
            line, cwd=place, env=kept | variables, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def _until(process: subprocess.Popen[bytes], place: Path, happened) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert process.poll() is None, (place / "said").read_text("utf-8")
        assert time.monotonic() < deadline, (place / "said").read_text("utf-8")
        time.sleep(0.05)


def _is_document(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError):
        return False
