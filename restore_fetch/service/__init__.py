"""The API side: what a restore service is asked, and how."""

from __future__ import annotations

from restore_fetch.clock import Clock
from restore_fetch.network import tls_context
from restore_fetch.service.auth import DigestKey
from restore_fetch.service.client import ApiClient
from restore_fetch.service.documents import parse_job
from restore_fetch.service.legacy import LegacyRestoreService
from restore_fetch.settings import Connection

__all__ = ["LegacyRestoreService", "open_service", "parse_job"]


def open_service(connection: Connection, *, clock: Clock, user_agent: str) -> LegacyRestoreService:
    """The service that a connection describes, ready to be asked; nothing is sent yet.

    Args:
        connection: Where it is, and the key.
        clock: The local time.
        user_agent: What the client calls itself.

    Raises:
        ConfigurationError: `ca_file` or a proxy of the environment cannot be used.
    """
    api = ApiClient(
        connection.base_url,
        DigestKey(connection.public_key, connection.private_key),
        tls=tls_context(connection.ca_file),
        clock=clock,
        user_agent=user_agent,
    )
    return LegacyRestoreService(
        connection.service, api, project_id=connection.project_id, cluster=connection.cluster, clock=clock
    )
