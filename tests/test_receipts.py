"""The documents this tool writes, and what becomes of one that somebody edited."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from restore_fetch import receipts
from restore_fetch.delivery import JournalFile
from restore_fetch.errors import StorageError
from restore_fetch.models import FileHash, RestoreJob
from restore_fetch.records import Attempt, JobRecord, Journal, PublishedHash, Receipt, Rejection
from tests.record_support import JOB_ID, NAME, SHA1, STRUCTURE, attempt, journal, receipt, rejection


def edited(document: Receipt | Journal | Rejection, **changes: object) -> bytes:
    return json.dumps(json.loads(document.to_json()) | changes).encode()


# --- what is written -------------------------------------------------------------------------------------


def test_a_receipt_has_the_documented_elements_and_no_other():
    document = json.loads(receipt().to_json())
    assert document["schema"] == "restore-fetch/receipt/v1"
    assert set(document) == {
        "schema",
        "verdict",
        "file",
        "bytes",
        "sha1",
        "published_hash",
        "checks",
        "job",
        "delivery",
        "attempts",
        "started",
        "finished",
        "seconds",
        "service",
        "tool",
    }
    assert document["checks"] == {"length": True, "hash": True, "gzip": None, "tar": None}
    assert document["started"] == "2026-01-31T12:00:00Z"
    assert document["attempts"][0]["started"] == "2026-01-31T12:00:01.250Z"
    assert set(document["attempts"][0]) == {"started", "ended", "bytes", "resumed_from", "outcome"}
    assert set(document["job"]["timestamp"]) == {"date", "increment"}


@pytest.mark.parametrize(
    "document", [receipt(), journal(), rejection()], ids=lambda document: type(document).__name__
)
def test_what_is_written_reads_back_as_it_was(document):
    assert type(document).model_validate_json(document.to_json()) == document


def test_a_record_of_a_job_leaves_out_what_opens_the_delivery():
    job = RestoreJob.model_validate(
        {"id": JOB_ID.upper(), "hostId": "h" * 24, "delivery": {"url": "https://h/the-key-in-the-path/x.tar.gz"}}
    )
    record = JobRecord.of(job)
    assert (record.id, record.cluster_id) == (JOB_ID, "h" * 24)
    assert b"the-key" not in record.to_json()


def test_the_receipt_is_written_last_and_sha1sum_can_read_what_is_beside_it(tmp_path):
    archive = tmp_path / NAME
    receipts.write_receipt(archive, receipt())
    assert (tmp_path / f"{NAME}.sha1").read_bytes() == f"{SHA1}  {NAME}\n".encode()
    assert receipts.read_record(receipts.receipt_path(archive), Receipt) == receipt()
    written, last = receipts.sha1_path(archive).stat(), receipts.receipt_path(archive).stat()
    assert written.st_mtime_ns <= last.st_mtime_ns
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == [f"{NAME}.receipt.json", f"{NAME}.sha1"]
    assert written.st_mode & 0o777 == last.st_mode & 0o777 == 0o600


def test_an_attempt_that_was_never_sent_uses_up_nothing():
    outcomes = ["not sent", "complete", "cut", None, "not sent"]
    state = journal(attempts=tuple(attempt(number, outcome=outcome) for number, outcome in enumerate(outcomes)))
    assert state.downloads_used == 3


# --- what is believed ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"published_hash": None},
        {"published_hash": {"type_name": "SHA1", "file_name": NAME, "hash": "f" * 40}},
        {"published_hash": {"type_name": "MD5", "file_name": NAME, "hash": SHA1}},
        {"published_hash": {"type_name": "SHA1", "file_name": NAME, "hash": "soon"}},
        {"sha1": "f" * 40},
        {"sha1": SHA1.upper()},
        {"sha1": SHA1[:-1]},
        {"checks": {"length": True, "hash": None}},
        {"checks": {"length": True, "hash": False}},
        {"verdict": "unverified"},
        {"verdict": "VERIFIED"},
        {"verdict": "rejected"},
        {"bytes": -1},
        {"bytes": 2**63},
        {"started": "0001-01-01T00:00:00+23:00"},
        {"finished": "9999-12-31T23:59:59-23:00"},
        {"attempts": None},
        {"schema": "restore-fetch/receipt/v2"},
        {"job": {}},
    ],
)
def test_a_receipt_that_contradicts_itself_is_not_believed(tmp_path, changes):
    path = tmp_path / f"{NAME}.receipt.json"
    path.write_bytes(edited(receipt(), **changes))
    with pytest.raises(StorageError, match="damaged, or was edited"):
        receipts.read_record(path, Receipt)
    with pytest.raises(StorageError, match="damaged, or was edited"):
        receipts.find_receipts(tmp_path, JOB_ID)


def test_a_receipt_cannot_be_made_for_bytes_that_are_not_the_published_ones():
    with pytest.raises(ValidationError):
        receipt(sha1="f" * 40)
    with pytest.raises(ValidationError):
        receipt(verdict="verified", published_hash=None)


def test_an_unverified_receipt_stays_unverified(tmp_path):
    unverified = receipt(verdict="unverified", published_hash=None, checks={"length": True})
    path = tmp_path / f"{NAME}.receipt.json"
    path.write_bytes(unverified.to_json())
    assert receipts.read_record(path, Receipt) == unverified
    path.write_bytes(edited(unverified, verdict="verified"))
    with pytest.raises(StorageError):
        receipts.read_record(path, Receipt)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"\x00" * 100, b"[" * 100_000, b'{"schema":' * 10_000, b'"text"'],
    ids=["empty", "half", "array", "null", "binary", "zeros", "deep", "deep objects", "text"],
)
@pytest.mark.parametrize("kind", [Receipt, Journal, Rejection])
def test_a_file_that_is_no_document_is_said_to_be_damaged(tmp_path, kind, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(StorageError, match="damaged") as caught:
        receipts.read_record(path, kind)
    assert caught.value.path == path
    assert path.read_bytes() == content


def test_a_document_that_is_not_there_is_none(tmp_path):
    assert receipts.read_record(tmp_path / "x.json", Receipt) is None
    assert receipts.find_receipts(tmp_path / "nowhere", JOB_ID) == []
    assert receipts.find_rejections(tmp_path, JOB_ID) == []


def test_a_document_is_never_read_through_a_link_or_a_fifo(tmp_path):
    (tmp_path / "real").write_bytes(receipt().to_json())
    (tmp_path / "link.receipt.json").symlink_to("real")
    os.mkfifo(tmp_path / "fifo.receipt.json")
    for name in ("link", "fifo"):
        with pytest.raises(StorageError, match="in the way"):
            receipts.read_record(tmp_path / f"{name}.receipt.json", Receipt)


def test_elements_of_a_later_version_are_overlooked(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(edited(receipt(), added_later={"by": ["a later", "version"]}))
    assert receipts.read_record(path, Receipt) == receipt()


def test_only_receipts_of_the_job_that_lie_beside_their_file_are_found(tmp_path):
    def put(name: str, document: Receipt) -> None:
        (tmp_path / f"{name}.receipt.json").write_bytes(document.to_json())

    put(NAME, receipt())
    put("renamed.tar.gz", receipt())
    put("other.tar.gz", receipt(file="other.tar.gz", job={"id": "7" * 24, "cluster_name": JOB_ID}))
    (tmp_path / "damaged.tar.gz.receipt.json").write_text("{")
    (tmp_path / ".hidden.tar.gz.receipt.json").write_bytes(receipt(file=".hidden.tar.gz").to_json())
    assert receipts.find_receipts(tmp_path, JOB_ID) == [(tmp_path / NAME, receipt())]


def test_a_published_hash_must_be_one():
    assert PublishedHash.of(FileHash(hash=f" {SHA1.upper()} ")).digest.hex == SHA1
    with pytest.raises(ValidationError):
        PublishedHash.of(FileHash(hash=None))


# --- the journal -----------------------------------------------------------------------------------------


def test_a_journal_is_on_disk_before_anything_it_speaks_of_happens(tmp_path):
    kept = JournalFile(tmp_path, journal(attempts=()))
    kept.begin(attempt(1, ended=None, outcome=None))
    found = JournalFile.of_job(tmp_path, JOB_ID)
    assert found is not None
    assert found.state.downloads_used == 1
    kept.end(attempt(1), etag='"v1"')
    found = JournalFile.at(tmp_path, NAME)
    assert found is not None
    assert (found.state.attempts, found.state.etag) == ((attempt(1),), '"v1"')
    kept.remove()
    assert JournalFile.of_job(tmp_path, JOB_ID) is None
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_cannot_be_written_does_not_change(tmp_path):
    kept = JournalFile(tmp_path, journal())
    kept.path.mkdir()
    before = kept.state
    with pytest.raises(StorageError):
        kept.begin(attempt(9))
    assert kept.state == before


@pytest.mark.parametrize("file", ["../escaped.tar.gz", "/etc/escaped.tar.gz", "other.tar.gz", ""])
def test_a_journal_edited_to_name_another_file_is_not_followed(tmp_path, file):
    path = tmp_path / f"{NAME}.part.json"
    path.write_bytes(edited(journal(), file=file))
    assert JournalFile.of_job(tmp_path, JOB_ID) is None
    with pytest.raises(StorageError, match="damaged, or was edited"):
        JournalFile.at(tmp_path, NAME)


@pytest.mark.parametrize("changes", [{"file": "other.tar.gz"}, {"job": {"id": "7" * 24}}])
def test_a_journal_that_would_publish_for_another_is_not_believed(tmp_path, changes):
    document = journal(state="publishing", receipt=receipt())
    (tmp_path / f"{NAME}.part.json").write_bytes(document.to_json())
    assert JournalFile.at(tmp_path, NAME) is not None
    foreign = json.loads(receipt(**changes).to_json())
    (tmp_path / f"{NAME}.part.json").write_bytes(edited(document, receipt=foreign))
    with pytest.raises(StorageError, match="damaged"):
        JournalFile.at(tmp_path, NAME)


def test_the_files_of_an_archive_lie_beside_each_other():
    kept = JournalFile(Path("/x"), journal())
    assert [path.name for path in (kept.archive, kept.path, kept.part, kept.unverified)] == [
        NAME,
        f"{NAME}.part.json",
        f"{NAME}.part",
        f"{NAME}.unverified",
    ]


def test_attempts_are_told_apart_to_the_millisecond():
    document = json.loads(journal(attempts=(attempt(1), attempt(2))).to_json())
    stamps = [Attempt.model_validate(made).started for made in document["attempts"]]
    assert len(set(stamps)) == 2


def test_a_receipt_of_a_whole_structure_is_read_as_it_was_written():
    written = receipt(**STRUCTURE)
    assert Receipt.model_validate_json(written.to_json()) == written


@pytest.mark.parametrize(
    "changes",
    [
        {"published_hash": {"type_name": "SHA1", "file_name": NAME, "hash": SHA1}},
        {"checks": {"hash": True, "gzip": True, "tar": True}},
        {"checks": {"hash": False, "gzip": True, "tar": True}},
        {"checks": {"gzip": None, "tar": True}},
        {"checks": {"gzip": True, "tar": None}},
        {"checks": {"gzip": True, "tar": False}},
        {"archive": None},
    ],
    ids=["a hash", "hash checked", "hash wrong", "gzip unchecked", "tar unchecked", "tar damaged", "not looked"],
)
def test_a_receipt_says_structure_only_where_that_is_all_there_is_and_was_checked(changes):
    with pytest.raises(ValidationError):
        receipt(**(STRUCTURE | changes))


def test_a_plain_tar_file_needs_no_gzip():
    assert receipt(**STRUCTURE | {"file": "old.tar", "checks": {"tar": True}}).verdict == "structure"


def test_a_damaged_archive_has_no_receipt_whatever_its_hash():
    with pytest.raises(ValidationError):
        receipt(checks={"length": True, "hash": True, "gzip": False})
