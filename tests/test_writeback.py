"""What a download leaves in the page cache, and how much memory it thinks there is."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys

import pytest

from restore_fetch.delivery.memory import memory_bytes
from restore_fetch.delivery.part import _is_memory
from restore_fetch.delivery.writeback import WriteBehind

TURN = 32 * 1024 * 1024
MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def cached_share(descriptor: int, length: int) -> float:
    """How much of the beginning of a file is in the page cache."""
    pages = length // mmap.PAGESIZE
    found = (ctypes.c_ubyte * pages)()
    with mmap.mmap(descriptor, length, flags=mmap.MAP_PRIVATE) as mapped:
        anchor = ctypes.c_char.from_buffer(mapped)
        told = ctypes.CDLL(None, use_errno=True).mincore(
            ctypes.c_void_p(ctypes.addressof(anchor)), ctypes.c_size_t(length), found
        )
        del anchor
    assert told == 0
    return sum(page & 1 for page in found) / pages


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mincore and posix_fadvise as Linux has them")
@pytest.mark.parametrize(("kept_bytes", "expected"), [(0, 0.0), (1 << 40, 1.0)])
def test_an_archive_larger_than_the_memory_leaves_the_cache_to_others(tmp_path, kept_bytes, expected):
    descriptor = os.open(tmp_path / "archive.tar.gz.part", os.O_RDWR | os.O_CREAT)
    try:
        if _is_memory(descriptor):
            pytest.skip("the temporary folder is in memory: there is nothing to drop")
        behind = WriteBehind(descriptor, kept_bytes)
        for turn in (1, 2):
            os.write(descriptor, bytes(TURN))
            os.fsync(descriptor)
            behind.wrote(turn * TURN)
        assert cached_share(descriptor, TURN) == pytest.approx(expected, abs=0.1)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/system.slice/pull.service\n", {"system.slice/pull.service/memory.max": "1048576\n"}, 1048576),
        ("0::/system.slice/pull.service\n", {"system.slice/memory.max": "2097152\n"}, 2097152),
        ("0::/\n", {"memory.max": "max\n"}, MACHINE),
        ("0::/../../other\n", {"memory.max": "5\n"}, MACHINE),
        ("4:memory:/docker/0123\n0::/\n", {"memory/memory.limit_in_bytes": "4194304\n"}, 4194304),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, MACHINE),
        ("nonsense", {}, MACHINE),
    ],
)
def test_the_limit_of_a_container_or_a_service_counts(tmp_path, groups, limits, expected):
    for name, text in limits.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "cgroup").write_text(groups)
    assert memory_bytes(tmp_path / "cgroup", tmp_path / "fs") == expected


def test_without_control_groups_the_memory_is_the_machines(tmp_path):
    assert memory_bytes(tmp_path / "nothing", tmp_path) == MACHINE
