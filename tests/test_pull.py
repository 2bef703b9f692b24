"""The making of restore jobs by a pull, against a service that answers badly or not at all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from restore_fetch.errors import (
    AuthenticationError,
    ConfigurationError,
    NotFoundError,
    RestoreFetchError,
    ServiceUnavailableError,
    StorageError,
)
from restore_fetch.models import RestoreJob, Snapshot
from restore_fetch.observer import SilentObserver
from restore_fetch.pull import Fetchers, Order, Puller
from tests.batch_support import options
from tests.support import ManualClock

SNAPSHOT = "5a6669d5e2bfb3461861360c"
OTHER = "5a6669d9fcc178211a0d75a8"
JOB = "5a66783b80eef5354c77ee14"
BATCH = "5a66783b80eef5354c77ee13"


class Service:
    """A service that makes a job when it is asked to, and says so as it is told to."""

    name = "fake"
    publishes_hashes = True

    def __init__(self, clock: ManualClock, folder: Path) -> None:
        self.clock = clock
        self.folder = folder
        self.listed: list[RestoreJob] = []
        self.made_snapshots = [snapshot(SNAPSHOT, hours=1)]
        self.asked = 0
        self.journals_when_asked: list[dict[str, Any]] = []
        self.answers: list[RestoreFetchError | None] = []
        self.heard_all_the_same = True
        self.visible_after_looks = 0

    def now(self) -> datetime:
        return self.clock.now()

    def job(self, _: str) -> RestoreJob:
        raise AssertionError("the fetcher is not part of this")

    def jobs(self, batch_id: str) -> tuple[RestoreJob, ...]:
        return tuple(one for one in self.listed if one.batch_id == batch_id)

    def all_jobs(self) -> tuple[RestoreJob, ...]:
        if self.visible_after_looks > 0:
            self.visible_after_looks -= 1
            return ()
        return tuple(self.listed)

    def snapshots(self) -> tuple[Snapshot, ...]:
        return tuple(self.made_snapshots)

    def snapshot(self, snapshot_id: str) -> Snapshot:
        return next(one for one in self.made_snapshots if one.id == snapshot_id)

    def create_restore(
        self, snapshot_id: str, *, max_downloads: int, expiration_hours: int
    ) -> tuple[RestoreJob, ...]:
        self.asked += 1
        self.journals_when_asked += journals(self.folder)
        answer = self.answers.pop(0) if self.answers else None
        made = job(f"{int(JOB, 16) + self.asked:024x}", self.clock.now(), snapshotId=snapshot_id)
        if answer is None or self.heard_all_the_same:
            self.listed.insert(0, made)
        if answer is not None:
            raise answer
        return (made,)


def snapshot(snapshot_id: str, *, hours: int, **elements: Any) -> Snapshot:
    taken = ManualClock().now() - timedelta(hours=hours)
    document = {"id": snapshot_id, "created": taken, "complete": True, "parts": [{"clusterId": "a" * 24}]}
    return Snapshot.model_validate({**document, **elements})


def job(job_id: str, created: datetime, **elements: Any) -> RestoreJob:
    return RestoreJob.model_validate({"id": job_id, "statusName": "IN_PROGRESS", "created": created, **elements})


def journals(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in folder.glob(".restore-fetch-pull-*.json")]


class Fetcher:
    """Stands for those who fetch: it keeps what it was asked for, and fetches nothing."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def fetch(self, wanted: str, **_: Any) -> Any:
        self.asked.append(wanted)
        raise FetchReachedError


class FetchReachedError(Exception):
    """The pull has come as far as the fetch."""


@pytest.fixture
def service(clock: ManualClock, tmp_path: Path) -> Service:
    return Service(clock, tmp_path)


@pytest.fixture
def fetcher() -> Fetcher:
    return Fetcher()


@pytest.fixture
def pull(service: Service, fetcher: Fetcher, clock: ManualClock, tmp_path: Path) -> Callable[..., Any]:
    @contextlib.contextmanager
    def opened() -> Iterator[Any]:
        yield fetcher

    puller = Puller(
        service,
        options(tmp_path, poll_seconds=10.0, wait_seconds=3600.0),
        Order(),
        Fetchers(one=opened, batch=opened),
        observer=SilentObserver(),
        clock=clock,
        random=lambda: 0.5,
    )
    return puller.pull


def test_the_journal_is_written_before_the_job_is_asked_for_and_after(
    pull: Callable[..., Any], service: Service, fetcher: Fetcher, tmp_path: Path
) -> None:
    with pytest.raises(FetchReachedError):
        pull()
    (before,) = service.journals_when_asked
    (after,) = journals(tmp_path)
    assert (before["snapshot_id"], before["job_ids"]) == (SNAPSHOT, [])
    assert (after["snapshot_id"], after["job_ids"]) == (SNAPSHOT, fetcher.asked)


def test_the_newest_complete_snapshot_is_the_one(
    pull: Callable[..., Any], service: Service, tmp_path: Path
) -> None:
    service.made_snapshots.insert(0, snapshot(OTHER, hours=0, complete=False))
    with pytest.raises(FetchReachedError):
        pull()
    assert journals(tmp_path)[0]["snapshot_id"] == SNAPSHOT


def test_a_job_is_asked_for_once_however_often_the_pull_is_run(
    pull: Callable[..., Any], service: Service, fetcher: Fetcher
) -> None:
    for _ in range(3):
        with pytest.raises(FetchReachedError):
            pull()
    assert service.asked == 1
    assert len(set(fetcher.asked)) == 1


