"""The simulated delivery: framings, ranges, keys, redirects and downloads counted, as a client sees them."""

from __future__ import annotations

import hashlib
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from restore_fetch.sandbox import SCENARIOS, Sandbox

READY = replace(SCENARIOS["normal"], polls_until_finished=0)
SIZE = 64 * 1024
NOBODY = "0123456789abcdef01234567"

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=SIZE) as sandbox:
        yield sandbox
        assert sandbox.errors == []


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=10) as http:
        yield http


def look(sandbox: Sandbox, job_id: str) -> dict[str, Any]:
    path = f"/api/atlas/v1.0/groups/{sandbox.project_id}/clusters/{sandbox.cluster}/restoreJobs/{job_id}"
    auth = httpx.DigestAuth(sandbox.public_key, sandbox.private_key)
    verify: Any = ssl.create_default_context(cafile=sandbox.ca_file) if sandbox.ca_file else False
    return dict(httpx.get(sandbox.base_url + path, auth=auth, verify=verify, trust_env=False).json())


def offer(sandbox: Sandbox, **behaviour: Any) -> tuple[str, str]:
    """A job that is ready and behaves so, and its download URL."""
    job_id = sandbox.add_job(replace(READY, **behaviour))
    return job_id, str(look(sandbox, job_id)["delivery"]["url"])


def offer_v2(sandbox: Sandbox, **behaviour: Any) -> tuple[str, str, dict[str, str]]:
    """The same for a job with `urlV2`, with the header that goes with it."""
    job_id = sandbox.add_job(replace(READY, **({"key_place": "header"} | behaviour)))
    delivery = look(sandbox, job_id)["delivery"]
    return job_id, delivery["urlV2"], {delivery["authHeader"]: delivery["authValue"]}


def content(sandbox: Sandbox, job_id: str) -> bytes:
    return sandbox.archive(job_id).path.read_bytes()


