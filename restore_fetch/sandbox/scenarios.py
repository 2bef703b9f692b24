"""What a simulated restore job can do to a client: one frozen `Scenario` a job, and a catalogue of named ones.

The fields are orthogonal: a test composes its own with `dataclasses.replace(SCENARIOS["normal"], ...)`.
The values are the words of the documented endpoint "Get One Legacy Backup Restore Job" and of the schemas
`BackupRestoreJob` and `BackupRestoreJobDelivery`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

NO_LIMIT = 2147483647
"""The `maxDownloads` of the documented example, which means that there is no limit."""

Framing = Literal["length", "chunked", "close"]
Ranges = Literal["honour", "ignore", "none"]
CutStyle = Literal["fin", "rst", "stall"]
HashKind = Literal["right", "wrong", "none", "stale"]
KeyPlace = Literal["path", "header", "both"]
ApiFailure = Literal["rate-limited", "unavailable", "forbidden", "nonsense", "dropped"]


@dataclass(frozen=True)
class Scenario:
    """How one restore job behaves, from its first look to the last byte of its delivery.

    A *look* is one answer of the API that shows the job; an *attempt* is one GET that the delivery serves.
    Where a number of looks or attempts may be `None`, it means "always".

    Attributes:
        name: What `--scenario` calls it.
        summary: One plain sentence for users.
        polls_until_finished: Looks that still see the job waiting; `None` for ever.
        waiting_status: `statusName` while it waits.
        final_status: `statusName` afterwards.
        method_name: `delivery.methodName`.
        delivery_status: `delivery.statusName` of the finished job.
        delivery_polls: Looks at the finished job that still see its delivery `PENDING`.
        expires_after_seconds: Life of the download URL from when the job is over; below zero for one that
            is dead from the start; `None` for the `expirationHours` of the job.
        expiry_shown: Whether an expired delivery also says `EXPIRED`; otherwise only its date tells.
        max_downloads: `delivery.maxDownloads`.
        broken_downloads_count: Whether a download that broke off uses one of them up.
        encrypted: Whether the snapshot needs a KMIP master key.
        key_place: Where the verification key is: in the path of `url`, in the header for `urlV2`, or both
            offered.
        hash_kind: Which hash is published after a whole download; `stale` shows one of an earlier download
            until the right one is there.
        hash_delay_looks: Looks after the download that do not show the new hash yet.
        api_failure: How the API fails.
        api_failures: How many requests for the job fail so.
        retry_after_seconds: `Retry-After` of a rate-limited answer; `None` leaves it out.
        framing: How the delivery marks the end of its body (RFC 9112, section 6.3).
        ranges: Whether the delivery honours `Range`, only claims to, or does not mention it.
        etag: Whether the delivery sends a strong `ETag`, and `Last-Modified`.
        changes: Whether attempts after the first deliver another archive, with another `ETag`.
        chunk_bytes: Size of a chunk, in bytes.
        bytes_per_second: Pace of the delivery; `None` for as fast as possible.
        cut_at: Where an answer breaks off, as a fraction of its body; `None` for nowhere.
        cut_attempts: How many first attempts break off.
        cut_style: With an orderly close, a reset, or silence on a connection that stays open.
        refusal_status: HTTP status of a refused attempt; `None` refuses none.
        refusal_attempts: How many first attempts are refused.
        html_page: Whether the delivery answers 200 with a page of HTML, as a proxy does.
        content_encoding: A `Content-Encoding` that the delivery wrongly puts on the archive.
        redirect: Whether the delivery first redirects: to a path of its own origin, or to another origin.
        damaged: Whether the archive itself is damaged, so that its hash is right and its contents are not.
    """

    name: str
    summary: str
    polls_until_finished: int | None = 2
    waiting_status: str = "IN_PROGRESS"
    final_status: str = "FINISHED"
    method_name: str = "HTTP"
    delivery_status: str = "READY"
    delivery_polls: int = 0
    expires_after_seconds: float | None = None
    expiry_shown: bool = True
    max_downloads: int = NO_LIMIT
    broken_downloads_count: bool = True
    encrypted: bool = False
    key_place: KeyPlace = "path"
    hash_kind: HashKind = "right"
    hash_delay_looks: int = 0
    api_failure: ApiFailure = "rate-limited"
    api_failures: int | None = 0
    retry_after_seconds: int | None = 1
    framing: Framing = "length"
    ranges: Ranges = "honour"
    etag: bool = True
    changes: bool = False
    chunk_bytes: int = 16 * 1024
    bytes_per_second: int | None = None
    cut_at: float | None = None
    cut_attempts: int | None = 1
    cut_style: CutStyle = "fin"
    refusal_status: int | None = None
    refusal_attempts: int | None = None
    html_page: bool = False
    content_encoding: str | None = None
    redirect: Literal["same-origin", "other-origin"] | None = None
    damaged: bool = False

    def cuts(self, attempt: int) -> bool:
        """Whether this attempt, counted from 1, breaks off."""
        return self.cut_at is not None and (self.cut_attempts is None or attempt <= self.cut_attempts)

    def refuses(self, attempt: int) -> bool:
        """Whether this attempt, counted from 1, is refused."""
        return self.refusal_status is not None and (
            self.refusal_attempts is None or attempt <= self.refusal_attempts
        )


def _streamed(name: str, summary: str, **behaviour: object) -> Scenario:
    """A delivery that is made while it is sent, as Ops Manager does: no length, no ranges, no ETag."""
    plain: dict[str, object] = {"framing": "chunked", "ranges": "none", "etag": False}
    return Scenario(name, summary, **(plain | behaviour))  # type: ignore[arg-type]


_JOBS = (
    Scenario("normal", "The job finishes after two looks and the download simply works."),
    Scenario("encrypted", "The snapshot is encrypted with a KMIP master key.", encrypted=True),
    Scenario("broken-job", "The job ends as BROKEN.", polls_until_finished=1, final_status="BROKEN"),
    Scenario("killed-job", "The job ends as KILLED.", polls_until_finished=1, final_status="KILLED"),
    Scenario("never-ready", "The job stays IN_PROGRESS for ever.", polls_until_finished=None),
    Scenario(
        "unknown-status",
        "The job shows a status nobody has heard of for two looks, then it finishes.",
        waiting_status="BEING_PACKED",
    ),
)

_API = (
    Scenario("rate-limited", "The API answers the first two requests with 429 and Retry-After.", api_failures=2),
    Scenario(
        "unavailable",
        "A gateway answers the first two requests with 503 and a page of HTML.",
        api_failure="unavailable",
        api_failures=2,
    ),
    Scenario(
        "forbidden",
        "The API refuses the key's IP address with 403.",
        api_failure="forbidden",
        api_failures=None,
    ),
    Scenario(
        "nonsense",
        "The API answers the first request with half a JSON document.",
        api_failure="nonsense",
        api_failures=1,
    ),
    Scenario(
        "dropped",
        "The API closes the connection on the first request without an answer.",
        api_failure="dropped",
        api_failures=1,
    ),
)

_DELIVERY_STATES = (
    Scenario("late-delivery", "The job is FINISHED two looks before its delivery is READY.", delivery_polls=2),
    Scenario("not-http", "The job is delivered by SCP, so there is nothing to download.", method_name="SCP"),
    Scenario(
        "expired",
        "The delivery is EXPIRED.",
        polls_until_finished=0,
        expires_after_seconds=-3600,
    ),
    Scenario(
        "expired-clock",
        "The delivery says READY although its expiry date is past.",
        polls_until_finished=0,
        expires_after_seconds=-3600,
        expiry_shown=False,
    ),
    Scenario(
        "max-downloads",
        "All the downloads allowed were used before.",
        polls_until_finished=0,
        delivery_status="MAX_DOWNLOADS_EXCEEDED",
        max_downloads=1,
    ),
    Scenario("one-download", "The archive may be downloaded once.", max_downloads=1),
    Scenario("delivery-failed", "The delivery FAILED.", delivery_status="FAILED"),
    Scenario("interrupted", "The delivery was INTERRUPTED.", delivery_status="INTERRUPTED"),
)

_HASHES = (
    Scenario("wrong-hash", "The published hash is not that of the archive.", hash_kind="wrong"),
    Scenario("late-hash", "The hash is published three looks after the download.", hash_delay_looks=3),
    Scenario("no-hash", "No hash is ever published.", hash_kind="none"),
    Scenario(
        "stale-hash",
        "The hash of an earlier download is shown until two looks after this one.",
        hash_kind="stale",
        hash_delay_looks=2,
    ),
    Scenario("damaged", "The hash is right but the archive is damaged.", damaged=True),
)

_DELIVERIES = (
    _streamed("chunked", "The archive is streamed in chunks, without a length, as Ops Manager does."),
    _streamed("close", "The archive ends with the connection: no length and no chunks.", framing="close"),
    Scenario("url-v2", "The download needs urlV2 and the header that goes with it.", key_place="header"),
    Scenario("both-urls", "The job offers both url and urlV2.", key_place="both"),
    Scenario("no-etag", "The delivery honours ranges but names no version of the archive.", etag=False),
    Scenario("no-ranges", "The delivery sends a length but knows no ranges.", ranges="none"),
    Scenario("redirect", "The delivery redirects to another path.", redirect="same-origin"),
    Scenario(
        "redirect-away",
        "The download needs urlV2, which redirects to another origin.",
        key_place="header",
        redirect="other-origin",
    ),
    Scenario("slow", "The archive arrives at 256 KiB a second.", bytes_per_second=256 * 1024),
    Scenario("html-page", "A proxy answers the download with 200 and a page of HTML.", html_page=True),
    Scenario("gone", "The download URL answers 410 although the delivery is READY.", refusal_status=410),
    Scenario("not-found", "The download URL answers 404 although the delivery is READY.", refusal_status=404),
    Scenario(
        "delivery-unavailable",
        "The download URL answers 503 once.",
        refusal_status=503,
        refusal_attempts=1,
    ),
    Scenario("content-encoding", "The archive is labelled Content-Encoding: gzip.", content_encoding="gzip"),
)

_BROKEN_DOWNLOADS = (
    Scenario("cut-download", "The first download breaks off in the middle.", cut_at=0.5),
    Scenario("cut-no-ranges", "The first download breaks off and cannot be resumed.", cut_at=0.5, ranges="none"),
    _streamed("cut-chunked", "The first download breaks off inside a chunk.", cut_at=0.5),
    _streamed("cut-close", "The first download ends early and nothing shows it.", framing="close", cut_at=0.5),
    Scenario("cut-always", "Every download breaks off in the middle.", cut_at=0.5, cut_attempts=None),
    Scenario("reset-download", "The first download is reset in the middle.", cut_at=0.5, cut_style="rst"),
    Scenario("stall", "The first download falls silent in the middle.", cut_at=0.5, cut_style="stall"),
    Scenario(
        "stall-always",
        "Every download falls silent in the middle.",
        cut_at=0.5,
        cut_style="stall",
        cut_attempts=None,
    ),
    Scenario(
        "changed-file", "The first download breaks off and then the archive is another.", cut_at=0.5, changes=True
    ),
    Scenario(
        "ignores-range",
        "The first download breaks off and the next one starts over, whatever was asked for.",
        cut_at=0.5,
        ranges="ignore",
    ),
)

SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        scenario.name: scenario
        for scenario in (*_JOBS, *_API, *_DELIVERY_STATES, *_HASHES, *_DELIVERIES, *_BROKEN_DOWNLOADS)
    }
)
"""Every scenario by its name; `normal` is the first."""
