"""A Dask cluster on loopback: a scheduler and workers, each a process of its own."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

PATIENCE_SECONDS = 60.0
"""How long anything may take on a machine that is busy with other things; no test measures by it."""

_LOCAL = ("--host", "127.0.0.1", "--no-dashboard")


class Cluster:
    """A scheduler that runs, and the workers that have joined it.

    Attributes:
        address: What `--dask` is given.
        scheduler: The process.
    """

    def __init__(
        self, place: Path, scheduler: subprocess.Popen[bytes], variables: Mapping[str, str], stack: ExitStack
    ) -> None:
        self.scheduler = scheduler
        self.address: str = json.loads((place / "scheduler.json").read_bytes())["address"]
        self._place = place
        self._variables = variables
        self._stack = stack
        self._names = (f"worker-{number}" for number in itertools.count())
        self._workers: list[subprocess.Popen[bytes]] = []

    def have_workers(self, count: int) -> None:
        """Let new workers join, at the same time, until there are so many that run.

        Each has one thread and a folder of its own, and knows of the sandbox the private key alone.
        """
        running = [worker for worker in self._workers if worker.poll() is None]
        joining = []
        for _ in range(count - len(running)):
            place = self._place / next(self._names)
            place.mkdir()
            how = ("--nthreads", "1", "--no-nanny", "--local-directory", str(place), "--name", place.name)
            line = _dask("worker", *_LOCAL, *how, self.address)
            joining.append((self._stack.enter_context(_process(line, place, self._variables)), place))
        for process, place in joining:
            until(
                lambda place=place: b"Registered to:" in (place / "said").read_bytes(),  # type: ignore[misc]
                process,
                place,
            )
        self._workers = [*running, *(process for process, _ in joining)]

    def worker_with(self, path: Path) -> subprocess.Popen[bytes]:
        """The worker that has a file open; there must be one."""
        (found,) = (worker for worker in self._workers if path.resolve() in _open_files(worker.pid))
        return found

    def said(self) -> str:
        """What all of its processes have written so far."""
        return "".join(path.read_text("utf-8") for path in self._place.rglob("said"))


@contextmanager
def dask_cluster(place: Path, variables: Mapping[str, str]) -> Iterator[Cluster]:
    """A scheduler, without workers at first; all are killed at the end of the block.

    Args:
        place: A folder for what the processes need and say.
        variables: What workers have in their environment, beside the path.
    """
    file = place / "scheduler.json"
    line = _dask("scheduler", *_LOCAL, "--port", "0", "--scheduler-file", str(file))
    with ExitStack() as stack:
        process = stack.enter_context(_process(line, place, {}))
        until(lambda: _is_document(file), process, place)
        yield Cluster(place, process, variables, stack)


def until(
    happened: Callable[[], object], process: subprocess.Popen[bytes] | None = None, place: Path | None = None
) -> None:
    """Wait until something has happened, while a process runs that writes to `said` in its place."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        said = (place / "said").read_text("utf-8") if place is not None else ""
        assert process is None or process.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.02)


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


def _open_files(pid: int) -> list[Path]:
    psutil = importlib.import_module("psutil")  # it comes with the extra dask
    with contextlib.suppress(psutil.Error):
        return [Path(file.path) for file in psutil.Process(pid).open_files()]
    return []


def _is_document(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError):
        return False
