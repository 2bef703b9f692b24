"""The bounds of a transfer: not slower than, not faster than. Pure bookkeeping; time is passed in."""

from __future__ import annotations

import threading
from collections import deque

_SAMPLES_A_WINDOW = 10
_SMALLEST_PIECE_BYTES = 16 * 1024  # room for any line of framing


class StallGuard:
    """Says when less than a rate arrived over a window of time: a read timeout alone never ends a trickle.

    Args:
        min_rate: Bytes a second.
        window_seconds: How long the rate may be missed.
        now: The monotonic time.
    """

    def __init__(self, min_rate: int, window_seconds: float, now: float) -> None:
        self._least_bytes = max(1, int(min_rate * window_seconds))
        self._window_seconds = window_seconds
        self._samples = deque([(now, 0)])
        self._received = 0

    def received(self, count: int, now: float) -> None:
        """Take note of bytes that arrived."""
        self._received += count
        if now - self._samples[-1][0] >= self._window_seconds / _SAMPLES_A_WINDOW:
            self._samples.append((now, self._received))
            while len(self._samples) > 1 and now - self._samples[1][0] >= self._window_seconds:
                self._samples.popleft()

    def stalled(self, now: float) -> bool:
        """Whether the last whole window brought too little."""
        self.received(0, now)
        since, before = self._samples[0]
        return now - since >= self._window_seconds and self._received - before < self._least_bytes

    def excuse(self, seconds: float) -> None:
        """Leave out a time in which the other side was not at fault: a slow disk, or our own limit."""
        self._samples = deque((moment + seconds, count) for moment, count in self._samples)


class RateLimit:
    """Spreads bytes so that no more than a rate arrives; transfers at the same time may share one.

    Args:
        bytes_per_second: The rate.
    """

    def __init__(self, bytes_per_second: int) -> None:
        self._lock = threading.Lock()
        self._rate = bytes_per_second
        self._free_at = 0.0
        self.piece_bytes = max(_SMALLEST_PIECE_BYTES, bytes_per_second // 8)
        """The most to receive at once, so that the flow stays even."""

    def pause_seconds(self, count: int, now: float) -> float:
        """How long to rest after bytes have arrived."""
        with self._lock:
            self._free_at = max(self._free_at, now) + count / self._rate
            return self._free_at - now
