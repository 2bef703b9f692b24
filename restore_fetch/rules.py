"""The decisions, each a pure function: it takes values and the time, decides, and touches nothing.

Rules that end a run raise the error that says so; all others return what they found.
"""

from __future__ import annotations

import email.utils
import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from urllib.parse import unquote, urlsplit

from restore_fetch.errors import (
    DeliveryExpiredError,
    DeliveryUnusableError,
    DownloadsSpentError,
    JobFailedError,
    ServiceUnavailableError,
)
from restore_fetch.hashes import SHA1, Digest
from restore_fetch.models import Delivery, FileHash, RestoreJob

UNLIMITED_DOWNLOADS = 2147483647
TELL_SKEW_OVER = timedelta(minutes=5)
_FAILED_JOB = frozenset({"BROKEN", "KILLED", "failed", "cancelled"})  # the latter two are Cloud Backup's words
_FINISHED_JOB = "FINISHED"
_READY_DELIVERY = "READY"
_UNUSABLE_DELIVERY = {
    "FAILED": "the service could not make the archive",
    "INTERRUPTED": "the making of the archive was interrupted",
}
_NEW_JOB = "start a new restore job"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z")
_FILE_ENDINGS = (".tar.gz", ".tgz", ".tar")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}\Z")
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\t\x20-\x7e]{0,8000}[\x21-\x7e])?\Z")
_OWN_HEADERS = frozenset(
    {"accept", "accept-encoding", "authorization", "connection", "content-encoding", "content-length", "cookie"}
    | {"expect", "host", "if-range", "keep-alive", "proxy-authorization", "proxy-connection", "range", "te"}
    | {"trailer", "transfer-encoding", "upgrade", "user-agent"}
)
_LONGEST_RETRY_AFTER_SECONDS = 86400.0


# --- the job ---------------------------------------------------------------------------------------------


def is_ready(job: RestoreJob) -> bool:
    """Whether the job is over and its archive can be fetched; unknown statuses mean "not yet".

    Raises:
        JobFailedError: The job is BROKEN or KILLED; Cloud Backup says failed or cancelled.
        DeliveryUnusableError: The delivery is not by HTTP, FAILED or was INTERRUPTED.
        DeliveryExpiredError: The delivery says it is EXPIRED.
        DownloadsSpentError: The delivery says that all its downloads are used.
    """
    if job.status_name in _FAILED_JOB:
        raise JobFailedError(
            f"restore job {job.id} is {job.status_name}: there will be no archive",
            job_id=job.id or "",
            status_name=job.status_name,
            next_step=_NEW_JOB,
        )
    delivery = job.delivery
    if delivery is None:
        return False
    check_method(delivery)
    if job.status_name != _FINISHED_JOB:
        return False
    check_delivery_status(delivery)
    return delivery.status_name in (_READY_DELIVERY, None) and (delivery.url or delivery.url_v2) is not None


def check_method(delivery: Delivery) -> None:
    """Refuse a delivery that is not made for downloading.

    Raises:
        DeliveryUnusableError: `methodName` is something other than HTTP.
    """
    if delivery.method_name not in ("HTTP", None):
        raise DeliveryUnusableError(
            f"the delivery is by {delivery.method_name}, not HTTP: there is nothing to download",
            status_name=delivery.status_name,
            next_step="start a new restore job with the delivery method HTTP",
        )


def check_delivery_status(delivery: Delivery) -> None:
    """Refuse a delivery whose `statusName` says that it is over.

    Raises:
        DeliveryUnusableError: It FAILED or was INTERRUPTED.
        DeliveryExpiredError: It is EXPIRED.
        DownloadsSpentError: It has MAX_DOWNLOADS_EXCEEDED.
    """
    status = delivery.status_name
    if status == "EXPIRED":
        raise DeliveryExpiredError("the delivery has EXPIRED", status_name=status, next_step=_NEW_JOB)
    if status == "MAX_DOWNLOADS_EXCEEDED":
        raise DownloadsSpentError(
            f"every download of the delivery is used (MAX_DOWNLOADS_EXCEEDED, {_allowed(delivery)} allowed)",
            status_name=status,
            next_step=_NEW_JOB,
        )
    if status in _UNUSABLE_DELIVERY:
        raise DeliveryUnusableError(
            f"{_UNUSABLE_DELIVERY[status]} (delivery {status})", status_name=status, next_step=_NEW_JOB
        )


