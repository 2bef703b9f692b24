"""A simulated restore service for demos, rehearsals and tests.

It is written from the documentation of the service and shares no code with the client, so that a misreading
on one side is not mirrored on the other.
"""

from __future__ import annotations

from restore_fetch.sandbox.archive import Archive
from restore_fetch.sandbox.scenarios import SCENARIOS, Scenario
from restore_fetch.sandbox.server import SERVICES, Sandbox
from restore_fetch.sandbox.wire import LoggedRequest

__all__ = ["SCENARIOS", "SERVICES", "Archive", "LoggedRequest", "Sandbox", "Scenario"]
