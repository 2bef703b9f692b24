"""Whole runs against an API that goes wrong: keys, challenges, statuses, nonsense, contradictions and clocks."""

from __future__ import annotations

import functools
import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from restore_fetch.sandbox import Sandbox
from tests.faults_support import (
    ARCHIVE,
    CUT,
    JOB,
    NAME,
    OTHER_ID,
    PRIVATE_KEY,
    SHA1,
    WHOLE,
    Look,
    Stage,
    answers,
    iso,
    nothing_published,
    refuses,
    shows,
    verified,
)
from tests.run_support import Outcome, environment, run
from tests.wire_support import KeyGate, Peer, WireServer, head, header_of, says, unused_port, with_length

SOON = ("--wait", "0.3s")
AT_ONCE = ("--wait", "0")


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., Outcome]:
    """Runs a fetch against a stage, always into the same folder."""
    return lambda stage, *options, **more: run(stage, tmp_path / "out", "fetch", *options, **more)


# --- A1 to A3: keys and challenges ---------------------------------------------------------------------------


def test_a_wrong_key_is_tried_once(tmp_path: Path) -> None:
    """The first request brings the challenge, the second the answer; accounts are locked for a third."""
    with Sandbox(size_bytes=10_000) as sandbox:
        wrong = {"MONGODB_ATLAS_PRIVATE_API_KEY": "a-wrong-private-key"}
        outcome = run(sandbox, tmp_path / "out", "fetch", environ=wrong)

        assert outcome.code == 10
        assert len(sandbox.requests) == 2
        assert sandbox.delivery_gets() == 0
        assert outcome.names == set()


def test_nonces_that_go_stale_all_the_time_are_not_noticed(tmp_path: Path) -> None:
    with Sandbox(size_bytes=10_000, nonce_uses=1, polls=6) as sandbox:
        outcome = run(sandbox, tmp_path / "out", "fetch")

        assert outcome.code == 0
        assert sandbox.delivery_gets() == 1
        statuses = [request.status for request in sandbox.requests if request.server == "api"]
        assert statuses.count(401) > 6
        assert "401" not in outcome.stderr


class GatedStage(Stage):
    """A stage whose API wants to be signed; `gate` and `server` do the asking."""

    def __init__(self, server: HTTPServer, *challenges: str) -> None:
        super().__init__(WHOLE)
        self.gate = KeyGate(self._shown, challenges=challenges, private_key=PRIVATE_KEY)
        self._server = server
        path = f"/api/atlas/v1.0/groups/{self.project_id}/clusters/{self.cluster}/restoreJobs/{JOB}"
        server.expect_request(path).respond_with_handler(self.gate)

    @property
    def base_url(self) -> str:
        return self._server.url_for("").rstrip("/")

    def _shown(self, _: Request) -> Response:
        return Response(json.dumps(self.document()), content_type="application/json")


_REALM = 'Digest realm="API", nonce="{nonce}"'


@pytest.fixture
def gated(httpserver: HTTPServer) -> Callable[..., GatedStage]:
    """Makes stages that challenge."""

    return functools.partial(GatedStage, httpserver)


@pytest.mark.parametrize(
    "challenges",
    [
        [f'{_REALM}, qop="auth", algorithm=SHA-256'],
        [f"{_REALM}, algorithm=MD5"],
        [f'{_REALM}, qop="auth"'],
        [_REALM],
        [f'{_REALM}, qop="auth-int,auth", algorithm="MD5"'],
        ['Basic realm="API"', f'{_REALM}, qop="auth", algorithm=MD5'],
        [f'Basic realm="API", {_REALM}, qop="auth"'],
        [f'{_REALM}, qop="auth", algorithm=SHA-512-256', f'{_REALM}, qop="auth", algorithm=MD5'],
    ],
)
def test_challenges_of_other_shapes_are_answered(
    challenges: list[str], gated: Callable[..., GatedStage], fetch: Callable[..., Outcome]
) -> None:
    with gated(*challenges) as stage:
        outcome = fetch(stage)

    assert verified(outcome)
    assert stage.gets == 1


