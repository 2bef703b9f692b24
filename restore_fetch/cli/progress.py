"""Progress, as bars on a terminal and as a line a minute elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from restore_fetch.cli.console import Console
from restore_fetch.observer import Level
from restore_fetch.redaction import plain, scrub
from restore_fetch.units import show_duration, show_size

_LINE_EVERY_SECONDS = 60.0
_BYTES: dict[str, Any] = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
_OF_ONE_MEMBER = frozenset({"already-here", "hash-wait", "received", "reread", "status"})
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
            self._open(what, desc=what, total=total, initial=done, **_BYTES)
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
        self._bar = _new_bar(**options)
        self._shown = kind
        self._console.hide_with(self._bar.clear)

    def _close(self) -> None:
        self._console.hide_with(None)
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _new_bar(**options: Any) -> Any:
    from tqdm import tqdm

    return tqdm(leave=False, mininterval=0.2, **_width(), **options)


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


class BatchProgress:
    """A `BatchObserver` that shows on a console what it hears: a bar for each download under one for the batch.

    Args:
        console: Where.
        monotonic: The time in seconds.
    """

    def __init__(self, console: Console, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._monotonic = monotonic
        self._lock = threading.RLock()
        self._members = 0
        self._ended = 0
        self._total: Any = None
        self._bars: dict[str, Any] = {}
        self._received: dict[str, int] = {}
        self._rate = _Rate()
        self._next_line = monotonic() + _LINE_EVERY_SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._console.hide_with(None)
            for bar in (*self._bars.values(), self._total):
                if bar is not None:
                    bar.close()
            self._bars, self._total = {}, None
            self._members = 0  # a thread that outlasts the run draws no more

    def begin(self, members: int) -> None:
        """See `BatchObserver.begin`."""
        with self._lock:
            self._members = members
            self._show()

    def member(self, job_id: str) -> MemberProgress:
        """See `BatchObserver.member`."""
        return MemberProgress(self, job_id)

    def ended(self, job_id: str, error: Exception | None) -> None:
        """See `BatchObserver.ended`."""
        with self._lock:
            self._ended += 1
            self._drop_bar(job_id)
            if error is not None and self._members > 1:
                self.note("member-failed", f"restore job {job_id} failed: {error}", level="warning")
            self._show()

    def note(self, event: str, message: str, *, level: Level = "info") -> None:
        """See `Observer.note`."""
        with self._lock:
            self._console.note(event, message, level=level)

    def waiting(self, what: str, waited_seconds: float) -> None:
        """See `Observer.waiting`."""
        with self._lock:
            self._show(f", waiting for {show_duration(waited_seconds)}: {what}")

    def downloading(self, received_bytes: int, total_bytes: int | None) -> None:
        """See `Observer.downloading`; only members download."""

    def rereading(self, read_bytes: int, total_bytes: int) -> None:
        """See `Observer.rereading`; only members read."""

    def moved(self, job_id: str, what: str, done: int, total: int | None) -> None:
        """A member has so many bytes, of so many when that is known."""
        with self._lock:
            if not self._members:
                return
            self._received[job_id] = done
            if self._console.draws:
                bar = self._bars.get(job_id)
                if bar is None:
                    place = min(set(range(1, len(self._bars) + 2)) - {-one.pos for one in self._bars.values()})
                    bar = self._bars[job_id] = _new_bar(position=place, initial=done, total=total, **_BYTES)
                bar.total = total
                bar.set_description_str(f"{what} {job_id}", refresh=False)
                bar.update(done - bar.n)
            self._show()

    def rest(self, job_id: str) -> None:
        """A member moves no bytes for now."""
        with self._lock:
            self._drop_bar(job_id)

    def _drop_bar(self, job_id: str) -> None:
        bar = self._bars.pop(job_id, None)
        if bar is not None:
            bar.close()

    def _show(self, wait: str = "") -> None:
        if not self._members:
            return
        jobs = f"{self._ended} of {self._members} jobs done"
        received = sum(self._received.values())
        if self._console.draws:
            if self._total is None:
                self._total = _new_bar(position=0, bar_format="{desc} ({n_fmt} in {elapsed}, {rate_fmt})", **_BYTES)
                self._console.hide_with(self._clear)
            self._total.set_description_str(f"batch: {jobs}{wait}", refresh=False)
            self._total.update(received - self._total.n)
            return
        now = self._monotonic()
        if now >= self._next_line and self._console.tells_progress:
            self._next_line = now + _LINE_EVERY_SECONDS
            rate = self._rate.per_second("batch", received, now)
            self._console.note(
                "progress", f"batch: {jobs}{wait}; {show_size(received)} received, {show_size(rate)}/s"
            )

    def _clear(self) -> None:
        for bar in (self._total, *self._bars.values()):
            if bar is not None:
                bar.clear()


class MemberProgress:
    """An `Observer` for one job of a batch.

    Args:
        batch: What shows the batch.
        job_id: The job.
    """

    def __init__(self, batch: BatchProgress, job_id: str) -> None:
        self._batch = batch
        self._job_id = job_id

    def note(self, event: str, message: str, *, level: Level = "info") -> None:
        """See `Observer.note`; what is usual for a job is told only when more is asked for."""
        self._batch.rest(self._job_id)
        if event in _OF_ONE_MEMBER and level == "info":
            level = "debug"
        self._batch.note(event, message if self._job_id in message else f"{self._job_id}: {message}", level=level)

    def waiting(self, what: str, waited_seconds: float) -> None:
        """See `Observer.waiting`; the batch tells that it waits."""

    def downloading(self, received_bytes: int, total_bytes: int | None) -> None:
        """See `Observer.downloading`."""
        self._batch.moved(self._job_id, "downloading", received_bytes, total_bytes)

    def rereading(self, read_bytes: int, total_bytes: int) -> None:
        """See `Observer.rereading`."""
        self._batch.moved(self._job_id, "hashing", read_bytes, total_bytes)
