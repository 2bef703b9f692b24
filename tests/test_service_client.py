"""The API client: whatever a service, a proxy or the network does, one of our errors comes out, and no secret."""

from __future__ import annotations

import contextlib
import gzip
import re
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from restore_fetch.clock import SystemClock
from restore_fetch.errors import (
    ApiError,
    AuthenticationError,
    ConfigurationError,
    NotFoundError,
    ServiceUnavailableError,
)
from restore_fetch.network import tls_context
from restore_fetch.redaction import Secret
from restore_fetch.service import client
from restore_fetch.service.auth import DigestKey
from restore_fetch.service.client import ONE_DOCUMENT_BYTES, Answer, ApiClient
from tests.support import ManualClock
from tests.wire_support import (
    KeyGate,
    Peer,
    Script,
    WireServer,
    chunked,
    client_tls,
    head,
    header_of,
    says,
    server_tls,
    unused_port,
    with_length,
)

ANYTHING = re.compile(".*")
JSON = {"Content-Type": "application/json"}
CHALLENGE = 'Digest realm="MMS Public API", nonce="n", qop="auth", algorithm=MD5'


@contextlib.contextmanager
def api_client(origin: str, **changes) -> Iterator[ApiClient]:
    key = DigestKey("public", Secret(changes.pop("private_key", "private-key")))
    parts = {"tls": client_tls(), "clock": ManualClock(), "user_agent": "restore-fetch/test"} | changes
    with ApiClient(origin, key, **parts) as api:
        yield api


def ask(origin: str, **changes) -> Answer:
    with api_client(origin, **changes) as api:
        return api.get("/job", accept="application/json")


def origin_of(server: HTTPServer | WireServer) -> str:
    return server.url_for("").rstrip("/") if isinstance(server, HTTPServer) else server.url("")


def document(_: Request) -> Response:
    return Response('{"id": "here"}', content_type="application/json")


def gate_at(server: HTTPServer, **options) -> KeyGate:
    gate = KeyGate(document, **options)
    server.expect_request(ANYTHING).respond_with_handler(gate)
    return gate


# --- the key ---------------------------------------------------------------------------------------------


def test_the_key_opens_the_service_and_later_requests_need_no_new_challenge(httpserver):
    gate = gate_at(httpserver)
    with api_client(origin_of(httpserver)) as api:
        for _ in range(3):
            assert api.get("/job", accept="application/json").document == {"id": "here"}
    assert len(gate.seen) == 4


def test_a_wrong_key_is_refused_after_two_requests_and_never_a_third(httpserver):
    gate = gate_at(httpserver)
    with pytest.raises(AuthenticationError, match=r"401 NOT_SIGNED: Who are you\?") as caught:
        ask(origin_of(httpserver), private_key="wrong-key")
    assert len(gate.seen) == 2
    assert (caught.value.status, caught.value.error_code) == (401, "NOT_SIGNED")
    assert "check the public and the private key" in str(caught.value)


def test_a_key_that_stops_working_costs_two_requests_too(httpserver):
    gate = gate_at(httpserver)
    with api_client(origin_of(httpserver)) as api:
        api.get("/job", accept="application/json")
        gate._private_key = "revoked"
        with pytest.raises(AuthenticationError):
            api.get("/job", accept="application/json")
    assert len(gate.seen) == 4


def test_a_nonce_that_goes_stale_in_a_long_wait_goes_unnoticed(httpserver):
    gate = gate_at(httpserver, challenges=[CHALLENGE.replace('"n"', '"{nonce}"') + ", stale=true"])
    with api_client(origin_of(httpserver)) as api:
        for number in range(4):
            gate.nonce = f"nonce-{number}"
            assert api.get("/job", accept="application/json").document == {"id": "here"}
    assert len(gate.seen) == 8


