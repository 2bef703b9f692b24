"""A hostile service for whole runs: an API and a delivery that say, byte for byte, what a test tells them to.

`Stage` has what `run_support.run` asks of a sandbox, so that the same helper runs the real command against it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.run_support import Outcome
from tests.wire_support import Peer, Script, WireServer, says, server_tls, with_length

ARCHIVE = random.Random(4).randbytes(40_000)
SHA1 = hashlib.sha1(ARCHIVE).hexdigest()
OTHER_SHA1 = hashlib.sha1(b"another archive").hexdigest()
NAME = "Cluster0-shard-0-1516661094-5a66684f38b8a3f1a1f3fe05.tar.gz"
JOB = "5a66684f38b8a3f1a1f3fe05"
PROJECT = "4b3c2d1e0f9a8b7c6d5e4f30"
OTHER_ID = "0123456789abcdef01234567"
URL_KEY = "dXJsLWtleS1jYW5hcnktMTIz"
AUTH_VALUE = "auth-value-canary-456"
PRIVATE_KEY = "private-key-canary-789"
ETAG = '"strong-1"'
LASTING = {"ETag": ETAG, "Accept-Ranges": "bytes"}
"""Headers of a delivery that can be resumed."""

WHOLE = says(with_length(ARCHIVE, headers=LASTING))
"""A delivery that simply works."""

CUT_AT = 25_000
CUT = says(with_length(ARCHIVE, headers=LASTING)[: -(len(ARCHIVE) - CUT_AT)], then="cut")
"""A delivery that breaks off after `CUT_AT` bytes, and can be resumed."""

Look = Callable[["Stage"], bytes]
"""One answer of the API, as it goes over the wire."""


class Stage:
    """One restore job, an API that shows it, and a delivery that hands it out.

    Args:
        deliveries: What the delivery does, a script a connection, the last one again and again.
        looks: What the API answers, one a request, the last one again and again.
        hashes: The elements of `hashes` once the delivery was asked for.
        early_hashes: Those before that.
        path: The path of `delivery.url`, or of `delivery.urlV2`.
        header: Whether the delivery has a `urlV2` that wants a header, in place of a `url` with a key.
        tls: Whether the delivery speaks TLS; its authority is `authority()` of `wire_support`.
        api_tls: Whether the API does.
        delivery: Changes to `delivery` in every document.
        changes: Changes to every document.

    Attributes:
        hashes: See above; may be changed between runs.
        asked_at: When the API got each request, in monotonic seconds.
    """

    cluster = "Cluster0"
    project_id = PROJECT
    job_id = JOB
    public_key = "public"
    private_key = PRIVATE_KEY
    ca_file: Path | None = None

    def __init__(
        self,
        *deliveries: Script,
        looks: tuple[Look, ...] = (),
        hashes: Any = ({"fileName": NAME, "hash": SHA1, "typeName": "SHA1"},),
        early_hashes: Any = (),
        path: str | None = None,
        header: bool = False,
        tls: bool = False,
        api_tls: bool = False,
        delivery: Mapping[str, Any] | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        self._looks = looks or (shows(),)
        self.hashes = hashes
        self._early_hashes = early_hashes
        self._header = header
        self._path = path or f"/backup/restore/v2/pull/{JOB}/{'' if header else URL_KEY + '/'}{NAME}"
        self._delivery_changes = dict(delivery or {})
        self._changes = dict(changes or {})
        self._numbers = itertools.count()
        self.asked_at: list[float] = []
        self.errors: list[BaseException] = []
        self.api = WireServer(self._answer, tls=server_tls() if api_tls else None)
        self.delivery = WireServer(*(deliveries or (WHOLE,)), tls=server_tls() if tls else None)

    def __enter__(self) -> Self:
        self.api.__enter__()
        self.delivery.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.delivery.__exit__(kind, error, trace)
        self.api.__exit__(kind, error, trace)

    @property
    def base_url(self) -> str:
        return self.api.url("")

    @property
    def url(self) -> str:
        """The delivery's URL, with its key."""
        return self.delivery.url(self._path)

    @property
    def gets(self) -> int:
        """How many requests the delivery read."""
        return len(self.delivery.heads)

    @property
    def polls(self) -> int:
        """How many requests the API read."""
        return len(self.asked_at)

    def secrets(self) -> list[str]:
        return [PRIVATE_KEY, URL_KEY, AUTH_VALUE]

    def document(self, **changes: Any) -> dict[str, Any]:
        """The job as it is now; `delivery` among the changes is merged, None takes an element away."""
        delivery: dict[str, Any] = {
            "methodName": "HTTP",
            "statusName": "READY",
            **self._address(),
            "expirationHours": 24,
            "expires": iso(timedelta(hours=24)),
            "maxDownloads": 2147483647,
            **self._delivery_changes,
            **changes.pop("delivery", {}),
        }
        hashes = self.hashes if self.gets else self._early_hashes
        document = {
            "id": JOB,
            "groupId": PROJECT,
            "clusterId": "5a66684f38b8a3f1a1f3fe06",
            "clusterName": "Cluster0",
            "snapshotId": "5a66684f38b8a3f1a1f3fe07",
            "created": "2026-01-31T12:00:00Z",
            "statusName": "FINISHED",
            "pointInTime": False,
            "timestamp": {"date": "2026-01-31T11:59:00Z", "increment": 1},
            "delivery": delivery,
            "hashes": list(hashes) if isinstance(hashes, tuple) else hashes,
            **self._changes,
            **changes,
        }
        return {name: value for name, value in document.items() if value is not None}

    def _address(self) -> dict[str, str]:
        if self._header:
            return {"urlV2": self.url, "authHeader": "X-Restore-Key", "authValue": AUTH_VALUE}
        return {"url": self.url}

    def _answer(self, peer: Peer) -> None:
        if not peer.head():
            return
        self.asked_at.append(time.monotonic())
        look = self._looks[min(next(self._numbers), len(self._looks) - 1)]
        peer.send(look(self))
        peer.end()


