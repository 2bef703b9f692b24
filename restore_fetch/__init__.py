"""Wait for a MongoDB restore job, download its archive once, and prove that it is the right one.

The program `restore-fetch` does it in one command; these names do it from Python. They are imported when they
are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from restore_fetch.batch import fetch_batch
    from restore_fetch.clock import Clock, SystemClock
    from restore_fetch.crews import MemberResult, Unit, fetch_one
    from restore_fetch.delivery import DeliveryClient
    from restore_fetch.errors import BatchError, RestoreFetchError
    from restore_fetch.hashes import Digest
    from restore_fetch.members import Choice
    from restore_fetch.models import RestoreJob, Snapshot
    from restore_fetch.network import tls_context
    from restore_fetch.observer import BatchObserver, Observer, SilentObserver
    from restore_fetch.records import BatchReceipt, Receipt
    from restore_fetch.redaction import Secret
    from restore_fetch.service import open_service
    from restore_fetch.settings import Connection, FetchOptions
    from restore_fetch.workflow import Fetched, RestoreFetcher

__version__ = "0.1.0"
__all__ = [
    "BatchError",
    "BatchObserver",
    "BatchReceipt",
    "Choice",
    "Clock",
    "Connection",
    "DeliveryClient",
    "Digest",
    "FetchOptions",
    "Fetched",
    "MemberResult",
    "Observer",
    "Receipt",
    "RestoreFetchError",
    "RestoreFetcher",
    "RestoreJob",
    "Secret",
    "SilentObserver",
    "Snapshot",
    "SystemClock",
    "Unit",
    "__version__",
    "fetch_batch",
    "fetch_one",
    "open_service",
    "tls_context",
]
_HOMES = {
    "batch": ("fetch_batch",),
    "clock": ("Clock", "SystemClock"),
    "crews": ("MemberResult", "Unit", "fetch_one"),
    "delivery": ("DeliveryClient",),
    "errors": ("BatchError", "RestoreFetchError"),
    "hashes": ("Digest",),
    "members": ("Choice",),
    "models": ("RestoreJob", "Snapshot"),
    "network": ("tls_context",),
    "observer": ("BatchObserver", "Observer", "SilentObserver"),
    "records": ("BatchReceipt", "Receipt"),
    "redaction": ("Secret",),
    "service": ("open_service",),
    "settings": ("Connection", "FetchOptions"),
    "workflow": ("Fetched", "RestoreFetcher"),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"restore_fetch.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
