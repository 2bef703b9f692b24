"""The entry point: finds the command, runs it, and is the only place that turns an error into an exit code."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from restore_fetch.cli.console import Console
from restore_fetch.cli.exit_codes import USAGE
from restore_fetch.cli.failures import failure_of, true_error
from restore_fetch.cli.options import common_options
from restore_fetch.cli.signals import Stopped, stop_on_signals
from restore_fetch.errors import RestoreFetchError

PROGRAM = "restore-fetch"
_COMMANDS = {
    "fetch": "Wait for a restore job, download its archive once, verify and publish it.",
    "pull": "Make the restore job of the newest snapshot, unless it is here already, and then as fetch.",
    "status": "Show a restore job, a batch, or all jobs and snapshots of the cluster; never downloads.",
    "verify": "Check archives that are on disk already, offline unless asked.",
    "prune": "Remove verified pulls that a retention policy does not keep.",
    "doctor": "Check that a pull would have all it needs; changes nothing.",
    "sandbox": "Serve a simulated restore service, for rehearsals and tests.",
    "demo": "Show the whole job, end to end, against a sandbox in this process.",
}


class LazyGroup(click.Group):
    """A group that imports a command only when it is run: `--help` and `--version` stay instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See `click.Group.list_commands`."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See `click.Group.get_command`."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"restore_fetch.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """See `click.Group.shell_complete`; a key was pressed, and nothing need be imported to answer."""
        commands = [
            CompletionItem(name, help=text) for name, text in _COMMANDS.items() if name.startswith(incomplete)
        ]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See `click.Group.format_commands`; the sentences are here, so that nothing need be imported."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every option can also be set as RESTORE_FETCH_<OPTION> in the environment. "
    "See restore-fetch COMMAND --help for the exit codes of each command.",
)
@common_options
def program() -> None:
    """Bring a MongoDB backup home: wait for the restore job, download its archive, prove it is the right one."""


def main(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: The command line, without the program's name.

    Returns:
        The exit code.
    """
    console = Console(json_logs=_wants_json_logs(arguments))
    try:
        with stop_on_signals():
            code: Any = program.main(list(arguments), prog_name=PROGRAM, standalone_mode=False, obj=console)
    except click.exceptions.NoArgsIsHelpError as exc:
        console.raw(exc.format_message())
        return USAGE
    except click.ClickException as exc:
        return _fail_usage(console, exc, arguments)
    except (RestoreFetchError, Stopped, KeyboardInterrupt) as exc:
        code, message = failure_of(exc, _command_of(arguments))
        console.fail(exc, message, code)
    except Exception as exc:  # noqa: BLE001 - whatever it is, people get one line and scripts get a code
        code, message = failure_of(exc, _command_of(arguments))
        if console.verbose > 1:
            console.raw(traceback.format_exc())
        hint = "" if console.verbose > 1 else "; run it again with -vv for the place"
        console.fail(true_error(exc), message + hint, code)
    return code if isinstance(code, int) else 0


def _fail_usage(console: Console, exc: click.ClickException, arguments: Sequence[str]) -> int:
    context = getattr(exc, "ctx", None)
    command = _command_of(arguments)
    path = context.command_path if context is not None else f"{PROGRAM} {command}".rstrip()
    message = exc.format_message().rstrip(".")
    param = getattr(exc, "param", None)
    if context is not None and param is not None:
        from_environment = context.get_parameter_source(param.name) is click.core.ParameterSource.ENVIRONMENT
        message += f" (from {param.envvar})" if from_environment else ""
    console.fail(exc, f"{message}; see {path} --help", USAGE)
    return USAGE


def _command_of(arguments: Sequence[str]) -> str:
    """The command in a command line; empty when there is none."""
    return next((argument for argument in arguments if argument in _COMMANDS), "")


def _wants_json_logs(arguments: Sequence[str]) -> bool:
    """Whether a line about a wrong option, written before the options are understood, shall be JSON."""
    asked = ("--log-format", "json") in itertools.pairwise(arguments) or "--log-format=json" in arguments
    return asked or os.environ.get("RESTORE_FETCH_LOG_FORMAT") == "json"


def run() -> None:
    """The program `restore-fetch`."""
    _fill_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # A locale without these characters must not end a run.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(main(sys.argv[1:]))


def _fill_closed_streams() -> None:
    """Open the null device in place of closed standard streams: else the next file opened would be one."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest number that is free: this one
