"""Every exit code of `fetch` for one job, by the real command: what it leaves behind, and its last word."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from restore_fetch.sandbox import Sandbox
from tests.faults_support import JOB, Stage
from tests.run_support import PATIENCE_SECONDS, add_job, published, run, start

NOTHING: frozenset[str] = frozenset()
PART = frozenset({".part", ".part.json"})
JOURNAL = frozenset({".part.json"})
REJECTED = frozenset({".rejected", ".rejected.json"})
UNVERIFIED = frozenset({".unverified", ".part.json"})


@dataclass(frozen=True)
class Case:
    """A way for a run to end.

    Attributes:
        code: Its exit code.
        error: The class of the error, as the JSON log names it.
        scenario: How the job behaves.
        behaviour: Where it differs from that.
        options: What the command is given.
        environ: What its environment is given.
        left: The endings of the files left behind, after the archive's name.
        gets: How many requests for the archive are made.
        says: Words of the last line.
    """

    code: int
    error: str
    scenario: str = "normal"
    behaviour: dict[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    environ: dict[str, str | None] = field(default_factory=dict)
    left: frozenset[str] = NOTHING
    gets: int = 0
    says: str = ""


ALWAYS: dict[str, Any] = {"api_failures": None}
ONE_LOOK = ("--wait", "0")
GIVE_UP = ("--retries", "1")
NO_HASH_WAIT = ("--hash-wait", "0")
STALL = ("--retries", "0", "--stall-timeout", "0.3s")

CASES = {
    "no-such-option": Case(2, "NoSuchOption", options=("--no-such-option",), says="--no-such-option"),
    "an-option-that-makes-no-sense": Case(2, "BadParameter", options=("--wait", "soon"), says="soon"),
    "no-project": Case(2, "ConfigurationError", environ={"RESTORE_FETCH_PROJECT_ID": None}, says="--project-id"),
    "no-private-key": Case(
        2, "ConfigurationError", environ={"MONGODB_ATLAS_PRIVATE_API_KEY": None}, says="--private-key-file"
    ),
    "two-private-keys": Case(
        2, "ConfigurationError", environ={"MCLI_PRIVATE_API_KEY": "another-one"}, says="MCLI_PRIVATE_API_KEY"
    ),
    "a-base-url-that-is-none": Case(
        2, "ConfigurationError", environ={"RESTORE_FETCH_BASE_URL": "ftp://somewhere"}, says="--base-url"
    ),
    "wrong-key": Case(
        10, "AuthenticationError", environ={"MONGODB_ATLAS_PRIVATE_API_KEY": "wrong-key-of-nobody"}, says="401"
    ),
    "forbidden": Case(10, "AuthenticationError", "forbidden", says="IP_ADDRESS_NOT_ON_ACCESS_LIST"),
    "no-such-cluster": Case(11, "NotFoundError", options=("--cluster", "Cluster7"), says="CLUSTER_NOT_FOUND"),
    "no-such-project": Case(11, "NotFoundError", options=("--project-id", "f" * 24), says="GROUP_NOT_FOUND"),
    "service-unavailable": Case(12, "ServiceUnavailableError", "unavailable", ALWAYS, ONE_LOOK, says="503"),
    "service-talks-nonsense": Case(12, "ServiceUnavailableError", "nonsense", ALWAYS, ONE_LOOK),
    "service-hangs-up": Case(12, "ServiceUnavailableError", "dropped", ALWAYS, ONE_LOOK),
    "service-limits-the-rate": Case(12, "ServiceUnavailableError", "rate-limited", ALWAYS, ONE_LOOK, says="429"),
    "job-broken": Case(13, "JobFailedError", "broken-job", says="BROKEN"),
    "job-killed": Case(13, "JobFailedError", "killed-job", says="KILLED"),
    "never-ready": Case(
        14,
        "JobTimeoutError",
        "never-ready",
        {"polls_until_finished": None},
        ("--wait", "0.2s"),
        says="IN_PROGRESS/NOT_STARTED",
    ),
    "not-by-http": Case(15, "DeliveryUnusableError", "not-http", says="SCP"),
    "expired": Case(15, "DeliveryExpiredError", "expired", says="EXPIRED"),
    "past-its-date": Case(15, "DeliveryExpiredError", "expired-clock", says="expired at"),
    "downloads-spent": Case(15, "DownloadsSpentError", "max-downloads", says="MAX_DOWNLOADS_EXCEEDED"),
    "delivery-failed": Case(15, "DeliveryUnusableError", "delivery-failed", says="FAILED"),
    "delivery-interrupted": Case(15, "DeliveryUnusableError", "interrupted", says="INTERRUPTED"),
    "cut-again-and-again": Case(
        16, "DownloadInterruptedError", "cut-always", options=GIVE_UP, left=PART, gets=2, says="goes on from there"
    ),
    "cut-without-ranges": Case(
        16,
        "DownloadInterruptedError",
        "cut-always",
        {"ranges": "none", "etag": False},
        GIVE_UP,
        left=PART,
        gets=2,
        says="starts the download over",
    ),
    "stalled": Case(16, "DownloadInterruptedError", "stall-always", options=STALL, left=PART, gets=1, says="stall"),
    "url-gone": Case(16, "DownloadRefusedError", "gone", left=JOURNAL, gets=1, says="410"),
    "url-not-found": Case(16, "DownloadRefusedError", "not-found", left=JOURNAL, gets=1, says="404"),
    "delivery-unavailable": Case(
        16,
        "DownloadInterruptedError",
        "delivery-unavailable",
        {"refusal_attempts": None},
        ("--retries", "0"),
        left=JOURNAL,
        gets=1,
        says="503",
    ),
    "a-page-instead": Case(16, "DownloadRefusedError", "html-page", left=JOURNAL, gets=1, says="text/html"),
    "content-encoding": Case(16, "DownloadRefusedError", "content-encoding", left=JOURNAL, gets=1, says="gzip"),
    "larger-than-allowed": Case(
        16, "DownloadRefusedError", options=("--max-size", "1KiB"), left=JOURNAL, gets=1, says="--max-size"
    ),
    "wrong-hash": Case(17, "HashMismatchError", "wrong-hash", left=REJECTED, gets=1, says="HASH MISMATCH"),
    "no-hash": Case(
        18, "HashNotPublishedError", "no-hash", options=NO_HASH_WAIT, left=UNVERIFIED, gets=1, says="not verified"
    ),
    "no-space": Case(
        19, "StorageError", options=("--min-free", "1000000GiB"), left=JOURNAL, says="free some space"
    ),
}  # fmt: skip
FIRST_OF_EACH_CODE = {case.code: case for case in reversed(CASES.values())}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=64 * 1024) as sandbox:
        yield sandbox


def _run(sandbox: Sandbox, folder: Path, case: Case, *options: str) -> tuple[Any, str, str]:
    job = add_job(sandbox, case.scenario, **case.behaviour)
    outcome = run(sandbox, folder, "fetch", job, *case.options, *options, environ=case.environ)
    return outcome, job, sandbox.file_name(job)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_run_that_fails_ends_with_its_code_its_files_and_a_last_line_that_says_why(
    sandbox: Sandbox, tmp_path: Path, case: Case
) -> None:
    outcome, job, name = _run(sandbox, tmp_path / "out", case)

    assert outcome.code == case.code, outcome.stderr
    assert outcome.last_line.startswith("error: ")
    assert case.says in outcome.last_line
    assert outcome.stdout == ""
    assert outcome.names == {name + ending for ending in case.left}
    assert sandbox.delivery_gets(job) == case.gets


@pytest.mark.parametrize("case", FIRST_OF_EACH_CODE.values(), ids=FIRST_OF_EACH_CODE.keys())
def test_a_json_log_is_json_to_its_last_line_which_has_the_code_and_the_class(
    sandbox: Sandbox, tmp_path: Path, case: Case
) -> None:
    outcome, _, _ = _run(sandbox, tmp_path / "out", case, "--log-format", "json", "-vv")

    assert outcome.code == case.code, outcome.stderr
    entries = [json.loads(line) for line in outcome.stderr.splitlines()]
    assert all({"ts", "level", "event", "message"} <= entry.keys() for entry in entries)
    assert entries[-1]["event"] == "failed"
    assert entries[-1]["level"] == "error"
    assert entries[-1]["exit_code"] == case.code
    assert entries[-1]["error"] == case.error
    assert case.says in entries[-1]["message"]


def test_a_verified_archive_ends_with_0_and_its_path_alone_on_stdout(sandbox: Sandbox, tmp_path: Path) -> None:
    outcome = run(sandbox, tmp_path / "out", "fetch")
    name = sandbox.file_name(sandbox.job_id)

    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout == f"{tmp_path / 'out' / name}\n"
    assert outcome.names == published(name)
    assert sandbox.delivery_gets() == 1


def test_with_json_stdout_is_the_receipt(sandbox: Sandbox, tmp_path: Path) -> None:
    outcome = run(sandbox, tmp_path / "out", "fetch", "--json", "--log-format", "json")

    assert outcome.code == 0, outcome.stderr
    assert json.loads(outcome.stdout) == outcome.json_of(f"{sandbox.file_name(sandbox.job_id)}.receipt.json")
    assert [json.loads(line)["event"] for line in outcome.stderr.splitlines()][-1] == "verified"


def test_quiet_tells_nothing_but_the_error(sandbox: Sandbox, tmp_path: Path) -> None:
    failed = run(sandbox, tmp_path / "failed", "fetch", sandbox.job_for("broken-job"), "--quiet")
    done = run(sandbox, tmp_path / "done", "fetch", "--quiet")

    assert (failed.code, done.code) == (13, 0)
    assert failed.stderr.count("\n") == 1
    assert done.stderr == ""


@pytest.mark.parametrize("error", ["ZeroDivisionError", "EOFError", "SystemError"])
def test_a_bug_ends_with_1_and_a_line_without_the_secret_it_carried(
    sandbox: Sandbox, tmp_path: Path, error: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "from restore_fetch.workflow import RestoreFetcher\n"
        "def fetch(self, job_id):\n"
        f"    raise {error}('with ' + os.environ['MONGODB_ATLAS_PRIVATE_API_KEY'])\n"
        "RestoreFetcher.fetch = fetch\n"
    )
    outcome = run(sandbox, tmp_path / "out", "fetch", environ={"PYTHONPATH": str(tmp_path)})

    assert outcome.code == 1
    assert outcome.stderr.strip() == outcome.last_line
    assert outcome.last_line.startswith(f"error: unexpected {error}: with ***; this is a bug")


def test_a_word_that_is_no_job_id_is_a_mistake_of_usage_and_makes_no_folder(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    outcome = run(sandbox, tmp_path / "out", "fetch", "yesterday's")

    assert outcome.code == 2
    assert "24 hexadecimal digits" in outcome.last_line
    assert not (tmp_path / "out").exists()
    assert sandbox.requests == []


def test_a_job_that_does_not_exist_ends_with_11(sandbox: Sandbox, tmp_path: Path) -> None:
    outcome = run(sandbox, tmp_path / "out", "fetch", "f" * 24)

    assert outcome.code == 11
    assert "RESTORE_JOB_NOT_FOUND" in outcome.last_line
    assert outcome.names == set()


def test_a_wrong_key_is_tried_twice_at_most(sandbox: Sandbox, tmp_path: Path) -> None:
    environ = {"MONGODB_ATLAS_PRIVATE_API_KEY": "wrong-key-of-nobody"}
    outcome = run(sandbox, tmp_path / "out", "fetch", environ=environ)

    assert outcome.code == 10
    signed = [request for request in sandbox.requests if "authorization" in request.headers]
    assert 1 <= len(signed) <= 2


def test_a_service_that_nobody_runs_ends_with_12(sandbox: Sandbox, tmp_path: Path) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        origin = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        outcome = run(sandbox, tmp_path / "out", "fetch", "--base-url", origin, "--wait", "0.2s")

    assert outcome.code == 12
    assert outcome.names == set()


def test_a_certificate_that_nobody_vouches_for_ends_at_once_and_names_the_option(tmp_path: Path) -> None:
    with Sandbox(size_bytes=1024, tls=True) as sandbox:
        outcome = run(sandbox, tmp_path / "out", "fetch", environ={"RESTORE_FETCH_CA_FILE": None})

    assert outcome.code in (2, 12)
    assert "--ca-file" in outcome.last_line


def test_a_run_over_tls_verifies(tmp_path: Path) -> None:
    with Sandbox(size_bytes=64 * 1024, tls=True) as sandbox:
        outcome = run(sandbox, tmp_path / "out", "fetch")

    assert outcome.code == 0, outcome.stderr


def test_downloads_spent_by_runs_on_record_here_end_with_15(sandbox: Sandbox, tmp_path: Path) -> None:
    job = add_job(sandbox, "cut-always", max_downloads=1, broken_downloads_count=False)
    first = run(sandbox, tmp_path / "out", "fetch", job, "--retries", "0")
    second = run(sandbox, tmp_path / "out", "fetch", job)

    assert (first.code, second.code) == (16, 15)
    assert "--force" in second.last_line
    assert sandbox.delivery_gets(job) == 1


def test_an_out_dir_that_is_a_file_ends_with_19(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a list of groceries")
    outcome = run(sandbox, tmp_path / "out", "fetch")

    assert outcome.code == 19
    assert (tmp_path / "out").read_text() == "a list of groceries"
    assert sandbox.requests == []


def test_another_run_on_the_same_job_ends_with_20(sandbox: Sandbox, tmp_path: Path) -> None:
    job = add_job(sandbox, polls_until_finished=None)
    with start(sandbox, tmp_path / "out", "fetch", job) as first:
        first.until(lambda: "IN_PROGRESS" in first.stderr)
        second = run(sandbox, tmp_path / "out", "fetch", job, "--log-format", "json")

    assert second.code == 20
    assert json.loads(second.last_line)["error"] == "LockedError"
    assert sandbox.delivery_gets() == 0


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)], ids=lambda n: str(n)
)
def test_a_signal_ends_a_run_with_its_code(sandbox: Sandbox, tmp_path: Path, number: int, code: int) -> None:
    job = add_job(sandbox, polls_until_finished=None)
    with start(sandbox, tmp_path / "out", "fetch", job, "--log-format", "json") as running:
        running.until(lambda: "IN_PROGRESS" in running.stderr)
        outcome = running.signal(number)

    assert outcome.code == code
    assert "run the same command again" in json.loads(outcome.last_line)["message"]
    assert "what was downloaded is kept" in json.loads(outcome.last_line)["message"]
    assert json.loads(outcome.last_line)["exit_code"] == code
    assert outcome.names == set()


def test_a_look_that_is_stopped_speaks_of_no_download(tmp_path: Path) -> None:
    stopped = threading.Event()

    def look(_: Stage) -> bytes:
        stopped.wait(PATIENCE_SECONDS)
        return b""

    with Stage(looks=(look,)) as stage, start(stage, tmp_path / "out", "status", JOB) as running:  # type: ignore[arg-type]
        running.until(lambda: stage.polls)
        outcome = running.signal(signal.SIGINT)
        stopped.set()

    assert outcome.code == 130
    assert "stopped by a signal" in outcome.last_line
    assert "kept" not in outcome.last_line
