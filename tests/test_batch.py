"""The parts of a batch run: which members, shared looks, the crew, and the receipt for the whole."""

from __future__ import annotations

import json
import os
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from restore_fetch import fetch_batch, files, redaction
from restore_fetch.crews import Cancelled, MemberResult, StoppableClock, Unit, fetch_one
from restore_fetch.delivery.guards import RateLimit
from restore_fetch.errors import (
    AuthenticationError,
    BatchError,
    ConfigurationError,
    HashMismatchError,
    JobTimeoutError,
    NotFoundError,
    ServiceUnavailableError,
)
from restore_fetch.looks import SharedLooks
from restore_fetch.members import (
    CONFIG_SERVERS,
    SHARD,
    Choice,
    check_belong_together,
    is_over,
    made_for,
    part_of,
)
from restore_fetch.models import RestoreJob, Snapshot
from restore_fetch.receipts import batch_receipt_path, find_receipts, read_batch_receipt
from restore_fetch.redaction import Secret
from restore_fetch.sandbox import SCENARIOS, Sandbox
from restore_fetch.settings import Connection
from tests.batch_support import connection, lists, options, single_looks
from tests.support import ManualClock

BATCH = "5a66783b80eef5354c77ee13"
SHARD_0, SHARD_1, CONFIG = (f"5a66783b80eef5354c77ee1{digit}" for digit in "456")
TAKEN = "2018-01-22T22:44:54Z"
READY = replace(SCENARIOS["normal"], polls_until_finished=0)


def job(job_id: str, **elements: Any) -> RestoreJob:
    return RestoreJob.model_validate({"id": job_id, "batchId": BATCH, "clusterName": "Cluster0", **elements})


def by_id(*found: RestoreJob) -> dict[str, RestoreJob]:
    return {one.id or "": one for one in found}


# Which members


def test_no_choice_means_every_job_in_the_order_of_ids() -> None:
    assert Choice().of([CONFIG, SHARD_0, SHARD_1]) == (SHARD_0, SHARD_1, CONFIG)
    assert not Choice().leaves_out("anything.tar.gz")


def test_an_index_counts_from_0_in_the_order_of_ids() -> None:
    found = [Choice(index=place).of([CONFIG, SHARD_0, SHARD_1]) for place in range(3)]
    assert found == [(SHARD_0,), (SHARD_1,), (CONFIG,)]


def test_the_files_of_one_job_count_in_the_order_of_their_numbers() -> None:
    files = [f"{SHARD_0}-{number}" for number in range(12)]
    assert Choice(index=10).of(sorted(files)) == (f"{SHARD_0}-10",)
    assert Choice().of(sorted(files)) == tuple(files)


def test_an_index_beyond_the_batch_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="from 0 to 1, not 2"):
        Choice(index=2).of([SHARD_0, SHARD_1])
    with pytest.raises(ConfigurationError, match="counts from 0"):
        Choice(index=-1)


def test_a_pattern_and_an_index_exclude_each_other() -> None:
    with pytest.raises(ConfigurationError, match="exclude"):
        Choice(only="*", index=0)


def test_a_pattern_leaves_out_other_names_but_not_a_name_that_is_not_known_yet() -> None:
    choice = Choice(only="*-shard-1-*")
    assert choice.leaves_out(f"Cluster0-shard-0-1516661094-{SHARD_0}.tar.gz")
    assert not choice.leaves_out(f"Cluster0-shard-1-1516661094-{SHARD_1}.tar.gz")
    assert not choice.leaves_out(None)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (f"Cluster0-shard-1-1516661094-{SHARD_1}.tar.gz", ("Cluster0-shard-1", SHARD)),
        (
            f"config-Cluster0-config-0-5a66689487d9d61443b46149-1516661094-{CONFIG}.tar.gz",
            ("Cluster0-config-0", CONFIG_SERVERS),
        ),
        (f"rs0-1516661094-{SHARD_0}.tar", ("rs0", SHARD)),
        (f"config-rs-1516661094-{SHARD_0}.tar.gz", ("config-rs", SHARD)),
        (f"restore-{SHARD_0}.tar.gz", (f"restore-{SHARD_0}.tar.gz", None)),
        ("backup.tgz", ("backup.tgz", None)),
    ],
)
def test_the_name_of_a_file_tells_which_part_it_is(name: str, part: tuple[str, str | None]) -> None:
    assert part_of(name) == part


