"""The README is true: its commands run, its tables are those of the program, its session is a real one."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from restore_fetch.cli.exit_codes import MEANINGS
from restore_fetch.cli.main import _COMMANDS as COMMANDS
from restore_fetch.sandbox import SCENARIOS, Sandbox
from tests.command_support import (
    FAST,
    PATIENCE_SECONDS,
    Ran,
    assert_no_secret,
    connection_flags,
    connection_variables,
    key_file,
    run_here,
)

_ROOT = Path(__file__).resolve().parent.parent
_TEXT = (_ROOT / "README.md").read_text("utf-8")
_MARKED = re.compile(r"<!-- test: ([a-z -]+) -->\n```(sh|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_EXAMPLES = {
    "job": "65f2e07bd1a94c5e8f3b6a10",
    "project": "65f1c2a9e4b0d83716a5f0c2",
    "cluster": "65f1c2d0e4b0d83716a5f0d7",
    "public": "abcdefgh",
    "private": "01234567-89ab-4cde-8f01-23456789abcd",
    "sha1": "0123456789abcdef0123456789abcdef01234567",
    "address": "https://opsmanager.example.net:8443",
    "archive": "backups/Cluster0.tar.gz",
}
_SESSION_JOBS = {"6b0622f15a92118719c78df4": "normal", "6b0622f1ccfdba9bba26d851": "wrong-hash"}


@dataclass(frozen=True)
class Block:
    """A block of commands, and how the README says that it is tested."""

    kind: str
    text: str


_BLOCKS = [Block(kind, text) for kind, _, text in _MARKED.findall(_TEXT)]


def _of_kind(*kinds: str) -> list[object]:
    return [
        pytest.param(block, id=f"{block.kind}-{number}")
        for number, block in enumerate(_BLOCKS)
        if block.kind in kinds
    ]


def _table(marker: str) -> list[list[str]]:
    """The rows of the table after a marker, without its head."""
    _, found, rest = _TEXT.partition(f"<!-- {marker} -->\n")
    assert found, marker
    lines = rest.split("\n\n", 1)[0].splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


# --- its commands ----------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder to work in; the program is on the path beside it."""
    shim = tmp_path / "bin" / "restore-fetch"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m restore_fetch "$@"\n')
    shim.chmod(0o755)
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def _bash(place: Path, script: str, variables: dict[str, str]) -> Ran:
    path = f"{place.parent / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=place,
        env={"PATH": path, "HOME": str(place), "LC_ALL": "C.UTF-8", "PYTHONPATH": str(_ROOT), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return Ran(done.returncode, done.stdout, "")


def _for(sandbox: Sandbox, text: str) -> str:
    """The README's examples, with the sandbox's values in place of the made-up ones."""
    values = {
        "job": sandbox.job_id,
        "project": sandbox.project_id,
        "cluster": sandbox.cluster_id,
        "public": sandbox.public_key,
        "private": sandbox.private_key,
        "sha1": sandbox.archive(sandbox.job_id).sha1,
        "address": sandbox.base_url,
        "archive": f"backups/{sandbox.file_name(sandbox.job_id)}",
    }
    for name, example in _EXAMPLES.items():
        text = text.replace(example, values[name])
    return text


def test_every_block_of_commands_says_how_it_is_tested() -> None:
    assert len(re.findall(r"^```(?:sh|console|bash)$", _TEXT, re.MULTILINE)) == len(_BLOCKS)
    kinds = {"clone", "service", "archive", "ops-manager", "alone", "curl", "session"}
    assert {block.kind for block in _BLOCKS} == kinds


@pytest.mark.parametrize("block", _of_kind("clone"))
def test_commands_for_a_clone_name_scripts_that_are_there(block: Block) -> None:
    assert subprocess.run(["bash", "-n", "-c", block.text], check=False).returncode == 0
    for name in re.findall(r"\bscripts/\w+", block.text):
        assert os.access(_ROOT / name, os.X_OK), name


@pytest.mark.parametrize("block", _of_kind("service"))
def test_commands_for_a_service_work(block: Block, place: Path) -> None:
    with Sandbox(size_bytes=64 * 1024, polls=0) as sandbox:
        ran = _bash(place, _for(sandbox, block.text), connection_variables(sandbox))
        assert ran.code == 0, ran.out
        assert_no_secret(sandbox, ran.out)


def test_the_first_commands_for_a_job_of_ones_own_are_complete(place: Path) -> None:
    first = next(block for block in _BLOCKS if block.kind == "service")
    assert first.text.count("\n") == 4
    (place / ".venv").symlink_to(place.parent)
    with Sandbox(size_bytes=64 * 1024, polls=0) as sandbox:
        needed = {
            "RESTORE_FETCH_BASE_URL": sandbox.base_url,
            "RESTORE_FETCH_MIN_FREE": "0",
            "PATH": "/usr/bin:/bin",
        }
        ran = _bash(place, _for(sandbox, first.text), needed)
        assert ran.code == 0, ran.out
        assert (place / "backups" / sandbox.file_name(sandbox.job_id)).is_file()


@pytest.mark.parametrize("block", _of_kind("archive"))
def test_commands_for_an_archive_that_is_here_work(block: Block, place: Path) -> None:
    with Sandbox(size_bytes=64 * 1024, polls=0) as sandbox:
        prepare = f"restore-fetch fetch {sandbox.job_id} --out-dir backups\n"
        prepare += f"restore-fetch status {sandbox.job_id} --json > job.json\n"
        ran = _bash(place, prepare + _for(sandbox, block.text), connection_variables(sandbox))
    assert ran.code == 0, ran.out
    assert "is verified" in ran.out


@pytest.mark.parametrize("block", _of_kind("ops-manager"))
def test_commands_for_an_ops_manager_work(block: Block, place: Path) -> None:
    pytest.importorskip("trustme")
    with Sandbox(size_bytes=64 * 1024, polls=0, tls=True) as sandbox:
        assert sandbox.ca_file is not None
        shutil.copy(sandbox.ca_file, place / "ca.pem")
        keys = ("MONGODB_ATLAS_PUBLIC_API_KEY", "MONGODB_ATLAS_PRIVATE_API_KEY", "RESTORE_FETCH_MIN_FREE")
        variables = {name: value for name, value in connection_variables(sandbox).items() if name in keys}
        ran = _bash(place, _for(sandbox, block.text), variables)
    assert ran.code == 0, ran.out


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("block", _of_kind("curl"))
def test_the_documented_request_works(block: Block, place: Path) -> None:
    with Sandbox(size_bytes=16 * 1024, polls=0) as sandbox:
        variables = connection_variables(sandbox) | {
            "RESTORE_FETCH_PROJECT_ID": sandbox.project_id,
            "RESTORE_FETCH_PUBLIC_KEY": sandbox.public_key,
            "NO_PROXY": "*",
        }
        ran = _bash(place, _for(sandbox, block.text), variables)
    assert ran.code == 0, ran.out
    assert "200 OK" in ran.out
    assert f'"id": "{sandbox.job_id}"' in re.sub(r'" *: *"', '": "', ran.out)


@pytest.mark.parametrize("block", _of_kind("alone"))
def test_commands_that_need_nothing_work(block: Block, place: Path) -> None:
    stop = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"  # also when a command fails half-way
    ran = _bash(place, f"{stop}{block.text}wait\n", {"RESTORE_FETCH_MIN_FREE": "0"})
    assert ran.code == 0, ran.out
    if "practice" in block.text:
        assert "exit code 13" in ran.out
        assert len(list((place / "practice").glob("*.tar.gz"))) == 1


def _shape(text: str) -> str:
    """The text without what differs from run to run."""
    for pattern, word in (
        (r"\b[0-9a-f]{40}\b", "SHA1"),
        (r"[0-9a-f]{24}(?![0-9a-f])", "ID"),
        (r"-\d{10}-", "-EPOCH-"),
        (r"\b[\d.]+ [KMG]iB\b", "SIZE"),
        (r"\b20\d\d-\d\d-\d\d\b", "DATE"),
        (r"127\.0\.0\.1:\d+", "HOST"),
    ):
        text = re.sub(pattern, word, text)
    return text


@pytest.mark.parametrize("block", _of_kind("session"))
def test_the_session_shown_is_what_happens(block: Block, place: Path) -> None:
    with Sandbox(size_bytes=64 * 1024, polls=1) as sandbox:
        variables = connection_variables(sandbox)
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            for shown, scenario in _SESSION_JOBS.items():
                command = command.replace(shown, sandbox.job_for(scenario))
            ran = _bash(place, f"set +e; {command}", variables)
            assert _shape(ran.out) == _shape(expected), command


# --- its tables ------------------------------------------------------------------------------------------


def _option_tables() -> list[tuple[list[str], list[list[str]]]]:
    markers = re.findall(r"<!-- (options: [a-z ]+) -->", _TEXT)
    return [(marker.split()[1:], _table(marker)) for marker in markers]


def _flags(cell: str) -> list[str]:
    return re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", cell)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_option_tables_are_those_of_the_program(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    described = {
        flag for commands, rows in _option_tables() if name in commands for row in rows for flag in _flags(row[0])
    }
    helped = run_here(capsys, name, "--help").out.partition("Options:")[2].partition("Exit codes:")[0]
    offered = {flag for line in re.findall(r"^  (-.*?)(?:  |$)", helped, re.MULTILINE) for flag in _flags(line)}
    assert described == offered


