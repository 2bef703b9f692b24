"""Receipts and findings on disk: written last, found again, read with suspicion."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from restore_fetch import files
from restore_fetch.errors import StorageError
from restore_fetch.records import BatchReceipt, Receipt, Record, Rejection

RECEIPT_SUFFIX = ".receipt.json"
REJECTED_SUFFIX = ".rejected"
REJECTION_SUFFIX = ".rejected.json"
SHA1_SUFFIX = ".sha1"

_BATCH_RECEIPT = re.compile(r"batch-[0-9a-f]{24}\.receipt\.json\Z")
_R = TypeVar("_R", bound=Record)


def receipt_path(archive: Path) -> Path:
    """Where the receipt of an archive is."""
    return archive.with_name(archive.name + RECEIPT_SUFFIX)


def sha1_path(archive: Path) -> Path:
    """Where the `sha1sum -c` file of an archive is."""
    return archive.with_name(archive.name + SHA1_SUFFIX)


def is_checksum(path: Path) -> bool:
    """Whether a file is such a `.sha1` file as is written here, of whatever archive had this name before.

    Raises:
        StorageError: It cannot be read.
    """
    name = path.name.removesuffix(SHA1_SUFFIX).encode()
    return re.fullmatch(rb"[0-9a-f]{40}  %b\n" % re.escape(name), files.read_small(path) or b"") is not None


def write_receipt(archive: Path, receipt: Receipt) -> None:
    """Write the `.sha1` file of an archive, and then its receipt: whoever sees the receipt sees all the rest.

    Raises:
        StorageError: One of them cannot be written.
    """
    files.write_whole(sha1_path(archive), f"{receipt.sha1}  {archive.name}\n".encode())
    files.write_whole(receipt_path(archive), receipt.to_json())


def remove_receipt(archive: Path) -> None:
    """Remove the receipt of an archive that is no more, and its `.sha1` file.

    Raises:
        StorageError: One of them cannot be removed.
    """
    files.remove(receipt_path(archive))
    files.remove(sha1_path(archive))


def write_rejection(archive: Path, rejection: Rejection) -> None:
    """Write why the bytes that should have become an archive are not it.

    Raises:
        StorageError: It cannot be written.
    """
    files.write_whole(archive.with_name(archive.name + REJECTION_SUFFIX), rejection.to_json())


def read_record(path: Path, kind: type[_R]) -> _R | None:
    """Read one of our documents.

    Returns:
        The document, or None when there is no such file.

    Raises:
        StorageError: The file cannot be read, or is not such a document: damaged, or edited by hand.
    """
    content = files.read_small(path)
    if content is None:
        return None
    try:
        return kind.model_validate_json(content)
    except (ValidationError, RecursionError) as exc:
        raise damaged(path, kind) from exc


def damaged(path: Path, kind: type[Record]) -> StorageError:
    """The error about a document that contradicts itself, or is none."""
    return StorageError(
        f"{path} is damaged, or was edited: it is not a {kind.__name__.lower()} that can be believed",
        path=path,
        files="it was left untouched",
        next_step="move it, and the file it belongs to, out of the way",
    )


def records_of_job(folder: Path, suffix: str, kind: type[_R], job_id: str) -> Iterator[tuple[Path, _R]]:
    """The documents of one kind in a folder that speak of a job.

    Args:
        folder: The folder; one that does not exist holds none.
        suffix: How their names end.
        kind: What they are.
        job_id: The restore job.

    Yields:
        The path and the document. Files of other jobs are not read further than to see that they are.

    Raises:
        StorageError: A file cannot be read, or names the job and is damaged.
    """
    for path, record in _records_naming(folder, suffix, kind, job_id):
        if getattr(record, "job").id == job_id:  # noqa: B009 - each kind has one
            yield path, record


def _records_naming(folder: Path, suffix: str, kind: type[_R], text: str) -> Iterator[tuple[Path, _R]]:
    """The documents of one kind in a folder that have an id in them, wherever that stands."""
    with files.storage_errors(folder, "look into"):
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    for name in names:
        if not name.endswith(suffix) or name.startswith(".") or is_batch_receipt(name):
            continue
        path = folder / name
        content = files.read_small(path)
        if content is not None and text.encode() in content:
            record = read_record(path, kind)
            if record is not None:
                yield path, record


def find_receipts(folder: Path, job_id: str, name: str | None = None) -> list[tuple[Path, Receipt]]:
    """The receipts of a job, each with the path of the archive it belongs to.

    Args:
        folder: Where they are.
        job_id: The restore job.
        name: What its archive is called, when that is known.

    Raises:
        StorageError: See `records_of_job`.
    """
    if name is not None:
        receipt = read_record(receipt_path(folder / name), Receipt)
        if receipt is not None and receipt.job.id == job_id and receipt.file == name:
            return [(folder / name, receipt)]
    found = records_of_job(folder, RECEIPT_SUFFIX, Receipt, job_id)
    return [
        (path.with_name(path.name.removesuffix(RECEIPT_SUFFIX)), receipt)
        for path, receipt in found
        if receipt.file == path.name.removesuffix(RECEIPT_SUFFIX)
    ]


def find_rejections(folder: Path, job_id: str) -> list[Rejection]:
    """The findings about downloads of a job that were not the archive.

    Raises:
        StorageError: See `records_of_job`.
    """
    return [rejection for _, rejection in records_of_job(folder, REJECTION_SUFFIX, Rejection, job_id)]


def receipts_of_snapshot(folder: Path, snapshot_id: str) -> list[Receipt]:
    """The receipts of archives of a snapshot.

    Raises:
        StorageError: A file cannot be read, or names the snapshot and is damaged.
    """
    found = _records_naming(folder, RECEIPT_SUFFIX, Receipt, snapshot_id)
    return [receipt for _, receipt in found if receipt.job.snapshot_id == snapshot_id]


def batch_receipt_path(folder: Path, batch_id: str) -> Path:
    """Where the receipt of a batch is."""
    return folder / f"batch-{batch_id}{RECEIPT_SUFFIX}"


def is_batch_receipt(name: str) -> bool:
    """Whether a file is called as the receipt of a batch is."""
    return _BATCH_RECEIPT.match(name) is not None


def read_batch_receipt(folder: Path, batch_id: str) -> BatchReceipt | None:
    """The receipt of a batch; None when there is none.

    Raises:
        StorageError: It cannot be read, or is damaged.
    """
    return read_record(batch_receipt_path(folder, batch_id), BatchReceipt)


def batch_receipts(folder: Path) -> list[BatchReceipt]:
    """The receipt of every batch that is in a folder.

    Raises:
        StorageError: One cannot be read, or is damaged.
    """
    with files.storage_errors(folder, "look into"):
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [read_record(path, BatchReceipt) for path in paths if is_batch_receipt(path.name)]
    return [receipt for receipt in found if receipt is not None]
