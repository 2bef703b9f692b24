"""Whole walks against services that say anything in any order: what is published is right, the budget is kept."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from restore_fetch.delivery import DeliveryClient
from restore_fetch.errors import AuthenticationError, HashMismatchError, RestoreFetchError, ServiceUnavailableError
from restore_fetch.models import RestoreJob
from restore_fetch.network import tls_context
from restore_fetch.observer import SilentObserver
from restore_fetch.records import Receipt
from restore_fetch.settings import FetchOptions
from restore_fetch.shelf import Shelf
from restore_fetch.workflow import Fetched, RestoreFetcher
from tests.delivery_support import memory_folder
from tests.record_support import JOB, JOB_ID, NAME, STARTED
from tests.support import ManualClock
from tests.wire_support import Peer, WireServer, head, with_length

ARCHIVE = b"the right bytes " * 200
DAMAGED = ARCHIVE[:-1] + b"!"
RIGHT = hashlib.sha1(ARCHIVE).hexdigest()
STALE = "f" * 40
KEY = "the-key-in-the-path"


class Deliveries:
    """A delivery that does, request by request, what it is told, and counts the requests."""

    def __init__(self) -> None:
        self.script: list[str] = []
        self.requests = 0

    def __call__(self, peer: Peer) -> None:
        if not peer.head():
            return
        self.requests += 1
        act = self.script.pop(0) if self.script else "right"
        if act in ("right", "damaged"):
            peer.send(with_length(ARCHIVE if act == "right" else DAMAGED))
        elif act == "chunked":
            peer.send(
                head("200 OK", {"Transfer-Encoding": "chunked"})
                + b"%x\r\n%s\r\n0\r\n\r\n" % (len(ARCHIVE), ARCHIVE)
            )
        elif act == "cut":
            peer.send(with_length(ARCHIVE)[:-1000])
        elif act == "page":
            peer.send(with_length(b"<html>log in</html>", headers={"Content-Type": "text/html"}))
        else:
            peer.send(with_length(b"{}", f"{act} Something"))
        peer.end()


@pytest.fixture(scope="module")
def delivery() -> Iterator[tuple[Deliveries, str]]:
    deliveries = Deliveries()
    with WireServer(deliveries) as server:
        yield deliveries, server.url(f"/{KEY}/{NAME}")


class Scripted:
    """A service that gives one answer a look, the last again and again."""

    name = "atlas"
    publishes_hashes = True

    def __init__(self, clock: ManualClock, answers: Sequence[RestoreJob | Exception]) -> None:
        self._clock = clock
        self._answers = list(answers)

    def job(self, _: str) -> RestoreJob:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def now(self) -> datetime:
        return self._clock.now()


@dataclass(frozen=True)
class Say:
    """What the service says at one look."""

    status: str = "FINISHED"
    delivery: str = "READY"
    sha1: str | None = None
    snapshot: str = "c" * 24
    name: str | None = NAME
    error: str | None = None

    def answer(self, url: str, most: int) -> RestoreJob | Exception:
        if self.error is not None:
            kind = AuthenticationError if self.error == "401" else ServiceUnavailableError
            return kind("the service says no", status=int(self.error))
        expires = (STARTED + timedelta(days=2)).isoformat()
        terms = {
            "methodName": "HTTP",
            "statusName": self.delivery,
            "url": url,
            "maxDownloads": most,
            "expires": expires,
        }
        hashes = [] if self.sha1 is None else [{"fileName": self.name, "hash": self.sha1, "typeName": "SHA1"}]
        document = {"id": JOB_ID, "statusName": self.status, "delivery": terms, "hashes": hashes}
        return RestoreJob.model_validate(
            document | {"snapshotId": self.snapshot, "clusterName": JOB["cluster_name"]}
        )


SAYINGS = st.builds(
    Say,
    status=st.sampled_from(["FINISHED"] * 8 + ["IN_PROGRESS", "BROKEN", "NEW_2031"]),
    delivery=st.sampled_from(["READY"] * 8 + ["PENDING", "EXPIRED", "MAX_DOWNLOADS_EXCEEDED"]),
    sha1=st.sampled_from([None, None, RIGHT, RIGHT.upper(), STALE, "soon"]),
    snapshot=st.sampled_from(["c" * 24] * 9 + ["d" * 24]),
    name=st.sampled_from([NAME] * 5 + [None, "another.tar.gz"]),
    error=st.sampled_from([None] * 8 + ["503", "401"]),
)
ACTS = st.sampled_from(["right", "right", "chunked", "damaged", "cut", "cut", "page", "404", "503", "204", "206"])


def run(folder: Path, answers: Sequence[RestoreJob | Exception], **options) -> Fetched:
    clock = ManualClock(STARTED)
    terms = {"wait_seconds": 300.0, "hash_wait_seconds": 120.0, "min_free_bytes": 0} | options
    client = DeliveryClient(tls_context(None), allow_http=False, user_agent="test", head_seconds=30.0)
    fetcher = RestoreFetcher(
        Scripted(clock, answers),
        client,
        FetchOptions(out_dir=folder, **terms),
        observer=SilentObserver(),
        clock=clock,
        random=lambda: 0.5,
        tool="restore-fetch test",
    )
    return fetcher.fetch(JOB_ID)


def check_folder(folder: Path) -> None:
    """Whatever has happened: what has the final name is right, and whatever says so can be believed."""
    archive = folder / NAME
    if archive.exists():
        assert archive.read_bytes() == ARCHIVE
        published = Shelf(folder, JOB_ID).published()
        assert published is not None
        assert (published[1].verdict, published[1].sha1) == ("verified", RIGHT)
    else:
        assert not (folder / f"{NAME}.receipt.json").exists()
    for entry in folder.iterdir():
        assert KEY.encode() not in entry.read_bytes()
        assert not entry.name.endswith((".lock", ".tmp"))


@given(
    st.lists(
        st.tuples(st.lists(SAYINGS, min_size=1, max_size=6), st.lists(ACTS, max_size=3)), min_size=1, max_size=3
    ),
    st.integers(1, 3),
)
@settings(max_examples=settings.default.max_examples // 5 if settings.default else 60)
@pytest.mark.timeout(900)
def test_no_order_of_answers_and_faults_publishes_wrong_bytes_or_overdraws_the_budget(delivery, runs, most):
    deliveries, url = delivery
    deliveries.requests = 0
    with tempfile.TemporaryDirectory() as name, memory_folder(Path(name)) as folder:
        for sayings, acts in runs:
            deliveries.script = list(acts)
            outcome: Fetched | RestoreFetchError
            try:
                outcome = run(folder, [saying.answer(url, most) for saying in sayings])
            except RestoreFetchError as exc:
                outcome = exc
            event(type(outcome).__name__)
            assert KEY not in str(outcome)
            if isinstance(outcome, Fetched):
                assert (outcome.path, outcome.receipt.verdict) == (folder / NAME, "verified")
            assert deliveries.requests <= most
            check_folder(folder)


def test_a_finished_walk_is_taken_up_without_a_word_to_anybody(delivery, tmp_path):
    deliveries, url = delivery
    deliveries.script, deliveries.requests = ["right"], 0
    first = run(tmp_path, [Say().answer(url, 1), Say(sha1=RIGHT).answer(url, 1)])
    again = run(tmp_path, [AssertionError("nobody was to be asked")])
    assert (first.downloaded, again.downloaded) == (True, False)
    assert again.receipt == Receipt.model_validate_json(first.receipt.to_json())
    assert deliveries.requests == 1
    check_folder(tmp_path)


def test_damaged_bytes_are_kept_apart_and_no_second_download_is_used_up_for_them(delivery, tmp_path):
    deliveries, url = delivery
    deliveries.script, deliveries.requests = ["damaged"], 0
    with pytest.raises(HashMismatchError):
        run(tmp_path, [Say().answer(url, 5), Say(sha1=RIGHT).answer(url, 5)])
    assert (tmp_path / f"{NAME}.rejected").read_bytes() == DAMAGED
    assert deliveries.requests == 1
    check_folder(tmp_path)


def test_a_stale_hash_of_an_earlier_download_does_not_condemn_the_next(delivery, tmp_path):
    deliveries, url = delivery
    deliveries.script, deliveries.requests = ["right"], 0
    stale = Say(sha1=STALE).answer(url, 5)
    fetched = run(tmp_path, [stale, stale, stale, stale, Say(sha1=RIGHT).answer(url, 5)])
    assert fetched.receipt.verdict == "verified"
    assert deliveries.requests == 1
