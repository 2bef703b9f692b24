"""Whole runs against a delivery that goes wrong: its statuses, framings, ranges, bytes, hashes and redirects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.faults_support import (
    ARCHIVE,
    AUTH_VALUE,
    CUT,
    CUT_AT,
    ETAG,
    JOB,
    LASTING,
    NAME,
    OTHER_SHA1,
    SHA1,
    URL_KEY,
    WHOLE,
    Stage,
    iso,
    nothing_published,
    refuses,
    shows,
    verified,
)
from tests.run_support import Outcome, run
from tests.wire_support import Peer, Script, WireServer, authority, chunked, head, header_of, says, with_length

CHUNKED = {"Transfer-Encoding": "chunked"}
LENGTH = {"Content-Length": str(len(ARCHIVE)), **LASTING}
GIVEN_UP = {f"{NAME}.part", f"{NAME}.part.json"}
ONE_RETRY = ("--retries", "1")
NO_RETRY = ("--retries", "0")


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., Outcome]:
    """Runs a fetch against a stage, always into the same folder."""
    return lambda stage, *options: run(stage, tmp_path / "out", "fetch", *options)


def part_of(outcome: Outcome) -> bytes:
    return outcome.bytes_of(f"{NAME}.part")


def kept_nothing(outcome: Outcome) -> bool:
    """Whether no byte was kept, and no file that would only say so; the journal remembers the request."""
    return outcome.names == {f"{NAME}.part.json"}


# --- D1: statuses -------------------------------------------------------------------------------------------

REFUSALS = (
    "204 No Content",
    "206 Partial Content",
    "300 Multiple Choices",
    "302 Found",
    "304 Not Modified",
    "400 Bad Request",
    "401 Unauthorized",
    "403 Forbidden",
    "404 Not Found",
    "410 Gone",
    "416 Range Not Satisfiable",
)


@pytest.mark.parametrize("status", REFUSALS)
def test_a_status_that_brings_no_archive_ends_the_run_after_one_request(
    status: str, fetch: Callable[..., Outcome]
) -> None:
    body = b"" if status[:3] in ("204", "304") else ARCHIVE
    headers = {} if body else {"Content-Length": "0"}
    with Stage(says(head(status, {"Content-Length": str(len(body)), **headers}) + body)) as stage:
        outcome = fetch(stage)

    assert (outcome.code, stage.gets) == (16, 1)
    assert kept_nothing(outcome)
    assert status[:3] in outcome.last_line


@pytest.mark.parametrize("status", ["408 Late", "429 Slow", "500 Oh", "503 Oh"])
def test_a_status_that_may_pass_is_tried_again_and_then_given_up(
    status: str, fetch: Callable[..., Outcome]
) -> None:
    with Stage(says(with_length(b"not now", status))) as stage:
        outcome = fetch(stage, *ONE_RETRY)

    assert (outcome.code, stage.gets) == (16, 2)
    assert kept_nothing(outcome)


def test_a_status_that_passes_costs_one_more_request(fetch: Callable[..., Outcome]) -> None:
    with Stage(says(with_length(b"not now", "503 Oh", {"Retry-After": "0"})), WHOLE) as stage:
        outcome = fetch(stage)

    assert verified(outcome)
    assert stage.gets == 2


@pytest.mark.parametrize(
    ("status", "changes", "code", "word"),
    [
        ("410 Gone", {"delivery": {"statusName": "EXPIRED"}}, 15, "EXPIRED"),
        ("403 Forbidden", {"delivery": {"statusName": "MAX_DOWNLOADS_EXCEEDED"}}, 15, "MAX_DOWNLOADS_EXCEEDED"),
        ("404 Not Found", {"delivery": {"statusName": "INTERRUPTED"}}, 15, "INTERRUPTED"),
        ("404 Not Found", {"delivery": {"expires": "2020-01-01T00:00:00Z"}}, 15, "expired"),
        ("401 Unauthorized", {"statusName": "KILLED"}, 13, "KILLED"),
    ],
)
def test_a_refused_download_is_explained_by_the_job(
    status: str, changes: dict[str, Any], code: int, word: str, fetch: Callable[..., Outcome]
) -> None:
    with Stage(says(with_length(b"no", status)), looks=(shows(), shows(**changes))) as stage:
        outcome = fetch(stage)

    assert (outcome.code, stage.gets) == (code, 1)
    assert word in outcome.last_line
    assert nothing_published(outcome)


def test_a_refused_download_that_nobody_explains_is_a_failed_download(fetch: Callable[..., Outcome]) -> None:
    nonsense = refuses("400 Bad Request", errorCode="NO", detail="no")
    with Stage(says(with_length(b"no", "404 Not Found")), looks=(shows(), shows(delivery={"url": None}))) as stage:
        assert fetch(stage).code == 15
    with Stage(says(with_length(b"no", "410 Gone")), looks=(shows(), nonsense)) as stage:
        assert fetch(stage).code == 12


def test_a_page_of_html_is_no_archive(fetch: Callable[..., Outcome]) -> None:
    with Stage(says(with_length(b"<html>Sign in", headers={"Content-Type": "text/html"}))) as stage:
        outcome = fetch(stage)

    assert (outcome.code, stage.gets) == (16, 1)
    assert kept_nothing(outcome)


# --- D2: bodies that are cut ---------------------------------------------------------------------------------

_CHUNKS = chunked(ARCHIVE, 4096)
_CUTS = {
    "length": says(head(headers=LENGTH), ARCHIVE[:CUT_AT], then="cut"),
    "length, no byte": says(head(headers=LENGTH), then="cut"),
    "length, all but a byte": says(head(headers=LENGTH), ARCHIVE[:-1], then="cut"),
    "length, reset": says(head(headers=LENGTH), ARCHIVE[:CUT_AT], then="reset"),
    "inside a chunk": says(head(headers=CHUNKED), _CHUNKS[:5000], then="cut"),
    "between chunks": says(head(headers=CHUNKED), _CHUNKS[: 2 * (4096 + 8)], then="cut"),
    "inside a chunk's size": says(head(headers=CHUNKED), _CHUNKS[: 4096 + 8 + 2], then="cut"),
    "before the last chunk": says(head(headers=CHUNKED), _CHUNKS[:-5], then="cut"),
    "inside the last chunk": says(head(headers=CHUNKED), _CHUNKS[:-2], then="cut"),
    "chunks, reset": says(head(headers=CHUNKED), _CHUNKS[:5000], then="reset"),
    "inside the head": says(head(headers=LENGTH)[:30], then="cut"),
    "instead of a head": says(then="cut"),
    "reset instead of a head": says(then="reset"),
}


@pytest.mark.parametrize("cut", _CUTS.values(), ids=_CUTS)
def test_a_download_that_is_cut_once_is_made_good(cut: Script, fetch: Callable[..., Outcome]) -> None:
    with Stage(cut, WHOLE) as stage:
        outcome = fetch(stage)

    assert verified(outcome)
    assert stage.gets == 2
    attempts = outcome.json_of(f"{NAME}.receipt.json")["attempts"]
    assert [attempt["outcome"] == "complete" for attempt in attempts] == [False, True]


@pytest.mark.parametrize("kind", ["length", "length, reset", "inside a chunk", "instead of a head"])
def test_a_download_that_is_always_cut_is_given_up_within_the_budget(
    kind: str, fetch: Callable[..., Outcome]
) -> None:
    with Stage(_CUTS[kind], delivery={"maxDownloads": 3}) as stage:
        first = fetch(stage, *ONE_RETRY)
        assert (first.code, stage.gets) == (16, 2)
        assert first.names == GIVEN_UP or (kept_nothing(first) and kind == "instead of a head")

        second = fetch(stage)
        assert (second.code, stage.gets) == (16, 3)
        assert "no download is left: 3 allowed" in second.last_line
        assert "new restore job" in second.last_line
        assert second.names == first.names

        third = fetch(stage)
        assert (third.code, stage.gets) == (15, 3)


_LAST_WORDS = {
    "no answer in time": (says(then="wait_for_hang_up"), "did not begin to answer"),
    "hung up": (says(then="cut"), "hung up without an answer"),
    "cut": (CUT, "before the end"),
    "refused": (says(with_length(b"gone", "410 Gone")), "status 410"),
    "busy": (says(with_length(b"busy", "503 Oh", {"Retry-After": "86400"})), "status 503"),
}


@pytest.mark.parametrize("kind", _LAST_WORDS)
def test_the_only_download_that_fails_is_told_with_its_cause_and_that_none_is_left(
    kind: str, fetch: Callable[..., Outcome]
) -> None:
    script, words = _LAST_WORDS[kind]
    with Stage(script, WHOLE, delivery={"maxDownloads": 1}) as stage:
        outcome = fetch(stage, "--stall-timeout", "0.6s")

        assert (outcome.code, stage.gets) == (16, 1)
        for part in (words, "no download is left: 1 allowed", "start a new restore job"):
            assert part in outcome.last_line
        assert "run the same command again" not in outcome.last_line
        assert fetch(stage).code == 15
    assert stage.gets == 1


# --- D3: bodies whose framing hides the cut ------------------------------------------------------------------

_HIDDEN = {
    "no length": says(head(), ARCHIVE[:CUT_AT]),
    "no length, no byte": says(head()),
    "the last chunk too early": says(head(headers=CHUNKED), chunked(ARCHIVE[:CUT_AT], 4096)),
    "a shorter length": says(with_length(ARCHIVE[:CUT_AT])),
}


@pytest.mark.parametrize("hidden", _HIDDEN.values(), ids=_HIDDEN)
def test_a_cut_that_nothing_shows_is_caught_by_the_hash(hidden: Script, fetch: Callable[..., Outcome]) -> None:
    with Stage(hidden) as stage:
        outcome = fetch(stage)

    assert (outcome.code, stage.gets) == (17, 1)
    assert outcome.names == {f"{NAME}.rejected", f"{NAME}.rejected.json"}


def test_a_cut_that_nothing_shows_is_not_verified_without_a_hash(fetch: Callable[..., Outcome]) -> None:
    with Stage(_HIDDEN["no length"], hashes=()) as stage:
        outcome = fetch(stage, "--hash-wait", "0")

    assert (outcome.code, stage.gets) == (18, 1)
    assert nothing_published(outcome)


@pytest.mark.parametrize("framing", ["none", "chunked", "length"])
def test_over_tls_an_end_without_close_notify_is_a_cut(
    framing: str, tmp_path: Path, fetch: Callable[..., Outcome]
) -> None:
    body = {
        "none": head() + ARCHIVE,
        "chunked": head(headers=CHUNKED) + chunked(ARCHIVE, 4096)[:-5],
        "length": head(headers=LENGTH) + ARCHIVE[:-1],
    }[framing]
    with Stage(says(body, then="cut"), says(with_length(ARCHIVE)), tls=True) as stage:
        stage.ca_file = tmp_path / "ca.pem"
        authority().cert_pem.write_to_path(str(stage.ca_file))
        outcome = fetch(stage)

    assert verified(outcome)
    assert stage.gets == 2


# --- D4: resuming --------------------------------------------------------------------------------------------


def rest(
    first: int = CUT_AT, last: int = len(ARCHIVE) - 1, total: int | str = len(ARCHIVE), **headers: str
) -> Script:
    """A delivery that sends a part; of the archive, when nothing else is said."""
    fields = {"Content-Range": f"bytes {first}-{last}/{total}", "ETag": ETAG, **headers}
    return says(with_length(ARCHIVE[first : last + 1], "206 Partial Content", fields))


def test_a_cut_download_goes_on_where_it_was(fetch: Callable[..., Outcome]) -> None:
    with Stage(CUT, rest()) as stage:
        outcome = fetch(stage)

    assert verified(outcome)
    assert stage.gets == 2
    assert header_of(stage.delivery.heads[1], "Range") == f"bytes={CUT_AT}-"
    assert header_of(stage.delivery.heads[1], "If-Range") == ETAG


def test_an_answer_that_ignores_the_range_starts_the_file_over(fetch: Callable[..., Outcome]) -> None:
    with Stage(CUT, WHOLE) as stage:
        outcome = fetch(stage)

    assert verified(outcome)
    assert outcome.json_of(f"{NAME}.receipt.json")["attempts"][1]["resumed_from"] == 0


_WRONG_PARTS = {
    "one byte too late": rest(first=CUT_AT + 1),
    "not to the end": rest(last=len(ARCHIVE) - 2),
    "of a longer file": rest(total=len(ARCHIVE) + 1),
    "of a file of unknown length": rest(total="*"),
    "of another version": rest(ETag='"strong-2"'),
    "without a Content-Range": says(with_length(ARCHIVE[CUT_AT:], "206 Partial Content", {"ETag": ETAG})),
    "in another unit": says(
        with_length(ARCHIVE[CUT_AT:], "206 Partial Content", {"Content-Range": "lines 1-2/3", "ETag": ETAG})
    ),
    "of another length than it says": says(
        with_length(
            ARCHIVE[CUT_AT:-10],
            "206 Partial Content",
            {"Content-Range": f"bytes {CUT_AT}-{len(ARCHIVE) - 1}/{len(ARCHIVE)}", "ETag": ETAG},
        )
    ),
    "unsatisfiable": says(with_length(b"", "416 No", {"Content-Range": f"bytes */{CUT_AT - 1}"})),
    "unsatisfiable, without a length": says(with_length(b"", "416 No")),
}


@pytest.mark.parametrize("part", _WRONG_PARTS.values(), ids=_WRONG_PARTS)
def test_a_part_that_does_not_fit_is_never_appended(part: Script, fetch: Callable[..., Outcome]) -> None:
    with Stage(CUT, part, WHOLE) as stage:
        outcome = fetch(stage)

    assert verified(outcome)
    assert stage.gets == 3
    assert header_of(stage.delivery.heads[2], "Range") is None


@pytest.mark.parametrize("etag", [f"W/{ETAG}", "strong-1", '"a" "b"', None])
def test_bytes_without_a_strong_version_are_not_resumed(etag: str | None, fetch: Callable[..., Outcome]) -> None:
    headers = {"Content-Length": str(len(ARCHIVE)), **({"ETag": etag} if etag else {})}
    with Stage(says(head(headers=headers), ARCHIVE[:CUT_AT], then="cut"), WHOLE) as stage:
        outcome = fetch(stage)

    assert verified(outcome)
    assert header_of(stage.delivery.heads[1], "Range") is None


def test_a_changed_archive_is_never_mixed_with_the_old_one(fetch: Callable[..., Outcome]) -> None:
    """The delivery has another archive by now and sends it whole; what was there of the old one is gone."""
    with Stage(CUT, says(with_length(ARCHIVE[::-1], headers={"ETag": '"strong-2"'}))) as stage:
        outcome = fetch(stage, "--hash-wait", "0.2s")

    assert outcome.code == 17
    assert outcome.bytes_of(f"{NAME}.rejected") == ARCHIVE[::-1]


def test_a_file_that_was_complete_is_finished_by_a_416(fetch: Callable[..., Outcome]) -> None:
    all_but_the_end = says(head(headers=CHUNKED | LASTING), _CHUNKS[:-5], then="cut")
    with Stage(
        all_but_the_end, says(with_length(b"", "416 No", {"Content-Range": f"bytes */{len(ARCHIVE)}"}))
    ) as s:
        outcome = fetch(s)

    assert verified(outcome)
    assert s.gets == 2


# --- D5: content encodings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "aws-chunked"])
def test_an_encoded_archive_is_refused_and_never_decoded(encoding: str, fetch: Callable[..., Outcome]) -> None:
    with Stage(says(with_length(ARCHIVE, headers={"Content-Encoding": encoding}))) as stage:
        outcome = fetch(stage)

    assert (outcome.code, stage.gets) == (16, 1)
    assert kept_nothing(outcome)
    assert header_of(stage.delivery.heads[0], "Accept-Encoding") == "identity"


# --- D6: slow and endless ------------------------------------------------------------------------------------


def _endless(peer: Peer) -> None:
    peer.head()
    peer.send(head(headers=CHUNKED))
    while True:
        peer.send(chunked(bytes(65536), 65536)[:-5])


_SLOW = {
    "a byte at a time": says(head(headers=LENGTH), ARCHIVE, piece=1, pause=0.05),
    "silence": says(head(headers=LENGTH), ARCHIVE[:CUT_AT], then="wait_for_hang_up"),
    "no answer": says(then="wait_for_hang_up"),
}


@pytest.mark.parametrize("slow", _SLOW.values(), ids=_SLOW)
def test_a_delivery_that_stalls_is_given_up(slow: Script, fetch: Callable[..., Outcome]) -> None:
    with Stage(slow) as stage:
        outcome = fetch(stage, "--stall-timeout", "0.6s", *ONE_RETRY)

    assert (outcome.code, stage.gets) == (16, 2)
    assert outcome.names == GIVEN_UP or (kept_nothing(outcome) and "begin to answer" in outcome.last_line)


def test_an_endless_archive_ends_at_the_size_allowed(fetch: Callable[..., Outcome]) -> None:
    with Stage(_endless) as stage:
        outcome = fetch(stage, "--max-size", "100KiB")

    assert (outcome.code, stage.gets) == (16, 1)
    assert "--max-size" in outcome.last_line
    assert "again" not in outcome.last_line
    assert nothing_published(outcome)


def test_an_archive_announced_larger_than_allowed_is_not_begun(fetch: Callable[..., Outcome]) -> None:
    with Stage(WHOLE, delivery={"maxDownloads": 2}) as stage:
        for _ in range(3):
            outcome = fetch(stage, "--max-size", "10KiB")

            assert (outcome.code, stage.gets) == (16, 1), "its size is known: no other download is used up for it"
            assert "raise --max-size" in outcome.last_line
            assert "again" not in outcome.last_line
            assert kept_nothing(outcome)
        assert verified(fetch(stage, "--max-size", "1MiB"))
    assert stage.gets == 2


def test_an_archive_larger_than_the_disk_is_not_begun(fetch: Callable[..., Outcome]) -> None:
    with Stage(says(head(headers={"Content-Length": str(10**17)}), ARCHIVE, then="wait_for_hang_up")) as stage:
        outcome = fetch(stage)

    assert (outcome.code, stage.gets) == (19, 1)
    assert kept_nothing(outcome)


def test_a_disk_without_the_room_to_stay_free_is_not_written_to(fetch: Callable[..., Outcome]) -> None:
    with Stage(WHOLE) as stage:
        outcome = fetch(stage, "--min-free", "1000TiB")

    assert (outcome.code, stage.gets) == (19, 0)


# --- D7: other bytes -----------------------------------------------------------------------------------------

_OTHER_BYTES = {
    "first bit": bytes([ARCHIVE[0] ^ 0x80]) + ARCHIVE[1:],
    "middle bit": ARCHIVE[:20_000] + bytes([ARCHIVE[20_000] ^ 1]) + ARCHIVE[20_001:],
    "last bit": ARCHIVE[:-1] + bytes([ARCHIVE[-1] ^ 1]),
    "another file": ARCHIVE[::-1],
    "an empty file": b"",
    "one byte more": ARCHIVE + b"\0",
    "one byte less": ARCHIVE[:-1],
}


@pytest.mark.parametrize("kind", _OTHER_BYTES)
def test_other_bytes_are_rejected(kind: str, fetch: Callable[..., Outcome]) -> None:
    other = _OTHER_BYTES[kind]
    with Stage(says(head(headers=CHUNKED), chunked(other, 8192)), delivery={"maxDownloads": 1}) as stage:
        outcome = fetch(stage)

    assert (outcome.code, stage.gets) == (17, 1)
    assert outcome.names == {f"{NAME}.rejected", f"{NAME}.rejected.json"}
    assert outcome.bytes_of(f"{NAME}.rejected") == other
    assert outcome.json_of(f"{NAME}.rejected.json")["sha1"] == hashlib.sha1(other).hexdigest()
    assert SHA1 in outcome.last_line or not other


def test_a_rejected_download_is_remembered_as_used(fetch: Callable[..., Outcome]) -> None:
    with Stage(says(with_length(ARCHIVE[:-1])), delivery={"maxDownloads": 1}) as stage:
        assert fetch(stage).code == 17
        assert fetch(stage).code == 15

    assert stage.gets == 1


def test_an_empty_file_is_no_archive_even_when_its_hash_is_published(fetch: Callable[..., Outcome]) -> None:
    empty = {"fileName": NAME, "hash": hashlib.sha1(b"").hexdigest(), "typeName": "SHA1"}
    with Stage(says(with_length(b"")), hashes=(empty,)) as stage:
        outcome = fetch(stage, "--allow-unverified")

    assert (outcome.code, stage.gets) == (17, 1)
    assert outcome.names == {f"{NAME}.rejected", f"{NAME}.rejected.json"}


# --- D8: hashes ----------------------------------------------------------------------------------------------


def entry(value: Any = SHA1, name: Any = NAME, kind: Any = "SHA1") -> dict[str, Any]:
    """One element of `hashes`; None leaves something out."""
    elements = {"fileName": name, "hash": value, "typeName": kind}
    return {element: value for element, value in elements.items() if value is not None}


@pytest.mark.parametrize(
    "hashes",
    [
        (entry(SHA1.upper()),),
        (entry(kind=None),),
        (entry(kind="sha-1"),),
        (entry(name=None),),
        (entry(name="other.tar.gz"),),
        (entry(), entry(OTHER_SHA1, "other.tar.gz")),
        (entry(), entry("c" * 64, kind="SHA256")),
    ],
    ids=lambda hashes: "+".join("/".join(map(str, one.values())) for one in hashes)[:60],
)
def test_a_hash_of_our_bytes_verifies_them_however_it_is_written(
    hashes: tuple[Any, ...], fetch: Callable[..., Outcome]
) -> None:
    with Stage(hashes=hashes) as stage:
        outcome = fetch(stage, "--hash-wait", "0")

    assert verified(outcome)
    assert stage.gets == 1


@pytest.mark.parametrize(
    "hashes",
    [
        None,
        (),
        (entry(OTHER_SHA1, "other.tar.gz"),),
        (entry(), entry(OTHER_SHA1)),
        (entry(hashlib.sha256(ARCHIVE).hexdigest(), kind="SHA256"),),
        (entry(kind="SHA256"),),
        (entry("g" * 40),),
        (entry(SHA1 + "0"),),
        (entry("\uff10" * 40),),
    ],
    ids=lambda hashes: "+".join("/".join(map(str, one.values())) for one in hashes or ())[:60] or str(hashes),
)
def test_what_is_no_hash_of_ours_leaves_the_archive_unverified(
    hashes: tuple[Any, ...] | None, fetch: Callable[..., Outcome]
) -> None:
    with Stage(hashes=hashes) as stage:
        outcome = fetch(stage, "--hash-wait", "0")

    assert (outcome.code, stage.gets) == (18, 1)
    assert outcome.names == {f"{NAME}.unverified", f"{NAME}.part.json"}


def test_an_unverified_archive_is_verified_without_a_download_once_there_is_a_hash(
    fetch: Callable[..., Outcome],
) -> None:
    with Stage(hashes=(), delivery={"maxDownloads": 1}) as stage:
        assert fetch(stage, "--hash-wait", "0").code == 18
        stage.hashes = (entry(),)
        assert verified(fetch(stage, "--hash-wait", "0"))

    assert stage.gets == 1


def test_a_late_hash_is_waited_for(fetch: Callable[..., Outcome]) -> None:
    with Stage(looks=(shows(), shows(hashes=[]), shows(hashes=None), shows())) as stage:
        outcome = fetch(stage)

    assert verified(outcome)
    assert (stage.gets, stage.polls) == (1, 4)


def test_a_hash_of_an_earlier_download_is_not_held_against_this_one(fetch: Callable[..., Outcome]) -> None:
    stale = shows(hashes=[entry(OTHER_SHA1)])
    with Stage(looks=(stale, stale, stale, stale, shows())) as stage:
        outcome = fetch(stage)

    assert verified(outcome)
    assert (stage.gets, stage.polls) == (1, 5)


def test_one_look_at_a_hash_that_differs_does_not_settle_it(fetch: Callable[..., Outcome]) -> None:
    with Stage(looks=(shows(), shows(hashes=[entry(OTHER_SHA1)]), shows())) as stage:
        outcome = fetch(stage)

    assert verified(outcome)
    assert stage.gets == 1


def test_a_hash_that_differs_for_good_is_a_mismatch(fetch: Callable[..., Outcome]) -> None:
    with Stage(hashes=(entry(OTHER_SHA1),)) as stage:
        outcome = fetch(stage)

    assert (outcome.code, stage.gets) == (17, 1)
    assert outcome.names == {f"{NAME}.rejected", f"{NAME}.rejected.json"}
    assert OTHER_SHA1 in outcome.last_line


@pytest.mark.parametrize("allowed", [(), ("--allow-unverified",)])
def test_a_hash_that_stays_stale_never_verifies_nor_lets_through(
    allowed: tuple[str, ...], fetch: Callable[..., Outcome]
) -> None:
    with Stage(hashes=(entry(OTHER_SHA1),), early_hashes=(entry(OTHER_SHA1),)) as stage:
        outcome = fetch(stage, "--hash-wait", "0.3s", *allowed)

    assert (outcome.code, stage.gets) == (17, 1)
    assert nothing_published(outcome)


# --- D9: redirects -------------------------------------------------------------------------------------------


def redirects(location: str, status: str = "302 Found") -> Script:
    return says(with_length(b"", status, {"Location": location}))


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_a_redirect_within_the_origin_keeps_the_header(status: str, fetch: Callable[..., Outcome]) -> None:
    with Stage(redirects(f"/stored/{NAME}", status), WHOLE, header=True) as stage:
        outcome = fetch(stage)

    assert verified(outcome)
    assert stage.gets == 2
    assert [header_of(one, "X-Restore-Key") for one in stage.delivery.heads] == [AUTH_VALUE, AUTH_VALUE]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_redirect_to_another_origin_never_carries_the_header(host: str, fetch: Callable[..., Outcome]) -> None:
    """Another port is another origin, and so is another name of the same host; on the way back it stays away."""
    with WireServer(WHOLE) as other:
        away = f"http://{host}:{other.port}/signed/{NAME}"
        with Stage(redirects(away), header=True) as stage:
            outcome = fetch(stage)

        assert verified(outcome)
        assert (stage.gets, len(other.heads)) == (1, 1)
        assert AUTH_VALUE not in other.heads[0]
        assert header_of(other.heads[0], "X-Restore-Key") is None
        assert header_of(other.heads[0], "Authorization") is None


def test_a_redirect_there_and_back_does_not_bring_the_header_back(fetch: Callable[..., Outcome]) -> None:
    with Stage(header=True) as stage:
        back = WireServer(lambda peer: redirects(f"{stage.delivery.url('')}/stored/{NAME}")(peer))
        with back:
            stage.delivery._scripts = (redirects(back.url(f"/{NAME}")), WHOLE)
            outcome = fetch(stage)

    assert verified(outcome)
    assert [header_of(one, "X-Restore-Key") for one in stage.delivery.heads] == [AUTH_VALUE, None]


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:1/a.tar.gz", "file:///etc/passwd", "ftp://127.0.0.1/a.tar.gz"]
)
def test_a_redirect_away_from_https_is_refused(target: str, tmp_path: Path, fetch: Callable[..., Outcome]) -> None:
    with Stage(redirects(target), tls=True) as stage:
        stage.ca_file = tmp_path / "ca.pem"
        authority().cert_pem.write_to_path(str(stage.ca_file))
        outcome = fetch(stage)

    assert (outcome.code, stage.gets) == (16, 1)
    assert "https" in outcome.last_line
    assert "start a new restore job" in outcome.last_line
    assert kept_nothing(outcome)


def test_redirects_without_end_are_left(fetch: Callable[..., Outcome]) -> None:
    with Stage(redirects(f"/again/{NAME}")) as stage:
        outcome = fetch(stage)

    assert outcome.code == 16
    assert stage.gets == 6
    assert kept_nothing(outcome)


@pytest.mark.parametrize("location", ["http://[broken/", "//", "http://:99999999/x"])
def test_a_redirect_to_no_url_is_refused(location: str, fetch: Callable[..., Outcome]) -> None:
    with Stage(redirects(location)) as stage:
        outcome = fetch(stage, *NO_RETRY)

    assert outcome.code == 16
    assert kept_nothing(outcome)


# --- D10: hostile names --------------------------------------------------------------------------------------

_SAFE = f"restore-{JOB}.tar.gz"


@pytest.mark.parametrize(
    ("segment", "name"),
    [
        ("good_1.tar.gz", "good_1.tar.gz"),
        ("a%2Db.tgz", "a-b.tgz"),
        ("%2e%2e%2f%2e%2e%2fetc%2fpasswd.tar.gz", _SAFE),
        (".hidden.tar.gz", _SAFE),
        ("-rf.tar.gz", _SAFE),
        ("a%00.tar.gz", _SAFE),
        ("a%0a.tar.gz", _SAFE),
        ("a%1b%5b2J.tar.gz", _SAFE),
        ("%e2%80%aegz.rat.tar.gz", _SAFE),
        ("%ff%fe.tar.gz", _SAFE),
        ("a" * 198 + ".tar.gz", _SAFE),
        ("b" * 193 + ".tar.gz", "b" * 193 + ".tar.gz"),
        ("archive.zip", _SAFE),
        ("archive.tar.gz;x=.tar.gz", _SAFE),
        ("download?name=../../x.tar.gz", _SAFE),
        ("", _SAFE),
    ],
)
def test_a_hostile_name_in_the_url_stays_in_the_folder(
    segment: str, name: str, tmp_path: Path, fetch: Callable[..., Outcome]
) -> None:
    script = says(with_length(ARCHIVE, headers={"Content-Disposition": 'attachment; filename="../../evil.tar.gz"'}))
    with Stage(script, path=f"/pull/{URL_KEY}/{segment}", hashes=(entry(name=None),)) as stage:
        outcome = fetch(stage)

    assert verified(outcome, name)
    assert stage.gets == 1
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


@pytest.mark.parametrize(
    "disposition",
    [
        "attachment; filename*=UTF-8''..%2Fevil.tar.gz",
        'attachment; filename="\x1b[2J.tar.gz"',
    ],
)
def test_a_name_in_a_header_is_not_listened_to(disposition: str, fetch: Callable[..., Outcome]) -> None:
    with Stage(says(with_length(ARCHIVE, headers={"Content-Disposition": disposition}))) as stage:
        outcome = fetch(stage)

    # A header with a control character is no HTTP at all.
    assert verified(outcome) or ("\x1b" in disposition and outcome.code == 16 and nothing_published(outcome))
    assert stage.gets == 1


# --- D11: the delivery ends meanwhile ------------------------------------------------------------------------

_ENDS = {
    "expired": {"delivery": {"statusName": "EXPIRED"}},
    "expired without a URL": {"delivery": {"statusName": "EXPIRED", "url": None}},
    "past its date": {"delivery": {"expires": iso(timedelta(hours=-1))}},
    "used up": {"delivery": {"statusName": "MAX_DOWNLOADS_EXCEEDED", "maxDownloads": 1}},
    "without a delivery": {"delivery": {"methodName": None, "statusName": None, "url": None, "expires": None}},
}


@pytest.mark.parametrize("end", _ENDS.values(), ids=_ENDS)
def test_a_whole_download_is_verified_although_its_delivery_is_over(
    end: dict[str, Any], fetch: Callable[..., Outcome]
) -> None:
    with Stage(looks=(shows(), shows(hashes=[], **end), shows(**end))) as stage:
        outcome = fetch(stage)

    assert verified(outcome)
    assert stage.gets == 1


@pytest.mark.parametrize("end", _ENDS.values(), ids=_ENDS)
def test_a_cut_download_is_not_asked_for_again_when_its_delivery_is_over(
    end: dict[str, Any], fetch: Callable[..., Outcome]
) -> None:
    with Stage(CUT, WHOLE, looks=(shows(), shows(**end))) as stage:
        outcome = fetch(stage)

    assert (outcome.code, stage.gets) == (15, 1)
    assert outcome.names == GIVEN_UP
    assert part_of(outcome) == ARCHIVE[:CUT_AT]