@pytest.mark.parametrize(
    "error",
    [
        ServiceUnavailableError("no answer came"),
        ServiceUnavailableError("a gateway gave up", status=504),
        ServiceUnavailableError("the proxy is lost", status=502),
    ],
    ids=["none", "504", "502"],
)
def test_a_job_whose_answer_was_lost_is_found_in_the_list(
    pull: Callable[..., Any], service: Service, fetcher: Fetcher, error: RestoreFetchError
) -> None:
    service.answers = [error]
    service.visible_after_looks = 3
    with pytest.raises(FetchReachedError):
        pull()
    assert service.asked == 1
    assert fetcher.asked == [service.listed[0].id]


def test_a_request_that_was_lost_is_not_made_again_by_the_same_run(
    pull: Callable[..., Any], service: Service, tmp_path: Path
) -> None:
    service.answers = [ServiceUnavailableError("no answer came")]
    service.heard_all_the_same = False
    with pytest.raises(ServiceUnavailableError, match="run the same command again"):
        pull()
    assert service.asked == 1
    assert journals(tmp_path)[0]["job_ids"] == []


def test_the_next_run_looks_long_enough_before_it_asks_again(
    pull: Callable[..., Any], service: Service, fetcher: Fetcher, clock: ManualClock
) -> None:
    service.answers = [ServiceUnavailableError("no answer came")]
    service.heard_all_the_same = False
    asked_at = clock.monotonic()
    with pytest.raises(ServiceUnavailableError):
        pull()
    with pytest.raises(FetchReachedError):
        pull()
    assert service.asked == 2
    assert clock.monotonic() - asked_at >= 120


def test_a_job_that_shows_late_is_found_by_the_next_run(
    pull: Callable[..., Any], service: Service, fetcher: Fetcher, tmp_path: Path
) -> None:
    service.answers = [ServiceUnavailableError("no answer came")]
    service.visible_after_looks = 1000
    with pytest.raises(ServiceUnavailableError):
        pull()
    service.visible_after_looks = 0
    with pytest.raises(FetchReachedError):
        pull()
    assert service.asked == 1
    assert journals(tmp_path)[0]["job_ids"] == fetcher.asked == [service.listed[0].id]


@pytest.mark.parametrize("status", [429, 503])
def test_a_request_that_nobody_heard_is_made_again(
    pull: Callable[..., Any], service: Service, clock: ManualClock, status: int
) -> None:
    service.answers = [ServiceUnavailableError("later", status=status, retry_after_seconds=77)]
    service.heard_all_the_same = False
    with pytest.raises(FetchReachedError):
        pull()
    assert service.asked == 2
    assert sum(clock.slept) >= 77


def test_a_request_that_is_refused_leaves_nothing_to_find_again(
    pull: Callable[..., Any], service: Service, tmp_path: Path
) -> None:
    service.answers = [AuthenticationError("may not", status=403)]
    service.heard_all_the_same = False
    with pytest.raises(AuthenticationError):
        pull()
    assert (service.asked, journals(tmp_path)) == (1, [])


def test_a_job_of_another_snapshot_is_not_fetched(
    pull: Callable[..., Any], service: Service, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = job(JOB, service.clock.now(), snapshotId=OTHER)
    monkeypatch.setattr(service, "create_restore", lambda *_, **__: (wrong,))
    with pytest.raises(ServiceUnavailableError, match="of another snapshot"):
        pull()
    assert fetcher.asked == []


def test_jobs_that_are_not_of_one_batch_are_not_fetched(
    pull: Callable[..., Any], service: Service, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = tuple(job(f"{number:024x}", service.clock.now(), batchId=BATCH if number else None) for number in (0, 1))
    monkeypatch.setattr(service, "create_restore", lambda *_, **__: two)
    with pytest.raises(ServiceUnavailableError, match="not of one batch"):
        pull()
    assert fetcher.asked == []


def test_a_job_that_is_gone_from_the_list_is_made_anew(pull: Callable[..., Any], service: Service) -> None:
    with pytest.raises(FetchReachedError):
        pull()
    service.listed.clear()
    with pytest.raises(FetchReachedError):
        pull()
    assert service.asked == 2


def test_a_job_of_somebody_else_is_not_taken(pull: Callable[..., Any], service: Service, fetcher: Fetcher) -> None:
    theirs = job("f" * 24, service.clock.now(), snapshotId=SNAPSHOT)
    service.listed.append(theirs)
    with pytest.raises(FetchReachedError):
        pull()
    assert service.asked == 1
    assert fetcher.asked != [theirs.id]


def test_a_journal_that_was_edited_is_not_believed(
    pull: Callable[..., Any], service: Service, tmp_path: Path
) -> None:
    (tmp_path / f".restore-fetch-pull-{SNAPSHOT}.json").write_text('{"schema": "restore-fetch/pull/v1"')
    with pytest.raises(StorageError, match="damaged"):
        pull()
    assert service.asked == 0


def test_a_cluster_without_snapshots_has_nothing_to_pull(pull: Callable[..., Any], service: Service) -> None:
    service.made_snapshots = []
    with pytest.raises(NotFoundError):
        pull()


@pytest.mark.parametrize(("downloads", "hours"), [(0, 1), (2**31, 1), (1, 0), (1, 24 * 366)])
def test_an_order_must_be_one_that_a_service_can_keep(downloads: int, hours: int) -> None:
    with pytest.raises(ConfigurationError):
        Order(downloads, hours)
