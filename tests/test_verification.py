"""Archives on disk compared with what is beside them: verified only by what can prove it."""

from __future__ import annotations

from pathlib import Path

import pytest

from restore_fetch import receipts
from restore_fetch.errors import ConfigurationError, HashMismatchError, HashNotPublishedError, StorageError
from restore_fetch.hashes import Digest
from restore_fetch.models import FileHash, RestoreJob
from restore_fetch.verification import (
    Reference,
    Verified,
    archive_of,
    is_unproven,
    job_id_beside,
    parse_sha1,
    reference_beside,
    reference_in_job,
    verify,
)
from tests.record_support import BYTES, JOB_ID, NAME, SHA1, journal, receipt, rejection


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / NAME
    path.write_bytes(BYTES)
    return path


def check(path: Path, reference: Reference | None = None) -> Verified:
    return verify(path, lambda _: reference or reference_beside(path), lambda _done, _total: None)


def test_a_receipt_verifies_its_own_archive(archive):
    receipts.write_receipt(archive, receipt())
    verified = check(archive)
    assert (verified.path, verified.size, verified.digest.hex) == (archive, len(BYTES), SHA1)
    assert verified.source == "its receipt of 2026-01-31"


def test_a_changed_archive_is_found_out_and_left_alone(archive):
    receipts.write_receipt(archive, receipt())
    archive.write_bytes(BYTES + b"!")
    with pytest.raises(HashMismatchError, match="HASH MISMATCH") as caught:
        check(archive)
    assert (caught.value.expected, caught.value.path) == (SHA1, archive)
    assert archive.read_bytes() == BYTES + b"!"


def test_a_receipt_of_an_unverified_archive_proves_nothing(archive):
    receipts.write_receipt(archive, receipt(verdict="unverified", published_hash=None, checks={}))
    assert is_unproven(archive)
    with pytest.raises(HashNotPublishedError, match="verify --online"):
        check(archive)
    archive.write_bytes(b"other bytes")
    with pytest.raises(HashMismatchError):
        check(archive)


def test_a_receipt_edited_to_verified_proves_nothing(archive):
    path = receipts.receipt_path(archive)
    receipts.write_receipt(archive, receipt(verdict="unverified", published_hash=None, checks={}))
    path.write_bytes(path.read_bytes().replace(b'"unverified"', b'"verified"'))
    with pytest.raises(StorageError, match="damaged, or was edited"):
        check(archive)


def test_the_receipt_of_another_file_proves_nothing(archive):
    receipts.write_receipt(archive, receipt(file="other.tar.gz"))
    with pytest.raises(StorageError, match=r"the receipt of another file, other\.tar\.gz"):
        check(archive)


@pytest.mark.parametrize(
    "line", ["{sha1}  {name}\n", "{upper} *{name}\n", "# said\n\n{sha1}  other\n{sha1}  {name}\n"]
)
def test_a_checksum_file_verifies_the_file_it_names(archive, line):
    receipts.sha1_path(archive).write_text(line.format(sha1=SHA1, upper=SHA1.upper(), name=NAME))
    assert check(archive).source == f"{NAME}.sha1"
    archive.write_bytes(b"other bytes")
    with pytest.raises(HashMismatchError):
        check(archive)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", SHA1.encode(), f"{SHA1}  other.tar.gz\n".encode(), b"{}"])
def test_a_checksum_file_that_does_not_name_the_file_proves_nothing(archive, content):
    receipts.sha1_path(archive).write_bytes(content)
    with pytest.raises(StorageError, match="does not speak of"):
        check(archive)


def test_with_nothing_beside_it_nothing_is_proven(archive):
    with pytest.raises(HashNotPublishedError, match="no receipt"):
        check(archive)


@pytest.mark.parametrize("published", ["f" * 40, SHA1])
def test_a_rejected_file_is_never_verified_by_its_finding(tmp_path, published):
    path = tmp_path / f"{NAME}.rejected"
    path.write_bytes(BYTES)
    finding = rejection(published_hash={"type_name": "SHA1", "file_name": NAME, "hash": published})
    receipts.write_rejection(tmp_path / NAME, finding)
    with pytest.raises(HashNotPublishedError if published == SHA1 else HashMismatchError):
        check(path)
    assert job_id_beside(path) == JOB_ID


def test_a_rejected_file_without_its_finding_proves_nothing(tmp_path):
    path = tmp_path / f"{NAME}.rejected"
    path.write_bytes(BYTES)
    with pytest.raises(HashNotPublishedError, match="rejected"):
        check(path)


@pytest.mark.parametrize("suffix", ["", ".unverified", ".rejected", ".part"])
def test_a_job_verifies_a_file_whatever_it_is_called_for_now(tmp_path, suffix):
    path = tmp_path / (NAME + suffix)
    job = RestoreJob(id=JOB_ID, hashes=(FileHash(file_name=NAME, hash=SHA1, type_name="SHA1"),))
    find = reference_in_job(job, path, "the service")
    assert find(Digest("SHA1", SHA1)).digest == Digest("SHA1", SHA1)
    path.write_bytes(b"other bytes")
    with pytest.raises(HashMismatchError):
        verify(path, find, lambda _done, _total: None)


@pytest.mark.parametrize("hashes", [(), (FileHash(file_name="other", hash="f" * 40),), (FileHash(hash="soon"),)])
def test_a_job_without_a_hash_of_the_file_proves_nothing(archive, hashes):
    find = reference_in_job(RestoreJob(id=JOB_ID, hashes=hashes), archive, "the service")
    with pytest.raises(HashNotPublishedError, match="publishes no SHA1"):
        verify(archive, find, lambda _done, _total: None)


def test_a_receipt_or_checksum_file_stands_for_its_archive(archive):
    assert archive_of(receipts.receipt_path(archive)) == archive
    assert archive_of(receipts.sha1_path(archive)) == archive
    assert archive_of(archive) == archive
    assert archive_of(Path(".sha1")) == Path(".sha1")


def test_the_job_of_a_file_is_found_beside_it(tmp_path, archive):
    assert job_id_beside(archive) is None
    receipts.write_receipt(archive, receipt())
    assert job_id_beside(archive) == JOB_ID
    unverified = tmp_path / "x.tar.gz.unverified"
    (tmp_path / "x.tar.gz.part.json").write_bytes(journal(file="x.tar.gz").to_json())
    assert job_id_beside(unverified) == JOB_ID
    assert is_unproven(unverified)


def test_a_sha1_given_by_hand_must_be_one():
    assert parse_sha1(f" {SHA1.upper()} ") == Digest("SHA1", SHA1)
    with pytest.raises(ConfigurationError, match="--sha1"):
        parse_sha1(SHA1[:-1])
