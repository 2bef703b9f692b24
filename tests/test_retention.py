"""Which pulls a policy keeps: rules over dates alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore_fetch.errors import ConfigurationError
from restore_fetch.records import BatchReceipt
from restore_fetch.retention import NEWEST, Policy, Pull, decide, taken
from tests.care_support import GROUP, object_id, receipt_of
from tests.record_support import STRUCTURE

START = datetime(2026, 1, 31, 2, 0, tzinfo=UTC)  # a Saturday


def pull(number: int, moment: datetime, cluster: str = "Cluster0") -> Pull:
    return Pull.of_receipt(receipt_of(number, moment, job={"cluster_name": cluster}))


def nights(count: int, start: datetime = START) -> list[Pull]:
    """A pull a night, the newest first."""
    return [pull(number, start - timedelta(days=number)) for number in range(count)]


def kept(pulls: Iterable[Pull], **rules: int) -> list[str]:
    """The days of the pulls that are kept, the newest first."""
    return [f"{fate.pull.taken:%m-%d}" for fate in decide(pulls, Policy(**rules)) if fate.reasons]


def test_a_policy_that_keeps_nothing_is_refused():
    for rules in ({}, {"last": 0}, {"daily": 0, "weekly": 0}):
        with pytest.raises(ConfigurationError, match="nothing says what to keep"):
            Policy(**rules)
    with pytest.raises(ConfigurationError):
        Policy(last=3, daily=-1)


def test_nothing_is_decided_about_nothing():
    assert decide([], Policy(last=1)) == []


def test_the_last_ones_are_kept():
    assert kept(nights(10), last=3) == ["01-31", "01-30", "01-29"]
    assert kept(nights(2), last=3) == ["01-31", "01-30"]


def test_one_a_day_is_kept_and_it_is_the_newest_of_the_day():
    pulls = [pull(number, START - timedelta(hours=8 * number)) for number in range(9)]
    fates = decide(pulls, Policy(daily=3))
    assert [fate.pull.id for fate in fates if fate.reasons] == [object_id(0), object_id(1), object_id(4)]
    assert [fate.reasons[-1] for fate in fates if fate.reasons] == [
        "daily 2026-01-31",
        "daily 2026-01-30",
        "daily 2026-01-29",
    ]


def test_days_without_a_pull_do_not_count():
    pulls = [pull(number, START - timedelta(days=7 * number)) for number in range(5)]
    assert kept(pulls, daily=3) == ["01-31", "01-24", "01-17"]


def test_one_a_week_is_kept_and_weeks_begin_on_monday():
    # 2026-01-31 is a Saturday; the Sundays before it end the weeks before.
    assert kept(nights(30), weekly=4) == ["01-31", "01-25", "01-18", "01-11"]


def test_a_week_across_the_new_year_is_one_week():
    pulls = nights(10, datetime(2026, 1, 3, tzinfo=UTC))  # the week from 2025-12-29 to 2026-01-04
    assert kept(pulls, weekly=2) == ["01-03", "12-28"]


def test_one_a_month_is_kept():
    assert kept(nights(70), monthly=3) == ["01-31", "12-31", "11-30"]


def test_what_any_rule_keeps_stays_with_each_reason():
    fates = decide(nights(30), Policy(daily=2, weekly=2, monthly=1))
    assert [(f"{fate.pull.taken:%m-%d}", fate.reasons) for fate in fates if fate.reasons] == [
        ("01-31", (NEWEST, "daily 2026-01-31", "weekly 2026-W05", "monthly 2026-01")),
        ("01-30", ("daily 2026-01-30",)),
        ("01-25", ("weekly 2026-W04",)),
    ]


def test_the_newest_of_each_cluster_stays_even_when_no_rule_has_room_for_it():
    pulls = [*nights(3), pull(90, START - timedelta(days=400), "Old")]
    fates = decide(pulls, Policy(monthly=1))
    assert [(fate.pull.cluster, fate.reasons[0]) for fate in fates if fate.reasons] == [
        ("Cluster0", NEWEST),
        ("Old", NEWEST),
    ]


def test_the_newest_verified_one_stays_although_a_newer_one_has_only_its_structure():
    whole = [
        Pull.of_receipt(receipt_of(number, START - timedelta(days=number), **STRUCTURE)) for number in range(2)
    ]
    fates = decide([*whole, *(pull(number, START - timedelta(days=number)) for number in (2, 3))], Policy(last=1))
    assert [(f"{fate.pull.taken:%m-%d}", fate.reasons) for fate in fates] == [
        ("01-31", ("newest", "last 1 of 1")),
        ("01-30", ()),
        ("01-29", (NEWEST,)),
        ("01-28", ()),
    ]


def test_clusters_do_not_take_places_from_each_other():
    pulls = [pull(number, START - timedelta(days=number), f"Cluster{number % 2}") for number in range(8)]
    assert kept(pulls, last=2) == ["01-31", "01-29", "01-30", "01-28"]


def test_shards_fetched_one_by_one_are_not_versions_of_each_other():
    parts = [
        Pull.of_receipt(receipt_of(number, START, job={"cluster_id": object_id(number)})) for number in range(3)
    ]
    assert all(fate.reasons for fate in decide(parts, Policy(last=1)))


def test_projects_are_told_apart_and_the_case_of_an_id_does_not_matter():
    ours = [
        Pull.of_receipt(receipt_of(number, START - timedelta(days=number), job={"group_id": group}))
        for number, group in enumerate([GROUP, GROUP.upper(), "b" * 24])
    ]
    assert [bool(fate.reasons) for fate in decide(ours, Policy(last=1))] == [True, False, True]


def test_a_day_is_a_day_in_utc():
    east = timezone(timedelta(hours=13))
    late = pull(0, datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC))
    same_day = replace(pull(1, START), taken=datetime(2026, 1, 31, 13, 0, tzinfo=east))  # midnight in UTC
    before = replace(pull(2, START), taken=datetime(2026, 1, 31, 12, 59, 59, tzinfo=east))
    reasons = [bool(fate.reasons) for fate in decide([before, same_day, late], Policy(daily=9))]
    assert reasons == [True, False, True]


def test_of_two_pulls_of_one_snapshot_the_later_one_is_the_newer():
    earlier = receipt_of(1, START, finished=START + timedelta(hours=1))
    later = receipt_of(0, START, finished=START + timedelta(hours=9))
    fates = decide([Pull.of_receipt(earlier), Pull.of_receipt(later)], Policy(daily=5))
    assert [(fate.pull.id, bool(fate.reasons)) for fate in fates] == [(object_id(0), True), (object_id(1), False)]


def test_the_date_is_the_snapshots_else_the_jobs_else_the_receipts():
    whole = receipt_of(1, START)
    undated = receipt_of(1, START, job={"timestamp": {"date": None}})
    no_timestamp = receipt_of(1, START, job={"timestamp": None})
    bare = receipt_of(1, START, job={"timestamp": None, "created": None})
    assert taken(whole) == START
    assert taken(undated) == taken(no_timestamp) == START + timedelta(hours=1)
    assert taken(bare) == START + timedelta(hours=2)


def test_a_batch_is_one_pull_with_the_date_of_its_newest_part():
    parts = [receipt_of(number, START + timedelta(minutes=number)) for number in range(3)]
    batch = BatchReceipt(
        batch_id=object_id(77),
        group_id=GROUP,
        cluster_name="Cluster0",
        members=(),
        finished=START + timedelta(hours=5),
        service="atlas",
        tool="restore-fetch 0.1.0",
    )
    whole = Pull.of_batch(batch, parts)
    assert whole.taken == START + timedelta(minutes=2)
    assert whole.files == tuple(part.file for part in parts)
    assert whole.bytes == sum(part.bytes for part in parts)
    assert [bool(fate.reasons) for fate in decide([whole, pull(9, START)], Policy(last=1))] == [True, True]


MOMENTS = st.lists(
    st.integers(0, 90 * 86400).map(lambda seconds: START - timedelta(seconds=seconds)),
    max_size=25,
    unique=True,
)
RULES = st.tuples(*[st.integers(0, 5)] * 4).filter(any)


@given(MOMENTS, RULES)
def test_a_pull_is_kept_exactly_when_it_is_newest_in_one_of_the_periods_that_count(moments, numbers):
    policy = Policy(*numbers)
    pulls = [pull(number, moment) for number, moment in enumerate(moments)]
    decided = {fate.pull.taken: bool(fate.reasons) for fate in decide(pulls, policy)}

    def counts(moment: datetime, length: str, most: int) -> bool:
        later = [other for other in moments if other > moment]
        return f"{moment:{length}}" not in {f"{other:{length}}" for other in later} and (
            len({f"{other:{length}}" for other in later}) < most
        )

    for moment in moments:
        newer = sum(other > moment for other in moments)
        wanted = newer == 0 or newer < policy.last
        for length, most in (("%Y-%m-%d", policy.daily), ("%G-%V", policy.weekly), ("%Y-%m", policy.monthly)):
            wanted = wanted or counts(moment, length, most)
        assert decided[moment] is wanted
    assert len(decided) == len(moments)