@pytest.mark.parametrize(
    "challenge",
    [
        "Digest",
        "Digest ",
        'Digest realm="API"',
        "Digest realm",
        "Digest =,=,=",
        'Digest nonce="1"',
        f'{_REALM}, qop="auth-int"',
        f"{_REALM}, algorithm=NONE-SUCH",
        'Digest realm="API", nonce="',
    ],
)
def test_a_challenge_that_cannot_be_answered_ends_the_run_with_a_clear_word(
    challenge: str, gated: Callable[..., GatedStage], fetch: Callable[..., Outcome]
) -> None:
    with gated(challenge) as stage:
        outcome = fetch(stage)

    assert outcome.code in (10, 12)
    assert ("Digest challenge" in outcome.last_line) == (outcome.code == 12)
    assert len(stage.gate.seen) <= 2
    assert (stage.gets, outcome.names) == (0, set())


@pytest.mark.parametrize("challenge", ['Basic realm="API"', "Negotiate", 'Bearer realm="API"'])
def test_a_key_is_never_given_away_in_another_scheme(
    challenge: str, gated: Callable[..., GatedStage], fetch: Callable[..., Outcome]
) -> None:
    with gated(challenge) as stage:
        outcome = fetch(stage)

    assert outcome.code == 10
    assert stage.gate.seen == [None]


# --- A4 and A5: statuses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("400 Bad Request", 12),
        ("403 Forbidden", 10),
        ("404 Not Found", 11),
        ("410 Gone", 11),
        ("405 Method Not Allowed", 12),
        ("302 Found", 12),
    ],
)
def test_a_refusal_is_shown_in_the_service_s_own_words_and_judged_by_its_status(
    status: str, code: int, fetch: Callable[..., Outcome]
) -> None:
    """The error code lies: it must not decide."""
    refusal = refuses(status, errorCode="RATE_LIMITED", detail="The reason is a secret handshake.")
    with Stage(looks=(refusal,)) as stage:
        outcome = fetch(stage)

    assert (outcome.code, stage.polls, stage.gets) == (code, 1, 0)
    assert status.startswith("302") or "RATE_LIMITED: The reason is a secret handshake." in outcome.last_line
    assert status[:3] in outcome.last_line


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"errorCode": null, "detail": null}', b'{"detail": 7}'])
def test_a_refusal_without_words_is_told_by_its_status(body: bytes, fetch: Callable[..., Outcome]) -> None:
    with Stage(looks=(answers(body, "404 Not Found"),)) as stage:
        outcome = fetch(stage)

    assert outcome.code == 11
    assert "404" in outcome.last_line


@pytest.mark.parametrize("retry_after", ["2", timedelta(seconds=3)])
def test_a_retry_after_is_waited_for(retry_after: Any, fetch: Callable[..., Outcome]) -> None:
    """As seconds, or as a date, which the service's own clock is subtracted from; that one is an hour ahead."""
    ahead = timedelta(hours=1)

    def busy(stage: Stage) -> bytes:
        value = retry_after if isinstance(retry_after, str) else _http_date(ahead + retry_after)
        headers = {"Retry-After": value, "Date": _http_date(ahead)}
        return refuses("429 Too Many Requests", headers)(stage)

    with Stage(looks=(busy, shows(date=ahead))) as stage:
        outcome = fetch(stage)

    assert verified(outcome)
    assert stage.asked_at[1] - stage.asked_at[0] >= 2


def _http_date(from_now: timedelta) -> str:
    return format_datetime(datetime.now(UTC) + from_now, usegmt=True)


@pytest.mark.parametrize("value", ["-5", "soon", "", "1.5", "Sun, 06 Nov 1994 08:49:37 GMT", None])
def test_a_retry_after_without_sense_is_not_waited_for(value: str | None, fetch: Callable[..., Outcome]) -> None:
    busy = refuses("503 Busy", {} if value is None else {"Retry-After": value})
    with Stage(looks=(busy, busy, shows())) as stage:
        outcome = fetch(stage)

    assert verified(outcome)
    assert stage.polls == 4


