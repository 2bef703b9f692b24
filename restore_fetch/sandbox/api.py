"""The API server: restore jobs and snapshots of Legacy Backup, under its three prefixes.

| prefix | clusters are named by | service |
|---|---|---|
| `/api/atlas/v1.0` | name | Atlas, the endpoint "Get One Legacy Backup Restore Job" |
| `/api/public/v1.0` | identifier | Cloud Manager and Ops Manager |
| `/api/atlas/v2` | name, and needs a versioned `Accept` | Atlas Administration API |
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from restore_fetch.sandbox.digest import DigestGate, Verdict
from restore_fetch.sandbox.documents import (
    Document,
    cluster_url,
    enveloped,
    error_document,
    job_document,
    list_document,
    snapshot_document,
)
from restore_fetch.sandbox.model import Cluster, Job, Snapshot
from restore_fetch.sandbox.scenarios import NO_LIMIT
from restore_fetch.sandbox.service import Service
from restore_fetch.sandbox.wire import Headers, Journal, WireHandler, WireServer

_T = TypeVar("_T", Job, Snapshot)

_RESOURCE = re.compile(
    r"(?P<prefix>/api/atlas/v1\.0|/api/public/v1\.0|/api/atlas/v2)"
    r"/groups/(?P<group>[^/]+)/clusters/(?P<cluster>[^/]+)/(?P<kind>restoreJobs|snapshots)(?:/(?P<id>[^/]+))?/?"
)
_V2 = "/api/atlas/v2"
_V2_TYPE = "application/vnd.atlas.2023-01-01+json"
_V2_ACCEPTED = re.compile(r"application/vnd\.atlas\.(\d{4}-\d{2}-\d{2})\+json")
_HEX24 = re.compile(r"[0-9a-f]{24}")
# No more digits than any limit has: `int` itself gives up on thousands of them.
_NUMBER = re.compile(r"[0-9]{1,10}")
_MOST_BODY_BYTES = 1 << 20
_MOST_ITEMS = 500
_MOST_ORDERED = {"maxDownloads": NO_LIMIT, "expirationHours": 365 * 24}
_GATEWAY_PAGE = b"<html><head><title>503</title></head><body><h1>Service Unavailable</h1></body></html>\n"


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


class _Answered(Exception):  # noqa: N818 - it is no error: the answer is out already
    """The scenario answered in its own way."""


class ApiServer(WireServer):
    """Serves the API to whoever holds the key."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        service: Service,
        journal: Journal,
        tls: ssl.SSLContext | None,
        gate: DigestGate,
    ) -> None:
        """Bind and listen.

        Args:
            address: Host and port; port 0 takes a free one.
            service: What it answers from.
            journal: The request log.
            tls: Certificate and key, when it shall speak TLS.
            gate: Checks the signature of every request.

        Raises:
            OSError: The address cannot be used.
        """
        self.gate = gate
        super().__init__(address, ApiHandler, name="api", service=service, journal=journal, tls=tls)


