"""The pipeline: one body into one part file, at once or not at all, whatever fails first.

Only what a caller sees is looked at: the bytes in the file, the hash, the error, what was told, how long it took
by a clock that is passed in, and how much memory it needed.
"""

from __future__ import annotations

import errno
import os
import resource
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from restore_fetch.delivery import PartFile
from restore_fetch.delivery.body import Body
from restore_fetch.delivery.guards import RateLimit
from restore_fetch.delivery.pipeline import Bounds, Pipeline
from restore_fetch.errors import DownloadInterruptedError, DownloadRefusedError, StorageError
from tests.delivery_support import BOUNDS, ScriptedBody, pattern, sha1
from tests.support import ManualClock

MIB = 1024 * 1024
FREELY = replace(BOUNDS, min_rate=0)
CUT = DownloadInterruptedError("the connection broke", outcome="cut")


@pytest.fixture
def part(tmp_path: Path) -> Iterator[PartFile]:
    with PartFile(tmp_path / "archive.part") as part:
        yield part


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def run(
    part: PartFile,
    body: Body,
    clock: ManualClock,
    bounds: Bounds = FREELY,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    Pipeline(part, bounds, clock=clock, on_progress=on_progress, cancelled=cancelled).run(body)


def assert_holds(part: PartFile, size: int) -> None:
    """The part file holds the first `size` bytes of what a `ScriptedBody` gives, and knows their hash."""
    expected = pattern(0, size)
    assert part.path.read_bytes() == expected
    assert part.size == size
    assert part.digest().hex == sha1(expected)


# --- whole -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4095, MIB - 1, MIB, MIB + 1, 9 * MIB + 12_345])
@pytest.mark.parametrize("step", [32 * 1024, 3 * MIB])
def test_every_byte_is_written_once_and_in_order(size: int, step: int, part: PartFile, clock: ManualClock) -> None:
    steps = [step] * (size // step) + [size % step]
    run(part, ScriptedBody(*steps), clock)
    assert_holds(part, size)


def test_bytes_that_come_a_few_at_a_time_arrive_too(part: PartFile, clock: ManualClock) -> None:
    run(part, ScriptedBody(*range(1, 700)), clock)
    assert_holds(part, sum(range(1, 700)))


def test_a_later_body_goes_on_where_an_earlier_one_broke_off(part: PartFile, clock: ManualClock) -> None:
    body = ScriptedBody(2 * MIB + 7, CUT, MIB)
    with pytest.raises(DownloadInterruptedError):
        run(part, body, clock)
    assert_holds(part, 2 * MIB + 7)
    run(part, body, clock)
    assert_holds(part, 3 * MIB + 7)


def test_what_arrives_slowly_reaches_the_file_before_a_buffer_is_full(part: PartFile, clock: ManualClock) -> None:
    """A crash in an hour of trickling must not cost the hour."""
    seen: list[int] = []

    def look() -> None:
        clock.advance(1.0)
        seen.append(part.path.stat().st_size)

    run(part, ScriptedBody(*([1000] * 100), before_each=look), clock)
    assert max(seen) >= 50_000
    assert_holds(part, 100_000)


def test_memory_is_bounded_whatever_the_size(part: PartFile, clock: ManualClock) -> None:
    class Discarding(ScriptedBody):
        def receive(self, buffer: object, start: int, stop: int) -> int:
            count = min(stop - start, 100 * MIB - self.given)
            self.given += count
            return count

    tracemalloc.start()
    try:
        run(part, Discarding(), clock)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert part.size == 100 * MIB
    assert peak < 24 * MIB


# --- the disk fails --------------------------------------------------------------------------------------


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let the kernel refuse to make any file larger than this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("step", [64 * 1024, MIB])
def test_a_disk_that_refuses_stops_an_endless_body(step: int, part: PartFile, clock: ManualClock) -> None:
    body = ScriptedBody.endless(step, lambda: clock.advance(0.01))
    with file_size_limit(3 * MIB), pytest.raises(StorageError) as caught:
        run(part, body, clock)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.path == part.path
    assert body.given < 64 * MIB


def test_a_disk_that_refuses_stops_a_body_that_says_nothing_more(part: PartFile, clock: ManualClock) -> None:
    class Silent(ScriptedBody):
        def receive(self, buffer: object, start: int, stop: int) -> int:
            clock.advance(0.25)
            raise TimeoutError

    class ThenSilent(ScriptedBody):
        def receive(self, buffer, start, stop):  # type: ignore[no-untyped-def]
            count = super().receive(buffer, start, stop)
            return count or Silent().receive(buffer, start, stop)

    with file_size_limit(2 * MIB), pytest.raises(StorageError):
        run(part, ThenSilent(5 * MIB), clock)


def test_a_disk_that_refuses_the_last_bytes_is_no_success(part: PartFile, clock: ManualClock) -> None:
    with file_size_limit(1000), pytest.raises(StorageError) as caught:
        run(part, ScriptedBody(1001), clock)
    assert caught.value.errno == errno.EFBIG


def test_the_disk_failed_before_the_network_did(part: PartFile, clock: ManualClock) -> None:
    """What is told is the cause: the network would have gone on."""

    def give_up() -> DownloadInterruptedError:
        return DownloadInterruptedError("cut, long after", outcome="cut")

    body = ScriptedBody(*([MIB] * 12), give_up())
    with file_size_limit(MIB), pytest.raises(StorageError):
        run(part, body, clock)


def test_an_error_of_the_disk_is_the_very_one_that_it_raised(
    part: PartFile, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = StorageError("the disk is gone", path=part.path, errno=errno.EIO)

    def fails() -> None:
        raise failure

    monkeypatch.setattr(part, "check_room", fails)
    with pytest.raises(StorageError) as caught:
        run(part, ScriptedBody.endless(1000, lambda: clock.advance(0.1)), clock)
    assert caught.value is failure


# --- the network fails -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure",
    [
        CUT,
        DownloadRefusedError("malformed", outcome="invalid HTTP"),
        RuntimeError("a bug"),
        MemoryError(),
        KeyboardInterrupt(),
        SystemExit(143),
    ],
    ids=repr,
)
def test_an_error_of_the_body_is_raised_as_it_is(
    failure: BaseException, part: PartFile, clock: ManualClock
) -> None:
    with pytest.raises(type(failure)) as caught:
        run(part, ScriptedBody(3 * MIB, 5, failure), clock)
    assert caught.value is failure


@pytest.mark.parametrize("size", [1, MIB - 1, 3 * MIB + 5])
def test_every_byte_before_a_cut_is_in_the_file(size: int, part: PartFile, clock: ManualClock) -> None:
    with pytest.raises(DownloadInterruptedError):
        run(part, ScriptedBody(size, CUT), clock)
    assert_holds(part, size)


# --- bounds ----------------------------------------------------------------------------------------------


def test_a_run_that_is_cancelled_stops_and_keeps_what_arrived(part: PartFile, clock: ManualClock) -> None:
    body = ScriptedBody.endless(1000, lambda: clock.advance(0.01))
    with pytest.raises(DownloadInterruptedError, match="cancelled") as caught:
        run(part, body, clock, cancelled=lambda: body.given >= 100_000)
    assert caught.value.outcome == "interrupted"
    assert body.given < 200_000
    assert_holds(part, body.given)


def test_a_run_is_cancelled_while_nothing_arrives(part: PartFile, clock: ManualClock) -> None:
    silent = ScriptedBody.endless(TimeoutError(), lambda: clock.advance(0.25))
    began = clock.monotonic()
    with pytest.raises(DownloadInterruptedError, match="cancelled"):
        run(part, silent, clock, cancelled=lambda: clock.monotonic() - began > 3)
    assert clock.monotonic() - began < 5


def test_a_run_is_cancelled_while_it_rests_for_its_limit(part: PartFile, clock: ManualClock) -> None:
    bounds = replace(FREELY, limit=RateLimit(1000))
    began = clock.monotonic()
    with pytest.raises(DownloadInterruptedError, match="cancelled"):
        run(part, ScriptedBody.endless(MIB), clock, bounds, cancelled=lambda: clock.monotonic() - began > 2)
    assert clock.monotonic() - began < 4


@pytest.mark.parametrize("rate", [100_000, MIB, 50 * MIB])
def test_no_more_than_the_limit_arrives(rate: int, part: PartFile, clock: ManualClock) -> None:
    began = clock.monotonic()
    run(part, ScriptedBody(3 * MIB), clock, replace(BOUNDS, limit=RateLimit(rate)))
    seconds = clock.monotonic() - began
    assert 0.9 * 3 * MIB / rate <= seconds <= 1.1 * 3 * MIB / rate + 0.3
    assert_holds(part, 3 * MIB)


def test_a_limit_is_no_stall(part: PartFile, clock: ManualClock) -> None:
    bounds = Bounds(min_rate=1000, stall_seconds=5.0, limit=RateLimit(1000))
    run(part, ScriptedBody(100_000), clock, bounds)
    assert_holds(part, 100_000)


def stalls(part: PartFile, body: Body, clock: ManualClock) -> float:
    """How long it takes until a body that brings too little is given up."""
    began = clock.monotonic()
    with pytest.raises(DownloadInterruptedError, match="stalled") as caught:
        run(part, body, clock, Bounds(min_rate=1024, stall_seconds=60.0))
    assert caught.value.outcome == "stalled"
    return clock.monotonic() - began


def test_silence_is_a_stall(part: PartFile, clock: ManualClock) -> None:
    silent = ScriptedBody.endless(TimeoutError(), lambda: clock.advance(0.25))
    assert 60 <= stalls(part, silent, clock) <= 75


def test_a_byte_a_second_is_a_stall(part: PartFile, clock: ManualClock) -> None:
    trickle = ScriptedBody.endless(1, lambda: clock.advance(1.0))
    assert 60 <= stalls(part, trickle, clock) <= 75
    assert part.size == trickle.given


def test_a_stall_after_a_good_start_is_found_as_soon(part: PartFile, clock: ManualClock) -> None:
    body = ScriptedBody(*([MIB] * 20 + [1] * 10_000), before_each=lambda: clock.advance(1.0))
    assert 75 <= stalls(part, body, clock) <= 100


def test_a_slow_body_that_brings_enough_is_no_stall(part: PartFile, clock: ManualClock) -> None:
    slow = ScriptedBody(*([1100] * 300), before_each=lambda: clock.advance(1.0))
    run(part, slow, clock, Bounds(min_rate=1024, stall_seconds=60.0))
    assert_holds(part, 330_000)


def test_pauses_shorter_than_the_time_allowed_are_no_stall(part: PartFile, clock: ManualClock) -> None:
    silence: list[int | BaseException] = [TimeoutError() for _ in range(40)]
    body = ScriptedBody(*([200_000, *silence] * 5), before_each=lambda: clock.advance(1.0))
    run(part, body, clock, Bounds(min_rate=1024, stall_seconds=60.0))
    assert_holds(part, 1_000_000)


def test_an_endless_body_ends_at_the_size_allowed(part: PartFile, clock: ManualClock) -> None:
    body = ScriptedBody.endless(100_000)
    with pytest.raises(DownloadRefusedError, match="--max-size") as caught:
        run(part, body, clock, replace(FREELY, max_bytes=2 * MIB))
    assert caught.value.outcome == "too large"
    assert body.given <= 2 * MIB + 100_000
    assert part.size <= body.given


def test_a_body_of_exactly_the_size_allowed_is_accepted(part: PartFile, clock: ManualClock) -> None:
    run(part, ScriptedBody(2 * MIB), clock, replace(FREELY, max_bytes=2 * MIB))
    assert_holds(part, 2 * MIB)


def test_the_disk_is_never_filled_beyond_what_must_stay_free(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = ScriptedBody.endless(100_000, lambda: clock.advance(0.05))
    monkeypatch.setattr("restore_fetch.files.free_bytes", lambda _: 10 * MIB - body.given)
    with (
        PartFile(tmp_path / "archive.part", min_free_bytes=5 * MIB) as part,
        pytest.raises(StorageError, match="--min-free") as caught,
    ):
        run(part, body, clock)
    assert caught.value.errno == errno.ENOSPC
    assert 5 * MIB <= body.given < 7 * MIB
    assert part.path.stat().st_size == part.size


def test_a_disk_that_is_slow_is_not_held_against_the_delivery_and_holds_the_receiver_up(
    part: PartFile, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    write = os.write
    waiting: list[int] = []

    def slow_write(descriptor: int, data: memoryview) -> int:
        gate.wait(60)
        return write(descriptor, data)

    def cancelled() -> bool:
        if not gate.is_set():
            waiting.append(body.given)
            clock.advance(40.0)
            if len(waiting) > 6:
                gate.set()
        return False

    body = ScriptedBody(*([MIB] * 40))
    monkeypatch.setattr(os, "write", slow_write)
    run(part, body, clock, BOUNDS, cancelled=cancelled)
    assert gate.is_set()
    assert max(waiting) <= 16 * MIB
    assert part.size == 40 * MIB


# --- what is told ----------------------------------------------------------------------------------------


def test_progress_is_told_a_few_times_a_second_and_at_the_end(part: PartFile, clock: ManualClock) -> None:
    told: list[tuple[float, int]] = []
    body = ScriptedBody(*([1000] * 2000), before_each=lambda: clock.advance(0.005))
    run(part, body, clock, on_progress=lambda size: told.append((clock.monotonic(), size)))
    assert 10 <= len(told) <= 60
    sizes = [size for _, size in told]
    assert sizes == sorted(sizes)
    assert sizes[-1] == 2_000_000


def test_progress_counts_what_was_here_before(part: PartFile, clock: ManualClock) -> None:
    told: list[int] = []
    run(part, ScriptedBody(1000), clock)
    run(part, ScriptedBody(*([10] * 20), before_each=lambda: clock.advance(0.1)), clock, on_progress=told.append)
    assert min(told) > 1000
    assert told[-1] == 1200


def test_progress_is_told_while_nothing_arrives(part: PartFile, clock: ManualClock) -> None:
    told: list[int] = []
    silence: list[int | BaseException] = [TimeoutError() for _ in range(20)]
    run(part, ScriptedBody(5, *silence), clock, on_progress=told.append)
    quiet = len(told)
    body = ScriptedBody(5, *silence, before_each=lambda: clock.advance(0.25))
    run(part, body, clock, on_progress=told.append)
    assert len(told) - quiet >= 10


def test_an_error_of_whoever_is_told_stops_the_transfer(part: PartFile, clock: ManualClock) -> None:
    def fails(size: int) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run(part, ScriptedBody.endless(100, lambda: clock.advance(0.1)), clock, on_progress=fails)


def test_a_long_transfer_is_flushed_now_and_then(part: PartFile, clock: ManualClock) -> None:
    """So that a power cut does not cost all of it."""
    body = ScriptedBody(*([MIB] * 120), before_each=lambda: clock.advance(1.0))
    run(part, body, clock)
    assert part.durable_bytes >= 60 * MIB


def test_a_short_transfer_is_not_flushed_by_the_way(part: PartFile, clock: ManualClock) -> None:
    run(part, ScriptedBody(MIB), clock)
    assert part.durable_bytes == 0
