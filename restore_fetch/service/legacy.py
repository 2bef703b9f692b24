"""The legacy restore job resource, in each of its homes.

Source: the Atlas API page "Get One Legacy Backup Restore Job", and its twins in the Cloud Manager and Ops
Manager APIs. The resource is one; the homes differ in the path below the origin, and in whether the cluster
is named by its name or its id.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from pydantic import ValidationError

from restore_fetch.clock import Clock
from restore_fetch.errors import ServiceUnavailableError
from restore_fetch.models import RestoreJob
from restore_fetch.rules import check_identity
from restore_fetch.service.client import ApiClient

_PREFIXES = {
    "atlas": "/api/atlas/v1.0",
    "cloud-manager": "/api/public/v1.0",
    "ops-manager": "/api/public/v1.0",
}
_ACCEPT = "application/json"


class LegacyRestoreService:
    """Looks at restore jobs of one cluster.

    Args:
        name: The service, as `--service` calls it.
        api: The client of its API.
        project_id: The project that owns the cluster.
        cluster: The cluster's name or id.
        clock: The local time.
    """

    def __init__(self, name: str, api: ApiClient, *, project_id: str, cluster: str, clock: Clock) -> None:
        self.name = name
        self._api = api
        self._project_id = project_id
        self._clock = clock
        self._clusters = f"{_PREFIXES[name]}/groups/{project_id}/clusters/{quote(cluster, safe='')}"
        self._ahead_seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._api.close()

    def now(self) -> datetime:
        """The time by the service's clock, as far as its last answer told."""
        local = self._clock.now()
        return datetime.fromtimestamp(local.timestamp() + self._ahead_seconds, tz=local.tzinfo)

    def job(self, job_id: str) -> RestoreJob:
        """One look at a restore job: `GET /groups/{id}/clusters/{name}/restoreJobs/{job id}`.

        Args:
            job_id: The restore job, 24 hexadecimal digits.

        Returns:
            The job as it is now; it is the one asked for.

        Raises:
            AuthenticationError: The key is refused, or may not read the project.
            NotFoundError: There is no such project, cluster or job.
            ServiceUnavailableError: The service cannot be reached, fails, or answers with anything but this job.
            ConfigurationError: The service's certificate is not trusted.
            ApiError: The request was refused for another reason.
        """
        answer = self._api.get(f"{self._clusters}/restoreJobs/{quote(job_id, safe='')}", accept=_ACCEPT)
        self._ahead_seconds = (answer.date - self._clock.now()).total_seconds()
        job = parse_job(answer.document)
        check_identity(job_id, self._project_id, job)
        return job


def parse_job(document: Mapping[str, Any]) -> RestoreJob:
    """A job document, plain or in the envelope that `envelope=true` puts around it.

    Raises:
        ServiceUnavailableError: An element has another type than the documented one.
    """
    content = document.get("content")
    if isinstance(content, dict) and "status" in document and "statusName" not in document:
        document = content
    try:
        return RestoreJob.model_validate(document)
    except ValidationError as exc:
        place = ".".join(str(step) for step in exc.errors()[0]["loc"])
        raise ServiceUnavailableError(
            f"the service answered with a job whose {place} is not as documented"
        ) from exc
    except (RecursionError, OverflowError) as exc:
        raise ServiceUnavailableError(
            "the service answered with a job whose nesting or dates are without measure"
        ) from exc
