"""What becomes of an archive once its hash was looked for: published, set aside, or rejected.

The order of a publication is: the bytes are on the disk; the journal says what will be published; the archive
gets its name; the folder is flushed; the `.sha1` file, then the receipt; last, the journal goes. A crash
anywhere leaves either no archive under the final name or the right one, and enough to finish.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from restore_fetch import files, receipts
from restore_fetch.clock import Clock
from restore_fetch.delivery import Inspection, JournalFile
from restore_fetch.errors import ArchiveDamagedError, HashMismatchError, HashNotPublishedError, StorageError
from restore_fetch.models import FileHash, RestoreJob
from restore_fetch.observer import Observer
from restore_fetch.records import (
    PLAIN_STRUCTURE_PROVES,
    STRUCTURE_PROVES,
    ArchiveRecord,
    Checks,
    JobRecord,
    PublishedHash,
    Receipt,
    Rejection,
    Seconds,
    Verdict,
)
from restore_fetch.rules import Finding, Judgement
from restore_fetch.settings import FetchOptions
from restore_fetch.shelf import Whole, fingerprint, hash_file
from restore_fetch.units import show_duration


@dataclass(frozen=True)
class Timing:
    """When a run began, and how long its parts took."""

    started: datetime
    seconds: Seconds


class Publisher:
    """Gives archives their names.

    Args:
        service: The service's name, for receipts.
        tool: This tool's name and version, for receipts.
        options: Whether a file may be replaced, and an archive published without a hash.
        clock: The time.
        observer: Who is told.
        structure_is_all: Whether the service publishes no hashes, so that the structure of an archive is all that
            can be checked.
    """

    def __init__(
        self,
        *,
        service: str,
        tool: str,
        options: FetchOptions,
        clock: Clock,
        observer: Observer,
        structure_is_all: bool = False,
    ) -> None:
        self._service = service
        self._tool = tool
        self._options = options
        self._clock = clock
        self._note = observer.note
        self._structure_is_all = structure_is_all

    def publish(
        self, journal: JournalFile, whole: Whole, job: RestoreJob, judgement: Judgement, timing: Timing
    ) -> tuple[Path, Receipt]:
        """Publish a verified archive, or one that is whole where no hash can be had; any other only if allowed.

        Args:
            journal: Its journal, in the state `whole`.
            whole: The bytes, flushed to the disk.
            job: The job, as it was seen last.
            judgement: What its hashes say about the bytes.
            timing: For the receipt.

        Returns:
            The archive under its final name, and the receipt beside it.

        Raises:
            HashMismatchError: The bytes are not the published ones; they are now called `.rejected`.
            ArchiveDamagedError: The archive is empty or damaged; it is now called `.rejected`.
            HashNotPublishedError: No hash was published; the bytes are now called `.unverified`.
            StorageError: The disk refuses, a file is in the way, or somebody wrote to the archive meanwhile.
        """
        if judgement.finding is Finding.MISMATCH:
            raise self._reject(journal, whole, judgement.published)
        if whole.size == 0:
            raise self._reject_empty(journal, whole, judgement.published)
        inspection = whole.inspection
        if inspection is not None and inspection.finding is not None:
            raise self._reject_damaged(journal, whole, judgement, inspection.finding)
        _require_unchanged(whole)
        verified = judgement.finding is Finding.MATCH
        structure = not verified and self._structure_is_all and inspection is not None
        if not (verified or structure or self._options.allow_unverified):
            raise self._set_aside(journal, whole)
        verdict: Verdict = "verified" if verified else "structure" if structure else "unverified"
        receipt = self._receipt(verdict, journal, whole, job, judgement.published, timing)
        journal.update(state="publishing", receipt=receipt)
        return self._put_in_place(journal, receipt, whole.path)

    def finish(self, journal: JournalFile) -> tuple[Path, Receipt] | None:
        """Take up a publication where a crash left it; the bytes are read again, nothing is taken on trust.

        Returns:
            As `publish`; None when the bytes that were verified are gone or were changed. The attempts stay on
            record then, and the journal is ready for another download.

        Raises:
            StorageError: The disk refuses, or a file is in the way.
        """
        receipt = journal.state.receipt
        for path in (journal.part, journal.unverified, journal.archive):
            if receipt is None or files.require_regular(path) is None:
                continue
            whole = hash_file(path)
            if (whole.size, whole.digest) == (receipt.bytes, receipt.digest):
                self._note("recovered", "finishing the publication that an earlier run began")
                return self._put_in_place(journal, receipt, path)
        journal.update(state="downloading", etag=None, total_bytes=None, sha1=None, receipt=None)
        return None

    def _receipt(
        self,
        verdict: Verdict,
        journal: JournalFile,
        whole: Whole,
        job: RestoreJob,
        published: FileHash | None,
        timing: Timing,
    ) -> Receipt:
        inspection = whole.inspection
        return Receipt(
            verdict=verdict,
            proves=_proves(inspection) if verdict == "structure" else None,
            file=journal.state.file,
            bytes=whole.size,
            sha1=whole.digest.hex,
            published_hash=PublishedHash.of(published) if published else None,
            checks=Checks(
                length=True if journal.state.total_bytes == whole.size else None,
                hash=True if verdict == "verified" else None,
                gzip=inspection.gzip if inspection else None,
                tar=inspection.tar if inspection else None,
            ),
            archive=inspection.archive if inspection else None,
            job=JobRecord.of(job),
            delivery=journal.state.delivery,
            attempts=journal.state.attempts,
            started=timing.started,
            finished=self._clock.now(),
            seconds=timing.seconds,
            service=self._service,
            tool=self._tool,
        )

    def _put_in_place(self, journal: JournalFile, receipt: Receipt, source: Path) -> tuple[Path, Receipt]:
        if source != journal.archive:
            files.rename(source, journal.archive, replace=self._options.force)
        else:
            files.sync_folder(journal.archive.parent)  # the crash may have come before the name was durable
        receipts.write_receipt(journal.archive, receipt)
        journal.remove()
        if receipt.archive is not None and receipt.archive.outside_count:
            self._note("outside", outside_warning(receipt.archive), level="warning")
        if receipt.verdict == "verified":
            whole = ", and its structure is whole" if receipt.checks.tar else ""
            self._note("verified", f"{journal.archive} is verified: SHA1 {receipt.sha1}{whole}")
        elif receipt.verdict == "structure":
            self._note("structure", f"{journal.archive} is published: {receipt.proves}", level="warning")
        else:
            self._note(
                "unverified",
                f"{journal.archive} is published UNVERIFIED: there was no hash to compare with",
                level="warning",
            )
        return journal.archive, receipt

    def _set_aside(self, journal: JournalFile, whole: Whole) -> HashNotPublishedError:
        kept = whole.path if whole.path == journal.archive else journal.unverified
        if whole.path != kept:
            files.rename(whole.path, kept, replace=True)
        if whole.path == journal.archive:
            journal.remove()  # its receipt holds everything already
        waited = show_duration(self._options.hash_wait_seconds)
        return HashNotPublishedError(
            f"the archive was downloaded whole, but no hash of it was published in {waited}: it is not verified",
            path=kept,
            actual=whole.digest.hex,
            files=f"it is kept as {kept.name}",
            next_step="run the same command again later: only the hash is asked for, nothing is downloaded again",
        )

    def _reject(self, journal: JournalFile, whole: Whole, published: FileHash | None) -> HashMismatchError:
        expected = (published.hash or "").strip().lower() if published else ""
        rejected = self._set_rejected(
            journal, whole, published, "the SHA1 of the bytes received is not the published one"
        )
        return HashMismatchError(
            f"HASH MISMATCH: the service published {expected}, the bytes received have {whole.digest}",
            path=rejected,
            expected=expected,
            actual=whole.digest.hex,
            files=f"they are kept as {rejected.name}, which is no backup",
            next_step="start a new restore job; if it happens again, suspect the network path or the service",
        )

    def _reject_empty(self, journal: JournalFile, whole: Whole, published: FileHash | None) -> ArchiveDamagedError:
        rejected = self._set_rejected(journal, whole, published, "the delivery was empty")
        return ArchiveDamagedError(
            "the delivery was empty: no archive has 0 bytes, whatever hash is published for it",
            path=rejected,
            actual=whole.digest.hex,
            files=f"the empty file is kept as {rejected.name}, which is no backup",
            next_step="start a new restore job; if it happens again, suspect the network path or the service",
        )

    def _reject_damaged(
        self, journal: JournalFile, whole: Whole, judgement: Judgement, finding: str
    ) -> ArchiveDamagedError:
        by_whom = "no hash of it was published, so nothing tells whether it was made so or damaged on the way"
        next_step = (
            "run the same command again: it downloads it anew, if that is allowed; else start a new restore job"
        )
        if judgement.finding is Finding.MATCH:
            by_whom = "its SHA1 is the published one, so the service itself made it so"
            next_step = "start a new restore job; if it happens again, take another snapshot"
        rejected = self._set_rejected(journal, whole, judgement.published, f"the archive is damaged: {finding}")
        return ArchiveDamagedError(
            f"the archive is DAMAGED: {finding}; {by_whom}",
            path=rejected,
            actual=whole.digest.hex,
            files=f"it is kept as {rejected.name}, which is no backup",
            next_step=next_step,
        )

    def _set_rejected(self, journal: JournalFile, whole: Whole, published: FileHash | None, finding: str) -> Path:
        """Keep the bytes as `.rejected`, with the finding beside them."""
        rejected = journal.archive.with_name(journal.state.file + receipts.REJECTED_SUFFIX)
        rejection = Rejection(
            finding=finding,
            file=rejected.name,
            bytes=whole.size,
            sha1=whole.digest.hex,
            published_hash=PublishedHash.of(published) if published else None,
            job=journal.state.job,
            delivery=journal.state.delivery,
            attempts=journal.state.attempts,
            found=self._clock.now(),
            service=self._service,
            tool=self._tool,
        )
        receipts.write_rejection(journal.archive, rejection)
        files.rename(whole.path, rejected, replace=True)
        if whole.path == journal.archive:  # let through unverified once: what speaks for it goes, too
            receipts.remove_receipt(journal.archive)
        journal.remove()
        return rejected


def _require_unchanged(whole: Whole) -> None:
    """Refuse to publish a file that somebody wrote to after it was hashed; a hash may be waited for a long time.

    Raises:
        StorageError: It is not what it was.
    """
    state = files.require_regular(whole.path)
    if state is not None and fingerprint(state) == whole.seen:
        return
    if state is None or hash_file(whole.path).digest != whole.digest:
        raise StorageError(
            f"{whole.path} was changed by another program after it had been received",
            path=whole.path,
            files="it was left untouched, and nothing was published",
            next_step="find out who writes to it, then run the same command again",
        )


def outside_warning(archive: ArchiveRecord) -> str:
    """What to say of members that would be written, or point, outside the folder an archive is unpacked in."""
    count = archive.outside_count
    return (
        f"{count} {'member' if count == 1 else 'members'} of the archive would leave the folder it is unpacked in, "
        f"such as {archive.outside[0]}: unpack it with care"
    )


def _proves(inspection: Inspection | None) -> str:
    return STRUCTURE_PROVES if inspection is not None and inspection.gzip else PLAIN_STRUCTURE_PROVES
