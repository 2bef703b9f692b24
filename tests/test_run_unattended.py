"""Nights that nobody watches: the line for cron, in an environment as cron has it, and who is told of each run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer

from restore_fetch.cli import unattended
from restore_fetch.sandbox import Sandbox
from tests.command_support import FAST, PATIENCE_SECONDS, Ran, assert_no_secret, connection_flags, run_here
from tests.documents_support import table
from tests.run_support import names_in, run, start
from tests.unattended_support import ROOT, UUID, Monitor, metrics_in, monitor_on, program_in

_LAST_SUCCESS = "restore_fetch_last_success_timestamp_seconds"
_LAST_RUN = "restore_fetch_last_run_timestamp_seconds"
_CODE = "restore_fetch_last_exit_code"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=64 * 1024, polls=0) as one:
        yield one


@pytest.fixture
def monitor(httpserver: HTTPServer) -> Monitor:
    return monitor_on(httpserver)


# --- from cron -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Night:
    """What cron has: a line, a user with a shell, and nothing in the environment."""

    sandbox: Sandbox
    place: Path

    @property
    def backups(self) -> Path:
        return self.place / "backups"

    @property
    def metrics(self) -> Path:
        return self.place / "collected" / "restore-fetch.prom"

    @property
    def owner(self) -> tuple[str, str]:
        return self.sandbox.project_id, self.sandbox.cluster

    def line(self) -> str:
        """The command of the file for cron, with the folders of this test in place of its own."""
        text = (ROOT / "scripts" / "cron" / "restore-fetch").read_text()
        (found,) = re.findall(r"^17 2 \* \* \*  backup  (.*)$", text, re.MULTILINE)
        for shown, here in (
            ("/etc/restore-fetch/environment", self.place / "environment"),
            ("/srv/backups/mongodb", self.backups),
            ("/var/lib/prometheus/node-exporter", self.metrics.parent),
        ):
            assert shown in found
            found = found.replace(shown, str(here))
        return found

    def run(self, line: str) -> Ran:
        """Run a line as cron does."""
        path = f"PATH={program_in(self.place / 'bin')}:/usr/bin:/bin"
        done = subprocess.run(
            ["env", "-i", f"HOME={self.place}", "LOGNAME=backup", "SHELL=/bin/sh", path, "/bin/sh", "-c", line],
            cwd=self.place,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert_no_secret(self.sandbox, done.stdout, done.stderr)
        assert UUID not in done.stdout + done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def night(sandbox: Sandbox, monitor: Monitor, tmp_path: Path) -> Night:
    (tmp_path / "private-key").write_text(sandbox.private_key)
    (tmp_path / "collected").mkdir()
    settings = {
        "BASE_URL": sandbox.base_url,
        "PROJECT_ID": sandbox.project_id,
        "CLUSTER": sandbox.cluster,
        "PUBLIC_KEY": sandbox.public_key,
        "PRIVATE_KEY_FILE": tmp_path / "private-key",
        "PING_URL": monitor.url,
        "POLL_INTERVAL": "0.05s",
        "HASH_WAIT": "0.2s",
        "RETRIES": "1",
        "MIN_FREE": "0",
    }
    (tmp_path / "environment").write_text("".join(f"RESTORE_FETCH_{name}={it}\n" for name, it in settings.items()))
    return Night(sandbox, tmp_path)


def test_a_good_night_is_silent_and_leaves_all_its_evidence(night: Night, monitor: Monitor) -> None:
    assert night.run(night.line()) == Ran(0, "", "")
    assert monitor.pings == ["start", "0"]
    assert "a restore job of snapshot" in monitor.last_body
    receipts = [json.loads(path.read_text()) for path in night.backups.glob("*.tar.gz.receipt.json")]
    assert receipts
    assert {receipt["verdict"] for receipt in receipts} == {"verified"}
    found = metrics_in(night.metrics)
    assert found[_CODE] == {night.owner: 0.0}
    assert found[_LAST_SUCCESS] == found[_LAST_RUN]
    assert found["restore_fetch_bytes"] == {night.owner: float(sum(receipt["bytes"] for receipt in receipts))}
    assert names_in(night.metrics.parent) == {night.metrics.name}


def test_the_same_night_again_is_silent_and_downloads_nothing(night: Night, monitor: Monitor) -> None:
    assert night.run(night.line()).code == 0
    downloads = night.sandbox.delivery_gets()
    assert night.run(night.line()) == Ran(0, "", "")
    assert monitor.pings == ["start", "0"] * 2
    assert night.sandbox.delivery_gets() == downloads


@pytest.mark.parametrize(
    ("scenario", "code", "word"),
    [
        ("broken-job", 13, "is BROKEN"),
        ("expired", 15, "has EXPIRED"),
        ("cut-always", 16, "before the end"),
        ("wrong-hash", 17, "HASH MISMATCH"),
        ("no-hash", 18, "not verified"),
        ("forbidden", 10, "403"),
    ],
)
def test_a_bad_night_is_one_line_worth_a_mail_and_the_last_success_stays(
    night: Night, monitor: Monitor, scenario: str, code: int, word: str
) -> None:
    good = night.line().replace(" pull ", f" fetch {night.sandbox.job_for('normal')} ")
    assert night.run(good) == Ran(0, "", "")
    before = metrics_in(night.metrics)

    ran = night.run(night.line().replace(" pull ", f" fetch {night.sandbox.job_for(scenario)} "))
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert word in ran.err
    assert monitor.pings == ["start", "0", "start", str(code)]
    assert monitor.last_body.splitlines()[-1] == ran.err.rstrip("\n")
    after = metrics_in(night.metrics)
    assert after[_CODE] == {night.owner: float(code)}
    for kept in (_LAST_SUCCESS, "restore_fetch_bytes"):
        assert after[kept] == before[kept]
    assert after[_LAST_RUN][night.owner] > before[_LAST_RUN][night.owner]


def test_a_night_without_its_key_keeps_the_labels_and_the_last_success(night: Night, monitor: Monitor) -> None:
    assert night.run(night.line()).code == 0
    (night.place / "private-key").unlink()
    ran = night.run(night.line())
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert monitor.pings[2:] == ["start", "2"]
    found = metrics_in(night.metrics)
    assert found[_CODE] == {night.owner: 2.0}
    assert set(found[_LAST_SUCCESS]) == {night.owner}


# --- what is told goes wrong -----------------------------------------------------------------------------


@pytest.fixture
def deaf() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/{UUID}"


@pytest.mark.parametrize("scenario", ["normal", "broken-job"])
@pytest.mark.parametrize("trouble", ["refused", "deaf", "failing"])
def test_a_ping_that_fails_changes_nothing_and_shows_no_secret(
    scenario: str,
    trouble: str,
    sandbox: Sandbox,
    deaf: str,
    httpserver: HTTPServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unattended, "_PING_SECONDS", 0.2)
    urls = {"refused": f"http://127.0.0.1:1/{UUID}", "deaf": deaf, "failing": monitor_on(httpserver, 500).url}
    flags = connection_flags(sandbox, tmp_path)
    out = ("--out-dir", tmp_path / "out", *FAST, "-vv")
    ran = run_here(capsys, "fetch", sandbox.job_for(scenario), *flags, *out, "--ping-url", urls[trouble])
    assert ran.code == (0 if scenario == "normal" else 13)
    assert ran.err.count("warning: the ping of") == 2
    assert UUID not in ran.out + ran.err
    if scenario != "normal":
        assert ran.last.partition("Z ")[2].startswith("error: restore job")


@pytest.mark.parametrize(("scenario", "code"), [("normal", 0), ("broken-job", 13)])
def test_commands_that_fail_are_told_and_change_nothing(
    scenario: str, code: int, sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = connection_flags(sandbox, tmp_path)
    hooks = ("--on-success", "sh -c 'echo why; exit 9'", "--on-failure", "/no/such/program")
    out = ("--out-dir", tmp_path / "out", *FAST, "--quiet")
    ran = run_here(capsys, "fetch", sandbox.job_for(scenario), *flags, *out, *hooks)
    assert ran.code == code
    lines = ran.err.splitlines()
    if code == 0:
        assert lines == ["warning: --on-success failed: exit code 9: why"]
    else:
        assert lines[0] == "warning: --on-failure failed: No such file or directory"
        assert lines[1:] == [ran.last]
        assert "is BROKEN" in ran.last


@pytest.mark.parametrize("metrics", ["no-folder/x.prom", "folder.prom"])
def test_metrics_that_cannot_be_written_are_told_and_change_nothing(
    metrics: str, sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.prom").mkdir()
    flags = connection_flags(sandbox, tmp_path)
    out = ("--out-dir", tmp_path / "out", *FAST, "--quiet")
    ran = run_here(capsys, "fetch", sandbox.job_for("normal"), *flags, *out, "--metrics-file", tmp_path / metrics)
    assert ran.code == 0
    assert ran.err.startswith("warning: writing the metrics failed: ")
    assert ran.err.count("\n") == 1
    assert Path(ran.out.strip()).is_file()


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--ping-url", f"hc-ping.com/{UUID}", "--ping-url"),
        ("--metrics-file", "metrics.txt", ".prom"),
        ("--on-success", "'", "--on-success"),
        ("--on-failure", " ", "--on-failure"),
    ],
)
@pytest.mark.parametrize("command", ["fetch", "pull", "verify"])
def test_what_cannot_be_told_later_is_refused_at_once(
    command: str, option: str, value: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"fetch": ["f" * 24], "pull": [], "verify": ["x.tar.gz"]}[command]
    ran = run_here(capsys, command, *arguments, option, value)
    assert ran.code == 2
    assert word in ran.last
    assert ran.err.count("\n") == 1
    assert UUID not in ran.err


# --- what commands are told ------------------------------------------------------------------------------


def _told_by(*arguments: object, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> tuple[Ran, dict[str, str]]:
    """What a run tells its commands, whichever of the two it is."""
    place = tmp_path / "told.json"
    program = tmp_path / "tell.py"
    program.write_text(
        "import json, os, sys\n"
        "told = {k.removeprefix('RESTORE_FETCH_RESULT_'): v for k, v in os.environ.items() if 'RESULT' in k}\n"
        "json.dump({'which': sys.argv[1], **told}, open(sys.argv[2], 'w'))\n"
        "print('words of the command')\n"
    )
    hooks = [
        part
        for which in ("success", "failure")
        for part in (f"--on-{which}", f"'{sys.executable}' '{program}' {which} '{place}'")
    ]
    ran = run_here(capsys, *arguments, *hooks)
    assert "words of the command" not in ran.out + ran.err
    return ran, json.loads(place.read_text())


def test_after_a_fetch_the_command_knows_the_archive(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = connection_flags(sandbox, tmp_path)
    job = sandbox.job_for("normal")
    arguments = ("fetch", job, *flags, "--out-dir", tmp_path / "out", *FAST)
    for _ in range(2):  # also when it was here before
        ran, told = _told_by(*arguments, capsys=capsys, tmp_path=tmp_path)
        assert told == {
            "which": "success",
            "FILE": ran.out.rstrip("\n"),
            "SHA1": sandbox.archive(job).sha1,
            "VERDICT": "verified",
            "EXIT_CODE": "0",
            "RECEIPT": ran.out.rstrip("\n") + ".receipt.json",
            "ERROR": "",
        }
    place = tmp_path / "out" / sandbox.file_name(job)
    ran, told = _told_by("verify", place, capsys=capsys, tmp_path=tmp_path)
    assert (ran.code, told["FILE"], told["RECEIPT"]) == (0, str(place), f"{place}.receipt.json")


@pytest.mark.parametrize(
    ("scenario", "code", "verdict"),
    [("wrong-hash", 17, "mismatch"), ("no-hash", 18, "unverified"), ("broken-job", 13, "error")],
)
def test_after_a_failure_the_command_gets_the_reason_and_no_file(
    scenario: str, code: int, verdict: str, sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = connection_flags(sandbox, tmp_path)
    hurry = ("--hash-wait", "0.1s", *FAST)
    ran, told = _told_by(
        *("fetch", sandbox.job_for(scenario), *flags, "--out-dir", tmp_path / "out", *hurry),
        capsys=capsys,
        tmp_path=tmp_path,
    )
    assert (ran.code, told["which"], told["EXIT_CODE"]) == (code, "failure", str(code))
    assert (told["FILE"], told["SHA1"], told["RECEIPT"]) == ("", "", "")
    assert told["VERDICT"] == verdict
    assert ran.last == f"error: {told['ERROR']}"


def test_what_was_let_through_without_a_hash_is_not_called_verified(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = connection_flags(sandbox, tmp_path)
    hurry = ("--hash-wait", "0.1s", "--allow-unverified", *FAST)
    ran, told = _told_by(
        *("fetch", sandbox.job_for("no-hash"), *flags, "--out-dir", tmp_path / "out", *hurry),
        capsys=capsys,
        tmp_path=tmp_path,
    )
    assert (ran.code, told["which"], told["VERDICT"]) == (0, "success", "unverified")


def test_what_only_its_structure_speaks_for_is_not_called_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Sandbox(service="atlas-cloud", size_bytes=64 * 1024, polls=0) as cloud:
        flags = [*connection_flags(cloud, tmp_path), "--service", "atlas-cloud"]
        ran, told = _told_by(
            "fetch", cloud.job_id, *flags, "--out-dir", tmp_path / "out", *FAST, capsys=capsys, tmp_path=tmp_path
        )
        assert (ran.code, told["which"], told["VERDICT"]) == (0, "success", "structure")
        ran, told = _told_by("verify", told["FILE"], capsys=capsys, tmp_path=tmp_path)
        assert (ran.code, told["which"], told["VERDICT"]) == (0, "success", "structure")


def test_a_damaged_archive_is_told_as_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Sandbox(size_bytes=64 * 1024, polls=0, scenario="damaged") as broken:
        flags = connection_flags(broken, tmp_path)
        out = ("--out-dir", tmp_path / "out", "--deep", *FAST)
        ran, told = _told_by("fetch", broken.job_id, *flags, *out, capsys=capsys, tmp_path=tmp_path)
    assert (ran.code, told["which"], told["VERDICT"]) == (17, "failure", "damaged")


def test_after_a_batch_the_command_knows_each_archive_and_the_receipt_of_all(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = connection_flags(sandbox, tmp_path)
    out = ("--out-dir", tmp_path / "out", *FAST)
    ran, told = _told_by("fetch", "--batch-id", sandbox.batch_id, *flags, *out, capsys=capsys, tmp_path=tmp_path)
    assert ran.code == 0
    assert told["FILE"].splitlines() == ran.out.splitlines()
    assert len(told["SHA1"].splitlines()) == len(told["FILE"].splitlines()) == 3
    assert Path(told["RECEIPT"]) == tmp_path / "out" / f"batch-{sandbox.batch_id}.receipt.json"


# --- stopped, and in JSON --------------------------------------------------------------------------------


def test_a_run_that_is_stopped_is_told_as_stopped(sandbox: Sandbox, monitor: Monitor, tmp_path: Path) -> None:
    metrics, told = tmp_path / "x.prom", tmp_path / "told"
    environ = {"RESTORE_FETCH_PING_URL": monitor.url, "RESTORE_FETCH_METRICS_FILE": str(metrics)}
    hook = ("--on-failure", f"sh -c 'echo $RESTORE_FETCH_RESULT_EXIT_CODE > {told}'")
    job = sandbox.job_for("never-ready")
    with start(sandbox, tmp_path / "out", "fetch", job, *hook, environ=environ) as running:
        running.until(lambda: "is IN_PROGRESS" in running.stderr)
        outcome = running.signal(signal.SIGTERM)
    assert outcome.code == 143
    assert monitor.pings == ["start", "143"]
    assert metrics_in(metrics)[_CODE] == {(sandbox.project_id, sandbox.cluster): 143.0}
    assert told.read_text() == "143\n"


def test_a_signal_while_the_command_runs_ends_both(sandbox: Sandbox, tmp_path: Path) -> None:
    place = tmp_path / "process"
    hook = ("--on-success", f"sh -c 'echo $$ > {place}.new; mv {place}.new {place}; exec sleep 600'")
    with start(sandbox, tmp_path / "out", "fetch", sandbox.job_for("normal"), *hook) as running:
        running.until(place.exists)
        outcome = running.signal(signal.SIGTERM)
    assert outcome.code == 143
    assert sandbox.file_name(sandbox.job_for("normal")) in outcome.names
    state = Path(f"/proc/{place.read_text().strip()}/stat")
    assert not _is_alive_after_a_while(state)


def _is_alive_after_a_while(state: Path) -> bool:
    """Whether a process that was told to end is still there in the end; one that nobody has buried is not."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while " Z " not in state.read_text():
            if time.monotonic() > deadline:
                return True
            time.sleep(0.02)
    return False


