"""Service accounts: how a token is got, used, renewed and kept to itself."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from restore_fetch import redaction
from restore_fetch.errors import ApiError, AuthenticationError, ConfigurationError, ServiceUnavailableError
from restore_fetch.redaction import Secret
from restore_fetch.service import open_service
from restore_fetch.service.auth import DigestKey
from restore_fetch.service.cloud import CloudBackupService
from restore_fetch.service.oauth import TOKEN_PATH, ServiceAccount
from restore_fetch.settings import Connection
from tests.services_support import CLOUD, CLUSTER, JOB, PROJECT, asked, cloud_job, cloud_service
from tests.support import ManualClock
from tests.wire_support import WireServer, says

ID = "mdb_sa_id_6a7948342c88faeba59eb866"
SECRET = "mdb_sa_sk_0123456789-abcdef_ABCDEF"


class Tokens:
    """A token endpoint, and a job that is shown to whoever has the token of the moment.

    Attributes:
        number: How many tokens were given.
        lives: How long each is good, by what it says.
        good: Those that are.
        useless: Whether none of them ever is.
    """

    def __init__(self, server: HTTPServer) -> None:
        self.number = 0
        self.lives: Any = 3600
        self.good: set[str] = set()
        self.useless = False
        server.expect_request(TOKEN_PATH, method="POST").respond_with_handler(self.give)
        server.expect_request(f"{CLOUD}/restoreJobs/{JOB}").respond_with_handler(self.show)

    def give(self, _: Request) -> Response:
        self.number += 1
        self.good = {f"token-{self.number}"}
        body = {"access_token": f"token-{self.number}", "expires_in": self.lives, "token_type": "Bearer"}
        return Response(json.dumps(body), content_type="application/json")

    def show(self, request: Request) -> Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token in self.good and not self.useless:
            return Response(json.dumps(cloud_job()), content_type="application/json")
        body = {"error": 401, "errorCode": "INVALID_TOKEN", "detail": "No longer."}
        return Response(json.dumps(body), status=401, content_type="application/json")


@pytest.fixture
def tokens(httpserver: HTTPServer) -> Tokens:
    return Tokens(httpserver)


def account(server: HTTPServer, clock: ManualClock) -> ServiceAccount:
    return ServiceAccount(ID, Secret(SECRET), origin=server.url_for("").rstrip("/"), clock=clock)


@pytest.fixture
def service(httpserver: HTTPServer, clock: ManualClock) -> CloudBackupService:
    return cloud_service(httpserver, clock, account(httpserver, clock))


def refuses(server: HTTPServer, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    server.expect_request(TOKEN_PATH).respond_with_data(text, status=status, headers=headers)


# getting and using a token


def test_the_token_is_asked_for_as_documented(
    httpserver: HTTPServer, tokens: Tokens, service: CloudBackupService, clock: ManualClock
):
    service.job(JOB)

    request = httpserver.log[0][0]
    assert (request.method, request.path, request.query_string) == ("POST", TOKEN_PATH, b"")
    assert request.headers["Authorization"] == "Basic " + base64.b64encode(f"{ID}:{SECRET}".encode()).decode()
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert request.get_data() == b"grant_type=client_credentials"
    assert request.headers["Accept-Encoding"] == "identity"


def test_one_token_serves_many_requests(httpserver: HTTPServer, tokens: Tokens, service: CloudBackupService):
    for _ in range(3):
        service.job(JOB)

    assert tokens.number == 1
    assert [line.split()[0] for line in asked(httpserver)] == ["POST", "GET", "GET", "GET"]


@pytest.mark.parametrize(
    ("lives", "before", "after"), [(3600, 3539, 3541), (8, 5.9, 6.1), (999_999, 86_339, 86_341)]
)
def test_a_token_is_renewed_before_it_ends(
    tokens: Tokens,
    service: CloudBackupService,
    clock: ManualClock,
    lives: int,
    before: float,
    after: float,
):
    tokens.lives = lives
    service.job(JOB)

    clock.advance(before)
    service.job(JOB)
    assert tokens.number == 1

    clock.advance(after - before)
    service.job(JOB)
    assert tokens.number == 2


@pytest.mark.parametrize("lives", [None, "soon", True, 0, -5, float("nan")])
def test_a_token_that_does_not_tell_its_life_is_taken_for_an_hours(
    tokens: Tokens, service: CloudBackupService, clock: ManualClock, lives: Any
):
    tokens.lives = lives
    service.job(JOB)
    clock.advance(3500)
    service.job(JOB)
    assert tokens.number == 1

    clock.advance(100)
    service.job(JOB)
    assert tokens.number == 2


def test_a_token_that_ended_before_its_time_is_renewed_unnoticed(tokens: Tokens, service: CloudBackupService):
    service.job(JOB)
    tokens.good = set()

    service.job(JOB)

    assert tokens.number == 2


def test_a_fresh_token_that_is_refused_is_renewed_once_and_then_the_refusal_stands(
    httpserver: HTTPServer, tokens: Tokens, service: CloudBackupService
):
    tokens.useless = True

    with pytest.raises(AuthenticationError, match="INVALID_TOKEN"):
        service.job(JOB)

    assert [line.split()[0] for line in asked(httpserver)] == ["POST", "GET", "POST", "GET"]


def test_threads_share_one_token(tokens: Tokens, service: CloudBackupService):
    failures: list[BaseException] = []

    def look() -> None:
        try:
            service.job(JOB)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=look) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert tokens.number == 1


def test_threads_whose_token_is_refused_at_once_can_all_go_on(tokens: Tokens, service: CloudBackupService):
    service.job(JOB)
    tokens.good = set()
    seen: list[str | None] = []
    threads = [threading.Thread(target=lambda: seen.append(service.job(JOB).id)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == [JOB] * 4


# refusals


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, {"error": "invalid_client", "error_description": "Wrong secret."}),
        (400, {"error": "invalid_client"}),
        (401, {"error": 401, "errorCode": "INVALID_CLIENT", "detail": "Wrong secret."}),
        (401, "<html>Unauthorized</html>"),
        (403, {"error": 403, "errorCode": "IP_ADDRESS_NOT_ON_ACCESS_LIST", "detail": "Not from there."}),
    ],
)
def test_an_account_that_is_refused_is_an_authentication_error_after_one_try(
    httpserver: HTTPServer, service: CloudBackupService, status: int, body: Any
):
    refuses(httpserver, status, body)

    with pytest.raises(AuthenticationError, match=str(status)) as caught:
        service.job(JOB)

    assert len(httpserver.log) == 1
    assert "account" in str(caught.value)
    if isinstance(body, dict):
        words = body.get("errorCode") or body["error"]
        assert str(words) in str(caught.value)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_token_that_cannot_be_had_now_is_worth_another_try(
    httpserver: HTTPServer, service: CloudBackupService, status: int
):
    refuses(httpserver, status, headers={"Retry-After": "7"})

    with pytest.raises(ServiceUnavailableError) as caught:
        service.job(JOB)

    assert caught.value.retry_after_seconds == 7


@pytest.mark.parametrize("status", [404, 302, 204])
def test_a_place_without_tokens_is_no_service_for_accounts(
    httpserver: HTTPServer, service: CloudBackupService, status: int
):
    refuses(httpserver, status, "", headers={"Location": "http://elsewhere.example.net/"})

    with pytest.raises(ApiError, match="gives no tokens"):
        service.job(JOB)

    assert len(httpserver.log) == 1


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html></html>",
        "[]",
        "{}",
        '{"access_token": null}',
        '{"access_token": ""}',
        '{"access_token": "two words"}',
        '{"access_token": "line\\r\\nX-Injected: yes"}',
        '{"access_token": 7}',
        '{"access_token": "token", "token_type": "mac"}',
        '{"access_token": "token", "access_token": "other"}',
        '{"access_token": "' + "x" * 20_000 + '"}',
        "[" * 100_000,
        '{"access_token": "token", "expires_in": ' + "9" * 5000 + "}",
    ],
)
def test_nonsense_in_place_of_a_token_is_worth_another_try(
    httpserver: HTTPServer, service: CloudBackupService, body: str
):
    refuses(httpserver, 200, body)

    with pytest.raises(ServiceUnavailableError):
        service.job(JOB)


def test_a_token_endpoint_that_hangs_up_is_worth_another_try(clock: ManualClock):
    with WireServer(says(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", then="cut")) as server:
        origin = server.url("").rstrip("/")
        connection = Connection("atlas-cloud", origin, PROJECT, CLUSTER, client_id=ID, client_secret=Secret(SECRET))
        service = open_service(connection, clock=clock, user_agent="test/1")
        with service, pytest.raises(ServiceUnavailableError, match="cannot be reached"):
            service.job(JOB)


@pytest.mark.parametrize("account", [False, True])
def test_a_refusal_that_never_ends_is_not_read_to_its_end(clock: ManualClock, account: bool):
    class Trickle(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                clock.advance(10)
                yield b"x"

    challenge = {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'}
    secret = Secret(SECRET)
    origin = "https://cloud.mongodb.com"
    auth = ServiceAccount(ID, secret, origin=origin, clock=clock) if account else DigestKey(ID, secret, clock=clock)
    began = clock.monotonic()

    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(401, headers=challenge, stream=Trickle())

    with httpx.Client(auth=auth, transport=httpx.MockTransport(refuse)) as client:
        try:
            with client.stream("GET", origin):
                pass
        except AuthenticationError:
            assert account

    assert clock.monotonic() - began < 100


# secrets


def test_secret_and_token_are_kept_out_of_all_output(tokens: Tokens, service: CloudBackupService):
    service.job(JOB)

    pair = base64.b64encode(f"{ID}:{SECRET}".encode()).decode()
    shown = redaction.scrub(f"secret {SECRET}, token token-1, header Basic {pair}")

    assert shown == "secret ***, token ***, header Basic ***"


def test_an_error_does_not_show_what_the_service_repeats_of_the_secret(
    httpserver: HTTPServer, service: CloudBackupService
):
    refuses(httpserver, 401, {"error": "invalid_client", "error_description": f"{SECRET} is wrong"})

    with pytest.raises(AuthenticationError) as caught:
        service.job(JOB)

    assert SECRET not in redaction.scrub(str(caught.value))


def test_another_origin_never_gets_the_token(clock: ManualClock):
    sent: list[httpx.Request] = []

    def remember(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={"access_token": "token"})

    auth = ServiceAccount(ID, Secret(SECRET), origin="https://cloud.mongodb.com", clock=clock)
    with httpx.Client(auth=auth, transport=httpx.MockTransport(remember)) as client:
        for url in (
            "https://elsewhere.example.net/",
            "http://cloud.mongodb.com/",
            "https://cloud.mongodb.com:8443/",
        ):
            with pytest.raises(ApiError, match="another origin"):
                client.get(url)

    assert sent == []


@pytest.mark.parametrize("origin", ["http://10.1.2.3:8080", "http://cloud.mongodb.com"])
def test_a_secret_never_goes_over_plain_http_beyond_this_machine(clock: ManualClock, origin: str):
    for service in ("atlas-v2", "atlas-cloud"):
        open_to_all = Connection(
            service, origin, PROJECT, CLUSTER, client_id=ID, client_secret=Secret(SECRET), allow_http=True
        )
        with pytest.raises(ConfigurationError, match=r"not sent to .* over plain http"):
            open_service(open_to_all, clock=clock, user_agent="test/1")


def test_the_request_for_a_token_has_the_clients_timeouts(clock: ManualClock):
    seen: list[Any] = []

    def note(request: httpx.Request) -> httpx.Response:
        seen.append(request.extensions["timeout"])
        return httpx.Response(200, json={"access_token": "token"})

    auth = ServiceAccount(ID, Secret(SECRET), origin="https://cloud.mongodb.com", clock=clock)
    with httpx.Client(auth=auth, transport=httpx.MockTransport(note), timeout=3) as client:
        client.get("https://cloud.mongodb.com/")

    assert seen[0] == seen[1]
    assert seen[0]["read"] == 3


# opening a service


def connection(**credentials: Any) -> Connection:
    return Connection("atlas-v2", "https://cloud.mongodb.com", PROJECT, CLUSTER, **credentials)


def test_a_connection_without_credentials_opens_nothing(clock: ManualClock):
    incomplete: list[dict[str, Any]] = [{}, {"public_key": "key"}, {"client_id": ID}]
    for credentials in incomplete:
        with pytest.raises(ConfigurationError, match="neither an API key nor a service account"):
            open_service(connection(**credentials), clock=clock, user_agent="test/1")