def test_the_defaults_in_the_tables_are_those_of_the_program() -> None:
    compared = 0
    for commands, rows in _option_tables():
        for name in commands:
            command: click.Command = importlib.import_module(f"restore_fetch.cli.{name}").command
            options = {flag: one for one in command.params for flag in one.opts}
            for row in rows:
                one = options.get(_flags(row[0])[-1])
                shown = row[-1].strip("`")
                if isinstance(one, click.Option) and not one.is_flag and isinstance(one.default, str | int):
                    if not one.count:
                        assert shown == str(one.default), row[0]
                        compared += 1
                elif isinstance(one, click.Option) and one.is_flag and "--version" not in one.opts:
                    assert shown == "off", row[0]
    assert compared > 15


def test_the_command_table_has_every_command() -> None:
    described = re.findall(r"^\| `restore-fetch ([a-z]+)[^`]*` \|", _TEXT, re.MULTILINE)
    assert sorted(set(described)) == sorted(COMMANDS)


def test_the_exit_code_table_is_that_of_the_program() -> None:
    rows = {int(code): (meaning, again) for code, meaning, again in _table("test: exit codes")}
    assert set(rows) == set(MEANINGS)
    for code, meaning in MEANINGS.items():
        assert (rows[code][1] == "yes") is ("retry later" in meaning), code
        words = re.sub(r"[^a-z]+", " ", meaning.partition(";")[0].partition(":")[0].lower()).strip()
        assert words in re.sub(r"[^a-z]+", " ", rows[code][0].lower()), code