@pytest.mark.parametrize("value", ["86400", "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Busy"])
def test_an_absurd_retry_after_is_capped_by_the_wait(
    value: str, status: str, fetch: Callable[..., Outcome]
) -> None:
    with Stage(looks=(refuses(status, {"Retry-After": value}, detail="later"),)) as stage:
        outcome = fetch(stage, *SOON)

    assert (outcome.code, stage.gets) == (12, 0)
    assert outcome.names == set()
    assert "later" in outcome.last_line


# --- A6: nonsense --------------------------------------------------------------------------------------------

_DEEP = b"[" * 200_000 + b"]" * 200_000
_NONSENSE = {
    "HTML": answers(b"<html><body>Sign in</body></html>"),
    "nothing": answers(b""),
    "204": answers(b"", "204 No Content"),
    "an array": answers(b"[]"),
    "a string": answers(b'"FINISHED"'),
    "null": answers(b"null"),
    "an empty object": answers(b"{}"),
    "half a document": lambda stage: answers(json.dumps(stage.document()).encode()[:200])(stage),
    "two documents": lambda stage: answers(json.dumps(stage.document()).encode() * 2)(stage),
    "not UTF-8": answers(b'{"id": "\xff\xfe"}'),
    "an element twice": lambda stage: answers(
        b'{"statusName": "FINISHED",' + json.dumps(stage.document()).encode()[1:]
    )(stage),
    "200,000 levels": answers(b'{"id": ' + _DEEP + b"}"),
    "200,000 levels beside the job": lambda stage: answers(
        json.dumps(stage.document()).encode()[:-1] + b', "x": ' + _DEEP + b"}"
    )(stage),
    "a number of 5,000 digits": answers(b'{"id": ' + b"9" * 5000 + b"}"),
    "not a number": lambda stage: answers(
        json.dumps(stage.document()).replace('"expirationHours": 24', '"expirationHours": NaN').encode()
    )(stage),
    "a gzip bomb": answers(gzip.compress(bytes(5_000_000)), headers={"Content-Encoding": "gzip"}),
    "gzip": lambda stage: answers(
        gzip.compress(json.dumps(stage.document()).encode()), headers={"Content-Encoding": "gzip"}
    )(stage),
    "no HTTP": lambda _: b"FINISHED\r\n\r\n",
    "a head alone": lambda _: head(headers={"Content-Length": "1000"}),
    "silence": lambda _: b"",
}
_WRONG_TYPES: Mapping[str, Mapping[str, Any]] = {
    "id is a number": {"id": 7},
    "statusName is an object": {"statusName": {}},
    "delivery is a string": {"delivery": "READY"},
    "hashes is an object": {"hashes": {"hash": SHA1}},
    "hashes holds a string": {"hashes": [SHA1]},
    "created is no date": {"created": "yesterday"},
    "a lone surrogate": {"clusterName": "\ud800"},
    "created is beyond time": {"created": "9999-12-31T23:59:59-23:59"},
}


def _changed(changes: Mapping[str, Any]) -> Look:
    def look(stage: Stage) -> bytes:
        return answers(json.dumps({**stage.document(), **changes}).encode())(stage)

    return look


_LOOKS = _NONSENSE | {name: _changed(changes) for name, changes in _WRONG_TYPES.items()}


@pytest.mark.parametrize("nonsense", _LOOKS.values(), ids=_LOOKS)
def test_nonsense_is_never_taken_for_a_job(nonsense: Look, fetch: Callable[..., Outcome]) -> None:
    with Stage(looks=(nonsense,)) as stage:
        outcome = fetch(stage, *AT_ONCE)

    assert (outcome.code, stage.gets) == (12, 0)
    # A connection that breaks off without an answer is made once more.
    assert 1 <= stage.polls <= 2
    assert outcome.names == set()