@pytest.mark.parametrize(
    "challenges",
    [
        ['Digest realm="r", nonce="{nonce}", qop="auth", algorithm=MD5'],
        ['Digest realm="r", nonce="{nonce}", qop="auth", algorithm=SHA-256'],
        ['Digest realm="r", nonce="{nonce}", qop="auth", algorithm="sha-256"'],
        ['Digest realm="r", nonce="{nonce}", qop="auth"'],
        ['Digest realm="r", nonce="{nonce}", algorithm=MD5'],
        ['Digest realm="r", nonce="{nonce}"'],
        ['Digest realm="r", nonce="{nonce}", qop="auth,auth-int", opaque="o"'],
        ['digest realm="r",nonce="{nonce}",qop="auth"'],
        ['Digest realm="with, a comma", nonce="{nonce}", qop="auth"'],
        ['Basic realm="r"', 'Digest realm="r", nonce="{nonce}", qop="auth"'],
        ['Digest realm="r", nonce="{nonce}", qop="auth"', "Negotiate"],
        ['Basic realm="r", Digest realm="r", nonce="{nonce}", qop="auth"'],
        ['Digest realm="r", nonce="{nonce}", qop="auth", Bearer realm="r"'],
        ['Negotiate, Digest realm="r", nonce="{nonce}", qop="auth", Basic realm="r"'],
        [
            'Digest realm="r", nonce="{nonce}", qop="auth", algorithm=SHA-512-256',
            'Digest realm="r", nonce="{nonce}", qop="auth", algorithm=SHA-256',
            'Digest realm="r", nonce="{nonce}", qop="auth", algorithm=MD5',
        ],
        ['Digest realm="r", nonce="{nonce}", algorithm=TOKEN, Digest realm="r", nonce="{nonce}", algorithm=MD5'],
    ],
)
def test_challenges_of_every_usual_shape_are_answered(httpserver, challenges):
    gate = gate_at(httpserver, challenges=challenges)
    assert ask(origin_of(httpserver)).document == {"id": "here"}
    assert len(gate.seen) == 2


@pytest.mark.parametrize(
    "challenge",
    [
        "Digest ",
        "Digest nonsense",
        'Digest realm="r"',
        'Digest nonce="n"',
        'Digest realm="r", nonce=',
        'Digest realm=, nonce="n"',
        'Digest realm="r, nonce="n',
        'Digest realm="r" nonce="n"',
        'Digest realm="r", nonce="n", qop="auth-int"',
        'Digest realm="r", nonce="n", qop="something"',
        'Digest realm="r", nonce="n", qop=',
        'Digest realm="r", nonce="n", algorithm=',
        'Digest realm="r", nonce="n", algorithm=SHA-999',
        'Digest realm="r", nonce="n", =, ,,',
        "Digest realm=\xff\xfe, nonce=\xff",
    ],
)
def test_a_challenge_that_cannot_be_answered_is_our_error_and_is_not_argued_with(challenge):
    answer = with_length(b"no", "401 Unauthorized", {"WWW-Authenticate": challenge})
    with WireServer(says(answer)) as server, pytest.raises(ApiError) as caught:
        ask(origin_of(server))
    assert caught.value.status == 401
    assert len(server.heads) <= 2


@pytest.mark.parametrize("challenge", [None, 'Basic realm="r"', "Negotiate", 'Bearer realm="r"', "", ",,,"])
def test_the_key_is_never_sent_in_another_way_than_digest(challenge):
    headers = {} if challenge is None else {"WWW-Authenticate": challenge}
    with (
        WireServer(says(with_length(b"no", "401 Unauthorized", headers))) as server,
        pytest.raises(AuthenticationError),
    ):
        ask(origin_of(server))
    assert [header_of(text, "Authorization") for text in server.heads] == [None]


def test_no_message_contains_the_private_key(httpserver):
    gate_at(httpserver)
    with pytest.raises(AuthenticationError) as caught:
        ask(origin_of(httpserver), private_key="a-very-wrong-key")
    assert "a-very-wrong-key" not in f"{caught.value!s} {caught.value!r} {caught.value.__cause__!r}"


