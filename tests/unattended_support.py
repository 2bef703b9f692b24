"""Runs that nobody watches: a monitor that is pinged, and the metrics that a collector would read."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from pytest_httpserver import HTTPServer

ROOT = Path(__file__).resolve().parent.parent
UUID = "3b0f6f1e-5a1c-4c0e-9d4e-7a8b1c2d3e4f"


@dataclass(frozen=True)
class Monitor:
    """Somebody who is pinged, by the convention of healthchecks."""

    server: HTTPServer
    url: str

    @property
    def pings(self) -> list[str]:
        """The last part of each address, in order."""
        for request, _ in self.server.log:
            assert request.method == "POST"
            assert request.path.startswith(f"/{UUID}/")
        return [request.path.rpartition("/")[2] for request, _ in self.server.log]

    @property
    def last_body(self) -> str:
        """What the last ping said."""
        return self.server.log[-1][0].get_data(as_text=True)


def monitor_on(server: HTTPServer, status: int = 200) -> Monitor:
    server.expect_request(re.compile(".*")).respond_with_data("OK", status=status)
    return Monitor(server, server.url_for(f"/{UUID}"))


def metrics_in(path: Path) -> dict[str, dict[tuple[str, str], float]]:
    """Each metric by project and cluster, as Prometheus would read them."""
    found: dict[str, dict[tuple[str, str], float]] = {}
    for family in text_string_to_metric_families(path.read_text("utf-8")):
        for sample in family.samples:
            owner = (sample.labels["project"], sample.labels["cluster"])
            assert owner not in found.setdefault(sample.name, {}), "one series twice"
            found[sample.name][owner] = sample.value
    return found


def program_in(folder: Path) -> Path:
    """A folder with the program in it, for a PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "restore-fetch"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m restore_fetch "$@"\n')
    program.chmod(0o755)
    return folder
