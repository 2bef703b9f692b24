"""Running commands, in this process or as people do, and the flags that lead them to a sandbox."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from restore_fetch.cli.main import main
from restore_fetch.sandbox import Sandbox

PATIENCE_SECONDS = 60
FAST = ("--poll-interval", "0.02s", "--min-free", "0")


@dataclass(frozen=True)
class Ran:
    """What a command ended with, and what it said."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line on stderr: what people read first."""
        return self.err.splitlines()[-1] if self.err else ""


def run_here(capsys: pytest.CaptureFixture[str], *arguments: object) -> Ran:
    """A command in this process, which is quick."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return Ran(code, said.out, said.err)


def command_line(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "restore_fetch", *map(str, arguments)]


def run_alone(*arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Ran:
    """A command in a process of its own."""
    done = subprocess.run(
        command_line(*arguments),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def run_on_terminal(*arguments: object, columns: int = 100) -> Ran:
    """A command whose stderr is a terminal, and whose stdout is not."""
    screen, end = open_terminal(columns)
    with subprocess.Popen(command_line(*arguments), stdout=subprocess.PIPE, stderr=end) as process:
        os.close(end)
        shown = read_terminal(screen)
        out = process.stdout.read() if process.stdout else b""
        code = process.wait(PATIENCE_SECONDS)
    os.close(screen)
    return Ran(code, out.decode(), shown)


def open_terminal(columns: int = 100) -> tuple[int, int]:
    """Both ends of a pseudo-terminal: what a person sees, and what a program writes to."""
    screen, end = pty.openpty()
    size = (24).to_bytes(2, sys.byteorder) + columns.to_bytes(2, sys.byteorder) + bytes(4)
    fcntl.ioctl(end, termios.TIOCSWINSZ, size)
    return screen, end


def read_terminal(screen: int) -> str:
    """Everything written, until the last writer is gone."""
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that nobody has the other end any more
        while piece := os.read(screen, 65536):
            shown += piece
    return shown.decode()


def key_file(sandbox: Sandbox, folder: Path, private_key: str | None = None) -> Path:
    path = folder / "private.key"
    path.write_text((private_key or sandbox.private_key) + "\n")
    path.chmod(0o600)
    return path


def connection_flags(sandbox: Sandbox, folder: Path) -> list[str]:
    """What leads a command to a sandbox; the key is in a file in the folder."""
    flags = {
        "--base-url": sandbox.base_url,
        "--project-id": sandbox.project_id,
        "--cluster": sandbox.cluster,
        "--public-key": sandbox.public_key,
        "--private-key-file": key_file(sandbox, folder),
    }
    if sandbox.ca_file is not None:
        flags["--ca-file"] = sandbox.ca_file
    return [str(part) for pair in flags.items() for part in pair]


def connection_variables(sandbox: Sandbox) -> dict[str, str]:
    """The same as environment variables, the key by value."""
    return {
        "RESTORE_FETCH_BASE_URL": sandbox.base_url,
        "MONGODB_ATLAS_PROJECT_ID": sandbox.project_id,
        "RESTORE_FETCH_CLUSTER": sandbox.cluster,
        "MONGODB_ATLAS_PUBLIC_API_KEY": sandbox.public_key,
        "MONGODB_ATLAS_PRIVATE_API_KEY": sandbox.private_key,
        "RESTORE_FETCH_POLL_INTERVAL": "0.05s",
        "RESTORE_FETCH_MIN_FREE": "0",
        "RESTORE_FETCH_SERVICE": "atlas",
    }


def assert_no_secret(sandbox: Sandbox, *texts: str | Sequence[str]) -> None:
    for text in texts:
        for secret in sandbox.secrets():
            assert secret not in text
