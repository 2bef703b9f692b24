"""The bounds of a transfer, as bookkeeping: bytes and moments in, decisions out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restore_fetch.delivery.guards import RateLimit, StallGuard

RATE = 1000
WINDOW = 60.0


def guard() -> StallGuard:
    return StallGuard(RATE, WINDOW, 0.0)


def stalls_at(one: StallGuard, now: float, stop: float) -> float | None:
    """When a guard that is asked every second says that nothing arrives any more; None when it never does."""
    while now < stop:
        now += 1.0
        if one.stalled(now):
            return now
    return None


def test_a_start_is_no_stall_until_a_whole_window_has_passed() -> None:
    one = guard()
    assert not one.stalled(WINDOW - 0.01)
    assert one.stalled(WINDOW)


def test_exactly_the_rate_is_enough_and_a_little_less_is_not() -> None:
    enough, short = guard(), guard()
    for second in range(1, 300):
        enough.received(RATE, float(second))
        short.received(RATE - 1, float(second))
        assert not enough.stalled(float(second))
    assert short.stalled(300.0)


def test_a_burst_does_not_excuse_the_silence_behind_it() -> None:
    one = guard()
    one.received(10**9, 1.0)
    found = stalls_at(one, 1.0, 1000.0)
    assert found is not None
    assert 1.0 + WINDOW <= found <= 1.0 + WINDOW * 1.2


def test_time_in_which_the_delivery_was_not_at_fault_is_left_out() -> None:
    one = guard()
    one.excuse(1000.0)
    assert not one.stalled(1000.0 + WINDOW - 0.01)
    assert one.stalled(1000.0 + WINDOW)


def test_a_rate_of_nothing_still_ends_a_delivery_that_says_nothing() -> None:
    one = StallGuard(0, WINDOW, 0.0)
    one.received(1, 30.0)
    assert not one.stalled(59.0)
    assert one.stalled(200.0)


@given(st.lists(st.tuples(st.floats(0.01, 20.0), st.integers(0, 200_000)), max_size=60))
@settings(deadline=None)
def test_a_stall_is_told_only_when_too_little_came_and_always_when_nothing_did(
    arrivals: list[tuple[float, int]],
) -> None:
    one, now, told = guard(), 0.0, [(0.0, 0)]
    for pause, count in arrivals:
        now += pause
        one.received(count, now)
        told.append((now, count))
        lately = sum(count for moment, count in told if moment > now - WINDOW)
        if one.stalled(now):
            assert now >= WINDOW
            assert lately < RATE * WINDOW
    assert stalls_at(one, now, now + 2 * WINDOW) is not None


@pytest.mark.parametrize("rate", [1, 1000, 16 * 1024, 10**6, 10**9])
def test_a_limit_lets_through_exactly_its_rate(rate: int) -> None:
    limit, now, received = RateLimit(rate), 100.0, 0
    for _ in range(50):
        received += limit.piece_bytes
        now += limit.pause_seconds(limit.piece_bytes, now)
    assert received / (now - 100.0) == pytest.approx(rate)


def test_idle_time_is_not_saved_up_for_a_burst() -> None:
    limit = RateLimit(1000)
    limit.pause_seconds(1000, 0.0)
    assert limit.pause_seconds(1000, 500.0) == pytest.approx(1.0)


def test_two_transfers_share_one_limit() -> None:
    limit = RateLimit(1000)
    assert limit.pause_seconds(1000, 0.0) == pytest.approx(1.0)
    assert limit.pause_seconds(1000, 0.0) == pytest.approx(2.0)


@pytest.mark.parametrize("rate", [1, 1000, 10**6])
def test_a_piece_has_room_for_any_line_of_framing(rate: int) -> None:
    assert RateLimit(rate).piece_bytes > 2 * 4096
