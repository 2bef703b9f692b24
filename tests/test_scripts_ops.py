"""What is there to be copied, for cron, systemd, Kubernetes, Slurm and containers; completion, manual, rehearsal.

Each is exercised as far as a machine without those systems allows: units by systemd's own checks, manifests by the
schemas of Kubernetes and by running what they would run, scripts by running them.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from restore_fetch import __version__
from restore_fetch.cli.exit_codes import DONE, MEANINGS
from restore_fetch.cli.main import _COMMANDS as COMMANDS
from restore_fetch.sandbox import Sandbox
from tests.command_support import (
    FAST,
    PATIENCE_SECONDS,
    Ran,
    connection_variables,
    open_terminal,
    read_terminal,
    run_here,
)
from tests.unattended_support import ROOT, program_in

_SCRIPTS = ROOT / "scripts"
_UNITS = ("restore-fetch.service", "restore-fetch.timer")
_MANIFESTS = ("cronjob.yaml", "indexed-job.yaml")
_BATCH = "65f2e07bd1a94c5e8f3b6a1f"
_LATER = {code for code, meaning in MEANINGS.items() if "retry later" in meaning}


def _needs(tool: str) -> str:
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not installed here")
    return found


def _run(
    *arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None, stdin: str | None = None
) -> Ran:
    done = subprocess.run(
        list(map(str, arguments)),
        input=stdin or "",
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env=None if env is None else dict(env),
        cwd=cwd,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def _variables() -> set[str]:
    """Every variable that an option is read from."""
    commands = [importlib.import_module(f"restore_fetch.cli.{name}").command for name in COMMANDS]
    return {str(one.envvar) for command in commands for one in command.params if one.envvar}


def _accepts(arguments: list[str]) -> None:
    """Fail unless a command line is one that the program understands."""
    command: click.Command = importlib.import_module(f"restore_fetch.cli.{arguments[0]}").command
    with command.make_context(arguments[0], arguments[1:], help_option_names=["-h", "--help"]):
        pass


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=64 * 1024, polls=0) as one:
        yield one


@pytest.mark.parametrize(
    "path",
    sorted(path for folder in ("cron", "systemd", "kubernetes", "slurm", "container")
           for path in (_SCRIPTS / folder).iterdir()),
    ids=lambda path: path.name,
)  # fmt: skip
def test_each_names_only_variables_that_are_read(path: Path) -> None:
    named = set(re.findall(r"\bRESTORE_FETCH_[A-Z_]*[A-Z]\b", path.read_text()))
    assert named - {"RESTORE_FETCH_SETTINGS"} <= _variables()


# --- systemd ---------------------------------------------------------------------------------------------


def _unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (_SCRIPTS / "systemd" / _UNITS[0]).read_text().splitlines():
        if re.match(r"[A-Z]\w+=", line):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units, with a program that is here in place of the one that would be installed."""
    for name in _UNITS:
        text = (_SCRIPTS / "systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/restore-fetch/bin/restore-fetch", "/bin/true"))
    return [tmp_path / name for name in _UNITS]


def test_systemd_finds_no_fault_in_the_units(units: list[Path]) -> None:
    ran = _run(_needs("systemd-analyze"), "verify", "--man=no", *units)
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_systemd_finds_the_service_well_confined(units: list[Path]) -> None:
    ran = _run(_needs("systemd-analyze"), "security", "--offline=true", "--threshold=20", units[0])
    if "offline" in ran.err:
        pytest.skip("this systemd cannot judge a unit that is not installed")
    assert ran.code == 0, ran.out + ran.err


def test_the_service_runs_a_command_that_there_is_and_retries_what_is_worth_it() -> None:
    unit = _unit()
    (line,) = unit["ExecStart"]
    _accepts(shlex.split(line)[1:])
    assert unit["LoadCredential"] == ["private-key:/etc/restore-fetch/private-key"]
    assert unit["ProtectSystem"] == ["strict"]
    (never,) = unit["RestartPreventExitStatus"]
    assert set(map(int, never.split())) == set(MEANINGS) - {DONE} - _LATER