@pytest.mark.parametrize("name", ["HTML", "half a document", "200,000 levels", "silence", "delivery is a string"])
def test_nonsense_that_passes_is_looked_past(name: str, fetch: Callable[..., Outcome]) -> None:
    with Stage(looks=(_LOOKS[name], _LOOKS[name], shows())) as stage:
        outcome = fetch(stage)

    assert verified(outcome)
    assert stage.polls == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"statusName": None},
        {"delivery": {"statusName": "PENDING"}},
        {"delivery": {"url": None}},
        {"delivery": {"url": ""}},
    ],
)
def test_a_job_with_gaps_is_not_ready(changes: dict[str, Any], fetch: Callable[..., Outcome]) -> None:
    with Stage(looks=(shows(**changes),)) as stage:
        outcome = fetch(stage, *AT_ONCE)

    assert (outcome.code, stage.gets) == (14, 0)


def test_a_job_with_nothing_but_what_is_needed_is_fetched(fetch: Callable[..., Outcome]) -> None:
    names = ("groupId", "clusterId", "clusterName", "snapshotId", "created", "pointInTime", "timestamp")
    with Stage(changes=dict.fromkeys(names)) as stage:
        outcome = fetch(stage)

    assert verified(outcome)


def test_nulls_and_unknown_elements_are_no_nonsense(fetch: Callable[..., Outcome]) -> None:
    nulls = {"batchId": None, "created": None, "timestamp": None, "links": None, "masterKeyUUID": None, "new": [{}]}
    with Stage(looks=(_changed(nulls),)) as stage:
        outcome = fetch(stage)

    assert verified(outcome)


def test_a_byte_order_mark_is_overlooked(fetch: Callable[..., Outcome]) -> None:
    with Stage(
        looks=(lambda stage: answers(b"\xef\xbb\xbf" + json.dumps(stage.document()).encode())(stage),)
    ) as stage:
        outcome = fetch(stage)

    assert verified(outcome)