def test_a_challenge_with_a_bomb_for_a_body_costs_no_memory():
    bomb = gzip.compress(bytes(64 * 1024 * 1024))
    challenge = with_length(bomb, "401 Unauthorized", {"WWW-Authenticate": CHALLENGE, "Content-Encoding": "gzip"})
    with WireServer(says(challenge), says(with_length(b'{"id": "here"}'))) as server:
        tracemalloc.start()
        try:
            assert ask(origin_of(server)).document == {"id": "here"}
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 8 * 1024 * 1024


def test_a_challenge_with_an_endless_body_is_answered_all_the_same():
    with WireServer(_endless("401 Unauthorized"), says(with_length(b'{"id": "here"}'))) as server:
        assert ask(origin_of(server)).document == {"id": "here"}


def _endless(status: str):
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(head(status, {"WWW-Authenticate": CHALLENGE}))
        while True:
            peer.send(bytes(64 * 1024))

    return script


# --- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ApiError),
        (401, AuthenticationError),
        (403, AuthenticationError),
        (404, NotFoundError),
        (405, ApiError),
        (409, ApiError),
        (410, NotFoundError),
        (408, ServiceUnavailableError),
        (429, ServiceUnavailableError),
        (500, ServiceUnavailableError),
        (502, ServiceUnavailableError),
        (503, ServiceUnavailableError),
        (504, ServiceUnavailableError),
        (520, ServiceUnavailableError),
        (501, ApiError),
    ],
)
def test_the_status_decides_and_the_services_words_are_shown(httpserver, status, kind):
    body = {"error": 418, "errorCode": "SOME_CODE", "detail": "Something about it.", "parameters": None}
    httpserver.expect_request(ANYTHING).respond_with_json(body, status=status)
    with pytest.raises(ApiError) as caught:
        ask(origin_of(httpserver))
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.error_code) == (status, "SOME_CODE")
    assert f"{status} SOME_CODE: Something about it." in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><h1>403 Forbidden</h1></html>",
        b'{"error": 403, "errorCode": null, "detail": null}',
        b'{"error": 403, "errorCode": 5, "detail": ["x"]}',
        b"[]",
        b"\xff\xfe\x00",
        b"[" * 200_000,
        b"x" * (2 * ONE_DOCUMENT_BYTES),
    ],
    ids=["empty", "html", "nulls", "wrong types", "array", "binary", "nested", "too large"],
)
def test_an_error_body_that_says_nothing_hides_no_status(httpserver, body):
    httpserver.expect_request(ANYTHING).respond_with_data(body, status=403)
    with pytest.raises(AuthenticationError, match=r"not allowed to do this \(403\)") as caught:
        ask(origin_of(httpserver))
    assert caught.value.error_code is None


@pytest.mark.parametrize(
    "answer",
    [
        head("401 Unauthorized", {"Content-Length": "100"}) + b"half",
        head("401 Unauthorized", {"Transfer-Encoding": "chunked"}) + b"zzz\r\n",
        with_length(b"not gzip at all", "401 Unauthorized", {"Content-Encoding": "gzip"}),
    ],
    ids=["cut", "malformed", "encoded"],
)
def test_a_refusal_stays_one_when_its_body_cannot_be_read(answer):
    # Taken for an outage it would be asked again until the deadline, with a key that is refused each time.
    with WireServer(says(answer)) as server, pytest.raises(AuthenticationError):
        ask(origin_of(server))


