"""The inspector in the pipeline: it sees each byte once and in order, and never more of memory than the ring."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from restore_fetch.delivery import ArchiveInspector, PartFile
from restore_fetch.delivery.pipeline import Pipeline
from restore_fetch.errors import DownloadInterruptedError
from tests.archive_support import NAME
from tests.delivery_support import BOUNDS, ScriptedBody, pattern, sha1
from tests.support import ManualClock

MIB = 1024 * 1024
CUT = DownloadInterruptedError("the connection broke", outcome="cut")


class Recorder(ArchiveInspector):
    """An inspector that remembers what it was given since it last began."""

    def restart(self) -> None:
        super().restart()
        self.seen = bytearray()

    def update(self, data: memoryview) -> None:
        super().update(data)
        self.seen += data


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture
def inspector() -> Recorder:
    return Recorder(NAME)


@pytest.fixture
def part(tmp_path: Path, inspector: Recorder) -> Iterator[PartFile]:
    with PartFile(tmp_path / "archive.part", inspector=inspector) as part:
        yield part


def run(part: PartFile, body: ScriptedBody, clock: ManualClock) -> None:
    Pipeline(part, replace(BOUNDS, min_rate=0), clock=clock, on_progress=lambda _: None).run(body)


def test_every_byte_is_looked_at_once_and_in_order(part, inspector, clock):
    run(part, ScriptedBody(*[300_000] * 40), clock)
    assert inspector.seen == part.path.read_bytes() == pattern(0, 12_000_000)


def test_after_a_cut_it_goes_on_where_the_file_does(part, inspector, clock):
    body = ScriptedBody(2 * MIB + 7, CUT, MIB)
    with pytest.raises(DownloadInterruptedError):
        run(part, body, clock)
    assert inspector.seen == pattern(0, part.size)
    run(part, body, clock)
    assert inspector.seen == pattern(0, 3 * MIB + 7)


def test_bytes_of_an_earlier_run_are_looked_at_again(tmp_path, inspector, clock):
    (tmp_path / "archive.part").write_bytes(pattern(0, 3 * MIB) + b"what was never flushed")
    with PartFile(tmp_path / "archive.part", inspector=inspector) as part:
        part.take_up(3 * MIB)
        assert inspector.seen == pattern(0, 3 * MIB)
        part.start_over()
        assert inspector.seen == b""


def test_damage_never_stops_a_download(part, clock):
    run(part, ScriptedBody(*[MIB] * 9), clock)
    assert part.digest().hex == sha1(pattern(0, 9 * MIB))
    inspection = part.inspection()
    assert inspection is not None
    assert inspection.finding == "the file is no gzip file"


def test_an_error_of_the_inspector_ends_the_transfer_and_every_thread(part, inspector, clock, monkeypatch):
    def fail(_data: memoryview) -> None:
        raise MemoryError

    monkeypatch.setattr(inspector, "update", fail)
    with pytest.raises(MemoryError):
        run(part, ScriptedBody(*[MIB] * 20, before_each=lambda: clock.advance(0.3)), clock)