_MEASURED = """
import os, subprocess, sys
process = subprocess.Popen([sys.executable, "-m", "restore_fetch", *sys.argv[1:]])
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_an_answer_of_50_megabytes_is_neither_kept_nor_read_to_its_end(tmp_path: Path) -> None:
    """What the process held at most is compared with what it holds for a short answer."""
    size = 50_000_000
    sent: list[int] = []

    def flood(peer: Peer) -> None:
        peer.head()
        peer.send(head(headers={"Content-Length": str(size), "Content-Type": "application/json"}))
        sent.append(0)
        while sent[-1] < size:
            peer.send(b'{"x": "' + b"a" * 99_993)
            sent[-1] += 100_000

    with Stage(looks=(answers(b"{}"),)) as stage:
        usual = _held_at_most(stage, tmp_path)
        with WireServer(flood) as flooding:
            stage.api, small = flooding, stage.api
            unusual = _held_at_most(stage, tmp_path)
            stage.api = small

    assert sent[-1] < size
    assert unusual < usual + 10_000


def _held_at_most(stage: Stage, tmp_path: Path) -> int:
    """The peak of a run's memory, in KiB; the run must end with 12."""
    environ = environment(stage, tmp_path, {})  # type: ignore[arg-type]
    line = [sys.executable, "-c", _MEASURED, "fetch", JOB, "--wait", "0", "--out-dir", str(tmp_path / "out")]
    done = subprocess.run(line, env=environ, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 12, done.stderr
    return int(done.stderr.splitlines()[-1])


# --- A7: connections -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("then", ["cut", "reset", "end"])
def test_a_connection_that_breaks_is_made_again(then: str, fetch: Callable[..., Outcome]) -> None:
    def break_off(peer: Peer) -> None:
        peer.head()
        getattr(peer, then)()

    with Stage() as stage:
        stage.api._scripts = (break_off, break_off, stage.api._scripts[0])
        outcome = fetch(stage)

    assert verified(outcome)
    assert stage.gets == 1


def test_a_connection_kept_alive_and_closed_meanwhile_is_not_noticed(fetch: Callable[..., Outcome]) -> None:
    """The answers promise to keep the connection, and each is the last on it."""

    def keeps(stage: Stage) -> bytes:
        return answers(json.dumps(stage.document()).encode(), headers={"Connection": "keep-alive"})(stage)

    with Stage(looks=(keeps,)) as stage:
        outcome = fetch(stage)

    assert verified(outcome)


@pytest.mark.parametrize(
    "host", ["http://127.0.0.1:{port}", "https://127.0.0.1:{port}", "https://no-such-host.invalid"]
)
def test_an_api_out_of_reach_is_asked_until_the_deadline(host: str, fetch: Callable[..., Outcome]) -> None:
    base_url = host.format(port=unused_port())
    with Stage() as stage:
        outcome = fetch(stage, *SOON, environ={"RESTORE_FETCH_BASE_URL": base_url})

    assert (outcome.code, stage.gets) == (12, 0)
    assert base_url in outcome.last_line
    assert "cannot be reached" in outcome.last_line


def test_a_certificate_nobody_vouches_for_ends_the_run_at_once(fetch: Callable[..., Outcome]) -> None:
    with Stage(api_tls=True) as stage:
        outcome = fetch(stage)

        assert (outcome.code, stage.polls, stage.gets) == (2, 0, 0)
        assert stage.api.connections == 1
    assert "--ca-file" in outcome.last_line


def test_https_to_a_plain_port_is_out_of_reach(fetch: Callable[..., Outcome]) -> None:
    with Stage() as stage, WireServer(lambda peer: peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as plain:
        outcome = fetch(stage, *AT_ONCE, environ={"RESTORE_FETCH_BASE_URL": f"https://127.0.0.1:{plain.port}"})

    assert (outcome.code, stage.gets) == (12, 0)


# --- A8: contradictions --------------------------------------------------------------------------------------

_CONTRADICTIONS: Mapping[str, Mapping[str, Any]] = {
    "id": {"id": OTHER_ID},
    "groupId": {"groupId": OTHER_ID},
    "clusterId": {"clusterId": OTHER_ID},
    "snapshotId": {"snapshotId": OTHER_ID},
    "batchId": {"batchId": OTHER_ID},
}
_BATCH = {"batchId": "5a66684f38b8a3f1a1f3fe08"}


@pytest.mark.parametrize("element", ["id", "groupId"])
def test_a_document_of_another_job_is_never_followed(element: str, fetch: Callable[..., Outcome]) -> None:
    with Stage(looks=(shows(**_CONTRADICTIONS[element]),)) as stage:
        outcome = fetch(stage, *SOON)

    assert (outcome.code, stage.gets) == (12, 0)
    assert outcome.names == set()


@pytest.mark.parametrize("element", ["clusterId", "snapshotId", "batchId"])
def test_a_job_that_changes_while_it_is_waited_for_is_not_downloaded(
    element: str, fetch: Callable[..., Outcome]
) -> None:
    looks = (shows(statusName="IN_PROGRESS"), shows(**_CONTRADICTIONS[element]))
    with Stage(changes=_BATCH, looks=looks) as stage:
        outcome = fetch(stage, *SOON)

    assert (outcome.code, stage.gets) == (12, 0)
    assert element in outcome.last_line
    assert outcome.names == set()


@pytest.mark.parametrize("element", [*_CONTRADICTIONS, "delivery.url"])
def test_a_hash_in_a_document_that_contradicts_the_first_proves_nothing(
    element: str, fetch: Callable[..., Outcome]
) -> None:
    """The hash is right, the document is another's: nothing is verified, and nothing downloaded is lost."""
    changes = _CONTRADICTIONS.get(element, {})
    with Stage(changes=_BATCH) as stage:
        if element == "delivery.url":
            changes = {"delivery": {"url": stage.url.replace(NAME, "other.tar.gz")}}
        stage._looks = (shows(), shows(**changes))
        outcome = fetch(stage, "--hash-wait", "0.2s")
        assert (outcome.code, stage.gets) == (12, 1)
        assert nothing_published(outcome)
        assert outcome.bytes_of(f"{NAME}.part") == ARCHIVE

        stage._looks = (shows(),)
        assert verified(fetch(stage))
        assert stage.gets == 1


@pytest.mark.parametrize("element", ["snapshotId", "clusterId", "delivery.url"])
def test_a_cut_download_is_not_continued_from_another_job_s_bytes(
    element: str, fetch: Callable[..., Outcome]
) -> None:
    with Stage(CUT, WHOLE) as stage:
        changes = _CONTRADICTIONS.get(element, {})
        if element == "delivery.url":
            changes = {"delivery": {"url": stage.url.replace(NAME, "other.tar.gz")}}
        stage._looks = (shows(), shows(**changes))
        outcome = fetch(stage)

    assert (outcome.code, stage.gets) == (12, 1)
    assert outcome.bytes_of(f"{NAME}.part") == ARCHIVE[:25_000]


def test_a_later_run_does_not_take_up_the_bytes_for_another_snapshot(fetch: Callable[..., Outcome]) -> None:
    with Stage(CUT, WHOLE) as stage:
        assert fetch(stage, "--retries", "0").code == 16
        stage._looks = (shows(snapshotId=OTHER_ID),)
        outcome = fetch(stage)

    assert (outcome.code, stage.gets) == (12, 1)
    assert nothing_published(outcome)


def test_a_finished_job_that_is_in_progress_again_costs_no_further_download(fetch: Callable[..., Outcome]) -> None:
    with Stage(CUT, WHOLE, looks=(shows(), shows(statusName="IN_PROGRESS"))) as stage:
        outcome = fetch(stage)

    assert (outcome.code, stage.gets) == (12, 1)
    assert "IN_PROGRESS" in outcome.last_line
    assert nothing_published(outcome)


def test_an_id_in_capital_letters_is_the_same_job(fetch: Callable[..., Outcome]) -> None:
    """Also for the next run, which must find what the first one left."""
    with Stage(changes={"id": JOB.upper(), "groupId": Stage.project_id.upper()}) as stage:
        assert verified(fetch(stage))
        assert verified(fetch(stage))
        assert stage.gets == 1


def test_a_file_that_waits_for_its_hash_is_not_verified_by_another_job_s(tmp_path: Path) -> None:
    """The wrong job is named, whose own archive is here and verified: that says nothing about the file."""
    with Sandbox(size_bytes=10_000) as sandbox:
        other, waiting = sandbox.job_for("encrypted"), sandbox.job_for("no-hash")
        assert run(sandbox, tmp_path / "out", "fetch", other).code == 0
        assert run(sandbox, tmp_path / "out", "fetch", waiting, "--hash-wait", "0").code == 18
        file = tmp_path / "out" / f"{sandbox.file_name(waiting)}.unverified"

        outcome = run(sandbox, tmp_path / "out", "verify", "--online", "--job-id", other, str(file))

    assert outcome.code == 18
    assert outcome.stdout == ""
    assert file.exists()


# --- separation: who is told which credentials ---------------------------------------------------------------


def test_an_api_that_redirects_gets_no_credentials_sent_elsewhere(fetch: Callable[..., Outcome]) -> None:
    with WireServer(lambda peer: peer.send(b"HTTP/1.1 500 No\r\n\r\n")) as elsewhere:
        away = refuses("307 Temporary Redirect", {"Location": elsewhere.url("/api")})
        with Stage(looks=(away,)) as stage:
            outcome = fetch(stage)

        assert (outcome.code, stage.polls, elsewhere.connections) == (12, 1, 0)


@pytest.mark.parametrize(
    "challenge", ['Digest realm="API", nonce="1", qop="auth", algorithm=MD5', 'Basic realm="API"']
)
def test_a_delivery_that_challenges_gets_no_credentials_of_the_api(
    challenge: str, fetch: Callable[..., Outcome]
) -> None:
    with Stage(says(with_length(b"", "401 Unauthorized", {"WWW-Authenticate": challenge}))) as stage:
        outcome = fetch(stage)

    assert (outcome.code, stage.gets) == (16, 1)
    assert header_of(stage.delivery.heads[0], "Authorization") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, "x")
            for name in ("Host", "content-length", "TRANSFER-ENCODING", "Authorization", "Cookie", "Range")
        ),
        ("X-Key\r\nRange", "x"),
        ("X-Key", "x\r\nRange: bytes=0-0"),
        ("X Key", "x"),
        ("X-Key", "\u0436-not-latin"),
    ],
)
def test_a_header_that_would_change_the_request_is_not_sent(
    name: str, value: str, fetch: Callable[..., Outcome]
) -> None:
    with Stage(header=True, delivery={"authHeader": name, "authValue": value}) as stage:
        outcome = fetch(stage)

    assert (outcome.code, stage.gets) == (15, 0)
    assert outcome.names == set()


