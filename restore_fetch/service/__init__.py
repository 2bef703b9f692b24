"""The API side: what a restore service is asked, and how."""

from __future__ import annotations

import math

import httpx

from restore_fetch.clock import Clock
from restore_fetch.errors import ConfigurationError
from restore_fetch.network import is_loopback_host, tls_context
from restore_fetch.service.auth import DigestKey
from restore_fetch.service.client import ApiClient
from restore_fetch.service.cloud import CloudBackupService
from restore_fetch.service.documents import parse_job
from restore_fetch.service.legacy import LegacyRestoreService
from restore_fetch.service.oauth import ServiceAccount
from restore_fetch.settings import Connection

Service = LegacyRestoreService | CloudBackupService
__all__ = ["CloudBackupService", "LegacyRestoreService", "Service", "open_service", "parse_job"]


def open_service(
    connection: Connection, *, clock: Clock, user_agent: str, wait_seconds: float = math.inf
) -> Service:
    """The service that a connection describes, ready to be asked; nothing is sent yet.

    Args:
        connection: Where it is, and the key or the service account.
        clock: The local time.
        user_agent: What the client calls itself.
        wait_seconds: How long the run waits for it in all; see `ApiClient`.

    Raises:
        ConfigurationError: `ca_file` or a proxy of the environment cannot be used, or there is neither a key nor a
            service account.
    """
    api = ApiClient(
        connection.base_url,
        _auth(connection, clock),
        tls=tls_context(connection.ca_file),
        clock=clock,
        user_agent=user_agent,
        wait_seconds=wait_seconds,
    )
    if connection.service == "atlas-cloud":
        return CloudBackupService(api, project_id=connection.project_id, cluster=connection.cluster, clock=clock)
    return LegacyRestoreService(
        connection.service, api, project_id=connection.project_id, cluster=connection.cluster, clock=clock
    )


def _auth(connection: Connection, clock: Clock) -> httpx.Auth:
    if connection.client_id and connection.client_secret:
        origin = httpx.URL(connection.base_url)
        if origin.scheme != "https" and not is_loopback_host(origin.host):
            # Unlike a key with HTTP Digest, the secret and the token themselves go over the wire.
            raise ConfigurationError(
                f"the secret of a service account is not sent to {origin.host} over plain http",
                next_step="use https, or an API key",
            )
        return ServiceAccount(
            connection.client_id, connection.client_secret, origin=connection.base_url, clock=clock
        )
    if connection.public_key and connection.private_key:
        return DigestKey(connection.public_key, connection.private_key, clock=clock)
    raise ConfigurationError("the connection has neither an API key nor a service account")
