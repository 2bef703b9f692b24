"""Files: whole or not at all, for their owner only, and nobody else's ever touched."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from restore_fetch import files
from restore_fetch.errors import StorageError


@pytest.fixture
def open_umask() -> Iterator[None]:
    """A careless umask, as some systems have it."""
    before = os.umask(0)
    yield
    os.umask(before)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def failing(number: int):
    """A system call that fails."""

    def call(*arguments: object, **_: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


# --- folders ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("open_umask")
def test_folders_made_here_belong_to_their_owner_only(tmp_path):
    files.make_folder(tmp_path / "a" / "b")
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b")] == [0o700, 0o700]


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path):
    tmp_path.chmod(0o755)
    files.make_folder(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("place", ["file", "file/below", "dangling"])
def test_a_folder_that_cannot_be_made_is_our_error(tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(StorageError):
        files.make_folder(tmp_path / place)


# --- what is in the way ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["a symbolic link", "a folder", "a FIFO"])
def test_only_regular_files_are_opened_read_written_or_replaced(tmp_path, kind):
    path = tmp_path / "x"
    precious = tmp_path / "precious"
    precious.write_text("precious")
    if kind == "a symbolic link":
        path.symlink_to(precious)
    elif kind == "a folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    source = tmp_path / "source"
    source.touch()
    for act in (
        lambda: files.require_regular(path),
        lambda: files.open_regular(path, os.O_RDWR | os.O_CREAT),
        lambda: files.read_small(path),
        lambda: files.write_whole(path, b"new"),
        lambda: files.rename(source, path, replace=True),
    ):
        with pytest.raises(StorageError, match=kind) as caught:
            act()
        assert caught.value.path == path
    assert precious.read_text() == "precious"
    assert names(tmp_path) == ["precious", "source", "x"]


def test_a_dangling_link_is_something(tmp_path):
    (tmp_path / "x").symlink_to("nowhere")
    assert files.exists(tmp_path / "x")
    assert not files.exists(tmp_path / "y")


def test_what_is_not_there_is_none(tmp_path):
    assert files.require_regular(tmp_path / "x") is None
    assert files.read_small(tmp_path / "x") is None
    files.remove(tmp_path / "x")


@pytest.mark.usefixtures("open_umask")
def test_a_file_made_here_belongs_to_its_owner_and_to_no_child_process(tmp_path):
    descriptor = files.open_regular(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    try:
        assert not os.get_inheritable(descriptor)
        assert os.fstat(descriptor).st_mode & 0o777 == 0o600
    finally:
        os.close(descriptor)


def test_a_file_far_too_large_to_be_ours_is_not_read(tmp_path):
    path = tmp_path / "x.json"
    with path.open("wb") as stream:
        stream.truncate(16 * 1024 * 1024 + 1)
    with pytest.raises(StorageError, match="too large"):
        files.read_small(path)


# --- writing ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("open_umask")
def test_a_small_file_is_written_whole(tmp_path):
    path = tmp_path / "x"
    files.write_whole(path, b"old")
    files.write_whole(path, b"new content")
    assert path.read_bytes() == b"new content"
    assert path.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("call", ["write", "fsync", "fchmod", "close"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch, call, number):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    opened: list[int] = []
    real_open, real_close = os.open, os.close

    def note_open(*arguments, **options) -> int:
        opened.append(real_open(*arguments, **options))
        return opened[-1]

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", note_open)
        patch.setattr(os, call, failing(number))
        with pytest.raises(StorageError) as caught:
            files.write_whole(path, b"new")
    if call == "close":
        real_close(opened[0])
    assert caught.value.errno == number
    assert os.strerror(number) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x"]
    for descriptor in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_a_flush_that_failed_is_not_tried_again(tmp_path, monkeypatch):
    flushed = []

    def fsync(descriptor: int) -> None:
        flushed.append(descriptor)
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError):
        files.write_whole(tmp_path / "x", b"new")
    assert len(flushed) == 1


def test_a_leftover_of_a_crash_is_no_obstacle(tmp_path):
    (tmp_path / "x.tmp").write_bytes(b"half")
    files.write_whole(tmp_path / "x", b"new")
    assert names(tmp_path) == ["x"]


def test_a_link_where_the_new_content_is_prepared_is_not_followed(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "x.tmp").symlink_to("precious")
    files.write_whole(tmp_path / "x", b"new")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert (tmp_path / "x").read_bytes() == b"new"


def test_short_writes_are_gone_on_with(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, view: real(descriptor, bytes(view[:3])))
    files.write_whole(tmp_path / "x", b"ten bytes!")
    assert (tmp_path / "x").read_bytes() == b"ten bytes!"


def test_the_data_are_flushed_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    done: list[str] = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        done.append(f"fsync {'folder' if Path(f'/proc/self/fd/{descriptor}').is_dir() else 'file'}")
        real_fsync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        done.append("rename")
        return real_rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    files.write_whole(tmp_path / "x", b"new")
    assert done == ["fsync file", "rename", "fsync folder"]
    done.clear()
    files.rename(tmp_path / "x", tmp_path / "y")
    assert done == ["rename", "fsync folder"]


# --- renaming --------------------------------------------------------------------------------------------


def test_a_name_that_is_taken_is_not_taken_away(tmp_path):
    (tmp_path / "x").write_bytes(b"new")
    (tmp_path / "y").write_bytes(b"old")
    with pytest.raises(StorageError, match=r"in the way.*x was kept.*--force"):
        files.rename(tmp_path / "x", tmp_path / "y")
    assert ((tmp_path / "x").read_bytes(), (tmp_path / "y").read_bytes()) == (b"new", b"old")
    files.rename(tmp_path / "x", tmp_path / "y", replace=True)
    assert (tmp_path / "y").read_bytes() == b"new"
    assert names(tmp_path) == ["y"]


def test_a_rename_that_fails_keeps_the_file(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"new")
    monkeypatch.setattr(Path, "rename", failing(errno.EIO))
    with pytest.raises(StorageError, match="x was kept"):
        files.rename(tmp_path / "x", tmp_path / "y")
    assert names(tmp_path) == ["x"]


def test_a_folder_that_cannot_be_flushed_is_told_unless_it_never_can(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(StorageError, match="sync the folder"):
        files.sync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    files.sync_folder(tmp_path)


def test_the_free_space_is_what_an_ordinary_user_has(tmp_path):
    assert 0 < files.free_bytes(tmp_path) <= os.statvfs(tmp_path).f_bfree * os.statvfs(tmp_path).f_frsize
    with pytest.raises(StorageError):
        files.free_bytes(tmp_path / "nowhere")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EFBIG])
def test_the_systems_reason_comes_with_what_to_do(tmp_path, number):
    with pytest.raises(StorageError) as caught, files.storage_errors(tmp_path, "write"):
        raise OSError(number, os.strerror(number))
    assert (caught.value.errno, caught.value.path) == (number, tmp_path)
    assert os.strerror(number) in caught.value.what
    assert caught.value.next_step