@pytest.mark.parametrize("host", ["backup.example.net", "169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]"])
def test_a_delivery_by_plain_http_from_a_public_host_is_refused(host: str, fetch: Callable[..., Outcome]) -> None:
    with Stage(delivery={"url": f"http://{host}/key/{NAME}"}) as stage:
        outcome = fetch(stage)

    assert outcome.code == 16
    assert "--allow-http" in outcome.last_line
    assert nothing_published(outcome)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a.tar.gz", "file:///etc/passwd", "a.tar.gz"])
def test_a_url_that_is_refused_would_be_refused_again(url: str, fetch: Callable[..., Outcome]) -> None:
    with Stage(delivery={"url": url}) as stage:
        outcome = fetch(stage)

    assert outcome.code == 16
    assert "start a new restore job" in outcome.last_line
    assert "run the same command again" not in outcome.last_line
    assert nothing_published(outcome)


# --- A9 and A10: time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["IN_PROGRESS", "BEING_PACKED", ""])
def test_a_job_that_never_finishes_is_left_at_the_deadline(status: str, fetch: Callable[..., Outcome]) -> None:
    with Stage(looks=(shows(statusName=status),)) as stage:
        outcome = fetch(stage, *SOON)

    assert (outcome.code, stage.gets) == (14, 0)
    assert stage.polls >= 2
    assert status in outcome.last_line
    assert outcome.names == set()


