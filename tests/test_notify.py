"""Telling others how a run went: pings, metrics and commands, one by one."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from pytest_httpserver import HTTPServer

from restore_fetch import files, redaction
from restore_fetch.errors import ConfigurationError, StorageError
from restore_fetch.notify import (
    Archive,
    Ping,
    Report,
    check_metrics_path,
    parse_command,
    result_variables,
    run_command,
    write_metrics,
)
from tests.unattended_support import UUID, metrics_in, monitor_on

_OWNER = ("65f1c2a9e4b0d83716a5f0c2", "Cluster0")
_GOOD = Report(
    command="pull",
    project=_OWNER[0],
    cluster=_OWNER[1],
    exit_code=0,
    verdict="verified",
    error="",
    finished=1_800_000_000.0,
    seconds=12.5,
    archives=(
        Archive(Path("/b/one.tar.gz"), "1" * 40, 1000, "verified", Path("/b/one.tar.gz.receipt.json")),
        Archive(Path("/b/two.tar.gz"), "2" * 40, 234, "verified", Path("/b/two.tar.gz.receipt.json")),
    ),
    receipt=Path("/b/batch.receipt.json"),
)
_BAD = replace(
    _GOOD,
    exit_code=17,
    verdict="mismatch",
    error="HASH MISMATCH: no backup",
    finished=1_800_086_400.0,
    seconds=3.0,
    archives=(),
    receipt=None,
)
_LONG = 30.0


def _ping(url: str) -> Ping:
    return Ping(url, user_agent="restore-fetch/test")


# --- pings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["", "/", "?rid=1&create=1", "/?rid=1&create=1"])
def test_a_ping_goes_below_the_address_and_keeps_its_query(httpserver: HTTPServer, ending: str) -> None:
    monitor = monitor_on(httpserver)
    ping = _ping(monitor.url + ending)
    assert ping.start(seconds=_LONG) is None
    assert ping.end(17, ["one line", "error: the last"], seconds=_LONG) is None
    assert monitor.pings == ["start", "17"]
    assert monitor.last_body == "one line\nerror: the last"
    query = "rid=1&create=1" if "?" in ending else ""
    assert {request.query_string.decode() for request, _ in httpserver.log} == {query}
    assert {request.headers["User-Agent"] for request, _ in httpserver.log} == {"restore-fetch/test"}


def test_the_body_is_the_end_of_what_is_too_much_and_holds_no_secret(httpserver: HTTPServer) -> None:
    monitor = monitor_on(httpserver)
    redaction.remember("the-private-key")
    lines = ["x" * 300] * 50 + ["the key is the-private-key", "the end"]
    assert _ping(monitor.url).end(0, lines, seconds=_LONG) is None
    assert len(monitor.last_body) == 10_000
    assert monitor.last_body.endswith("\nthe key is ***\nthe end")


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (301, 1), (429, 1), (500, 2), (503, 2)])
def test_an_answer_that_is_no_success_is_told_and_only_a_failing_server_is_asked_again(
    httpserver: HTTPServer, status: int, tries: int
) -> None:
    monitor = monitor_on(httpserver, status)
    assert _ping(monitor.url).start(seconds=_LONG) == f"localhost: status {status}"
    assert len(httpserver.log) == tries


def test_a_redirect_is_not_followed(httpserver: HTTPServer) -> None:
    elsewhere = httpserver.url_for("/elsewhere")
    httpserver.expect_request(f"/{UUID}/0").respond_with_data(status=302, headers={"Location": elsewhere})
    assert _ping(httpserver.url_for(f"/{UUID}")).end(0, [], seconds=_LONG) == "localhost: status 302"
    assert [request.path for request, _ in httpserver.log] == [f"/{UUID}/0"]


@pytest.fixture
def deaf() -> Iterator[int]:
    """The port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_server_that_never_answers_is_given_up(deaf: int) -> None:
    reason = _ping(f"http://127.0.0.1:{deaf}/{UUID}").start(seconds=0.2)
    assert reason is not None
    assert UUID not in reason


