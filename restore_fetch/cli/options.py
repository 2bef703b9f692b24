"""The options that several commands share, with the variables they are also read from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from restore_fetch.cli.console import Console
from restore_fetch.units import parse_duration, parse_size

if TYPE_CHECKING:
    from restore_fetch.settings import Connection, FetchOptions
    from restore_fetch.sources import Given

    ParamType = click.ParamType[float]
else:
    ParamType = click.ParamType

_F = TypeVar("_F", bound=Callable[..., Any])
PREFIX = "RESTORE_FETCH_"


class Quantity(ParamType):
    """A duration or a size, as people write them."""

    def __init__(self, name: str, parse: Callable[[str], float]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType.convert`."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


DURATION = Quantity("duration", parse_duration)
SIZE = Quantity("size", parse_size)
FILE = click.Path(path_type=Path, readable=False)  # what may not be read is local storage (19), not usage (2)
PLACE = click.Path()  # the same as text, which a variable or a profile may say, too


def option(*names: str, **settings: Any) -> Callable[[_F], _F]:
    """A click option that is also read from `RESTORE_FETCH_<OPTION>`, named after its first long name."""
    long_name = next(name for name in names if name.startswith("--"))
    variable = PREFIX + long_name.split("/")[0].removeprefix("--").replace("-", "_").upper()
    shown_default = settings.get("default") is not None and not settings.get("is_flag")
    return click.option(
        *names, envvar=variable, show_default=settings.pop("show_default", shown_default), **settings
    )


def _configures(attribute: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def store(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        if value not in (None, False, 0):
            setattr(ctx.ensure_object(Console), attribute, value)

    return store


def _as_json(attribute: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def store(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            setattr(ctx.ensure_object(Console), attribute, value == "json")

    return store


def _no_progress(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Console).progress = False


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:  # as it is while a shell completes a line
        from restore_fetch import __version__

        click.echo(f"restore-fetch {__version__}")
        ctx.exit()


def common_options(command: _F) -> _F:
    """The options of every command; they configure the console and never reach the command itself."""
    quietly: dict[str, Any] = {"expose_value": False, "is_eager": True}
    form = click.Choice(["text", "json"])
    return apply(
        command,
        option("-o", "--output", type=form, callback=_as_json("json_output"), help="How results are written.",
               **quietly),
        option("--json", is_flag=True, callback=_configures("json_output"), help="Short for --output json.",
               **quietly),
        option("-q", "--quiet", is_flag=True, callback=_configures("quiet"),
               help="Tell nothing but the error that ends a run.", **quietly),
        option("-v", "--verbose", count=True, callback=_configures("verbose"),
               help="Tell more, with the time; twice for tracebacks of unexpected errors.", **quietly),
        option("--log-format", type=form, callback=_as_json("json_logs"), help="How stderr is written.", **quietly),
        option("--no-progress", is_flag=True, callback=_no_progress,
               help="No progress bar, and no line a minute where there is no terminal.", **quietly),
        click.option("--version", is_flag=True, callback=_version, help="Show the version and exit.", **quietly),
    )  # fmt: skip


def one_of(names: Callable[[], Iterable[str]]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """How a shell completes a value that is one of some names; they are asked for only then."""
    return lambda _ctx, _param, incomplete: [name for name in names() if name.startswith(incomplete)]


def services() -> Iterable[str]:
    """What `--service` may be."""
    from restore_fetch.settings import SERVICES

    return SERVICES


_CONNECTION = (
    option("--service", metavar="NAME", shell_complete=one_of(services),
           help="atlas (default), atlas-v2, atlas-cloud, cloud-manager or ops-manager."),
    option("--base-url", metavar="URL", help="The API's origin, without a path; needed for ops-manager."
           "  [default: https://cloud.mongodb.com]"),
    option("--project-id", "--group-id", metavar="HEX24", help="The project (group) that owns the cluster."),
    option("--cluster", metavar="NAME_OR_ID", help="The cluster: its name (Atlas) or id (Cloud and Ops Manager)."),
    option("--public-key", metavar="KEY", help="The public half of the API key."),
    option("--private-key-file", type=PLACE, metavar="PATH",
           help="A file with the private half; no option takes it itself."),
    option("--private-key-command", metavar="CMD", help="A command that prints the private half."),
    option("--client-id", metavar="ID", help="A service account instead of a key; for atlas-v2 and atlas-cloud."),
    option("--client-secret-file", type=PLACE, metavar="PATH",
           help="A file with its secret; no option takes it itself."),
    option("-P", "--profile", metavar="NAME", help="A profile of the Atlas CLI or mongocli."),
    option("--ca-file", type=PLACE, metavar="PATH", help="Certificates to trust instead of the system's."),
    option("--allow-http", is_flag=True, help="Accept plain http beyond loopback and private addresses."),
)  # fmt: skip
CONNECTION_NAMES = (
    "service",
    "base_url",
    "project_id",
    "cluster",
    "public_key",
    "private_key_file",
    "private_key_command",
    "client_id",
    "client_secret_file",
    "profile",
    "ca_file",
    "allow_http",
)


def connection_options(command: _F) -> _F:
    """How to reach the API. The command gets one argument: a function that gives the `Connection`.

    The values are looked for only when that function is called: a command may find that it needs none.
    """

    @functools.wraps(command)
    def with_connection(**values: Any) -> Any:
        given = {name: values.pop(name) for name in CONNECTION_NAMES}
        ctx = click.get_current_context()
        return command(connect=lambda: _connection(ctx, given), **values)

    return apply(with_connection, *_CONNECTION)  # type: ignore[return-value]


def given_values(ctx: click.Context, values: Mapping[str, Any]) -> dict[str, Given]:
    """What flags and variables of ours said, with the place of each."""
    from restore_fetch.sources import Given

    given: dict[str, Given] = {}
    for name, value in values.items():
        if value:
            from_flag = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
            source = "--" + name.replace("_", "-") if from_flag else PREFIX + name.upper()
            given[name] = Given(str(value), source)
    return given


def _connection(ctx: click.Context, values: dict[str, Any]) -> Connection:
    import os

    from restore_fetch.rules import host_of, is_private_host
    from restore_fetch.settings import resolve_connection

    given = given_values(ctx, values)
    connection = resolve_connection(given, os.environ)
    places = ", ".join(f"{name} from {place}" for name, place in connection.sources.items())
    console = ctx.ensure_object(Console)
    console.note("settings", places, level="debug")
    if connection.base_url.startswith("http:") and not is_private_host(host_of(connection.base_url) or ""):
        console.note(
            "plain-http",
            f"{connection.base_url} is asked over plain http: anybody in between can read the answers, "
            "the URL of the archive among them, and change them, the hash among them",
            level="warning",
        )
    return connection


OUT_DIR = option("--out-dir", type=FILE, default=".", metavar="DIR",
                 help="Where files go; created when missing.")  # fmt: skip
MIN_FREE = option("--min-free", type=SIZE, default="256MiB", metavar="SIZE",
                  help="Never fill the disk beyond this.")  # fmt: skip
LOCK_WAIT = option("--lock-wait", type=DURATION, default="0", metavar="DURATION",
                   help="How long to wait for another run on the same job and folder.")  # fmt: skip
DEEP = option("--deep", is_flag=True,
              help="Check gzip and tar structure, too; fetch always does where no hash is published.")  # fmt: skip
_FETCH = (
    OUT_DIR,
    option("--wait", type=DURATION, default="24h", metavar="DURATION",
           help="How long to wait for FINISHED and READY; 0 is one look."),
    option("--poll-interval", type=DURATION, default="10s", metavar="DURATION",
           help="First pause; grows by half each time to 6 times itself, with jitter."),
    option("--hash-wait", type=DURATION, default="10m", metavar="DURATION",
           help="How long to wait for the published hash after the download."),
    option("--retries", type=click.IntRange(0, 1000), default=3, metavar="N",
           help="Further download attempts after the first, never beyond maxDownloads."),
    option("--stall-timeout", type=DURATION, default="60s", metavar="DURATION",
           help="Give up an attempt when less than --min-rate arrives over this long."),
    option("--min-rate", type=SIZE, default="1KiB", metavar="SIZE", help="Bytes a second, for the above."),
    option("--limit-rate", type=SIZE, metavar="SIZE", help="At most so many bytes a second in all."),
    MIN_FREE,
    option("--max-size", type=SIZE, metavar="SIZE", help="Refuse a larger archive."),
    DEEP,
    option("--allow-unverified", is_flag=True,
           help="Publish even when no hash appeared; the receipt says unverified."),
    option("--force", is_flag=True,
           help="Download again although a verified file is here; try although the budget is spent."),
    LOCK_WAIT,
)  # fmt: skip
_FETCH_FIELDS = {
    "out_dir": "out_dir",
    "wait": "wait_seconds",
    "poll_interval": "poll_seconds",
    "hash_wait": "hash_wait_seconds",
    "retries": "retries",
    "stall_timeout": "stall_seconds",
    "min_rate": "min_rate",
    "limit_rate": "limit_rate",
    "min_free": "min_free_bytes",
    "max_size": "max_bytes",
    "deep": "deep",
    "allow_unverified": "allow_unverified",
    "force": "force",
    "lock_wait": "lock_wait_seconds",
}


def fetch_options(command: _F) -> _F:
    """How a job is fetched. The command gets one argument, `options`: a function that gives `FetchOptions`."""

    @functools.wraps(command)
    def with_options(**values: Any) -> Any:
        given = {field: values.pop(name) for name, field in _FETCH_FIELDS.items()}
        return command(options=lambda: _fetch_options(given), **values)

    return apply(with_options, *_FETCH)  # type: ignore[return-value]


def _fetch_options(given: dict[str, Any]) -> FetchOptions:
    from restore_fetch.settings import FetchOptions

    return FetchOptions(**given)


def apply(command: _F, *decorators: Callable[[Any], Any]) -> _F:
    """Decorate a command so that its help lists the options in the order given."""
    for decorate in reversed(decorators):
        command = decorate(command)
    return command
