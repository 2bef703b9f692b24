"""Runs of the real command against a sandbox, for the tests of batches and pulls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from restore_fetch.redaction import Secret
from restore_fetch.sandbox import LoggedRequest, Sandbox
from restore_fetch.settings import Connection, FetchOptions

RUN_SECONDS = 60.0


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def last_line(self) -> str:
        return self.err.splitlines()[-1]


def command_line(
    sandbox: Sandbox, out_dir: Path, command: str, *arguments: str, cluster: str | None = None
) -> list[str]:
    """A command with all it needs; the arguments come last, and so outdo what is given here."""
    return [
        sys.executable,
        "-m",
        "restore_fetch",
        command,
        "--base-url",
        sandbox.base_url,
        "--project-id",
        sandbox.project_id,
        "--cluster",
        cluster or sandbox.cluster,
        "--public-key",
        sandbox.public_key,
        "--out-dir",
        str(out_dir),
        "--min-free",
        "0",
        "--poll-interval",
        "0.1s",
        *arguments,
    ]


def environment(sandbox: Sandbox) -> dict[str, str]:
    return {**os.environ, "MONGODB_ATLAS_PRIVATE_API_KEY": sandbox.private_key, "NO_PROXY": "127.0.0.1"}


def start(sandbox: Sandbox, out_dir: Path, *arguments: str, cluster: str | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command_line(sandbox, out_dir, *arguments, cluster=cluster),
        env=environment(sandbox),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> Ran:
    with process:
        try:
            out, err = process.communicate(timeout=RUN_SECONDS)
        finally:
            process.kill()
    return Ran(process.returncode, out, err)


def run(sandbox: Sandbox, out_dir: Path, *arguments: str, cluster: str | None = None) -> Ran:
    """Run a command to its end; no secret of the sandbox may be in what it says."""
    ran = end(start(sandbox, out_dir, *arguments, cluster=cluster))
    assert [secret for secret in sandbox.secrets() if secret in ran.out + ran.err] == []
    assert "Traceback" not in ran.err
    return ran


def connection(sandbox: Sandbox, cluster: str | None = None) -> Connection:
    return Connection(
        service="atlas",
        base_url=sandbox.base_url,
        project_id=sandbox.project_id,
        cluster=cluster or sandbox.cluster,
        public_key=sandbox.public_key,
        private_key=Secret(sandbox.private_key),
    )


def options(out_dir: Path, **changes: Any) -> FetchOptions:
    return FetchOptions(**{"out_dir": out_dir, "poll_seconds": 0.05, "min_free_bytes": 0, **changes})


def served(sandbox: Sandbox) -> list[LoggedRequest]:
    """The requests of the API that were answered; the first of a connection is refused to ask for the key."""
    return [request for request in sandbox.requests if request.server == "api" and request.status == 200]


def lists(sandbox: Sandbox) -> list[LoggedRequest]:
    return [request for request in served(sandbox) if "restoreJobs?" in request.path and request.method == "GET"]


def single_looks(sandbox: Sandbox) -> list[LoggedRequest]:
    return [request for request in served(sandbox) if "/restoreJobs/" in request.path]


def creations(sandbox: Sandbox) -> list[LoggedRequest]:
    return [request for request in served(sandbox) if request.method == "POST"]


def expected_paths(sandbox: Sandbox, out_dir: Path, batch_id: str) -> list[str]:
    """The archives of a batch in the order of job ids."""
    return [str(out_dir / sandbox.file_name(job_id)) for job_id in sorted(sandbox.jobs_of(batch_id))]