faketime = pytest.mark.skipif(shutil.which("faketime") is None, reason="the command faketime is not installed")


def _library_of_faketime() -> str:
    done = subprocess.run(["faketime", "now", "env"], capture_output=True, text=True, check=True)
    return next(line.partition("=")[2] for line in done.stdout.splitlines() if line.startswith("LD_PRELOAD="))


def _clock(offset: str) -> dict[str, str | None]:
    """What moves the clock of a process; the clock that only grows stays right."""
    return {"LD_PRELOAD": _library_of_faketime(), "FAKETIME": offset, "DONT_FAKE_MONOTONIC": "1"}


@faketime
@pytest.mark.parametrize("offset", ["+3d", "-3d", "+3y", "-3y"])
def test_a_wrong_clock_does_not_decide_what_has_expired(offset: str, fetch: Callable[..., Outcome]) -> None:
    with Stage(delivery={"expires": iso(timedelta(hours=1))}) as stage:
        outcome = fetch(stage, environ=_clock(offset))

    assert verified(outcome)
    assert ("ahead of" if offset.startswith("+") else "behind") in outcome.stderr


@faketime
@pytest.mark.parametrize("offset", ["+3d", "-3d"])
def test_an_expired_delivery_is_expired_whatever_the_clock_says(offset: str, fetch: Callable[..., Outcome]) -> None:
    with Stage(delivery={"expires": iso(timedelta(hours=-1))}) as stage:
        outcome = fetch(stage, environ=_clock(offset))

    assert (outcome.code, stage.gets) == (15, 0)


@pytest.mark.parametrize(("minutes", "told"), [(-10, True), (10, True), (2, False), (None, False)])
def test_a_clock_that_differs_by_more_than_five_minutes_is_told(
    minutes: int | None, told: bool, fetch: Callable[..., Outcome]
) -> None:
    date = None if minutes is None else timedelta(minutes=minutes)
    with Stage(looks=(shows(date=date),)) as stage:
        outcome = fetch(stage)

    assert verified(outcome)
    assert ("this machine's clock" in outcome.stderr) == told
