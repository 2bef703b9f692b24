"""Progress, as bars on a terminal and as a line a minute elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from restore_fetch.cli.console import Console
from restore_fetch.observer import Level
from restore_fetch.redaction import plain, scrub
from restore_fetch.units import show_duration, show_size

_LINE_EVERY_SECONDS = 60.0
_WIDTH_WHEN_UNKNOWN = 80
_HEIGHT_WHEN_UNKNOWN = 24


class Progress:
    """An `Observer` that shows what it hears on a console.

    Args:
        console: Where.
        label: What a bar is called, when there are several.
        monotonic: The time in seconds.
    """

    def __init__(self, console: Console, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._monotonic = monotonic
        self._bar: Any = None
        self._shown = ""
        self._rate = _Rate()
        self._next_line = monotonic() + _LINE_EVERY_SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def note(self, event: str, message: str, *, level: Level = "info") -> None:
        """See `Observer.note`."""
        self._console.note(event, message, level=level)

    def waiting(self, what: str, waited_seconds: float) -> None:
        """See `Observer.waiting`."""
        text = plain(scrub(f"waiting for {show_duration(waited_seconds)}: {what}"))
        if self._console.draws:
            self._open("waiting", bar_format="{desc}")
            self._bar.set_description_str(text)
        else:
            self._tell(text)

    def downloading(self, received_bytes: int, total_bytes: int | None) -> None:
        """See `Observer.downloading`."""
        self._bytes("downloading", received_bytes, total_bytes)

    def rereading(self, read_bytes: int, total_bytes: int) -> None:
        """See `Observer.rereading`."""
        self._bytes("hashing", read_bytes, total_bytes)

    def _bytes(self, what: str, done: int, total: int | None) -> None:
        if self._console.draws:
            scaled = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
            self._open(what, desc=what, total=total, initial=done, **scaled)
            self._bar.total = total
            self._bar.update(done - self._bar.n)
            return
        rate = self._rate.per_second(what, done, self._monotonic())
        of = f" of {show_size(total)} ({done / total:.0%})" if total else ""
        left = f", {show_duration((total - done) / rate)} left" if total and rate else ""
        self._tell(f"{what}: {show_size(done)}{of}, {show_size(rate)}/s{left}")

    def _tell(self, text: str) -> None:
        now = self._monotonic()
        if now < self._next_line or not self._console.tells_progress:
            return
        self._next_line = now + _LINE_EVERY_SECONDS
        self._console.note("progress", text)

    def _open(self, kind: str, **options: Any) -> None:
        if self._bar is not None and self._shown == kind:
            return
        self._close()
        from tqdm import tqdm

        self._bar = tqdm(leave=False, mininterval=0.2, **_width(), **options)
        self._shown = kind
        self._console.hide_with(self._bar.clear)

    def _close(self) -> None:
        self._console.hide_with(None)
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _width() -> dict[str, Any]:
    """Follow the terminal's width; a terminal that does not tell it (a serial line) is taken for an old one."""
    told = os.get_terminal_size(sys.stderr.fileno()).columns > 0
    return {"dynamic_ncols": True} if told else {"ncols": _WIDTH_WHEN_UNKNOWN, "nrows": _HEIGHT_WHEN_UNKNOWN}


class _Rate:
    """The rate since something began, for the lines."""

    def __init__(self) -> None:
        self._what = ""
        self._since = 0.0
        self._from = 0

    def per_second(self, what: str, done: int, now: float) -> float:
        if what != self._what or done < self._from:
            self._what, self._since, self._from = what, now, done
        return (done - self._from) / (now - self._since) if now > self._since else 0.0
