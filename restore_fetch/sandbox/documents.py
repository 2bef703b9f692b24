"""The JSON documents of the API, element by element as the documentation lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from restore_fetch.sandbox.model import Cluster, Job, Member, Snapshot
from restore_fetch.sandbox.service import AUTH_HEADER, Service

Document = dict[str, Any]

DELIVERY_PATH = "/backup/restore/v2/pull"


def iso(moment: datetime) -> str:
    """A moment in ISO 8601, in UTC, to the second, with a `Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def error_document(status: int, code: str, detail: str | None, parameters: Sequence[Any] = ()) -> Document:
    """An error body (schema `ApiError`).

    Args:
        status: HTTP status.
        code: `errorCode`, the application's own name of the error.
        detail: What is wrong, in a sentence.
        parameters: The values the sentence mentions.
    """
    return {
        "detail": detail,
        "error": status,
        "errorCode": code,
        "parameters": list(parameters),
        "reason": HTTPStatus(status).phrase,
    }


def job_document(service: Service, job: Job, cluster_url: str) -> Document:
    """A restore job as it is now ("Get One Legacy Backup Restore Job", response elements).

    Args:
        service: Which service answers.
        job: Which job.
        cluster_url: URL of its cluster in the API that was asked.
    """
    with service.lock:
        now = service.now()
        job.settle(now)
        document = {
            "batchId": job.batch_id,
            "clusterId": job.member.cluster_id,
            "clusterName": job.snapshot.cluster.name,
            "created": iso(job.created),
            "delivery": _delivery(service, job, now),
            "encryptionEnabled": job.snapshot.master_key is not None,
            "groupId": service.project_id,
            "hashes": _hashes(job),
            "id": job.id,
            "links": [
                {"href": f"{cluster_url}/restoreJobs/{job.id}", "rel": "self"},
                {"href": f"{cluster_url}/snapshots/{job.snapshot.id}", "rel": "http://mms.mongodb.com/snapshot"},
                *_owner_links(cluster_url),
            ],
            "masterKeyUUID": job.snapshot.master_key,
            "pointInTime": False,
            "snapshotId": job.snapshot.id,
            "statusName": job.status,
            "timestamp": {"date": iso(job.snapshot.taken), "increment": 1},
        }
    # The service leaves out what a job does not have: a batch, a key, a hash.
    return {name: value for name, value in document.items() if value is not None}


def snapshot_document(service: Service, snapshot: Snapshot, cluster_url: str) -> Document:
    """A snapshot with its parts (schema `BackupSnapshot`).

    Args:
        service: Which service answers.
        snapshot: Which snapshot.
        cluster_url: URL of its cluster in the API that was asked.
    """
    cluster = snapshot.cluster
    stamp = {"date": iso(snapshot.taken), "increment": 1}
    return {
        "clusterId": cluster.id,
        "clusterName": cluster.name,
        "complete": snapshot.complete,
        "created": stamp,
        "doNotDelete": False,
        "expires": iso(snapshot.taken + timedelta(days=7)),
        "groupId": service.project_id,
        "id": snapshot.id,
        "incremental": False,
        "lastOplogAppliedTimestamp": stamp,
        "links": [
            {"href": f"{cluster_url}/snapshots/{snapshot.id}", "rel": "self"},
            *_owner_links(cluster_url),
        ],
        "parts": [_part(snapshot, member, port) for port, member in enumerate(cluster.members, start=27000)],
    }


def list_document(
    results: Sequence[Document],
    *,
    url: str,
    query: Mapping[str, str],
    page: int,
    per_page: int,
    total: int,
    counted: bool = True,
) -> Document:
    """One page of a list, with links to itself and its neighbours.

    Args:
        results: The documents of this page.
        url: URL of the list.
        query: Query parameters to keep in the links, other than the page.
        page: Number of this page, from 1.
        per_page: How many documents a page holds.
        total: How many there are on all pages.
        counted: Whether the client wants to know that (`includeCount`).
    """

    def link(rel: str, number: int) -> Document:
        return {"href": f"{url}?{urlencode({**query, 'pageNum': number, 'itemsPerPage': per_page})}", "rel": rel}

    links = [link("self", page)]
    if page > 1:
        links.append(link("previous", page - 1))
    if page * per_page < total:
        links.append(link("next", page + 1))
    document: Document = {"links": links, "results": list(results)}
    return {**document, "totalCount": total} if counted else document


def enveloped(status: int, document: Document) -> Document:
    """A body with its status inside, for clients that cannot see the HTTP status (`envelope=true`)."""
    return {"status": status, **document} if "results" in document else {"status": status, "content": document}


def delivery_path(job: Job, *, keyed: bool, folder: str = DELIVERY_PATH) -> str:
    """Path of a job's archive at the delivery.

    Args:
        job: Which job.
        keyed: Whether the verification key is in the path.
        folder: Where the path begins.
    """
    key = f"/{job.key}" if keyed else ""
    return f"{folder}/{job.id}{key}/{job.file_name}"


def _delivery(service: Service, job: Job, now: datetime) -> Document:
    status = job.delivery_status(now)
    scenario = job.scenario
    document: Document = {"methodName": scenario.method_name, "statusName": status}
    if scenario.method_name != "HTTP":
        return document
    document |= {"expirationHours": job.expiration_hours, "maxDownloads": job.max_downloads}
    if job.expires is None or status in ("NOT_STARTED", "PENDING", "FAILED"):
        return document
    document["expires"] = iso(job.expires)
    if scenario.key_place != "header":
        document["url"] = service.delivery_url + delivery_path(job, keyed=True)
    if scenario.key_place != "path":
        document["urlV2"] = service.delivery_url + delivery_path(job, keyed=False)
        document["authHeader"] = AUTH_HEADER
        document["authValue"] = job.auth_value
    return document


def _hashes(job: Job) -> list[Document] | None:
    sha1 = job.published_hash()
    return None if sha1 is None else [{"fileName": job.file_name, "hash": sha1, "typeName": "SHA1"}]


def _part(snapshot: Snapshot, member: Member, port: int) -> Document:
    part: Document = {
        "clusterId": member.cluster_id,
        "completedTime": iso(snapshot.taken + timedelta(minutes=1)),
        "compressionSetting": "GZIP",
        "dataSizeBytes": 4 << 20,
        "encryptionEnabled": snapshot.master_key is not None,
        "fcv": "4.0",
        "fileSizeBytes": 2 << 20,
        "machineId": f"db.example.net:{port}",
        "mongodVersion": "4.0.28",
        "replicaSetName": member.replica_set,
        "replicaState": "SECONDARY",
        "storageSizeBytes": 3 << 20,
        "typeName": member.type_name,
    }
    if snapshot.master_key is not None:
        part["masterKeyUUID"] = snapshot.master_key
    return part


def _owner_links(cluster_url: str) -> list[Document]:
    return [
        {"href": cluster_url, "rel": "http://mms.mongodb.com/cluster"},
        {"href": cluster_url.rpartition("/clusters/")[0], "rel": "http://mms.mongodb.com/group"},
    ]


def cluster_url(root: str, service: Service, cluster: Cluster, *, by_id: bool) -> str:
    """URL of a cluster.

    Args:
        root: Origin and prefix of the API that was asked.
        service: Which service answers.
        cluster: Which cluster.
        by_id: Whether that API names clusters by identifier.
    """
    return f"{root}/groups/{service.project_id}/clusters/{cluster.id if by_id else cluster.name}"