def iso(from_now: timedelta) -> str:
    """A moment, as the service writes it."""
    return (datetime.now(UTC) + from_now).strftime("%Y-%m-%dT%H:%M:%SZ")


def shows(*, date: timedelta | None = timedelta(0), **changes: Any) -> Look:
    """A look that shows the job with some elements changed; `date` is how far the service's clock is ahead."""

    def look(stage: Stage) -> bytes:
        stamp = {} if date is None else {"Date": format_datetime(datetime.now(UTC) + date, usegmt=True)}
        # A copy, because what is merged is taken out of it.
        return answers(json.dumps(stage.document(**dict(changes))).encode(), headers=stamp)(stage)

    return look


def answers(body: bytes, status: str = "200 OK", headers: Mapping[str, str] | None = None) -> Look:
    """A look that gets exactly this."""
    fields = {"Content-Type": "application/json", "Connection": "close", **(headers or {})}
    return lambda _: with_length(body, status, fields)


def refuses(status: str, headers: Mapping[str, str] | None = None, **body: Any) -> Look:
    """A look that gets an error body."""
    return answers(json.dumps({"error": int(status.split()[0]), **body}).encode(), status, headers)


def nothing_published(outcome: Outcome) -> bool:
    """Whether nothing in the folder says to be, or to vouch for, an archive."""
    endings = (".tar.gz", ".tgz", ".tar", ".sha1", ".receipt.json")
    return not any(name.endswith(endings) for name in outcome.names)


def verified(outcome: Outcome, name: str = NAME) -> bool:
    """Whether the run ended with the right archive, its evidence, and nothing else."""
    return (
        outcome.code == 0
        and outcome.stdout == f"{outcome.folder / name}\n"
        and outcome.bytes_of(name) == ARCHIVE
        and outcome.json_of(f"{name}.receipt.json")["verdict"] == "verified"
        and outcome.names == {name, f"{name}.sha1", f"{name}.receipt.json"}
    )
