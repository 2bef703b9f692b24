"""Time, as a thing that is passed in: tests move it by hand."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the rest needs from time."""

    def monotonic(self) -> float:
        """Seconds that only ever grow, for deadlines and rates."""
        ...

    def now(self) -> datetime:
        """The wall clock, in UTC, for records."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; untouched by changes of the wall clock."""
        return time.monotonic()

    def now(self) -> datetime:
        """The machine's idea of the time, in UTC."""
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        """Wait, and be woken by a signal whose handler raises."""
        time.sleep(seconds)


def iso(moment: datetime) -> str:
    """A moment as ISO 8601 in UTC with a `Z`, as the service writes them."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds" if moment.microsecond else "seconds")[:-6] + "Z"
