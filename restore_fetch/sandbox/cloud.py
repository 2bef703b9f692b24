"""Cloud Backup: restore jobs with flags in place of statuses, and snapshots of two kinds, as they were recorded.

Source: the schemas DiskBackupSnapshotRestoreJob, DiskBackupReplicaSet and DiskBackupShardedClusterSnapshot of
the Atlas Administration API, and answers of the service. A ready download has its URLs and no `finishedAt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from restore_fetch.sandbox.documents import Document, delivery_path, iso
from restore_fetch.sandbox.model import CloudJob, Snapshot
from restore_fetch.sandbox.service import Service

_NO_TIMESTAMP = {"increment": None, "time": None, "date": None}
_SNAPSHOT_DAYS = 7


def cloud_job_document(service: Service, job: CloudJob, cluster_url: str) -> Document:
    """A restore job as it is now.

    Args:
        service: Which service answers.
        job: Which job.
        cluster_url: URL of its cluster in the API that was asked.
    """
    with service.lock:
        now = service.now()
        for file in job.files:
            file.settle(now)
        states = {file.delivery_status(now) for file in job.files}
        first = job.files[0]
        failed = first.over and (first.status == "BROKEN" or bool(states & {"FAILED", "INTERRUPTED"}))
        cancelled = first.over and first.status == "KILLED"
        expired = "EXPIRED" in states
        ready = not (failed or cancelled or expired or states & {"NOT_STARTED", "PENDING"})
        urls = [service.delivery_url + delivery_path(file, keyed=True) for file in job.files] if ready else []
        document: Document = {
            "cancelled": cancelled,
            "deliveryType": "download" if job.scenario.method_name == "HTTP" else "automated",
            "deliveryUrl": urls,
            "desiredTimestamp": dict(_NO_TIMESTAMP),
            "expired": expired,
            "failed": failed,
            "id": job.id,
            "links": [
                {"href": f"{cluster_url}/backup/restoreJobs/{job.id}", "rel": "self"},
                {
                    "href": f"{cluster_url}/backup/snapshots/{job.snapshot.id}",
                    "rel": "https://cloud.mongodb.com/snapshot",
                },
                *_owner_links(cluster_url),
            ],
            "snapshotId": job.snapshot.id,
            "timestamp": iso(job.snapshot.taken),
        }
        if first.expires is not None and (ready or expired):
            document["expiresAt"] = iso(first.expires)
        if failed or cancelled:
            document["finishedAt"] = iso(now)
        if ready and len(job.files) > 1:
            document["components"] = [
                {"replicaSetName": file.member.replica_set, "downloadUrl": url}
                for file, url in zip(job.files, urls, strict=True)
            ]
        return document


def cloud_snapshot_document(snapshot: Snapshot, cluster_url: str) -> Document:
    """A snapshot, of a replica set or of a sharded cluster.

    Args:
        snapshot: Which snapshot.
        cluster_url: URL of its cluster in the API that was asked.
    """
    cluster = snapshot.cluster
    kind = "shardedCluster/" if cluster.sharded else ""
    document: Document = {
        "createdAt": iso(snapshot.taken),
        "expiresAt": iso(snapshot.taken + timedelta(days=_SNAPSHOT_DAYS)),
        "frequencyType": "hourly",
        "id": snapshot.id,
        "links": [
            {"href": f"{cluster_url}/backup/snapshots/{kind}{snapshot.id}", "rel": "self"},
            {"href": cluster_url, "rel": "https://cloud.mongodb.com/cluster"},
        ],
        "mongodVersion": "8.0.29",
        "policyItems": [],
        "snapshotType": "scheduled",
        "status": "completed" if snapshot.complete else "inProgress",
        "storageSizeBytes": 3 << 20,
    }
    if snapshot.master_key is not None:
        document["masterKeyUUID"] = snapshot.master_key
    if not cluster.sharded:
        own = {"cloudProvider": "AWS", "copyRegions": [], "replicaSetName": cluster.name, "type": "replicaSet"}
        return document | own
    members = [
        {"cloudProvider": "AWS", "id": snapshot.member_id(member), "replicaSetName": member.replica_set}
        for member in cluster.members
    ]
    ids = [member["id"] for member in members]
    return document | {"members": members, "snapshotIds": ids, "type": "shardedCluster"}


def wrong_order(order: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first attribute of a POST that cannot be, and the rule it breaks; `None` when all can.

    Source: "Create One Restore Job of One Cluster", request body.
    """
    if not isinstance(order.get("snapshotId"), str):
        return "snapshotId", "is required"
    if order.get("deliveryType") != "download":
        return "deliveryType", "must be download: there is no cluster here to restore to"
    return None


def _owner_links(cluster_url: str) -> list[Document]:
    return [
        {"href": cluster_url, "rel": "https://cloud.mongodb.com/cluster"},
        {"href": cluster_url.rpartition("/clusters/")[0], "rel": "https://cloud.mongodb.com/group"},
    ]
