"""What one look at a finished job offers: where its archive is, under which name, and on what terms."""

from __future__ import annotations

from dataclasses import dataclass

from restore_fetch import rules
from restore_fetch.delivery import JournalFile, Source
from restore_fetch.errors import DeliveryUnusableError, ServiceUnavailableError
from restore_fetch.models import Delivery, RestoreJob
from restore_fetch.records import DeliveryRecord
from restore_fetch.rules import JobIdentity


@dataclass(frozen=True)
class Offer:
    """A delivery that can be asked for.

    Attributes:
        delivery: The delivery as the service showed it.
        source: The URL, and the header that opens it.
        file_name: The name the archive gets here.
    """

    delivery: Delivery
    source: Source
    file_name: str

    @classmethod
    def of(cls, job: RestoreJob) -> Offer:
        """The offer in a job document: `urlV2` with its header when the service gives both, else `url`.

        Raises:
            DeliveryUnusableError: There is no URL, or its header is one that must not be sent.
        """
        delivery = job.delivery
        if delivery is None or (delivery.url or delivery.url_v2) is None:
            raise DeliveryUnusableError(
                "the job no longer has a delivery with a URL", next_step="start a new restore job"
            )
        source = _source(delivery)
        return cls(delivery, source, rules.archive_name(source.url, job.id or ""))

    @property
    def record(self) -> DeliveryRecord:
        """The delivery as receipts show it: without anything secret."""
        return DeliveryRecord(
            host=rules.host_of(self.source.url),
            expires=self.delivery.expires,
            max_downloads=self.delivery.max_downloads,
        )


def _source(delivery: Delivery) -> Source:
    if delivery.url_v2 and delivery.auth_header and delivery.auth_value:
        value = delivery.auth_value.get_secret_value()
        rules.check_auth_header(delivery.auth_header, value)
        return Source(delivery.url_v2.get_secret_value(), (delivery.auth_header, value))
    url = delivery.url or delivery.url_v2
    return Source(url.get_secret_value() if url else "")


def check_same(journal: JournalFile, job: RestoreJob) -> None:
    """Refuse a look that contradicts what is known of the job: bytes of two snapshots must never mix.

    Raises:
        ServiceUnavailableError: Its project, cluster, snapshot, batch or file is another than before.
    """
    check_identity(journal.state.job.identity, job)
    if job.delivery and (job.delivery.url or job.delivery.url_v2) and Offer.of(job).file_name != journal.state.file:
        raise _contradiction(job, "its delivery.url has changed")


def check_identity(before: JobIdentity, job: RestoreJob) -> None:
    """Refuse a look at another job, or at one of another snapshot, than was seen before.

    Raises:
        ServiceUnavailableError: Its project, cluster, snapshot or batch is another than before.
    """
    element = before.contradiction(JobIdentity.of(job))
    if element is not None:
        raise _contradiction(job, f"its {element} has changed")


def check_still_ready(job: RestoreJob) -> None:
    """Refuse to use up another download of a job that was ready, and now says something else.

    Raises:
        ServiceUnavailableError: It is not FINISHED, or its delivery not READY, any more.
        JobError, DeliveryError: It is over; see `rules.is_ready`.
    """
    ready = rules.is_ready(job)
    without_url = job.delivery is None or (job.delivery.url or job.delivery.url_v2) is None
    if not ready and not (without_url and job.status_name == "FINISHED"):
        raise _contradiction(job, f"it was FINISHED and READY, and is {rules.show_status(job)}")


def _contradiction(job: RestoreJob, what: str) -> ServiceUnavailableError:
    return ServiceUnavailableError(
        f"the service contradicts itself about restore job {job.id}: {what}",
        next_step="look at the job with restore-fetch status; if it stays so, start a new restore job",
    )
