"""Whole runs: the real command in a process of its own, against a sandbox in this one.

`run` runs one to its end; `start` gives a running one, to be watched, signalled and killed. Whatever a test looks
at, each run that ends is also held to what no run may ever do: print a traceback, let a secret out in any form
into any output, file or file name, fail without a last line that says so, or upset the sandbox.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from restore_fetch.sandbox import SCENARIOS, Sandbox

PATIENCE_SECONDS = 60.0
"""How long anything may take on a machine that is busy with other things; no test measures by it."""

QUICK = ("--poll-interval", "0.05s", "--min-free", "0", "--wait", "60s", "--hash-wait", "60s")
"""Options of every fetch here; a later option of the same name overrules one of these."""

_LAST_LINE = re.compile(r"(\d\d:\d\d:\d\dZ )?error: .")


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        code: Its exit code; below zero when a signal killed it.
        stdout: What it wrote there; empty when that went elsewhere.
        stderr: Likewise.
        folder: Where its files went.
        names: The names there when it ended, hidden ones too.
    """

    code: int
    stdout: str
    stderr: str
    folder: Path
    names: frozenset[str]

    @property
    def last_line(self) -> str:
        """The last line of stderr."""
        return (self.stderr.splitlines() or [""])[-1]

    def bytes_of(self, name: str) -> bytes:
        """A file of its folder."""
        return (self.folder / name).read_bytes()

    def json_of(self, name: str) -> Any:
        """A document in its folder."""
        return json.loads(self.bytes_of(name))


class Running:
    """A run that has been started.

    Attributes:
        process: The process.
    """

    def __init__(self, process: subprocess.Popen[bytes], sandbox: Sandbox, folder: Path, outputs: Path) -> None:
        self.process = process
        self._sandbox = sandbox
        self._folder = folder
        self._outputs = outputs

    @property
    def stderr(self) -> str:
        """What it has written there so far."""
        return _read(self._outputs.with_suffix(".stderr"))

    def until(self, happened: Callable[[], object]) -> None:
        """Wait until something has happened while the run goes on."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            assert self.process.poll() is None, f"it ended with {self.process.returncode} instead: {self.stderr}"
            assert time.monotonic() < deadline, f"it did not come to that: {self.stderr}"
            time.sleep(0.01)

    def until_bytes(self, count: int = 1) -> None:
        """Wait until so many bytes of the archive are in a part file."""
        self.until(lambda: any(_size(path) >= count for path in self._folder.glob("*.part")))

    def signal(self, number: int) -> Outcome:
        """Send a signal, and wait for the end."""
        self.process.send_signal(number)
        return self.end()

    def kill(self) -> Outcome:
        """End it where it stands, as a power cut ends a process."""
        return self.signal(signal.SIGKILL)

    def end(self) -> Outcome:
        """Wait for the end."""
        code = self.process.wait(PATIENCE_SECONDS)
        told = _read(self._outputs.with_suffix(".stdout"))
        outcome = Outcome(code, told, self.stderr, self._folder, frozenset(names_in(self._folder)))
        _hold_to_account(outcome, self._sandbox)
        return outcome


def run(
    sandbox: Sandbox,
    folder: Path,
    *arguments: str,
    environ: Mapping[str, str | None] | None = None,
    through: Sequence[str] = (),
    **popen: Any,
) -> Outcome:
    """Run one command to its end; see `start`."""
    with start(sandbox, folder, *arguments, environ=environ, through=through, **popen) as running:
        return running.end()


@contextmanager
def start(
    sandbox: Sandbox,
    folder: Path,
    *arguments: str,
    environ: Mapping[str, str | None] | None = None,
    through: Sequence[str] = (),
    **popen: Any,
) -> Iterator[Running]:
    """Start one command; whatever happens, it is over at the end of the block.

    Args:
        sandbox: What it talks to; the connection is in its environment, so it need not be in the arguments.
        folder: Where its files go, its current folder where that exists, and the `--out-dir` of a fetch.
        arguments: The command line. `fetch` gets `QUICK` and `--out-dir` put in front of its own options, and
            the sandbox's `job_id` when it names no job.
        environ: Changes to the environment; None takes a variable away.
        through: What to run the command with, such as `shell("ulimit -f 8")`.
        popen: Further arguments for `subprocess.Popen`, such as `stdout` or `umask`.
    """
    line = [*through, sys.executable, "-m", "restore_fetch", *_arguments(sandbox, folder, arguments)]
    with (
        tempfile.TemporaryDirectory() as place,
        _open(outputs := Path(place) / "output", ".stdout") as stdout,
        _open(outputs, ".stderr") as stderr,
    ):
        settings: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": stdout, "stderr": stderr}
        settings["cwd"] = folder if folder.is_dir() else place
        settings["env"] = environment(sandbox, Path(place), environ or {})
        with subprocess.Popen(line, **(settings | popen)) as process:
            try:
                yield Running(process, sandbox, folder, outputs)
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait(PATIENCE_SECONDS)


def environment(sandbox: Sandbox, home: Path, changes: Mapping[str, str | None]) -> dict[str, str]:
    """A clean environment that knows the sandbox and nothing of the person who runs the tests."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == "PATH" or name.startswith(("COVERAGE_", "PYDANTIC_"))
    }
    connection = {
        "RESTORE_FETCH_BASE_URL": sandbox.base_url,
        "RESTORE_FETCH_PROJECT_ID": sandbox.project_id,
        "RESTORE_FETCH_CLUSTER": sandbox.cluster,
        "RESTORE_FETCH_PUBLIC_KEY": sandbox.public_key,
        "MONGODB_ATLAS_PRIVATE_API_KEY": sandbox.private_key,
    }
    if sandbox.ca_file is not None:
        connection["RESTORE_FETCH_CA_FILE"] = str(sandbox.ca_file)
    known = {"HOME": str(home), "LC_ALL": "C.UTF-8", **kept, **connection, **changes}
    return {name: value for name, value in known.items() if value is not None}


