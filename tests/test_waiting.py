"""Waiting: how long the pauses are, who may make them longer, and when it is over."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from restore_fetch.errors import (
    AuthenticationError,
    DownloadInterruptedError,
    DownloadRefusedError,
    ServiceUnavailableError,
    StorageError,
)
from restore_fetch.waiting import Patience
from tests.support import ManualClock


def patience(clock: ManualClock, poll: float = 10.0, random: Callable[[], float] = lambda: 0.5) -> Patience:
    return Patience(poll, clock=clock, random=random)


class Looks:
    """Answers one look after the other, the last again and again, and remembers when each was made."""

    def __init__(self, clock: ManualClock, *answers: object) -> None:
        self.at: list[float] = []
        self._clock = clock
        self._start = clock.monotonic()
        self._answers = answers

    def __call__(self) -> object:
        self.at.append(round(self._clock.monotonic() - self._start, 3))
        answer = self._answers[min(len(self.at), len(self._answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer


def unavailable(retry_after: float | None = None) -> ServiceUnavailableError:
    return ServiceUnavailableError("not now", status=503, retry_after_seconds=retry_after)


def done(seen: object) -> bool:
    return seen == "done"


# --- until -----------------------------------------------------------------------------------------------


def test_what_is_done_at_the_first_look_costs_no_pause(clock):
    looks = Looks(clock, "done")
    assert patience(clock).until(looks, done, 3600) == "done"
    assert (looks.at, clock.slept) == ([0.0], [])


def test_pauses_grow_by_half_up_to_six_times_the_first(clock):
    looks = Looks(clock, *["not yet"] * 9, "done")
    patience(clock).until(looks, done, 3600)
    pauses = [later - before for before, later in zip(looks.at, looks.at[1:], strict=False)]
    assert pauses == pytest.approx([10, 15, 22.5, 33.75, 50.625, 60, 60, 60, 60], abs=0.01)


@pytest.mark.parametrize(("random", "second"), [(0.0, 9.0), (0.5, 10.0), (1.0, 11.0)])
def test_pauses_differ_by_a_tenth_so_that_many_runs_do_not_stay_together(clock, random, second):
    looks = Looks(clock, "not yet", "done")
    patience(clock, random=lambda: random).until(looks, done, 3600)
    assert looks.at == pytest.approx([0.0, second])


def test_without_time_there_is_one_look_and_what_it_saw(clock):
    looks = Looks(clock, "not yet", "done")
    assert patience(clock).until(looks, done, 0) == "not yet"
    assert (looks.at, clock.slept) == ([0.0], [])


def test_the_last_look_is_at_the_deadline_and_not_after_it(clock):
    looks = Looks(clock, "not yet")
    assert patience(clock).until(looks, done, 100) == "not yet"
    assert looks.at[-1] == pytest.approx(100)
    assert looks.at[-2] < 100


def test_a_wait_of_years_does_not_run_out_of_numbers(clock):
    looks = Looks(clock, *["not yet"] * 1200, "done")
    assert patience(clock, poll=0.5).until(looks, done, 10 * 365 * 86400.0) == "done"


def test_a_service_that_cannot_answer_now_is_asked_again(clock):
    looks = Looks(clock, unavailable(), "not yet", unavailable(), "done")
    assert patience(clock).until(looks, done, 3600) == "done"


def test_what_the_service_asks_for_is_waited_for_in_full(clock):
    looks = Looks(clock, unavailable(300.0), "done")
    patience(clock).until(looks, done, 3600)
    assert looks.at == pytest.approx([0.0, 300.0])


@pytest.mark.parametrize("asked", [0.0, 1.0, None])
def test_the_service_cannot_make_the_pauses_shorter(clock, asked):
    looks = Looks(clock, unavailable(asked), "done")
    patience(clock).until(looks, done, 3600)
    assert looks.at == pytest.approx([0.0, 10.0])


def test_what_the_service_asks_for_ends_at_the_deadline(clock):
    looks = Looks(clock, unavailable(86400.0), "done")
    assert patience(clock).until(looks, done, 60) == "done"
    assert looks.at == pytest.approx([0.0, 60.0])


def test_the_last_failure_comes_out_when_the_time_is_up(clock):
    last = unavailable()
    looks = Looks(clock, "not yet", last)
    with pytest.raises(ServiceUnavailableError) as caught:
        patience(clock).until(looks, done, 60)
    assert caught.value is last


@pytest.mark.parametrize("error", [AuthenticationError("no", status=401), ValueError("a bug"), KeyboardInterrupt()])
def test_every_other_error_comes_out_at_once(clock, error):
    def look() -> object:
        raise error

    with pytest.raises(type(error)):
        patience(clock).until(look, done, 3600)
    assert clock.slept == []


def test_an_error_in_judging_comes_out_at_once(clock):
    def judge(_: object) -> bool:
        raise StorageError("the job is over", path=None)

    with pytest.raises(StorageError):
        patience(clock).until(lambda: "seen", judge, 3600)


def test_somebody_hears_of_the_wait_about_once_a_second(clock):
    heard: list[float] = []
    waiting = Patience(10.0, clock=clock, random=lambda: 0.5, on_wait=heard.append)
    waiting.until(Looks(clock, "not yet", "done"), done, 3600)
    assert heard == pytest.approx(list(range(10)))
    assert max(clock.slept) <= 1.0


# --- attempts --------------------------------------------------------------------------------------------


class Attempts:
    """Fails as told, then succeeds."""

    def __init__(self, *failures: Exception) -> None:
        self.made = 0
        self.looked = 0
        self._failures = failures

    def __call__(self) -> None:
        self.made += 1
        if self.made <= len(self._failures):
            raise self._failures[self.made - 1]

    def look(self) -> None:
        self.looked += 1


def cut(retry_after: float | None = None) -> DownloadInterruptedError:
    return DownloadInterruptedError("cut", outcome="cut", retry_after_seconds=retry_after)


def test_an_attempt_that_succeeds_is_the_only_one(clock):
    attempts = Attempts()
    patience(clock).attempts(attempts, 4, attempts.look)
    assert (attempts.made, attempts.looked, clock.slept) == (1, 0, [])


def test_an_interrupted_attempt_is_made_again_after_a_pause_and_a_look(clock):
    attempts = Attempts(cut(), cut(45.0))
    patience(clock).attempts(attempts, 4, attempts.look)
    assert (attempts.made, attempts.looked) == (3, 2)
    assert sum(clock.slept) == pytest.approx(10 + 45)


@pytest.mark.parametrize("most", [1, 2, 4])
def test_there_are_never_more_attempts_than_allowed(clock, most):
    attempts = Attempts(*[cut() for _ in range(9)])
    with pytest.raises(DownloadInterruptedError):
        patience(clock).attempts(attempts, most, attempts.look)
    assert (attempts.made, attempts.looked) == (most, most - 1)


@pytest.mark.parametrize(
    "error",
    [
        DownloadRefusedError("no archive", outcome="status 404"),
        StorageError("full", path=None),
        unavailable(),
        OSError(),
    ],
)
def test_nothing_but_an_interruption_is_tried_again(clock, error):
    attempts = Attempts(error)
    with pytest.raises(type(error)):
        patience(clock).attempts(attempts, 4, attempts.look)
    assert (attempts.made, attempts.looked) == (1, 0)


def test_a_look_that_says_there_is_no_point_ends_the_attempts(clock):
    attempts = Attempts(cut(), cut())

    def look() -> None:
        raise AuthenticationError("no", status=403)

    with pytest.raises(AuthenticationError):
        patience(clock).attempts(attempts, 4, look)
    assert attempts.made == 1


def test_a_failed_look_is_told_once_and_again_when_it_fails_in_another_way(clock):
    told: list[str] = []
    other = ServiceUnavailableError("cannot be reached")
    looks = Looks(clock, unavailable(), unavailable(), other, "not yet", other, "done")
    Patience(10, clock=clock, random=lambda: 0.5, on_failure=lambda error: told.append(error.what)).until(
        looks, done, 3600
    )
    assert told == ["not now", "cannot be reached", "cannot be reached"]
