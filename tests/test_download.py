"""One attempt: what is made of an answer's head, what is kept, and when the rest may be joined to it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from restore_fetch.delivery import JournalFile, PartFile
from restore_fetch.delivery.download import is_strong, is_whole, trusted_bytes
from restore_fetch.delivery.part import boot_id
from restore_fetch.delivery.pipeline import BUFFER_BYTES, Bounds
from restore_fetch.errors import (
    ConfigurationError,
    DownloadInterruptedError,
    DownloadRefusedError,
    StorageError,
)
from restore_fetch.records import Attempt
from tests.delivery_support import BOUNDS, NAME, Desk, delivery_client, new_journal, some_bytes
from tests.support import ManualClock
from tests.wire_support import (
    Peer,
    WireServer,
    chunked,
    head,
    header_of,
    says,
    unused_port,
    with_length,
)

ARCHIVE = some_bytes(10_000)
HERE = 4_000
ETAG = '"one"'
CHUNKED = {"Transfer-Encoding": "chunked"}


@pytest.fixture
def desk(tmp_path: Path, clock: ManualClock) -> Desk:
    return Desk(tmp_path, clock)


@pytest.fixture
def halfway(desk: Desk) -> Desk:
    """A desk with the first bytes of an archive that has a strong validator."""
    desk.keeps(ARCHIVE[:HERE], etag=ETAG, total_bytes=len(ARCHIVE))
    return desk


def rest(start: int = HERE, body: bytes | None = None, total: int = len(ARCHIVE), **headers: str) -> bytes:
    """The answer to a request for the rest."""
    body = ARCHIVE[start:] if body is None else body
    return with_length(
        body,
        "206 Partial Content",
        {"Content-Range": f"bytes {start}-{total - 1}/{total}", "ETag": ETAG, **headers},
    )


# --- afresh ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "total"),
    [
        (with_length(ARCHIVE), len(ARCHIVE)),
        (head(headers=CHUNKED) + chunked(ARCHIVE, 700), None),
        (head() + ARCHIVE, None),
    ],
    ids=["length", "chunked", "neither"],
)
def test_an_archive_arrives_whole_in_every_framing(answer: bytes, total: int | None, desk: Desk) -> None:
    with WireServer(says(answer)) as server:
        desk.attempt(server.url())
    assert desk.kept() == ARCHIVE
    assert desk.outcomes == ["complete"]
    assert desk.journal.state.total_bytes == total
    assert desk.progress[0] == (0, total)
    assert desk.progress[-1] == (len(ARCHIVE), total)
    assert is_whole(desk.journal, len(ARCHIVE))


def test_the_attempt_is_in_the_journal_before_the_request_is_sent(desk: Desk) -> None:
    seen: list[tuple[str | None, ...]] = []

    def look(peer: Peer) -> None:
        peer.head()
        seen.append(tuple(desk.outcomes))
        peer.send(with_length(ARCHIVE))
        peer.end()

    with WireServer(look) as server:
        desk.attempt(server.url())
    assert seen == [(None,)]
    assert desk.outcomes == ["complete"]


def test_no_request_is_sent_when_the_journal_cannot_be_written(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path, content: bytes) -> None:
        raise StorageError("no space", path=path)

    with WireServer(says(with_length(ARCHIVE))) as server:
        monkeypatch.setattr("restore_fetch.files.write_whole", fails)
        with pytest.raises(StorageError):
            desk.attempt(server.url())
    assert server.connections == 0


def test_what_arrived_before_a_cut_is_kept(desk: Desk) -> None:
    answer = with_length(ARCHIVE, headers={"ETag": ETAG})
    with (
        WireServer(says(answer[: -len(ARCHIVE) + HERE])) as server,
        pytest.raises(DownloadInterruptedError) as caught,
    ):
        desk.attempt(server.url())
    assert caught.value.received_bytes == HERE
    assert desk.kept() == ARCHIVE[:HERE]
    assert desk.outcomes == ["cut"]
    (attempt,) = desk.journal.state.attempts
    assert (attempt.bytes, attempt.resumed_from) == (HERE, 0)
    assert desk.journal.state.etag == ETAG
    assert not is_whole(desk.journal, HERE)


def test_bytes_without_a_strong_validator_are_not_gone_on_from(desk: Desk) -> None:
    desk.keeps(ARCHIVE[:HERE], etag=None, total_bytes=len(ARCHIVE))
    with WireServer(says(with_length(ARCHIVE))) as server:
        desk.attempt(server.url())
    assert header_of(server.heads[0], "Range") is None
    assert desk.kept() == ARCHIVE


@pytest.mark.parametrize("etag", ['W/"one"', "one", '"one', '"o"e"', "", '"one"\r\nX-Header: value', '"\u00fc"'])
def test_a_tag_that_vouches_for_nothing_is_never_sent(etag: str, desk: Desk) -> None:
    desk.keeps(ARCHIVE[:HERE], etag=etag, total_bytes=len(ARCHIVE))
    assert not is_strong(etag)
    with WireServer(says(with_length(ARCHIVE))) as server:
        desk.attempt(server.url())
    assert header_of(server.heads[0], "If-Range") is None
    assert header_of(server.heads[0], "X-Header") is None
    assert desk.kept() == ARCHIVE


@pytest.mark.parametrize("etag", ['W/"one"', "one", '"one", "two"'])
def test_a_weak_or_malformed_tag_is_not_remembered(etag: str, desk: Desk) -> None:
    with WireServer(says(with_length(ARCHIVE, headers={"ETag": etag}))) as server:
        desk.attempt(server.url())
    assert desk.journal.state.etag is None


# --- the rest --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [len(ARCHIVE), None])
@pytest.mark.parametrize("framing", ["length", "chunked", "neither"])
def test_the_rest_is_joined_to_what_is_here(framing: str, known: int | None, halfway: Desk) -> None:
    halfway.journal.update(total_bytes=known)
    answer = rest()
    if framing != "length":
        headers = {"Content-Range": f"bytes {HERE}-{len(ARCHIVE) - 1}/{len(ARCHIVE)}"}
        headers |= CHUNKED if framing == "chunked" else {}
        body = chunked(ARCHIVE[HERE:], 99) if framing == "chunked" else ARCHIVE[HERE:]
        answer = head("206 Partial Content", headers) + body
    with WireServer(says(answer)) as server:
        halfway.attempt(server.url())
    assert header_of(server.heads[0], "Range") == f"bytes={HERE}-"
    assert header_of(server.heads[0], "If-Range") == ETAG
    assert halfway.kept() == ARCHIVE
    (attempt,) = halfway.journal.state.attempts
    assert (attempt.resumed_from, attempt.bytes, attempt.outcome) == (HERE, len(ARCHIVE), "complete")
    assert halfway.progress[0] == (HERE, len(ARCHIVE))


WRONG_RESTS = {
    "no range": with_length(ARCHIVE[HERE:], "206 Partial Content", {"ETag": ETAG}),
    "from elsewhere": rest(HERE - 1),
    "from the start": rest(0),
    "behind what is here": rest(HERE + 1),
    "of another length": rest(body=ARCHIVE[HERE:] + b"!", total=len(ARCHIVE) + 1),
    "not to the end": rest(**{"Content-Range": f"bytes {HERE}-{HERE + 9}/{len(ARCHIVE)}"}),
    "of unknown length": rest(**{"Content-Range": f"bytes {HERE}-{len(ARCHIVE) - 1}/*"}),
    "body of another length": rest(body=ARCHIVE[HERE:] + b"!"),
    "of other bytes": rest(ETag='"two"'),
    "of perhaps other bytes": rest(ETag='W/"one"'),
    "in other units": rest(**{"Content-Range": f"lines {HERE}-{len(ARCHIVE) - 1}/{len(ARCHIVE)}"}),
    "negative": rest(**{"Content-Range": f"bytes -{HERE}-{len(ARCHIVE) - 1}/{len(ARCHIVE)}"}),
    "backwards": rest(**{"Content-Range": f"bytes {len(ARCHIVE) - 1}-{HERE}/{len(ARCHIVE)}"}),
    "many ranges": with_length(
        ARCHIVE[HERE:], "206 Partial Content", {"Content-Type": "multipart/byteranges; boundary=x"}
    ),
    "none, the file is shorter": head("416 Range Not Satisfiable", {"Content-Range": "bytes */100"}),
    "none, the file is longer": head("416 Range Not Satisfiable", {"Content-Range": f"bytes */{len(ARCHIVE)}"}),
    "none, without a word": head("416 Range Not Satisfiable"),
}


@pytest.mark.parametrize("name", WRONG_RESTS)
def test_a_rest_that_does_not_go_with_what_is_here_is_never_joined_and_the_next_attempt_starts_over(
    name: str, halfway: Desk
) -> None:
    with WireServer(says(WRONG_RESTS[name]), says(with_length(ARCHIVE))) as server:
        with pytest.raises(DownloadInterruptedError) as caught:
            halfway.attempt(server.url())
        assert not isinstance(caught.value, DownloadRefusedError)
        assert halfway.kept() == ARCHIVE[:HERE]
        halfway.attempt(server.url())
    assert header_of(server.heads[1], "Range") is None
    assert halfway.kept() == ARCHIVE
    assert halfway.outcomes == ["wrong range", "complete"]


def test_the_whole_archive_in_place_of_the_rest_starts_over(halfway: Desk) -> None:
    other = some_bytes(9_000, seed=2)
    with WireServer(says(with_length(other, headers={"ETag": '"two"'}))) as server:
        halfway.attempt(server.url())
    assert halfway.kept() == other
    state = halfway.journal.state
    assert (state.etag, state.total_bytes, state.attempts[-1].resumed_from) == ('"two"', len(other), 0)


def test_a_rest_nobody_asked_for_is_no_archive(desk: Desk) -> None:
    with WireServer(says(rest(0))) as server, pytest.raises(DownloadRefusedError):
        desk.attempt(server.url())
    assert (desk.kept(), desk.outcomes) == (b"", ["status 206"])


@pytest.mark.parametrize("known", [len(ARCHIVE), None])
def test_a_file_that_is_here_to_its_last_byte_is_finished_by_an_unsatisfied_range(
    known: int | None, desk: Desk
) -> None:
    desk.keeps(ARCHIVE, etag=ETAG, total_bytes=known)
    unsatisfied = head("416 Range Not Satisfiable", {"Content-Range": f"bytes */{len(ARCHIVE)}"})
    with WireServer(says(unsatisfied)) as server:
        desk.attempt(server.url())
    assert (desk.kept(), desk.outcomes) == (ARCHIVE, ["complete"])
    assert desk.journal.state.total_bytes == len(ARCHIVE)


@pytest.mark.parametrize("size", [100, len(ARCHIVE)])
def test_an_unsatisfied_range_of_another_length_finishes_nothing(size: int, desk: Desk) -> None:
    desk.keeps(ARCHIVE[:HERE], etag=ETAG, total_bytes=None)
    answer = head("416 Range Not Satisfiable", {"Content-Range": f"bytes */{size}"})
    with WireServer(says(answer)) as server, pytest.raises(DownloadInterruptedError):
        desk.attempt(server.url())
    assert desk.outcomes == ["wrong range"]
    assert not is_whole(desk.journal, HERE)


def test_what_was_flushed_of_other_bytes_is_forgotten_before_new_ones_are_written(halfway: Desk) -> None:
    """Or a power cut during the new ones would make a mixture of both look believable."""
    halfway.journal.update(durable_bytes=HERE, boot_id="another-boot")
    seen: list[tuple[int, str | None]] = []

    def look(received: int, total: int | None) -> None:
        state = halfway.on_disk().state
        seen.append((state.durable_bytes, state.etag))

    halfway._downloader._on_progress = look
    with WireServer(says(with_length(ARCHIVE, headers={"ETag": '"two"'}))) as server:
        halfway.attempt(server.url())
    assert seen[0] == (0, '"two"')


def test_an_unsatisfied_range_of_other_bytes_finishes_nothing(desk: Desk) -> None:
    desk.keeps(ARCHIVE, etag=ETAG, total_bytes=None)
    answer = head("416 Range Not Satisfiable", {"Content-Range": f"bytes */{len(ARCHIVE)}", "ETag": '"two"'})
    with WireServer(says(answer)) as server, pytest.raises(DownloadInterruptedError):
        desk.attempt(server.url())
    assert not is_whole(desk.journal, len(ARCHIVE))
    assert desk.journal.state.etag is None


def test_a_rest_that_is_longer_than_announced_is_not_gone_on_from(halfway: Desk) -> None:
    headers = {"Content-Range": f"bytes {HERE}-{len(ARCHIVE) - 1}/{len(ARCHIVE)}"}
    answer = head("206 Partial Content", headers) + ARCHIVE[HERE:] + b"more"
    with WireServer(says(answer)) as server, pytest.raises(DownloadInterruptedError):
        halfway.attempt(server.url())
    assert halfway.journal.state.etag is None


@pytest.mark.parametrize("framing", ["chunked", "neither"])
def test_a_rest_without_end_is_left_at_the_announced_size(framing: str, halfway: Desk) -> None:
    headers = {"Content-Range": f"bytes {HERE}-{len(ARCHIVE) - 1}/{len(ARCHIVE)}"}
    headers |= CHUNKED if framing == "chunked" else {}
    body = ARCHIVE[HERE:] + bytes(8 * BUFFER_BYTES)
    answer = head("206 Partial Content", headers) + (chunked(body, 65536) if framing == "chunked" else body)
    with WireServer(says(answer)) as server, pytest.raises(DownloadInterruptedError, match="more than") as caught:
        halfway.attempt(server.url())
    assert caught.value.outcome == "cut"
    assert len(halfway.kept()) <= len(ARCHIVE) + BUFFER_BYTES
    assert halfway.journal.state.etag is None


@pytest.mark.parametrize("framing", ["chunked", "neither"])
def test_a_rest_that_is_shorter_than_announced_is_a_cut(framing: str, halfway: Desk) -> None:
    headers = {"Content-Range": f"bytes {HERE}-{len(ARCHIVE) - 1}/{len(ARCHIVE)}"}
    headers |= CHUNKED if framing == "chunked" else {}
    body = ARCHIVE[HERE:-1]
    answer = head("206 Partial Content", headers) + (chunked(body, 999) if framing == "chunked" else body)
    with WireServer(says(answer)) as server, pytest.raises(DownloadInterruptedError) as caught:
        halfway.attempt(server.url())
    assert caught.value.outcome == "cut"
    assert halfway.journal.state.etag == ETAG
    assert not is_whole(halfway.journal, len(halfway.kept()))


# --- what is no archive ----------------------------------------------------------------------------------

REFUSED = [201, 204, 300, 302, 304, 400, 401, 403, 404, 405, 407, 410, 414, 451, 501]
WORTH_ANOTHER = [408, 425, 429, 500, 502, 503, 504, 507, 599]


@pytest.mark.parametrize("status", REFUSED + WORTH_ANOTHER)
def test_any_status_but_success_writes_nothing(status: int, desk: Desk) -> None:
    body = b"" if status in (204, 304) else b"<html>sorry</html>"
    answer = head(f"{status} Word", {"Content-Length": str(len(body)), "Content-Type": "text/html"}) + body
    with WireServer(says(answer)) as server, pytest.raises(DownloadInterruptedError) as caught:
        desk.attempt(server.url())
    assert isinstance(caught.value, DownloadRefusedError) is (status in REFUSED)
    assert caught.value.status == status
    assert (desk.kept(), desk.outcomes) == (b"", [f"status {status}"])
    assert len(server.heads) == 1


@pytest.mark.parametrize("status", [403, 404, 410, 500, 503])
def test_a_refusal_leaves_what_is_here_alone(status: int, halfway: Desk) -> None:
    with (
        WireServer(says(with_length(b"sorry", f"{status} Word"))) as server,
        pytest.raises(DownloadInterruptedError),
    ):
        halfway.attempt(server.url())
    assert halfway.kept() == ARCHIVE[:HERE]
    assert halfway.journal.state.etag == ETAG


@pytest.mark.parametrize(("value", "seconds"), [("7", 7.0), ("nonsense", None), ("-1", None), (None, None)])
def test_the_pause_that_a_busy_delivery_asks_for_is_passed_on(
    value: str | None, seconds: float | None, desk: Desk
) -> None:
    answer = with_length(b"", "503 Busy", {"Retry-After": value} if value else {})
    with WireServer(says(answer)) as server, pytest.raises(DownloadInterruptedError) as caught:
        desk.attempt(server.url())
    assert caught.value.retry_after_seconds == seconds


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "deflate", "identity, gzip", "x"])
def test_an_archive_in_a_content_encoding_is_refused(encoding: str, desk: Desk) -> None:
    with (
        WireServer(says(with_length(ARCHIVE, headers={"Content-Encoding": encoding}))) as server,
        pytest.raises(DownloadRefusedError) as caught,
    ):
        desk.attempt(server.url())
    assert (caught.value.outcome, desk.kept()) == ("content encoding", b"")


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
def test_no_encoding_by_any_name_is_accepted(encoding: str, desk: Desk) -> None:
    with WireServer(says(with_length(ARCHIVE, headers={"Content-Encoding": encoding}))) as server:
        desk.attempt(server.url())
    assert desk.kept() == ARCHIVE


@pytest.mark.parametrize("kind", ["text/html", "TEXT/HTML; charset=utf-8", "application/json", "text/xml"])
def test_a_page_in_place_of_an_archive_is_refused(kind: str, desk: Desk) -> None:
    with (
        WireServer(says(with_length(b"<html>", headers={"Content-Type": kind}))) as server,
        pytest.raises(DownloadRefusedError) as caught,
    ):
        desk.attempt(server.url())
    assert (caught.value.outcome, desk.kept()) == ("not an archive", b"")


@pytest.mark.parametrize(
    "kind", ["application/gzip", "application/x-tar", "application/octet-stream", "text/plain"]
)
def test_the_type_of_an_archive_may_be_anything_else(kind: str, desk: Desk) -> None:
    with WireServer(says(with_length(ARCHIVE, headers={"Content-Type": kind}))) as server:
        desk.attempt(server.url())
    assert desk.kept() == ARCHIVE


# --- bounds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", [True, False])
def test_an_archive_larger_than_allowed_is_refused(declared: bool, tmp_path: Path, clock: ManualClock) -> None:
    desk = Desk(tmp_path, clock, bounds=Bounds(1024, 60.0, max_bytes=len(ARCHIVE) - 1))
    answer = with_length(ARCHIVE) if declared else head() + ARCHIVE
    with WireServer(says(answer)) as server, pytest.raises(DownloadRefusedError, match="--max-size") as caught:
        desk.attempt(server.url())
    assert caught.value.outcome == "too large"
    if declared:
        assert desk.kept() == b""


def test_an_archive_of_exactly_the_size_allowed_is_accepted(tmp_path: Path, clock: ManualClock) -> None:
    desk = Desk(tmp_path, clock, bounds=Bounds(1024, 60.0, max_bytes=len(ARCHIVE)))
    with WireServer(says(with_length(ARCHIVE))) as server:
        desk.attempt(server.url())
    assert desk.kept() == ARCHIVE


def test_the_size_allowed_counts_what_is_here_already(tmp_path: Path, clock: ManualClock) -> None:
    desk = Desk(tmp_path, clock, bounds=Bounds(1024, 60.0, max_bytes=len(ARCHIVE) - 1))
    desk.keeps(ARCHIVE[:HERE], etag=ETAG)
    with WireServer(says(rest())) as server, pytest.raises(DownloadRefusedError):
        desk.attempt(server.url())


def test_an_archive_larger_than_the_disk_is_refused_before_its_first_byte_is_written(desk: Desk) -> None:
    answer = head(headers={"Content-Length": str(10**17)})
    with WireServer(says(answer, then="wait_for_hang_up")) as server, pytest.raises(StorageError):
        desk.attempt(server.url())
    assert (desk.kept(), desk.outcomes) == (b"", ["local failure"])


def test_nothing_is_asked_for_when_the_disk_is_full_already(tmp_path: Path, clock: ManualClock) -> None:
    desk = Desk(tmp_path, clock, min_free_bytes=2**62)
    with WireServer(says(with_length(ARCHIVE))) as server, pytest.raises(StorageError, match="--min-free"):
        desk.attempt(server.url())
    assert (server.connections, desk.outcomes) == (0, [])


# --- what counts as a download ---------------------------------------------------------------------------


def test_a_request_that_never_left_uses_up_no_download(desk: Desk) -> None:
    with pytest.raises(DownloadInterruptedError):
        desk.attempt(f"http://127.0.0.1:{unused_port()}/x")
    assert desk.outcomes == ["not sent"]
    assert desk.journal.state.downloads_used == 0


def test_a_proxy_that_cannot_be_used_uses_up_no_download(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(ConfigurationError):
        desk.attempt("http://127.0.0.1/x")
    assert desk.outcomes == ["not sent"]


@pytest.mark.parametrize("answer", [b"", with_length(b"", "404 Not Found"), with_length(ARCHIVE)[:-1]])
def test_a_request_that_reached_the_delivery_counts_whatever_came_back(answer: bytes, desk: Desk) -> None:
    with WireServer(says(answer)) as server, pytest.raises(DownloadInterruptedError):
        desk.attempt(server.url())
    assert desk.journal.state.downloads_used == 1


def test_a_process_that_is_told_to_stop_leaves_the_truth_in_the_journal(desk: Desk) -> None:
    def stop(received: int, total: int | None) -> None:
        raise KeyboardInterrupt

    desk._downloader._on_progress = stop
    with WireServer(says(with_length(ARCHIVE))) as server, pytest.raises(KeyboardInterrupt):
        desk.attempt(server.url())
    assert desk.outcomes == ["interrupted"]
    assert desk.journal.state.downloads_used == 1


# --- what to believe of an earlier run -------------------------------------------------------------------


def test_after_a_reboot_only_what_was_flushed_is_believed(tmp_path: Path) -> None:
    same = new_journal(tmp_path, durable_bytes=100, boot_id=boot_id())
    other = new_journal(tmp_path, durable_bytes=100, boot_id="another-boot")
    unknown = new_journal(tmp_path, durable_bytes=100)
    if boot_id() is not None:
        assert trusted_bytes(same, 5_000) == 5_000
    assert trusted_bytes(other, 5_000) == 100
    assert trusted_bytes(other, 50) == 50
    assert trusted_bytes(unknown, 5_000) == 100


def test_where_the_system_does_not_tell_its_boots_apart_only_what_was_flushed_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("restore_fetch.delivery.download.boot_id", lambda: None)
    assert trusted_bytes(new_journal(tmp_path, durable_bytes=100, boot_id=None), 5_000) == 100


def test_only_an_announced_length_or_a_seen_end_makes_bytes_whole(tmp_path: Path, clock: ManualClock) -> None:
    def attempt(outcome: str | None, size: int) -> Attempt:
        return Attempt(started=clock.now(), outcome=outcome, bytes=size)

    assert is_whole(new_journal(tmp_path, total_bytes=5), 5)
    assert not is_whole(new_journal(tmp_path, total_bytes=6), 5)
    assert not is_whole(new_journal(tmp_path), 5)
    assert is_whole(new_journal(tmp_path, attempts=(attempt("complete", 5),)), 5)
    assert not is_whole(new_journal(tmp_path, attempts=(attempt("complete", 6),)), 5)
    assert not is_whole(new_journal(tmp_path, attempts=(attempt("complete", 5), attempt("cut", 5))), 5)
    assert not is_whole(new_journal(tmp_path, attempts=(attempt(None, 5),)), 5)


def test_each_attempt_has_a_line_of_its_own_in_the_journal(desk: Desk) -> None:
    answer = with_length(ARCHIVE, headers={"ETag": ETAG})
    scripts = [says(answer[: -len(ARCHIVE) + HERE]), says(with_length(b"", "503 Busy")), says(rest())]
    with WireServer(*scripts) as server:
        for _ in range(2):
            with pytest.raises(DownloadInterruptedError):
                desk.attempt(server.url())
        desk.attempt(server.url())
    read = JournalFile.at(desk.journal.path.parent, NAME)
    assert read is not None
    told = [(one.outcome, one.resumed_from, one.bytes) for one in read.state.attempts]
    assert told == [("cut", 0, HERE), ("status 503", HERE, HERE), ("complete", HERE, len(ARCHIVE))]
    assert all(one.ended is not None for one in read.state.attempts)
    assert len({one.started for one in read.state.attempts}) == 3


def test_the_journal_has_nothing_secret(desk: Desk) -> None:
    secret = "auth-value-0123456789"
    with WireServer(says(with_length(ARCHIVE)[:-1])) as server, pytest.raises(DownloadInterruptedError):
        desk.attempt(server.url(), ("X-Restore-Key", secret))
    written = desk.journal.path.read_text()
    for text in (secret, "key-in-the-path-0123456789", base64.b64encode(secret.encode()).decode()):
        assert text not in written


def test_a_part_file_that_grew_by_itself_is_cut_back_before_the_archive_is_written(tmp_path: Path) -> None:
    journal = new_journal(tmp_path)
    journal.part.write_bytes(b"somebody else's bytes, quite a few of them")
    clock = ManualClock()
    desk = Desk(tmp_path, clock, bounds=BOUNDS, client=delivery_client())
    with WireServer(says(with_length(b"short"))) as server:
        desk.attempt(server.url())
    assert desk.kept() == b"short"
    with PartFile(journal.part) as part:
        assert part.stored_bytes() == 5
