"""The API server: restore jobs and snapshots of Legacy Backup, under its three prefixes, and of Cloud Backup.

| prefix | clusters are named by | service |
|---|---|---|
| `/api/atlas/v1.0` | name | Atlas, the endpoint "Get One Legacy Backup Restore Job" |
| `/api/public/v1.0` | identifier | Cloud Manager and Ops Manager |
| `/api/atlas/v2` | name, and needs a versioned `Accept` | Atlas Administration API |

Under the last of them there is Cloud Backup as well, below `backup/`, and a service account will do for a key.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import NoReturn, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from restore_fetch.sandbox.cloud import cloud_job_document, cloud_snapshot_document, wrong_order
from restore_fetch.sandbox.digest import DigestGate, Verdict
from restore_fetch.sandbox.documents import (
    Document,
    cluster_url,
    enveloped,
    job_document,
    list_document,
    snapshot_document,
)
from restore_fetch.sandbox.model import CloudJob, Cluster, Job, Snapshot
from restore_fetch.sandbox.oauth import TOKEN_PATH, TokenGate
from restore_fetch.sandbox.refusals import ApiError, refuse_attribute, refuse_rate
from restore_fetch.sandbox.scenarios import NO_LIMIT
from restore_fetch.sandbox.service import Service
from restore_fetch.sandbox.wire import Headers, Journal, WireHandler, WireServer

_T = TypeVar("_T", Job, CloudJob, Snapshot)
_J = TypeVar("_J", Job, CloudJob)

_RESOURCE = re.compile(
    r"(?P<prefix>/api/atlas/v1\.0|/api/public/v1\.0|/api/atlas/v2)"
    r"/groups/(?P<group>[^/]+)/clusters/(?P<cluster>[^/]+)/(?P<cloud>backup/)?"
    r"(?P<kind>restoreJobs|snapshots(?:/shardedClusters?(?=/|$))?)(?:/(?P<id>[^/]+))?/?"
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
        tokens: TokenGate,
    ) -> None:
        """Bind and listen.

        Args:
            address: Host and port; port 0 takes a free one.
            service: What it answers from.
            journal: The request log.
            tls: Certificate and key, when it shall speak TLS.
            gate: Checks the signature of every request.
            tokens: Hands out the tokens of the service account, and checks them.

        Raises:
            OSError: The address cannot be used.
        """
        self.gate = gate
        self.tokens = tokens
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
            if urlsplit(self.path).path == TOKEN_PATH:
                self._give_token(body)
                return
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

    def _give_token(self, body: bytes) -> None:
        self._content_type = "application/json"
        if self.command != "POST":
            _refuse_method(self.command, ["POST"])
        answer = self.server.tokens.issue(self.headers.get("Authorization"), body)
        self._send(answer.status, answer.document)

    def _authenticate(self) -> None:
        authorization = self.headers.get("Authorization", "")
        if authorization.lower().startswith("bearer ") and self.path.startswith(_V2 + "/"):
            if not self.server.tokens.admits(authorization):
                challenge = ("WWW-Authenticate", 'Bearer realm="api", error="invalid_token"')
                raise ApiError(401, "INVALID_TOKEN", "The token is not, or no longer, valid.", headers=[challenge])
            return
        verdict = self.server.gate.admit(self.command, self.path, authorization)
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
        if match is None or not _is_known(match):
            raise ApiError(404, "RESOURCE_NOT_FOUND", f"Cannot find resource {urlsplit(self.path).path}.")
        self._check_version(match["prefix"])
        cluster = self._cluster(match)
        root = self.server.origin + match["prefix"]
        self._url = cluster_url(root, self.server.service, cluster, by_id="public" in match["prefix"])
        allowed = ["GET", "POST"] if match["kind"] == "restoreJobs" and match["id"] is None else ["GET"]
        if self.command not in allowed:
            _refuse_method(self.command, allowed)
        if match["cloud"]:
            return self._cloud_resource(match, cluster, body)
        if self.command == "POST":
            return self._create(cluster, body), None
        if match["kind"] == "snapshots":
            return self._snapshots(cluster, match["id"]), None
        return (self._list_jobs(cluster), None) if match["id"] is None else self._job(cluster, match["id"])

    def _cloud_resource(self, match: re.Match[str], cluster: Cluster, body: bytes) -> tuple[Document, str | None]:
        if self.command == "POST":
            return self._create_cloud(cluster, body), None
        if match["kind"] == "restoreJobs":
            if match["id"] is not None:
                return self._cloud_job(cluster, match["id"])
            jobs = self.server.service.cloud_jobs_of(cluster)
            return self._page(jobs, "backup/restoreJobs", {}, lambda job: self._look_cloud(job, fails=False)), None
        return self._cloud_snapshots(cluster, match["kind"], match["id"]), None

    def _cloud_job(self, cluster: Cluster, job_id: str) -> tuple[Document, str]:
        self._check_id("restoreJobId", job_id)
        job = self.server.service.cloud_jobs.get(job_id)
        if job is None or job.snapshot.cluster is not cluster:
            raise ApiError(404, "RESTORE_JOB_NOT_FOUND", f"No restore job with ID {job_id} exists.", [job_id])
        return self._look_cloud(job), job_id

    def _create_cloud(self, cluster: Cluster, body: bytes) -> Document:
        order = _read_object(body)
        if (wrong := wrong_order(order)) is not None:
            refuse_attribute(*wrong)
        job = self.server.service.create_cloud_job(self._complete_snapshot(cluster, order["snapshotId"]))
        return cloud_job_document(self.server.service, job, self._url)

    def _cloud_snapshots(self, cluster: Cluster, kind: str, snapshot_id: str | None) -> Document:
        """Replica sets and sharded clusters have endpoints of their own, which do not know each other's."""
        ours = cluster.sharded == ("sharded" in kind)
        if snapshot_id is not None:
            if not ours:
                raise ApiError(
                    404, "SNAPSHOT_NOT_FOUND", f"No snapshot with ID {snapshot_id} exists.", [snapshot_id]
                )
            return cloud_snapshot_document(self._snapshot(cluster, snapshot_id), self._url)
        found = self.server.service.snapshots_of(cluster) if ours else []
        return self._page(found, f"backup/{kind}", {}, lambda one: cloud_snapshot_document(one, self._url))

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
        snapshot = self._complete_snapshot(cluster, snapshot_id)
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
            refuse_attribute("completed", "must be true, false or all")
        found = [snapshot for snapshot in service.snapshots_of(cluster) if snapshot.complete in wanted]
        query = {"completed": completed} if "completed" in self._flags else {}
        return self._page(found, "snapshots", query, lambda one: snapshot_document(service, one, self._url))

    def _complete_snapshot(self, cluster: Cluster, snapshot_id: str) -> Snapshot:
        snapshot = self._snapshot(cluster, snapshot_id)
        if not snapshot.complete:
            raise ApiError(400, "SNAPSHOT_NOT_COMPLETE", f"Snapshot {snapshot_id} is not complete.", [snapshot_id])
        return snapshot

    def _snapshot(self, cluster: Cluster, snapshot_id: str) -> Snapshot:
        self._check_id("snapshotId", snapshot_id)
        snapshot = self.server.service.snapshots.get(snapshot_id)
        if snapshot is None or snapshot.cluster is not cluster:
            raise _no_snapshot(snapshot_id)
        return snapshot

    def _page(
        self, found: Sequence[_T], name: str, query: Mapping[str, str], show: Callable[[_T], Document]
    ) -> Document:
        """One page of a list; only what is on the page is shown, and so looked at."""
        page = self._number("pageNum", 1)
        per_page = self._number("itemsPerPage", 100)
        if per_page > _MOST_ITEMS:
            refuse_attribute("itemsPerPage", f"must be at most {_MOST_ITEMS}")
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
            refuse_attribute(name, "must be 1 or more")
        return int(text)

    def _look(self, job: Job, *, fails: bool = True) -> Document:
        return self._show(job, job_document, fails=fails)

    def _look_cloud(self, job: CloudJob, *, fails: bool = True) -> Document:
        return self._show(job, cloud_job_document, fails=fails)

    def _show(self, job: _J, show: Callable[[Service, _J, str], Document], *, fails: bool) -> Document:
        """Show a job, which moves its life on; or fail as its scenario says."""
        failure = self.server.service.fail_api(job) if fails else None
        if failure == "rate-limited":
            refuse_rate(job)
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
                return show(self.server.service, job, self._url)
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
            refuse_attribute(name, "must be 24 hexadecimal digits")

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
    order = _read_object(body)
    if not isinstance(order.get("snapshotId"), str):
        refuse_attribute("snapshotId", "is required")
    delivery = order.get("delivery")
    if not isinstance(delivery, dict) or delivery.get("methodName") != "HTTP":
        refuse_attribute("delivery.methodName", "must be HTTP")
    for name, most in _MOST_ORDERED.items():
        value = delivery.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            refuse_attribute(f"delivery.{name}", f"must be from 1 to {most}")
    return order["snapshotId"], delivery


def _is_known(match: re.Match[str]) -> bool:
    """Whether a path that looks like a resource is one: Cloud Backup is in version 2 only."""
    if match["cloud"]:
        return match["prefix"] == _V2
    return "sharded" not in match["kind"]


def _read_object(body: bytes) -> Document:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise ApiError(400, "INVALID_JSON", "Received JSON is malformed.") from exc
    return document if isinstance(document, dict) else {}


def _no_snapshot(snapshot_id: str) -> ApiError:
    return ApiError(404, "SNAPSHOT_NOT_FOUND", f"No snapshot with ID {snapshot_id} exists.", [snapshot_id])


def _refuse_method(method: str, allowed: Sequence[str]) -> NoReturn:
    headers = [("Allow", ", ".join(allowed))]
    raise ApiError(405, "METHOD_NOT_ALLOWED", f"The method {method} is not allowed here.", headers=headers)
