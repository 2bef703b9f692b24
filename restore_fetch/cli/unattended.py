"""Runs that nobody watches: who is told of their beginning and of their end, and how."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from restore_fetch.cli.console import Console
from restore_fetch.cli.exit_codes import DONE, INTERRUPTED, TERMINATED
from restore_fetch.cli.failures import failure_of, verdict_of
from restore_fetch.cli.options import CONNECTION_NAMES, FILE, apply, given_values, option
from restore_fetch.cli.signals import stop_asked
from restore_fetch.redaction import plain, scrub

if TYPE_CHECKING:
    from restore_fetch.notify import Archive, Report

_F = TypeVar("_F", bound=Callable[..., Any])
_PING_SECONDS = 10.0
_HURRIED_PING_SECONDS = 1.0  # whoever sends a signal waits no longer than two seconds
_NAMES = ("ping_url", "metrics_file", "on_success", "on_failure")
_UNATTENDED = (
    option("--ping-url", metavar="URL",
           help="Ping URL/start, and URL/EXIT-CODE with the last log lines; better set by its variable."),
    option("--metrics-file", type=FILE, metavar="PATH", help="Write metrics for Prometheus there; ends in .prom."),
    option("--on-success", metavar="CMD",
           help="Run this after a success, without a shell; RESTORE_FETCH_RESULT_* tell it of the run."),
    option("--on-failure", metavar="CMD", help="The same after a failure."),
)  # fmt: skip


def unattended_options(command: _F) -> _F:
    """Who is told of a run. It stands before the other groups of options, whose values it looks at."""

    @functools.wraps(command)
    def with_telling(**values: Any) -> Any:
        wanted = {name: values.pop(name) for name in _NAMES}
        if not any(wanted.values()):
            return command(**values)
        ctx = click.get_current_context()
        teller = _Teller(ctx, wanted, values)
        teller.begin()
        try:
            result = command(**values)
        except BaseException as exc:
            teller.end(stop_asked() or exc)
            raise
        teller.end()
        return result

    return apply(with_telling, *_UNATTENDED)  # type: ignore[return-value]


class _Teller:
    """Tells of one run.

    Args:
        ctx: The command.
        wanted: What the options of this module say.
        values: What the others say.

    Raises:
        ConfigurationError: One of the options cannot be used.
    """

    def __init__(self, ctx: click.Context, wanted: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        from restore_fetch import notify
        from restore_fetch.assembly import USER_AGENT

        self._command = ctx.info_name or ""
        self._console = ctx.ensure_object(Console)
        self._owner = _owner(ctx, values)
        self._started = time.monotonic()
        self._ping = notify.Ping(wanted["ping_url"], user_agent=USER_AGENT) if wanted["ping_url"] else None
        self._metrics: Path | None = wanted["metrics_file"]
        if self._metrics is not None:
            notify.check_metrics_path(self._metrics)
        self._hooks = {
            name: notify.parse_command(wanted[name], "--" + name.replace("_", "-"))
            for name in ("on_success", "on_failure")
            if wanted[name]
        }

    def begin(self) -> None:
        """Tell that the run begins."""
        if self._ping is not None:
            reason = self._ping.start(seconds=_PING_SECONDS)
            self._told("ping", "the ping of the beginning", reason)

    def end(self, exc: BaseException | None = None) -> None:
        """Tell how the run ended."""
        report = self._report(exc)
        if self._metrics is not None:
            reason = self._write_metrics(self._metrics, report)
            self._told("metrics", "writing the metrics", reason, even_quiet=True)
        if self._ping is not None:
            lines = [*self._console.last_lines, *([f"error: {report.error}"] if report.error else [])]
            stopped = report.exit_code in (INTERRUPTED, TERMINATED)
            seconds = _HURRIED_PING_SECONDS if stopped else _PING_SECONDS
            reason = self._ping.end(report.exit_code, lines, seconds=seconds)
            # Who waits for the ping notices that it is missing; a line in a mail would tell it twice.
            self._told("ping", "the ping of the end", reason)
        self._run_hook("on_failure" if report.exit_code else "on_success", report)

    def _report(self, exc: BaseException | None) -> Report:
        from restore_fetch.notify import Report

        code, message = failure_of(exc, self._command) if exc is not None else (DONE, "")
        archives = tuple(self._console.archives)
        project, cluster = self._owner
        return Report(
            command=self._command,
            project=project,
            cluster=cluster,
            exit_code=code,
            verdict=verdict_of(exc) if exc is not None else _verdict(archives),
            error=plain(scrub(message)),
            finished=time.time(),
            seconds=time.monotonic() - self._started,
            archives=archives,
            receipt=self._console.receipt,
        )

    def _write_metrics(self, path: Path, report: Report) -> str | None:
        from restore_fetch import __version__
        from restore_fetch.errors import StorageError
        from restore_fetch.notify import write_metrics

        try:
            write_metrics(path, report, version=__version__)
        except StorageError as exc:
            return str(exc)
        return None

    def _run_hook(self, name: str, report: Report) -> None:
        from restore_fetch.notify import run_command

        if name in self._hooks:
            option_name = "--" + name.replace("_", "-")
            reason = run_command(self._hooks[name], report, os.environ)
            self._told("hook", option_name, reason, even_quiet=True)

    def _told(self, event: str, what: str, reason: str | None, *, even_quiet: bool = False) -> None:
        # Never as an error: that word is for what ends a run, and the run may have ended well.
        if reason is not None:
            self._console.note(
                f"{event}-failed", f"{what} failed: {reason}", level="warning", even_quiet=even_quiet
            )


def _verdict(archives: Iterable[Archive]) -> str:
    from restore_fetch.records import weakest

    return weakest(archive.verdict for archive in archives)


def _owner(ctx: click.Context, values: Mapping[str, Any]) -> tuple[str, str]:
    """The project and the cluster, as far as they are said: metrics of a run that fails early have them, too."""
    from restore_fetch.errors import ConfigurationError
    from restore_fetch.sources import Finder

    found = Finder(given_values(ctx, {name: values[name] for name in CONNECTION_NAMES}), os.environ, None)

    def said(name: str) -> str:
        try:
            value = found.value(name)
        except ConfigurationError:
            return ""
        return plain(value.value) if value is not None else ""

    return said("project_id").lower(), said("cluster")
