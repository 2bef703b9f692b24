"""The help of every command: documented options, their variables, and the exit codes."""

from __future__ import annotations

import importlib
import re
from typing import Any

import click
import pytest

from restore_fetch.cli.console import Console
from restore_fetch.cli.exit_codes import DONE, MEANINGS, UNEXPECTED, USAGE
from restore_fetch.cli.main import _COMMANDS as COMMANDS
from tests.command_support import Ran, run_alone, run_here

_CONNECTION = (
    *("--service", "--base-url", "--project-id", "--group-id", "--cluster", "--public-key"),
    *("--private-key-file", "--private-key-command", "-P", "--profile", "--ca-file"),
)
_COMMON = (
    *("-o", "--output", "--json", "-q", "--quiet", "-v", "--verbose", "--log-format", "--no-progress"),
    *("-h", "--help", "--version"),
)
_DOCUMENTED = {
    "fetch": (
        *_CONNECTION,
        *("--out-dir", "--wait", "--poll-interval", "--hash-wait", "--retries", "--stall-timeout", "--min-rate"),
        *("--limit-rate", "--min-free", "--max-size", "--allow-unverified", "--force", "--lock-wait"),
    ),
    "status": ("--batch-id", "--out-dir", *_CONNECTION),
    "prune": ("--out-dir", "--keep-last", "--keep-daily", "--keep-weekly", "--keep-monthly", "--dry-run"),
    "doctor": ("--out-dir", "--min-free", *_CONNECTION),
    "verify": ("--sha1", "--job-json", "--online", "--job-id", *_CONNECTION),
    "sandbox": ("--host", "--port", "--delivery-port", "--scenario", "--size", "--snapshot", "--tls"),
    "demo": ("--keep",),
}
_ARGUMENTS = {"fetch": ["f" * 24], "status": ["f" * 24], "verify": ["x.tar.gz"]}
_SAMPLES = {"duration": "7m", "size": "7MiB", "integer": "7", "integer range": "7", "choice": "json"}


def _command(name: str) -> click.Command:
    command: click.Command = importlib.import_module(f"restore_fetch.cli.{name}").command
    return command


def _options(name: str) -> list[click.Option]:
    return [one for one in _command(name).params if isinstance(one, click.Option)]


def _parse(name: str, arguments: list[str]) -> dict[str, Any]:
    """Everything that a command line comes to: the values for the command, and the console it configured."""
    console = Console()
    extra = _ARGUMENTS.get(name, _ARGUMENTS["fetch"] if "job_id" in _positional(name) else [])
    # A command remembers the first names that its help was asked for by: they must be those of the program.
    names = ["-h", "--help"]
    with _command(name).make_context(name, [*arguments, *extra], obj=console, help_option_names=names) as context:
        return {**context.params, "console": console}


def _positional(name: str) -> set[str | None]:
    return {one.name for one in _command(name).params if isinstance(one, click.Argument) and one.required}


_EVERY_OPTION = [
    pytest.param(name, one, id=f"{name}{one.opts[-1]}")
    for name in COMMANDS
    for one in _options(name)
    if not {"--help", "--version"} & set(one.opts)
]


def _documented_codes(ran: Ran) -> list[int]:
    _, _, codes = ran.out.partition("Exit codes:")
    return [int(code) for code in re.findall(r"^ +(\d+)  \S", codes, re.MULTILINE)]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_documented_option_is_in_the_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run_here(capsys, name, "--help")
    assert (ran.code, ran.err) == (0, "")
    offered = set(re.findall(r"(?<![\w-])--?[A-Za-z0-9][\w-]*", ran.out))
    assert {*_COMMON, *_DOCUMENTED.get(name, ())} <= offered


