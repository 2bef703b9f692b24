"""The journal: on disk before a request is sent, whole at any moment, and read back with suspicion."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from restore_fetch.delivery import JournalFile
from restore_fetch.errors import StorageError
from restore_fetch.records import Attempt, Journal
from tests.delivery_support import JOB_ID, NAME, new_journal
from tests.support import ManualClock


def read(folder: Path) -> JournalFile:
    journal = JournalFile.at(folder, NAME)
    assert journal is not None
    return journal


def test_a_folder_without_one_has_none(tmp_path: Path) -> None:
    assert JournalFile.at(tmp_path, NAME) is None
    assert JournalFile.of_job(tmp_path, JOB_ID) is None


def test_it_lies_beside_the_archive_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        journal = new_journal(tmp_path)
    finally:
        os.umask(before)
    assert journal.path == tmp_path / f"{NAME}.part.json"
    assert journal.part == tmp_path / f"{NAME}.part"
    assert journal.unverified == tmp_path / f"{NAME}.unverified"
    assert journal.archive == tmp_path / NAME
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == [journal.path.name]


def test_every_change_is_on_disk_when_the_call_returns(tmp_path: Path, clock: ManualClock) -> None:
    journal = new_journal(tmp_path)
    journal.update(etag='"one"', total_bytes=5)
    assert (read(tmp_path).state.etag, read(tmp_path).state.total_bytes) == ('"one"', 5)
    journal.begin(Attempt(started=clock.now()))
    assert [attempt.outcome for attempt in read(tmp_path).state.attempts] == [None]
    journal.end(Attempt(started=clock.now(), outcome="cut", bytes=3), durable_bytes=2)
    state = read(tmp_path).state
    assert [(attempt.outcome, attempt.bytes) for attempt in state.attempts] == [("cut", 3)]
    assert state.durable_bytes == 2
    assert state == journal.state


def test_an_attempt_whose_process_died_counts_and_one_that_never_left_does_not(
    tmp_path: Path, clock: ManualClock
) -> None:
    journal = new_journal(tmp_path)
    for outcome in (None, "not sent", "cut", "complete", "status 404"):
        journal.begin(Attempt(started=clock.now(), outcome=outcome))
    assert read(tmp_path).state.downloads_used == 4


def test_a_change_that_cannot_be_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = new_journal(tmp_path, etag='"one"')

    def fails(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("write", "fsync"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, fails)
            with pytest.raises(StorageError) as caught:
                journal.update(etag='"two"')
        assert caught.value.errno == errno.ENOSPC
        assert journal.state.etag == '"one"'
        assert read(tmp_path).state.etag == '"one"'
        assert [file.name for file in tmp_path.iterdir()] == [journal.path.name]


def test_what_a_crash_left_half_written_is_in_nobodys_way(tmp_path: Path) -> None:
    journal = new_journal(tmp_path)
    journal.path.with_name(journal.path.name + ".tmp").write_bytes(b'{"schema": "restore-f')
    journal.update(etag='"one"')
    assert read(tmp_path).state.etag == '"one"'
    assert [file.name for file in tmp_path.iterdir()] == [journal.path.name]


def test_it_is_found_by_its_job_and_not_by_another(tmp_path: Path) -> None:
    new_journal(tmp_path)
    found = JournalFile.of_job(tmp_path, JOB_ID)
    assert found is not None
    assert found.state.file == NAME
    assert JournalFile.of_job(tmp_path, "0" * 24) is None


def test_one_that_names_another_file_than_it_lies_beside_is_not_the_jobs(tmp_path: Path) -> None:
    journal = new_journal(tmp_path)
    document = json.loads(journal.path.read_bytes())
    document["file"] = "../../elsewhere.tar.gz"
    journal.path.write_text(json.dumps(document))
    assert JournalFile.of_job(tmp_path, JOB_ID) is None


def test_removing_it_is_final_and_may_be_done_twice(tmp_path: Path) -> None:
    journal = new_journal(tmp_path)
    journal.remove()
    journal.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_symbolic_link_of_its_name_is_never_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"{}")
    (tmp_path / f"{NAME}.part.json").symlink_to(target)
    with pytest.raises(StorageError):
        JournalFile.at(tmp_path, NAME)
    with pytest.raises(StorageError):
        new_journal(tmp_path)
    assert target.read_bytes() == b"{}"


EDITED = {
    "empty": b"",
    "not JSON": b"not JSON",
    "half": b'{"schema": "restore-fetch/journal/v1", "state": "downl',
    "a list": b"[]",
    "another schema": b'{"schema": "restore-fetch/receipt/v1"}',
    "deep": b"[" * 100_000,
    "not text": b"\xff\xfe\x00",
    "nothing in it": b'{"schema": "restore-fetch/journal/v1"}',
}


@pytest.mark.parametrize("name", EDITED)
def test_one_that_makes_no_sense_is_an_error_of_storage_that_names_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{NAME}.part.json"
    path.write_bytes(EDITED[name])
    with pytest.raises(StorageError) as caught:
        JournalFile.at(tmp_path, NAME)
    assert caught.value.path == path
    assert path.read_bytes() == EDITED[name]


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    element=st.sampled_from(["schema", *sorted(Journal.model_fields)]),
    value=_VALUES,
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
def test_an_element_edited_by_hand_is_read_or_told_and_never_a_traceback(
    element: str, value: object, tmp_path: Path
) -> None:
    journal = new_journal(tmp_path)
    document = json.loads(journal.path.read_bytes())
    document[element] = value
    journal.path.write_text(json.dumps(document))
    try:
        state = read(tmp_path).state
    except StorageError:
        return
    assert state.state in ("downloading", "whole", "publishing")
    assert state.total_bytes is None or 0 <= state.total_bytes < 2**63