def test_the_services_words_cannot_rewrite_the_terminal(httpserver):
    detail = "\x1b[2Jall is well\r\n\x07\u202eeslaf"
    httpserver.expect_request(ANYTHING).respond_with_json(
        {"errorCode": "X\x1b]0;", "detail": detail + "y" * 5000}, status=404
    )
    with pytest.raises(NotFoundError) as caught:
        ask(origin_of(httpserver))
    assert str(caught.value).isprintable()
    assert "all is well" in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("17", 17.0),
        ("Sat, 31 Jan 2026 12:01:30 GMT", 90.0),
        ("Sat, 31 Jan 2026 11:00:00 GMT", None),
        ("999999999", 86400.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86400.0),
        ("-5", None),
        ("1e9", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_how_long_the_service_wants_to_be_left_alone_is_told(status, value, seconds):
    headers = {"Date": "Sat, 31 Jan 2026 12:00:00 GMT"} | ({} if value is None else {"Retry-After": value})
    answer = with_length(b"{}", f"{status} Not Now", headers)
    with WireServer(says(answer)) as server, pytest.raises(ServiceUnavailableError) as caught:
        ask(origin_of(server))
    assert caught.value.retry_after_seconds == seconds
    assert caught.value.status == status


def test_a_date_to_retry_after_is_measured_by_the_services_clock():
    headers = {"Date": "Thu, 01 Jan 2032 00:00:00 GMT", "Retry-After": "Thu, 01 Jan 2032 00:00:30 GMT"}
    answer = with_length(b"{}", "503 Service Unavailable", headers)
    with WireServer(says(answer)) as server, pytest.raises(ServiceUnavailableError) as caught:
        ask(origin_of(server))
    assert caught.value.retry_after_seconds == 30.0


# --- answers that are no documents -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"<!DOCTYPE html><html><body>Please log in</body></html>",
        b"[]",
        b'[{"id": "here"}]',
        b"null",
        b"42",
        b'"text"',
        b'{"id": "here"',
        b'{"id": "he',
        b'{"id": "here"} trailing',
        b'{"id": "here", "id": "there"}',
        b'{"delivery": {"url": "a", "url": "b"}}',
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"maxDownloads": ' + b"9" * 5000 + b"}",
        b'{"id": "\xff\xfe"}',
        b"\x00\x01\x02",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_a_200_that_is_no_json_object_is_worth_asking_again(httpserver, body):
    httpserver.expect_request(ANYTHING).respond_with_data(body, content_type="application/json")
    with pytest.raises(ServiceUnavailableError):
        ask(origin_of(httpserver))


def test_a_byte_order_mark_is_overlooked(httpserver):
    httpserver.expect_request(ANYTHING).respond_with_data(b'\xef\xbb\xbf{"id": "here"}')
    assert ask(origin_of(httpserver)).document == {"id": "here"}


@pytest.mark.parametrize("status", ["204 No Content", "202 Accepted", "206 Partial Content"])
def test_a_success_that_is_no_200_brings_no_document(status):
    with (
        WireServer(says(head(status, {"Connection": "close"}))) as server,
        pytest.raises(ServiceUnavailableError) as caught,
    ):
        ask(origin_of(server))
    assert caught.value.status == int(status[:3])


@pytest.mark.parametrize("framing", [{"Content-Length": str(50_000_000)}, {}], ids=["announced", "unannounced"])
def test_of_a_huge_answer_only_the_allowed_beginning_is_received(framing):
    sent = 0

    def script(peer: Peer) -> None:
        nonlocal sent
        peer.head()
        peer.send(head("200 OK", framing))
        while sent < 50_000_000:
            peer.send(b" " * 50_000)
            sent += 50_000

    with WireServer(script) as server:
        tracemalloc.start()
        try:
            with pytest.raises(ServiceUnavailableError, match="larger than 1048576 bytes"):
                ask(origin_of(server))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 8 * 1024 * 1024
    assert sent < 50_000_000


def test_an_answer_of_the_largest_size_allowed_is_read(httpserver):
    body = b'{"id": "here"}'.ljust(ONE_DOCUMENT_BYTES)
    httpserver.expect_request(ANYTHING).respond_with_data(body)
    assert ask(origin_of(httpserver)).document == {"id": "here"}


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
def test_an_encoded_answer_is_not_unpacked(httpserver, encoding):
    bomb = gzip.compress(b'{"a": "' + bytes(1_000_000) + b'"}')
    httpserver.expect_request(ANYTHING).respond_with_data(bomb, headers={"Content-Encoding": encoding})
    with pytest.raises(ServiceUnavailableError, match="content encoding it was not asked for"):
        ask(origin_of(httpserver))


def test_answers_are_asked_for_as_they_are(httpserver):
    gate_at(httpserver)
    ask(origin_of(httpserver))
    request = httpserver.log[-1][0]
    assert request.headers["Accept-Encoding"] == "identity"
    assert request.headers["Accept"] == "application/json"
    assert request.headers["User-Agent"] == "restore-fetch/test"


def test_an_answer_that_trickles_in_is_given_up(httpserver):
    class Hurried(ManualClock):
        def monotonic(self) -> float:
            self.advance(50)
            return super().monotonic()

    with (
        WireServer(says(head(), b" " * 100, piece=10, pause=0.01)) as server,
        pytest.raises(ServiceUnavailableError, match="takes longer than 120 s"),
    ):
        ask(origin_of(server), clock=Hurried())


_ENDLESS = b"X-Padding: 1\r\n" * 10_000
_DRIPS = {
    "a head": (b"HTTP/1.1 200 OK\r\n", _ENDLESS),
    "the head of a challenge": (b"HTTP/1.1 401 No\r\nWWW-Authenticate: " + CHALLENGE.encode() + b"\r\n", _ENDLESS),
    "interim answers": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10_000),
    "a body": (head(headers={"Content-Length": "100000"}), b" " * 100_000),
    "chunks": (head(headers={"Transfer-Encoding": "chunked"}), b"1\r\n \r\n" * 20_000),
    "a refusal": (head("503 Busy", {"Content-Length": "100000"}), b" " * 100_000),
    "nothing": (b"", b""),
}


