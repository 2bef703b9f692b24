"""One archive over several attempts and runs: what is tried again, what is used up, what is believed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from restore_fetch.delivery import JournalFile
from restore_fetch.delivery.part import boot_id
from restore_fetch.errors import (
    DeliveryExpiredError,
    DeliveryUnusableError,
    DownloadInterruptedError,
    DownloadRefusedError,
    DownloadsSpentError,
    HashMismatchError,
    RestoreFetchError,
    ServiceUnavailableError,
    StorageError,
)
from restore_fetch.models import RestoreJob
from restore_fetch.records import Attempt
from tests.delivery_support import (
    JOB_ID,
    NAME,
    FakeService,
    Notes,
    fetch,
    fetcher,
    new_journal,
    options,
    sha1,
    some_bytes,
)
from tests.support import ManualClock
from tests.wire_support import Peer, Script, WireServer, head, header_of, says, unused_port, with_length

ARCHIVE = some_bytes(10_000, seed=7)
HERE = 4_000
ETAG = '"one"'
WHOLE = with_length(ARCHIVE, headers={"ETag": ETAG})
CUT = says(WHOLE[: -len(ARCHIVE) + HERE])
NO_TAG_CUT = says(with_length(ARCHIVE)[:-1])


def rest(start: int = HERE) -> bytes:
    last = len(ARCHIVE) - 1
    return with_length(
        ARCHIVE[start:], "206 Partial Content", {"Content-Range": f"bytes {start}-{last}/{last + 1}", "ETag": ETAG}
    )


def service_of(server: WireServer, clock: ManualClock, **delivery: object) -> FakeService:
    return FakeService(server.url(), sha1(ARCHIVE), clock, downloaded=lambda: server.connections > 0, **delivery)


def journal_in(folder: Path) -> JournalFile:
    journal = JournalFile.at(folder, NAME)
    assert journal is not None
    return journal


# --- trying again ----------------------------------------------------------------------------------------


def test_a_cut_download_goes_on_and_is_published(tmp_path: Path, clock: ManualClock) -> None:
    with WireServer(CUT, says(rest())) as server:
        fetched = fetch(service_of(server, clock), tmp_path, clock, retries=1)
    assert fetched.path.read_bytes() == ARCHIVE
    assert header_of(server.heads[1], "Range") == f"bytes={HERE}-"
    told = [(one.outcome, one.resumed_from, one.bytes) for one in fetched.receipt.attempts]
    assert told == [("cut", 0, HERE), ("complete", HERE, len(ARCHIVE))]
    assert sorted(file.name for file in tmp_path.iterdir()) == [NAME, f"{NAME}.receipt.json", f"{NAME}.sha1"]


def test_a_later_run_goes_on_from_what_an_earlier_one_left(tmp_path: Path, clock: ManualClock) -> None:
    with WireServer(CUT, says(rest())) as server:
        service = service_of(server, clock)
        with pytest.raises(DownloadInterruptedError):
            fetch(service, tmp_path, clock)
        assert not (tmp_path / NAME).exists()
        clock.advance(60)
        assert fetch(service, tmp_path, clock).path.read_bytes() == ARCHIVE
    assert len(server.heads) == 2


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_no_more_attempts_are_made_than_allowed(retries: int, tmp_path: Path, clock: ManualClock) -> None:
    with WireServer(CUT, says(b"")) as server, pytest.raises(DownloadInterruptedError) as caught:
        fetch(service_of(server, clock, maxDownloads=100), tmp_path, clock, retries=retries)
    assert len(server.heads) == 1 + retries
    assert f"{HERE} bytes are kept" in caught.value.files
    assert "goes on from there" in caught.value.next_step


def test_the_job_is_looked_at_before_another_download_is_used_up(tmp_path: Path, clock: ManualClock) -> None:
    with WireServer(CUT, says(rest())) as server:
        service = service_of(server, clock)
        looks: list[tuple[int, int]] = []
        look = service.job

        def job(job_id: str) -> RestoreJob:
            looks.append((service.looks + 1, len(server.heads)))
            return look(job_id)

        service.job = job  # type: ignore[method-assign]
        fetch(service, tmp_path, clock, retries=1)
    assert looks == [(1, 0), (2, 1), (3, 2)]


def test_a_pause_that_the_delivery_asks_for_is_made(tmp_path: Path, clock: ManualClock) -> None:
    with WireServer(says(with_length(b"", "503 Busy", {"Retry-After": "77"})), says(WHOLE)) as server:
        fetch(service_of(server, clock), tmp_path, clock, retries=1)
    assert 77 <= sum(clock.slept) <= 90


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("EXPIRED", DeliveryExpiredError),
        ("MAX_DOWNLOADS_EXCEEDED", DownloadsSpentError),
        ("FAILED", DeliveryUnusableError),
        ("INTERRUPTED", DeliveryUnusableError),
    ],
)
@pytest.mark.parametrize("answer", [b"", with_length(b"sorry", "403 Forbidden"), with_length(b"sorry", "410 Gone")])
def test_a_delivery_that_is_over_is_not_asked_again_and_the_job_says_why(
    answer: bytes, status: str, error: type[RestoreFetchError], tmp_path: Path, clock: ManualClock
) -> None:
    with WireServer(says(answer)) as server:
        service = service_of(server, clock)

        def look(peer: Peer) -> None:
            service.delivery["statusName"] = status
            says(answer)(peer)

        server._scripts = (look,)
        with pytest.raises(error):
            fetch(service, tmp_path, clock, retries=3)
    assert len(server.heads) == 1


def test_a_refusal_that_the_job_cannot_explain_is_told_as_it_is(tmp_path: Path, clock: ManualClock) -> None:
    with (
        WireServer(says(with_length(b"sorry", "404 Not Found"))) as server,
        pytest.raises(DownloadRefusedError) as caught,
    ):
        fetch(service_of(server, clock), tmp_path, clock, retries=3)
    assert (caught.value.status, len(server.heads)) == (404, 1)


def test_a_delivery_that_expires_between_two_attempts_is_not_asked_again(
    tmp_path: Path, clock: ManualClock
) -> None:
    with WireServer(CUT) as server:
        service = service_of(server, clock, expires=(clock.now() + timedelta(seconds=5)).isoformat())
        with pytest.raises(DeliveryExpiredError):
            fetch(service, tmp_path, clock, retries=3)
    assert len(server.heads) == 1


@pytest.mark.parametrize(
    "answer",
    [
        with_length(ARCHIVE, headers={"Content-Encoding": "gzip"}),
        with_length(b"<html>", headers={"Content-Type": "text/html"}),
        with_length(b"sorry", "403 Forbidden"),
        head(headers={"Transfer-Encoding": "chunked"}) + b"no chunks\r\n",
        head(headers={"Content-Length": "-1"}),
        head("302 Found", {"Location": "ftp://127.0.0.1/x"}),
        b"rubbish\r\n\r\n",
    ],
    ids=range(7),
)
def test_what_would_come_again_is_not_asked_for_again(answer: bytes, tmp_path: Path, clock: ManualClock) -> None:
    with WireServer(says(answer)) as server, pytest.raises(DownloadRefusedError):
        fetch(service_of(server, clock), tmp_path, clock, retries=3)
    assert len(server.heads) == 1
    assert not (tmp_path / NAME).exists()


def test_an_error_keeps_the_error_that_caused_it(tmp_path: Path, clock: ManualClock) -> None:
    with WireServer(says(WHOLE[:100], then="reset")) as server, pytest.raises(DownloadInterruptedError) as caught:
        fetch(service_of(server, clock), tmp_path, clock)
    assert caught.value.__cause__ is not caught.value
    assert isinstance(caught.value.__cause__, OSError)


def test_a_run_that_is_cancelled_makes_no_other_attempt(tmp_path: Path, clock: ManualClock) -> None:
    stop: list[bool] = []

    def stall(peer: Peer) -> None:
        peer.head()
        peer.send(WHOLE[:-1])
        stop.append(True)
        peer.wait_for_hang_up()

    class Ticking(ManualClock):
        def monotonic(self) -> float:
            self.advance(0.3)
            return super().monotonic()

    ticking = Ticking()
    with WireServer(stall) as server:
        one = fetcher(
            service_of(server, ticking), options(tmp_path, retries=3), ticking, cancelled=lambda: bool(stop)
        )
        with pytest.raises(DownloadInterruptedError, match="cancelled") as caught:
            one.fetch(JOB_ID)
    assert len(server.heads) == 1
    assert caught.value.outcome == "interrupted"
    assert journal_in(tmp_path).state.attempts[-1].outcome == "interrupted"


# --- the budget ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [1, 2, 4])
@pytest.mark.parametrize(
    "script", [CUT, NO_TAG_CUT, says(b""), says(b"", then="reset"), says(with_length(b"", "500 X"))]
)
def test_no_sequence_of_runs_uses_more_downloads_than_allowed(
    script: Script, allowed: int, tmp_path: Path, clock: ManualClock
) -> None:
    with WireServer(script) as server:
        service = service_of(server, clock, maxDownloads=allowed)
        for _ in range(allowed + 2):
            clock.advance(60)
            with pytest.raises((DownloadInterruptedError, DownloadsSpentError)):
                fetch(service, tmp_path, clock, retries=1)
        assert len(server.heads) == allowed
        with pytest.raises(DownloadsSpentError):
            fetch(service, tmp_path, clock, retries=1)
        with pytest.raises(DownloadInterruptedError):
            fetch(service, tmp_path, clock, force=True)
    assert len(server.heads) == allowed + 1


def test_an_attempt_whose_process_died_counts(tmp_path: Path, clock: ManualClock) -> None:
    new_journal(tmp_path, attempts=(Attempt(started=clock.now()),))
    with WireServer(says(WHOLE)) as server, pytest.raises(DownloadsSpentError):
        fetch(service_of(server, clock, maxDownloads=1), tmp_path, clock)
    assert server.connections == 0


def test_attempts_that_never_left_use_up_nothing(tmp_path: Path, clock: ManualClock) -> None:
    service = FakeService(f"http://127.0.0.1:{unused_port()}/{NAME}", None, clock, maxDownloads=1)
    for _ in range(3):
        with pytest.raises(DownloadInterruptedError):
            fetch(service, tmp_path, clock, retries=2)
    state = journal_in(tmp_path).state
    assert (len(state.attempts), state.downloads_used) == (9, 0)


def test_a_whole_archive_is_proven_although_no_download_is_left(tmp_path: Path, clock: ManualClock) -> None:
    with WireServer(says(WHOLE)) as server:
        service = service_of(server, clock, maxDownloads=1)
        service._sha1 = None
        with pytest.raises(RestoreFetchError, match="no hash"):
            fetch(service, tmp_path, clock)
        service._sha1 = sha1(ARCHIVE)
        service.delivery["statusName"] = "EXPIRED"
        assert fetch(service, tmp_path, clock).path.read_bytes() == ARCHIVE
    assert len(server.heads) == 1


# --- what an earlier run left ----------------------------------------------------------------------------


def test_after_a_reboot_only_what_was_flushed_is_gone_on_from(tmp_path: Path, clock: ManualClock) -> None:
    """The tail was never flushed: after the power cut the disk made something up."""
    new_journal(tmp_path, etag=ETAG, total_bytes=len(ARCHIVE), durable_bytes=1_000, boot_id="another-boot")
    (tmp_path / f"{NAME}.part").write_bytes(ARCHIVE[:1_000] + bytes(5_000))
    with WireServer(says(rest(1_000))) as server:
        assert fetch(service_of(server, clock), tmp_path, clock).path.read_bytes() == ARCHIVE
    assert header_of(server.heads[0], "Range") == "bytes=1000-"


def test_in_the_same_boot_all_of_it_is(tmp_path: Path, clock: ManualClock) -> None:
    if boot_id() is None:
        pytest.skip("this system does not tell its boots apart")
    new_journal(tmp_path, etag=ETAG, total_bytes=len(ARCHIVE), durable_bytes=1_000, boot_id=boot_id())
    (tmp_path / f"{NAME}.part").write_bytes(ARCHIVE[:5_000])
    with WireServer(says(rest(5_000))) as server:
        fetch(service_of(server, clock), tmp_path, clock)
    assert header_of(server.heads[0], "Range") == "bytes=5000-"


@pytest.mark.parametrize("durable", [0, 10_000])
def test_bytes_that_are_all_here_are_published_without_a_request(
    durable: int, tmp_path: Path, clock: ManualClock
) -> None:
    if boot_id() is None and durable == 0:
        pytest.skip("this system does not tell its boots apart")
    new_journal(tmp_path, total_bytes=len(ARCHIVE), durable_bytes=durable, boot_id=boot_id())
    (tmp_path / f"{NAME}.part").write_bytes(ARCHIVE)
    with WireServer(says(WHOLE)) as server:
        service = FakeService(server.url(), sha1(ARCHIVE), clock)
        fetched = fetch(service, tmp_path, clock)
    assert fetched.path.read_bytes() == ARCHIVE
    assert not fetched.downloaded
    assert server.connections == 0


@pytest.mark.parametrize(
    "cut_off",
    [
        {"outcome": None, "boot_id": "another-boot"},
        {"outcome": None, "boot_id": boot_id()},
        {"outcome": "complete", "boot_id": "another-boot"},
    ],
)
def test_the_only_download_allowed_is_not_lost_to_a_power_cut_behind_its_last_byte(
    cut_off: dict[str, str | None], tmp_path: Path, clock: ManualClock
) -> None:
    leave_behind(tmp_path, clock, ARCHIVE, **cut_off)
    with WireServer(says(WHOLE)) as server:
        fetched = fetch(FakeService(server.url(), sha1(ARCHIVE), clock, maxDownloads=1), tmp_path, clock)
    assert fetched.path.read_bytes() == ARCHIVE
    assert fetched.receipt.checks.hash is True
    assert not fetched.downloaded
    assert server.connections == 0


@pytest.mark.parametrize("left", [ARCHIVE[:-1], ARCHIVE + b"?", bytes(len(ARCHIVE))])
def test_bytes_that_a_power_cut_left_are_distrusted_but_never_rejected(
    left: bytes, tmp_path: Path, clock: ManualClock
) -> None:
    leave_behind(tmp_path, clock, left, outcome="complete", boot_id="another-boot")
    with WireServer(says(WHOLE)) as server:
        service = FakeService(server.url(), sha1(ARCHIVE), clock, maxDownloads=1)
        with pytest.raises(DownloadsSpentError):
            fetch(service, tmp_path, clock)
        assert (tmp_path / f"{NAME}.part").read_bytes() == left
        assert server.connections == 0
        service.delivery["maxDownloads"] = 2
        assert fetch(service, tmp_path, clock).path.read_bytes() == ARCHIVE
    assert not (tmp_path / f"{NAME}.rejected").exists()


def leave_behind(
    folder: Path, clock: ManualClock, stored: bytes, *, outcome: str | None, boot_id: str | None
) -> None:
    """A download without an entity tag and a length, as a crash or a power cut left it: nothing is flushed."""
    attempt = Attempt(started=clock.now(), bytes=len(stored) if outcome else 0, outcome=outcome)
    new_journal(folder, attempts=(attempt,), durable_bytes=0, boot_id=boot_id)
    (folder / f"{NAME}.part").write_bytes(stored)


def test_bytes_edited_by_hand_are_found_out(tmp_path: Path, clock: ManualClock) -> None:
    edited = b"?" + ARCHIVE[1:HERE]
    with WireServer(CUT, says(rest())) as server:
        service = service_of(server, clock)
        with pytest.raises(DownloadInterruptedError):
            fetch(service, tmp_path, clock)
        (tmp_path / f"{NAME}.part").write_bytes(edited)
        with pytest.raises(HashMismatchError):
            fetch(service, tmp_path, clock)
    assert not (tmp_path / NAME).exists()
    assert (tmp_path / f"{NAME}.rejected").read_bytes() == edited + ARCHIVE[HERE:]


@pytest.mark.parametrize("size", [0, HERE - 1, len(ARCHIVE) + 1])
def test_a_part_of_another_size_than_the_journal_says_ends_right_or_not_at_all(
    size: int, tmp_path: Path, clock: ManualClock
) -> None:
    def serve(peer: Peer) -> None:
        asked = header_of(peer.head(), "Range")
        peer.send(rest(int(asked[6:-1])) if asked else WHOLE)
        peer.end()

    with WireServer(CUT, serve) as server:
        service = service_of(server, clock)
        with pytest.raises(DownloadInterruptedError):
            fetch(service, tmp_path, clock)
        (tmp_path / f"{NAME}.part").write_bytes((ARCHIVE + b"!")[:size])
        try:
            assert fetch(service, tmp_path, clock, retries=2).path.read_bytes() == ARCHIVE
        except RestoreFetchError:
            assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize(
    "edit",
    [
        {"total_bytes": HERE},
        {"total_bytes": 1},
        {"total_bytes": None},
        {"etag": '"two"'},
        {"etag": "W/x\r\nX-Header: value"},
        {"durable_bytes": 10**15, "boot_id": None},
        {"boot_id": "x" * 1000},
        {"state": "whole", "sha1": sha1(ARCHIVE)},
        {"state": "publishing"},
        {"attempts": ()},
    ],
    ids=str,
)
def test_a_journal_edited_by_hand_ends_right_or_not_at_all(
    edit: dict[str, object], tmp_path: Path, clock: ManualClock
) -> None:
    def serve(peer: Peer) -> None:
        head_ = peer.head()
        asked, tag = header_of(head_, "Range"), header_of(head_, "If-Range")
        peer.send(rest(int(asked[6:-1])) if asked and tag == ETAG else WHOLE)
        peer.end()

    with WireServer(CUT, serve) as server:
        service = service_of(server, clock)
        with pytest.raises(DownloadInterruptedError):
            fetch(service, tmp_path, clock)
        journal_in(tmp_path).update(**edit)
        try:
            assert fetch(service, tmp_path, clock, retries=2).path.read_bytes() == ARCHIVE
        except RestoreFetchError:
            assert not (tmp_path / NAME).exists()


def test_the_part_of_another_job_is_neither_used_nor_touched(tmp_path: Path, clock: ManualClock) -> None:
    new_journal(tmp_path, etag=ETAG)
    part = tmp_path / f"{NAME}.part"
    part.write_bytes(b"of another job")
    with WireServer(says(WHOLE)) as server, pytest.raises(StorageError, match="in the way"):
        fetcher(service_of(server, clock), options(tmp_path), clock).fetch("0" * 24)
    assert part.read_bytes() == b"of another job"
    assert server.connections == 0


def test_a_part_without_a_journal_is_a_strangers(tmp_path: Path, clock: ManualClock) -> None:
    part = tmp_path / f"{NAME}.part"
    part.write_bytes(b"a stranger's")
    with WireServer(says(WHOLE)) as server, pytest.raises(StorageError, match="in the way"):
        fetch(service_of(server, clock), tmp_path, clock)
    assert part.read_bytes() == b"a stranger's"
    assert server.connections == 0


def test_a_job_that_changes_its_file_between_two_attempts_is_not_mixed(tmp_path: Path, clock: ManualClock) -> None:
    with WireServer(CUT, says(rest())) as server:
        service = service_of(server, clock)
        with pytest.raises(DownloadInterruptedError):
            fetch(service, tmp_path, clock)
        service.delivery["url"] = server.url("/key-in-the-path-0123456789/another.tar.gz")
        with pytest.raises(ServiceUnavailableError):
            fetch(service, tmp_path, clock)
    assert len(server.heads) == 1
    assert (tmp_path / f"{NAME}.part").read_bytes() == ARCHIVE[:HERE]


def test_nor_is_one_that_does_so_between_two_attempts_of_one_run(tmp_path: Path, clock: ManualClock) -> None:
    with WireServer(says(b"")) as server:
        service = service_of(server, clock)

        def change(peer: Peer) -> None:
            service.delivery["url"] = server.url("/key-in-the-path-0123456789/another.tar.gz")
            CUT(peer)

        server._scripts = (change, says(rest()))
        with pytest.raises(ServiceUnavailableError, match="contradicts itself"):
            fetch(service, tmp_path, clock, retries=3)
    assert len(server.heads) == 1
    assert (tmp_path / f"{NAME}.part").read_bytes() == ARCHIVE[:HERE]


def test_an_archive_that_was_made_anew_in_between_starts_over(tmp_path: Path, clock: ManualClock) -> None:
    anew = some_bytes(8_000, seed=8)
    with WireServer(CUT, says(with_length(anew, headers={"ETag": '"two"'}))) as server:
        service = service_of(server, clock)
        with pytest.raises(DownloadInterruptedError):
            fetch(service, tmp_path, clock)
        service._sha1 = sha1(anew)
        assert fetch(service, tmp_path, clock).path.read_bytes() == anew


# --- what is told ----------------------------------------------------------------------------------------


def test_what_happens_is_told_and_nothing_secret_with_it(tmp_path: Path, clock: ManualClock) -> None:
    notes = Notes()
    with WireServer(CUT, says(rest())) as server:
        service = service_of(
            server, clock, urlV2=server.url(f"/v2/{NAME}"), authHeader="X-Key", authValue="auth-value-0123456789"
        )
        fetcher(service, options(tmp_path, retries=1), clock, observer=notes).fetch(JOB_ID)
    assert [event for event in notes.events if event in ("download", "attempt-failed", "received")] == [
        "download",
        "attempt-failed",
        "download",
        "received",
    ]
    assert [header_of(asked, "X-Key") for asked in server.heads] == ["auth-value-0123456789"] * 2
    written = "".join(file.read_text("latin-1") for file in tmp_path.iterdir() if file.name != NAME)
    for secret in ("auth-value-0123456789", "key-in-the-path-0123456789"):
        assert secret not in " ".join(notes.messages) + written
    assert notes.progress[-1] == (len(ARCHIVE), len(ARCHIVE))
