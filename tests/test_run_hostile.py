"""Whole runs against a delivery, a service and a neighbour on the machine that mean harm.

Whatever they do, a run never ends with 0 and other bytes than those that were hashed, never waits for them without
end, and never gives a secret away.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults_support import (
    ARCHIVE,
    CUT_AT,
    ETAG,
    JOB,
    LASTING,
    NAME,
    OTHER_ID,
    OTHER_SHA1,
    SHA1,
    WHOLE,
    Look,
    Stage,
    answers,
    nothing_published,
    shows,
    verified,
)
from tests.run_support import PATIENCE_SECONDS, Outcome, run
from tests.wire_support import (
    Peer,
    Script,
    WireServer,
    authority,
    chunked,
    head,
    says,
    server_tls,
    with_length,
)

CHUNKED = {"Transfer-Encoding": "chunked"}
NO_RETRY = ("--retries", "0")
OTHER = ARCHIVE[::-1]


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., Outcome]:
    """Runs a fetch against a stage, always into the same folder."""
    return lambda stage, *options: run(stage, tmp_path / "out", "fetch", *options)


# --- the delivery: framing that never ends -------------------------------------------------------------------


def drips(begin: bytes, rest: bytes) -> Script:
    """A delivery that says its beginning at once, and then the rest a byte at a time for ever."""

    def script(peer: Peer) -> None:
        if peer.head():
            peer.send(begin)
            while True:
                peer.send(rest, piece=1, pause=0.02)

    return script


_WITHOUT_END = {
    "a chunk's extension": drips(head(headers=CHUNKED) + b"5;", b"x=y;"),
    "a chunk's size": drips(head(headers=CHUNKED), b"0"),
    "trailers": drips(head(headers=CHUNKED) + chunked(ARCHIVE)[:-2], b"A: " + b"b" * 1000 + b"\r\n"),
    "interim answers": drips(b"", head("103 Early Hints")),
    "a header": drips(b"HTTP/1.1 200 OK\r\nX-Padding: ", b"x"),
}


@pytest.mark.parametrize("kind", _WITHOUT_END)
def test_framing_that_drips_is_a_stall_like_any_other(kind: str, fetch: Callable[..., Outcome]) -> None:
    """A byte comes in time, again and again; none of them is one of the archive."""
    with Stage(_WITHOUT_END[kind], delivery={"maxDownloads": 1}) as stage:
        outcome = fetch(stage, "--stall-timeout", "0.5s")

    assert (outcome.code, stage.gets) == (16, 1)
    assert nothing_published(outcome)
    assert "stalled" in outcome.last_line or "did not begin to answer" in outcome.last_line


def floods(begin: bytes, rest: bytes) -> Script:
    """A delivery that says its beginning, and then the rest as fast as it is taken, for ever."""

    def script(peer: Peer) -> None:
        if peer.head():
            peer.send(begin)
            while True:
                peer.send(rest)

    return script


_FLOODS = {
    "a chunk's extension": floods(head(headers=CHUNKED) + b"5;", b"x" * 65536),
    "an extension to every byte": says(
        head(headers=CHUNKED),
        b"".join(b"1;%s\r\n%c\r\n" % (b"x" * 20_000, one) for one in ARCHIVE[:200]),
        b"0\r\n\r\n",
    ),
    "trailers": floods(head(headers=CHUNKED) + chunked(ARCHIVE)[:-2], b"A: b\r\n" * 1000),
    "interim answers": floods(b"", head("103 Early Hints") * 1000),
    "headers": floods(b"HTTP/1.1 200 OK\r\n", b"X-Padding: x\r\n" * 1000),
    "two lengths": says(b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\nContent-Length: 39999\r\n\r\n", ARCHIVE),
    "a length and chunks": says(head(headers={"Content-Length": "5"} | CHUNKED), chunked(OTHER)),
    "compressed on the way": says(head(headers={"Transfer-Encoding": "gzip, chunked"}), chunked(OTHER)),
    "a negative length": says(head(headers={"Content-Length": "-1"}), OTHER),
    "a length in words": says(head(headers={"Content-Length": "0x10"}), OTHER),
    "a chunk of a negative size": says(head(headers=CHUNKED), b"-5\r\nhello\r\n0\r\n\r\n"),
    "an HTTP of long ago": says(OTHER),
    "a part in many parts": says(
        head("206 Partial Content", {"Content-Type": "multipart/byteranges; boundary=x"}), OTHER
    ),
}


@pytest.mark.parametrize("kind", _FLOODS)
def test_no_framing_of_other_bytes_is_taken_for_the_archive(kind: str, fetch: Callable[..., Outcome]) -> None:
    with Stage(_FLOODS[kind], delivery={"maxDownloads": 1}) as stage:
        outcome = fetch(stage, "--stall-timeout", "1s", "--hash-wait", "0")

    assert outcome.code in (16, 17)
    assert stage.gets == 1
    assert nothing_published(outcome)


# --- the delivery: going on ----------------------------------------------------------------------------------


_OTHER_RESTS = {
    "other bytes under the same tag": (ETAG, OTHER[CUT_AT:]),
    "too few under the same tag": (ETAG, ARCHIVE[CUT_AT:-1]),
    "too many under the same tag": (ETAG, ARCHIVE[CUT_AT:] + b"!"),
}


@pytest.mark.parametrize("kind", _OTHER_RESTS)
def test_a_rest_of_other_bytes_is_never_the_archive(kind: str, fetch: Callable[..., Outcome]) -> None:
    etag, rest = _OTHER_RESTS[kind]
    begin = says(head(headers=CHUNKED | {"ETag": etag}), chunked(ARCHIVE[:CUT_AT])[:-5], then="cut")
    fields = {"Content-Range": f"bytes {CUT_AT}-{CUT_AT + len(rest) - 1}/{CUT_AT + len(rest)}", "ETag": etag}
    with Stage(begin, says(with_length(rest, "206 Partial Content", fields))) as stage:
        outcome = fetch(stage, "--hash-wait", "0")

    assert (outcome.code, stage.gets) == (17, 2)
    assert outcome.names == {f"{NAME}.rejected", f"{NAME}.rejected.json"}


def test_a_416_that_calls_half_of_it_whole_is_caught(fetch: Callable[..., Outcome]) -> None:
    begin = says(head(headers=CHUNKED | LASTING), chunked(ARCHIVE[:CUT_AT])[:-5], then="cut")
    with Stage(begin, says(with_length(b"", "416 No", {"Content-Range": f"bytes */{CUT_AT}"}))) as stage:
        outcome = fetch(stage, "--hash-wait", "0")

    assert (outcome.code, stage.gets) == (17, 2)
    assert nothing_published(outcome)


# --- the delivery: elsewhere ---------------------------------------------------------------------------------


def redirects(location: str) -> Script:
    return says(with_length(b"", "302 Found", {"Location": location}))


def test_https_is_not_left_by_a_way_round(tmp_path: Path, fetch: Callable[..., Outcome]) -> None:
    """From http to https is a way up; the way down again is refused, even to this machine."""
    with WireServer(says(with_length(OTHER))) as plain_one:
        with WireServer(redirects(plain_one.url()), tls=server_tls()) as secure, Stage() as stage:
            stage.delivery._scripts = (redirects(secure.url()),)
            stage.ca_file = tmp_path / "ca.pem"
            authority().cert_pem.write_to_path(str(stage.ca_file))
            outcome = fetch(stage)

        assert (outcome.code, len(secure.heads), len(plain_one.heads)) == (16, 1, 0)
    assert "from https to http" in outcome.last_line
    assert nothing_published(outcome)


@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/latest/meta-data/", "http://[fe80::1]/", "http://8.8.8.8/"]
)
def test_a_redirect_in_the_clear_to_where_a_url_may_not_lead_is_refused(
    target: str, fetch: Callable[..., Outcome]
) -> None:
    with Stage(redirects(target)) as stage:
        outcome = fetch(stage)

    assert (outcome.code, stage.gets) == (16, 1)
    assert "not a loopback or private address" in outcome.last_line
    assert nothing_published(outcome)


# --- the API -------------------------------------------------------------------------------------------------


def raw(**elements: str) -> Look:
    """A look with some elements of the delivery, or of the job, written as they are."""

    def look(stage: Stage) -> bytes:
        text = json.dumps(stage.document())
        for place, (name, value) in enumerate(elements.items()):
            marker = json.dumps(f"marker-{place}")
            document = json.loads(text)
            holder = document["delivery"] if name in document["delivery"] else document
            holder[name] = f"marker-{place}"
            text = json.dumps(document).replace(marker, value)
        return answers(text.encode())(stage)

    return look


_NUMBERS = ("1" + "0" * 4000, "-1", "0", "1e400", "-1e400", "NaN", "Infinity", "1.5", "true", '"9"', "[]")


@pytest.mark.parametrize("number", _NUMBERS, ids=lambda text: text[:10])
@pytest.mark.parametrize("element", ["maxDownloads", "expirationHours", "timestamp"])
def test_a_number_without_sense_ends_a_run_like_any_other(
    element: str, number: str, fetch: Callable[..., Outcome]
) -> None:
    value = f'{{"date": "2026-01-31T11:59:00Z", "increment": {number}}}' if element == "timestamp" else number
    with Stage(looks=(raw(**{element: value}),)) as stage:
        outcome = fetch(stage, "--wait", "0", "--hash-wait", "0")

    assert verified(outcome) or (outcome.code in (12, 14, 15) and nothing_published(outcome))


_NAMES = ("\u202egnp.rat", "a\x00b", "\x1b[2J\x1b[H", "line\nbreak", "\u2028", "\ufeff", "x" * 500_000, "../../etc")


@pytest.mark.parametrize("name", _NAMES, ids=lambda name: ascii(name)[:12])
def test_a_cluster_name_can_neither_move_files_nor_rewrite_the_terminal(
    name: str, fetch: Callable[..., Outcome]
) -> None:
    with Stage(changes={"clusterName": name}) as stage:
        outcome = fetch(stage, "--json", "-vv")

    assert outcome.code == 0
    assert outcome.bytes_of(NAME) == ARCHIVE
    assert outcome.names == {NAME, f"{NAME}.sha1", f"{NAME}.receipt.json"}
    told = outcome.stdout + outcome.stderr
    assert not any(bad in told for bad in ("\u202e", "\x1b", "\x00", "\u2028", "\ufeff"))


_ADDRESSES = (
    "http://127.0.0.1:{port}@backup.example.net/{name}",
    "http://backup.example.net#@127.0.0.1:{port}/{name}",
    "http://127.0.0.1.example.net:{port}/{name}",
    "http://2130706433:{port}/{name}",
    "http://0x7f.1:{port}/{name}",
    "http://[::ffff:8.8.8.8]/{name}",
    "http://\u2460\u2461\u2466.0.0.1.example.net/{name}",
    "http:/{name}",
    "//127.0.0.1:{port}/{name}",
    "gopher://127.0.0.1:{port}/{name}",
    "https://127.0.0.1:{port}\\@x/{name}",
    "http://127.0.0.1:{port}/{name}\r\nX-Injected: yes",
    "http://127.0.0.1:99999999/{name}",
)


@pytest.mark.parametrize("address", _ADDRESSES, ids=range(len(_ADDRESSES)))
def test_an_address_that_plays_tricks_is_never_asked_in_the_clear(
    address: str, fetch: Callable[..., Outcome]
) -> None:
    with Stage() as stage:
        stage._delivery_changes["url"] = address.format(port=stage.delivery.port, name=NAME)
        outcome = fetch(stage, *NO_RETRY, "--wait", "0")

    assert outcome.code in (12, 15, 16)
    assert stage.gets == 0
    assert nothing_published(outcome)


def test_an_address_that_changes_between_looks_is_followed_to_the_same_bytes_alone(
    fetch: Callable[..., Outcome],
) -> None:
    """The second look names a host that has other bytes, and says of them that all is well."""
    cut = says(head(headers=CHUNKED), chunked(ARCHIVE)[:5000], then="cut")
    with Stage(says(with_length(OTHER))) as evil, Stage(cut) as stage:
        stage._looks = (shows(), shows(delivery={"url": evil.url}))
        outcome = fetch(stage, "--hash-wait", "0")

    assert (outcome.code, stage.gets, evil.gets) == (17, 1, 1)
    assert nothing_published(outcome)


_HASHES: dict[str, Any] = {
    "of another job": [{"fileName": f"{OTHER_ID}.tar.gz", "hash": OTHER_SHA1, "typeName": "SHA1"}],
    "two for one file": [
        {"fileName": NAME, "hash": SHA1, "typeName": "SHA1"},
        {"fileName": NAME, "hash": OTHER_SHA1, "typeName": "SHA1"},
    ],
    "the right one under another algorithm": [{"fileName": NAME, "hash": SHA1, "typeName": "SHA256"}],
    "cut short": [{"fileName": NAME, "hash": SHA1[:-1], "typeName": "SHA1"}],
    "empty": [{"fileName": NAME, "hash": "", "typeName": "SHA1"}],
    "of nothing": [{"fileName": NAME, "hash": "da39a3ee5e6b4b0d3255bfef95601890afd80709", "typeName": "SHA1"}],
    "digits of another script": [
        {"fileName": NAME, "hash": "".join(chr(0xFF10 + int(one)) if one.isdigit() else one for one in SHA1)}
    ],
    "10,000 of them": [{"fileName": f"{n}.tar.gz", "hash": f"{n:040x}", "typeName": "SHA1"} for n in range(5_000)],
}


@pytest.mark.parametrize("kind", _HASHES)
def test_hashes_that_are_not_the_one_of_our_file_prove_nothing(kind: str, fetch: Callable[..., Outcome]) -> None:
    with Stage(hashes=_HASHES[kind]) as stage:
        outcome = fetch(stage, "--hash-wait", "0")

    assert outcome.code in (12, 17, 18)
    assert nothing_published(outcome)


@pytest.mark.parametrize("element", ["statusName", "masterKeyUUID"])
def test_a_word_of_a_megabyte_is_not_told_in_full(element: str, fetch: Callable[..., Outcome]) -> None:
    with Stage(changes={element: "x" * 900_000, "encryptionEnabled": True}) as stage:
        outcome = fetch(stage, "--wait", "0.1s")

    assert outcome.code in (0, 14)
    assert len(outcome.stderr) < 100_000


def test_a_job_that_is_finished_and_delivers_nothing_is_waited_for_no_longer_than_allowed(
    fetch: Callable[..., Outcome],
) -> None:
    with Stage(changes={"delivery": None}) as stage:
        outcome = fetch(stage, "--wait", "0.2s")

    assert (outcome.code, stage.gets) == (14, 0)
    assert outcome.names == set()


# --- a neighbour on the machine ------------------------------------------------------------------------------


def _spoil(archive: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[100] ^= 1
    archive.write_bytes(content)


def _touch_the_receipt(folder: Path) -> None:
    _spoil(folder / NAME)
    (folder / f"{NAME}.receipt.json").touch()


def _copy_the_receipt(folder: Path) -> None:
    _spoil(folder / NAME)
    receipt = folder / f"{NAME}.receipt.json"
    copy = folder / "copy"
    copy.write_bytes(receipt.read_bytes())
    copy.rename(receipt)


def _turn_back_the_times(folder: Path) -> None:
    archive = folder / NAME
    before = archive.stat()
    _spoil(archive)
    os.utime(archive, ns=(before.st_atime_ns, before.st_mtime_ns))


def _move_another_file_there(folder: Path) -> None:
    archive = folder / NAME
    other = folder / "other"
    other.write_bytes(OTHER)
    os.utime(other, (1, 1))
    other.rename(archive)


_SPOILS = (_touch_the_receipt, _copy_the_receipt, _turn_back_the_times, _move_another_file_there)


@pytest.mark.parametrize("spoil", _SPOILS)
def test_an_archive_that_was_changed_is_never_verified_by_its_old_receipt(
    spoil: Callable[[Path], None], tmp_path: Path, fetch: Callable[..., Outcome]
) -> None:
    with Stage() as stage:
        assert verified(fetch(stage))
        receipt = tmp_path / "out" / f"{NAME}.receipt.json"
        _age(receipt)
        spoil(tmp_path / "out")
        outcome = fetch(stage)

    assert outcome.code == 17
    assert outcome.stdout == ""


def _age(receipt: Path) -> None:
    """Let a receipt be as old as if the run had been long ago."""
    document = json.loads(receipt.read_bytes())
    document["finished"] = document["started"] = "2026-01-01T00:00:00Z"
    receipt.write_text(json.dumps(document))


def test_the_receipt_of_another_job_is_no_receipt_of_this_one(
    tmp_path: Path, fetch: Callable[..., Outcome]
) -> None:
    """The neighbour gives other bytes our file's name, and the receipt of their own job our receipt's."""
    folder = tmp_path / "out"
    with Stage() as stage:
        assert verified(fetch(stage))
        document = json.loads((folder / f"{NAME}.receipt.json").read_bytes())
        document["job"]["id"] = OTHER_ID
        (folder / f"{NAME}.receipt.json").write_text(json.dumps(document))
        _spoil(folder / NAME)
        outcome = fetch(stage)

    assert outcome.code == 19
    assert stage.gets == 1


def test_a_receipt_whose_hashes_disagree_is_not_believed(tmp_path: Path, fetch: Callable[..., Outcome]) -> None:
    folder = tmp_path / "out"
    with Stage() as stage:
        assert verified(fetch(stage))
        receipt = folder / f"{NAME}.receipt.json"
        _spoil(folder / NAME)
        spoilt = hashlib.sha1((folder / NAME).read_bytes()).hexdigest()
        document = json.loads(receipt.read_bytes())
        document["sha1"] = spoilt
        receipt.write_text(json.dumps(document))
        outcome = fetch(stage)
        offline = run(stage, folder, "verify", str(folder / NAME))

    assert (outcome.code, offline.code) == (19, 19)


def test_two_folders_have_nothing_to_do_with_each_other(tmp_path: Path) -> None:
    with Stage(WHOLE, says(with_length(OTHER))) as stage:
        one = run(stage, tmp_path / "one", "fetch")
        other = run(stage, tmp_path / "other", "fetch", "--hash-wait", "0")

    assert verified(one)
    assert other.code == 17
    assert one.bytes_of(NAME) == ARCHIVE
    assert JOB not in "".join(name for name in one.names if name.endswith(".lock"))


def _spoils_then_shows(path: Path) -> Look:
    """A look at the job during which somebody changes a file."""

    def look(stage: Stage) -> bytes:
        _spoil(path)
        return shows()(stage)

    return look


def test_bytes_that_are_changed_while_their_hash_is_waited_for_are_not_published(
    tmp_path: Path, fetch: Callable[..., Outcome]
) -> None:
    part = tmp_path / "out" / f"{NAME}.part"
    with Stage(looks=(shows(), shows(hashes=[]), _spoils_then_shows(part))) as stage:
        outcome = fetch(stage)

        assert outcome.code == 19
        assert "changed" in outcome.last_line
        assert nothing_published(outcome)
        stage._looks = (shows(),)
        assert verified(fetch(stage))
    assert stage.gets == 2


def test_an_unverified_archive_that_is_changed_at_the_last_moment_is_not_published(
    tmp_path: Path, fetch: Callable[..., Outcome]
) -> None:
    with Stage(looks=(shows(hashes=[]),)) as stage:
        assert fetch(stage, "--hash-wait", "0").code == 18
        stage._looks = (_spoils_then_shows(tmp_path / "out" / f"{NAME}.unverified"),)
        outcome = fetch(stage)

    assert outcome.code == 19
    assert nothing_published(outcome)
    assert stage.gets == 1


def test_bytes_that_somebody_adds_behind_the_archive_are_not_published_with_it(
    tmp_path: Path, fetch: Callable[..., Outcome]
) -> None:
    part = tmp_path / "out" / f"{NAME}.part"

    def script(peer: Peer) -> None:
        if peer.head():
            peer.send(head(headers={"Content-Length": str(len(ARCHIVE))}) + ARCHIVE[:-1])
            deadline = time.monotonic() + PATIENCE_SECONDS
            while part.stat().st_size == 0:
                assert time.monotonic() < deadline, "nothing is written"
                time.sleep(0.01)
            with part.open("r+b") as stream:
                stream.seek(len(ARCHIVE) + 10)
                stream.write(b"more")
            peer.send(ARCHIVE[-1:])
            peer.end()

    with Stage(script, WHOLE) as stage:
        outcome = fetch(stage, *NO_RETRY)

        assert outcome.code == 19
        assert nothing_published(outcome)
        assert verified(fetch(stage))
    assert stage.gets == 2