def test_in_json_each_trouble_is_an_event_of_its_own(sandbox: Sandbox, tmp_path: Path) -> None:
    outcome = run(
        sandbox,
        tmp_path / "out",
        *("fetch", sandbox.job_for("broken-job"), "--log-format", "json", "--on-failure", "sh -c 'echo x; exit 2'"),
        environ={"RESTORE_FETCH_PING_URL": f"http://127.0.0.1:1/{UUID}"},
    )
    entries = [json.loads(line) for line in outcome.stderr.splitlines()]
    events = [entry["event"] for entry in entries]
    assert events.count("ping-failed") == 2
    assert events[-2:] == ["hook-failed", "failed"]
    assert entries[-1]["exit_code"] == 13
    assert UUID not in outcome.stderr


def test_the_secret_of_the_ping_is_in_no_process_title(sandbox: Sandbox, monitor: Monitor, tmp_path: Path) -> None:
    environ = {"RESTORE_FETCH_PING_URL": monitor.url}
    with start(sandbox, tmp_path / "out", "fetch", sandbox.job_for("never-ready"), environ=environ) as running:
        running.until(lambda: "is IN_PROGRESS" in running.stderr)
        title = Path(f"/proc/{running.process.pid}/cmdline")
        if title.exists():
            assert UUID.encode() not in title.read_bytes()
        running.signal(signal.SIGTERM)


