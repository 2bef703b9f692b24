"""The one table from what happened to the exit code that scripts see."""

from __future__ import annotations

from restore_fetch import errors

DONE = 0
UNEXPECTED = 1
USAGE = 2
INTERRUPTED = 130
TERMINATED = 143

MEANINGS = {
    0: "done: verified, shown, pruned, or healthy",
    1: "unexpected error: a bug, please report it",
    2: "usage or configuration",
    10: "authentication or authorization failed (401, 403)",
    11: "not found: project, cluster, job, batch or snapshot",
    12: "the API cannot be reached, keeps failing or answers nonsense; retry later",
    13: "the job failed: BROKEN or KILLED, in Cloud Backup failed or cancelled; start a new job",
    14: "timed out: not FINISHED and READY within --wait; retry later",
    15: "the delivery cannot be used, or its downloads are spent; start a new job",
    16: "download failed, after the attempts allowed; retry later",
    17: "HASH MISMATCH, or the archive is damaged",
    18: "downloaded whole, but no hash was published: unverified",
    19: "local storage: no space, no permission, I/O error, a file in the way",
    20: "another run holds the lock; retry later",
    130: "interrupted by SIGINT; retry later",
    143: "interrupted by SIGTERM or SIGHUP; retry later",
}

# The first class that fits decides, so a class stands before those it derives from.
_CODES: tuple[tuple[type[errors.RestoreFetchError], int], ...] = (
    (errors.ConfigurationError, USAGE),
    (errors.AuthenticationError, 10),
    (errors.NotFoundError, 11),
    (errors.ApiError, 12),
    (errors.JobFailedError, 13),
    (errors.JobTimeoutError, 14),
    (errors.DeliveryError, 15),
    (errors.DownloadError, 16),
    (errors.HashMismatchError, 17),
    (errors.ArchiveDamagedError, 17),
    (errors.HashNotPublishedError, 18),
    (errors.StorageError, 19),
    (errors.LockedError, 20),
)

# Of several jobs, the worst decides.
_WORST_FIRST = (17, 18, 13, 15, 16, 19, 12, 14, 10, 11, 20, 2, 1)


def exit_code_of(error: BaseException) -> int:
    """The exit code for an error: of a batch the worst of its members', and 1 for one that nobody expected."""
    if isinstance(error, errors.BatchError):
        return worst([exit_code_of(failure) for failure in error.failures.values()]) or UNEXPECTED
    return next((code for kind, code in _CODES if isinstance(error, kind)), UNEXPECTED)


def worst(codes: list[int]) -> int:
    """The exit code of several jobs together; 0 when each ended with 0, or there was none."""
    failed = [code for code in codes if code != DONE]
    known = [code for code in _WORST_FIRST if code in failed]
    return known[0] if known else max(failed, default=DONE)


def epilog(*codes: int) -> str:
    """The exit codes of a command, for the end of its help."""
    lines = [f"{code:>4}  {MEANINGS[code]}" for code in (DONE, UNEXPECTED, USAGE, *codes)]
    return "\b\nExit codes:\n" + "\n".join(lines)
