"""What a folder holds of a batch, and the receipt that says it holds all of it."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from restore_fetch import files, receipts
from restore_fetch.assembly import TOOL
from restore_fetch.clock import Clock
from restore_fetch.errors import ServiceUnavailableError, StorageError, VerificationError
from restore_fetch.locking import job_lock
from restore_fetch.members import file_name_of, part_of, same_name
from restore_fetch.models import RestoreJob
from restore_fetch.observer import Observer
from restore_fetch.records import BatchMember, BatchReceipt
from restore_fetch.shelf import Shelf
from restore_fetch.workflow import Fetched

_LOCK_SECONDS = 30.0
_APPEARS_SECONDS = 60.0
_LOOK_SECONDS = 1.0


class BatchShelf:
    """The folder, as a batch sees it.

    Args:
        folder: Where the files are.
        service: The service's name, for the receipt.
        observer: Who is told.
        clock: The time.
    """

    def __init__(self, folder: Path, *, service: str, observer: Observer, clock: Clock) -> None:
        self._folder = folder
        self._service = service
        self._observer = observer
        self._clock = clock

    def receipt(self, batch_id: str) -> BatchReceipt | None:
        """The receipt of a batch; None when there is none of it.

        Raises:
            StorageError: It cannot be read, or is damaged.
        """
        receipt = receipts.read_batch_receipt(self._folder, batch_id)
        return receipt if receipt is not None and receipt.batch_id == batch_id else None

    def verified(self, job_id: str, name: str | None = None) -> Fetched | None:
        """The verified archive of a job, perhaps under a name that is known; None when there is none.

        Raises:
            HashMismatchError: The file is not, or no longer, what its receipt says.
            StorageError: Something cannot be read.
        """
        here = Shelf(self._folder, job_id).published(name)
        if here is None or here[1].verdict == "unverified":
            return None
        return Fetched(*here, downloaded=False)

    def require_here(self, job_id: str, fetched: Fetched) -> None:
        """Make sure that an archive which was fetched, perhaps on another machine, is in this folder.

        A shared folder may show what was made elsewhere only after some time.

        Raises:
            HashMismatchError: The file is not what its receipt says.
            StorageError: It is not here.
        """
        for _ in range(int(_APPEARS_SECONDS / _LOOK_SECONDS)):
            here = Shelf(self._folder, job_id).published(fetched.path.name)
            if here is not None and here[1].sha1 == fetched.receipt.sha1:
                return
            self._clock.sleep(_LOOK_SECONDS)
        raise StorageError(
            f"a worker has fetched {fetched.path}, and it is not in {self._folder} here",
            path=self._folder / fetched.path.name,
            files="it is on the worker's own disk",
            next_step="all workers must share the folder",
        )

    def name_of(self, job_id: str, job: RestoreJob) -> str | None:
        """The name of a job's archive, from the service or from what is here; None when neither says."""
        if (name := file_name_of(job)) is not None:
            return name
        with contextlib.suppress(VerificationError, StorageError):
            here = Shelf(self._folder, job_id).published()
            return here[0].name if here else None
        return None

    def certify(
        self, batch_id: str, job_ids: Collection[str], fetched: Mapping[str, Fetched], snapshot_id: str | None
    ) -> BatchReceipt | None:
        """Write the receipt of a batch, when every job of it is verified here.

        Args:
            batch_id: The batch.
            job_ids: All its jobs.
            fetched: What this run knows to be here; the rest is looked for.
            snapshot_id: The snapshot that was asked for, when it is known.

        Returns:
            The receipt; None when something is not verified here.

        Raises:
            ServiceUnavailableError: The archives are not of one batch and one cluster.
            DeliveryUnusableError: Two of them have the same name, so that one of them is here no more.
            HashMismatchError: A file is not, or no longer, what its receipt says.
            LockedError: Others have been writing it for half a minute.
            StorageError: It cannot be written.
        """
        parts = []
        for job_id in sorted(job_ids):
            here = fetched.get(job_id) or self.verified(job_id)
            if here is None or here.receipt.verdict == "unverified":
                return None
            parts.append(here)
        names: dict[str, str] = {}
        for part in parts:
            name, job_id = part.receipt.file, part.receipt.job.id
            if names.setdefault(name, job_id) != job_id:
                raise same_name(name, job_id, names[name])
        receipt = self._receipt_of(batch_id, parts, snapshot_id)
        path = receipts.batch_receipt_path(self._folder, batch_id)
        with job_lock(self._folder, batch_id, _LOCK_SECONDS, what="batch"):
            earlier = self.receipt(batch_id)
            if earlier is not None and earlier.members == receipt.members:
                return earlier
            files.write_whole(path, receipt.to_json())
        self._observer.note(
            f"batch-{receipt.verdict}",
            f"all {len(parts)} parts of batch {batch_id} are here and {receipt.proved}: {path}",
            level="info" if receipt.verdict == "verified" else "warning",
        )
        return receipt

    def _receipt_of(self, batch_id: str, parts: Sequence[Fetched], snapshot_id: str | None) -> BatchReceipt:
        jobs = [part.receipt.job for part in parts]
        batches = {(job.batch_id or "").lower() for job in jobs}
        if batches != {batch_id} or len({job.cluster_name for job in jobs}) != 1:
            raise ServiceUnavailableError(
                f"the archives of batch {batch_id} that are here are not of one batch and one cluster",
                files="each is published by itself; there is no receipt for the whole",
                next_step="start a new restore",
            )
        snapshots = {job.snapshot_id for job in jobs}
        structure = any(part.receipt.verdict == "structure" for part in parts)
        return BatchReceipt(
            verdict="structure" if structure else "verified",
            batch_id=batch_id,
            snapshot_id=snapshot_id or (jobs[0].snapshot_id if len(snapshots) == 1 else None),
            group_id=jobs[0].group_id,
            cluster_name=jobs[0].cluster_name,
            members=tuple(_member(part) for part in parts),
            finished=self._clock.now(),
            service=self._service,
            tool=TOOL,
        )


def _member(part: Fetched) -> BatchMember:
    receipt = part.receipt
    name, type_name = part_of(receipt.file)
    return BatchMember(
        member=name,
        type_name=type_name,
        cluster_id=receipt.job.cluster_id,
        job_id=receipt.job.id,
        file=receipt.file,
        bytes=receipt.bytes,
        sha1=receipt.sha1,
    )
