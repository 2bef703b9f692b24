"""Waiting: growing pauses with jitter, what the service asks for, and a deadline on a clock that only grows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import tenacity

from restore_fetch.clock import Clock
from restore_fetch.errors import DownloadInterruptedError, DownloadRefusedError, ServiceUnavailableError
from restore_fetch.observer import Observer

_T = TypeVar("_T")
_GROWTH = 1.5
_LONGEST = 6.0
_JITTER = 0.1
_STEP_SECONDS = 1.0


class Patience:
    """Decides how long to pause, and when enough is enough.

    The first pause is `poll_seconds`; each is half as long again as the one before, up to six times the first, give
    or take a tenth, so that many runs started together do not stay together. A `Retry-After` is waited for in
    full. The last look of all is at the deadline.

    Args:
        poll_seconds: The first pause.
        clock: The time.
        random: A number from 0 to 1, for the jitter.
        on_wait: Called about once a second with the seconds waited since the start.
        on_failure: Called before a look is made again because the last one failed; not again for the same failure.
    """

    def __init__(
        self,
        poll_seconds: float,
        *,
        clock: Clock,
        random: Callable[[], float],
        on_wait: Callable[[float], None] = lambda _: None,
        on_failure: Callable[[ServiceUnavailableError], None] = lambda _: None,
    ) -> None:
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._random = random
        self._on_wait = on_wait
        self._on_failure = on_failure
        self._told = ""

    def until(self, look: Callable[[], _T], done: Callable[[_T], bool], seconds: float) -> _T:
        """Look again and again until it is done, or the time is up.

        A look that fails because the service cannot answer now is made again at the next turn.

        Args:
            look: What to do each time.
            done: Whether what was seen is what was waited for.
            seconds: How long; 0 is one look.

        Returns:
            What was seen last, done or not.

        Raises:
            ServiceUnavailableError: The last look failed, and the time is up.
        """
        started = self._clock.monotonic()
        deadline = started + seconds

        def pause(state: tenacity.RetryCallState) -> float:
            left = max(0.0, deadline - self._clock.monotonic())
            return min(left, max(self._pause(state.attempt_number), _asked_for(state)))

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(ServiceUnavailableError)
            | tenacity.retry_if_result(lambda seen: not done(seen)),
            wait=pause,
            stop=lambda _: self._clock.monotonic() >= deadline,
            sleep=lambda pause_seconds: self._sleep(pause_seconds, started),
            before_sleep=self._tell,
            retry_error_callback=_last,
        )(look)

    def pause(self) -> None:
        """Wait for as long as before a second look."""
        self._sleep(self._pause(1), self._clock.monotonic())

    def attempts(
        self,
        attempt: Callable[[], None],
        most: int,
        before_next: Callable[[], None],
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make attempts until one succeeds, at most so many; only an interrupted download is tried again.

        Args:
            attempt: What to do.
            most: How often at most, 1 or more.
            before_next: Called after the pause; what it raises ends the attempts.
            enough: Asked after a failed attempt whether it was the last one all the same.

        Raises:
            DownloadInterruptedError: The last attempt, too, was interrupted.
            DownloadRefusedError: The delivery answered with something that is not the archive.
        """
        started = self._clock.monotonic()

        def sleep(pause_seconds: float) -> None:
            self._sleep(pause_seconds, started)
            before_next()

        tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(DownloadInterruptedError)
            & tenacity.retry_if_not_exception_type(DownloadRefusedError),
            wait=lambda state: max(self._pause(state.attempt_number), _asked_for(state)),
            stop=lambda state: state.attempt_number >= most or enough(),
            sleep=sleep,
            reraise=True,
        )(attempt)

    def _tell(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        message = str(error) if isinstance(error, ServiceUnavailableError) else ""
        if isinstance(error, ServiceUnavailableError) and message != self._told:
            self._on_failure(error)
        self._told = message

    def _pause(self, number: int) -> float:
        growth = min(_LONGEST, _GROWTH ** min(number - 1, 10))
        return self._poll_seconds * growth * (1 + _JITTER * (2 * self._random() - 1))

    def _sleep(self, seconds: float, started: float) -> None:
        wake_at = self._clock.monotonic() + seconds
        while (left := wake_at - self._clock.monotonic()) > 0:
            self._on_wait(self._clock.monotonic() - started)
            self._clock.sleep(min(left, _STEP_SECONDS))


def told_patience(
    observer: Observer, poll_seconds: float, *, clock: Clock, random: Callable[[], float]
) -> Callable[[Callable[[], str]], Patience]:
    """What makes patience of which an observer hears; it is called with a text that says what is waited for.

    Args:
        observer: Who hears of the waiting, and that the service did not answer: a wrong address would be waited for
            in silence.
        poll_seconds: The first pause.
        clock: The time.
        random: A number from 0 to 1, for the jitter.
    """

    def failed(error: ServiceUnavailableError) -> None:
        observer.note("unavailable", f"{error}; asking again until the time to wait is over", level="warning")

    def patience(what: Callable[[], str]) -> Patience:
        return Patience(
            poll_seconds,
            clock=clock,
            random=random,
            on_wait=lambda seconds: observer.waiting(what(), seconds),
            on_failure=failed,
        )

    return patience


def _asked_for(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, ServiceUnavailableError | DownloadInterruptedError):
        return error.retry_after_seconds or 0.0
    return 0.0


def _last(state: tenacity.RetryCallState) -> object:
    if state.outcome is None:
        raise AssertionError("no attempt was made")
    return state.outcome.result()
