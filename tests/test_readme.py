"""The documents are true: their commands run, their tables are the program's, their session is a real one."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click
import pytest

from restore_fetch import files
from restore_fetch.cli.exit_codes import MEANINGS
from restore_fetch.cli.main import _COMMANDS as COMMANDS
from restore_fetch.locking import job_lock
from restore_fetch.models import RestoreJob
from restore_fetch.sandbox import SCENARIOS, Sandbox
from restore_fetch.service.legacy import LegacyRestoreService
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
from tests.documents_support import (
    BLOCKS,
    DOCUMENTS,
    EVERYTHING,
    PAGES,
    PART,
    ROOT,
    RUN,
    SHOWN,
    TEXTS,
    Block,
    Walk,
    read,
    table,
    walks,
)

_EXAMPLES = {
    "job": "65f2e07bd1a94c5e8f3b6a10",
    "batch": "65f2e0a4d1a94c5e8f3b6a2c",
    "account": "mdb_sa_id_65f1c2f8e4b0d83716a5f0ee",
    "project": "65f1c2a9e4b0d83716a5f0c2",
    "cluster": "65f1c2d0e4b0d83716a5f0d7",
    "public": "abcdefgh",
    "private": "01234567-89ab-4cde-8f01-23456789abcd",
    "sha1": "0123456789abcdef0123456789abcdef01234567",
    "address": "https://opsmanager.example.net:8443",
    "archive": "backups/Cluster0.tar.gz",
}
_SESSION_JOBS = {"6b0622f15a92118719c78df4": "normal", "6b0622f1ccfdba9bba26d851": "wrong-hash"}


def _walks(*kinds: str) -> list[object]:
    return [pytest.param(walk, id=walk.name) for walk in walks(*kinds)]


# --- their commands ----------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder to work in; the program is on the path beside it."""
    shim = tmp_path / "bin" / "restore-fetch"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m restore_fetch "$@"\n')
    shim.chmod(0o755)
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def _bash(place: Path, script: str, variables: dict[str, str], patience: int = PATIENCE_SECONDS) -> Ran:
    path = f"{place.parent / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=place,
        env={"PATH": path, "HOME": str(place), "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=patience,
        check=False,
    )
    return Ran(done.returncode, done.stdout, "")


