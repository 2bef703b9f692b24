"""The decisions, one by one: when a job is ready, what may be downloaded, whose hash it is, what to wait for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from restore_fetch import rules
from restore_fetch.errors import (
    DeliveryExpiredError,
    DeliveryUnusableError,
    DownloadsSpentError,
    JobFailedError,
    ServiceUnavailableError,
)
from restore_fetch.hashes import Digest
from restore_fetch.models import Delivery, FileHash, RestoreJob
from restore_fetch.rules import Finding, JobIdentity

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
URL = "https://backup.example.net/pull/the-key-in-the-path/Cluster0-1516661094-6b77893b80eef5354c77ee15.tar.gz"
OURS = "Cluster0-1516661094-6b77893b80eef5354c77ee15.tar.gz"
JOB_ID = "6b77893b80eef5354c77ee15"
ACTUAL = Digest("SHA1", "0123456789abcdef0123456789abcdef01234567")
OTHER = "f" * 40


def job(status: str | None = "FINISHED", delivery_status: str | None = "READY", **delivery) -> RestoreJob:
    terms = {"methodName": "HTTP", "statusName": delivery_status, "url": URL} | delivery
    return RestoreJob.model_validate({"id": JOB_ID, "statusName": status, "delivery": terms})


def delivery(**elements) -> Delivery:
    return Delivery.model_validate(elements)


def entry(value: str | None = ACTUAL.hex, name: str | None = OURS, kind: str | None = "SHA1") -> FileHash:
    return FileHash(hash=value, file_name=name, type_name=kind)


# --- the job ---------------------------------------------------------------------------------------------


def test_a_finished_job_with_a_ready_delivery_is_ready():
    assert rules.is_ready(job())


def test_a_finished_job_whose_delivery_says_no_status_is_ready():
    assert rules.is_ready(job(delivery_status=None))


def test_the_second_kind_of_url_is_enough():
    assert rules.is_ready(job(url=None, urlV2="https://backup.example.net/pull/x.tar.gz"))


@pytest.mark.parametrize(
    "status", [None, "", "IN_PROGRESS", "finished", "Finished", " FINISHED", "FINISHED ", "DONE", "QUEUED_2031"]
)
def test_no_other_status_than_finished_is_finished(status):
    assert not rules.is_ready(job(status))


@pytest.mark.parametrize(
    "status", ["NOT_STARTED", "PENDING", "IN_PROGRESS", "", "ready", "READY ", "ARCHIVING_2031"]
)
def test_no_other_delivery_status_than_ready_is_ready(status):
    assert not rules.is_ready(job(delivery_status=status))


def test_without_a_url_nothing_is_ready():
    assert not rules.is_ready(job(url=None))
    assert not rules.is_ready(job(url=""))
    assert not rules.is_ready(RestoreJob(id=JOB_ID, status_name="FINISHED"))


@pytest.mark.parametrize("status", ["BROKEN", "KILLED"])
def test_a_job_that_ended_badly_ends_the_wait(status):
    with pytest.raises(JobFailedError, match=status) as caught:
        rules.is_ready(job(status))
    assert (caught.value.job_id, caught.value.status_name) == (JOB_ID, status)
    assert "start a new restore job" in str(caught.value)


@pytest.mark.parametrize(
    "method",
    ["QUERY", "SCP", "CLIENT_PIT_HTTP", "CLIENT_PIT_SCP", "AUTOMATED_RESTORE", "THIRD_PARTY_COPY", "http"],
)
@pytest.mark.parametrize("status", ["IN_PROGRESS", "FINISHED"])
def test_a_delivery_by_other_means_ends_the_wait_at_once(status, method):
    with pytest.raises(DeliveryUnusableError, match="not HTTP"):
        rules.is_ready(job(status, methodName=method))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("EXPIRED", DeliveryExpiredError),
        ("MAX_DOWNLOADS_EXCEEDED", DownloadsSpentError),
        ("FAILED", DeliveryUnusableError),
        ("INTERRUPTED", DeliveryUnusableError),
    ],
)
def test_a_delivery_that_is_over_ends_the_wait(status, kind):
    with pytest.raises(kind, match=status) as caught:
        rules.is_ready(job(delivery_status=status))
    assert type(caught.value) is kind
    assert caught.value.status_name == status


def test_the_statuses_are_shown_even_when_there_are_none():
    assert rules.show_status(job()) == "FINISHED/READY"
    assert rules.show_status(RestoreJob()) == "?/?"


# --- whose document it is --------------------------------------------------------------------------------


@pytest.mark.parametrize("answered", [None, "", "6b77893b80eef5354c77ee16"])
def test_a_document_of_another_job_is_nonsense(answered):
    with pytest.raises(ServiceUnavailableError):
        rules.check_identity(JOB_ID, "a" * 24, RestoreJob(id=answered))


def test_a_document_of_another_project_is_nonsense():
    with pytest.raises(ServiceUnavailableError, match="another project"):
        rules.check_identity(JOB_ID, "a" * 24, RestoreJob(id=JOB_ID, group_id="b" * 24))


def test_the_document_asked_for_is_accepted_in_any_case_of_its_ids():
    rules.check_identity(JOB_ID, "a" * 24, RestoreJob(id=JOB_ID.upper(), group_id="A" * 24))
    rules.check_identity(JOB_ID, "a" * 24, RestoreJob(id=JOB_ID))


@pytest.mark.parametrize(
    ("change", "element"),
    [
        ({"id": "7" * 24}, "id"),
        ({"group_id": "7" * 24}, "groupId"),
        ({"cluster_id": "7" * 24}, "clusterId"),
        ({"snapshot_id": "7" * 24}, "snapshotId"),
        ({"batch_id": "7" * 24}, "batchId"),
    ],
)
def test_a_job_that_changes_under_our_eyes_contradicts_itself(change, element):
    before = RestoreJob(id=JOB_ID, group_id="a" * 24, cluster_id="b" * 24, snapshot_id="c" * 24, batch_id="d" * 24)
    later = before.model_copy(update=change)
    assert JobIdentity.of(before).contradiction(JobIdentity.of(later)) == element
    assert JobIdentity.of(later).contradiction(JobIdentity.of(before)) == element


def test_what_one_look_leaves_out_is_no_contradiction():
    before = RestoreJob(id=JOB_ID, snapshot_id="c" * 24)
    later = RestoreJob(id=JOB_ID.upper(), cluster_id="b" * 24)
    assert JobIdentity.of(before).contradiction(JobIdentity.of(later)) is None


# --- the delivery ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [timedelta(0), timedelta(microseconds=1), timedelta(days=3000)])
def test_a_delivery_past_its_expiry_is_refused(late):
    with pytest.raises(DeliveryExpiredError, match="2026-01-31 12:00:00 UTC"):
        rules.check_expiry(delivery(expires=NOW), NOW + late)


@pytest.mark.parametrize("expires", [None, NOW + timedelta(seconds=1)])
def test_a_delivery_before_its_expiry_may_be_used(expires):
    rules.check_expiry(delivery(expires=expires), NOW)


@pytest.mark.parametrize(
    ("allowed", "used", "left"),
    [
        (None, 1000, None),
        (2147483647, 1000, None),
        (2147483648, 1000, None),
        (2147483646, 6, 2147483640),
        (1, 0, 1),
        (3, 2, 1),
        (3, 3, 0),
        (3, 5, 0),
        (0, 0, 0),
        (-1, 0, 0),
    ],
)
def test_downloads_left_are_those_allowed_less_those_used_here(allowed, used, left):
    terms = delivery(maxDownloads=allowed)
    assert rules.downloads_left(terms, used) == left
    if left == 0:
        with pytest.raises(DownloadsSpentError, match="--force"):
            rules.check_budget(terms, used)
    else:
        rules.check_budget(terms, used)


@pytest.mark.parametrize(
    ("segment", "name"),
    [
        ("Cluster0-shard-1-1516661094-6b77893b80eef5354c77ee15.tar.gz", None),
        ("config-Cluster0-config-0-5a66-1516661094-6b77.tar", None),
        ("a.tgz", None),
        ("9.tar", None),
        ("a%2Etar%2egz", "a.tar.gz"),
        ("x" * 193 + ".tar.gz", None),
    ],
)
def test_the_archive_is_called_as_in_its_url(segment, name):
    url = f"https://backup.example.net:8443/pull/key/{segment}?a=b/c.tar.gz#d/e.tar.gz"
    assert rules.archive_name(url, JOB_ID) == (name or segment)


@pytest.mark.parametrize(
    "url",
    [
        "https://h/x" + "x" * 193 + ".tar.gz",
        "https://h/",
        "https://h",
        "",
        "not a url",
        "https://[half/x.tar.gz",
        "https://h/.tar.gz",
        "https://h/.hidden.tar.gz",
        "https://h/-rf.tar.gz",
        "https://h/_x.tar.gz",
        "https://h/..",
        "https://h/%2e%2e",
        "https://h/..%2F..%2Fetc%2Fpasswd.tar.gz",
        "https://h/a%2Fb.tar.gz",
        "https://h/a%5Cb.tar.gz",
        "https://h/a%00.tar.gz",
        "https://h/a%0A.tar.gz",
        "https://h/a.tar.gz%0A",
        "https://h/a%1B%5B2J.tar.gz",
        "https://h/a%20b.tar.gz",
        "https://h/a;b.tar.gz",
        "https://h/%FF.tar.gz",
        "https://h/\u00e4.tar.gz",
        "https://h/a\u202egz.rat.tar.gz",
        "https://h/x.tar.gz/",
        "https://h/x.zip",
        "https://h/x.tar.gz.exe",
        "https://h/x.TAR.GZ",
        "https://h/x.tar.gz.part",
        "https://h/x.tar.gz.receipt.json",
        "https://h/?name=x.tar.gz",
    ],
)
def test_a_name_that_could_do_harm_is_replaced(url):
    assert rules.archive_name(url, JOB_ID) == f"restore-{JOB_ID}.tar.gz"


def test_the_host_of_a_url_is_shown_without_what_is_around_it():
    assert rules.host_of("https://user:word@backup.example.net:8443/key/x.tar.gz") == "backup.example.net"
    assert rules.host_of("https://[half/x.tar.gz") is None


@pytest.mark.parametrize("name", ["X-Delivery-Key", "x-amz-security-token", "Auth", "a" * 100])
def test_a_header_of_the_deliverys_own_may_be_sent(name):
    rules.check_auth_header(name, "Token of=16 kinds; and \t more")


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "host",
        "Content-Length",
        "Transfer-Encoding",
        "transfer-ENCODING",
        "Authorization",
        "Cookie",
        "Range",
        "If-Range",
        "Connection",
        "Accept-Encoding",
        "Proxy-Authorization",
        "TE",
        "Upgrade",
        "",
        " X",
        "X ",
        "X:",
        "X\r\nHost",
        "X\n",
        "X\x00",
        "X\u00e4",
        "a" * 101,
    ],
)
def test_a_header_that_would_change_the_request_is_refused(name):
    with pytest.raises(DeliveryUnusableError, match=r"delivery\.authHeader"):
        rules.check_auth_header(name, "value")


@pytest.mark.parametrize(
    "value", ["", " ", "a\r\nHost: b", "a\n", "\na", "a\x00b", " a", "a ", "\u00e4", "a" * 8003]
)
def test_a_header_value_that_would_change_the_request_is_refused(value):
    with pytest.raises(DeliveryUnusableError) as caught:
        rules.check_auth_header("X-Key", value)
    assert len(value) < 3 or value not in str(caught.value)


@pytest.mark.parametrize(
    ("local", "told"),
    [
        (NOW, None),
        (NOW + timedelta(minutes=5), None),
        (NOW - timedelta(minutes=5), None),
        (NOW + timedelta(minutes=5, seconds=1), timedelta(minutes=5, seconds=1)),
        (NOW - timedelta(days=3), timedelta(days=-3)),
    ],
)
def test_a_clock_is_told_to_be_wrong_beyond_five_minutes(local, told):
    assert rules.clock_skew(NOW, local) == told


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST.",
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "[::1]",
        "10.0.0.1",
        "172.31.0.1",
        "192.168.1.1",
        "fd00::1",
    ],
)
def test_this_machine_and_private_networks_are_private(host):
    assert rules.is_private_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "8.8.8.8",
        "172.32.0.1",
        "2606:4700::1",
        "example.net",
        "localhost.example.net",
        "127.0.0.1.example.net",
        "",
        "10.0.0.1.",
        "0x7f000001",
        "2130706433",
        "::ffff:8.8.8.8",
        "169.254.1.1",
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fe80::1%eth0",
        "fe80::a9fe:a9fe",
        "notlocalhost",
    ],
)
def test_every_other_host_is_public(host):
    assert not rules.is_private_host(host)


# --- the published hash ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "published",
    [
        entry(),
        entry(ACTUAL.hex.upper()),
        entry(f"  {ACTUAL.hex}\n"),
        entry(kind="sha1"),
        entry(kind="SHA-1"),
        entry(kind=None),
        entry(name=None),
        entry(name="another-name.tar.gz"),
    ],
)
def test_the_sha1_of_our_bytes_is_a_match(published):
    judgement = rules.judge([published], ACTUAL, OURS)
    assert judgement.finding is Finding.MATCH
    assert judgement.published == published


@pytest.mark.parametrize(
    "published", [entry(OTHER), entry(OTHER.upper()), entry(OTHER, None), entry(OTHER, kind=None)]
)
def test_another_sha1_for_our_file_is_a_mismatch(published):
    judgement = rules.judge([published], ACTUAL, OURS)
    assert (judgement.finding, judgement.published) == (Finding.MISMATCH, published)


@pytest.mark.parametrize(
    "hashes",
    [
        [],
        [entry(None)],
        [entry("")],
        [entry(ACTUAL.hex[:-1])],
        [entry(ACTUAL.hex + "0")],
        [entry(ACTUAL.hex[:-1] + "g")],
        [entry("pending")],
        [entry(f"sha1:{ACTUAL.hex}")],
        [entry(f"0x{ACTUAL.hex}")],
        [entry(kind="MD5")],
        [entry(kind="SHA256")],
        [entry("0" * 64, kind="SHA-256")],
        [entry(OTHER, "another-name.tar.gz")],
        [entry(OTHER, OURS.upper())],
        [entry(OTHER, "another-name.tar.gz"), entry("e" * 40, "a-third.tar.gz")],
        [entry(name="another-name.tar.gz"), entry(OTHER, "a-third.tar.gz")],
        [entry(), entry(OTHER)],
        [entry(OTHER), entry()],
        [entry(OTHER), entry("e" * 40)],
    ],
)
def test_what_says_nothing_certain_about_our_file_is_no_published_hash(hashes):
    judgement = rules.judge(hashes, ACTUAL, OURS)
    assert (judgement.finding, judgement.published) == (Finding.NOT_PUBLISHED, None)


def test_the_entry_of_our_file_decides_among_others():
    others = [entry(OTHER, "another-name.tar.gz"), entry("0" * 32, kind="MD5"), entry(None)]
    assert rules.judge([*others, entry()], ACTUAL, OURS).finding is Finding.MATCH
    assert rules.judge([entry("e" * 40), *others], ACTUAL, OURS).finding is Finding.MISMATCH
    assert rules.judge([entry(), entry(ACTUAL.hex.upper())], ACTUAL, OURS).finding is Finding.MATCH


def test_a_file_with_a_name_made_up_here_answers_to_the_only_hash_there_is():
    unknown = rules.delivered_name(rules.archive_name("https://h/a%20b.zip", JOB_ID), JOB_ID)
    assert rules.judge([entry(OTHER, "a b.zip")], ACTUAL, unknown).finding is Finding.MISMATCH
    assert rules.judge([entry(name="a b.zip")], ACTUAL, unknown).finding is Finding.MATCH
    assert rules.judge([entry(OTHER, None), entry(name="x")], ACTUAL, unknown).finding is Finding.NOT_PUBLISHED
    assert rules.delivered_name(OURS, JOB_ID) == OURS


@pytest.mark.parametrize(
    ("hashes", "only_ours", "repeated", "settled"),
    [
        ([entry()], False, False, True),
        ([entry()], True, True, True),
        ([], True, True, False),
        ([entry(OTHER)], True, True, True),
        ([entry(OTHER)], True, False, False),
        ([entry(OTHER)], False, True, False),
        ([entry(OTHER)], False, False, False),
    ],
)
def test_only_a_match_or_a_hash_that_must_be_ours_settles_it(hashes, only_ours, repeated, settled):
    judgement = rules.judge(hashes, ACTUAL, OURS)
    assert rules.is_settled(judgement, only_ours=only_ours, repeated=repeated) is settled


# --- trying again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        (" 17 ", 17.0),
        ("86400", 86400.0),
        ("86401", 86400.0),
        ("9" * 12, 86400.0),
        ("9" * 13, None),
        ("-1", None),
        ("1.5", None),
        ("1e3", None),
        ("\u0661\u0662", None),
        ("soon", None),
        ("", None),
        ("Sat, 31 Jan 2026 12:02:00 GMT", 120.0),
        ("Sat, 31 Jan 2026 12:02:00 -0000", 120.0),
        ("Sat, 31 Jan 2026 13:02:00 +0100", 120.0),
        ("Saturday, 31-Jan-26 12:02:00 GMT", 120.0),
        ("Sat, 31 Jan 2026 11:58:00 GMT", None),
        ("Sat, 31 Jan 2036 12:00:00 GMT", 86400.0),
        ("Sat, 31 Jan 99999 12:00:00 GMT", None),
        ("Sat, 99 Jan 2026 12:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_never_absurd(value, seconds):
    assert rules.retry_after_seconds(value, NOW) == seconds
