"""Two jobs whose archives have the same name: one has it, and no bytes of the other ever get under it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from restore_fetch.batch_shelf import BatchShelf
from restore_fetch.delivery import JournalFile
from restore_fetch.errors import DeliveryUnusableError, RestoreFetchError, StorageError
from restore_fetch.observer import SilentObserver
from restore_fetch.workflow import Fetched
from tests.delivery_support import JOB_ID, NAME, FakeService, fetcher, options, sha1, some_bytes
from tests.record_support import JOB, receipt
from tests.support import ManualClock
from tests.wire_support import WireServer, says, with_length

OTHER_ID = "7" * 24
BATCH_ID = "b" * 24


def test_of_two_jobs_that_reach_for_one_name_at_once_only_one_gets_it(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = some_bytes(5_000, seed=1), some_bytes(6_000, seed=2)
    refused: list[RestoreFetchError] = []
    other_wrote = threading.Event()
    update = JournalFile.update

    with WireServer(says(with_length(ours))) as server, WireServer(says(with_length(theirs))) as other_server:

        def run_other() -> None:
            service = FakeService(other_server.url(), sha1(theirs), clock)
            try:
                fetcher(service, options(tmp_path), clock).fetch(OTHER_ID)
            except RestoreFetchError as exc:
                refused.append(exc)

        other = threading.Thread(target=run_other)

        def meanwhile(journal: JournalFile, **changes: Any) -> None:
            if threading.current_thread() is other:
                other_wrote.set()
            elif not other.ident:  # ours is about to take the name that it has just found free
                other.start()
                other_wrote.wait(0.5)
            update(journal, **changes)

        monkeypatch.setattr(JournalFile, "update", meanwhile)
        service = FakeService(server.url(), sha1(ours), clock, downloaded=lambda: server.connections > 0)
        published = fetcher(service, options(tmp_path), clock).fetch(JOB_ID).path
        other.join(60)

        assert published.read_bytes() == ours
        assert [type(exc) for exc in refused] == [StorageError]
        assert "in the way" in str(refused[0])
        assert other_server.connections == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, f"{NAME}.receipt.json", f"{NAME}.sha1"]


def test_a_batch_of_which_one_archive_replaced_another_is_never_certified(
    tmp_path: Path, clock: ManualClock
) -> None:
    parts = {
        job_id: Fetched(tmp_path / NAME, receipt(job=JOB | {"id": job_id, "batch_id": BATCH_ID}), downloaded=True)
        for job_id in (JOB_ID, OTHER_ID)
    }
    shelf = BatchShelf(tmp_path, service="atlas", observer=SilentObserver(), clock=clock)
    with pytest.raises(DeliveryUnusableError, match="are both called"):
        shelf.certify(BATCH_ID, parts.keys(), parts, None)
    assert list(tmp_path.iterdir()) == []
