"""The downloads allowed: no sequence of failures, crashes and re-runs on one folder ever uses more of them."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from restore_fetch import RestoreFetcher, RestoreFetchError, SilentObserver
from restore_fetch.clock import Clock
from restore_fetch.delivery import DeliveryClient
from restore_fetch.models import RestoreJob
from restore_fetch.network import tls_context
from restore_fetch.settings import FetchOptions
from tests.delivery_support import memory_folder
from tests.faults_support import ARCHIVE, CUT, JOB, NAME, SHA1, WHOLE, Stage, shows, verified
from tests.run_support import run, start
from tests.support import ManualClock
from tests.wire_support import Peer, Script, WireServer, head, says, with_length

_PARTIAL = says(head(headers={"Content-Length": str(len(ARCHIVE))}), ARCHIVE[:1000], then="cut")
_DELIVERIES: dict[str, Script] = {
    "cut": _PARTIAL,
    "cut, resumable": CUT,
    "reset": says(head(headers={"Content-Length": str(len(ARCHIVE))}), ARCHIVE[:1000], then="reset"),
    "refused": says(with_length(b"no", "404 Not Found")),
    "busy": says(with_length(b"later", "503 Busy")),
    "other bytes": says(with_length(ARCHIVE[::-1])),
    "whole": WHOLE,
}


class Folder:
    """A folder, a delivery that behaves differently in each run, and a service that counts nothing.

    Every run is the walk of the command, in this process, so that thousands of them can be made. A crash is played
    by putting back what was on the disk at the moment the delivery had read the request: that is what `kill -9`
    leaves, for the journal is on disk before the request is sent.
    """

    name = "atlas"
    publishes_hashes = True

    def __init__(self, path: Path, allowed: int, clock: Clock) -> None:
        self.path = path
        self.clock = clock
        self.crash = False
        self.hashes: list[dict[str, str]] = []
        self._allowed = allowed
        self._script = WHOLE
        self.server = WireServer(self._play)

    def _play(self, peer: Peer) -> None:
        if self.crash:
            shutil.copytree(self.path, self.path.with_name("crashed"), dirs_exist_ok=True)
        self._script(peer)

    def job(self, job_id: str) -> RestoreJob:
        delivery = {
            "methodName": "HTTP",
            "statusName": "READY",
            "url": self.server.url(f"/pull/key/{NAME}"),
            "maxDownloads": self._allowed,
        }
        return RestoreJob.model_validate(
            {"id": job_id, "statusName": "FINISHED", "delivery": delivery, "hashes": self.hashes}
        )

    def now(self) -> datetime:
        return datetime.now(UTC)

    def run(self, event: str, *, force: bool = False) -> None:
        """One run in which this happens; see `EVENTS`."""
        self.crash = event.startswith("killed")
        delivery = "cut" if event == "killed" else "whole" if event not in _DELIVERIES else event
        self._script = _DELIVERIES[delivery]
        right = {"fileName": NAME, "hash": SHA1, "typeName": "SHA1"}
        self.hashes = [] if event in ("lost hash", "let through") else [right]
        options = FetchOptions(
            out_dir=self.path,
            retries=1,
            hash_wait_seconds=0,
            wait_seconds=0,
            min_free_bytes=0,
            allow_unverified=event == "let through",
            force=force,
        )
        client = DeliveryClient(tls_context(None), allow_http=False, user_agent="test", head_seconds=10)
        fetcher = RestoreFetcher(
            self,
            client,
            options,
            observer=SilentObserver(),
            clock=self.clock,
            random=lambda: 0.5,
            tool="restore-fetch test",
        )
        with contextlib.suppress(RestoreFetchError):
            fetcher.fetch(JOB)
        crashed = self.path.with_name("crashed")
        if crashed.exists():
            shutil.rmtree(self.path)
            crashed.rename(self.path)

    @property
    def gets(self) -> int:
        return len(self.server.heads)


EVENTS = (*_DELIVERIES, "killed", "killed at the end", "lost hash", "let through")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Callable[..., Folder]]:
    """Makes folders, each with a delivery of its own."""
    numbers = itertools.count()

    def make(allowed: int, clock: Clock | None = None) -> Folder:
        path = place / f"{next(numbers)}" / "out"
        path.mkdir(parents=True)
        made = Folder(path, allowed, clock or ManualClock())
        made.server.__enter__()
        open_ones.append(made)
        return made

    open_ones: list[Folder] = []
    with memory_folder(tmp_path) as place:
        yield make
        for one in open_ones:
            one.server.__exit__(None, None, None)


@pytest.mark.parametrize("first", EVENTS)
def test_no_sequence_of_three_runs_uses_more_downloads_than_allowed(
    first: str, folder: Callable[..., Folder]
) -> None:
    """Each of the two runs before the last may make two attempts; two downloads are allowed."""
    for second in EVENTS:
        here = folder(2)
        for event in (first, second, "whole"):
            here.run(event)
            assert here.gets <= 2, (first, second, event)


@pytest.mark.parametrize("allowed", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_no_long_sequence_uses_more_downloads_than_allowed(
    allowed: int, seed: int, folder: Callable[..., Folder]
) -> None:
    choose = random.Random(f"{seed} {allowed}")
    here = folder(allowed)
    happened = []
    for _ in range(8):
        happened.append(choose.choice(EVENTS))
        here.run(happened[-1])
        assert here.gets <= allowed, happened


def test_a_clock_that_stands_still_hides_no_download(folder: Callable[..., Folder]) -> None:
    """Attempts of the same moment are not taken for one, when the journal is begun anew after a rejection."""

    class Standing(ManualClock):
        def now(self) -> datetime:
            return datetime(2026, 1, 31, tzinfo=UTC)

    here = folder(3, Standing())
    for event in ("cut", "other bytes", "cut", "cut", "cut"):
        here.run(event)

    assert here.gets == 3


def test_force_is_the_only_way_beyond(folder: Callable[..., Folder]) -> None:
    here = folder(1)
    for force in (False, False, True):
        here.run("refused", force=force)

    assert here.gets == 2


# --- the same by the real command ----------------------------------------------------------------------------


_LEFT_WAITING = says(head(headers={"Content-Length": str(len(ARCHIVE))}), ARCHIVE[:100], then="wait_for_hang_up")


def test_a_run_killed_after_its_request_has_used_the_download(tmp_path: Path) -> None:
    with Stage(delivery={"maxDownloads": 1}) as stage:
        stage.delivery._scripts = (_LEFT_WAITING,)
        with start(stage, tmp_path / "out", "fetch") as running:
            running.until(lambda: stage.gets == 1)
            running.kill()
        for _ in range(2):
            assert run(stage, tmp_path / "out", "fetch").code == 15
        assert stage.gets == 1

        stage.delivery._scripts = (WHOLE,)
        assert verified(run(stage, tmp_path / "out", "fetch", "--force"))
        assert stage.gets == 2


def test_a_service_out_of_reach_costs_no_download(tmp_path: Path) -> None:
    """A connection that cannot be made has asked for nothing, so the one download is still there."""
    with Stage(delivery={"maxDownloads": 1}) as stage:
        nowhere = shows(delivery={"url": f"http://127.0.0.1:1/pull/key/{NAME}"})
        stage._looks = (nowhere,)
        assert run(stage, tmp_path / "out", "fetch", "--retries", "1").code == 16
        stage._looks = (shows(),)
        assert verified(run(stage, tmp_path / "out", "fetch"))
        assert stage.gets == 1


@pytest.mark.parametrize("seed", range(3))
def test_the_command_keeps_to_the_downloads_allowed(seed: int, tmp_path: Path) -> None:
    choose = random.Random(seed)
    allowed = choose.choice([1, 2, 3])
    with Stage(delivery={"maxDownloads": allowed}, hashes=()) as stage:
        for _ in range(4):
            stage.delivery._scripts = (_DELIVERIES[choose.choice(list(_DELIVERIES))],)
            options = choose.choice([(), ("--allow-unverified",), ("--retries", "0"), ("--retries", "5")])
            run(stage, tmp_path / "out", "fetch", "--hash-wait", "0", *options)
            assert stage.gets <= allowed
