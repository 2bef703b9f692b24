"""Helpers that several families of tests share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class ManualClock:
    """Time that passes only when somebody sleeps, or moves it.

    Attributes:
        slept: Every pause, in seconds, in order.
    """

    def __init__(self, now: datetime = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)) -> None:
        self._start = now
        self._elapsed = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return 1000.0 + self._elapsed

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._elapsed += seconds

    def advance(self, seconds: float) -> None:
        self._elapsed += seconds