def _for(sandbox: Sandbox, text: str) -> str:
    """The documents' examples, with the sandbox's values in place of the made-up ones."""
    values = {
        "job": sandbox.job_id,
        "batch": sandbox.batch_id,
        "account": sandbox.client_id,
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


def _assert_shown(walk: Walk, ran: Ran) -> None:
    """It succeeded, and each block showed what the document says that it shows, in that order."""
    assert ran.code == 0, ran.out
    parts = ran.out.split(f"\n{PART}\n")
    assert len(parts) == len(walk.blocks)
    for block, part in zip(walk.blocks, parts, strict=True):
        rest = part
        for words in block.shows:
            _, found, rest = rest.partition(words)
            assert found, f"{words!r} is not shown, or not in its place, by\n{block.text}\nin\n{part}"


_KINDS = {
    "README.md": {"clone", "install", "service", "account", "archive", "ops-manager", "session"},
    "docs/runbook.md": {"service", "archive", "archive without receipt", "alone", "curl"},
    "docs/reference.md": {"alone"},
}


def test_every_document_is_one_that_is_held_to_the_program() -> None:
    assert set(DOCUMENTS) == set(_KINDS)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_block_of_commands_says_how_it_is_tested(name: str) -> None:
    blocks = PAGES[name].blocks
    assert TEXTS[name].count("```") == 2 * len(blocks)
    for block in blocks:
        if block.language in RUN:
            assert block.kind, f"no test runs this block:\n{block.text}"
            assert (block.kind == "session") == (block.language == "console")
        else:
            assert block.language in SHOWN, f"{block.language!r} is no language of a block:\n{block.text}"
            assert "restore-fetch" not in block.text, f"a command of this program that no test runs:\n{block.text}"
    assert {block.kind for block in blocks if block.kind} == _KINDS[name]


def test_a_block_without_a_mark_is_found() -> None:
    page = read("x", "## S\n\n<!-- test: alone -->\n```sh\ntrue\n```\n\n```sh\nfalse\n```\n")
    assert [block.kind for block in page.blocks] == ["alone", ""]


def test_indented_blocks_are_not_used_for_commands() -> None:
    for page in PAGES.values():
        assert not [line for line in page.prose if re.match(r"(?: {4}|\t)\s*(?:\$ )?restore-fetch", line)]


@pytest.mark.parametrize("walk", _walks("clone", "install"))
def test_commands_for_a_clone_name_scripts_that_are_there(walk: Walk) -> None:
    assert subprocess.run(["bash", "-n", "-c", walk.text], check=False).returncode == 0
    for name in re.findall(r"\bscripts/[\w-]+", walk.text):
        assert os.access(ROOT / name, os.X_OK), name


@pytest.mark.parametrize("walk", _walks("service"))
def test_commands_for_a_service_work(walk: Walk, place: Path) -> None:
    with Sandbox(size_bytes=64 * 1024, polls=0) as sandbox:
        key_file(sandbox, place)
        ran = _bash(place, _for(sandbox, walk.text), connection_variables(sandbox))
        _assert_shown(walk, ran)
        assert_no_secret(sandbox, ran.out)


@pytest.mark.parametrize("walk", _walks("account"))
def test_commands_for_a_service_account_work(walk: Walk, place: Path) -> None:
    with Sandbox(size_bytes=64 * 1024, polls=0, service="atlas-v2") as sandbox:
        (place / "client.secret").write_text(sandbox.client_secret + "\n")
        variables = connection_variables(sandbox)
        for name in ("MONGODB_ATLAS_PUBLIC_API_KEY", "MONGODB_ATLAS_PRIVATE_API_KEY", "RESTORE_FETCH_SERVICE"):
            del variables[name]
        ran = _bash(place, _for(sandbox, walk.text), variables)
        _assert_shown(walk, ran)
        assert_no_secret(sandbox, ran.out)
        assert not [one for one in sandbox.requests if "Digest" in str(one.headers)], "a key was used all the same"


def test_the_first_commands_for_a_job_of_ones_own_are_complete(place: Path) -> None:
    first = next(block for block in BLOCKS if block.kind == "service")
    assert first.document == "README.md"
    assert first.text.count("\n") == 3
    (place / ".venv").symlink_to(place.parent)
    with Sandbox(size_bytes=64 * 1024, polls=0) as sandbox:
        key_file(sandbox, place)
        needed = {
            "RESTORE_FETCH_BASE_URL": sandbox.base_url,
            "RESTORE_FETCH_MIN_FREE": "0",
            "PATH": "/usr/bin:/bin",
        }
        ran = _bash(place, _for(sandbox, first.text), needed)
        assert ran.code == 0, ran.out
        assert (place / "backups" / sandbox.file_name(sandbox.job_id)).is_file()


@pytest.mark.parametrize("walk", _walks("archive", "archive without receipt"))
def test_commands_for_an_archive_that_is_here_work(walk: Walk, place: Path) -> None:
    with Sandbox(size_bytes=64 * 1024, polls=0) as sandbox:
        prepare = f"(restore-fetch fetch {sandbox.job_id} --out-dir backups\n"
        prepare += f"restore-fetch status {sandbox.job_id} --json > job.json) > /dev/null 2>&1\n"
        if walk.blocks[0].kind == "archive without receipt":
            prepare += "rm backups/*.receipt.json backups/*.sha1\n"
        ran = _bash(place, prepare + _for(sandbox, walk.text), connection_variables(sandbox))
    _assert_shown(walk, ran)
    assert "is verified" in ran.out


@pytest.mark.parametrize("walk", _walks("ops-manager"))
def test_commands_for_an_ops_manager_work(walk: Walk, place: Path) -> None:
    pytest.importorskip("trustme")
    with Sandbox(size_bytes=64 * 1024, polls=0, tls=True) as sandbox:
        assert sandbox.ca_file is not None
        shutil.copy(sandbox.ca_file, place / "ca.pem")
        keys = ("MONGODB_ATLAS_PUBLIC_API_KEY", "MONGODB_ATLAS_PRIVATE_API_KEY", "RESTORE_FETCH_MIN_FREE")
        variables = {name: value for name, value in connection_variables(sandbox).items() if name in keys}
        ran = _bash(place, _for(sandbox, walk.text), variables)
    _assert_shown(walk, ran)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("walk", _walks("curl"))
def test_the_documented_request_works(walk: Walk, place: Path) -> None:
    with Sandbox(size_bytes=16 * 1024, polls=0) as sandbox:
        variables = connection_variables(sandbox) | {
            "RESTORE_FETCH_PROJECT_ID": sandbox.project_id,
            "RESTORE_FETCH_PUBLIC_KEY": sandbox.public_key,
            "NO_PROXY": "*",
        }
        ran = _bash(place, _for(sandbox, walk.text), variables)
    _assert_shown(walk, ran)
    assert "200 OK" in ran.out
    assert f'"id": "{sandbox.job_id}"' in re.sub(r'" *: *"', '": "', ran.out)


@pytest.mark.timeout(7 * PATIENCE_SECONDS)  # a whole rehearsal is many commands, one after another
@pytest.mark.parametrize("walk", _walks("alone"))
def test_commands_that_need_nothing_work(walk: Walk, place: Path) -> None:
    stop = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"  # also when a command fails half-way
    ran = _bash(place, f"{stop}{walk.text}wait\n", {"RESTORE_FETCH_MIN_FREE": "0"}, 6 * PATIENCE_SECONDS)
    _assert_shown(walk, ran)


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


@pytest.mark.parametrize("block", [block for walk in walks("session") for block in walk.blocks])
def test_the_session_shown_is_what_happens(block: Block, place: Path) -> None:
    with Sandbox(size_bytes=64 * 1024, polls=1) as sandbox:
        variables = connection_variables(sandbox)
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            for shown, scenario in _SESSION_JOBS.items():
                command = command.replace(shown, sandbox.job_for(scenario))
            ran = _bash(place, f"set +e; {command}", variables)
            assert _shape(ran.out) == _shape(expected), command


# --- their tables ------------------------------------------------------------------------------------------


def _option_tables() -> list[tuple[list[str], list[list[str]]]]:
    markers = re.findall(r"<!-- (options: [a-z ]+) -->", EVERYTHING)
    return [(marker.split()[1:], table(marker)) for marker in markers]


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
    described = re.findall(r"^\| `restore-fetch ([a-z]+)[^`]*` \|", EVERYTHING, re.MULTILINE)
    assert sorted(set(described)) == sorted(COMMANDS)


def test_the_exit_code_table_is_that_of_the_program() -> None:
    rows = {int(code): (meaning, again, action) for code, meaning, again, action in table("test: exit codes")}
    assert set(rows) == set(MEANINGS)
    for code, meaning in MEANINGS.items():
        assert (rows[code][1] == "yes") is ("retry later" in meaning), code
        words = re.sub(r"[^a-z]+", " ", meaning.partition(";")[0].partition(":")[0].lower()).strip()
        assert words in re.sub(r"[^a-z]+", " ", rows[code][0].lower()), code
        assert rows[code][2], "every code asks something of somebody"


def test_the_short_table_of_exit_codes_says_the_same() -> None:
    by_code = {int(code): words for codes, words in table("test: exit codes in short") for code in _digits(codes)}
    assert set(by_code) == set(MEANINGS)
    again = {code for code, words in by_code.items() if words == "run the same command again later"}
    assert again == {code for code, meaning in MEANINGS.items() if "retry later" in meaning}
    new_job = {code for code, words in by_code.items() if words.startswith("start a new restore job")}
    rows = {int(code): again for code, _, again, _ in table("test: exit codes")}
    assert new_job == {code for code, words in rows.items() if words == "no: start a new job"}


def _digits(cell: str) -> list[str]:
    return re.findall(r"\d+", cell)


@dataclass(frozen=True)
class Stage:
    """What a row that no scenario plays is played with."""

    sandbox: Sandbox
    folder: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    @property
    def flags(self) -> list[str]:
        return connection_flags(self.sandbox, self.folder)

    @property
    def out_dir(self) -> Path:
        return self.folder / "here"

    def fetch(self, *more: object) -> Ran:
        arguments = ("fetch", self.sandbox.job_id, *self.flags, *FAST, "--out-dir", self.out_dir, *more)
        return run_here(self.capsys, *arguments)

    def archive(self) -> Path:
        """An archive that is here, verified."""
        assert self.fetch().code == 0
        return self.out_dir / self.sandbox.file_name(self.sandbox.job_id)


def _changed(stage: Stage) -> Ran:
    archive = stage.archive()
    archive.write_bytes(archive.read_bytes()[:-1] + b"x")
    return stage.fetch()


def _spent(stage: Stage) -> Ran:
    job = stage.sandbox.add_job(replace(SCENARIOS["cut-always"], max_downloads=2))
    return run_here(stage.capsys, "fetch", job, *stage.flags, *FAST, "--out-dir", stage.out_dir)


def _changed_at_the_last_moment(stage: Stage) -> Ran:
    looked = LegacyRestoreService.job

    def look(service: LegacyRestoreService, job_id: str) -> RestoreJob:
        for path in stage.out_dir.glob("*.part"):
            path.write_bytes(path.read_bytes()[:-1] + b"x")
        return looked(service, job_id)

    stage.monkeypatch.setattr(LegacyRestoreService, "job", look)
    return stage.fetch()


def _alone(stage: Stage) -> Ran:
    archive = stage.archive()
    for path in archive.parent.glob("*.tar.gz.*"):
        path.unlink()
    return run_here(stage.capsys, "verify", archive)


def _no_room(stage: Stage) -> Ran:
    stage.monkeypatch.setattr(files, "free_bytes", lambda _: 1 << 20)
    return stage.fetch("--min-free", 1 << 20)


def _foreign(stage: Stage) -> Ran:
    stage.out_dir.mkdir()
    (stage.out_dir / stage.sandbox.file_name(stage.sandbox.job_id)).write_text("something else")
    return stage.fetch()


def _no_folder(stage: Stage) -> Ran:
    stage.out_dir.write_text("a file")
    return stage.fetch()


def _locked(stage: Stage) -> Ran:
    stage.out_dir.mkdir()
    with job_lock(stage.out_dir, stage.sandbox.job_id, 0):
        return stage.fetch()


_ELSEWHERE: dict[str, Callable[[Stage], Ran]] = {
    "is missing": lambda stage: run_here(
        stage.capsys, "status", stage.sandbox.job_id, "--project-id", stage.sandbox.project_id
    ),
    "refuses the key (401": lambda stage: stage.fetch("--public-key", "somebody"),
    "does not know it (404": lambda stage: stage.fetch("--cluster", "NoSuchCluster"),
    "cannot be reached": lambda stage: stage.fetch("--base-url", "http://127.0.0.1:1", "--wait", "0"),
    "was changed after it was verified": _changed,
    "there is no receipt and no .sha1": _alone,
    "no download is left": _spent,
    "more than the": lambda stage: stage.fetch("--max-size", "1KiB"),
    "not enough space": _no_room,
    "is free in": lambda stage: stage.fetch("--min-free", "900TiB"),
    "is in the way": _foreign,
    "was changed by another program": _changed_at_the_last_moment,
    "cannot create": _no_folder,
    "another run works on": _locked,
}
_HURRY = ("--retries", "1", "--hash-wait", "0.05s")
_IMPATIENCE = {
    "never-ready": ("--wait", "0.3s"),
    "stall-always": ("--stall-timeout", "0.3s", "--min-rate", "1GiB"),
}
"""What only a scenario of waiting is hurried by: on a busy machine, others would be given up for it, too."""

_PUT_THERE = {"was changed after it was verified", "there is no receipt and no .sha1", "is in the way"}


@pytest.fixture(scope="module")
def shared() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=64 * 1024, polls=1) as sandbox:
        yield sandbox