class ApiHandler(WireHandler):
    """Answers one request after another on a connection."""

    server: ApiServer

    def answer(self) -> None:
        """Body, signature, resource, answer: in this order for every method.

        An envelope carries the status inside the body and leaves the HTTP status as it is, errors too.
        """
        self._flags: Mapping[str, str] = dict(parse_qsl(urlsplit(self.path).query))
        try:
            body = self._read_body()
            self._authenticate()
            document, job_id = self._resource(body)
        except ApiError as error:
            self._send(error.status, error.document, error.headers, job_id=error.job_id)
        except _Answered:
            return
        else:
            self._send(200, document, job_id=job_id)

    def _read_body(self) -> bytes:
        """Always read it: what is left over would be taken for the next request on the connection."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not _NUMBER.fullmatch(length) or int(length) > _MOST_BODY_BYTES:
            self.close_connection = True
            raise ApiError(411, "LENGTH_REQUIRED", "A request body needs a Content-Length of at most 1 MiB.")
        return self.rfile.read(int(length))

    def _authenticate(self) -> None:
        verdict = self.server.gate.admit(self.command, self.path, self.headers.get("Authorization"))
        if verdict is not Verdict.ADMITTED:
            challenges = self.server.gate.challenges(stale=verdict is Verdict.STALE)
            raise ApiError(
                401,
                "USER_UNAUTHORIZED",
                "You are not authorized for this resource.",
                headers=[("WWW-Authenticate", challenge) for challenge in challenges],
            )

    def _resource(self, body: bytes) -> tuple[Document, str | None]:
        match = _RESOURCE.fullmatch(unquote(urlsplit(self.path).path))
        if match is None:
            raise ApiError(404, "RESOURCE_NOT_FOUND", f"Cannot find resource {urlsplit(self.path).path}.")
        self._check_version(match["prefix"])
        cluster = self._cluster(match)
        root = self.server.origin + match["prefix"]
        self._url = cluster_url(root, self.server.service, cluster, by_id="public" in match["prefix"])
        allowed = ("GET", "POST") if match["kind"] == "restoreJobs" and match["id"] is None else ("GET",)
        if self.command not in allowed:
            raise ApiError(
                405,
                "METHOD_NOT_ALLOWED",
                f"The method {self.command} is not allowed here.",
                headers=[("Allow", ", ".join(allowed))],
            )
        if self.command == "POST":
            return self._create(cluster, body), None
        if match["kind"] == "snapshots":
            return self._snapshots(cluster, match["id"]), None
        return (self._list_jobs(cluster), None) if match["id"] is None else self._job(cluster, match["id"])

    def _check_version(self, prefix: str) -> None:
        self._content_type = "application/json"
        if prefix != _V2:
            return
        accepted = _V2_ACCEPTED.findall(self.headers.get("Accept", ""))
        if not any(date >= "2023-01-01" for date in accepted):
            raise ApiError(406, "NOT_ACCEPTABLE", f"This resource needs the header Accept: {_V2_TYPE}.")
        self._content_type = f"{_V2_TYPE};charset=utf-8"

    def _cluster(self, match: re.Match[str]) -> Cluster:
        service = self.server.service
        if match["group"] != service.project_id:
            raise ApiError(404, "GROUP_NOT_FOUND", f"No group with ID {match['group']} exists.", [match["group"]])
        for cluster in service.clusters:
            if match["cluster"] == (cluster.id if "public" in match["prefix"] else cluster.name):
                return cluster
        raise ApiError(
            404,
            "CLUSTER_NOT_FOUND",
            f"No cluster named {match['cluster']} exists in group {match['group']}.",
            [match["cluster"], match["group"]],
        )

    def _job(self, cluster: Cluster, job_id: str) -> tuple[Document, str]:
        self._check_id("jobId", job_id)
        job = self.server.service.jobs.get(job_id)
        if job is None or job.snapshot.cluster is not cluster:
            raise ApiError(404, "RESTORE_JOB_NOT_FOUND", f"No restore job with ID {job_id} exists.", [job_id])
        return self._look(job), job_id

    def _list_jobs(self, cluster: Cluster) -> Document:
        batch_id = self._flags.get("batchId")
        if batch_id is not None:
            self._check_id("batchId", batch_id)
        jobs = self.server.service.jobs_of(cluster, batch_id)
        query = {} if batch_id is None else {"batchId": batch_id}
        # A plain list is nobody's poll of a failing job, so only a batch's own jobs can make it fail.
        return self._page(jobs, "restoreJobs", query, lambda job: self._look(job, fails=batch_id is not None))

    def _create(self, cluster: Cluster, body: bytes) -> Document:
        snapshot_id, delivery = _read_order(body)
        snapshot = self._snapshot(cluster, snapshot_id)
        if not snapshot.complete:
            raise ApiError(400, "SNAPSHOT_NOT_COMPLETE", f"Snapshot {snapshot_id} is not complete.", [snapshot_id])
        jobs = self.server.service.create_jobs(
            snapshot, delivery.get("maxDownloads"), delivery.get("expirationHours")
        )
        results = [job_document(self.server.service, job, self._url) for job in jobs]
        url = f"{self._url}/restoreJobs"
        return list_document(results, url=url, query={}, page=1, per_page=100, total=len(results))

    def _snapshots(self, cluster: Cluster, snapshot_id: str | None) -> Document:
        service = self.server.service
        if snapshot_id is not None:
            return snapshot_document(service, self._snapshot(cluster, snapshot_id), self._url)
        completed = self._flags.get("completed", "true")
        wanted = {"true": (True,), "false": (False,), "all": (True, False)}.get(completed)
        if wanted is None:
            _refuse_attribute("completed", "must be true, false or all")
        found = [snapshot for snapshot in service.snapshots_of(cluster) if snapshot.complete in wanted]
        query = {"completed": completed} if "completed" in self._flags else {}
        return self._page(found, "snapshots", query, lambda one: snapshot_document(service, one, self._url))

    def _snapshot(self, cluster: Cluster, snapshot_id: str) -> Snapshot:
        self._check_id("snapshotId", snapshot_id)
        snapshot = self.server.service.snapshots.get(snapshot_id)
        if snapshot is None or snapshot.cluster is not cluster:
            raise ApiError(404, "SNAPSHOT_NOT_FOUND", f"No snapshot with ID {snapshot_id} exists.", [snapshot_id])
        return snapshot

    def _page(
        self, found: Sequence[_T], name: str, query: Mapping[str, str], show: Callable[[_T], Document]
    ) -> Document:
        """One page of a list; only what is on the page is shown, and so looked at."""
        page = self._number("pageNum", 1)
        per_page = self._number("itemsPerPage", 100)
        if per_page > _MOST_ITEMS:
            _refuse_attribute("itemsPerPage", f"must be at most {_MOST_ITEMS}")
        counted = self._flags.get("includeCount", "true") == "true"
        query = query if counted else {**query, "includeCount": "false"}
        results = [show(one) for one in found[(page - 1) * per_page : page * per_page]]
        return list_document(
            results,
            url=f"{self._url}/{name}",
            query=query,
            page=page,
            per_page=per_page,
            total=len(found),
            counted=counted,
        )

    def _number(self, name: str, default: int) -> int:
        text = self._flags.get(name, str(default))
        if not _NUMBER.fullmatch(text) or int(text) < 1:
            _refuse_attribute(name, "must be 1 or more")
        return int(text)

    def _look(self, job: Job, *, fails: bool = True) -> Document:
        """Show a job, which moves its life on; or fail as its scenario says."""
        failure = self.server.service.fail_api(job) if fails else None
        if failure == "rate-limited":
            _refuse_rate(job)
        if failure == "forbidden":
            raise ApiError(
                403,
                "IP_ADDRESS_NOT_ON_ACCESS_LIST",
                f"IP address {self.client_address[0]} is not allowed to access this resource.",
                [self.client_address[0]],
                job_id=job.id,
            )
        if failure is None:
            with self.server.service.lock:
                job.look()
                return job_document(self.server.service, job, self._url)
        if failure == "unavailable":
            self.reply(503, "text/html", _GATEWAY_PAGE, job_id=job.id)
        elif failure == "nonsense":
            self.reply(200, self._content_type, b'{"id": "', job_id=job.id)
        else:
            self.note(0, job.id)
            self.close_connection = True
        raise _Answered

    def _check_id(self, name: str, value: str) -> None:
        if not _HEX24.fullmatch(value):
            _refuse_attribute(name, "must be 24 hexadecimal digits")

    def _send(self, status: int, document: Document, headers: Headers = (), *, job_id: str | None = None) -> None:
        content_type = self._content_type if status == HTTPStatus.OK else "application/json"
        if self._flags.get("envelope") == "true":
            document = enveloped(status, document)
        if self._flags.get("pretty") == "true":
            text = json.dumps(document, indent=2)
        else:
            text = json.dumps(document, separators=(",", ":"))
        self.reply(status, content_type, text.encode(), headers, job_id=job_id)


def _read_order(body: bytes) -> tuple[str, Document]:
    """The snapshot and the delivery that a POST asks for.

    Source: "Create One Legacy Backup Restore Job", request body.
    """
    try:
        order = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise ApiError(400, "INVALID_JSON", "Received JSON is malformed.") from exc
    if not isinstance(order, dict) or not isinstance(order.get("snapshotId"), str):
        _refuse_attribute("snapshotId", "is required")
    delivery = order.get("delivery")
    if not isinstance(delivery, dict) or delivery.get("methodName") != "HTTP":
        _refuse_attribute("delivery.methodName", "must be HTTP")
    for name, most in _MOST_ORDERED.items():
        value = delivery.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            _refuse_attribute(f"delivery.{name}", f"must be from 1 to {most}")
    return order["snapshotId"], delivery


def _refuse_attribute(name: str, rule: str) -> NoReturn:
    raise ApiError(400, "INVALID_ATTRIBUTE", f"Invalid attribute {name} specified: it {rule}.", [name])


def _refuse_rate(job: Job) -> NoReturn:
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