def drips(begin: bytes, rest: bytes) -> Script:
    """A script that says its beginning at once and the rest a byte at a time, and then waits."""

    def script(peer: Peer) -> None:
        if peer.head():
            peer.send(begin)
            peer.send(rest, piece=1, pause=0.02)
            peer.wait_for_hang_up()

    return script


@pytest.mark.parametrize("kind", _DRIPS)
@pytest.mark.parametrize("tls", [False, True])
def test_an_answer_that_drips_is_given_up_wherever_it_drips(
    kind: str, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No single read is ever late; only the whole of them."""
    monkeypatch.setattr(client, "_LONGEST_REQUEST_SECONDS", 0.4)
    with (
        WireServer(drips(*_DRIPS[kind]), tls=server_tls() if tls else None) as server,
        pytest.raises(ServiceUnavailableError, match=r"takes longer|cannot answer now"),
    ):
        ask(f"http{'s' if tls else ''}://localhost:{server.port}", clock=SystemClock())


def test_a_proxy_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_LONGEST_REQUEST_SECONDS", 0.4)
    with WireServer(drips(b"HTTP/1.1 200 OK\r\n", _ENDLESS)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url(""))
        with pytest.raises(ServiceUnavailableError, match="takes longer"):
            ask("https://service.example.net", clock=SystemClock())
    assert proxy.heads[0].startswith("CONNECT ")


def test_a_connection_that_is_kept_is_held_to_the_time_of_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that one request took is not taken from the next."""
    monkeypatch.setattr(client, "_LONGEST_REQUEST_SECONDS", 5.0)

    clock = ManualClock()

    def script(peer: Peer) -> None:
        while peer.head():
            clock.advance(4)
            peer.send(with_length(b"{}"))

    with WireServer(script) as server, api_client(origin_of(server), clock=clock) as api:
        for _ in range(3):
            assert api.get("/job", accept="application/json").document == {}
        assert server.connections == 1


@pytest.mark.parametrize(("wait", "given"), [(0, 30.0), (60, 60.0), (86400, 120.0)])
def test_a_request_gets_no_more_time_than_the_run_waits(wait: float, given: float) -> None:
    with api_client("http://localhost:1", wait_seconds=wait) as api:
        assert api._request_seconds == given


# --- the network -----------------------------------------------------------------------------------------


def test_a_refused_connection_names_the_origin():
    origin = f"http://127.0.0.1:{unused_port()}"
    with pytest.raises(ServiceUnavailableError, match="cannot be reached") as caught:
        ask(origin)
    assert origin in str(caught.value)


def test_a_host_that_does_not_exist_may_exist_later():
    with pytest.raises(ServiceUnavailableError, match="cannot be reached"):
        ask("http://no-such-host.invalid")


@pytest.mark.parametrize("host", ["a" * 64 + ".example.net", "a..b"])
def test_a_host_that_cannot_exist_is_a_wrong_option(host):
    with pytest.raises(ConfigurationError, match="--base-url"):
        ask(f"https://{host}")


@pytest.mark.parametrize(
    "script",
    [
        says(then="reset"),
        says(then="cut"),
        says(b"HTTP/1.1 200 O", then="cut"),
        says(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
        says(head("200 OK", {"Content-Length": "100"}), b'{"id": "he', then="cut"),
        says(head("200 OK", {"Content-Length": "100"}), b'{"id": "he', then="reset"),
        says(head("200 OK", {"Transfer-Encoding": "chunked"}), chunked(b'{"id": "here"}')[:-3], then="cut"),
        says(head("200 OK", {"Transfer-Encoding": "chunked"}), b"ffffffffffffffffffff\r\n"),
        says(head("200 OK", {"X": "y" * 500_000})),
    ],
    ids=["reset", "no answer", "half a head", "no http", "cut", "reset body", "cut chunk", "no chunk", "huge head"],
)
def test_a_connection_that_fails_is_worth_asking_again(script):
    with WireServer(script) as server, pytest.raises(ServiceUnavailableError, match="cannot be reached"):
        ask(origin_of(server))


def test_a_kept_connection_that_was_closed_in_the_meantime_goes_unnoticed():
    answer = says(with_length(b'{"id": "here"}', headers={"Connection": "keep-alive"}))
    with WireServer(answer) as server, api_client(origin_of(server)) as api:
        for _ in range(3):
            assert api.get("/job", accept="application/json").document == {"id": "here"}
    assert server.connections == 3


def test_a_kept_connection_that_is_closed_upon_its_next_request_goes_unnoticed():
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(with_length(b'{"id": "here"}'))
        peer.head()
        peer.reset()

    with WireServer(script) as server, api_client(origin_of(server)) as api:
        for _ in range(3):
            assert api.get("/job", accept="application/json").document == {"id": "here"}
    assert server.connections == 3


def test_a_service_that_hangs_up_each_time_is_asked_twice_and_no_more():
    with WireServer(says(then="cut")) as server, pytest.raises(ServiceUnavailableError):
        ask(origin_of(server))
    assert len(server.heads) == 2


def test_an_untrusted_certificate_ends_at_once_and_names_the_option():
    with (
        WireServer(says(with_length(b"{}")), tls=server_tls()) as server,
        pytest.raises(ConfigurationError, match=r"is not trusted.*--ca-file"),
    ):
        ask(origin_of(server), tls=tls_context(None))
    assert server.heads == []


def test_a_certificate_of_another_host_ends_at_once():
    with (
        WireServer(says(with_length(b"{}")), tls=server_tls("elsewhere.example")) as server,
        pytest.raises(ConfigurationError, match="is not trusted"),
    ):
        ask(origin_of(server))


def test_a_service_that_speaks_no_tls_may_do_so_later():
    def script(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with WireServer(script) as server, pytest.raises(ServiceUnavailableError):
        ask(f"https://127.0.0.1:{server.port}")


def test_a_trusted_certificate_is_enough():
    with WireServer(says(with_length(b'{"id": "here"}')), tls=server_tls()) as server:
        assert ask(origin_of(server)).document == {"id": "here"}


# --- where credentials go --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
@pytest.mark.parametrize("challenged", [True, False])
def test_a_redirect_is_not_followed(status, challenged):
    with WireServer(says(with_length(b"{}"))) as elsewhere:
        redirect = with_length(b"", status, {"Location": elsewhere.url("/job")})
        challenge = with_length(b"", "401 Unauthorized", {"WWW-Authenticate": CHALLENGE})
        scripts = [says(challenge), says(redirect)] if challenged else [says(redirect)]
        with WireServer(*scripts) as server, pytest.raises(ApiError, match="redirects") as caught:
            ask(origin_of(server))
    assert elsewhere.connections == 0
    assert not isinstance(caught.value, ServiceUnavailableError)
    assert "--base-url" in str(caught.value)


@pytest.mark.parametrize("target", ["http://[::1", "A:0", "//", "http://h:99999/", "http://a..b/", ""])
def test_a_redirect_to_nowhere_is_no_fault_of_the_settings(target):
    answer = with_length(b"", "302 Found", {"Location": target})
    with WireServer(says(answer)) as server, pytest.raises(ApiError, match="redirects") as caught:
        ask(origin_of(server))
    assert caught.value.status == 302


@pytest.mark.parametrize("cookie", ["session=1; Path=/", "session=\xc2\x80; Path=/"], ids=["plain", "not ascii"])
@pytest.mark.parametrize("status", ["200 OK", "302 Found"])
def test_cookies_are_not_kept(status, cookie):
    answer = with_length(b'{"id": "here"}', status, {"Set-Cookie": cookie, "Location": "/login"})
    with WireServer(says(answer)) as server, api_client(origin_of(server)) as api:
        for _ in range(2):
            with (
                contextlib.nullcontext() if status.startswith("200") else pytest.raises(ApiError, match="redirects")
            ):
                api.get("/job", accept="application/json")
    assert [header_of(text, "Cookie") for text in server.heads] == [None, None]


def test_the_netrc_of_the_user_is_not_read(httpserver, monkeypatch):
    netrc = Path.home() / ".netrc"
    netrc.write_text("machine localhost login somebody password else\ndefault login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    httpserver.expect_request(ANYTHING).respond_with_data("no", status=401)
    with pytest.raises(AuthenticationError):
        ask(origin_of(httpserver))
    assert [request.headers.get("Authorization") for request, _ in httpserver.log] == [None]


def test_a_proxy_of_the_environment_is_used(monkeypatch):
    with WireServer(says(with_length(b'{"id": "here"}'))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        assert ask("http://ops.example.net:8080").document == {"id": "here"}
    assert proxy.heads[0].startswith("GET http://ops.example.net:8080/job HTTP/1.1\r\n")


def test_a_proxy_for_https_sees_the_host_and_nothing_else(monkeypatch):
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(head("200 Connection established"))
        peer.start_tls(server_tls("ops.example.net"))
        says(with_length(b'{"id": "here"}'))(peer)

    with WireServer(script) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://name:word@127.0.0.1:{proxy.port}")
        assert ask("https://ops.example.net").document == {"id": "here"}
    tunnel, request = proxy.heads
    assert tunnel.startswith("CONNECT ops.example.net:443 ")
    assert header_of(tunnel, "Proxy-Authorization")
    assert header_of(request, "Proxy-Authorization") is None


def test_no_proxy_is_honoured(httpserver, monkeypatch):
    gate_at(httpserver)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{unused_port()}")
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    assert ask(origin_of(httpserver)).document == {"id": "here"}


@pytest.mark.parametrize("proxy", ["gopher://proxy.example:70", "socks5://proxy.example:1080", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_a_wrong_setting(monkeypatch, proxy):
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(ConfigurationError, match="proxy named in the environment"):
        ask("https://ops.example.net")


# --- the service's clock ---------------------------------------------------------------------------------


def test_an_answer_carries_the_services_time():
    answer = with_length(b"{}", headers={"Date": "Tue, 03 Mar 2026 04:05:06 GMT"})
    with WireServer(says(answer)) as server:
        assert ask(origin_of(server)).date == datetime(2026, 3, 3, 4, 5, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    "date",
    [
        None,
        "",
        "yesterday",
        "Tue, 99 Mar 2026 04:05:06 GMT",
        "Fri, 31 Dec 9999 23:59:59 -2300",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Tue, 03 Mar 2026 04:05:06 +99999999999",
    ],
)
def test_without_a_believable_date_the_local_clock_counts(date):
    with WireServer(says(with_length(b"{}", headers={} if date is None else {"Date": date}))) as server:
        assert ask(origin_of(server)).date == ManualClock().now()
