"""Answers of the API that somebody saved to a file."""

from __future__ import annotations

from pathlib import Path

from restore_fetch import files
from restore_fetch.errors import ConfigurationError, ServiceUnavailableError
from restore_fetch.models import RestoreJob
from restore_fetch.service import parse_job
from restore_fetch.service.client import parse_object


def read_saved_job(path: Path) -> RestoreJob:
    """A saved answer of the endpoint "Get One Legacy Backup Restore Job", plain or enveloped.

    Raises:
        ConfigurationError: There is no such file, or it is something else.
        StorageError: It cannot be read.
    """
    content = files.read_small(path)
    if content is None:
        raise ConfigurationError(f"there is no file {path}", next_step="check --job-json")
    try:
        job = parse_job(parse_object(content))
    except ServiceUnavailableError as exc:
        raise ConfigurationError(f"{path} is not a saved answer about a restore job: {exc.what}") from exc
    if job.id is None:
        raise ConfigurationError(f"{path} is not a saved answer about a restore job: it has no id")
    return job
