"""`restore-fetch doctor`: whether a pull would have all it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from restore_fetch.cli.console import Console
from restore_fetch.cli.exit_codes import epilog, exit_code_of, worst
from restore_fetch.cli.options import MIN_FREE, OUT_DIR, PREFIX, common_options, connection_options

if TYPE_CHECKING:
    from restore_fetch.doctor import Check, Seen
    from restore_fetch.settings import Connection

CODES = (10, 11, 12, 19, 130, 143)
_HIDDEN = ("private_key", "client_secret")
Settings = dict[str, dict[str, str | None]]
_MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


@click.command("doctor", epilog=epilog(*CODES))
@OUT_DIR
@MIN_FREE
@connection_options
@common_options
@click.pass_context
def command(ctx: click.Context, out_dir: Path, min_free: float, connect: Callable[[], Connection]) -> None:
    """Check that a pull would have all it needs, and say what to do where it has not.

    Looked at are the configuration and where each value comes from, whether the service can be reached, knows the
    key and lets it read the cluster, the clocks, the folder and its free space, what earlier runs left there, and
    what would be pulled. Nothing is changed. The exit code is 0, or that of the worst check that failed.
    """
    from restore_fetch import doctor

    console = ctx.ensure_object(Console)
    settings: Settings = {"out_dir": {"value": str(out_dir), "source": _source(ctx, "out_dir")}}
    checks, seen = _check_connection(connect, settings)
    folder, here = doctor.check_folder(out_dir)
    checks.append(folder)
    if here is not None:
        checks.append(doctor.check_space(here, seen[0] if seen else None, int(min_free)))
        checks += doctor.check_leftovers(here)
    if seen is not None:
        checks.append(doctor.check_pull(here, *seen))
    console.result("\n".join(_lines(checks, settings)), _document(checks, settings))
    errors = [check.error for check in checks if check.error is not None]
    if errors:
        code = worst([exit_code_of(error) for error in errors])
        raise next(error for error in errors if exit_code_of(error) == code)


def _check_connection(
    connect: Callable[[], Connection], settings: Settings
) -> tuple[list[Check], tuple[Seen, Any] | None]:
    """The checks of the configuration and the service; and what it showed, with its time, when it did."""
    from restore_fetch import doctor
    from restore_fetch.cli.session import open_api
    from restore_fetch.clock import SystemClock
    from restore_fetch.errors import ConfigurationError

    try:
        connection = connect()
        settings.update(_settings_of(connection))
        opened = open_api(connection)
    except ConfigurationError as exc:
        return [doctor.failed("configuration", exc)], None
    told = doctor.Check("configuration", "ok", f"complete, for the service {connection.service}")
    account = f"service account {connection.client_id}" if connection.client_id else ""
    with opened as service:
        checks, seen = doctor.check_service(service, account or f"key {connection.public_key}", SystemClock())
        return [told, *checks], None if seen is None else (seen, service.now())


def _settings_of(connection: Connection) -> Settings:
    """Every value of the connection and where it came from; of a secret only the latter."""
    shown: Settings = {}
    for name, source in connection.sources.items():
        value = None if name in _HIDDEN else getattr(connection, name)
        shown[name] = {"value": None if value is None else str(value), "source": source}
    return shown


def _source(ctx: click.Context, name: str) -> str:
    source = ctx.get_parameter_source(name)
    if source is click.core.ParameterSource.COMMANDLINE:
        return f"--{name.replace('_', '-')}"
    return f"{PREFIX}{name.upper()}" if source is click.core.ParameterSource.ENVIRONMENT else "default"


def _lines(checks: list[Check], settings: Settings) -> Iterator[str]:
    from restore_fetch.redaction import plain

    width = max(map(len, settings))
    for name, setting in settings.items():
        value = "set, not shown  " if name in _HIDDEN else f"{setting['value']}  " if setting["value"] else ""
        yield plain(f"set   {name:<{width}}  {value}from {setting['source']}")
    width = max(len(check.name) for check in checks)
    for check in checks:
        yield plain(f"{_MARKS[check.state]}  {check.name:<{width}}  {check.what}")
        if check.next_step:
            yield plain(f"      {'':<{width}}  → {check.next_step}")


def _document(checks: list[Check], settings: Settings) -> dict[str, Any]:
    from restore_fetch.doctor import worst_state

    return {
        "state": worst_state(checks),
        "settings": settings,
        "checks": [
            {
                "name": check.name,
                "state": check.state,
                "what": check.what,
                "next_step": check.next_step or None,
                "exit_code": exit_code_of(check.error) if check.error else 0,
            }
            for check in checks
        ],
    }
