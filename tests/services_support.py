"""Helpers for the tests of the flavours of the API: services against a scripted server, and the real command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from restore_fetch.clock import Clock
from restore_fetch.network import tls_context
from restore_fetch.sandbox import Sandbox
from restore_fetch.service import CloudBackupService, LegacyRestoreService
from restore_fetch.service.client import ApiClient

PROJECT = "6a793f6b2c88faeba59bae37"
CLUSTER = "Cluster0"
JOB = "6a7948342c88faeba59eb866"
SNAPSHOT = "6a79468a2c88faeba59de489"
CLOUD = f"/api/atlas/v2/groups/{PROJECT}/clusters/{CLUSTER}/backup"
VERSIONED = "application/vnd.atlas.2023-01-01+json"

# --- services --------------------------------------------------------------------------------------------


class NoAuth(httpx.Auth):
    """Sends requests as they are."""


def api_client(server: HTTPServer, clock: Clock, auth: httpx.Auth | None = None) -> ApiClient:
    return ApiClient(
        server.url_for("").rstrip("/"), auth or NoAuth(), tls=tls_context(None), clock=clock, user_agent="test/1"
    )


def cloud_service(server: HTTPServer, clock: Clock, auth: httpx.Auth | None = None) -> CloudBackupService:
    return CloudBackupService(api_client(server, clock, auth), project_id=PROJECT, cluster=CLUSTER, clock=clock)


def legacy_service(server: HTTPServer, clock: Clock, name: str, cluster: str = CLUSTER) -> LegacyRestoreService:
    return LegacyRestoreService(name, api_client(server, clock), project_id=PROJECT, cluster=cluster, clock=clock)


def answers(document: Any, status: int = 200) -> Callable[[Request], Response]:
    """A handler that always says the same."""
    return lambda _: Response(json.dumps(document), status=status, content_type=VERSIONED)


def asked(server: HTTPServer) -> list[str]:
    """Method, path and query of every request, in order."""
    return [f"{request.method} {request.full_path.rstrip('?')}" for request, _ in server.log]


# --- documents of Cloud Backup ---------------------------------------------------------------------------


def archive_url(name: str = f"restore-{SNAPSHOT}.tar.gz", host: str = "files.example.net") -> str:
    return f"https://{host}:27017/aB12up63eFh16ZmBiQ9cUO5Q/{name}"


def cloud_job(**elements: Any) -> dict[str, Any]:
    """A job that waits, in the shape that the service was seen to answer; elements of None are left out."""
    document = {
        "cancelled": False,
        "deliveryType": "download",
        "deliveryUrl": [],
        "desiredTimestamp": {"increment": None, "time": None, "date": None},
        "expired": False,
        "failed": False,
        "id": JOB,
        "links": [],
        "snapshotId": SNAPSHOT,
        "timestamp": "2026-08-10T03:35:05Z",
    } | elements
    return {name: value for name, value in document.items() if value is not None}


def cloud_snapshot(**elements: Any) -> dict[str, Any]:
    document = {
        "cloudProvider": "AWS",
        "createdAt": "2026-08-10T03:28:08Z",
        "expiresAt": "2026-08-11T03:29:21Z",
        "id": SNAPSHOT,
        "replicaSetName": CLUSTER,
        "snapshotType": "onDemand",
        "status": "completed",
        "type": "replicaSet",
    } | elements
    return {name: value for name, value in document.items() if value is not None}


def listed(*documents: dict[str, Any], **elements: Any) -> dict[str, Any]:
    return {"links": [], "results": list(documents), "totalCount": len(documents)} | elements


# --- the real command ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    code: int
    stdout: str
    stderr: str


def command(
    sandbox: Sandbox, *arguments: str, account: bool = False, environ: Mapping[str, str] | None = None
) -> Ended:
    """Run the program to its end against a sandbox, with its key or its service account in the environment."""
    ended = run_told(sandbox.description(), *arguments, account=account, environ=environ)
    for secret in sandbox.secrets():
        assert secret not in ended.stdout + ended.stderr, "a secret was let out"
    assert sandbox.errors == []
    return ended


def run_told(
    told: Mapping[str, Any], *arguments: str, account: bool = False, environ: Mapping[str, str] | None = None
) -> Ended:
    """Run the program to its end against whatever a sandbox's description tells."""
    surroundings = {
        **{name: value for name, value in os.environ.items() if name.startswith("PYDANTIC_")},
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        "RESTORE_FETCH_SERVICE": told["service"],
        "RESTORE_FETCH_BASE_URL": told["base_url"],
        "RESTORE_FETCH_PROJECT_ID": told["project_id"],
        "RESTORE_FETCH_CLUSTER": told["cluster"],
    }
    if account:
        surroundings |= {
            "MONGODB_ATLAS_CLIENT_ID": told["client_id"],
            "MONGODB_ATLAS_CLIENT_SECRET": told["client_secret"],
        }
    else:
        surroundings |= {
            "MONGODB_ATLAS_PUBLIC_API_KEY": told["public_key"],
            "MONGODB_ATLAS_PRIVATE_API_KEY": told["private_key"],
        }
    done = subprocess.run(
        [sys.executable, "-m", "restore_fetch", *arguments],
        env=surroundings | dict(environ or {}),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


def fetch(sandbox: Sandbox, folder: Path, *arguments: str, **settings: Any) -> Ended:
    quick = ("--poll-interval", "0.05s", "--min-free", "0", "--wait", "60s", "--hash-wait", "60s")
    return command(sandbox, "fetch", "--out-dir", str(folder), *quick, *arguments, **settings)