def test_shards_with_cluster_ids_and_snapshots_of_their_own_belong_together() -> None:
    check_belong_together(
        BATCH,
        by_id(
            job(SHARD_0, clusterId="6b99987880eef52e5f4d0e31", snapshotId="5a6669d9e2bfb34668cfe459"),
            job(CONFIG, clusterId="7c88887880eef52e5f4d0e2d", snapshotId="5a6669d5e2bfb3461861360c"),
        ),
    )


@pytest.mark.parametrize("elements", [{"batchId": "f" * 24}, {"batchId": None}, {"clusterName": "Cluster1"}])
def test_a_job_of_another_batch_or_cluster_is_refused(elements: dict[str, Any]) -> None:
    with pytest.raises(ServiceUnavailableError):
        check_belong_together(BATCH, by_id(job(SHARD_0), job(SHARD_1, **elements)))


def test_a_job_is_over_when_it_is_ready_or_never_will_be() -> None:
    delivery = {"methodName": "HTTP", "statusName": "READY", "url": "https://d.example.net/k/file.tar.gz"}
    assert is_over(job(SHARD_0, statusName="FINISHED", delivery=delivery))
    assert is_over(job(SHARD_0, statusName="BROKEN"))
    assert is_over(job(SHARD_0, statusName="FINISHED", delivery={"statusName": "EXPIRED"}))
    assert not is_over(job(SHARD_0, statusName="IN_PROGRESS"))
    assert not is_over(job(SHARD_0, statusName="FINISHED", delivery={**delivery, "statusName": "PENDING"}))


# What was made for a snapshot


def snapshot(**elements: Any) -> Snapshot:
    return Snapshot.model_validate({"id": "5" * 24, "created": {"date": TAKEN, "increment": 1}, **elements})


def made(job_id: str, **elements: Any) -> RestoreJob:
    return job(job_id, created="2018-01-22T23:48:11Z", timestamp={"date": TAKEN}, **elements)


ASKED = datetime(2018, 1, 22, 23, 48, tzinfo=UTC)
PARTS = [{"clusterId": "a" * 24}, {"clusterId": "b" * 24}]


def test_the_newest_job_of_a_snapshot_is_the_one_that_was_made_for_it() -> None:
    newer, older = (made(one, batchId=None, snapshotId="5" * 24) for one in (SHARD_1, SHARD_0))
    other = made(CONFIG, batchId=None, snapshotId="6" * 24)
    assert made_for((other, newer, older), snapshot(), ASKED) == (newer,)


def test_a_job_older_than_the_request_was_made_for_somebody_else() -> None:
    listed = (made(SHARD_1, batchId=None, snapshotId="5" * 24),)
    assert made_for(listed, snapshot(), ASKED + timedelta(minutes=10)) == ()


def test_parts_with_snapshots_of_their_own_are_known_by_cluster_and_moment() -> None:
    parts = tuple(
        made(one, clusterId=cluster * 24, snapshotId=cluster * 24)
        for one, cluster in ((SHARD_0, "a"), (SHARD_1, "b"))
    )
    assert made_for(parts, snapshot(parts=PARTS), ASKED) == parts
    elsewhere = tuple(one.model_copy(update={"cluster_id": "c" * 24}) for one in parts)
    assert made_for(elsewhere, snapshot(parts=PARTS), ASKED) == ()


def test_a_batch_that_still_lacks_parts_is_not_taken_for_the_whole() -> None:
    only = made(SHARD_0, clusterId="a" * 24, snapshotId="5" * 24)
    assert made_for((only,), snapshot(parts=PARTS), ASKED) == ()


def test_a_part_restored_by_itself_does_not_hide_the_batch() -> None:
    alone = made(CONFIG, batchId=None, clusterId="a" * 24, snapshotId="5" * 24)
    parts = tuple(
        made(one, clusterId=cluster * 24, snapshotId="5" * 24) for one, cluster in ((SHARD_0, "a"), (SHARD_1, "b"))
    )
    assert made_for((alone, *parts), snapshot(parts=PARTS), ASKED) == parts
    assert made_for((alone,), snapshot(parts=PARTS), ASKED) == ()


# Shared looks


class Service:
    """Lists a batch, and remembers when it was asked."""

    name = "fake"
    publishes_hashes = True

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.asked: list[float] = []
        self.listed = (job(SHARD_0, statusName="0"), job(SHARD_1, statusName="0"))
        self.error: Exception | None = None

    def now(self) -> datetime:
        return self.clock.now()

    def jobs(self, _: str) -> tuple[RestoreJob, ...]:
        self.asked.append(self.clock.monotonic())
        if self.error is not None:
            raise self.error
        return tuple(one.model_copy(update={"status_name": str(len(self.asked))}) for one in self.listed)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")


