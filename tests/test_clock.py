"""Moments as the service writes them, and a clock that can be believed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from restore_fetch.clock import SystemClock, iso


@pytest.mark.parametrize(
    ("moment", "written"),
    [
        (datetime(2026, 1, 31, 12, 0, tzinfo=UTC), "2026-01-31T12:00:00Z"),
        (datetime(2026, 1, 31, 12, 0, 0, 250_999, tzinfo=UTC), "2026-01-31T12:00:00.250Z"),
        (datetime(2026, 1, 31, 12, 0, tzinfo=timezone(timedelta(hours=2))), "2026-01-31T10:00:00Z"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00Z"),
    ],
)
def test_a_moment_is_written_in_utc_with_a_z(moment, written):
    assert iso(moment) == written


def test_the_system_clock_goes_forward_and_knows_its_zone():
    clock = SystemClock()
    before = clock.monotonic()
    clock.sleep(0)
    assert clock.monotonic() >= before
    assert clock.now().utcoffset() == timedelta(0)
