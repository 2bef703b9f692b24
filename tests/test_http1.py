"""The delivery client: what it asks, whom it asks, and what it makes of the heads of answers."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from restore_fetch import redaction
from restore_fetch.delivery import DeliveryClient, Source
from restore_fetch.delivery.body import body_of
from restore_fetch.errors import (
    ConfigurationError,
    DownloadError,
    DownloadInterruptedError,
    DownloadRefusedError,
    RestoreFetchError,
)
from restore_fetch.network import tls_context
from tests.delivery_support import delivery_client, read_all
from tests.wire_support import (
    Peer,
    Script,
    WireServer,
    head,
    header_of,
    says,
    server_tls,
    unused_port,
    with_length,
)

ANSWER = with_length(b"archive")
AUTH = ("X-Restore-Key", "auth-value-0123456789")
PROXY_PASSWORD = "proxy-password-0123456789"


def get(url: str, auth: tuple[str, str] | None = None, **settings: float) -> tuple[int, bytes]:
    """The status and the body of one GET."""
    with delivery_client(head_seconds=settings.get("head_seconds", 20.0)).open(Source(url, auth)) as response:
        return response.status, read_all(body_of(response))


def redirect(target: str, status: str = "302 Found", **headers: str) -> bytes:
    return head(status, {"Location": target, "Content-Length": "0", **headers})


# --- the request -----------------------------------------------------------------------------------------


def test_the_request_names_its_host_and_asks_for_the_bytes_as_they_are() -> None:
    with WireServer(says(ANSWER)) as server:
        assert get(server.url("/key/archive.tar.gz?a=b#c"), AUTH) == (200, b"archive")
    (asked,) = server.heads
    assert asked.startswith("GET /key/archive.tar.gz?a=b HTTP/1.1\r\n")
    assert header_of(asked, "Host") == f"127.0.0.1:{server.port}"
    assert header_of(asked, "Accept-Encoding") == "identity"
    assert header_of(asked, "Connection") == "close"
    assert header_of(asked, AUTH[0]) == AUTH[1]
    assert header_of(asked, "Range") is None


def test_the_rest_is_asked_for_only_together_with_the_validator_of_what_is_here() -> None:
    with WireServer(says(ANSWER)) as server:
        client = delivery_client()
        client.open(Source(server.url()), offset=5, etag='"one"').close()
        client.open(Source(server.url()), offset=5).close()
        client.open(Source(server.url()), offset=0, etag='"one"').close()
    ranges = [(header_of(asked, "Range"), header_of(asked, "If-Range")) for asked in server.heads]
    assert ranges == [("bytes=5-", '"one"'), (None, None), (None, None)]


def test_over_tls_the_archive_arrives_and_the_certificate_is_checked() -> None:
    with WireServer(says(ANSWER), tls=server_tls()) as server:
        assert get(server.url()) == (200, b"archive")
        stranger = DeliveryClient(tls_context(None), allow_http=False, user_agent="tests/1", head_seconds=20)
        with pytest.raises(DownloadRefusedError, match="--ca-file") as caught:
            stranger.open(Source(server.url()))
    assert (caught.value.outcome, caught.value.sent) == ("not trusted", False)
    assert len(server.heads) == 1


def test_a_certificate_for_another_name_is_not_believed() -> None:
    with (
        WireServer(says(ANSWER), tls=server_tls("elsewhere.example")) as server,
        pytest.raises(DownloadRefusedError) as caught,
    ):
        get(server.url())
    assert (caught.value.outcome, server.heads) == ("not trusted", [])


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_an_ipv6_address_is_reached_and_named_in_brackets() -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    heads: list[str] = []

    def serve() -> None:
        sock, _ = listener.accept()
        says(ANSWER)(Peer(sock, heads))

    thread = threading.Thread(target=serve)
    thread.start()
    with listener:
        port = listener.getsockname()[1]
        assert get(f"http://[::1]:{port}/archive.tar.gz") == (200, b"archive")
        thread.join()
    assert header_of(heads[0], "Host") == f"[::1]:{port}"


def test_a_name_and_password_in_the_url_go_nowhere() -> None:
    with WireServer(says(ANSWER)) as server:
        get(server.url().replace("//", "//somebody:url-password@"))
        with pytest.raises(DownloadError) as caught:
            get(f"http://somebody:url-password@127.0.0.1:{unused_port()}/archive.tar.gz")
    assert "url-password" not in str(caught.value)
    assert "somebody" not in server.heads[0] + str(caught.value)
    assert header_of(server.heads[0], "Authorization") is None


def test_a_netrc_file_is_never_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password netrc-password\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    with WireServer(says(head("401 Unauthorized", {"WWW-Authenticate": 'Basic realm="x"'}))) as server:
        get(server.url())
    assert [header_of(asked, "Authorization") for asked in server.heads] == [None]


# --- URLs ------------------------------------------------------------------------------------------------

BAD_URLS = [
    "",
    "archive.tar.gz",
    "//host/archive.tar.gz",
    "ftp://127.0.0.1/archive.tar.gz",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "http://",
    "http:///archive.tar.gz",
    "https://xn--/archive.tar.gz",
    "https://127.0.0.1:99999/archive.tar.gz",
    "https://127.0.0.1:x/archive.tar.gz",
    "http://[::1/archive.tar.gz",
    "https://127.0.0.1/a\x00b",
    "https://127.0.0.1/a\r\nX-Header: value",
    "https://127.0.0.1/" + "a" * 70_000,
]


@pytest.mark.parametrize("url", BAD_URLS, ids=range(len(BAD_URLS)))
def test_a_url_that_cannot_be_asked_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(DownloadRefusedError) as caught:
        delivery_client().open(Source(url))
    assert (caught.value.outcome, caught.value.sent) == ("refused URL", False)


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example", "does-not-exist.invalid"])
def test_a_host_that_nobody_has_is_unreachable(host: str) -> None:
    with pytest.raises(DownloadInterruptedError) as caught:
        delivery_client().open(Source(f"https://{host}/archive.tar.gz"))
    assert (caught.value.outcome, caught.value.sent) == ("unreachable", False)


@pytest.mark.parametrize("host", ["example.com", "8.8.8.8", "[2001:4860:4860::8888]"])
def test_plain_http_is_refused_beyond_this_machine_and_private_networks(host: str) -> None:
    with pytest.raises(DownloadRefusedError, match="--allow-http") as caught:
        delivery_client().open(Source(f"http://{host}/archive.tar.gz"))
    assert caught.value.sent is False


def test_plain_http_to_anywhere_is_accepted_where_that_was_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    with WireServer(says(ANSWER)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        delivery_client(allow_http=True).open(Source("http://example.com/archive.tar.gz")).close()
    assert proxy.heads[0].startswith("GET http://example.com/archive.tar.gz HTTP/1.1\r\n")


def test_a_port_that_nobody_listens_on_is_unreachable_and_uses_up_nothing() -> None:
    with pytest.raises(DownloadInterruptedError) as caught:
        get(f"http://127.0.0.1:{unused_port()}/archive.tar.gz")
    assert (caught.value.outcome, caught.value.sent) == ("unreachable", False)


# --- redirects -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_a_redirect_within_the_origin_is_followed_with_the_header_that_opens_it(status: str) -> None:
    with WireServer(says(redirect("/elsewhere/archive.tar.gz", status)), says(ANSWER)) as server:
        assert get(server.url(), AUTH) == (200, b"archive")
    assert [header_of(asked, AUTH[0]) for asked in server.heads] == [AUTH[1], AUTH[1]]
    assert server.heads[1].startswith("GET /elsewhere/archive.tar.gz ")


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_redirect_to_another_origin_is_followed_without_it(tls: bool) -> None:
    context = server_tls() if tls else None
    with (
        WireServer(says(ANSWER), tls=context) as other,
        WireServer(says(redirect(other.url("/stored.tar.gz"))), tls=context) as server,
    ):
        assert get(server.url(), AUTH) == (200, b"archive")
    assert AUTH[1] not in other.heads[0]
    assert header_of(other.heads[0], "Host") == f"127.0.0.1:{other.port}"


def test_the_header_does_not_come_back_with_a_redirect_that_comes_back() -> None:
    with WireServer(says(b"")) as other, WireServer(says(b"")) as server:
        other._scripts = (says(redirect(server.url("/back"))),)
        server._scripts = (says(redirect(other.url("/away"))), says(ANSWER))
        assert get(server.url(), AUTH) == (200, b"archive")
    assert [AUTH[1] in asked for asked in (*server.heads, *other.heads)] == [True, False, False]


def test_the_rest_is_asked_for_behind_a_redirect_too() -> None:
    with WireServer(says(redirect("/again")), says(ANSWER)) as server:
        delivery_client().open(Source(server.url()), offset=5, etag='"one"').close()
    assert [(header_of(asked, "Range"), header_of(asked, "If-Range")) for asked in server.heads] == [
        ("bytes=5-", '"one"')
    ] * 2


def test_another_name_of_the_same_machine_is_another_origin() -> None:
    with WireServer(says(b""), says(ANSWER)) as server:
        server._scripts = (says(redirect(server.url("/x").replace("127.0.0.1", "localhost"))), says(ANSWER))
        assert get(server.url(), AUTH) == (200, b"archive")
    assert [header_of(asked, AUTH[0]) for asked in server.heads] == [AUTH[1], None]


def test_https_is_never_left_for_http() -> None:
    with (
        WireServer(says(ANSWER)) as plain,
        WireServer(says(redirect(plain.url())), tls=server_tls()) as server,
        pytest.raises(DownloadRefusedError, match="from https to http") as caught,
    ):
        get(server.url(), AUTH)
    assert (caught.value.outcome, caught.value.sent) == ("refused redirect", True)
    assert plain.heads == []


def test_a_redirect_from_http_to_https_is_followed() -> None:
    with (
        WireServer(says(ANSWER), tls=server_tls()) as other,
        WireServer(says(redirect(other.url()))) as server,
    ):
        assert get(server.url(), AUTH) == (200, b"archive")
    assert AUTH[1] not in other.heads[0]


def test_redirects_end_some_time() -> None:
    with (
        WireServer(says(redirect("/again"))) as server,
        pytest.raises(DownloadRefusedError, match="without end") as caught,
    ):
        get(server.url())
    assert caught.value.sent is True
    assert len(server.heads) == 6


@pytest.mark.parametrize(
    "location",
    [
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://[::1",
        "http://a:b/",
        "http://127.0.0.1:99999/",
        "http://xn--/",
        "http://\u00ff\u00fe/",
        "http://example.com/plain-and-public",
    ],
)
def test_a_redirect_to_nowhere_is_refused_and_was_a_request_all_the_same(location: str) -> None:
    with WireServer(says(redirect(location))) as server, pytest.raises(DownloadRefusedError) as caught:
        get(server.url())
    assert caught.value.sent is True
    assert len(server.heads) == 1


def test_a_redirect_without_a_target_is_an_answer_like_any_other() -> None:
    with WireServer(says(head("302 Found", {"Content-Length": "0"}))) as server:
        assert get(server.url()) == (302, b"")


def test_a_redirect_to_a_host_out_of_reach_was_a_request_all_the_same() -> None:
    with (
        WireServer(says(redirect(f"http://127.0.0.1:{unused_port()}/x"))) as server,
        pytest.raises(DownloadInterruptedError) as caught,
    ):
        get(server.url())
    assert (caught.value.outcome, caught.value.sent) == ("unreachable", True)


def test_a_redirect_into_a_proxy_that_cannot_be_used_was_a_request_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1080")
    with (
        WireServer(says(redirect("https://127.0.0.1/x"))) as server,
        pytest.raises(DownloadRefusedError, match="proxy") as caught,
    ):
        get(server.url())
    assert caught.value.sent is True


def test_cookies_are_not_kept() -> None:
    with WireServer(says(redirect("/again", **{"Set-Cookie": "session=1"})), says(ANSWER)) as server:
        get(server.url())
    assert [header_of(asked, "Cookie") for asked in server.heads] == [None, None]


# --- proxies ---------------------------------------------------------------------------------------------


def proxy_url(port: int, user: str = "") -> str:
    return f"http://{user}127.0.0.1:{port}"


def tunnel(then: Script, answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> Script:
    """A proxy that lets a connection through, and is the other end of it itself."""

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(answer)
        peer.start_tls(server_tls())
        then(peer)

    return script


def test_plain_http_goes_through_the_proxy_with_its_whole_url(monkeypatch: pytest.MonkeyPatch) -> None:
    with WireServer(says(ANSWER)) as proxy:
        monkeypatch.setenv("http_proxy", proxy_url(proxy.port, f"me:{PROXY_PASSWORD}@"))
        assert get("http://192.168.255.1:81/archive.tar.gz") == (200, b"archive")
    token = base64.b64encode(f"me:{PROXY_PASSWORD}".encode()).decode()
    assert proxy.heads[0].startswith("GET http://192.168.255.1:81/archive.tar.gz HTTP/1.1\r\n")
    assert header_of(proxy.heads[0], "Host") == "192.168.255.1:81"
    assert header_of(proxy.heads[0], "Proxy-Authorization") == f"Basic {token}"


def test_https_goes_through_a_tunnel_and_the_proxy_learns_nothing_but_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with WireServer(tunnel(says(ANSWER))) as proxy:
        monkeypatch.setenv("https_proxy", proxy_url(proxy.port, f"me:{PROXY_PASSWORD}@"))
        assert get("https://localhost:8443/key/archive.tar.gz", AUTH) == (200, b"archive")
    to_proxy, to_delivery = proxy.heads
    assert to_proxy.startswith("CONNECT localhost:8443 HTTP/1.1\r\n")
    assert header_of(to_proxy, "Proxy-Authorization") is not None
    assert AUTH[1] not in to_proxy
    assert "key" not in to_proxy
    assert header_of(to_delivery, "Proxy-Authorization") is None
    assert header_of(to_delivery, AUTH[0]) == AUTH[1]


def test_a_tunnel_to_the_default_port_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with WireServer(tunnel(says(ANSWER))) as proxy:
        monkeypatch.setenv("https_proxy", proxy_url(proxy.port))
        get("https://localhost/archive.tar.gz")
    assert proxy.heads[0].startswith("CONNECT localhost:443 HTTP/1.1\r\n")
    assert header_of(proxy.heads[0], "Proxy-Authorization") is None


@pytest.mark.parametrize("exempt", ["127.0.0.1", "*", "example.com,127.0.0.1"])
def test_no_proxy_is_honoured(exempt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", proxy_url(unused_port()))
    monkeypatch.setenv("no_proxy", exempt)
    with WireServer(says(ANSWER)) as server:
        assert get(server.url()) == (200, b"archive")


def test_a_proxy_without_a_scheme_is_an_http_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with WireServer(says(ANSWER)) as proxy:
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{proxy.port}")
        assert get("http://192.168.255.1/archive.tar.gz") == (200, b"archive")


@pytest.mark.parametrize(
    "answer",
    [
        head("407 Proxy Authentication Required", {"Proxy-Authenticate": "Basic"}),
        head("502 Bad Gateway"),
        head("204 No Content"),
        head("200 OK") + b"and something said too early",
        b"HTTP/1.1 200",
        b"rubbish\r\n\r\n",
        b"",
    ],
)
@pytest.mark.parametrize("user", [f"me:{PROXY_PASSWORD}@", f"{PROXY_PASSWORD}@"])
def test_a_proxy_that_does_not_connect_uses_up_nothing_and_its_password_stays_secret(
    answer: bytes, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WireServer(says(answer)) as proxy:
        monkeypatch.setenv("https_proxy", proxy_url(proxy.port, user))
        with pytest.raises(DownloadInterruptedError) as caught:
            get("https://localhost/archive.tar.gz")
    assert caught.value.sent is False
    assert PROXY_PASSWORD not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(
    "proxy",
    [
        "socks5://me:{}@127.0.0.1:1080",
        "https://me:{}@127.0.0.1:3128",
        "http://me:{}@",
        "http://me:{}@[::1",
        "http://me:{}@xn--",
        "http://me:{}@127.0.0.1:99999",
    ],
)
def test_a_proxy_that_cannot_be_used_is_a_matter_of_configuration(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", proxy.format(PROXY_PASSWORD))
    with pytest.raises(ConfigurationError) as caught:
        get("https://localhost/archive.tar.gz")
    assert PROXY_PASSWORD not in str(caught.value)


def test_the_password_of_a_proxy_is_taken_out_of_anything_that_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with WireServer(says(ANSWER)) as proxy:
        monkeypatch.setenv("http_proxy", proxy_url(proxy.port, f"me:{PROXY_PASSWORD}@"))
        get("http://192.168.255.1/archive.tar.gz")
    token = header_of(proxy.heads[0], "Proxy-Authorization")
    assert token is not None
    shown = redaction.scrub(f"{PROXY_PASSWORD} {token}")
    assert PROXY_PASSWORD not in shown
    assert token.removeprefix("Basic ") not in shown


def test_a_proxy_out_of_reach_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", proxy_url(unused_port(), f"me:{PROXY_PASSWORD}@"))
    with pytest.raises(DownloadInterruptedError, match=r"through the proxy 127\.0\.0\.1") as caught:
        get("https://localhost/archive.tar.gz")
    assert (caught.value.sent, PROXY_PASSWORD in str(caught.value)) == (False, False)


# --- heads of answers ------------------------------------------------------------------------------------


def test_interim_answers_are_passed_over() -> None:
    interim = head("100 Continue") + head("103 Early Hints", {"Link": "</x>"}) + head("102 Processing")
    with WireServer(says(interim + ANSWER)) as server:
        assert get(server.url()) == (200, b"archive")


def test_an_offer_to_switch_protocols_is_refused() -> None:
    with (
        WireServer(says(head("101 Switching Protocols", {"Upgrade": "x"}) + ANSWER)) as server,
        pytest.raises(DownloadRefusedError),
    ):
        get(server.url())


def drip(peer: Peer, data: bytes) -> None:
    while True:
        peer.send(data)
        time.sleep(0.01)


def forever(data: bytes) -> Script:
    def script(peer: Peer) -> None:
        peer.head()
        drip(peer, data)

    return script


def silence_after(data: bytes) -> Script:
    return says(data, then="wait_for_hang_up")


def slowly(peer: Peer) -> None:
    peer.head()
    peer.send(b"HTTP/1.1 200 OK\r\nX-Header: ")
    drip(peer, b"x")


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(forever(head("100 Continue")), id="interim answers without end"),
        pytest.param(slowly, id="slow"),
        pytest.param(silence_after(b""), id="silence"),
        pytest.param(silence_after(b"HTTP/1.1 2"), id="half a line"),
    ],
)
def test_a_head_that_does_not_come_in_time_is_given_up(script: Callable[[Peer], None]) -> None:
    with WireServer(script) as server, pytest.raises(DownloadError) as caught:
        get(server.url(), head_seconds=0.3)
    assert caught.value.outcome in ("no answer", "invalid HTTP")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n" + b"X-Header: value\r\n" * 100_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX-Header: " + b"x" * 2_000_000 + b"\r\n\r\n",
        b"x" * 2_000_000,
        b"<html>sign in</html>\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 99 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nName: va\x00lue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nNa me: value\r\n\r\n",
        b"220 ftp ready\r\n\r\n",
    ],
    ids=range(10),
)
def test_what_is_no_head_of_an_answer_is_refused(answer: bytes) -> None:
    with WireServer(says(answer)) as server, pytest.raises(DownloadRefusedError) as caught:
        get(server.url())
    assert caught.value.outcome == "invalid HTTP"


@pytest.mark.parametrize("then", ["end", "cut", "reset"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("place", [0, 1, 8, 30])
def test_a_head_that_breaks_off_is_an_interruption_that_may_count_as_a_download(
    place: int, tls: bool, then: str
) -> None:
    with (
        WireServer(says(ANSWER[:place], then=then), tls=server_tls() if tls else None) as server,
        pytest.raises(DownloadInterruptedError) as caught,
    ):
        get(server.url())
    assert not isinstance(caught.value, DownloadRefusedError)
    assert (caught.value.outcome, caught.value.sent) == ("no answer", True)


def test_a_handshake_that_breaks_off_uses_up_nothing() -> None:
    with (
        WireServer(lambda peer: peer.send(b"HTTP/1.1 400 This is plain http\r\n\r\n")) as server,
        pytest.raises(DownloadInterruptedError) as caught,
    ):
        get(server.url().replace("http:", "https:"))
    assert (caught.value.outcome, caught.value.sent) == ("unreachable", False)


def test_a_repeated_header_hides_nothing() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Encoding: identity\r\nContent-Length: 0\r\n\r\n"
    with WireServer(says(answer)) as server, delivery_client().open(Source(server.url())) as response:
        assert response.headers["content-encoding"] == "gzip, identity"


def test_control_characters_in_a_header_do_not_reach_a_terminal() -> None:
    with (
        WireServer(says(head("200 OK", {"Content-Type": "text/\x9b2J", "Content-Length": "0"}))) as server,
        delivery_client().open(Source(server.url())) as response,
    ):
        assert response.headers["content-type"] == "text/\N{REPLACEMENT CHARACTER}2J"


def test_a_challenge_gets_no_credentials() -> None:
    challenges = {"WWW-Authenticate": 'Digest realm="MMS Public API", nonce="abc", qop="auth", algorithm=MD5'}
    with WireServer(says(with_length(b"who?", "401 Unauthorized", challenges))) as server:
        assert get(server.url()) == (401, b"who?")
    assert [header_of(asked, "Authorization") for asked in server.heads] == [None]


def test_nothing_secret_is_in_the_representation_of_a_source_or_an_answer() -> None:
    with WireServer(says(head("200 OK", {"ETag": '"secret-tag"'}))) as server:
        source = Source(server.url(), AUTH)
        with delivery_client().open(source) as response:
            shown = repr(source) + repr(response)
    assert "key-in-the-path" not in shown
    assert AUTH[1] not in shown
    assert "secret-tag" not in shown


def test_a_connection_is_closed_whatever_goes_wrong() -> None:
    """An unclosed socket is a warning, and so an error of the test run; this makes sure it would be noticed."""
    answers = [b"", b"rubbish\r\n\r\n", redirect("ftp://x/"), redirect("/again"), ANSWER]
    with WireServer(*(says(answer) for answer in answers)) as server:
        for _ in answers:
            try:
                get(server.url())
            except RestoreFetchError:
                continue
