"""What is said about an error that ends a run: the exit code, and one line for people."""

from __future__ import annotations

import click

from restore_fetch.cli.exit_codes import INTERRUPTED, UNEXPECTED, USAGE, exit_code_of
from restore_fetch.cli.signals import Stopped
from restore_fetch.errors import RestoreFetchError


def failure_of(exc: BaseException) -> tuple[int, str]:
    """The exit code for an error, and what happened."""
    if isinstance(exc, click.ClickException):
        return USAGE, exc.format_message().rstrip(".")
    if isinstance(exc, RestoreFetchError):
        return exit_code_of(exc), str(exc)
    if isinstance(exc, Stopped):
        return exc.exit_code, "stopped by a signal; what was downloaded is kept; run the same command again"
    if isinstance(exc, KeyboardInterrupt):
        return INTERRUPTED, "stopped; what was downloaded is kept; run the same command again"
    error = true_error(exc)
    return UNEXPECTED, f"unexpected {type(error).__name__}: {error}; this is a bug, please report it"


def true_error(exc: BaseException) -> BaseException:
    """The error itself, where click made another one of it."""
    if isinstance(exc, click.Abort) and isinstance(exc.__cause__, EOFError):
        return exc.__cause__  # it was taken for a user who closed the input of a prompt; there is none
    return exc