@pytest.mark.parametrize("row", [pytest.param(row, id=row[0].strip("`")) for row in table("test: runbook")])
def test_each_row_of_the_runbook_is_what_is_seen(
    row: list[str],
    shared: Sandbox,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, code = row[0].strip("`"), int(row[1])
    scenario, *options = re.findall(r"`([^`]+)`", row[4]) or [""]
    stage = Stage(shared, tmp_path, capsys, monkeypatch)
    if scenario:
        job = shared.job_for(scenario)
        hurry = (*FAST, *_HURRY, *_IMPATIENCE.get(scenario, ()), *options)
        ran = run_here(capsys, "fetch", job, *stage.flags, *hurry, "--out-dir", stage.out_dir)
    else:
        ran = _ELSEWHERE[seen](stage)
    assert ran.code == code, ran.err
    assert seen in ran.last
    assert bool(list(stage.out_dir.glob("*.tar.gz"))) is (seen in _PUT_THERE)
    described = {name.strip("`").replace("NAME", "") for name, _ in table("test: files")}
    for path in stage.out_dir.glob("*"):
        assert path.name.partition(".tar.gz")[2] in described


def test_every_exit_code_of_a_failure_has_a_row_in_the_runbook() -> None:
    told = {int(row[1]) for row in table("test: runbook")}
    assert told == set(MEANINGS) - {0, 1, 130, 143}


@pytest.mark.parametrize("row", [pytest.param(row, id=row[0].strip("`")) for row in table("test: warnings")])
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
    described = {name.strip("`").replace("NAME", "") for name, _ in table("test: files")}
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


def test_every_source_of_the_private_key_works_in_the_order_of_thetable(
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


def test_the_table_of_the_receipt_has_every_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described = {name for fields, *_ in table("test: receipt") for name in re.findall(r"`(\w+)`", fields)}
    found: set[str] = set()
    for service in ("atlas", "atlas-cloud"):
        with Sandbox(size_bytes=16 * 1024, polls=0, service=service) as sandbox:
            flags = (*connection_flags(sandbox, tmp_path), *FAST, "--service", service)
            ran = run_here(capsys, "fetch", sandbox.job_id, *flags, "--out-dir", tmp_path / service, "--json")
        assert ran.code == 0, ran.err
        found |= set(json.loads(ran.out))
    assert described == found


def test_every_variable_that_is_named_is_one_that_is_read() -> None:
    source = "\n".join(path.read_text("utf-8") for path in (ROOT / "restore_fetch").rglob("*.py"))
    options = {
        one.envvar
        for name in COMMANDS
        for one in importlib.import_module(f"restore_fetch.cli.{name}").command.params
        if one.envvar
    }
    for name in set(re.findall(r"\bRESTORE_FETCH_[A-Z_]*[A-Z]\b", EVERYTHING)):
        told_to_commands = name.startswith("RESTORE_FETCH_RESULT_") and f'"{name[21:]}":' in source
        told_to_tests = f'"{name}"' in (ROOT / "tests" / "conftest.py").read_text("utf-8")
        assert name in options or told_to_commands or told_to_tests, name
    for prefix, name in re.findall(r"\b(MONGODB_ATLAS_|MCLI_)([A-Z_]*[A-Z]{2,})\b", EVERYTHING):
        assert f'"{name}"' in source or f'"{prefix}{name}"' in source, prefix + name
    for name in ("SSL_CERT_FILE", "CREDENTIALS_DIRECTORY"):
        assert name in EVERYTHING
        assert name in source


# --- their words -------------------------------------------------------------------------------------------


def _links(name: str) -> list[str]:
    """Where the links of a document lead; what stands in blocks is no link."""
    return re.findall(r"\]\(([^)\s]*)\)", "\n".join(PAGES[name].prose))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name: str) -> None:
    inside = [link for link in _links(name) if not link.startswith(("http://", "https://"))]
    assert inside
    for link in inside:
        path, _, anchor = link.partition("#")
        target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert target.is_relative_to(ROOT)
        assert target.exists(), link
        if anchor:
            assert anchor in PAGES[target.relative_to(ROOT).as_posix()].anchors, link


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_two_headings_of_a_document_have_the_same_anchor(name: str) -> None:
    anchors = PAGES[name].anchors
    assert len(anchors) == len(set(anchors))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_table_of_contents_has_every_section(name: str) -> None:
    sections = [words for level, words in PAGES[name].headings if level == 2]
    listed = re.findall(r"^- \[(.*?)\]\(#", TEXTS[name], re.MULTILINE)
    assert listed == [re.sub("`", "", one) for one in sections if one != "Licence"]


def test_from_the_readme_it_is_one_click_to_what_to_do_now() -> None:
    wanted = "docs/runbook.md#something-failed-what-now"
    assert _links("README.md").count(wanted) >= 2, "at the top, and where it is looked for"
    assert wanted in TEXTS["README.md"].partition("\n## ")[0], "before the first section"


def test_every_scenario_and_script_that_is_named_exists() -> None:
    for row in table("test: runbook"):
        assert (re.findall(r"`([^`-]+[^`]*)`", row[4]) or [""])[0] in {"", *SCENARIOS}
    for name in re.findall(r"\bscripts/([\w./-]*\w)", EVERYTHING):
        assert (ROOT / "scripts" / name).exists(), name


def test_the_sentence_about_speed_says_what_the_table_says() -> None:
    rows = table("test: ratios")
    words = r"takes ([\d.]+) to ([\d.]+) times as\s+long as `curl -o`, by case, and ([\d.]+) to ([\d.]+) times"
    said = re.search(words, EVERYTHING)
    assert said, "the sentence is not there"
    columns = [sorted(float(row[place]) for row in rows) for place in (1, 2)]
    assert [float(one) for one in said.groups()] == [end for column in columns for end in (column[0], column[-1])]


def test_every_test_file_that_is_named_exists() -> None:
    for name in re.findall(r"\btests/[\w*]+\.py", EVERYTHING):
        assert list(ROOT.glob(name)), name


def test_the_changelog_has_this_version() -> None:
    from restore_fetch import __version__

    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