def show_status(job: RestoreJob) -> str:
    """The two statuses of a job for people: `FINISHED/READY`."""
    delivery = job.delivery.status_name if job.delivery else None
    return f"{job.status_name or '?'}/{delivery or '?'}"


@dataclass(frozen=True)
class JobIdentity:
    """What must not change between two looks at one job."""

    job_id: str
    group_id: str | None = None
    cluster_id: str | None = None
    snapshot_id: str | None = None
    batch_id: str | None = None

    @classmethod
    def of(cls, job: RestoreJob) -> JobIdentity:
        """The identity in a job document."""
        return cls(job.id or "", job.group_id, job.cluster_id or job.host_id, job.snapshot_id, job.batch_id)

    def contradiction(self, later: JobIdentity) -> str | None:
        """The first element in which a later look says something else, in the API's words; None when there is none.

        An element that one of the two looks did not have is no contradiction.
        """
        names = {
            "job_id": "id",
            "group_id": "groupId",
            "cluster_id": "clusterId",
            "snapshot_id": "snapshotId",
            "batch_id": "batchId",
        }
        for field, element in names.items():
            before, after = getattr(self, field), getattr(later, field)
            if before and after and before.lower() != after.lower():
                return element
        return None

    def with_more(self, later: JobIdentity) -> JobIdentity:
        """This identity, with what only a later look had."""
        return JobIdentity(
            self.job_id,
            self.group_id or later.group_id,
            self.cluster_id or later.cluster_id,
            self.snapshot_id or later.snapshot_id,
            self.batch_id or later.batch_id,
        )


def check_identity(asked_id: str, group_id: str, job: RestoreJob) -> None:
    """Refuse a document of another job or project than the one asked for.

    Raises:
        ServiceUnavailableError: It is another's, or does not say whose it is.
    """
    if job.id is None or job.id.lower() != asked_id.lower():
        raise ServiceUnavailableError(
            "the service answered with a document that is not of the restore job asked for"
        )
    if job.group_id is not None and job.group_id.lower() != group_id.lower():
        raise ServiceUnavailableError("the service answered with a restore job of another project")


# --- the delivery ----------------------------------------------------------------------------------------


def check_expiry(delivery: Delivery, now: datetime) -> None:
    """Refuse a delivery past its expiry.

    Args:
        delivery: The delivery.
        now: The time by the service's clock.

    Raises:
        DeliveryExpiredError: `expires` is not in the future.
    """
    if delivery.expires is not None and delivery.expires <= now:
        raise DeliveryExpiredError(
            f"the delivery expired at {delivery.expires:%Y-%m-%d %H:%M:%S} UTC",
            status_name=delivery.status_name,
            next_step=_NEW_JOB,
        )


def downloads_left(delivery: Delivery, used: int) -> int | None:
    """How many more downloads the delivery allows, given those used from here; None means without limit."""
    if delivery.max_downloads is None or delivery.max_downloads >= UNLIMITED_DOWNLOADS:
        return None
    return max(0, delivery.max_downloads - used)


def check_budget(delivery: Delivery, used: int) -> None:
    """Refuse to start a download that the delivery does not allow.

    Args:
        delivery: The delivery.
        used: How many requests for the archive were sent from here, whatever became of them. Whether the service
            counts one that broke off is not documented, so each is counted.

    Raises:
        DownloadsSpentError: None is left.
    """
    if downloads_left(delivery, used) == 0:
        raise DownloadsSpentError(
            f"no download is left: {_allowed(delivery)} allowed, {used} started from here",
            status_name=delivery.status_name,
            next_step=f"{_NEW_JOB}, or use --force if you know that one is left",
        )


def _allowed(delivery: Delivery) -> str:
    return "?" if delivery.max_downloads is None else str(delivery.max_downloads)


def archive_name(url: str, job_id: str) -> str:
    """The name the archive gets here: the last segment of its URL when that is harmless, else one made from the id.

    A name from the service never leaves the folder, hides, or looks like an option.
    """
    try:
        name = unquote(urlsplit(url).path.rsplit("/", 1)[-1], errors="strict")
    except ValueError:
        name = ""
    if _FILE_NAME.match(name) and name.endswith(_FILE_ENDINGS):
        return name
    return _made_up_name(job_id)


def delivered_name(file_name: str, job_id: str) -> str | None:
    """The service's name for a file that is called `file_name` here; None when that name was made up here."""
    return None if file_name == _made_up_name(job_id) else file_name


def _made_up_name(job_id: str) -> str:
    return f"restore-{job_id.lower()}.tar.gz"


