"""Bodies: every framing of HTTP/1.1, whole, in pieces, cut and malformed."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restore_fetch.delivery import Source
from restore_fetch.delivery.body import Buffer, body_of
from restore_fetch.errors import DownloadError, DownloadInterruptedError, DownloadRefusedError
from tests.delivery_support import delivery_client, fake_body, ragged, read_all, receive_some, some_bytes
from tests.wire_support import WireServer, chunked, head, says, server_tls

CHUNKED = {"transfer-encoding": "chunked"}
PAYLOAD = some_bytes(100_003)
SMALL = some_bytes(57)
ODD_FRAMING = (
    b"5;name=value\r\n"
    + SMALL[:5]
    + b'\r\n00000f ; a="b;c" \t\r\n'
    + SMALL[5:20]
    + b"\r\nA\r\n"
    + SMALL[20:30]
    + b"\r\n1b\t\r\n"
    + SMALL[30:]
    + b"\r\n000;last\r\nTrailer: one\r\nAnother: two\r\n\r\n"
)


def pieces_of(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def framed(framing: str, payload: bytes) -> tuple[dict[str, str], bytes]:
    """Headers for a body, and the body as it is on the wire."""
    if framing == "length":
        return {"content-length": str(len(payload))}, payload
    if framing == "neither":
        return {}, payload
    return CHUNKED, chunked(payload, int(framing))


# --- whole -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 4096, 16 * 1024, 1 << 20])
@pytest.mark.parametrize("framing", ["length", "1", "23", "8192", "32768", "neither"])
def test_a_body_arrives_as_it_was_sent_however_the_network_cuts_it_up(framing: str, size: int) -> None:
    payload = PAYLOAD if size > 7 else PAYLOAD[:5000]
    headers, wire = framed(framing, payload)
    assert read_all(fake_body(headers, *pieces_of(wire, size))) == payload


@pytest.mark.parametrize("framing", ["length", "1", "8192", "neither"])
def test_bytes_that_came_along_with_the_head_are_the_first_ones(framing: str) -> None:
    headers, wire = framed(framing, PAYLOAD[:9000])
    for place in (1, 5, 8999):
        assert read_all(fake_body(headers, wire[place:], leftover=wire[:place])) == PAYLOAD[:9000]


@pytest.mark.parametrize("framing", ["length", "16", "neither"])
def test_an_empty_body_is_whole_at_once(framing: str) -> None:
    headers, wire = framed(framing, b"")
    assert read_all(fake_body(headers, wire) if wire else fake_body(headers)) == b""


def test_only_a_length_is_known_beforehand() -> None:
    assert fake_body({"content-length": "12"}).length == 12
    assert fake_body(CHUNKED).length is None
    assert fake_body({}).length is None


def test_chunk_extensions_trailers_and_zeros_in_front_are_no_data() -> None:
    assert read_all(fake_body(CHUNKED, ODD_FRAMING)) == SMALL


def test_framing_may_be_split_at_every_byte() -> None:
    for place in range(1, len(ODD_FRAMING)):
        assert read_all(fake_body(CHUNKED, ODD_FRAMING[:place], ODD_FRAMING[place:])) == SMALL, place
    assert read_all(fake_body(CHUNKED, *pieces_of(ODD_FRAMING, 1))) == SMALL


@given(st.data())
@settings(deadline=None)
def test_any_chunks_in_any_pieces_give_the_same_bytes(data: st.DataObject) -> None:
    payload = data.draw(st.binary(max_size=300))
    wire, place = b"", 0
    while place < len(payload):
        size = data.draw(st.integers(1, len(payload) - place))
        wire += b"%X\r\n%s\r\n" % (size, payload[place : place + size])
        place += size
    wire += b"0\r\n\r\n"
    cuts = sorted(data.draw(st.sets(st.integers(1, len(wire)), max_size=12)) | {0, len(wire)})
    pieces = [wire[start:stop] for start, stop in itertools.pairwise(cuts)]
    assert read_all(fake_body(CHUNKED, *pieces)) == payload


@pytest.mark.parametrize("framing", ["length", "16", "8192", "neither"])
def test_a_body_is_received_into_the_place_it_is_given_and_touches_nothing_before_it(framing: str) -> None:
    headers, wire = framed(framing, PAYLOAD[:20_000])
    body, buffer, place = fake_body(headers, *pieces_of(wire, 999)), Buffer(48 * 1024), 4
    buffer.view[:place] = b"mine"
    while count := receive_some(body, buffer, place, len(buffer.view)):
        place += count
    assert bytes(buffer.view[:place]) == b"mine" + PAYLOAD[:20_000]


@pytest.mark.parametrize("framing", ["length", "16"])
def test_what_comes_behind_the_end_is_not_taken(framing: str) -> None:
    headers, wire = framed(framing, SMALL)
    body = fake_body(headers, wire + b"more")
    assert read_all(body) == SMALL
    assert body.receive(Buffer(100), 0, 100) == 0


@pytest.mark.parametrize("framing", ["length", "16", "neither"])
def test_a_pause_of_the_network_is_no_end(framing: str) -> None:
    headers, wire = framed(framing, SMALL)
    for place in range(1, len(wire)):
        body, buffer, received = fake_body(headers, wire[:place], TimeoutError(), wire[place:]), Buffer(20_000), b""
        pauses = 0
        while True:
            try:
                count = body.receive(buffer, 0, 20_000)
            except TimeoutError:
                pauses += 1
                continue
            if count == 0:
                break
            received += buffer.view[:count]
        assert received == SMALL, place
        assert pauses == 1 or (pauses == 2 and framing == "16"), place  # the second where framing alone came


# --- cut -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "1", "16", "8192"])
def test_no_cut_anywhere_in_a_body_that_says_where_it_ends_is_a_clean_end(framing: str) -> None:
    headers, wire = framed(framing, SMALL)
    for place in range(len(wire)):
        with pytest.raises(DownloadInterruptedError) as caught:
            read_all(fake_body(headers, *([wire[:place]] if place else [])))
        assert caught.value.outcome == "cut", place


@pytest.mark.parametrize("framing", ["length", "16", "neither"])
@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), ragged()])
def test_a_connection_that_breaks_is_an_error_in_every_framing(framing: str, error: Exception) -> None:
    headers, wire = framed(framing, SMALL)
    for place in range(1, len(wire)):
        with pytest.raises(DownloadInterruptedError) as caught:
            read_all(fake_body(headers, wire[:place], error))
        assert caught.value.outcome == "cut", place
        assert "host.example" in str(caught.value)


def over_the_wire(framing: str, sent: bytes, *, tls: bool, then: str, headers: dict[str, str]) -> bytes:
    answer = head(headers=headers) + sent
    with (
        WireServer(says(answer, then=then), tls=server_tls() if tls else None) as server,
        delivery_client().open(Source(server.url())) as response,
    ):
        response.sock.settimeout(10)
        return read_all(body_of(response))


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("then", ["end", "cut", "reset"])
@pytest.mark.parametrize("framing", ["length", "8192", "neither"])
@pytest.mark.parametrize("place", [0, 1, "middle", "last"])
def test_a_cut_on_a_real_connection_is_found(place: int | str, framing: str, then: str, tls: bool) -> None:
    headers, wire = framed(framing, PAYLOAD)
    stop = {"middle": len(wire) // 2, "last": len(wire) - 1}.get(str(place)) if isinstance(place, str) else place
    assert stop is not None
    if framing == "neither" and (then == "end" or (then == "cut" and not tls)):
        # The one cut that looks like an end: it is left to the hash of what arrived.
        assert over_the_wire(framing, wire[:stop], tls=tls, then=then, headers=headers) == PAYLOAD[:stop]
        return
    with pytest.raises(DownloadInterruptedError):
        over_the_wire(framing, wire[:stop], tls=tls, then=then, headers=headers)


@pytest.mark.parametrize("then", ["cut", "reset"])
@pytest.mark.parametrize("framing", ["length", "neither"])
def test_full_records_before_a_cut_are_given_out_and_then_the_cut_is_told_again_and_again(framing, then) -> None:
    headers, wire = framed(framing, PAYLOAD)
    start = head(headers=headers)
    stop = 4 * 16 * 1024 - len(start)
    buffer, arrived = Buffer(1 << 20), b""
    with (
        WireServer(says(start + wire[:stop], then=then), tls=server_tls()) as server,
        delivery_client().open(Source(server.url())) as response,
    ):
        response.sock.settimeout(10)
        body = body_of(response)
        with contextlib.suppress(DownloadInterruptedError):
            while count := receive_some(body, buffer, 0, len(buffer.view)):
                arrived += buffer.view[:count]
            pytest.fail("a cut was taken for the end")
        with pytest.raises(DownloadInterruptedError):
            body.receive(buffer, 0, len(buffer.view))
    assert arrived == PAYLOAD[:stop] or (then == "reset" and PAYLOAD.startswith(arrived))


def test_a_whole_body_without_close_notify_is_not_taken_for_whole_when_only_the_close_could_say_so() -> None:
    with pytest.raises(DownloadInterruptedError):
        over_the_wire("neither", PAYLOAD, tls=True, then="cut", headers={})


@pytest.mark.parametrize("framing", ["length", "8192"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_body_that_said_where_it_ends_needs_no_polite_close(framing: str, tls: bool) -> None:
    headers, wire = framed(framing, PAYLOAD)
    assert over_the_wire(framing, wire, tls=tls, then="cut", headers=headers) == PAYLOAD


# --- malformed -------------------------------------------------------------------------------------------

MALFORMED = {
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "not hexadecimal": b"5g\r\nhello\r\n0\r\n\r\n",
    "negative": b"-5\r\nhello\r\n0\r\n\r\n",
    "signed": b"+5\r\nhello\r\n0\r\n\r\n",
    "0x in front": b"0x5\r\nhello\r\n0\r\n\r\n",
    "underscore": b"1_0\r\nhello\r\n0\r\n\r\n",
    "two numbers": b"5 5\r\nhello\r\n0\r\n\r\n",
    "space in front": b" 5\r\nhello\r\n0\r\n\r\n",
    "other digits": "\u0665\r\nhello\r\n0\r\n\r\n".encode(),
    "longer than any file": b"1" * 16 + b"\r\nhello\r\n0\r\n\r\n",
    "only an extension": b";name=value\r\nhello\r\n0\r\n\r\n",
    "bare line feeds": b"5\nhello\n0\n\n\r\n",
    "chunk longer than its size": b"4\r\nhello\r\n0\r\n\r\n",
    "chunk shorter than its size": b"6\r\nhello\r\n0\r\n\r\n",
    "no line end behind the chunk": b"5\r\nhello0\r\n\r\n",
    "no chunks at all": b"<html>sign in</html>\r\n",
    "a line without end": b"5;" + b"x" * 10_000,
    "a number without end": b"0" * 10_000,
    "trailers without end": b"0\r\n" + b"Name: value\r\n" * 1000,
    "a trailer without end": b"0\r\nName: " + b"x" * 10_000,
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("size", [1, 1 << 16])
def test_malformed_chunks_are_refused(name: str, size: int) -> None:
    with pytest.raises(DownloadRefusedError) as caught:
        read_all(fake_body(CHUNKED, *pieces_of(MALFORMED[name], size)))
    assert caught.value.outcome == "invalid HTTP"


@given(st.binary(max_size=60))
@settings(deadline=None)
def test_no_rubbish_in_place_of_chunks_ends_cleanly_or_unexpectedly(rubbish: bytes) -> None:
    try:
        received = read_all(fake_body(CHUNKED, rubbish))
    except DownloadError:
        return
    assert b"0\r\n" in rubbish
    assert len(received) < len(rubbish)


@pytest.mark.parametrize("length", ["-1", "+5", "1" * 19, "5, 6", "0x10", " ", "", "5.0", "\u0665"])
def test_a_length_that_no_file_can_have_is_refused(length: str) -> None:
    with pytest.raises(DownloadRefusedError):
        fake_body({"content-length": length})


ODD_HEADS = {
    "two lengths": [b"Content-Length: 5", b"Content-Length: 6"],
    "two lengths in one": [b"Content-Length: 5, 6"],
    "another transfer coding": [b"Transfer-Encoding: gzip, chunked"],
    "chunked twice": [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
    "a coding nobody knows": [b"Transfer-Encoding: xchunked"],
    "negative": [b"Content-Length: -5"],
    "signed": [b"Content-Length: +5"],
    "folded": [b"Content-Length: 5", b" 5"],
    "huge": [b"Content-Length: " + b"9" * 30],
    "hexadecimal": [b"Content-Length: 0x5"],
    "no name": [b": 5"],
    "space before the colon": [b"Content-Length : 5"],
    "no colon": [b"Content-Length 5"],
}


@pytest.mark.parametrize("name", ODD_HEADS)
def test_a_head_that_two_readers_could_read_differently_is_refused(name: str) -> None:
    answer = b"\r\n".join([b"HTTP/1.1 200 OK", *ODD_HEADS[name], b"", b"hello"])
    with (
        WireServer(says(answer)) as server,
        pytest.raises(DownloadRefusedError) as caught,
        delivery_client().open(Source(server.url())) as response,
    ):
        read_all(body_of(response))
    assert caught.value.outcome == "invalid HTTP"


def test_chunks_win_over_a_length_as_the_standard_wants() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    with WireServer(says(answer)) as server, delivery_client().open(Source(server.url())) as response:
        body = body_of(response)
        assert body.length is None
        assert read_all(body) == b"hello"


def test_the_same_length_twice_is_one_length() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"
    with WireServer(says(answer)) as server, delivery_client().open(Source(server.url())) as response:
        assert read_all(body_of(response)) == b"hello"
