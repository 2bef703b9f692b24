"""What a folder holds, as it is told in a word."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from restore_fetch import receipts
from restore_fetch.errors import StorageError
from restore_fetch.inventory import UNPROVEN, take_inventory
from restore_fetch.models import Snapshot
from tests.care_support import GROUP, object_id, put, put_batch, put_unverified, write_batch_receipt
from tests.record_support import STRUCTURE, attempt, journal, rejection

MOMENT = datetime(2026, 1, 31, 2, 0, tzinfo=UTC)


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    found = take_inventory(tmp_path / "nowhere")
    assert (found.names, found.receipts, found.batches, found.damaged) == ((), {}, {}, [])
    assert found.standing(object_id(1)) is None
    assert found.downloads_used(object_id(1)) == 0


def test_a_folder_that_is_a_file_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert take_inventory(tmp_path / "file").names == ()


def test_a_receipt_under_another_name_speaks_for_no_archive(tmp_path: Path) -> None:
    archive = put(tmp_path, 1, MOMENT)
    copy = tmp_path / "copy.tar.gz"
    archive.rename(copy)
    receipts.receipt_path(archive).rename(receipts.receipt_path(copy))
    assert take_inventory(tmp_path).receipts == {}
    assert take_inventory(tmp_path).standing(object_id(1)) is None


def test_a_batch_receipt_under_another_name_is_of_no_batch(tmp_path: Path) -> None:
    put_batch(tmp_path, 10, MOMENT)
    (path,) = tmp_path.glob("batch-*.receipt.json")
    path.rename(receipts.batch_receipt_path(tmp_path, "f" * 24))
    assert take_inventory(tmp_path).batches == {}


def test_a_batch_is_complete_only_with_every_archive_verified(tmp_path: Path) -> None:
    archives = put_batch(tmp_path, 10, MOMENT)
    batch = next(iter(take_inventory(tmp_path).batches.values()))
    assert take_inventory(tmp_path).is_complete(batch)
    archives[1].write_bytes(b"something longer than what was verified here")
    assert not take_inventory(tmp_path).is_complete(batch)
    receipts.receipt_path(archives[1]).unlink()
    assert not take_inventory(tmp_path).is_complete(batch)


def test_an_unverified_member_makes_no_batch_complete(tmp_path: Path) -> None:
    archives = [put(tmp_path, 1, MOMENT), put_unverified(tmp_path, 2, MOMENT)]
    write_batch_receipt(tmp_path, object_id(77), archives, MOMENT)
    found = take_inventory(tmp_path)
    assert not found.is_complete(found.batches[object_id(77)])


def test_a_member_of_another_job_or_other_bytes_makes_no_batch_complete(tmp_path: Path) -> None:
    archives = put_batch(tmp_path, 10, MOMENT)
    batch = next(iter(take_inventory(tmp_path).batches.values()))
    changed = [
        batch.members[0].model_copy(update={"job_id": object_id(99)}),
        batch.members[0].model_copy(update={"sha1": "0" * 40}),
        batch.members[0].model_copy(update={"file": "another.tar.gz"}),
    ]
    for member in changed:
        other = batch.model_copy(update={"members": (member, *batch.members[1:])})
        assert not take_inventory(tmp_path).is_complete(other)
    assert len(archives) == 3


def test_what_was_used_is_counted_once_over_all_records(tmp_path: Path) -> None:
    archive = put(tmp_path, 1, MOMENT, attempts=(attempt(1), attempt(2)))
    job = {"id": object_id(1), "group_id": GROUP}
    # The finding of an earlier download, which the receipt repeats, and a download that is going on.
    finding = rejection(file="r.tar.gz.rejected", job=job, attempts=(attempt(1),))
    (tmp_path / "r.tar.gz.rejected.json").write_bytes(finding.to_json())
    going_on = journal(file="j.tar.gz", job=job, attempts=(attempt(3), attempt(4, outcome="not sent")))
    (tmp_path / "j.tar.gz.part.json").write_bytes(going_on.to_json())
    found = take_inventory(tmp_path)
    assert found.downloads_used(object_id(1)) == found.downloads_used(object_id(1).upper()) == 3
    assert found.standing(object_id(1)) == "verified"
    archive.unlink()
    assert take_inventory(tmp_path).standing(object_id(1)) == "in part"
    (tmp_path / "j.tar.gz.part.json").unlink()
    assert take_inventory(tmp_path).standing(object_id(1)) == "rejected"


def test_of_several_archives_of_a_snapshot_the_best_proven_one_counts(tmp_path: Path) -> None:
    one = Snapshot(id=object_id(7), complete=True)
    same = {"snapshot_id": one.id}
    put(tmp_path, 1, MOMENT, job=same).write_bytes(b"changed")
    assert take_inventory(tmp_path).standing_of_snapshot(one) == "changed"
    put(tmp_path, 2, MOMENT, job=same, **STRUCTURE)
    assert take_inventory(tmp_path).standing_of_snapshot(one) == "structure"
    put(tmp_path, 3, MOMENT, job=same)
    assert take_inventory(tmp_path).standing_of_snapshot(one) == "verified"


def test_no_word_for_what_is_unproven_is_the_word_for_verified() -> None:
    assert "verified" not in UNPROVEN


def test_something_else_in_the_place_of_an_archive_is_an_error(tmp_path: Path) -> None:
    archive = put(tmp_path, 1, MOMENT)
    archive.unlink()
    archive.mkdir()
    with pytest.raises(StorageError, match="in the way"):
        take_inventory(tmp_path).standing(object_id(1))