@pytest.mark.parametrize("trusted", [True, False])
def test_a_certificate_has_to_be_trusted(trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    (authority if trusted else other).cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with HTTPServer(ssl_context=context) as server:
        monitor = monitor_on(server)
        reason = _ping(monitor.url).start(seconds=_LONG)
        assert monitor.pings == (["start"] if trusted else [])
    if trusted:
        assert reason is None
    else:
        assert "certificate verify failed" in (reason or "")
        assert UUID not in (reason or "")


def test_a_server_that_is_not_there_is_told_without_the_secret_of_the_address() -> None:
    reason = _ping(f"http://127.0.0.1:1/{UUID}").start(seconds=_LONG)
    assert reason == "127.0.0.1: Connection refused"


@pytest.mark.parametrize(
    "url", ["", UUID, f"ftp://h/{UUID}", f"file:///{UUID}", f"https:///{UUID}", f"http://h:x/{UUID}", f"http://[h/{UUID}",
            f"https://h/{UUID}/\nX", f"https://h/{UUID}/a b", f"https://h/{UUID}/é"]
)  # fmt: skip
def test_what_is_no_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        _ping(url)
    assert UUID not in str(caught.value)


def test_the_address_is_kept_out_of_all_output() -> None:
    _ping(f"https://hc.example.net/ping/{UUID}")
    _ping("https://up.example.net/api/push/Sh0rtTok?status=up")
    for text in (f"GET https://hc.example.net/ping/{UUID}/start failed", UUID):
        assert UUID not in redaction.scrub(text)
    assert "Sh0rtTok" not in redaction.scrub("POST https://up.example.net/api/push/Sh0rtTok?status=up")


# --- metrics ---------------------------------------------------------------------------------------------


def test_a_success_is_told_in_full(tmp_path: Path) -> None:
    path = tmp_path / "x.prom"
    write_metrics(path, _GOOD, version="1.2.3")
    assert metrics_in(path) == {
        "restore_fetch_last_success_timestamp_seconds": {_OWNER: 1_800_000_000.0},
        "restore_fetch_last_run_timestamp_seconds": {_OWNER: 1_800_000_000.0},
        "restore_fetch_last_exit_code": {_OWNER: 0.0},
        "restore_fetch_bytes": {_OWNER: 1234.0},
        "restore_fetch_duration_seconds": {_OWNER: 12.5},
        "restore_fetch_info": {_OWNER: 1.0},
    }
    assert 'version="1.2.3"' in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o644
    assert [one.name for one in tmp_path.iterdir()] == ["x.prom"]


def test_a_failure_keeps_the_last_success(tmp_path: Path) -> None:
    path = tmp_path / "x.prom"
    write_metrics(path, _GOOD, version="1.2.3")
    write_metrics(path, _BAD, version="1.2.4")
    found = metrics_in(path)
    assert found["restore_fetch_last_success_timestamp_seconds"] == {_OWNER: 1_800_000_000.0}
    assert found["restore_fetch_bytes"] == {_OWNER: 1234.0}
    assert found["restore_fetch_last_run_timestamp_seconds"] == {_OWNER: 1_800_086_400.0}
    assert found["restore_fetch_last_exit_code"] == {_OWNER: 17.0}
    assert found["restore_fetch_duration_seconds"] == {_OWNER: 3.0}
    assert "1.2.3" not in path.read_text()


def test_without_a_success_none_is_made_up(tmp_path: Path) -> None:
    path = tmp_path / "x.prom"
    write_metrics(path, _BAD, version="1.2.3")
    assert set(metrics_in(path)) == {
        f"restore_fetch_{name}"
        for name in ("last_run_timestamp_seconds", "last_exit_code", "duration_seconds", "info")
    }


def test_what_is_told_of_other_clusters_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.prom"
    names = ["Cluster1", 'we"ird\\na\nme', "", "ü"]
    for name in names:
        write_metrics(path, replace(_GOOD, cluster=name), version="1")
    write_metrics(path, _BAD, version="1")
    found = metrics_in(path)
    assert set(found["restore_fetch_last_success_timestamp_seconds"]) == {(_OWNER[0], name) for name in names}
    assert set(found["restore_fetch_last_exit_code"]) == {(_OWNER[0], name) for name in [*names, "Cluster0"]}


@pytest.mark.parametrize(
    "content",
    [b"node_load1 0.5\n", b"not metrics at all", b"\x00\xff\x80", b'restore_fetch_bytes{cluster="x"} 1\n',
     b'restore_fetch_bytes{cluster="x",project="y"} many\n', b'restore_fetch_bytes{cluster="x'],
)  # fmt: skip
def test_what_somebody_else_wrote_is_not_overwritten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.prom"
    path.write_bytes(content)
    with pytest.raises(StorageError):
        write_metrics(path, _GOOD, version="1")
    assert path.read_bytes() == content


def test_an_empty_file_is_filled(tmp_path: Path) -> None:
    path = tmp_path / "x.prom"
    path.touch()
    write_metrics(path, _GOOD, version="1")
    assert metrics_in(path)["restore_fetch_last_exit_code"] == {_OWNER: 0.0}


def test_on_a_full_disk_the_old_metrics_stay_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.prom"
    write_metrics(path, _GOOD, version="1")
    before = path.read_bytes()

    def full(descriptor: int, view: memoryview) -> None:
        os.write(descriptor, view[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_all", full)
    with pytest.raises(StorageError):
        write_metrics(path, _BAD, version="1")
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["x.prom"]


def test_a_file_that_no_collector_would_read_is_refused() -> None:
    check_metrics_path(Path("/var/lib/node-exporter/x.prom"))
    for name in ("x", "x.txt", "x.prom.bak", ".prom/x"):
        with pytest.raises(ConfigurationError):
            check_metrics_path(Path(name))


# --- commands --------------------------------------------------------------------------------------------


def test_a_command_is_told_of_each_archive() -> None:
    assert result_variables(_GOOD) == {
        "RESTORE_FETCH_RESULT_FILE": "/b/one.tar.gz\n/b/two.tar.gz",
        "RESTORE_FETCH_RESULT_SHA1": "1" * 40 + "\n" + "2" * 40,
        "RESTORE_FETCH_RESULT_VERDICT": "verified",
        "RESTORE_FETCH_RESULT_EXIT_CODE": "0",
        "RESTORE_FETCH_RESULT_RECEIPT": "/b/batch.receipt.json",
        "RESTORE_FETCH_RESULT_ERROR": "",
    }
    one = replace(_GOOD, archives=_GOOD.archives[:1], receipt=None)
    assert result_variables(one)["RESTORE_FETCH_RESULT_RECEIPT"] == "/b/one.tar.gz.receipt.json"


def test_a_command_of_a_failure_gets_no_file() -> None:
    told = result_variables(_BAD)
    assert told["RESTORE_FETCH_RESULT_FILE"] == told["RESTORE_FETCH_RESULT_RECEIPT"] == ""
    assert told["RESTORE_FETCH_RESULT_VERDICT"] == "mismatch"
    assert told["RESTORE_FETCH_RESULT_EXIT_CODE"] == "17"
    assert told["RESTORE_FETCH_RESULT_ERROR"] == "HASH MISMATCH: no backup"


def test_a_command_runs_without_a_shell_and_without_the_secrets(tmp_path: Path) -> None:
    program = "import os, sys, json; json.dump([sys.argv[2:], dict(os.environ)], open(sys.argv[1], 'w'))"
    place = tmp_path / "told.json"
    words = parse_command(f"'{sys.executable}' -c \"{program}\" '{place}' '$HOME' '*' 'a b' ; true", "--on-success")
    environ = {
        "HOME": "/somewhere",
        "MONGODB_ATLAS_PRIVATE_API_KEY": "secret",
        "MCLI_PRIVATE_API_KEY": "secret",
        "MONGODB_ATLAS_CLIENT_SECRET": "secret",
        "RESTORE_FETCH_PING_URL": "secret",
        "CREDENTIALS_DIRECTORY": "secret",
    }
    assert run_command(words, _GOOD, environ) is None
    text = place.read_text()
    assert '["$HOME", "*", "a b", ";", "true"]' in text
    assert "/somewhere" in text
    assert "RESTORE_FETCH_RESULT_VERDICT" in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("sh -c 'echo one; echo the reason >&2; echo; exit 3'", "exit code 3: the reason"),
        ("false", "exit code 1"),
        ("sh -c 'kill -9 $$'", "killed by signal 9"),
        ("/no/such/program", "No such file or directory"),
        ("/", "Permission denied"),
    ],
)
def test_a_command_that_fails_is_told_with_its_last_line(command: str, reason: str) -> None:
    assert run_command(parse_command(command, "--on-success"), _GOOD, os.environ) == reason


def test_much_output_stops_no_command(capfd: pytest.CaptureFixture[str]) -> None:
    program = "import sys; sys.stdout.write('x' * 3_000_000 + chr(10) + 'done' + chr(10)); sys.exit(4)"
    assert run_command([sys.executable, "-c", program], _GOOD, os.environ) == "exit code 4: done"
    assert capfd.readouterr() == ("", "")


def test_a_child_that_outlives_its_command_is_not_waited_for() -> None:
    reason = run_command(["sh", "-c", "sleep 600 & echo $!; exit 5"], _GOOD, os.environ)
    assert reason is not None
    code, _, child = reason.partition(": ")
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(child), signal.SIGKILL)
    assert code == "exit code 5"


def test_a_command_is_stopped_with_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from restore_fetch import notify

    started: list[Any] = []

    class Interrupted(notify.subprocess.Popen):  # type: ignore[name-defined,misc]
        def wait(self, timeout: float | None = None) -> int:
            if not started:
                started.append(self)
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(notify.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_command(["sleep", "600"], _GOOD, os.environ)
    assert started[0].wait(60) == -signal.SIGTERM


@pytest.mark.parametrize("command", ["", "  ", "'", 'say "hello'])
def test_what_is_no_command_is_refused(command: str) -> None:
    with pytest.raises(ConfigurationError, match="--on-failure"):
        parse_command(command, "--on-failure")
