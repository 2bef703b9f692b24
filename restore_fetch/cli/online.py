"""`verify --online`: asking the service for a hash, and publishing what waited for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from restore_fetch import files, verification
from restore_fetch.cli.console import Console
from restore_fetch.cli.progress import Progress
from restore_fetch.cli.session import open_api, open_fetcher
from restore_fetch.delivery import Inspection
from restore_fetch.errors import ConfigurationError
from restore_fetch.models import RestoreJob
from restore_fetch.settings import Connection, FetchOptions, parse_object_id
from restore_fetch.verification import Verified

_SECOND_LOOK_SECONDS = 2.0  # nothing is rejected after one look


@contextlib.contextmanager
def online_verifier(
    connection: Connection, job_id: str | None, console: Console, *, deep: bool = False
) -> Iterator[Callable[[Path, Progress], Verified]]:
    """How a file is verified with one look at its job.

    Args:
        connection: How to reach the service.
        job_id: The restore job; None takes the one that the files beside the archive name.
        console: Where to tell.
        deep: Whether to check the structure of the archives, too.

    Raises:
        ConfigurationError: The id is malformed, or the certificates to trust cannot be used.
    """
    asked = parse_object_id(job_id, "--job-id") if job_id is not None else None
    with open_api(connection) as service:

        def verify(path: Path, progress: Progress) -> Verified:
            beside = verification.job_id_beside(path)
            job = asked or beside
            if job is None:
                raise ConfigurationError(f"nothing beside {path} names its restore job", next_step="set --job-id")
            # What waits here for another job's hash, or for nobody's, is compared like any other file.
            if verification.is_unproven(path) and job == beside:
                proven = _prove(connection, path, job, console, deep=deep)
                if proven.path == path or not files.exists(path):
                    return proven
                # Another file of the job was here, verified: that says nothing about this one.
            if not service.publishes_hashes:
                console.note(
                    "no-hash", f"the service publishes no hash of {path}: only the receipt beside it can tell"
                )
                return verification.verify(
                    path, lambda _: verification.reference_beside(path), progress.rereading, deep=deep
                )
            return _compare(path, service.job(job), progress, deep=deep)

        yield verify


def _prove(connection: Connection, path: Path, job_id: str, console: Console, *, deep: bool) -> Verified:
    options = FetchOptions(out_dir=path.parent, hash_wait_seconds=0, poll_seconds=_SECOND_LOOK_SECONDS, deep=deep)
    with open_fetcher(connection, options, console) as fetcher:
        fetched = fetcher.prove(job_id)
    receipt = fetched.receipt
    inspection = None
    if receipt.archive is not None:
        inspection = Inspection(receipt.checks.gzip, receipt.checks.tar, None, receipt.archive)
    return Verified(fetched.path, receipt.bytes, receipt.digest, "the service", receipt.proves, inspection)


def _compare(path: Path, job: RestoreJob, progress: Progress, *, deep: bool) -> Verified:
    return verification.verify(
        path,
        verification.reference_in_job(job, path, f"restore job {job.id}"),
        progress.rereading,
        deep=deep,
    )