@pytest.fixture
def service(clock: ManualClock) -> Service:
    return Service(clock)


@pytest.fixture
def looks(service: Service, clock: ManualClock) -> SharedLooks:
    return SharedLooks(service, BATCH, poll_seconds=10.0, clock=clock)


def test_the_first_looks_of_all_members_share_the_list_seen_last(looks: SharedLooks, service: Service) -> None:
    looks.every_job()
    assert [looks.job(one).status_name for one in (SHARD_0, SHARD_1)] == ["1", "1"]
    assert len(service.asked) == 1


def test_a_later_look_is_never_older_than_its_call(
    looks: SharedLooks, service: Service, clock: ManualClock
) -> None:
    looks.job(SHARD_0)
    clock.advance(3)
    assert looks.job(SHARD_0).status_name == "2"
    assert service.asked[1] - service.asked[0] >= 10


def test_a_first_look_long_after_the_list_is_a_new_one(
    looks: SharedLooks, service: Service, clock: ManualClock
) -> None:
    looks.every_job()
    clock.advance(3600)
    assert looks.job(SHARD_0).status_name == "2"


def test_requests_are_never_closer_than_the_poll_interval(
    looks: SharedLooks, service: Service, clock: ManualClock
) -> None:
    for _ in range(5):
        looks.job(SHARD_0)
        clock.advance(0.5)
        looks.job(SHARD_1)
        clock.advance(0.5)
    gaps = [later - earlier for earlier, later in zip(service.asked, service.asked[1:], strict=False)]
    assert len(gaps) > 2
    assert min(gaps) >= 10


