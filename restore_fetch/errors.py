"""Everything that can go wrong, as one tree.

::

    RestoreFetchError
    ├── ConfigurationError              an option, variable, profile or file that cannot be used
    ├── ApiError                        the service answered, and the answer cannot be used
    │   ├── AuthenticationError         401 or 403
    │   ├── NotFoundError               404 or 410
    │   └── ServiceUnavailableError     unreachable, overloaded, failing, or talking nonsense: worth another try
    ├── JobError
    │   ├── JobFailedError              the job is BROKEN or KILLED
    │   └── JobTimeoutError             not FINISHED and READY in the time allowed
    ├── DeliveryError                   the job is fine, its delivery cannot be used
    │   ├── DeliveryUnusableError       not HTTP, failed, interrupted
    │   │   └── SeveralFilesError       the job delivers several files, where one was asked for
    │   ├── DeliveryExpiredError        past its expiry, or said to be
    │   └── DownloadsSpentError         no download is left
    ├── DownloadError
    │   ├── DownloadInterruptedError    cut, stalled, unreachable: another attempt may succeed
    │   └── DownloadRefusedError        an answer that is not the archive: another attempt would get it again
    ├── VerificationError
    │   ├── HashMismatchError           the bytes are not those the service hashed
    │   ├── ArchiveDamagedError         the bytes are not a whole archive
    │   └── HashNotPublishedError       nothing to compare with
    ├── StorageError                    the local disk, or a file in the way
    ├── LockedError                     another run works on the same job
    └── BatchError                      members of a batch failed, each with an error of its own

Errors never print and never exit; the command line maps each family to an exit code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path


class RestoreFetchError(Exception):
    """The root of every error this package raises on purpose.

    Attributes:
        what: What happened, in one sentence.
        files: What state the local files are in, when that is worth saying.
        next_step: What to do about it.
    """

    def __init__(self, what: str, *, files: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.files = files
        self.next_step = next_step

    def __str__(self) -> str:
        return "; ".join(part for part in (self.what, self.files, self.next_step) if part)

    def __reduce__(self) -> tuple[Callable[..., RestoreFetchError], tuple[object, ...]]:
        # Subclasses take keyword-only values, which the default protocol cannot replay in another process.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(
    kind: type[RestoreFetchError], args: tuple[object, ...], state: dict[str, object]
) -> RestoreFetchError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigurationError(RestoreFetchError):
    """An option, environment variable, profile or file given by the user cannot be used."""


class ApiError(RestoreFetchError):
    """The service's answer cannot be used, and asking again would not change it.

    Attributes:
        status: The HTTP status, or None when there was no answer.
        error_code: The service's own code for the error, when it sent one.
    """

    def __init__(
        self,
        what: str,
        *,
        status: int | None = None,
        error_code: str | None = None,
        files: str = "",
        next_step: str = "",
    ) -> None:
        super().__init__(what, files=files, next_step=next_step)
        self.status = status
        self.error_code = error_code


class AuthenticationError(ApiError):
    """The service refuses the key (401) or the key may not do this (403)."""


class NotFoundError(ApiError):
    """No such project, cluster, job, batch or snapshot, or no longer (404, 410)."""


class ServiceUnavailableError(ApiError):
    """The service cannot be reached, is overloaded, fails, or answers nonsense: worth asking again.

    Attributes:
        retry_after_seconds: How long the service asked to be left alone, when it said so.
    """

    def __init__(
        self,
        what: str,
        *,
        status: int | None = None,
        error_code: str | None = None,
        retry_after_seconds: float | None = None,
        files: str = "",
        next_step: str = "",
    ) -> None:
        super().__init__(what, status=status, error_code=error_code, files=files, next_step=next_step)
        self.retry_after_seconds = retry_after_seconds


class JobError(RestoreFetchError):
    """The restore job itself will not, or not yet, give an archive.

    Attributes:
        job_id: The restore job.
        status_name: Its last `statusName`.
    """

    def __init__(
        self, what: str, *, job_id: str, status_name: str | None, files: str = "", next_step: str = ""
    ) -> None:
        super().__init__(what, files=files, next_step=next_step)
        self.job_id = job_id
        self.status_name = status_name


class JobFailedError(JobError):
    """The job ended BROKEN or KILLED."""


class JobTimeoutError(JobError):
    """The job was not FINISHED with a READY delivery in the time allowed."""


class DeliveryError(RestoreFetchError):
    """The job is done, but its delivery cannot be used.

    Attributes:
        status_name: The delivery's `statusName`.
    """

    def __init__(self, what: str, *, status_name: str | None = None, files: str = "", next_step: str = "") -> None:
        super().__init__(what, files=files, next_step=next_step)
        self.status_name = status_name


class DeliveryUnusableError(DeliveryError):
    """The delivery is not by HTTP, or it FAILED or was INTERRUPTED."""


class SeveralFilesError(DeliveryUnusableError):
    """One file was asked for, and the job delivers several: it is to be fetched as a batch.

    Attributes:
        batch_id: What the batch is called.
    """

    def __init__(
        self, what: str, *, batch_id: str, status_name: str | None = None, files: str = "", next_step: str = ""
    ) -> None:
        super().__init__(what, status_name=status_name, files=files, next_step=next_step)
        self.batch_id = batch_id


class DeliveryExpiredError(DeliveryError):
    """The delivery is past its expiry."""


class DownloadsSpentError(DeliveryError):
    """Every download the delivery allows has been used."""


class DownloadError(RestoreFetchError):
    """The archive could not be downloaded.

    Attributes:
        status: The delivery's HTTP status, when it answered.
        received_bytes: How many bytes of the archive are on disk.
        outcome: One word or two for the receipt's list of attempts.
    """

    def __init__(
        self,
        what: str,
        *,
        outcome: str,
        status: int | None = None,
        received_bytes: int = 0,
        files: str = "",
        next_step: str = "",
    ) -> None:
        super().__init__(what, files=files, next_step=next_step)
        self.outcome = outcome
        self.status = status
        self.received_bytes = received_bytes


class DownloadInterruptedError(DownloadError):
    """The transfer broke off; another attempt may succeed.

    Attributes:
        sent: Whether the request can have reached the delivery, and so may have used up a download.
        retry_after_seconds: How long the delivery asked to be left alone, when it said so.
    """

    def __init__(
        self,
        what: str,
        *,
        outcome: str,
        sent: bool = True,
        retry_after_seconds: float | None = None,
        status: int | None = None,
        received_bytes: int = 0,
        files: str = "",
        next_step: str = "",
    ) -> None:
        super().__init__(
            what,
            outcome=outcome,
            status=status,
            received_bytes=received_bytes,
            files=files,
            next_step=next_step,
        )
        self.sent = sent
        self.retry_after_seconds = retry_after_seconds


class DownloadRefusedError(DownloadInterruptedError):
    """The delivery answered with something that is not the archive; asking again would not help."""


class VerificationError(RestoreFetchError):
    """The archive is not proven.

    Attributes:
        path: Where the bytes are now.
        expected: What they should have been (a hexadecimal SHA1), when known.
        actual: What they are.
    """

    def __init__(
        self,
        what: str,
        *,
        path: Path | None = None,
        expected: str | None = None,
        actual: str | None = None,
        files: str = "",
        next_step: str = "",
    ) -> None:
        super().__init__(what, files=files, next_step=next_step)
        self.path = path
        self.expected = expected
        self.actual = actual


class HashMismatchError(VerificationError):
    """The SHA1 of the bytes is not the published one."""


class ArchiveDamagedError(VerificationError):
    """The bytes are not a whole gzip or tar archive."""


class HashNotPublishedError(VerificationError):
    """The archive is whole as far as can be seen, but there is no published hash to compare with."""


class StorageError(RestoreFetchError):
    """No space, no permission, an I/O error, or a file in the way.

    Attributes:
        path: The file or folder concerned.
        errno: The operating system's error number, when it gave one.
    """

    def __init__(
        self, what: str, *, path: Path, errno: int | None = None, files: str = "", next_step: str = ""
    ) -> None:
        super().__init__(what, files=files, next_step=next_step)
        self.path = path
        self.errno = errno


class LockedError(RestoreFetchError):
    """Another run holds the lock.

    Attributes:
        path: The lock file.
    """

    def __init__(self, what: str, *, path: Path, files: str = "", next_step: str = "") -> None:
        super().__init__(what, files=files, next_step=next_step)
        self.path = path


class BatchError(RestoreFetchError):
    """Some members of a batch failed; the others are done.

    Attributes:
        batch_id: The batch.
        failures: What happened, by job id.
    """

    def __init__(
        self, what: str, *, batch_id: str, failures: Mapping[str, Exception], files: str = "", next_step: str = ""
    ) -> None:
        super().__init__(what, files=files, next_step=next_step)
        self.batch_id = batch_id
        self.failures = dict(failures)
