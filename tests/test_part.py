"""The part file: the bytes on disk, their hash, and what the disk and strangers can do to them."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from restore_fetch.delivery import PartFile
from restore_fetch.errors import StorageError
from tests.delivery_support import sha1, some_bytes

BYTES = some_bytes(10_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "archive.tar.gz.part"


@pytest.fixture
def part(path: Path) -> Iterator[PartFile]:
    with PartFile(path) as part:
        yield part


def append(part: PartFile, data: bytes) -> None:
    part.write(memoryview(data))
    part.hash(memoryview(data))


# --- growing ---------------------------------------------------------------------------------------------


def test_what_is_appended_is_in_the_file_and_in_the_hash(part: PartFile) -> None:
    for start in range(0, len(BYTES), 999):
        append(part, BYTES[start : start + 999])
    assert part.path.read_bytes() == BYTES
    assert (part.size, part.stored_bytes()) == (len(BYTES), len(BYTES))
    assert part.digest().hex == sha1(BYTES)


def test_an_empty_file_has_the_hash_of_nothing(part: PartFile) -> None:
    assert part.digest().hex == "da39a3ee5e6b4b0d3255bfef95601890afd80709"


def test_starting_over_forgets_every_byte(part: PartFile) -> None:
    append(part, BYTES)
    part.checkpoint()
    part.start_over()
    assert (part.size, part.durable_bytes, part.stored_bytes()) == (0, 0, 0)
    append(part, b"other")
    assert part.path.read_bytes() == b"other"
    assert part.digest().hex == sha1(b"other")


def test_only_what_was_flushed_is_said_to_be_durable(part: PartFile) -> None:
    append(part, BYTES[:100])
    assert part.durable_bytes == 0
    part.checkpoint()
    append(part, BYTES[100:])
    assert part.durable_bytes == 100


def test_a_flush_that_failed_is_an_error_and_is_not_tried_again(
    part: PartFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def fails(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    append(part, BYTES)
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, fails)
    with pytest.raises(StorageError, match="flush") as caught:
        part.checkpoint()
    assert caught.value.errno == errno.EIO
    assert len(calls) == 1
    assert part.durable_bytes == 0


# --- going on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 5000, len(BYTES)])
def test_bytes_of_an_earlier_run_are_hashed_again_and_gone_on_from(size: int, path: Path) -> None:
    path.write_bytes(BYTES)
    with PartFile(path) as part:
        part.take_up(size)
        assert (part.size, part.durable_bytes, part.stored_bytes()) == (size, size, size)
        append(part, b"and more")
        assert part.digest().hex == sha1(BYTES[:size] + b"and more")
    assert path.read_bytes() == BYTES[:size] + b"and more"


def test_a_file_larger_than_a_read_is_hashed_whole(path: Path) -> None:
    data = some_bytes(3 * 1024 * 1024 + 1)
    path.write_bytes(data)
    with PartFile(path) as part:
        part.take_up(len(data))
        assert part.digest().hex == sha1(data)


def test_a_file_that_became_shorter_is_an_error_and_is_not_filled_up_with_zeros(path: Path) -> None:
    path.write_bytes(BYTES[:500])
    with PartFile(path) as part, pytest.raises(StorageError, match="shorter"):
        part.take_up(501)
    assert path.read_bytes() == BYTES[:500]


# --- room ------------------------------------------------------------------------------------------------


def test_space_is_set_aside_without_a_change_of_the_size(part: PartFile) -> None:
    part.reserve(4 * 1024 * 1024)
    assert part.stored_bytes() == 0
    append(part, BYTES)
    assert part.path.read_bytes() == BYTES
    if os.uname().sysname == "Linux":
        assert part.path.stat().st_blocks * 512 >= 4 * 1024 * 1024


def test_an_archive_that_cannot_fit_is_an_error_before_its_first_byte(part: PartFile) -> None:
    with pytest.raises(StorageError) as caught:
        part.reserve(10**17)
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
    assert part.stored_bytes() == 0


def test_what_must_stay_free_is_kept_free_from_the_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("restore_fetch.files.free_bytes", lambda _: 1_000_000)
    with PartFile(path, min_free_bytes=900_000) as part:
        part.reserve(90_000)
        with pytest.raises(StorageError) as caught:
            part.reserve(500_000)
    assert caught.value.errno == errno.ENOSPC


def test_what_is_set_aside_already_is_not_asked_for_twice(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PartFile(path, min_free_bytes=1000) as part:
        part.reserve(1_000_000)
        if part.path.stat().st_blocks == 0:
            pytest.skip("this file system sets nothing aside")
        monkeypatch.setattr("restore_fetch.files.free_bytes", lambda _: 2000)
        part.reserve(1_000_000)


def test_a_file_system_that_cannot_set_space_aside_is_no_error(
    part: PartFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Library:
        @staticmethod
        def fallocate(*_: object) -> int:
            return -1

        fstatfs = fallocate

    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: Library)
    monkeypatch.setattr("ctypes.get_errno", lambda: errno.EOPNOTSUPP)
    part.reserve(1_000_000)
    append(part, BYTES)
    assert part.path.read_bytes() == BYTES


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no /dev/shm")
def test_in_memory_nothing_is_set_aside_page_by_page() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, PartFile(Path(folder) / "part") as part:
        part.reserve(1_000_000)
        assert part.path.stat().st_blocks == 0


def test_too_little_room_is_told_with_what_to_do(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("restore_fetch.files.free_bytes", lambda _: 999)
    with PartFile(path, min_free_bytes=1000) as part, pytest.raises(StorageError, match="--min-free"):
        part.check_room()
    with PartFile(path, min_free_bytes=0) as part:
        part.check_room()


# --- whose file it is ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o077, 0o777])
def test_it_is_for_its_owner_only_whatever_the_umask(mask: int, path: Path) -> None:
    before = os.umask(mask)
    try:
        with PartFile(path):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_one_that_others_could_read_no_longer_can_be(path: Path) -> None:
    path.write_bytes(BYTES)
    path.chmod(0o666)
    with PartFile(path) as part:
        assert part.stored_bytes() == len(BYTES)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("target_exists", [True, False])
def test_a_symbolic_link_is_never_followed(target_exists: bool, path: Path, tmp_path: Path) -> None:
    target = tmp_path / "somebody-elses"
    if target_exists:
        target.write_bytes(b"precious")
    path.symlink_to(target)
    with pytest.raises(StorageError):
        PartFile(path)
    assert path.is_symlink()
    assert target.exists() == target_exists
    assert not target_exists or target.read_bytes() == b"precious"


def test_a_fifo_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(StorageError):
        PartFile(path)
    assert stat.S_ISFIFO(path.lstat().st_mode)


def test_a_folder_is_left_alone(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StorageError):
        PartFile(path)
    assert path.is_dir()


def test_a_folder_that_is_not_there_is_an_error_of_storage(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        PartFile(tmp_path / "missing" / "archive.part")
    assert caught.value.errno == errno.ENOENT


def test_closing_twice_is_no_error_and_an_error_of_closing_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = PartFile(path)
    part.close()
    part.close()
    part = PartFile(path)
    close = os.close

    def fails(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "close", fails)
        with pytest.raises(StorageError, match="close"):
            part.close()
    part.close()