def test_nobody_is_told_of_a_look_at_the_help(monitor: Monitor, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(capsys, "fetch", "--ping-url", monitor.url, "--help").code == 0
    assert monitor.pings == []


def test_the_reference_tells_which_metrics_a_failure_leaves(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(name.strip("`"), re.match(r"stays|is written", what)) for name, what in table("test: metrics")]
    told = {name: what[0] if what else "" for name, what in rows}
    flags = (*connection_flags(sandbox, tmp_path), "--out-dir", tmp_path / "out", *FAST)
    metrics = tmp_path / "x.prom"
    found = []
    for command, scenario in (("fetch", "normal"), ("fetch", "broken-job")):
        run_here(capsys, command, sandbox.job_for(scenario), *flags, "--metrics-file", metrics)
        found.append(metrics_in(metrics))
    assert set(found[0]) == set(found[1]) == set(told)
    for name, what in told.items():
        if what == "stays":
            assert found[0][name] == found[1][name]
        elif name != "restore_fetch_info":
            assert found[0][name] != found[1][name]


@pytest.mark.parametrize("made", [RuntimeError("made of a signal"), OSError("made of a signal")])
def test_what_a_library_makes_of_a_signal_is_told_as_the_signal(
    made: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from restore_fetch.cli import verify

    def interrupted(*_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(PATIENCE_SECONDS)
        except BaseException:
            raise made from None

    monkeypatch.setattr(verify, "_verify_all", interrupted)
    metrics = tmp_path / "x.prom"
    assert run_here(capsys, "verify", tmp_path / "a.tar.gz", "--metrics-file", metrics).code == 143
    assert metrics_in(metrics)[_CODE] == {("", ""): 143.0}
