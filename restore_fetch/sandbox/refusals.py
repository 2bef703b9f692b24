"""Answers of the API that are errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from restore_fetch.sandbox.documents import error_document
from restore_fetch.sandbox.model import CloudJob, Job
from restore_fetch.sandbox.wire import Headers


class ApiError(Exception):
    """An answer that is an error; the handler turns it into a body of the schema of this name."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        parameters: Sequence[Any] = (),
        headers: Headers = (),
        job_id: str | None = None,
    ) -> None:
        """Describe the answer.

        Args:
            status: HTTP status.
            code: `errorCode`.
            detail: What is wrong, in a sentence.
            parameters: The values the sentence mentions.
            headers: Further header fields.
            job_id: The job it is about, for the request log.
        """
        super().__init__(detail)
        self.status = status
        self.document = error_document(status, code, detail, parameters)
        self.headers = [("X-Error-Code", code), *headers]
        self.job_id = job_id


def refuse_attribute(name: str, rule: str) -> NoReturn:
    """Refuse a request because of one of its values.

    Raises:
        ApiError: Always.
    """
    raise ApiError(400, "INVALID_ATTRIBUTE", f"Invalid attribute {name} specified: it {rule}.", [name])


def refuse_rate(job: Job | CloudJob) -> NoReturn:
    """Refuse a request for a job because there were too many.

    Raises:
        ApiError: Always.
    """
    seconds = job.scenario.retry_after_seconds
    headers = [("RateLimit-Limit", "10"), ("RateLimit-Remaining", "0")]
    if seconds is not None:
        headers.append(("Retry-After", str(seconds)))
    resource = "api/atlas/v1.0/groups"
    raise ApiError(
        429,
        "RATE_LIMITED_TOKEN_BUCKET",
        f"Rate limit exceeded for {resource}. Please retry after {seconds or 0} seconds. "
        "Request capacity: 10. Refill rate: 5 per 60 seconds.",
        [resource, seconds or 0, 10, 5, 60],
        headers,
        job.id,
    )
