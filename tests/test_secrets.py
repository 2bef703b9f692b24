"""Canaries for every secret, looked for in everything that a run leaves or shows, over every way it can fail."""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import json
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

import pytest

from restore_fetch import (
    Connection,
    DeliveryClient,
    FetchOptions,
    RestoreFetcher,
    RestoreFetchError,
    Secret,
    SilentObserver,
    SystemClock,
    open_service,
    tls_context,
)
from restore_fetch.redaction import display_url, remember_url, scrub
from restore_fetch.sandbox import Sandbox
from tests.faults_support import (
    ARCHIVE,
    AUTH_VALUE,
    CUT,
    JOB,
    NAME,
    OTHER_SHA1,
    PRIVATE_KEY,
    URL_KEY,
    Look,
    Stage,
    answers,
    refuses,
    shows,
)
from tests.run_support import environment, forms_of, run, start
from tests.wire_support import Peer, Script, WireServer, header_of, says, with_length

CLIENT_SECRET = "mdb_sa_sk_client-secret-canary"
TOKEN = "bearer-token-canary.with.parts"
PROXY_PASSWORD = "proxy-pass word/canary"
CANARIES: Mapping[str, str] = {
    "private key": PRIVATE_KEY,
    "authValue": AUTH_VALUE,
    "key in the URL": URL_KEY,
    "password of the proxy": PROXY_PASSWORD,
    "client secret": CLIENT_SECRET,
    "bearer token": TOKEN,
}
"""Every secret there is; a new kind of credentials gets a line here, and `Stage` hands it out."""

QUICKLY = ("--wait", "0.2s", "--hash-wait", "0.2s", "--retries", "1", "--stall-timeout", "1s")
LOUD = ("-vv",)
LOUD_JSON = ("-vv", "--json", "--log-format", "json")


def hold_to_account(places: Mapping[str, str | bytes]) -> None:
    """No canary in any of these, in any form; `run` holds each run to the same for the secrets of its stage."""
    for place, content in places.items():
        raw = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
        for name, canary in CANARIES.items():
            for form in forms_of(canary):
                assert form not in raw, f"the {name} is in {place}"


def echo(secrets: Iterable[str]) -> str:
    """What a careless service says when it quotes what it was sent, in each form."""
    return " and ".join(form.decode() for secret in secrets for form in sorted(forms_of(secret)))


# What a stage hands out: a URL with its key, or a header; and each knows the private key.
ECHO = echo((PRIVATE_KEY, URL_KEY))
ECHO_HEADER = echo((PRIVATE_KEY, AUTH_VALUE))
_AT_THE_BRINK = {"detail": "x" * 290 + AUTH_VALUE}
"""A detail that is cut off in the middle of the secret, so that what is left looks like none."""


def _stage(*deliveries: Script, **settings: object) -> Callable[[], Stage]:
    return lambda: Stage(*deliveries, **settings)  # type: ignore[arg-type]


# Each ends in its own way; where the service can quote a secret, it does.
FAILURES: Mapping[str, tuple[Callable[[], Stage], int]] = {
    "none": (_stage(), 0),
    "none, with a header": (_stage(header=True), 0),
    "the key is refused": (_stage(looks=(shows(), refuses("401 No", detail=ECHO, errorCode=ECHO)), hashes=()), 10),
    "the key may not": (
        _stage(looks=(shows(), refuses("403 No", detail=ECHO_HEADER, errorCode=ECHO_HEADER)), header=True),
        10,
    ),
    "not found": (_stage(looks=(shows(), refuses("404 No", detail=ECHO_HEADER)), header=True), 11),
    "busy": (_stage(looks=(shows(), refuses("503 No", **_AT_THE_BRINK)), header=True), 12),
    "bad request": (_stage(looks=(shows(), refuses("400 No", detail=ECHO_HEADER)), header=True), 12),
    "nonsense": (_stage(looks=(shows(), answers(ECHO_HEADER.encode())), header=True), 12),
    "wrong types": (_stage(looks=(shows(), shows(statusName={"echo": ECHO_HEADER})), header=True), 12),
    "broken job": (_stage(looks=(shows(statusName="BROKEN"),), header=True), 13),
    "a status that quotes": (_stage(changes={"statusName": ECHO_HEADER}, header=True), 14),
    "a method that quotes": (_stage(delivery={"methodName": ECHO_HEADER}, header=True), 15),
    "expired": (_stage(delivery={"statusName": "EXPIRED"}), 15),
    "a header that may not be sent": (_stage(header=True, delivery={"authHeader": "Cookie"}), 15),
    "refused": (_stage(says(with_length(ECHO.encode(), "404 Not Found"))), 16),
    "a page": (_stage(says(with_length(ECHO.encode(), headers={"Content-Type": f"text/html {URL_KEY}"}))), 16),
    "an encoding that quotes": (
        _stage(says(with_length(ARCHIVE, headers={"Content-Encoding": AUTH_VALUE})), header=True),
        16,
    ),
    "a redirect that quotes": (
        _stage(says(with_length(b"", "302 Found", {"Location": f"ftp://{URL_KEY}.invalid/{URL_KEY}"}))),
        16,
    ),
    "no HTTP": (_stage(says(ECHO_HEADER.encode()), header=True), 16),
    "always cut": (_stage(CUT, header=True), 16),
    "silence": (_stage(says(then="wait_for_hang_up")), 16),
    "wrong hash": (_stage(hashes=({"fileName": NAME, "hash": OTHER_SHA1},), header=True), 17),
    "no hash": (_stage(hashes=(), header=True), 18),
}


