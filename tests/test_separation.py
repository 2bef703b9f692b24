"""Who gets which secret: the key is for the API, the delivery's own header is for the delivery, and no one else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from restore_fetch.errors import ApiError, DeliveryUnusableError, DownloadRefusedError
from restore_fetch.redaction import Secret
from restore_fetch.service import LegacyRestoreService, open_service
from restore_fetch.settings import Connection
from restore_fetch.workflow import RestoreFetcher
from tests.delivery_support import (
    JOB_ID,
    NAME,
    FakeService,
    Notes,
    delivery_client,
    fetch,
    fetcher,
    options,
    sha1,
    some_bytes,
)
from tests.support import ManualClock
from tests.wire_support import KeyGate, WireServer, head, header_of, says, server_tls, with_length

ARCHIVE = some_bytes(3_000, seed=9)
PROJECT_ID = "5a2b46fe80eef53a4d0ca4b5"
PRIVATE_KEY = "private-key-0123456789"
HEADER, VALUE = "X-Restore-Key", "auth-value-0123456789"
URL_KEY = "key-in-the-path-0123456789"
CHALLENGES = [
    'Digest realm="MMS Public API", nonce="abc", qop="auth", algorithm=MD5',
    'Basic realm="MMS Public API"',
    'Digest realm="x", nonce="abc", algorithm=SHA-256, qop="auth"',
]


class Api:
    """The API behind its key, on a server of its own, with everything it was asked.

    Attributes:
        delivery: The delivery that its one job has.
        asked: The headers of each request, as one text.
    """

    def __init__(self, server: HTTPServer, clock: ManualClock) -> None:
        self.delivery: dict[str, Any] = {}
        self.downloaded = False
        self.asked: list[str] = []
        self._clock = clock
        self._gate = KeyGate(self._answer, private_key=PRIVATE_KEY)
        self._url = server.url_for("").rstrip("/")
        path = f"/api/atlas/v1.0/groups/{PROJECT_ID}/clusters/Cluster0/restoreJobs/{JOB_ID}"
        server.expect_request(path).respond_with_handler(self._hear)

    def _hear(self, request: Request) -> Response:
        self.asked.append(f"{request.url}\n{request.headers}")
        return self._gate(request)

    def _answer(self, request: Request) -> Response:
        job: dict[str, Any] = {"id": JOB_ID, "groupId": PROJECT_ID, "statusName": "FINISHED"}
        job["delivery"] = {"methodName": "HTTP", "statusName": "READY", **self.delivery}
        if self.downloaded:
            job["hashes"] = [{"typeName": "SHA1", "fileName": NAME, "hash": sha1(ARCHIVE)}]
        return Response(json.dumps(job), content_type="application/json")

    @contextmanager
    def service(self) -> Iterator[LegacyRestoreService]:
        connection = Connection(
            service="atlas",
            base_url=self._url,
            project_id=PROJECT_ID,
            cluster="Cluster0",
            public_key="public",
            private_key=Secret(PRIVATE_KEY),
        )
        with open_service(connection, clock=self._clock, user_agent="tests/1") as service:
            yield service


@pytest.fixture
def api(httpserver: HTTPServer, clock: ManualClock) -> Api:
    return Api(httpserver, clock)


def walk(api: Api, folder: Path, clock: ManualClock) -> Notes:
    """The whole walk with the real API client."""
    notes = Notes()
    with api.service() as service:
        RestoreFetcher(
            service,
            delivery_client(),
            options(folder),
            observer=notes,
            clock=clock,
            random=lambda: 0.5,
            tool="tests",
        ).fetch(JOB_ID)
    return notes


def with_header(server: WireServer) -> dict[str, str]:
    return {
        "url": server.url(f"/{URL_KEY}/{NAME}"),
        "urlV2": server.url(f"/v2/{NAME}"),
        "authHeader": HEADER,
        "authValue": VALUE,
    }


def test_each_side_gets_its_own_secret_and_not_the_others(api: Api, tmp_path: Path, clock: ManualClock) -> None:
    def deliver(peer: Any) -> None:
        says(with_length(ARCHIVE))(peer)
        api.downloaded = True

    with WireServer(deliver) as server:
        api.delivery = with_header(server)
        notes = walk(api, tmp_path, clock)
    assert (tmp_path / NAME).read_bytes() == ARCHIVE
    (asked,) = server.heads
    assert header_of(asked, HEADER) == VALUE
    assert header_of(asked, "Authorization") is None
    assert URL_KEY not in asked
    assert any("Authorization: Digest" in one for one in api.asked)
    assert not [one for one in api.asked if VALUE in one or URL_KEY in one]
    told = "\n".join(notes.messages) + "".join(
        file.read_text("latin-1") for file in tmp_path.iterdir() if file.name != NAME
    )
    for secret in (PRIVATE_KEY, VALUE, URL_KEY):
        for form in (secret, base64.b64encode(secret.encode()).decode()):
            assert form not in told


@pytest.mark.parametrize("challenge", CHALLENGES)
@pytest.mark.parametrize("status", ["401 Unauthorized", "407 Proxy Authentication Required"])
def test_a_delivery_that_asks_for_the_key_does_not_get_it(
    status: str, challenge: str, api: Api, tmp_path: Path, clock: ManualClock
) -> None:
    answer = head(status, {"WWW-Authenticate": challenge, "Proxy-Authenticate": challenge, "Content-Length": "0"})
    with WireServer(says(answer)) as server:
        api.delivery = with_header(server)
        with pytest.raises(DownloadRefusedError) as caught:
            walk(api, tmp_path, clock)
    assert len(server.heads) == 1
    assert header_of(server.heads[0], "Authorization") is None
    assert header_of(server.heads[0], "Proxy-Authorization") is None
    assert VALUE not in str(caught.value)


def test_a_delivery_that_redirects_to_the_api_gets_no_key_either(
    api: Api, httpserver: HTTPServer, tmp_path: Path, clock: ManualClock
) -> None:
    seen: list[str] = []

    def stored(request: Request) -> Response:
        seen.append(str(request.headers))
        return Response(ARCHIVE, content_type="application/gzip")

    httpserver.expect_request("/stored.tar.gz").respond_with_handler(stored)
    with WireServer(says(head("302 Found", {"Location": httpserver.url_for("/stored.tar.gz")}))) as server:
        api.delivery = with_header(server)
        api.downloaded = True
        walk(api, tmp_path, clock)
    assert "Authorization" not in seen[0]
    assert VALUE not in seen[0]


def test_an_api_that_redirects_elsewhere_is_not_followed_with_the_key(
    httpserver: HTTPServer, clock: ManualClock
) -> None:
    with WireServer(says(with_length(b"{}"))) as elsewhere:
        api = Api(httpserver, clock)
        api._gate = KeyGate(
            lambda _: Response(status=307, headers={"Location": elsewhere.url("/x")}), private_key=PRIVATE_KEY
        )
        with api.service() as service, pytest.raises(ApiError):
            service.job(JOB_ID)
    assert elsewhere.heads == []


def test_the_header_of_a_delivery_stays_with_its_origin_through_the_whole_walk(
    tmp_path: Path, clock: ManualClock
) -> None:
    with (
        WireServer(says(with_length(ARCHIVE)), tls=server_tls()) as stored,
        WireServer(says(head("302 Found", {"Location": stored.url()})), tls=server_tls()) as server,
    ):
        service = FakeService(
            server.url(), sha1(ARCHIVE), clock, urlV2=server.url(f"/v2/{NAME}"), authHeader=HEADER, authValue=VALUE
        )
        fetch(service, tmp_path, clock)
    assert header_of(server.heads[0], HEADER) == VALUE
    assert VALUE not in stored.heads[0]


def test_the_walk_never_leaves_https_for_http(tmp_path: Path, clock: ManualClock) -> None:
    with (
        WireServer(says(with_length(ARCHIVE))) as plain,
        WireServer(says(head("302 Found", {"Location": plain.url()})), tls=server_tls()) as server,
        pytest.raises(DownloadRefusedError, match="from https to http"),
    ):
        fetch(FakeService(server.url(), sha1(ARCHIVE), clock), tmp_path, clock, retries=3)
    assert (len(server.heads), plain.heads) == (1, [])


@pytest.mark.parametrize("host", ["example.com", "192.168.255.1"])
def test_an_archive_that_crosses_a_public_network_in_the_clear_is_warned_of(
    host: str, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Notes()
    with WireServer(says(with_length(ARCHIVE))) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        service = FakeService(f"http://{host}/{URL_KEY}/{NAME}", sha1(ARCHIVE), clock)
        client = delivery_client(allow_http=True)
        fetcher(service, options(tmp_path), clock, client=client, observer=notes).fetch(JOB_ID)
    assert ("plain-http" in notes.warnings) == (host == "example.com")


def test_it_is_refused_and_not_only_warned_of_where_it_was_not_allowed(tmp_path: Path, clock: ManualClock) -> None:
    notes = Notes()
    service = FakeService(f"http://example.com/{NAME}", None, clock)
    with pytest.raises(DownloadRefusedError, match="--allow-http"):
        fetcher(service, options(tmp_path, retries=3), clock, observer=notes).fetch(JOB_ID)
    assert notes.warnings == ["attempt-failed"]


NOT_FOR_THE_SERVICE_TO_SET = [
    "Host",
    "Content-Length",
    "Transfer-Encoding",
    "Authorization",
    "Proxy-Authorization",
    "Cookie",
    "Range",
    "If-Range",
    "Accept-Encoding",
    "Connection",
    "Expect",
    "TE",
    "Trailer",
    "Upgrade",
    "User-Agent",
]
NO_NAMES = ["X Key", "X-Key:", "X-Key\r\nHost", "X-Key\n", "\u00dc", "X-Key\x00", "(x)", "x" * 101]
NO_VALUES = [
    "a\r\nHost: elsewhere",
    "a\nb",
    "a\rb",
    "a\x00b",
    "\u00fc",
    f" {VALUE}",
    f"{VALUE} ",
    "a" * 9_000,
    "a\x7f",
]


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, VALUE) for name in NOT_FOR_THE_SERVICE_TO_SET]
    + [(name.lower(), VALUE) for name in NOT_FOR_THE_SERVICE_TO_SET]
    + [(name.upper(), VALUE) for name in NOT_FOR_THE_SERVICE_TO_SET]
    + [(name, VALUE) for name in NO_NAMES]
    + [(HEADER, value) for value in NO_VALUES],
)
def test_the_service_cannot_make_the_request_another_one(
    name: str, value: str, tmp_path: Path, clock: ManualClock
) -> None:
    with WireServer(says(with_length(ARCHIVE))) as server:
        service = FakeService(
            server.url(), sha1(ARCHIVE), clock, urlV2=server.url(f"/v2/{NAME}"), authHeader=name, authValue=value
        )
        with pytest.raises(DeliveryUnusableError) as caught:
            fetch(service, tmp_path, clock, retries=3)
    assert server.connections == 0
    assert value not in str(caught.value)


def test_a_header_that_is_only_unusual_is_sent_as_it_is(tmp_path: Path, clock: ManualClock) -> None:
    with WireServer(says(with_length(ARCHIVE))) as server:
        value = 'Bearer a.b-c_d~e+f/g== \t"quoted" ;,'
        service = FakeService(
            server.url(), sha1(ARCHIVE), clock, urlV2=server.url(f"/v2/{NAME}"), authHeader="!#$x", authValue=value
        )
        fetch(service, tmp_path, clock)
    assert header_of(server.heads[0], "!#$x") == value
