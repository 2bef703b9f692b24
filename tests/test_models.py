"""What the services say, read as leniently as they say it, and no more leniently than is safe."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from restore_fetch import redaction
from restore_fetch.errors import ServiceUnavailableError
from restore_fetch.models import Delivery, FileHash, RestoreJob
from restore_fetch.records import JobRecord
from restore_fetch.service import parse_job

# The page "Get One Legacy Backup Restore Job" shows these elements.
DOCUMENTED = {
    "batchId": None,
    "clusterId": "5a66689487d9d61443b46149",
    "clusterName": "Cluster0",
    "created": "2018-01-22T22:44:54Z",
    "delivery": {
        "authHeader": "X-Delivery-Key",
        "authValue": "the-value-that-opens-the-delivery",
        "expirationHours": 48,
        "expires": "2018-01-24T22:44:55Z",
        "maxDownloads": 2147483647,
        "methodName": "HTTP",
        "statusName": "READY",
        "url": "https://backup.example.net/backup/restore/v2/pull/abcdef0123456789abcd/5a/x-1516661094.tar.gz",
        "urlV2": "https://backup.example.net/backup/restore/v2/pull/x-1516661094.tar.gz",
    },
    "encryptionEnabled": True,
    "groupId": "5a5ddcf1df9db10f66d3c5c3",
    "hashes": [{"fileName": "x-1516661094.tar.gz", "hash": "a" * 40, "typeName": "SHA1"}],
    "id": "6b77893b80eef5354c77ee15",
    "links": [{"href": "", "rel": "self"}],
    "masterKeyUUID": "00000000-0000-0000-0000-000000000000",
    "pointInTime": False,
    "snapshotId": "5a6667c487d9d61443b45fb1",
    "statusName": "FINISHED",
    "timestamp": {"date": "2018-01-22T22:41:12Z", "increment": "1"},
    "hostId": "1d6f1d9d5c7b3a0f6e3b2c1d00000000",
    "addedInALaterVersion": {"of": ["the", "service"]},
}


def with_element(path: str, value: object) -> dict[str, object]:
    """The documented document with one element, given as `delivery.url`, changed."""
    document = json.loads(json.dumps(DOCUMENTED))
    *way, last = path.split(".")
    place = document
    for step in way:
        place = place[step]
    place[last] = value
    return document


def test_every_documented_element_is_read():
    job = parse_job(DOCUMENTED)
    assert (job.id, job.status_name, job.group_id, job.snapshot_id, job.cluster_name, job.host_id) == (
        "6b77893b80eef5354c77ee15",
        "FINISHED",
        "5a5ddcf1df9db10f66d3c5c3",
        "5a6667c487d9d61443b45fb1",
        "Cluster0",
        "1d6f1d9d5c7b3a0f6e3b2c1d00000000",
    )
    assert job.created == datetime(2018, 1, 22, 22, 44, 54, tzinfo=UTC)
    assert job.encryption_enabled is True
    assert job.master_key_uuid == "00000000-0000-0000-0000-000000000000"
    assert job.point_in_time is False
    assert job.timestamp is not None
    assert (job.timestamp.date, job.timestamp.increment) == (datetime(2018, 1, 22, 22, 41, 12, tzinfo=UTC), "1")
    assert job.hashes == (FileHash(file_name="x-1516661094.tar.gz", hash="a" * 40, type_name="SHA1"),)
    delivery = job.delivery
    assert delivery is not None
    assert (delivery.method_name, delivery.status_name, delivery.max_downloads, delivery.expiration_hours) == (
        "HTTP",
        "READY",
        2147483647,
        48,
    )
    assert delivery.expires == datetime(2018, 1, 24, 22, 44, 55, tzinfo=UTC)
    assert delivery.url is not None
    assert delivery.url.get_secret_value() == DOCUMENTED["delivery"]["url"]
    assert delivery.url_v2 is not None
    assert delivery.url_v2.get_secret_value() == DOCUMENTED["delivery"]["urlV2"]
    assert delivery.auth_header == "X-Delivery-Key"
    assert delivery.auth_value is not None
    assert delivery.auth_value.get_secret_value() == "the-value-that-opens-the-delivery"


@pytest.mark.parametrize("element", [name for name in DOCUMENTED if name != "addedInALaterVersion"])
def test_any_element_may_be_missing_or_null(element):
    missing = {name: value for name, value in DOCUMENTED.items() if name != element}
    assert parse_job(missing) == parse_job(with_element(element, None))


@pytest.mark.parametrize("element", sorted(DOCUMENTED["delivery"]))
def test_any_element_of_the_delivery_may_be_missing_or_null(element):
    missing = {name: value for name, value in DOCUMENTED["delivery"].items() if name != element}
    assert parse_job(with_element("delivery", missing)) == parse_job(with_element(f"delivery.{element}", None))


def test_nothing_but_an_id_is_a_job():
    assert parse_job({"id": "6b77893b80eef5354c77ee15"}) == RestoreJob(id="6b77893b80eef5354c77ee15")


@pytest.mark.parametrize("element", ["url", "urlV2", "authHeader", "authValue", "expires"])
def test_an_empty_text_is_no_value(element):
    delivery = parse_job(with_element(f"delivery.{element}", "")).delivery
    assert delivery == parse_job(with_element(f"delivery.{element}", None)).delivery


@pytest.mark.parametrize("increment", [7, "7"])
def test_the_increment_may_be_a_number_or_a_text(increment):
    job = parse_job(with_element("timestamp.increment", increment))
    assert job.timestamp is not None
    assert job.timestamp.increment == increment


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, 0, tzinfo=UTC)),
        ("2026-01-31T12:00:00", datetime(2026, 1, 31, 12, 0, tzinfo=UTC)),
        ("2026-01-31T12:00:00.250Z", datetime(2026, 1, 31, 12, 0, 0, 250000, tzinfo=UTC)),
        ("2026-01-31T13:30:00+01:30", datetime(2026, 1, 31, 12, 0, tzinfo=UTC)),
    ],
)
def test_moments_are_read_in_utc_wherever_they_are_written(text, moment):
    job = parse_job(with_element("created", text))
    assert job.created == moment
    assert job.created.tzinfo == UTC


@pytest.mark.parametrize(
    ("element", "value"),
    [
        ("id", 5),
        ("statusName", ["FINISHED"]),
        ("statusName", {"name": "FINISHED"}),
        ("delivery", "READY"),
        ("delivery", []),
        ("delivery.statusName", 1),
        ("delivery.url", 5),
        ("delivery.url", "http://[half-an-address/x.tar.gz"),
        ("delivery.maxDownloads", "many"),
        ("delivery.maxDownloads", 1.5),
        ("delivery.expires", "tomorrow"),
        ("delivery.expirationHours", float("inf")),
        ("hashes", {"SHA1": "a" * 40}),
        ("hashes", "a" * 40),
        ("hashes", [None]),
        ("hashes", ["a" * 40]),
        ("hashes", [{"hash": 5}]),
        ("timestamp", 1516661094),
        ("created", "0001-01-01T00:00:00+23:00"),
        ("created", "9999-12-31T23:59:59-23:00"),
        ("created", float("nan")),
        ("created", 10**30),
    ],
)
def test_an_element_of_another_type_than_documented_makes_the_answer_nonsense(element, value):
    with pytest.raises(ServiceUnavailableError, match=element.partition(".")[0]):
        parse_job(with_element(element, value))


@pytest.mark.parametrize(
    "element",
    [
        "id",
        "statusName",
        "clusterName",
        "masterKeyUUID",
        "delivery.statusName",
        "delivery.url",
        "delivery.authValue",
    ],
)
def test_half_a_character_is_refused_before_it_can_break_a_receipt(element):
    with pytest.raises(ServiceUnavailableError):
        parse_job(with_element(element, "half of a pair: \ud800"))


def test_whatever_was_read_can_be_written():
    names = {"clusterName": "Ünïcödé \U0001f40b\x00\x1b[2J", "batchId": "\ufffe", "masterKeyUUID": "\u202e"}
    job = parse_job(DOCUMENTED | names)
    assert JobRecord.model_validate_json(JobRecord.of(job).to_json()) == JobRecord.of(job)


def test_the_envelope_is_taken_off():
    assert parse_job({"status": 200, "content": DOCUMENTED}) == parse_job(DOCUMENTED)


@pytest.mark.parametrize("content", [None, [DOCUMENTED], "text"])
def test_an_envelope_without_a_document_is_a_job_of_nobody(content):
    assert parse_job({"status": 200, "content": content}).id is None


def test_an_element_called_content_does_not_hide_the_job_around_it():
    job = parse_job({**DOCUMENTED, "status": 200, "content": {"id": "other", "statusName": "FINISHED"}})
    assert job.id == DOCUMENTED["id"]


def test_values_cannot_be_changed():
    job = parse_job(DOCUMENTED)
    with pytest.raises(ValidationError):
        job.status_name = "BROKEN"


def test_what_opens_a_delivery_is_never_shown():
    job = parse_job(DOCUMENTED)
    for text in (repr(job), str(job), job.model_dump_json()):
        assert "abcdef0123456789abcd" not in text
        assert "the-value-that-opens" not in text


def test_what_opens_a_delivery_is_taken_out_of_any_text_from_then_on():
    parse_job(DOCUMENTED)
    said = redaction.scrub("GET /pull/abcdef0123456789abcd/5a/x.tar.gz with the-value-that-opens-the-delivery")
    assert said == "GET /pull/***/5a/x.tar.gz with ***"


def test_an_error_about_a_document_quotes_none_of_it():
    with pytest.raises(ValidationError) as caught:
        Delivery.model_validate({"url": ["https://backup.example.net/pull/abcdef0123456789abcd/x.tar.gz"]})
    assert "abcdef0123456789abcd" not in str(caught.value)
