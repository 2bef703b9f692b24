"""What a folder already holds of a job, and what of it can be relied on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from restore_fetch import receipts
from restore_fetch.delivery import JournalFile
from restore_fetch.errors import HashMismatchError, StorageError
from restore_fetch.shelf import Shelf, hash_file
from tests.record_support import BYTES, JOB_ID, NAME, SHA1, attempt, journal, receipt, rejection


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path, JOB_ID)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A published archive with all that goes with it."""
    path = tmp_path / NAME
    path.write_bytes(BYTES)
    receipts.write_receipt(path, receipt())
    return path


def change_times(path: Path, seconds: float) -> None:
    state = path.stat()
    moved = state.st_mtime_ns + int(seconds * 10**9)
    before = max(entry.stat().st_ctime_ns for entry in path.parent.iterdir())
    while path.stat().st_ctime_ns <= before:  # the clock of a file system ticks slowly
        os.utime(path, ns=(moved, moved))


def test_a_file_is_hashed_as_it_lies_on_the_disk(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(BYTES)
    whole = hash_file(path)
    assert (whole.path, whole.size, whole.digest.hex) == (path, len(BYTES), SHA1)


def test_what_is_no_file_is_not_hashed(tmp_path):
    (tmp_path / "link").symlink_to(NAME)
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo", "nothing", "."):
        with pytest.raises(StorageError):
            hash_file(tmp_path / name)


def test_an_empty_folder_holds_nothing(shelf):
    assert shelf.published() is None
    assert shelf.journal() is None
    assert shelf.attempts() == ()


def test_an_archive_with_its_receipt_is_published(shelf, archive):
    assert shelf.published() == (archive, receipt())


def test_a_receipt_without_its_archive_publishes_nothing(shelf, archive):
    archive.unlink()
    assert shelf.published() is None


def test_the_archive_of_another_job_is_not_ours(tmp_path, archive):
    assert Shelf(tmp_path, "7" * 24).published() is None


def test_a_touched_archive_is_read_again_and_may_still_be_right(shelf, archive):
    change_times(archive, +10)
    assert shelf.published() == (archive, receipt())


def test_an_archive_that_was_changed_is_never_taken_for_verified(shelf, archive):
    archive.write_bytes(BYTES.replace(b"bytes", b"bites"))
    change_times(archive, +10)
    with pytest.raises(HashMismatchError, match="changed after it was verified") as caught:
        shelf.published()
    assert (caught.value.path, caught.value.expected) == (archive, SHA1)
    assert archive.exists()


def test_an_archive_that_was_changed_and_given_its_old_time_back_is_found_out(shelf, archive):
    archive.write_bytes(BYTES.replace(b"bytes", b"bites"))
    change_times(archive, -3600)
    with pytest.raises(HashMismatchError):
        shelf.published()


def test_an_old_file_moved_to_the_name_of_the_archive_is_found_out(shelf, archive, tmp_path):
    stranger = tmp_path / "stranger"
    stranger.write_bytes(BYTES[::-1])
    stranger.replace(archive)
    change_times(archive, -3600)
    with pytest.raises(HashMismatchError):
        shelf.published()


def test_an_archive_of_another_length_is_found_out_whatever_its_time(shelf, archive):
    archive.write_bytes(BYTES[:-1])
    with pytest.raises(HashMismatchError):
        shelf.published()


def test_a_link_in_place_of_the_archive_is_not_followed(shelf, archive, tmp_path):
    archive.rename(tmp_path / "elsewhere")
    archive.symlink_to("elsewhere")
    with pytest.raises(StorageError, match="a symbolic link"):
        shelf.published()


def test_the_verified_archive_comes_before_the_unverified_one(shelf, archive, tmp_path):
    first = tmp_path / "a.tar.gz"
    first.write_bytes(BYTES)
    unverified = receipt(verdict="unverified", published_hash=None, checks={}, file=first.name)
    receipts.write_receipt(first, unverified)
    assert shelf.published() == (archive, receipt())
    archive.unlink()
    assert shelf.published() == (first, unverified)


def test_each_attempt_that_any_record_knows_counts_once(shelf, archive, tmp_path):
    receipts.write_receipt(archive, receipt(attempts=(attempt(3), attempt(1))))
    receipts.write_rejection(archive, rejection(attempts=(attempt(1), attempt(2))))
    JournalFile(tmp_path, journal(attempts=(attempt(2), attempt(3), attempt(4)))).update()
    assert shelf.attempts() == (attempt(1), attempt(2), attempt(3), attempt(4))


def test_a_new_journal_is_on_disk_with_every_earlier_attempt_when_it_is_opened(shelf, archive, tmp_path):
    receipts.write_rejection(archive, rejection(attempts=(attempt(1), attempt(2))))
    document = journal()
    opened = shelf.open_journal(NAME, document.job, document.delivery)
    assert opened.state.downloads_used == 2
    found = JournalFile.of_job(tmp_path, JOB_ID)
    assert found is not None
    assert found.state == opened.state


@pytest.mark.parametrize("suffix", [".part", ".unverified"])
def test_bytes_without_a_journal_are_somebody_elses(shelf, tmp_path, suffix):
    stranger = tmp_path / (NAME + suffix)
    stranger.write_bytes(b"precious")
    document = journal()
    with pytest.raises(StorageError, match="was not made for this restore job"):
        shelf.open_journal(NAME, document.job, document.delivery)
    assert stranger.read_bytes() == b"precious"
    assert JournalFile.at(tmp_path, NAME) is None


def test_the_part_of_another_job_is_never_mixed_in(shelf, tmp_path):
    foreign = journal(job={"id": "7" * 24})
    JournalFile(tmp_path, foreign).update()
    (tmp_path / f"{NAME}.part").write_bytes(b"precious")
    document = journal()
    with pytest.raises(StorageError, match="in the way"):
        shelf.open_journal(NAME, document.job, document.delivery)
    assert (tmp_path / f"{NAME}.part").read_bytes() == b"precious"


def test_a_link_in_place_of_the_part_is_not_followed(shelf, tmp_path):
    JournalFile(tmp_path, journal()).update()
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / f"{NAME}.part").symlink_to("precious")
    document = journal()
    with pytest.raises(StorageError, match="a symbolic link"):
        shelf.open_journal(NAME, document.job, document.delivery)
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_name_that_is_taken_is_refused_before_anything_is_downloaded(shelf, tmp_path):
    shelf.require_free_name(NAME, replace=False)
    (tmp_path / NAME).write_bytes(b"precious")
    with pytest.raises(StorageError, match="in the way"):
        shelf.require_free_name(NAME, replace=False)
    shelf.require_free_name(NAME, replace=True)


@pytest.mark.parametrize("suffix", ["", ".receipt.json", ".sha1", ".rejected", ".rejected.json"])
def test_a_name_taken_by_something_else_than_a_file_is_refused_even_by_force(shelf, tmp_path, suffix):
    (tmp_path / (NAME + suffix)).mkdir()
    with pytest.raises(StorageError, match="a folder"):
        shelf.require_free_name(NAME, replace=True)
