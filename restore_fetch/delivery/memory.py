"""How much memory a run may fill, the page cache of its files included."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_GROUPS_OF_PROCESS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def memory_bytes(groups_of_process: Path = _GROUPS_OF_PROCESS, groups: Path = _GROUPS) -> int:
    """The machine's memory, or what a container or a service is allowed of it, if that is less.

    The kernel counts the page cache of a control group's files against the group's limit.

    Args:
        groups_of_process: Where Linux tells which control groups a process is in.
        groups: Where the control groups are mounted.

    Returns:
        Bytes. A limit that cannot be read counts as none.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_limits(groups_of_process, groups)])


def _limits(groups_of_process: Path, groups: Path) -> Iterator[int]:
    for limit in _files(groups_of_process, groups):
        try:
            text = limit.read_text("ascii").strip()
        except (OSError, ValueError):
            continue  # a container sees its own group only, under another path than the machine does
        if text.isdigit():
            yield int(text)


def _files(groups_of_process: Path, groups: Path) -> Iterator[Path]:
    """The files with the limits of the process's group and of all those above it, in version 2 and in version 1."""
    try:
        lines = groups_of_process.read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        inside = PurePosixPath(path.lstrip("/"))
        if ".." in inside.parts:
            continue
        if number == "0":
            yield from (groups / place / "memory.max" for place in (inside, *inside.parents))
        elif "memory" in controllers.split(","):
            yield from (groups / "memory" / place / "memory.limit_in_bytes" for place in (inside, *inside.parents))