_ELSEWHERE = {
    "is missing": ("status", "{job}", "--project-id", "{project}"),
    "refuses the key (401": ("fetch", "{job}", "{flags}", "--public-key", "somebody"),
    "does not know it (404": ("fetch", "{job}", "{flags}", "--cluster", "NoSuchCluster"),
    "cannot be reached": ("fetch", "{job}", "{flags}", "--base-url", "http://127.0.0.1:1", "--wait", "0"),
}
_HURRY = (
    *("--retries", "1", "--hash-wait", "0.05s", "--stall-timeout", "0.3s", "--wait", "0.3s"),
    *("--min-rate", "1GiB"),
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=64 * 1024, polls=1) as sandbox:
        yield sandbox


@pytest.mark.parametrize("row", [pytest.param(row, id=row[0].strip("`")) for row in _table("test: runbook")])
def test_each_row_of_the_runbook_is_what_is_seen(
    row: list[str], shared: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen, code, scenario = row[0].strip("`"), int(row[1]), row[4].strip("`")
    flags = connection_flags(shared, tmp_path)
    out_dir = tmp_path / "here"
    if scenario:
        ran = run_here(capsys, "fetch", shared.job_for(scenario), *flags, *FAST, *_HURRY, "--out-dir", out_dir)
    else:
        values = {"{job}": shared.job_id, "{project}": shared.project_id}
        arguments = [
            part for word in _ELSEWHERE[seen] for part in (flags if word == "{flags}" else [values.get(word, word)])
        ]
        ran = run_here(capsys, *arguments)
    assert ran.code == code, ran.err
    assert seen in ran.last
    assert not list(out_dir.glob("*.tar.gz"))
    described = {name.strip("`").replace("NAME", "") for name, _ in _table("test: files")}
    for path in out_dir.glob("*"):
        assert path.name.partition(".tar.gz")[2] in described


@pytest.mark.parametrize("row", [pytest.param(row, id=row[0].strip("`")) for row in _table("test: warnings")])
def test_each_warning_of_the_runbook_is_seen_in_a_run_that_succeeds(
    row: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen, scenario = row[0].strip("`"), row[2].strip("`")
    with Sandbox(size_bytes=64 * 1024, polls=0) as sandbox:
        if not scenario:
            sandbox.set_clock_offset(-3600)
        job = sandbox.job_for(scenario or "normal")
        options = (*FAST, "--hash-wait", "30s", "--out-dir", tmp_path / "here")
        ran = run_here(capsys, "fetch", job, *connection_flags(sandbox, tmp_path), *options)
    assert ran.code == 0, ran.err
    assert f"\nwarning: {seen}" in "\n" + ran.err


def test_every_kind_of_file_in_the_table_is_one_that_a_run_leaves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = {name.strip("`").replace("NAME", "") for name, _ in _table("test: files")}
    left = set()
    with Sandbox(size_bytes=64 * 1024, polls=0) as sandbox:
        flags = connection_flags(sandbox, tmp_path)
        for scenario in ("normal", "cut-always", "no-hash", "wrong-hash"):
            run_here(
                capsys, "fetch", sandbox.job_for(scenario), *flags, *FAST, *_HURRY, "--out-dir", tmp_path / "d"
            )
    for path in (tmp_path / "d").iterdir():
        left.add(path.name.partition(".tar.gz")[2])
        assert path.stat().st_mode & 0o777 == 0o600
    assert left == {name for name in described if not name.startswith((".restore-fetch-", "batch-"))}


def test_every_source_of_the_private_key_works_in_the_order_of_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Sandbox(size_bytes=16 * 1024, polls=0) as sandbox:
        right, wrong = sandbox.private_key, "ffffffff-wrong"
        flags = connection_flags(sandbox, tmp_path)
        flags = flags[: flags.index("--private-key-file")]
        file, config = key_file(sandbox, tmp_path), tmp_path / "config" / "atlascli"
        config.mkdir(parents=True)
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.setenv("HOME", str(tmp_path))

        def code(*more: object) -> int:
            return run_here(capsys, "status", sandbox.job_id, *flags, *more).code

        assert code() == 2
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        for key, expected in ((wrong, 10), (right, 0)):  # 5, the last
            (tmp_path / "private-key").write_text(key)
            assert code() == expected
        for key, expected in ((right, 0), (wrong, 10)):  # 4 beats 5
            (config / "config.toml").write_text(f'[default]\nprivate_api_key = "{key}"\n')
            assert code() == expected
        for variable in ("MONGODB_ATLAS_PRIVATE_API_KEY", "MCLI_PRIVATE_API_KEY"):  # 3 beats 4 and 5
            with monkeypatch.context() as patch:
                patch.setenv(variable, right)
                assert code() == 0
        monkeypatch.setenv("MCLI_PRIVATE_API_KEY", wrong)
        assert code("--private-key-file", file) == 0  # 1 and 2 beat 3
        assert code("--private-key-command", f"cat {file}") == 0
        assert code("--private-key-file", file, "--private-key-command", "true") == 2


def test_every_variable_that_is_named_is_one_that_is_read() -> None:
    source = "\n".join(path.read_text("utf-8") for path in (_ROOT / "restore_fetch").rglob("*.py"))
    options = {
        one.envvar
        for name in COMMANDS
        for one in importlib.import_module(f"restore_fetch.cli.{name}").command.params
        if one.envvar
    }
    for name in set(re.findall(r"\bRESTORE_FETCH_[A-Z_]*[A-Z]\b", _TEXT)):
        told_to_commands = name.startswith("RESTORE_FETCH_RESULT_") and f'"{name[21:]}":' in source
        assert name in options or told_to_commands, name
    for prefix, name in re.findall(r"\b(MONGODB_ATLAS_|MCLI_)([A-Z_]*[A-Z]{2,})\b", _TEXT):
        assert f'"{name}"' in source or f'"{prefix}{name}"' in source, prefix + name
    for name in ("SSL_CERT_FILE", "CREDENTIALS_DIRECTORY"):
        assert name in _TEXT
        assert name in source


# --- its words -------------------------------------------------------------------------------------------


def test_every_link_inside_leads_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", _TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(#([^)]*)\)", _TEXT)
    assert links
    assert set(links) <= anchors
    for path in re.findall(r"\]\((?!#|https?:)([^)]*)\)", _TEXT):
        assert (_ROOT / path).exists(), path


def test_the_table_of_contents_has_every_section() -> None:
    sections = re.findall(r"^## (.*)$", _TEXT, re.MULTILINE)
    listed = re.findall(r"^- \[(.*?)\]\(#", _TEXT, re.MULTILINE)
    assert listed == [one for one in sections if one != "Licence"]


def test_every_scenario_and_script_that_is_named_exists() -> None:
    for row in _table("test: runbook"):
        assert row[4].strip("`") in {"", *SCENARIOS}
    for name in re.findall(r"\bscripts/([\w./-]*\w)", _TEXT):
        assert (_ROOT / "scripts" / name).exists(), name


def test_every_test_file_that_is_named_exists() -> None:
    for name in re.findall(r"\btests/[\w*]+\.py", _TEXT):
        assert list(_ROOT.glob(name)), name


def test_the_changelog_has_this_version() -> None:
    from restore_fetch import __version__

    assert f"## [{__version__}]" in (_ROOT / "CHANGELOG.md").read_text("utf-8")
