"""One run at a time on a job and folder; the dead hold no locks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from restore_fetch.errors import LockedError, StorageError
from restore_fetch.locking import job_lock
from tests.record_support import JOB_ID

NAME = f".restore-fetch-{JOB_ID}.lock"
HOLDER = """
import sys, time
from pathlib import Path
from restore_fetch.locking import job_lock
with job_lock(Path(sys.argv[1]), sys.argv[2], 0):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_leaves_nothing_behind(tmp_path):
    with job_lock(tmp_path, JOB_ID, 0):
        assert [entry.name for entry in tmp_path.iterdir()] == [NAME]
        assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_leaves_no_lock(tmp_path):
    with pytest.raises(KeyboardInterrupt), job_lock(tmp_path, JOB_ID, 0):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with job_lock(tmp_path, JOB_ID, 0):
        pass


def test_a_second_run_on_the_job_is_refused(tmp_path):
    with job_lock(tmp_path, JOB_ID, 0):
        with pytest.raises(LockedError, match="another run") as caught, job_lock(tmp_path, JOB_ID, 0):
            pytest.fail("two runs at once")
        assert caught.value.path == tmp_path / NAME
        assert "--lock-wait" in str(caught.value)
        with pytest.raises(LockedError), job_lock(tmp_path, JOB_ID, 0.01):
            pytest.fail("two runs at once")
    assert not (tmp_path / NAME).exists()


def test_other_jobs_and_other_folders_are_not_in_the_way(tmp_path):
    (tmp_path / "other").mkdir()
    with job_lock(tmp_path, JOB_ID, 0), job_lock(tmp_path, "7" * 24, 0), job_lock(tmp_path / "other", JOB_ID, 0):
        pass


def test_a_run_that_waits_gets_its_turn(tmp_path):
    held, free = threading.Event(), threading.Event()

    def other_run() -> None:
        with job_lock(tmp_path, JOB_ID, 0):
            held.set()
            free.wait(60)

    thread = threading.Thread(target=other_run)
    thread.start()
    try:
        assert held.wait(60)
        releaser = threading.Timer(0.05, free.set)
        releaser.start()
        with job_lock(tmp_path, JOB_ID, 60):
            assert free.is_set()
        releaser.join()
    finally:
        free.set()
        thread.join()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_was_killed_leaves_no_lock_that_holds(tmp_path, end):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path), JOB_ID], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"held\n"
            with pytest.raises(LockedError), job_lock(tmp_path, JOB_ID, 0):
                pytest.fail("two runs at once")
        finally:
            other.send_signal(end)
    assert (tmp_path / NAME).exists()
    with job_lock(tmp_path, JOB_ID, 0):
        pass


def test_a_name_that_is_no_file_is_neither_followed_nor_locked(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / NAME).symlink_to(precious)
    with pytest.raises(StorageError, match="a symbolic link"), job_lock(tmp_path, JOB_ID, 0):
        pytest.fail("locked a link")
    assert precious.read_text() == "precious"
    (tmp_path / NAME).unlink()
    os.mkfifo(tmp_path / NAME)
    with pytest.raises(StorageError, match="a FIFO"), job_lock(tmp_path, JOB_ID, 0):
        pytest.fail("locked a FIFO")