class Gate(ManualClock):
    """A clock on which a pause lasts until so many threads have asked for the time."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.threads = threads
        self.callers: set[int] = set()
        self.everybody = threading.Event()

    def monotonic(self) -> float:
        now = super().monotonic()
        self.callers.add(threading.get_ident())
        if len(self.callers) >= self.threads:
            self.everybody.set()
        return now

    def sleep(self, seconds: float) -> None:
        assert self.everybody.wait(60)
        super().sleep(seconds)


def test_all_looks_asked_for_before_a_request_share_it() -> None:
    clock = Gate(threads=11)
    service = Service(clock)
    service.listed = tuple(job(f"{number:024x}") for number in range(10))
    looks = SharedLooks(service, BATCH, poll_seconds=10.0, clock=clock)
    members = sorted(looks.every_job())
    for one in members:
        looks.job(one)
    clock.advance(1)
    seen: list[str | None] = []
    threads = [threading.Thread(target=lambda one=one: seen.append(looks.job(one).status_name)) for one in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == ["2"] * 10
    assert len(service.asked) == 2


def test_a_failure_is_shared_and_each_member_may_tell_its_own_files_in_it(
    looks: SharedLooks, service: Service, clock: ManualClock
) -> None:
    looks.every_job()
    service.error = ServiceUnavailableError("out of order", status=503)
    clock.advance(3600)
    with pytest.raises(ServiceUnavailableError) as first:
        looks.job(SHARD_0)
    first.value.files = "of shard 0"
    with pytest.raises(ServiceUnavailableError) as second:
        looks.job(SHARD_1)
    assert (second.value.what, second.value.status, second.value.files) == ("out of order", 503, "")
    assert len(service.asked) == 2


def test_nobody_asks_before_the_service_wants_to_be_asked_again(
    looks: SharedLooks, service: Service, clock: ManualClock
) -> None:
    looks.every_job()
    clock.advance(60)
    service.error = ServiceUnavailableError("too many", status=429, retry_after_seconds=120)
    with pytest.raises(ServiceUnavailableError):
        looks.every_job()
    clock.advance(100)
    with pytest.raises(ServiceUnavailableError) as again:
        looks.every_job()
    assert again.value.retry_after_seconds == pytest.approx(20)
    assert len(service.asked) == 2
    service.error = None
    clock.advance(20)
    assert looks.every_job()[SHARD_0].status_name == "3"


def test_a_refusal_is_shared_as_what_it_is(looks: SharedLooks, service: Service, clock: ManualClock) -> None:
    service.error = AuthenticationError("no", status=401)
    for _ in range(2):
        with pytest.raises(AuthenticationError):
            looks.job(SHARD_0)


def test_a_job_that_is_no_longer_listed_fails_alone(
    looks: SharedLooks, service: Service, clock: ManualClock
) -> None:
    looks.every_job()
    looks.job(SHARD_1)
    clock.advance(1)
    service.listed = service.listed[:1]
    with pytest.raises(ServiceUnavailableError, match=f"no longer has restore job {SHARD_1}"):
        looks.job(SHARD_1)
    assert looks.job(SHARD_0).id == SHARD_0


def test_jobs_that_were_not_there_at_first_are_noticed(
    looks: SharedLooks, service: Service, clock: ManualClock
) -> None:
    looks.every_job()
    assert not looks.unexpected
    clock.advance(1)
    service.listed = (*service.listed, job(CONFIG))
    looks.every_job()
    assert looks.unexpected == {CONFIG}


def test_a_list_of_two_batches_is_an_error_for_everybody(looks: SharedLooks, service: Service) -> None:
    service.listed = (job(SHARD_0), job(SHARD_1, batchId="f" * 24))
    with pytest.raises(ServiceUnavailableError, match="another"):
        looks.job(SHARD_0)


# The folder


def test_a_journal_that_another_job_removes_while_it_is_looked_at_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs.tar.gz.part.json"
    theirs.write_text("{}")
    look = files.require_regular

    def look_and_lose(path: Path) -> os.stat_result | None:
        found = look(path)
        theirs.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(files, "require_regular", look_and_lose)
    assert files.read_small(theirs) is None


# The crew


def test_a_stopped_clock_ends_pauses_that_have_begun_and_those_to_come(clock: ManualClock) -> None:
    stoppable = StoppableClock(clock)
    ended = threading.Event()

    def pause() -> None:
        try:
            stoppable.sleep(3600)
        except Cancelled:
            ended.set()

    thread = threading.Thread(target=pause)
    thread.start()
    stoppable.stop()
    assert ended.wait(60)
    thread.join(60)
    with pytest.raises(Cancelled):
        stoppable.sleep(0)


def test_transfers_that_share_a_limit_share_its_rate() -> None:
    limit = RateLimit(1000)
    pauses = [limit.pause_seconds(500, now=0.0) for _ in range(4)]
    assert pauses == [0.5, 1.0, 1.5, 2.0]


def test_a_unit_of_work_and_its_result_travel_as_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = "correct-horse-battery-staple"
    unit = Unit(
        Connection("atlas", "https://service.example.net", "5" * 24, "Cluster0", "user", Secret(secret)),
        options(tmp_path),
        SHARD_0,
    )
    sent = pickle.dumps(unit)
    monkeypatch.setattr(redaction, "_known", set())
    arrived = pickle.loads(sent)
    assert arrived == unit
    assert secret not in repr(arrived)
    assert redaction.scrub(f"the key is {secret}") == "the key is ***"
    error = HashMismatchError("differs", path=tmp_path, expected="a", actual="b", files="kept", next_step="go")
    result = pickle.loads(pickle.dumps(MemberResult(SHARD_0, error=error)))
    assert isinstance(result.error, HashMismatchError)
    assert (str(result.error), result.error.expected, result.error.path) == (str(error), "a", tmp_path)


# Whole batches from Python


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=4096) as sandbox:
        yield sandbox
        assert sandbox.errors == []


@pytest.fixture(scope="module")
def workers() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        yield executor


def test_one_unit_is_one_job_and_one_receipt(sandbox: Sandbox, tmp_path: Path) -> None:
    job_id = sandbox.add_job(READY)
    result = fetch_one(Unit(connection(sandbox), options(tmp_path), job_id))
    assert result.error is None
    assert result.fetched is not None
    assert result.fetched.receipt.verdict == "verified"
    assert result.fetched.receipt.sha1 == sandbox.archive(job_id).sha1


def test_a_unit_that_fails_gives_its_error(sandbox: Sandbox, tmp_path: Path) -> None:
    result = fetch_one(Unit(connection(sandbox), options(tmp_path), "0" * 24))
    assert isinstance(result.error, NotFoundError)


def test_any_executor_can_do_the_work(
    sandbox: Sandbox, tmp_path: Path, workers: ProcessPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    batch_id = sandbox.add_batch(READY, READY, READY)
    fetched = fetch_batch(connection(sandbox), batch_id, options(tmp_path), executor=workers)
    assert [one.receipt.job.id for one in fetched] == sorted(sandbox.jobs_of(batch_id))
    assert [sandbox.delivery_gets(job_id) for job_id in sandbox.jobs_of(batch_id)] == [1, 1, 1]
    receipt = read_batch_receipt(tmp_path, batch_id)
    assert receipt is not None
    assert {member.sha1 for member in receipt.members} == {one.receipt.sha1 for one in fetched}


def test_a_member_that_fails_at_a_worker_leaves_the_others(
    sandbox: Sandbox, tmp_path: Path, workers: ProcessPoolExecutor
) -> None:
    wrong = replace(READY, hash_kind="wrong")
    batch_id = sandbox.add_batch(READY, wrong, READY)
    with pytest.raises(BatchError) as failed:
        fetch_batch(connection(sandbox), batch_id, options(tmp_path, retries=0), executor=workers)
    (bad,) = failed.value.failures
    assert bad == sandbox.jobs_of(batch_id)[1]
    assert isinstance(failed.value.failures[bad], HashMismatchError)
    assert not batch_receipt_path(tmp_path, batch_id).exists()
    assert all(find_receipts(tmp_path, good) for good in sandbox.jobs_of(batch_id) if good != bad)


class Broken(Executor):
    """An executor whose workers die."""

    def submit(self, *_: Any, **__: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_exception(RuntimeError("the worker is gone"))
        return future


def test_workers_that_die_are_failures_of_their_members(sandbox: Sandbox, tmp_path: Path) -> None:
    batch_id = sandbox.add_batch(READY, READY, READY)
    with pytest.raises(BatchError, match="the worker is gone") as failed:
        fetch_batch(connection(sandbox), batch_id, options(tmp_path), executor=Broken())
    assert len(failed.value.failures) == 3


def test_one_job_of_a_batch_is_looked_at_by_itself(sandbox: Sandbox, tmp_path: Path) -> None:
    batch_id = sandbox.add_batch(READY, READY, READY)
    listed, looked = len(lists(sandbox)), len(single_looks(sandbox))
    (fetched,) = fetch_batch(connection(sandbox), batch_id, options(tmp_path), choice=Choice(index=1))
    assert fetched.receipt.job.id == sorted(sandbox.jobs_of(batch_id))[1]
    assert len(lists(sandbox)) == listed + 1
    assert len(single_looks(sandbox)) > looked
    assert not batch_receipt_path(tmp_path, batch_id).exists()


def test_the_last_of_the_machines_that_share_a_batch_writes_its_receipt(sandbox: Sandbox, tmp_path: Path) -> None:
    batch_id = sandbox.add_batch(READY, READY, READY)
    for place in (2, 0, 1):
        assert not batch_receipt_path(tmp_path, batch_id).exists()
        fetch_batch(connection(sandbox), batch_id, options(tmp_path), choice=Choice(index=place))
    receipt = json.loads(batch_receipt_path(tmp_path, batch_id).read_bytes())
    assert [member["job_id"] for member in receipt["members"]] == sorted(sandbox.jobs_of(batch_id))


def test_a_job_that_is_not_ready_in_time_leaves_the_others(sandbox: Sandbox, tmp_path: Path) -> None:
    batch_id = sandbox.add_batch(READY, "never-ready", READY)
    late = sandbox.jobs_of(batch_id)[1]
    with pytest.raises(BatchError) as failed:
        fetch_batch(connection(sandbox), batch_id, options(tmp_path, wait_seconds=0))
    assert isinstance(failed.value.failures[late], JobTimeoutError)
    assert len(failed.value.failures) == 1
    assert [sandbox.delivery_gets(job_id) for job_id in sandbox.jobs_of(batch_id)] == [1, 0, 1]


def test_a_batch_receipt_does_not_hide_a_file_that_was_changed(sandbox: Sandbox, tmp_path: Path) -> None:
    batch_id = sandbox.add_batch(READY, READY, READY)
    fetched = fetch_batch(connection(sandbox), batch_id, options(tmp_path))
    victim = fetched[1].path
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(BatchError) as failed:
        fetch_batch(connection(sandbox), batch_id, options(tmp_path))
    assert list(failed.value.failures) == [fetched[1].receipt.job.id]
    assert isinstance(failed.value.failures[fetched[1].receipt.job.id], HashMismatchError)


def test_a_part_that_is_gone_is_fetched_again_alone(sandbox: Sandbox, tmp_path: Path) -> None:
    batch_id = sandbox.add_batch(READY, READY, READY)
    fetched = fetch_batch(connection(sandbox), batch_id, options(tmp_path))
    gone = fetched[2]
    gone.path.unlink()
    again = fetch_batch(connection(sandbox), batch_id, options(tmp_path, force=False))
    assert [one.downloaded for one in again] == [False, False, True]
    assert gone.path.exists()
