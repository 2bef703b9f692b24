"""What a power cut may leave of a folder: recorded inside a real run, at everything it does to files.

Only what was flushed is certain to survive. So after each step three states of the folder are kept: the names as
they were when the folder was last flushed; all the names of now; and those with zeros where bytes were not flushed.
In each of them a file holds what it held at its own last flush.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import runpy
import stat
import sys
import threading
from pathlib import Path

Contents = dict[str, bytes]


class Recorder:
    """Watches a folder, and writes down each different state that a power cut could leave it in.

    Args:
        folder: The folder.
        states: Where the states go, each a folder of its own.
    """

    def __init__(self, folder: Path, states: Path) -> None:
        self._folder = folder
        self._states = states
        self._lock = threading.RLock()
        self._births = itertools.count()
        self._keys: dict[int, int] = {}  # inode numbers are used again, so a file is known by its birth
        self._flushed: dict[int, bytes] = {}
        self._names: dict[str, int] = {}
        self._seen: set[str] = set()

    def install(self) -> None:
        """Put itself between the program and the functions of `os` that change files."""
        real_open, real_fsync = os.open, os.fsync

        def open_(path: object, flags: int, *values: object, **named: object) -> int:
            descriptor = real_open(path, flags, *values, **named)  # type: ignore[arg-type]
            if flags & os.O_CREAT and str(path).startswith(str(self._folder)):
                self._born(descriptor)
            return descriptor

        def fsync(descriptor: int) -> None:
            real_fsync(descriptor)
            self._was_flushed(descriptor)

        os.open, os.fsync = open_, fsync  # type: ignore[assignment]
        for name in ("rename", "unlink", "ftruncate", "write"):
            setattr(os, name, self._recording(getattr(os, name)))

    def _recording(self, real):  # type: ignore[no-untyped-def]
        def call(*values, **named):  # type: ignore[no-untyped-def]
            result = real(*values, **named)
            self._record()
            return result

        return call

    def _born(self, descriptor: int) -> None:
        with self._lock:
            state = os.fstat(descriptor)
            if state.st_size == 0:
                self._keys[state.st_ino] = next(self._births)
            self._record()

    def _was_flushed(self, descriptor: int) -> None:
        with self._lock:
            state = os.fstat(descriptor)
            if stat.S_ISDIR(state.st_mode):
                self._names = self._current()
            elif state.st_ino in self._keys:
                self._flushed[self._keys[state.st_ino]] = Path(f"/proc/self/fd/{descriptor}").read_bytes()
            self._record()

    def _current(self) -> dict[str, int]:
        with os.scandir(self._folder) as entries:
            return {entry.name: self._keys[entry.inode()] for entry in entries if entry.inode() in self._keys}

    def _record(self) -> None:
        with self._lock:
            if not self._folder.is_dir():
                return
            names = self._current()
            kept = {name: self._flushed.get(key, b"") for name, key in names.items()}
            self._keep({name: self._flushed.get(key, b"") for name, key in self._names.items()})
            self._keep(kept)
            sizes = {name: (self._folder / name).stat().st_size for name in names}
            self._keep({name: content.ljust(sizes[name], b"\0") for name, content in kept.items()})

    def _keep(self, contents: Contents) -> None:
        known = hashlib.sha256(repr(sorted(contents.items())).encode()).hexdigest()
        if known in self._seen:
            return
        self._seen.add(known)
        state = self._states / f"{len(self._seen):03}"
        state.mkdir(parents=True)
        for name, content in contents.items():
            with contextlib.closing(open(state / name, "wb")) as stream:  # noqa: PTH123 - os.open is watched
                stream.write(content)


def main() -> None:
    """Run `restore-fetch` with the arguments that follow the folder and the place for its states."""
    folder, states, *sys.argv[1:] = sys.argv[1:]
    Recorder(Path(folder), Path(states)).install()
    runpy.run_module("restore_fetch", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