def test_the_service_finds_its_key_where_systemd_puts_it(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in connection_variables(sandbox).items():
        if name != "MONGODB_ATLAS_PRIVATE_API_KEY":
            monkeypatch.setenv(name, value)
    (tmp_path / "private-key").write_text(sandbox.private_key + "\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("RESTORE_FETCH_OUT_DIR", str(tmp_path / "state"))
    (line,) = _unit()["ExecStart"]
    ran = run_here(capsys, *shlex.split(line)[1:])
    assert ran.code == 0, ran.err
    assert list((tmp_path / "state").glob("*.tar.gz"))


# --- Kubernetes ------------------------------------------------------------------------------------------


def _manifest(name: str) -> Any:
    return yaml.safe_load((_SCRIPTS / "kubernetes" / name).read_text())


def _job(name: str) -> Any:
    spec = _manifest(name)["spec"]
    return spec["jobTemplate"]["spec"] if "jobTemplate" in spec else spec


@pytest.mark.parametrize("name", _MANIFESTS)
@pytest.mark.parametrize("version", ["1.31", "1.34"])
def test_the_schemas_of_kubernetes_allow_the_manifest(name: str, version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    validator.validate(_manifest(name), version, strict=True)


@pytest.mark.parametrize("name", _MANIFESTS)
def test_a_pod_is_not_tried_again_when_somebody_has_to_look_first(name: str) -> None:
    job = _job(name)
    (container,) = job["template"]["spec"]["containers"]
    rule = next(rule for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule)
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert set(rule["onExitCodes"]["values"]) == set(MEANINGS) - {DONE} - _LATER


@pytest.mark.parametrize("name", _MANIFESTS)
def test_a_pod_may_do_little_and_gets_its_secrets_from_a_secret(name: str) -> None:
    pod = _job(name)["template"]["spec"]
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    variables = {one["name"]: one for one in container["env"]}
    assert "valueFrom" in variables["RESTORE_FETCH_PUBLIC_KEY"]
    place = variables["RESTORE_FETCH_PRIVATE_KEY_FILE"]["value"]
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    volume = next(one for one in pod["volumes"] if one["name"] == mounts[str(Path(place).parent)])
    assert Path(place).name in [item["path"] for item in volume["secret"]["items"]]


def _pod(name: str, sandbox: Sandbox, folder: Path, index: int, capsys: pytest.CaptureFixture[str]) -> Ran:
    """What the container of a pod would do, here."""
    (container,) = _job(name)["template"]["spec"]["containers"]
    here = {"$(JOB_COMPLETION_INDEX)": str(index), "/backups": str(folder), _BATCH: sandbox.batch_id}
    arguments = container["args"]
    for shown, value in here.items():
        arguments = [one.replace(shown, value) for one in arguments]
    return run_here(capsys, *arguments)


def test_the_cron_job_pulls(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in connection_variables(sandbox).items():
        monkeypatch.setenv(name, value)
    ran = _pod("cronjob.yaml", sandbox, tmp_path / "b", 0, capsys)
    assert ran.code == 0, ran.err
    assert list((tmp_path / "b").glob("batch-*.receipt.json"))


def test_the_pods_of_the_indexed_job_share_the_batch_and_one_run_more_makes_the_receipt(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in connection_variables(sandbox).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MONGODB_ATLAS_PROJECT_ID", sandbox.project_id)
    job = _job("indexed-job.yaml")
    assert job["completionMode"] == "Indexed"
    before = sandbox.delivery_gets()
    out = tmp_path / "b"
    brought = [_pod("indexed-job.yaml", sandbox, out, index, capsys) for index in range(job["completions"])]
    assert {ran.code for ran in brought} == {0}
    assert len({ran.out for ran in brought}) == len(sandbox.jobs_of(sandbox.batch_id)) == job["completions"]
    ran = run_here(capsys, "fetch", "--batch-id", sandbox.batch_id, "--out-dir", out, *FAST)
    assert ran.code == 0
    assert (out / f"batch-{sandbox.batch_id}.receipt.json").is_file()
    assert sandbox.delivery_gets() - before == job["completions"]


# --- Slurm and containers --------------------------------------------------------------------------------


def test_each_task_of_the_slurm_array_brings_its_own_job(sandbox: Sandbox, tmp_path: Path) -> None:
    settings = tmp_path / ".config" / "restore-fetch.env"
    settings.parent.mkdir()
    settings.write_text("".join(f"{name}={value}\n" for name, value in connection_variables(sandbox).items()))
    environ = {"PATH": f"{program_in(tmp_path / 'bin')}:/usr/bin:/bin", "HOME": str(tmp_path)}
    script = _SCRIPTS / "slurm" / "restore-fetch.sbatch"
    assert os.access(script, os.X_OK)
    brought = []
    for index in range(3):
        task = {**environ, "SLURM_ARRAY_TASK_ID": str(index)}
        ran = _run(script, sandbox.batch_id, tmp_path / "out", env=task)
        assert ran.code == 0, ran.err
        brought.append(ran.out.strip())
    assert len(set(brought)) == 3
    alone = _run(script, sandbox.batch_id, tmp_path / "out", env=environ)
    assert alone.code != 0
    assert "sbatch --array" in alone.err


def test_the_image_is_made_of_what_is_here_and_runs_as_nobody() -> None:
    text = (_SCRIPTS / "container" / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    copied = " ".join(re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE)).split()
    assert {"pyproject.toml", "README.md", "LICENSE", "restore_fetch"} <= set(copied), "what a wheel is made of"
    assert re.search(r"^USER \d+:\d+$", text, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["restore-fetch"\]$', text, re.MULTILINE)


# --- a rehearsal -----------------------------------------------------------------------------------------


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The scripts, with a virtual environment that is installed already."""
    clone = tmp_path / "clone"
    shutil.copytree(_SCRIPTS, clone / "scripts")
    shutil.copy(ROOT / "pyproject.toml", clone)
    tools = program_in(clone / ".venv" / "bin")
    (tools / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tools / "python").chmod(0o755)
    (clone / ".venv" / ".installed-sandbox").touch()
    return clone


def test_the_rehearsal_shows_three_failures_and_leaves_nothing(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")}
    strangers = {"RESTORE_FETCH_BASE_URL": "http://127.0.0.1:1", "MCLI_PRIVATE_API_KEY": "another"}
    ran = _run(clone / "scripts" / "rehearse", env=environ | strangers)
    assert ran.code == 0, ran.out + ran.err
    assert re.findall(r"^   exit code (\d+)$", ran.out, re.MULTILINE) == [
        *("16", "0", "16"),
        *("17", "0", "17"),
        *("18", "0", "18", "0"),
    ]
    for word in (".part", ".rejected", ".unverified", "HASH MISMATCH", "before the end"):
        assert word in ran.out
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_rehearsal_says_when_a_failure_is_not_as_it_should(clone: Path, tmp_path: Path) -> None:
    program = clone / ".venv" / "bin" / "restore-fetch"
    program.write_text(program.read_text().replace("\n", '\ncase "$1" in fetch) exit 0 ;; esac\n', 1))
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    ran = _run(clone / "scripts" / "rehearse", env=environ)
    assert ran.code == 1
    assert "UNEXPECTED: it should have been 17" in ran.err


# --- completion ------------------------------------------------------------------------------------------


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    path = f"{program_in(tmp_path / 'bin')}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(tmp_path), "TERM": "dumb", "PS1": "READY> ", "LC_ALL": "C.UTF-8"}


def _completion(shell: str, clone: Path) -> str:
    ran = _run(clone / "scripts" / "completion", shell)
    assert ran.code == 0, ran.err
    return ran.out


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("restore-fetch ", set(COMMANDS)),
        ("restore-fetch ve", {"verify"}),
        ("restore-fetch --version f", {"fetch"}),
        ("restore-fetch fetch --ping", {"--ping-url"}),
        ("restore-fetch fetch --log-format ", {"text", "json"}),
        ("restore-fetch fetch --service atlas-", {"atlas-v2", "atlas-cloud"}),
        ("restore-fetch sandbox --scenario wrong", {"wrong-hash"}),
        ("restore-fetch fetch --nonsense", set()),
    ],
)
def test_bash_completes(line: str, offered: set[str], clone: Path, shell: dict[str, str]) -> None:
    words = line.split(" ")
    script = (
        f"{_completion('bash', clone)}\n"
        f"complete -p restore-fetch >/dev/null || exit 1\n"
        f"COMP_WORDS=({' '.join(shlex.quote(word) for word in words)}) COMP_CWORD={len(words) - 1}\n"
        "_restore_fetch_completion restore-fetch; printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    ran = _run(_needs("bash"), "--norc", "--noprofile", "-c", script, env=shell)
    assert ran.code == 0, ran.err
    assert offered <= set(ran.out.split())
    if words[-1]:
        assert offered == set(ran.out.split())


def test_a_key_pressed_in_a_real_bash_completes_the_command(
    clone: Path, shell: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "completion").write_text(_completion("bash", clone))
    screen, end = open_terminal()
    arguments = [_needs("bash"), "--norc", "--noprofile", "-i"]
    with subprocess.Popen(arguments, stdin=end, stdout=end, stderr=end, env=shell, cwd=tmp_path,
                          start_new_session=True) as process:  # fmt: skip
        os.close(end)
        os.write(screen, b". ./completion; echo 'SOUR''CED'\n")
        shown = b""
        while b"SOURCED" not in shown:
            shown += os.read(screen, 65536)
        while not shown.rpartition(b"SOURCED")[2].rstrip(b" ").endswith(b"READY>"):
            shown += os.read(screen, 65536)
        os.write(screen, b"restore-fetch dem\t--vers\t; exit\n")
        text = read_terminal(screen)
        process.wait(PATIENCE_SECONDS)
    os.close(screen)
    assert f"restore-fetch {__version__}" in text


def test_fish_completes(clone: Path, shell: dict[str, str], tmp_path: Path) -> None:
    fish = _needs("fish")
    (tmp_path / "restore-fetch.fish").write_text(_completion("fish", clone))
    script = "source restore-fetch.fish; complete -C 'restore-fetch ve'; complete -C 'restore-fetch fetch --ping'"
    ran = _run(fish, "--no-config", "-c", script, env=shell, cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert [line.split("\t")[0] for line in ran.out.splitlines()] == ["verify", "--ping-url"]


def test_zsh_takes_the_completion(clone: Path, shell: dict[str, str], tmp_path: Path) -> None:
    zsh = _needs("zsh")
    (tmp_path / "_restore-fetch").write_text(_completion("zsh", clone))
    script = "fpath=($PWD $fpath); autoload -U compinit; compinit -u -D; print -r -- ${_comps[restore-fetch]}"
    ran = _run(zsh, "-f", "-c", script, env=shell, cwd=tmp_path)
    assert (ran.code, ran.out.strip()) == (0, "_restore-fetch"), ran.err


def test_there_is_no_completion_for_another_shell(clone: Path) -> None:
    for arguments in ([], ["tcsh"]):
        ran = _run(clone / "scripts" / "completion", *arguments)
        assert (ran.code, ran.out) == (2, "")


# --- the manual page -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manual() -> str:
    ran = _run(sys.executable, _SCRIPTS / "man-page")
    assert (ran.code, ran.err) == (0, "")
    return ran.out


def test_the_manual_page_has_every_command_option_and_exit_code(manual: str) -> None:
    text = manual.replace("\\-", "-")
    for name in COMMANDS:
        assert f".SS restore-fetch {name} " in text
        command: click.Command = importlib.import_module(f"restore_fetch.cli.{name}").command
        for one in command.params:
            if isinstance(one, click.Option):
                assert one.opts[-1] in text
    for code, meaning in MEANINGS.items():
        assert f"\\fB{code}\\fR\n{meaning[:40]}" in text
    assert __version__ in text


def test_man_shows_the_page_without_a_warning(manual: str, tmp_path: Path) -> None:
    page = tmp_path / "restore-fetch.1"
    page.write_text(manual)
    environ = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MANWIDTH": "100", "HOME": str(tmp_path)}
    ran = _run(_needs("man"), "--warnings", "-l", page, env=environ)
    if ran.code != 0 and not ran.out:
        pytest.skip(f"this man shows no file: {ran.err.strip()}")
    assert ran.err == ""
    shown = re.sub(r".\x08", "", ran.out)
    assert "--metrics-file PATH" in shown
    assert "EXIT STATUS" in shown


def test_mandoc_finds_no_fault_in_the_page(manual: str, tmp_path: Path) -> None:
    page = tmp_path / "restore-fetch.1"
    page.write_text(manual)
    ran = _run(_needs("mandoc"), "-T", "lint", "-W", "error", page)
    assert (ran.code, ran.out) == (0, "")
