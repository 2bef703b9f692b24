"""What is said about an error that ends a run: the exit code, and one line for people."""

from __future__ import annotations

import click

from restore_fetch.cli.exit_codes import INTERRUPTED, UNEXPECTED, USAGE, exit_code_of
from restore_fetch.cli.signals import Stopped
from restore_fetch.errors import (
    ArchiveDamagedError,
    BatchError,
    HashMismatchError,
    HashNotPublishedError,
    RestoreFetchError,
)

_VERDICTS: dict[type[RestoreFetchError], str] = {
    HashMismatchError: "mismatch",
    ArchiveDamagedError: "damaged",
    HashNotPublishedError: "unverified",
}  # the worst first
_KEEPS = frozenset({"fetch", "pull"})  # what they had downloaded when they were stopped


def failure_of(exc: BaseException, command: str) -> tuple[int, str]:
    """The exit code for an error, and what happened.

    Args:
        exc: The error.
        command: The name of the command that it ended; empty when there was none yet.
    """
    kept = "what was downloaded is kept; " if command in _KEEPS else ""
    if isinstance(exc, click.ClickException):
        return USAGE, exc.format_message().rstrip(".")
    if isinstance(exc, RestoreFetchError):
        return exit_code_of(exc), str(exc)
    if isinstance(exc, Stopped):
        return exc.exit_code, f"stopped by a signal; {kept}run the same command again"
    if isinstance(exc, KeyboardInterrupt):
        return INTERRUPTED, f"stopped; {kept}run the same command again"
    error = true_error(exc)
    return UNEXPECTED, f"unexpected {type(error).__name__}: {error}; this is a bug, please report it"


def verdict_of(exc: BaseException) -> str:
    """What an error says of an archive, in a word; of a batch the worst of its members'.

    Returns:
        `mismatch`, `damaged` or `unverified`; `error` when it says nothing of any archive.
    """
    failures = list(exc.failures.values()) if isinstance(exc, BatchError) else [exc]
    for kind, verdict in _VERDICTS.items():
        if any(isinstance(failure, kind) for failure in failures):
            return verdict
    return "error"


def true_error(exc: BaseException) -> BaseException:
    """The error itself, where click made another one of it."""
    if isinstance(exc, click.Abort) and isinstance(exc.__cause__, EOFError):
        return exc.__cause__  # it was taken for a user who closed the input of a prompt; there is none
    return exc