def host_of(url: str) -> str | None:
    """The host in a URL, without anything secret around it."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def check_auth_header(name: str, value: str) -> None:
    """Refuse a header chosen by the service that would change the request itself (RFC 9110, section 5).

    Args:
        name: `delivery.authHeader`.
        value: `delivery.authValue`.

    Raises:
        DeliveryUnusableError: It is no header, or one that only this tool may set.
    """
    if not _HEADER_NAME.match(name) or name.lower() in _OWN_HEADERS or not _HEADER_VALUE.match(value):
        raise DeliveryUnusableError(
            "the delivery asks for a request header that cannot be sent (delivery.authHeader)", next_step=_NEW_JOB
        )


def clock_skew(service_now: datetime, local_now: datetime) -> timedelta | None:
    """How far the local clock is ahead of the service's, when that is worth telling."""
    skew = local_now - service_now
    return skew if abs(skew) > TELL_SKEW_OVER else None


def is_private_host(host: str) -> bool:
    """Whether a host is, by its address, this machine or on a private network, where plain HTTP may do.

    A link-local address is neither: behind such ones live the metadata services of clouds, which hand out keys.
    """
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]").split("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return (address.is_loopback or address.is_private) and not address.is_link_local


# --- the published hash ----------------------------------------------------------------------------------


class Finding(Enum):
    """What the published hashes say about the bytes here."""

    MATCH = "match"
    MISMATCH = "mismatch"
    NOT_PUBLISHED = "not published"


@dataclass(frozen=True)
class Judgement:
    """A finding, with the published hash it rests on.

    Attributes:
        finding: What was found.
        published: The entry of `hashes` that decided, when one did.
    """

    finding: Finding
    published: FileHash | None = None


def judge(hashes: Collection[FileHash], actual: Digest, file_name: str | None) -> Judgement:
    """Compare the published hashes with the SHA1 of the bytes that were received.

    Ours is the SHA1 entry of our file's name; failing that, the only SHA1 entry when it names no file, or when the
    service's name for the file is not known. An entry that names another file, is of another algorithm, or is no
    hash at all says nothing about our bytes, unless it is the very SHA1 of them and the only one.

    Args:
        hashes: `hashes` of the job, looked at after the download.
        actual: The SHA1 of the bytes.
        file_name: The name of the delivered file; None when it is not known.

    Returns:
        The judgement. A mismatch may be with the hash of an earlier download; whether it is settled, time tells.
    """
    entries = [(entry, digest) for entry in hashes if (digest := _sha1_of(entry)) is not None]
    ours = [pair for pair in entries if file_name is not None and pair[0].file_name == file_name]
    if not ours and len(entries) == 1:
        [(only, digest)] = entries
        if None in (only.file_name, file_name) or digest == actual:
            ours = entries
    if not ours or len({digest for _, digest in ours}) > 1:
        return Judgement(Finding.NOT_PUBLISHED)
    entry, digest = ours[0]
    return Judgement(Finding.MATCH if digest == actual else Finding.MISMATCH, entry)


def is_settled(judgement: Judgement, *, only_ours: bool, repeated: bool) -> bool:
    """Whether asking again could not change a judgement.

    Args:
        judgement: The judgement.
        only_ours: Whether the published hash can only be of our own download: none was there before, and no other
            download was ever started from here.
        repeated: Whether two looks in a row gave it.
    """
    if judgement.finding is Finding.MISMATCH:
        return only_ours and repeated
    return judgement.finding is Finding.MATCH


def _sha1_of(entry: FileHash) -> Digest | None:
    if entry.hash is None:
        return None
    try:
        digest = Digest.parse(entry.type_name or SHA1, entry.hash)
    except ValueError:
        return None
    return digest if digest.algorithm == SHA1 else None


# --- trying again ----------------------------------------------------------------------------------------


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """The wait that a `Retry-After` header asks for (RFC 9110, section 10.2.3): seconds or a date.

    Args:
        value: The header, or None.
        now: The time by the service's clock.

    Returns:
        Seconds, at most a day; None when the header is missing or makes no sense.
    """
    if value is None:
        return None
    text = value.strip()
    if re.fullmatch(r"[0-9]{1,12}", text):
        return min(float(text), _LONGEST_RETRY_AFTER_SECONDS)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = (moment - now).total_seconds()
    return min(seconds, _LONGEST_RETRY_AFTER_SECONDS) if seconds > 0 else None