@pytest.mark.parametrize(("failure", "loud"), [*zip(FAILURES, itertools.cycle([LOUD, LOUD_JSON]), strict=False)])
def test_no_secret_gets_out_however_a_run_ends(failure: str, loud: tuple[str, ...], tmp_path: Path) -> None:
    make, code = FAILURES[failure]
    with make() as stage:
        outcome = run(stage, tmp_path / "out", "fetch", *QUICKLY, *loud)

    assert outcome.code == code, outcome.stderr
    hold_to_account({"stdout": outcome.stdout, "stderr": outcome.stderr, "file names": "\n".join(outcome.names)})
    hold_to_account({name: outcome.bytes_of(name) for name in outcome.names})
    # The beginning of one is too much, too.
    assert AUTH_VALUE[:8] not in outcome.stderr


@pytest.mark.parametrize("loud", [LOUD, LOUD_JSON], ids=["text", "json"])
@pytest.mark.parametrize("header", [False, True])
def test_no_secret_is_in_what_status_shows(header: bool, loud: tuple[str, ...], tmp_path: Path) -> None:
    with Stage(header=header, changes={"statusName": ECHO_HEADER if header else ECHO}) as stage:
        outcome = run(stage, tmp_path / "out", "status", JOB, *loud)

    assert outcome.code == 0
    assert NAME in outcome.stdout
    hold_to_account({"stdout": outcome.stdout, "stderr": outcome.stderr})


def test_no_secret_is_seen_from_outside_while_a_run_goes_on_nor_after_it_is_stopped(tmp_path: Path) -> None:
    """The command line and the names that other users can read, and the files, the lock among them."""
    slow = says(with_length(ARCHIVE)[:20_000], then="wait_for_hang_up")
    with Stage(slow, header=True) as stage, start(stage, tmp_path / "out", "fetch", *LOUD) as running:
        running.until_bytes()
        process = Path("/proc") / str(running.process.pid)
        if process.is_dir():
            seen = {str(path): path.read_bytes() for path in (process / "cmdline", process / "comm")}
            seen |= {str(path): path.read_bytes() for path in (process / "task").glob("*/comm")}
            hold_to_account(seen)
        files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        assert any(name.endswith(".lock") for name in files)
        hold_to_account(files | {"names": "\n".join(files)})
        outcome = running.signal(signal.SIGTERM)

    assert outcome.code == 143
    hold_to_account({"stderr": outcome.stderr} | {name: outcome.bytes_of(name) for name in outcome.names})


@pytest.mark.parametrize("variable", ["RESTORE_FETCH_PRIVATE_KEY_FILE", "RESTORE_FETCH_PRIVATE_KEY_COMMAND"])
def test_a_private_key_from_anywhere_stays_in(variable: str, tmp_path: Path) -> None:
    place = tmp_path / "key"
    place.write_text(PRIVATE_KEY + "\n")
    value = str(place) if variable.endswith("FILE") else f"cat {place}"
    with Stage(looks=(refuses("401 No", detail=echo([PRIVATE_KEY])),)) as stage:
        environ = {"MONGODB_ATLAS_PRIVATE_API_KEY": None, variable: value}
        outcome = run(stage, tmp_path / "out", "fetch", *LOUD, environ=environ)

    assert outcome.code == 10
    hold_to_account({"stderr": outcome.stderr})


def test_a_private_key_given_as_an_argument_is_not_repeated(tmp_path: Path) -> None:
    """There is no such option; whoever tries it meets an error, and must not find the key in a log for it."""
    with Stage() as stage:
        outcome = run(stage, tmp_path / "out", "fetch", "--private-key", PRIVATE_KEY)

    assert outcome.code == 2
    hold_to_account({"stderr": outcome.stderr})