def shell(setting: str, redirection: str = "") -> tuple[str, ...]:
    """A shell that sets something and then becomes the command, with its streams redirected."""
    return ("/bin/sh", "-c", f'{setting}; exec "$@" {redirection}', "sh")


def add_job(sandbox: Sandbox, scenario: str = "normal", **behaviour: Any) -> str:
    """A further job that behaves as a named scenario, but for what is said; it is FINISHED at the first look."""
    return sandbox.add_job(replace(SCENARIOS[scenario], **({"polls_until_finished": 0} | behaviour)))


def change(sandbox: Sandbox, job_id: str, **behaviour: Any) -> None:
    """Let a job behave in another way from now on."""
    service = sandbox._service
    with service.lock:
        job = service.jobs[job_id]
        job.scenario = replace(job.scenario, **behaviour)


def names_in(folder: Path) -> set[str]:
    """The names in a folder, hidden ones too; none when there is no such folder."""
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def published(name: str) -> set[str]:
    """The names that a published archive brings along."""
    return {name, f"{name}.sha1", f"{name}.receipt.json"}


def sha1(path: Path) -> str:
    """What a file is."""
    return hashlib.sha1(path.read_bytes()).hexdigest()


def forms_of(secret: str) -> set[bytes]:
    """A secret as it is, percent-encoded, and in base64."""
    raw = secret.encode()
    forms = {raw, quote(secret, safe="").encode(), base64.b64encode(raw), base64.urlsafe_b64encode(raw)}
    return forms | {form.rstrip(b"=") for form in forms}


def _arguments(sandbox: Sandbox, folder: Path, arguments: tuple[str, ...]) -> list[str]:
    if not arguments or arguments[0] != "fetch":
        return list(arguments)
    given = list(arguments[1:])
    job = [] if given and not given[0].startswith("-") else [sandbox.job_id]
    return ["fetch", *QUICK, "--out-dir", str(folder), *job, *given]


def _open(outputs: Path, suffix: str) -> IO[bytes]:
    return outputs.with_suffix(suffix).open("wb")


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _hold_to_account(outcome: Outcome, sandbox: Sandbox) -> None:
    told = outcome.stdout + outcome.stderr
    assert "Traceback" not in told, told
    assert sandbox.errors == []
    if outcome.code > 0 and outcome.stderr:
        assert _says_why(outcome.last_line, outcome.code), outcome.stderr
    found = {"stdout": outcome.stdout.encode(), "stderr": outcome.stderr.encode()}
    found["file names"] = "\n".join(outcome.names).encode()
    if outcome.folder.is_dir():
        for path in outcome.folder.iterdir():
            if path.is_file() and not path.is_symlink():
                found[path.name] = path.read_bytes()
    for secret in sandbox.secrets():
        for form in forms_of(secret):
            for place, content in found.items():
                assert form not in content, f"a secret is in {place}"


def _says_why(line: str, code: int) -> bool:
    if not line.startswith("{"):
        return _LAST_LINE.match(line) is not None
    entry = json.loads(line)
    return bool(entry["event"] == "failed" and entry["exit_code"] == code and entry["error"])