@pytest.mark.parametrize("name", COMMANDS)
def test_the_short_help_is_the_same(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(capsys, name, "-h").out == run_here(capsys, name, "--help").out


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_takes_the_private_key_or_a_secret(name: str) -> None:
    names = {long for one in _options(name) for long in one.opts}
    assert not names & {"--private-key", "--private-api-key", "--client-secret", "--password", "--token"}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_the_exit_codes_it_can_give(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    codes = importlib.import_module(f"restore_fetch.cli.{name}").CODES
    ran = run_here(capsys, name, "--help")
    assert _documented_codes(ran) == [DONE, UNEXPECTED, USAGE, *codes]
    for code in codes:
        assert f"{code:>4}  {MEANINGS[code]}" in ran.out


def test_the_general_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    ran = run_here(capsys, "--help")
    assert ran.code == 0
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\S", ran.out, re.MULTILINE)
    assert "RESTORE_FETCH_" in ran.out


def test_without_a_command_the_help_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    ran = run_here(capsys)
    assert (ran.code, ran.out) == (2, "")
    assert "Commands:" in ran.err


def test_help_and_version_need_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    from restore_fetch import __version__

    ran = run_alone("--version", env={"HOME": "/nonexistent"})
    assert (ran.code, ran.out, ran.err) == (0, f"restore-fetch {__version__}\n", "")
    assert run_here(capsys, "fetch", "--version").out == ran.out


# --- variables -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "one"), _EVERY_OPTION)
def test_every_option_can_be_set_by_its_variable(
    name: str, one: click.Option, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = next(text for text in one.opts if text.startswith("--"))
    variable = "RESTORE_FETCH_" + long.removeprefix("--").replace("-", "_").upper()
    sample = "2" if one.count else "1" if one.is_flag else _SAMPLES.get(one.type.name, "json")
    flags = [long] * 2 if one.count else [long] if one.is_flag else [long, sample]
    unset, by_flag = _parse(name, []), _parse(name, flags)
    assert by_flag != unset, "a sample that changes nothing shows nothing"
    monkeypatch.setenv(variable, sample)
    assert _parse(name, []) == by_flag
    monkeypatch.setenv(variable, "")
    assert _parse(name, []) == unset


def test_a_flag_beats_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESTORE_FETCH_WAIT", "7m")
    assert _parse("fetch", ["--wait", "2s"])["wait"] == 2


@pytest.mark.parametrize("value", ["0", "false", "no", "off"])
def test_a_flag_can_be_switched_off_by_its_variable(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("RESTORE_FETCH_FORCE", value)
    monkeypatch.setenv("RESTORE_FETCH_QUIET", value)
    parsed = _parse("fetch", [])
    assert parsed["force"] is False
    assert parsed["console"].quiet is False


def test_a_wrong_variable_is_named_in_the_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RESTORE_FETCH_WAIT", "soon")
    ran = run_here(capsys, "fetch", "f" * 24)
    assert ran.code == 2
    assert "RESTORE_FETCH_WAIT" in ran.err
    assert "'soon' is not a duration" in ran.err


def test_variables_configure_the_program_as_a_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RESTORE_FETCH_LOG_FORMAT", "json")
    assert run_here(capsys, "fetch", "f" * 24).err.startswith('{"ts": ')


# --- wrong command lines ---------------------------------------------------------------------------------

_JOB = "f" * 24


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["fetchh"], "fetchh"),
        (["help"], "help"),
        (["fetch"], "JOB_ID"),
        (["fetch", "abc"], "24 hexadecimal digits"),
        (["fetch", _JOB + "0"], "24 hexadecimal digits"),
        (["fetch", _JOB, _JOB], "extra argument"),
        (["fetch", _JOB, "--waitt", "1s"], "--waitt"),
        (["fetch", _JOB, "--wait"], "--wait"),
        (["fetch", _JOB, "--wait", "-1"], "--wait"),
        (["fetch", _JOB, "--wait", "10 parsecs"], "not a duration"),
        (["fetch", _JOB, "--max-size", "many"], "not a size"),
        (["fetch", _JOB, "--retries", "-1"], "--retries"),
        (["fetch", _JOB, "--private-key", "secret"], "--private-key-file"),
        (["fetch", _JOB], "--project-id"),
        (["fetch", _JOB, "--project-id", "x", "--cluster", "c", "--public-key", "k"], "private key"),
        (["fetch", _JOB, "--service", "atlas-v9"], "atlas-v9"),
        (["fetch", _JOB, "--service", "ops-manager"], "--base-url"),
        (["fetch", _JOB, "--profile", "nobody"], "nobody"),
        (["fetch", _JOB, "--output", "xml"], "--output"),
        (["status"], "--project-id"),
        (["status", "abc"], "24 hexadecimal digits"),
        (["status", ""], "24 hexadecimal digits"),
        (["status", _JOB, "--batch-id", _JOB], "exclude each other"),
        (["status", "--batch-id", "abc"], "24 hexadecimal digits"),
        (["prune"], "--keep-last"),
        (["prune", "--keep-daily", "0"], "--keep-daily"),
        (["prune", "--keep-last", "-1"], "--keep-last"),
        (["prune", "--keep-last", "some"], "--keep-last"),
        (["verify"], "PATH"),
        (["demo", "--size", "-1"], "--size"),
        (["--nonsense"], "--nonsense"),
        (["--json"], "command"),
    ],
)
def test_a_wrong_command_line_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], word: str
) -> None:
    ran = run_here(capsys, *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert word in ran.err


def test_the_hint_is_the_help_of_the_command_at_hand(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(capsys, "fetch", _JOB, "--wait").err.endswith("see restore-fetch fetch --help\n")
    assert run_here(capsys, "fetch", _JOB, "--waitt").err.endswith("see restore-fetch fetch --help\n")
    assert run_here(capsys, "fetchh").err.endswith("see restore-fetch --help\n")
