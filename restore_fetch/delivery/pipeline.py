"""Receive, hash and write at the same time, in constant memory.

The thread that calls receives into a small ring of buffers; a second thread writes each, a third hashes it and
gives it back. Where the structure of the archive is checked, a fourth looks at it before that. Buffers are reused,
because fresh memory costs a page fault every 4 KiB, and are handed on full, because every hand-over costs a turn
of the interpreter's lock. `recv_into`, `write`, `hashlib` and the inflater release that lock, so they run side by
side as far as there are processors.

When any of them fails, the others stop at once, and the first failure is the one that is raised.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from restore_fetch.clock import Clock
from restore_fetch.delivery.body import Body, Buffer
from restore_fetch.delivery.guards import RateLimit, StallGuard
from restore_fetch.delivery.part import PartFile
from restore_fetch.errors import DownloadInterruptedError, DownloadRefusedError, RestoreFetchError

BUFFERS = 4
_BUFFERS_FOR_INSPECTION = 2
BUFFER_BYTES = 1024 * 1024
TICK_SECONDS = 0.25
_HAND_OVER_BYTES = BUFFER_BYTES - 128 * 1024  # the rest of a buffer is too little to ask the kernel for
_BLOCK_BYTES = 64 * 1024  # a file system takes several times as long for writes that begin in the middle of a page
_FLUSH_SECONDS = 1.0
_CHECKPOINT_SECONDS = 30.0
TOO_LARGE = "too large"
_END = 0
_CHECKPOINT = -1
_JOIN_SECONDS = 1.0


_Handed = tuple[Buffer | None, int]  # a buffer and how much of it is full; without a buffer, an order


@dataclass(frozen=True)
class Bounds:
    """What a transfer must keep to.

    Attributes:
        min_rate: Bytes a second that must arrive.
        stall_seconds: Over how long.
        limit: The limit of the rate, or None.
        max_bytes: The largest archive, or None.
    """

    min_rate: int
    stall_seconds: float
    limit: RateLimit | None = None
    max_bytes: int | None = None


class Pipeline:
    """Moves one body into one part file.

    Args:
        part: The file; its hash is kept along with it.
        bounds: What to keep to.
        clock: The time.
        on_progress: Called a few times a second with the number of bytes in the file.
        cancelled: Asked a few times a second whether to stop.
        total_bytes: How large the file will be, when that was announced.
    """

    def __init__(
        self,
        part: PartFile,
        bounds: Bounds,
        *,
        clock: Clock,
        on_progress: Callable[[int], None],
        cancelled: Callable[[], bool] = lambda: False,
        total_bytes: int | None = None,
    ) -> None:
        self._part = part
        self._total_bytes = total_bytes
        self._bounds = bounds
        self._clock = clock
        self._on_progress = on_progress
        self._cancelled = cancelled
        self._free: queue.SimpleQueue[Buffer] = queue.SimpleQueue()
        self._filled: queue.SimpleQueue[_Handed] = queue.SimpleQueue()
        self._written: queue.SimpleQueue[_Handed] = queue.SimpleQueue()
        self._hashed: queue.SimpleQueue[_Handed] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._guard = StallGuard(bounds.min_rate, bounds.stall_seconds, clock.monotonic())
        self._received = part.size
        self._count = 0  # bytes in the buffer being filled
        self._ticked_at = self._checkpoint_at = self._handed_at = clock.monotonic()

    def run(self, body: Body) -> None:
        """Move the whole body; the socket under it must have a time limit of about a tick.

        Every byte received before a failure is in the file when the failure is raised, as far as the disk took it.

        Raises:
            DownloadInterruptedError: The body ended too early, has more than was announced, stalled, or the run was
            cancelled.
            DownloadRefusedError: The body is malformed or too large.
            StorageError: The disk refuses.
        """
        for _ in range(BUFFERS + (_BUFFERS_FOR_INSPECTION if self._part.inspects else 0)):
            self._free.put(Buffer(BUFFER_BYTES))
        works = [self._write, self._hash] + ([self._inspect] if self._part.inspects else [])
        workers = [threading.Thread(target=work, daemon=True) for work in works]
        for worker in workers:
            worker.start()
        try:
            self._receive(body)
        except Exception as exc:
            self._finish(workers, None)
            if self._failure is not None and self._failure is not exc:
                raise self._failure from exc
            raise
        except BaseException:
            # Somebody wants the process gone: a disk that hangs must not keep it.
            self._finish(workers, _JOIN_SECONDS)
            raise
        self._finish(workers, None)
        if self._failure is not None:
            raise self._failure
        self._on_progress(self._part.size)

    def _finish(self, workers: list[threading.Thread], seconds: float | None) -> None:
        self._filled.put((None, _END))
        for worker in workers:
            worker.join(seconds)

    def _receive(self, body: Body) -> None:
        self._buffer = self._free_buffer()
        try:
            while self._receive_some(body):
                pass
        except RestoreFetchError:
            self._hand_over()  # a later attempt can go on from here
            raise
        self._hand_over()

    def _receive_some(self, body: Body) -> bool:
        """Take in what there is; returns False when the body is whole."""
        limit = self._bounds.limit
        piece = min(limit.piece_bytes, BUFFER_BYTES) if limit else BUFFER_BYTES
        try:
            count = body.receive(self._buffer, self._count, min(self._count + piece, BUFFER_BYTES))
            if count == 0:
                return False
        except TimeoutError:
            count = 0
        now = self._clock.monotonic()
        if count:
            self._count += count
            self._received += count
            self._check_size()
            self._guard.received(count, now)
        if self._count >= _HAND_OVER_BYTES:
            self._hand_on(self._count - self._received % _BLOCK_BYTES)
            self._handed_at = now
        elif self._count and now - self._handed_at >= _FLUSH_SECONDS:
            self._hand_on(self._count)
            self._handed_at = now
        if now - self._ticked_at >= TICK_SECONDS:
            self._tick(now)
        if limit and count:
            self._rest(limit.pause_seconds(count, now))
        return True

    def _hand_over(self) -> None:
        count, self._count = self._count, 0
        if count:
            self._filled.put((self._buffer, count))

    def _hand_on(self, count: int) -> None:
        """Hand over the first bytes of the buffer, and go on in another one with those behind them."""
        handed, rest = self._buffer, self._count - count
        self._count = 0  # whatever is raised from here on, the buffer is no longer ours to hand over
        self._filled.put((handed, count))
        self._buffer = self._free_buffer()
        self._buffer.view[:rest] = handed.view[count : count + rest]
        self._count = rest

    def _tick(self, now: float) -> None:
        self._ticked_at = now
        if self._failure is not None:
            raise self._failure
        if self._cancelled():
            raise DownloadInterruptedError("the run was cancelled", outcome="interrupted")
        if self._guard.stalled(now):
            raise DownloadInterruptedError(
                f"the delivery stalled: less than {self._bounds.min_rate} bytes a second "
                f"over {self._bounds.stall_seconds:g} s",
                outcome="stalled",
            )
        self._part.check_room()
        if now - self._checkpoint_at >= _CHECKPOINT_SECONDS:
            self._checkpoint_at = now
            self._filled.put((None, _CHECKPOINT))
        self._on_progress(self._received)

    def _check_size(self) -> None:
        if self._total_bytes is not None and self._received > self._total_bytes:
            raise DownloadInterruptedError(
                f"more than the {self._total_bytes} bytes announced arrived", outcome="cut"
            )
        if self._bounds.max_bytes is not None and self._received > self._bounds.max_bytes:
            raise DownloadRefusedError(
                f"the archive is larger than the {self._bounds.max_bytes} bytes allowed",
                outcome=TOO_LARGE,
                next_step="raise --max-size if so large an archive is expected: as it is, each run uses up a "
                "download",
            )

    def _rest(self, seconds: float) -> None:
        while seconds > 0:
            step = min(seconds, TICK_SECONDS)
            self._clock.sleep(step)
            self._guard.excuse(step)
            seconds -= step
            self._tick(self._clock.monotonic())

    def _free_buffer(self) -> Buffer:
        try:
            return self._free.get_nowait()
        except queue.Empty:
            began = self._clock.monotonic()
        while True:
            try:
                buffer = self._free.get(timeout=TICK_SECONDS)
            except queue.Empty:
                now = self._clock.monotonic()
                self._guard.excuse(now - began)
                began = now
                self._tick(now)
            else:
                self._guard.excuse(self._clock.monotonic() - began)
                return buffer

    def _write(self) -> None:
        """The second thread: write what was received, in order."""
        try:
            while (handed := self._filled.get()) != (None, _END):
                buffer, count = handed
                if buffer is None:
                    self._part.checkpoint()
                else:
                    self._part.write(buffer.view[:count])
                    self._written.put(handed)
        except BaseException as exc:  # noqa: BLE001 - raised again by the thread that waits for it
            self._failure = exc
        finally:
            self._written.put((None, _END))

    def _hash(self) -> None:
        """The third thread: hash what was written, in order, and hand the buffers on, or back."""
        try:
            while (handed := self._written.get()) != (None, _END):
                buffer, count = handed
                if buffer is not None:
                    self._part.hash(buffer.view[:count])
                    if self._part.inspects:
                        self._hashed.put(handed)
                    else:
                        self._free.put(buffer)
        except BaseException as exc:  # noqa: BLE001 - raised again by the thread that waits for it
            self._failure = exc
        finally:
            self._hashed.put((None, _END))

    def _inspect(self) -> None:
        """The fourth thread, where there is one: look at what was hashed, in order, and give the buffers back."""
        try:
            while (handed := self._hashed.get()) != (None, _END):
                buffer, count = handed
                if buffer is not None:
                    self._part.inspect(buffer.view[:count])
                    self._free.put(buffer)
        except BaseException as exc:  # noqa: BLE001 - raised again by the thread that waits for it
            self._failure = exc
