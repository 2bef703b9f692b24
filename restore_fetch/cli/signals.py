"""Signals that ask a run to stop, as one exception that unwinds it: bytes kept, lock released."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

_ASK_TO_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_asked: list[Stopped] = []


class Stopped(BaseException):
    """A signal asked this process to stop. No `KeyboardInterrupt`: click makes another exception of those.

    Attributes:
        exit_code: 130 for SIGINT, 143 for SIGTERM and SIGHUP.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raise `Stopped` at the first signal; a second one ends the process where it stands, which is safe too.

    A signal that was ignored when the process began (as under `nohup`) stays ignored.

    Raises:
        Stopped: There was a signal. A library in whose code it arrived may have made an error of its own of it;
            whatever error comes after a signal is taken for that.
    """
    _asked.clear()

    def stop(number: int, _: FrameType | None) -> None:
        for other in handled:
            signal.signal(other, _leave)
        _asked.append(Stopped(number))
        raise _asked[0]

    handled = [number for number in _ASK_TO_STOP if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in handled}
    try:
        yield
    except Exception as exc:
        if _asked:
            raise _asked[0] from exc
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_asked() -> Stopped | None:
    """What a signal to this run raised, whatever a library made of it; None when there was none."""
    return _asked[0] if _asked else None


def _leave(number: int, _: FrameType | None) -> None:
    os._exit(Stopped(number).exit_code)