_SERVICE_ACCOUNT: Mapping[str, str | None] = {
    "MONGODB_ATLAS_PRIVATE_API_KEY": None,
    "RESTORE_FETCH_PUBLIC_KEY": None,
    "RESTORE_FETCH_SERVICE": "atlas-v2",
    "MONGODB_ATLAS_CLIENT_ID": "mdb_sa_id_0123456789",
    "MONGODB_ATLAS_CLIENT_SECRET": CLIENT_SECRET,
}
_TOKEN_GIVEN = answers(json.dumps({"access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600}).encode())


@pytest.mark.parametrize("loud", [LOUD, LOUD_JSON], ids=["text", "json"])
@pytest.mark.parametrize(
    ("looks", "code"),
    [
        ((_TOKEN_GIVEN, shows()), 0),
        ((_TOKEN_GIVEN, shows(), refuses("403 No", detail=echo((TOKEN, CLIENT_SECRET)))), 10),
        ((_TOKEN_GIVEN, answers(f"{TOKEN} {CLIENT_SECRET}".encode())), 12),
        ((refuses("401 No", detail=echo([CLIENT_SECRET]), errorCode=CLIENT_SECRET),), 10),
    ],
    ids=["none", "the token may not", "nonsense", "the secret is refused"],
)
def test_a_service_account_keeps_its_secret_and_its_token(
    looks: tuple[Look, ...], code: int, loud: tuple[str, ...], tmp_path: Path
) -> None:
    with Stage(looks=looks) as stage:
        outcome = run(stage, tmp_path / "out", "fetch", *QUICKLY, *loud, environ=_SERVICE_ACCOUNT)

    assert outcome.code == code, outcome.stderr
    hold_to_account({"stdout": outcome.stdout, "stderr": outcome.stderr})
    hold_to_account({name: outcome.bytes_of(name) for name in outcome.names})
    assert not any(TOKEN in one or CLIENT_SECRET in one for one in stage.delivery.heads)


# --- unexpected errors ---------------------------------------------------------------------------------------

_SABOTAGE = """
import restore_fetch.delivery.download as download

def attempt(self, source, part, journal):
    try:
        raise ValueError(f"cannot use {source.url} with {source.auth}")
    except ValueError as exc:
        raise RuntimeError([source.url, source.auth, repr(source)]) from exc

download.Downloader.attempt = attempt
"""


@pytest.mark.parametrize("loud", [(), LOUD, LOUD_JSON], ids=["quiet", "text", "json"])
@pytest.mark.parametrize("header", [False, True])
def test_a_traceback_of_an_unexpected_error_holds_no_secret(
    header: bool, loud: tuple[str, ...], tmp_path: Path
) -> None:
    """The error carries the secrets in its words, and so does its cause."""
    (tmp_path / "sitecustomize.py").write_text(_SABOTAGE)
    with Stage(header=header) as stage:
        environ = environment(stage, tmp_path, {"PYTHONPATH": str(tmp_path)})  # type: ignore[arg-type]
        line = [sys.executable, "-m", "restore_fetch", "fetch", JOB, "--out-dir", str(tmp_path / "out"), *loud]
        done = subprocess.run(line, env=environ, capture_output=True, text=True, timeout=60, cwd=tmp_path)

    assert done.returncode == 1
    assert "RuntimeError" in done.stderr
    assert ("Traceback" in done.stderr) == bool(loud)
    hold_to_account({"stdout": done.stdout, "stderr": done.stderr})


# --- proxies -------------------------------------------------------------------------------------------------


def _proxy_address(port: int) -> str:
    return f"http://proxy-user:{quote(PROXY_PASSWORD, safe='')}@127.0.0.1:{port}"


@pytest.mark.parametrize("loud", [LOUD, LOUD_JSON], ids=["text", "json"])
def test_a_proxy_s_password_goes_to_the_proxy_alone(loud: tuple[str, ...], tmp_path: Path) -> None:
    with Stage() as stage:

        def forward(peer: Peer) -> None:
            asked = peer.head()
            peer.send(shows()(stage) if "/restoreJobs/" in asked else with_length(ARCHIVE))
            peer.end()

        with WireServer(forward) as proxy:
            stage._early_hashes = stage.hashes
            outcome = run(
                stage, tmp_path / "out", "fetch", *loud, environ={"HTTP_PROXY": _proxy_address(proxy.port)}
            )

        token = base64.b64encode(f"proxy-user:{PROXY_PASSWORD}".encode()).decode()
        assert {header_of(one, "Proxy-Authorization") for one in proxy.heads} == {f"Basic {token}"}
        assert (stage.polls, stage.gets) == (0, 0)
    assert outcome.code == 0
    assert token not in outcome.stdout + outcome.stderr
    hold_to_account({"stdout": outcome.stdout, "stderr": outcome.stderr})
    hold_to_account({name: outcome.bytes_of(name) for name in outcome.names})


@pytest.mark.parametrize("loud", [LOUD, LOUD_JSON], ids=["text", "json"])
def test_a_proxy_that_quotes_its_password_is_not_quoted(loud: tuple[str, ...], tmp_path: Path) -> None:
    token = base64.b64encode(f"proxy-user:{PROXY_PASSWORD}".encode()).decode()
    body = {"detail": f"{echo([PROXY_PASSWORD])} {token}", "errorCode": token}
    refusal = with_length(json.dumps(body).encode(), "407 Proxy Authentication Required")
    with Stage() as stage, WireServer(says(refusal)) as proxy:
        outcome = run(
            stage,
            tmp_path / "out",
            "fetch",
            *QUICKLY,
            *loud,
            environ={"HTTP_PROXY": _proxy_address(proxy.port)},
        )

    assert outcome.code == 12
    assert "407" in outcome.stderr
    assert token not in outcome.stderr
    hold_to_account({"stderr": outcome.stderr})


# --- libraries that log --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["url-v2", "cut-download", "redirect-away", "forbidden"])
def test_the_libraries_below_log_no_secret_even_at_debug(scenario: str, tmp_path: Path) -> None:
    """What is promised to those who use the package from Python and log everything: the same as to all others.

    The client of the API logs its URLs, which hold no secret; the one of the deliveries logs nothing.
    """
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with Sandbox(size_bytes=20_000) as sandbox:
            job_id = sandbox.job_for(scenario)
            _fetch_as_a_library(sandbox, job_id, tmp_path / "out")
            secrets = sandbox.secrets()
    finally:
        root.removeHandler(handler)
        root.setLevel(before)

    said = log.getvalue()
    assert "HTTP Request: GET" in said
    assert "send_request_headers" in said
    for secret in secrets:
        assert not any(form in said.encode() for form in forms_of(secret))


def _fetch_as_a_library(sandbox: Sandbox, job_id: str, folder: Path) -> None:
    connection = Connection(
        service="atlas",
        base_url=sandbox.base_url,
        project_id=sandbox.project_id,
        cluster=sandbox.cluster,
        public_key=sandbox.public_key,
        private_key=Secret(sandbox.private_key),
    )
    options = FetchOptions(out_dir=folder, poll_seconds=0.01, wait_seconds=30, min_free_bytes=0)
    deliveries = DeliveryClient(tls_context(None), allow_http=False, user_agent="test", head_seconds=10)
    clock = SystemClock()
    with open_service(connection, clock=clock, user_agent="test") as service:
        fetcher = RestoreFetcher(
            service,
            deliveries,
            options,
            observer=SilentObserver(),
            clock=clock,
            random=lambda: 0.5,
            tool="restore-fetch test",
        )
        with contextlib.suppress(RestoreFetchError):
            fetcher.fetch(job_id)


# --- what is known of a secret -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/pull/0123456789abcdef", "https://h/…/"),
        ("https://h/0123456789abcdef/Cluster0.tar.gz", "https://h/…/Cluster0.tar.gz"),
        ("https://h/pull/file", "https://h/…/file"),
    ],
)
def test_a_key_at_the_end_of_a_url_is_not_taken_for_a_file(url: str, shown: str) -> None:
    remember_url(url)
    assert display_url(url) == shown
    assert "0123456789abcdef" not in scrub(url)


def test_a_folder_that_the_file_is_named_after_is_no_key() -> None:
    """Masking it would garble the path of the archive, which scripts read."""
    remember_url("https://h/backups-of-production/backups-of-production-1.tar.gz?X-Signature=0123456789abcdef")
    assert scrub("/srv/backups-of-production-1.tar.gz") == "/srv/backups-of-production-1.tar.gz"
    assert scrub("the signature is 0123456789abcdef") == "the signature is ***"


def test_a_token_is_kept_out_without_its_scheme_and_inside_json() -> None:
    Secret('Bearer a-long-"token"-123456')
    assert scrub('a-long-"token"-123456') == "***"
    assert "token" not in scrub(json.dumps({"echo": 'Bearer a-long-"token"-123456'}))
