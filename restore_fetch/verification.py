"""Archives that are on disk already: what they can be compared with, and what that shows."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from restore_fetch import files, receipts, rules
from restore_fetch.delivery.journal import UNVERIFIED_SUFFIX, JournalFile
from restore_fetch.delivery.structure import ArchiveInspector, Inspection
from restore_fetch.errors import (
    ArchiveDamagedError,
    ConfigurationError,
    HashMismatchError,
    HashNotPublishedError,
    StorageError,
)
from restore_fetch.hashes import SHA1, Digest
from restore_fetch.models import RestoreJob
from restore_fetch.records import Receipt, Rejection, Verdict
from restore_fetch.rules import Finding
from restore_fetch.shelf import hash_file

_CHECKSUM_LINE = re.compile(r"\\?([0-9a-fA-F]{40}) [ *](.+)\Z")
_LEFTOVER_SUFFIXES = (UNVERIFIED_SUFFIX, receipts.REJECTED_SUFFIX, ".part")


@dataclass(frozen=True)
class Reference:
    """What a file should be.

    Attributes:
        source: Where that is said, for people.
        digest: Its SHA1, when that is known.
        proven: Whether that SHA1 is the published one; False for an archive published without a hash.
        structure: What is proven in place of that, for an archive that was found whole where no hash is published.
    """

    source: str
    digest: Digest | None = None
    proven: bool = True
    structure: str | None = None


@dataclass(frozen=True)
class Verified:
    """A file that is what it should be.

    Attributes:
        path: The file.
        size: Its bytes.
        digest: Its SHA1.
        source: What it was compared with.
        structure: What is proven, when that is not that the bytes have a published hash.
        inspection: What its structure is like; None when that was not checked.
    """

    path: Path
    size: int
    digest: Digest
    source: str
    structure: str | None = None
    inspection: Inspection | None = None

    @property
    def verdict(self) -> Verdict:
        """What it is, in the words of receipts."""
        return "verified" if self.structure is None else "structure"


def verify(
    path: Path,
    find: Callable[[Digest], Reference],
    on_progress: Callable[[int, int], None],
    *,
    deep: bool = False,
) -> Verified:
    """Hash a file and compare it; nothing is changed.

    Args:
        path: The file.
        find: Gives what to compare with; it is told the SHA1 of the file.
        on_progress: Called now and then with the bytes read, and the bytes there are.
        deep: Whether to check the structure of the archive, too.

    Raises:
        HashMismatchError: The file is something else.
        ArchiveDamagedError: It is what it should be, as far as that is known, but is no whole archive.
        HashNotPublishedError: There is nothing to compare with, or only what was never proven.
        StorageError: The file cannot be read.
    """
    whole = hash_file(path, on_progress, ArchiveInspector(_archive_name(path)) if deep else None)
    reference = find(whole.digest)
    if reference.digest is not None and reference.digest != whole.digest:
        raise HashMismatchError(
            f"HASH MISMATCH: {path} has {whole.digest}, and should have {reference.digest} by {reference.source}",
            path=path,
            expected=reference.digest.hex,
            actual=whole.digest.hex,
            files="it was left untouched",
            next_step="do not restore from it; download it again, or take another backup",
        )
    if whole.inspection is not None and whole.inspection.finding is not None:
        raise _damaged(path, whole.digest, whole.inspection.finding, reference)
    if reference.digest is None or not reference.proven:
        told = "; its structure is whole, which proves no more than that" if whole.inspection else ""
        raise HashNotPublishedError(
            f"{path} is not verified: {reference.source}{told}",
            path=path,
            actual=whole.digest.hex,
            files="it was left untouched",
            next_step="compare it with the service's hash: restore-fetch verify --online",
        )
    return Verified(path, whole.size, whole.digest, reference.source, reference.structure, whole.inspection)


def _damaged(path: Path, actual: Digest, finding: str, reference: Reference) -> ArchiveDamagedError:
    known = reference.digest is not None and reference.proven and reference.structure is None
    return ArchiveDamagedError(
        f"the archive {path} is DAMAGED: {finding}"
        + (f"; its SHA1 is right by {reference.source}, so the service itself made it so" if known else ""),
        path=path,
        actual=actual.hex,
        files="it was left untouched",
        next_step="do not restore from it; start a new restore job, or take another snapshot",
    )


def _archive_name(path: Path) -> str:
    """What an archive is, or would have been, called."""
    name = path.name
    for suffix in _LEFTOVER_SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def check_file(path: Path) -> None:
    """Refuse a path that is no file to verify; one that is missing is told when it is read.

    Raises:
        StorageError: It is a folder, a link or something else.
    """
    if files.exists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise StorageError(
            f"{path} is no regular file: only a file can be verified",
            path=path,
            files="it was left untouched",
            next_step="give the archives themselves",
        )


def archive_of(path: Path) -> Path:
    """The archive that a path means: a receipt or a `.sha1` file stands for the file that it is about."""
    for suffix in (receipts.RECEIPT_SUFFIX, receipts.SHA1_SUFFIX):
        if path.name.endswith(suffix) and len(path.name) > len(suffix):
            return path.with_name(path.name.removesuffix(suffix))
    return path


def reference_beside(path: Path) -> Reference:
    """What the files beside an archive say it should be: its receipt, else its `.sha1` file.

    Raises:
        HashMismatchError: It was found to be wrong when it was downloaded.
        StorageError: One of them cannot be read, is damaged, or is of another file.
    """
    if path.name.endswith(receipts.REJECTED_SUFFIX):
        return _rejected(path)
    receipt = receipts.read_record(receipts.receipt_path(path), Receipt)
    if receipt is not None:
        if receipt.file != path.name:
            raise StorageError(
                f"{receipts.receipt_path(path)} is the receipt of another file, {receipt.file}",
                path=receipts.receipt_path(path),
                next_step="give the file its own name back, or compare it with --sha1",
            )
        if receipt.verdict != "unverified":
            return Reference(
                f"its receipt of {receipt.finished:%Y-%m-%d}", receipt.digest, structure=receipt.proves
            )
        return Reference("its receipt says that no hash was published for it", receipt.digest, proven=False)
    return _checksum_beside(path)


def _checksum_beside(path: Path) -> Reference:
    place = receipts.sha1_path(path)
    content = files.read_small(place)
    if content is None:
        if path.name.endswith(UNVERIFIED_SUFFIX):
            return Reference("no hash was published when it was downloaded")
        return Reference("there is no receipt and no .sha1 file beside it to compare it with")
    for line in content.decode("utf-8", "replace").splitlines():
        match = _CHECKSUM_LINE.match(line)
        if match and match[2] == path.name:
            return Reference(place.name, Digest.parse(SHA1, match[1]))
    raise StorageError(
        f"{place} does not speak of {path.name}, or is damaged",
        path=place,
        files="it was left untouched",
        next_step="compare the archive with --sha1, --job-json or --online",
    )


def _rejected(path: Path) -> Reference:
    found = receipts.read_record(path.with_name(path.name + ".json"), Rejection)
    if found is None or found.published_hash is None:
        return Reference("it was rejected when it was downloaded")
    # Not proven even by the right hash: it may have been rejected for another reason.
    return Reference(f"the finding of {found.found:%Y-%m-%d}", found.published_hash.digest, proven=False)


def reference_in_job(job: RestoreJob, path: Path, source: str) -> Callable[[Digest], Reference]:
    """What a job's published hashes say a file should be.

    Args:
        job: The job, as the service shows it.
        path: The file.
        source: How to call the job in messages.
    """
    name = _archive_name(path)

    def find(actual: Digest) -> Reference:
        judgement = rules.judge(job.hashes, actual, rules.delivered_name(name, job.id or ""))
        if judgement.finding is Finding.NOT_PUBLISHED or judgement.published is None:
            return Reference(f"{source} publishes no SHA1 for {name}")
        return Reference(source, Digest.parse(SHA1, judgement.published.hash or ""))

    return find


def job_id_beside(path: Path) -> str | None:
    """The restore job that a file came from, by its receipt, journal or finding; None when none says so.

    Raises:
        StorageError: One of them is damaged.
    """
    receipt = receipts.read_record(receipts.receipt_path(path), Receipt)
    if receipt is not None:
        return receipt.job.id
    found = receipts.read_record(path.with_name(path.name + ".json"), Rejection)
    if found is not None:
        return found.job.id
    journal = JournalFile.at(path.parent, path.name.removesuffix(UNVERIFIED_SUFFIX))
    return journal.state.job.id if journal is not None else None


def is_unproven(path: Path) -> bool:
    """Whether a file is an archive of this tool that still waits for its published hash.

    Raises:
        StorageError: Its receipt is damaged.
    """
    if path.name.endswith(UNVERIFIED_SUFFIX):
        return True
    receipt = receipts.read_record(receipts.receipt_path(path), Receipt)
    return receipt is not None and receipt.verdict == "unverified"


def parse_sha1(text: str) -> Digest:
    """A SHA1 given by the user.

    Raises:
        ConfigurationError: It is not 40 hexadecimal digits.
    """
    try:
        return Digest.parse(SHA1, text)
    except ValueError as exc:
        raise ConfigurationError("--sha1 must be 40 hexadecimal digits") from exc