def on_the_wire(url: str, *headers: str) -> tuple[bytes, bytes]:
    """Head and body of the answer to a GET, as they came, up to the end of the connection."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as connection:
        lines = [f"GET {address.path} HTTP/1.1", f"Host: {address.netloc}", "Connection: close", *headers, "", ""]
        connection.sendall("\r\n".join(lines).encode())
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
        return head.lower(), body


def arrived(url: str, *, timeout: float = 10) -> tuple[bytes, type[Exception] | None]:
    """The bytes that a client got before its download failed, and how it failed."""
    got = bytearray()
    try:
        with httpx.stream("GET", url, timeout=timeout, trust_env=False, verify=False) as answer:
            for piece in answer.iter_raw():
                got += piece
    except httpx.HTTPError as error:
        return bytes(got), type(error)
    return bytes(got), None


# Framings


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("bytes_per_second", [None, 1 << 20], ids=["fast", "paced"])
def test_every_framing_delivers_exactly_the_archive(
    sandbox: Sandbox, http: httpx.Client, framing: str, bytes_per_second: int | None
):
    job_id, url = offer(sandbox, framing=framing, bytes_per_second=bytes_per_second)

    answer = http.get(url)

    archive = sandbox.archive(job_id)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/gzip"
    assert answer.content == archive.path.read_bytes()
    assert hashlib.sha1(answer.content).hexdigest() == archive.sha1
    assert look(sandbox, job_id)["hashes"][0]["hash"] == archive.sha1


def test_a_length_is_told(sandbox: Sandbox):
    job_id, url = offer(sandbox)

    head, body = on_the_wire(url)

    assert b"content-length: %d" % len(body) in head
    assert b"transfer-encoding" not in head
    assert body == content(sandbox, job_id)


def test_chunks_are_of_the_size_asked_for(sandbox: Sandbox):
    job_id, url = offer(sandbox, framing="chunked", chunk_bytes=10_000)

    head, body = on_the_wire(url)

    assert b"transfer-encoding: chunked" in head
    assert b"content-length" not in head
    sizes, data = [], bytearray()
    while True:
        line, _, body = body.partition(b"\r\n")
        size = int(line, 16)
        sizes.append(size)
        data += body[:size]
        assert body[size : size + 2] == b"\r\n"
        body = body[size + 2 :]
        if size == 0:
            break
    assert body == b"", "nothing follows the last chunk"
    assert set(sizes[:-2]) == {10_000}
    assert data == content(sandbox, job_id)


def test_a_delivery_without_framing_ends_with_the_connection(sandbox: Sandbox):
    job_id, url = offer(sandbox, framing="close")

    head, body = on_the_wire(url)

    assert b"content-length" not in head
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body == content(sandbox, job_id)


def test_a_streamed_delivery_promises_nothing(sandbox: Sandbox):
    _, url = offer(sandbox, framing="chunked", ranges="none", etag=False)

    head, _ = on_the_wire(url)

    assert not re.search(rb"\r\n(content-length|accept-ranges|etag|last-modified):", head)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_the_connection_can_be_used_again_after_a_download(sandbox: Sandbox, framing: str):
    job_id, url = offer(sandbox, framing=framing)
    with httpx.Client(trust_env=False) as client:
        first = client.get(url)
        second = client.get(url)
        streams = {id(answer.extensions["network_stream"]) for answer in (first, second)}

    assert first.content == second.content == content(sandbox, job_id)
    assert len(streams) == 1


def test_a_wrongly_labelled_encoding_covers_the_untouched_archive(sandbox: Sandbox, http: httpx.Client):
    job_id, url = offer(sandbox, content_encoding="gzip")

    with http.stream("GET", url) as answer:
        raw = b"".join(answer.iter_raw())

    assert answer.headers["Content-Encoding"] == "gzip"
    assert raw == content(sandbox, job_id)


def test_a_page_of_html_is_no_archive_and_publishes_no_hash(sandbox: Sandbox, http: httpx.Client):
    job_id, url = offer(sandbox, html_page=True)

    answer = http.get(url)

    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    assert answer.text.startswith("<!DOCTYPE html>")
    assert "hashes" not in look(sandbox, job_id)


# Ranges


def test_a_range_is_honoured(sandbox: Sandbox, http: httpx.Client):
    job_id, url = offer(sandbox)
    whole = content(sandbox, job_id)

    middle = http.get(url, headers={"Range": "bytes=100-199"})
    rest = http.get(url, headers={"Range": f"bytes={len(whole) - 5}-"})
    beyond = http.get(url, headers={"Range": "bytes=10-99999999"})

    assert (middle.status_code, middle.content) == (206, whole[100:200])
    assert middle.headers["Content-Range"] == f"bytes 100-199/{len(whole)}"
    assert (rest.status_code, rest.content) == (206, whole[-5:])
    assert beyond.content == whole[10:]
    assert beyond.headers["Content-Range"] == f"bytes 10-{len(whole) - 1}/{len(whole)}"


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_range_comes_in_every_framing(sandbox: Sandbox, http: httpx.Client, framing: str):
    job_id, url = offer(sandbox, framing=framing)

    answer = http.get(url, headers={"Range": "bytes=1000-"})

    assert (answer.status_code, answer.content) == (206, content(sandbox, job_id)[1000:])


@pytest.mark.parametrize("validator", ["ETag", "Last-Modified"])
def test_a_range_of_the_same_version_is_honoured(sandbox: Sandbox, http: httpx.Client, validator: str):
    job_id, url = offer(sandbox)
    version = http.get(url, headers={"Range": "bytes=0-0"}).headers[validator]

    answer = http.get(url, headers={"Range": "bytes=1000-", "If-Range": version})

    assert (answer.status_code, answer.content) == (206, content(sandbox, job_id)[1000:])


@pytest.mark.parametrize("version", ['"another"', "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_range_of_another_version_is_answered_with_the_whole(sandbox: Sandbox, http: httpx.Client, version: str):
    job_id, url = offer(sandbox)

    answer = http.get(url, headers={"Range": "bytes=1000-", "If-Range": version})

    assert (answer.status_code, answer.content) == (200, content(sandbox, job_id))
    assert "Content-Range" not in answer.headers


def test_a_changed_archive_has_another_etag_so_that_its_rest_is_never_mixed_in(
    sandbox: Sandbox, http: httpx.Client
):
    job_id, url = offer(sandbox, changes=True)
    first = http.get(url)

    second = http.get(url, headers={"Range": "bytes=1000-", "If-Range": first.headers["ETag"]})

    assert second.status_code == 200
    assert second.headers["ETag"] != first.headers["ETag"]
    assert second.content == content(sandbox, job_id) != first.content


def test_the_etag_is_not_the_hash(sandbox: Sandbox, http: httpx.Client):
    job_id, url = offer(sandbox)

    assert sandbox.archive(job_id).sha1 not in http.get(url).headers["ETag"]


def test_a_range_after_the_end_cannot_be_satisfied(sandbox: Sandbox, http: httpx.Client):
    job_id, url = offer(sandbox)
    size = sandbox.archive(job_id).size

    answer = http.get(url, headers={"Range": f"bytes={size}-"})

    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{size}"


@pytest.mark.parametrize(
    "value", ["bytes=-500", "bytes=0-1,5-6", "bytes=9-5", "bytes=a-b", "lines=1-2", "bytes=" + "9" * 5000 + "-"]
)
def test_ranges_that_need_not_be_honoured_are_ignored(sandbox: Sandbox, http: httpx.Client, value: str):
    job_id, url = offer(sandbox)

    answer = http.get(url, headers={"Range": value})

    assert (answer.status_code, answer.content) == (200, content(sandbox, job_id))


@pytest.mark.parametrize(("ranges", "claimed"), [("ignore", "bytes"), ("none", None)])
def test_a_delivery_without_ranges_starts_over(
    sandbox: Sandbox, http: httpx.Client, ranges: str, claimed: str | None
):
    job_id, url = offer(sandbox, ranges=ranges)

    answer = http.get(url, headers={"Range": "bytes=1000-"})

    assert (answer.status_code, answer.content) == (200, content(sandbox, job_id))
    assert answer.headers.get("Accept-Ranges") == claimed


def test_without_an_etag_a_bare_range_works_and_a_conditional_one_does_not(sandbox: Sandbox, http: httpx.Client):
    _, url = offer(sandbox, etag=False)

    bare = http.get(url, headers={"Range": "bytes=1000-"})
    conditional = http.get(url, headers={"Range": "bytes=1000-", "If-Range": '"any"'})

    assert (bare.status_code, conditional.status_code) == (206, 200)
    assert not {"ETag", "Last-Modified"} & set(bare.headers)


# Keys


@pytest.mark.parametrize("key", ["wrong", "%FF%FE", "x" * 200])
def test_a_wrong_key_in_the_path_is_forbidden(sandbox: Sandbox, http: httpx.Client, key: str):
    _, url = offer(sandbox)
    folder, _, name = url.rpartition("/")

    assert http.get(f"{folder.rpartition('/')[0]}/{key}/{name}").status_code == 403


def test_a_missing_key_in_the_path_is_unauthorized(sandbox: Sandbox, http: httpx.Client):
    _, url = offer(sandbox)
    folder, _, name = url.rpartition("/")

    assert http.get(f"{folder.rpartition('/')[0]}/{name}").status_code == 401


def test_the_key_of_another_job_is_forbidden(sandbox: Sandbox, http: httpx.Client):
    (job_id, url), (other_id, _) = offer(sandbox), offer(sandbox)

    assert http.get(url.replace(job_id, other_id)).status_code == 403


def test_another_file_name_or_job_is_not_found(sandbox: Sandbox, http: httpx.Client):
    job_id, url = offer(sandbox)

    assert http.get(url.replace(".tar.gz", ".tar")).status_code == 404
    assert http.get(url.replace(job_id, NOBODY)).status_code == 404
    assert http.get(sandbox.delivery_url).status_code == 404


def test_url_v2_needs_its_header(sandbox: Sandbox, http: httpx.Client):
    job_id, url, header = offer_v2(sandbox)

    assert http.get(url).status_code == 401
    assert http.get(url, headers=dict.fromkeys(header, "wrong")).status_code == 403
    assert http.get(url, headers=header).content == content(sandbox, job_id)


def test_a_job_with_url_v2_only_has_no_url_and_no_key_in_the_path(sandbox: Sandbox):
    job_id, url, header = offer_v2(sandbox)

    assert "url" not in look(sandbox, job_id)["delivery"]
    assert not any(secret in url for secret in sandbox.secrets())
    assert set(header.values()) <= set(sandbox.secrets())


def test_either_url_works_where_both_are_offered(sandbox: Sandbox, http: httpx.Client):
    job_id, url_v2, header = offer_v2(sandbox, key_place="both")
    url = look(sandbox, job_id)["delivery"]["url"]

    assert http.get(url).content == http.get(url_v2, headers=header).content == content(sandbox, job_id)
    assert http.get(url_v2).status_code == 401


def test_the_credentials_of_the_api_mean_nothing_to_the_delivery(sandbox: Sandbox, http: httpx.Client):
    _, url, _ = offer_v2(sandbox)

    answer = http.get(url, auth=httpx.DigestAuth(sandbox.public_key, sandbox.private_key))

    assert answer.status_code == 401
    assert "WWW-Authenticate" not in answer.headers


def test_a_refused_key_uses_no_download_up(sandbox: Sandbox, http: httpx.Client):
    job_id, url, header = offer_v2(sandbox, max_downloads=1)

    assert http.get(url).status_code == 401
    assert http.get(url, headers=header).content == content(sandbox, job_id)


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE"])
def test_nothing_but_get_is_allowed_and_uses_no_download_up(sandbox: Sandbox, http: httpx.Client, method: str):
    job_id, url = offer(sandbox, max_downloads=1)

    answer = http.request(method, url)

    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")
    assert http.get(url).content == content(sandbox, job_id)


# Redirects


def test_a_redirect_within_the_origin_leads_to_the_archive(sandbox: Sandbox, http: httpx.Client):
    job_id, url = offer(sandbox, redirect="same-origin", max_downloads=1)

    first = http.get(url)

    assert first.status_code == 302
    assert urlsplit(first.headers["Location"]).netloc == urlsplit(url).netloc
    assert http.get(first.headers["Location"]).content == content(sandbox, job_id), "a redirect uses nothing up"


def test_a_redirect_to_another_origin_needs_no_header_there(sandbox: Sandbox, http: httpx.Client):
    job_id, url, header = offer_v2(sandbox, redirect="other-origin")

    first = http.get(url, headers=header)

    assert first.status_code == 302
    assert urlsplit(first.headers["Location"]).hostname != urlsplit(url).hostname
    assert http.get(first.headers["Location"]).content == content(sandbox, job_id)
    assert http.get(url).status_code == 401, "the redirect itself needs the header"


# Downloads counted, and expiry


def test_downloads_are_counted_and_then_refused(sandbox: Sandbox, http: httpx.Client):
    job_id, url = offer(sandbox, max_downloads=2)

    assert look(sandbox, job_id)["delivery"]["maxDownloads"] == 2
    assert [http.get(url).status_code for _ in range(3)] == [200, 200, 403]
    assert look(sandbox, job_id)["delivery"]["statusName"] == "MAX_DOWNLOADS_EXCEEDED"
    assert sandbox.delivery_gets(job_id) == 3


def test_two_clients_cannot_share_the_last_download(sandbox: Sandbox):
    _, url = offer(sandbox, max_downloads=1, bytes_per_second=256 * 1024)

    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda _: httpx.get(url, trust_env=False, verify=False), range(4))

    assert sorted(answer.status_code for answer in answers) == [200, 403, 403, 403]


@pytest.mark.parametrize(("counts", "second"), [(True, 403), (False, 200)])
def test_a_broken_download_counts_or_not(sandbox: Sandbox, http: httpx.Client, counts: bool, second: int):
    _, url = offer(sandbox, max_downloads=1, cut_at=0.5, broken_downloads_count=counts)

    assert arrived(url)[1] is httpx.RemoteProtocolError
    assert http.get(url).status_code == second


def test_an_expired_url_is_gone(sandbox: Sandbox, http: httpx.Client):
    job_id, url = offer(sandbox)
    sandbox.expire(job_id)

    assert http.get(url).status_code == 410
    assert look(sandbox, job_id)["delivery"]["statusName"] == "EXPIRED"


def test_an_expiry_may_be_told_by_its_date_alone(sandbox: Sandbox, http: httpx.Client):
    _, url = offer(sandbox, expires_after_seconds=-3600, expiry_shown=False)

    assert http.get(url).status_code == 410


def test_a_url_expires_by_the_clock_of_the_service():
    with Sandbox(size_bytes=SIZE) as sandbox:
        _, url = offer(sandbox)
        sandbox.set_clock_offset(25 * 3600)

        assert httpx.get(url, trust_env=False).status_code == 410
        sandbox.set_clock_offset(0)
        assert httpx.get(url, trust_env=False).status_code == 200


def test_the_hash_outlives_the_url(sandbox: Sandbox, http: httpx.Client):
    job_id, url = offer(sandbox)
    http.get(url)
    sandbox.expire(job_id)

    assert look(sandbox, job_id)["hashes"][0]["hash"] == sandbox.archive(job_id).sha1


@pytest.mark.parametrize(
    "waits", [{"polls_until_finished": None}, {"delivery_polls": 9}, {"final_status": "BROKEN"}]
)
def test_a_job_that_is_not_ready_delivers_nothing_even_to_who_knows_the_url(
    sandbox: Sandbox, http: httpx.Client, waits: dict[str, Any]
):
    _, pattern = offer(sandbox)
    job_id = sandbox.add_job(replace(READY, **waits))
    look(sandbox, job_id)
    keys = sandbox.secrets()[-2:]  # those of the newest job
    folder = pattern.split("/pull/")[0]

    statuses = {http.get(f"{folder}/pull/{job_id}/{key}/{sandbox.file_name(job_id)}").status_code for key in keys}

    assert statuses == {404, 403}
    assert "url" not in look(sandbox, job_id)["delivery"]


def test_a_refusal_may_pass(sandbox: Sandbox, http: httpx.Client):
    job_id, url = offer(sandbox, refusal_status=503, refusal_attempts=1)

    first = http.get(url)

    assert (first.status_code, first.headers["Retry-After"]) == (503, "1")
    assert http.get(url).content == content(sandbox, job_id)


# Downloads that break off


@pytest.mark.parametrize(
    ("framing", "style", "failure"),
    [
        ("length", "fin", httpx.RemoteProtocolError),
        ("chunked", "fin", httpx.RemoteProtocolError),
        ("close", "fin", None),
        ("length", "rst", httpx.ReadError),
        ("chunked", "rst", httpx.ReadError),
        ("close", "rst", httpx.ReadError),
        ("length", "stall", httpx.ReadTimeout),
        ("chunked", "stall", httpx.ReadTimeout),
        ("close", "stall", httpx.ReadTimeout),
    ],
)
def test_a_download_breaks_off_in_the_middle_and_the_next_is_whole(
    sandbox: Sandbox, http: httpx.Client, framing: str, style: str, failure: type[Exception] | None
):
    job_id, url = offer(sandbox, framing=framing, cut_at=0.5, cut_style=style)
    whole = content(sandbox, job_id)

    got, how = arrived(url, timeout=0.3 if style == "stall" else 10)

    assert how is failure
    # What a reset overtakes is lost, and a client need not be given part of a chunk.
    assert len(got) == len(whole) // 2 or style == "rst" or framing == "chunked"
    assert len(got) <= len(whole) // 2
    assert whole.startswith(got)
    assert "hashes" not in look(sandbox, job_id), "half a download is none"
    assert http.get(url).content == whole
    assert "hashes" in look(sandbox, job_id)


def test_a_cut_inside_a_chunk_leaves_it_unfinished(sandbox: Sandbox):
    job_id, url = offer(sandbox, framing="chunked", chunk_bytes=10_000, cut_at=0.5)

    _, body = on_the_wire(url)

    assert not body.endswith(b"0\r\n\r\n")
    last = body.rpartition(b"\r\n2710\r\n")[2]
    assert 0 < len(last) < 10_000
    assert content(sandbox, job_id)[: sandbox.archive(job_id).size // 2].endswith(last)


@pytest.mark.parametrize("cut_at", [0.0, 0.999, 1.0])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_cut_may_be_anywhere(sandbox: Sandbox, framing: str, cut_at: float):
    job_id, url = offer(sandbox, framing=framing, cut_at=cut_at)

    got, _ = arrived(url)

    assert len(got) <= int(sandbox.archive(job_id).size * cut_at)
    assert ("hashes" in look(sandbox, job_id)) is (cut_at == 1.0)


def test_every_download_may_break_off(sandbox: Sandbox):
    _, url = offer(sandbox, cut_at=0.25, cut_attempts=None)

    assert [arrived(url)[1] for _ in range(3)] == [httpx.RemoteProtocolError] * 3


def test_a_cut_download_is_resumed_to_the_whole(sandbox: Sandbox, http: httpx.Client):
    job_id, url = offer(sandbox, cut_at=0.5)
    got, _ = arrived(url)

    rest = http.get(url, headers={"Range": f"bytes={len(got)}-"})

    assert got + rest.content == content(sandbox, job_id)
    assert look(sandbox, job_id)["hashes"][0]["hash"] == sandbox.archive(job_id).sha1


# When a file counts as downloaded


def test_ranges_that_together_cover_the_file_publish_its_hash(sandbox: Sandbox, http: httpx.Client):
    job_id, url = offer(sandbox)
    third = sandbox.archive(job_id).size // 3
    ranges = [f"bytes={2 * third}-", f"bytes=0-{third}", f"bytes={third - 10}-{2 * third - 1}"]

    published = []
    for value in ranges:
        published.append("hashes" in look(sandbox, job_id))
        http.get(url, headers={"Range": value})

    assert published == [False, False, False]
    assert "hashes" in look(sandbox, job_id)


def test_ranges_with_a_hole_publish_nothing(sandbox: Sandbox, http: httpx.Client):
    job_id, url = offer(sandbox)
    for value in ("bytes=0-999", "bytes=1001-", "bytes=1-999"):
        http.get(url, headers={"Range": value})

    assert "hashes" not in look(sandbox, job_id)


def test_the_same_range_twice_is_not_the_whole(sandbox: Sandbox, http: httpx.Client):
    job_id, url = offer(sandbox)
    half = sandbox.archive(job_id).size // 2 + 1
    for _ in range(2):
        http.get(url, headers={"Range": f"bytes=0-{half}"})

    assert "hashes" not in look(sandbox, job_id)


def test_halves_of_two_versions_are_not_a_whole(sandbox: Sandbox, http: httpx.Client):
    job_id, url = offer(sandbox, changes=True)
    half = sandbox.archive(job_id).size // 2
    for value in (f"bytes=0-{half}", f"bytes={half}-"):
        http.get(url, headers={"Range": value})

    assert "hashes" not in look(sandbox, job_id)


def test_the_hash_is_there_as_soon_as_the_last_byte(sandbox: Sandbox):
    for framing in ("length", "chunked"):
        job_id, url = offer(sandbox, framing=framing)
        with httpx.stream("GET", url, trust_env=False) as answer:
            for _ in answer.iter_raw():
                pass
            assert "hashes" in look(sandbox, job_id), framing


# TLS


@pytest.fixture(scope="module")
def secure() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=SIZE, tls=True) as sandbox:
        yield sandbox
        assert sandbox.errors == []


def test_both_servers_speak_tls_to_who_trusts_their_authority(secure: Sandbox):
    assert secure.ca_file is not None
    job_id, url = offer(secure, framing="chunked")

    answer = httpx.get(url, verify=ssl.create_default_context(cafile=secure.ca_file), trust_env=False)

    assert url.startswith("https://")
    assert secure.base_url.startswith("https://")
    assert answer.content == content(secure, job_id)


def test_who_does_not_trust_the_authority_gets_nothing(secure: Sandbox):
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(secure.base_url, trust_env=False)


def test_without_tls_there_is_no_authority(sandbox: Sandbox):
    assert sandbox.ca_file is None
    assert sandbox.description()["ca_file"] is None


@pytest.mark.parametrize(("cut_at", "ragged"), [(None, False), (0.5, True)])
def test_only_a_whole_delivery_says_goodbye_under_tls(secure: Sandbox, cut_at: float | None, ragged: bool):
    job_id, url = offer(secure, framing="close", cut_at=cut_at)
    address = urlsplit(url)
    context = ssl.create_default_context(cafile=secure.ca_file)
    plain = socket.create_connection((address.hostname or "", address.port or 0), timeout=10)
    with context.wrap_socket(plain, server_hostname=address.hostname, suppress_ragged_eofs=False) as connection:
        connection.sendall(f"GET {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
        got = bytearray()
        try:
            while piece := connection.recv(1 << 16):
                got += piece
            ended_early = False
        except ssl.SSLEOFError:
            ended_early = True

    assert ended_early is ragged
    body = bytes(got).partition(b"\r\n\r\n")[2]
    assert len(body) == int(secure.archive(job_id).size * (cut_at or 1))


@pytest.mark.parametrize(
    ("style", "failures"),
    # Some versions of OpenSSL tell a reset as an end that comes too early.
    [("rst", (httpx.ReadError, httpx.RemoteProtocolError)), ("stall", (httpx.ReadTimeout,))],
    ids=["rst", "stall"],
)
def test_a_download_breaks_off_under_tls(secure: Sandbox, style: str, failures: tuple[type[Exception], ...]):
    _, url = offer(secure, cut_at=0.5, cut_style=style)

    assert arrived(url, timeout=0.5)[1] in failures


# curl, as the documentation uses it


def curl(folder: Path, *arguments: str) -> int:
    command = ["curl", "--silent", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, timeout=30, check=False).returncode


@needs_curl
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_curl_saves_the_archive_under_its_name(sandbox: Sandbox, tmp_path: Path, framing: str):
    job_id, url = offer(sandbox, framing=framing)

    assert curl(tmp_path, "--remote-name", url) == 0

    [saved] = tmp_path.iterdir()
    assert saved.name == sandbox.file_name(job_id)
    published = look(sandbox, job_id)["hashes"][0]
    assert published["fileName"] == saved.name
    assert hashlib.sha1(saved.read_bytes()).hexdigest() == published["hash"]


@needs_curl
@pytest.mark.parametrize(
    ("behaviour", "arguments", "code"),
    [
        ({"cut_at": 0.5}, [], 18),
        ({"cut_at": 0.5, "framing": "chunked"}, [], 18),
        ({"cut_at": 0.5, "framing": "close"}, [], 0),
        ({"cut_at": 0.5, "cut_style": "rst"}, [], 56),
        ({"cut_at": 0.5, "cut_style": "stall"}, ["--max-time", "0.5"], 28),
        ({"refusal_status": 410}, ["--fail"], 22),
    ],
    ids=["cut", "inside a chunk", "unnoticed", "reset", "silent", "gone"],
)
def test_curl_fails_as_it_does_with_a_real_server(
    sandbox: Sandbox, tmp_path: Path, behaviour: dict[str, Any], arguments: list[str], code: int
):
    _, url = offer(sandbox, **behaviour)

    assert curl(tmp_path, "--remote-name", *arguments, url) == code


@needs_curl
def test_curl_resumes_a_cut_download(sandbox: Sandbox, tmp_path: Path):
    job_id, url = offer(sandbox, cut_at=0.5)

    assert curl(tmp_path, "--output", "archive", url) == 18
    assert curl(tmp_path, "--output", "archive", "--continue-at", "-", url) == 0

    assert (tmp_path / "archive").read_bytes() == content(sandbox, job_id)
