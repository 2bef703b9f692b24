"""The wait for the published hash: what a service may answer in which order, and what follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from restore_fetch.delivery import JournalFile
from restore_fetch.errors import ApiError, AuthenticationError, ServiceUnavailableError
from restore_fetch.hashes import Digest
from restore_fetch.models import FileHash, RestoreJob
from restore_fetch.observer import SilentObserver
from restore_fetch.proof import Proof
from restore_fetch.rules import Finding
from restore_fetch.shelf import Whole
from restore_fetch.waiting import Patience
from tests.record_support import JOB_ID, NAME, SHA1, attempt, journal
from tests.support import ManualClock

STALE = "f" * 40
WRONG = "e" * 40
HASH_WAIT_SECONDS = 600.0
URL = f"https://backup.example.net/pull/the-key-in-the-path/{NAME}"


def answer(value: str | None, *, name: str = NAME, kind: str = "SHA1", **changes) -> RestoreJob:
    """The job with this published hash, or with none."""
    hashes = [] if value is None else [{"fileName": name, "hash": value, "typeName": kind}]
    terms = {"methodName": "HTTP", "statusName": "READY", "url": URL}
    document = {"id": JOB_ID, "statusName": "FINISHED", "delivery": terms, "hashes": hashes}
    return RestoreJob.model_validate(document | changes)


NONE = answer(None)
OURS = answer(SHA1)
OTHER = answer(WRONG)
DOWN = ServiceUnavailableError("the service cannot answer now", status=503)


class Looks:
    """Gives one answer a look, the last again and again."""

    def __init__(self, answers: Sequence[RestoreJob | Exception]) -> None:
        self.count = 0
        self._answers = answers

    def __call__(self) -> RestoreJob:
        self.count += 1
        given = self._answers[min(self.count, len(self._answers)) - 1]
        if isinstance(given, Exception):
            raise given
        return given


def prove(
    *answers: RestoreJob | Exception,
    absent: bool = True,
    used: int = 1,
    seconds: float = HASH_WAIT_SECONDS,
    name: str = NAME,
) -> tuple[Finding, int, float]:
    """The finding, how many looks it took, and how long."""
    clock = ManualClock()
    attempts = tuple(attempt(number) for number in range(used))
    kept = JournalFile(Path("/nowhere"), journal(file=name, attempts=attempts))
    whole = Whole(kept.part, 23, Digest("SHA1", SHA1))
    looks = Looks(answers)
    proof = Proof(looks, kept, whole, hashes_were_absent=absent, observer=SilentObserver())
    _, judgement = proof.wait(Patience(10.0, clock=clock, random=lambda: 0.5), seconds)
    return judgement.finding, looks.count, sum(clock.slept)


def test_a_hash_that_matches_settles_it_at_once():
    assert prove(OURS) == (Finding.MATCH, 1, 0.0)


@pytest.mark.parametrize("late", [1, 2, 5, 12])
def test_a_hash_may_come_late(late):
    finding, looks, _ = prove(*[NONE] * late, OURS)
    assert (finding, looks) == (Finding.MATCH, late + 1)


def test_a_hash_that_never_comes_is_waited_for_to_the_end():
    finding, _, waited = prove(NONE)
    assert (finding, waited) == (Finding.NOT_PUBLISHED, pytest.approx(HASH_WAIT_SECONDS))


def test_without_patience_there_is_one_look():
    assert prove(NONE, OURS, seconds=0.0) == (Finding.NOT_PUBLISHED, 1, 0.0)


def test_a_wrong_hash_that_can_only_be_ours_is_settled_by_a_second_look():
    assert prove(OTHER)[:2] == (Finding.MISMATCH, 2)


def test_a_wrong_hash_seen_once_is_not_yet_settled():
    assert prove(OTHER, OURS)[:2] == (Finding.MATCH, 2)


def test_two_different_wrong_hashes_in_a_row_settle_nothing():
    assert prove(OTHER, answer(STALE), OURS)[:2] == (Finding.MATCH, 3)


def test_a_wrong_hash_that_comes_and_goes_settles_nothing():
    assert prove(OTHER, NONE, OTHER, NONE, OURS)[:2] == (Finding.MATCH, 5)


@pytest.mark.parametrize("earlier", [{"absent": False}, {"used": 2}], ids=["a hash before", "a download before"])
def test_a_stale_hash_of_an_earlier_download_is_outwaited(earlier):
    finding, looks, _ = prove(*[answer(STALE)] * 9, OURS, **earlier)
    assert (finding, looks) == (Finding.MATCH, 10)


@pytest.mark.parametrize("earlier", [{"absent": False}, {"used": 2}], ids=["a hash before", "a download before"])
def test_a_hash_that_may_be_stale_is_believed_wrong_only_when_the_time_is_over(earlier):
    finding, _, waited = prove(answer(STALE), **earlier)
    assert (finding, waited) == (Finding.MISMATCH, pytest.approx(HASH_WAIT_SECONDS))


@pytest.mark.parametrize(
    "earlier", [{}, {"absent": False}, {"used": 2}], ids=["ours", "a hash before", "a download before"]
)
def test_without_patience_a_wrong_hash_is_looked_at_once_more_all_the_same(earlier):
    assert prove(OTHER, seconds=0.0, **earlier) == (Finding.MISMATCH, 2, pytest.approx(10.0))
    assert prove(OTHER, OURS, seconds=0.0, **earlier)[0] is Finding.MATCH


def test_a_service_that_fails_now_and_then_is_asked_again():
    assert prove(DOWN, NONE, DOWN, OURS)[:2] == (Finding.MATCH, 4)


def test_an_outage_between_two_looks_does_not_make_one_look_of_them():
    assert prove(OTHER, DOWN, OURS)[:2] == (Finding.MATCH, 3)


@pytest.mark.parametrize(
    ("hashes", "finding"),
    [
        ([(SHA1.upper(), NAME, "SHA1")], Finding.MATCH),
        ([(SHA1, None, None)], Finding.MATCH),
        ([(SHA1, "another.tar.gz", "SHA1")], Finding.MATCH),
        ([(WRONG, "another.tar.gz", "SHA1")], Finding.NOT_PUBLISHED),
        ([(SHA1, NAME, "MD5")], Finding.NOT_PUBLISHED),
        ([("not hexadecimal", NAME, "SHA1")], Finding.NOT_PUBLISHED),
        ([(WRONG, NAME, "SHA1"), (SHA1, NAME, "SHA1")], Finding.NOT_PUBLISHED),
        ([("0" * 64, NAME, "SHA256"), (SHA1, NAME, "SHA1")], Finding.MATCH),
        ([("0" * 64, NAME, "SHA256"), (WRONG, NAME, "SHA1")], Finding.MISMATCH),
    ],
)
def test_what_the_published_hashes_say(hashes, finding):
    entries = tuple(FileHash(hash=value, file_name=name, type_name=kind) for value, name, kind in hashes)
    assert prove(NONE.model_copy(update={"hashes": entries}))[0] is finding


def test_a_damaged_file_with_a_name_made_up_here_is_a_mismatch():
    made_up = f"restore-{JOB_ID}.tar.gz"
    url = {"methodName": "HTTP", "statusName": "READY", "url": "https://h/pull/the-key-in-the-path/a%20b.zip"}
    assert prove(answer(WRONG, name="a b.zip", delivery=url), name=made_up)[:2] == (Finding.MISMATCH, 2)
    assert prove(answer(SHA1, name="a b.zip", delivery=url), name=made_up)[:2] == (Finding.MATCH, 1)


@pytest.mark.parametrize(
    ("change", "element"),
    [
        ({"snapshotId": "7" * 24}, "snapshotId"),
        ({"clusterId": "7" * 24}, "clusterId"),
        ({"groupId": "7" * 24}, "groupId"),
        ({"delivery": {"url": "https://h/pull/the-key-in-the-path/another.tar.gz"}}, "delivery.url"),
    ],
)
def test_a_job_that_became_another_proves_nothing_although_its_hash_matches(change, element):
    with pytest.raises(ServiceUnavailableError, match=element) as caught:
        prove(answer(SHA1, **change))
    assert f"kept as {NAME}.part" in str(caught.value)


@pytest.mark.parametrize(
    "terms", [None, {"statusName": "EXPIRED"}, {"statusName": "MAX_DOWNLOADS_EXCEEDED", "url": URL}]
)
def test_a_delivery_that_is_over_since_the_download_does_not_matter(terms):
    assert prove(answer(SHA1, delivery=terms))[0] is Finding.MATCH


@pytest.mark.parametrize("error", [AuthenticationError("refused", status=401), DOWN])
def test_an_error_says_that_the_whole_archive_is_kept(error):
    with pytest.raises(ApiError) as caught:
        prove(NONE, type(error)(error.what, status=error.status))
    assert "the whole archive is kept" in str(caught.value)
    assert "not downloaded again" in str(caught.value)


def sequences() -> Iterator[tuple[RestoreJob | Exception, ...]]:
    choices: list[RestoreJob | Exception] = [NONE, OTHER, answer(STALE), DOWN]
    yield from ((first, second, third) for first in choices for second in choices for third in choices)


@pytest.mark.parametrize("absent", [True, False])
@pytest.mark.parametrize("used", [1, 2])
def test_no_sequence_of_answers_without_our_hash_ever_proves_anything(absent, used):
    for answers in sequences():
        try:
            finding, _, _ = prove(*answers, absent=absent, used=used, seconds=60.0)
        except ServiceUnavailableError:
            continue
        assert finding is not Finding.MATCH
