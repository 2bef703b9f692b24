"""The sandbox itself: both servers, their secrets, and the handles that tests turn."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from restore_fetch.sandbox.api import ApiServer
from restore_fetch.sandbox.archive import Archive, ArchiveStore
from restore_fetch.sandbox.delivery import DeliveryHandler
from restore_fetch.sandbox.digest import DigestGate
from restore_fetch.sandbox.model import Cluster, Job, Snapshot
from restore_fetch.sandbox.oauth import TokenGate
from restore_fetch.sandbox.scenarios import SCENARIOS, Scenario
from restore_fetch.sandbox.service import Service
from restore_fetch.sandbox.wire import Journal, LoggedRequest, WireServer

SERVICES = ("atlas", "atlas-v2", "atlas-cloud", "cloud-manager", "ops-manager")
_CLUSTERS_BY_ID = frozenset({"cloud-manager", "ops-manager"})


class Sandbox:
    """A simulated restore service on this machine: an API, a delivery on another port, a job a scenario.

    Use it as a context manager, or call `start` and `stop`. It serves the documented endpoint "Get One
    Legacy Backup Restore Job" and its neighbours: list and create restore jobs, list and get snapshots.

    Attributes:
        project_id: Identifier of the only project.
        cluster: Name of the sharded cluster that has the scenario jobs and a batch.
        cluster_id: Its identifier, for the paths of Cloud and Ops Manager.
        replica_set_cluster: Name of a cluster that is a replica set.
        replica_set_cluster_id: Its identifier.
        job_id: The job that plays the scenario chosen.
        batch_id: A batch of `normal` jobs: three, unless the cluster was given more shards.
        public_key: User name for HTTP Digest.
        private_key: Password for HTTP Digest.
        client_id: A service account, for the Atlas Administration API v2.
        client_secret: Its secret.
        service: The service that the jobs are for, as the client's option `--service` calls it.
        scenarios: Name of each scenario, and the job that plays it.

    Args:
        host: Address to listen on.
        service: Which service `description`, the jobs and the batch are for; it answers as each of them.
        port: Port of the API; 0 takes a free one.
        delivery_port: Port of the delivery; 0 takes a free one.
        scenario: Which scenario `job_id` plays, and the jobs that a client creates.
        size_bytes: About how large a synthetic archive is, in bytes.
        snapshot: A folder to pack and deliver instead.
        tls: Whether both servers speak TLS, with a certificate for this run.
        polls: Looks that see a job of a named scenario waiting, where that is a number above 0.
        ready_after_seconds: Let jobs finish at this age, in seconds, instead of after looks.
        seed: What identifiers, secrets and synthetic bytes are made from.
        shards: How many shards the sharded cluster has, besides its config servers.
        digest_algorithms: Challenges to offer, the preferred first; some of `SHA-256` and `MD5`.
        nonce_uses: Requests after which a nonce goes stale.
        nonce_seconds: Seconds after which a nonce goes stale.
        token_seconds: How long a token of the service account is good, in seconds.
        snapshot_seconds: How often a snapshot begins, which is complete when the next one begins; the oldest
            go. `None` leaves them as they are.

    Raises:
        ValueError: There is no such service or scenario, or an algorithm is not known.
        NotADirectoryError: `snapshot` is no folder.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        service: str = "atlas",
        port: int = 0,
        delivery_port: int = 0,
        scenario: str = "normal",
        size_bytes: int = 1 << 20,
        snapshot: Path | None = None,
        tls: bool = False,
        polls: int | None = None,
        ready_after_seconds: float | None = None,
        seed: int = 0,
        shards: int = 2,
        digest_algorithms: Sequence[str] = ("SHA-256", "MD5"),
        nonce_uses: int = 20,
        nonce_seconds: float = 60.0,
        token_seconds: float = 3600.0,
        snapshot_seconds: float | None = None,
    ) -> None:
        """Make up the project, its clusters and its jobs; nothing listens yet."""
        self._addresses = ((host, port), (host, delivery_port))
        if service not in SERVICES:
            raise ValueError(f"no service is called {service!r}; there are {', '.join(SERVICES)}")
        self.service = service
        self._tls = tls
        self._polls = polls
        self._servers: list[WireServer] = []
        self._journal = Journal()
        self._archives = ArchiveStore(size_bytes=size_bytes, snapshot=snapshot, seed=seed)
        self._service = Service(
            self._archives,
            self._named(scenario),
            ready_after_seconds=ready_after_seconds,
            seed=seed,
            shards=shards,
            snapshot_seconds=snapshot_seconds,
        )
        self._gate = DigestGate(
            self._service.public_key,
            self._service.private_key,
            algorithms=digest_algorithms,
            nonce_uses=nonce_uses,
            nonce_seconds=nonce_seconds,
        )
        self._tokens = TokenGate(self._service.client_id, self._service.client_secret, seconds=token_seconds)
        self._furnish(scenario)

    def _furnish(self, scenario: str) -> None:
        """Show what a client may know, and add a job for every scenario and a batch."""
        self.project_id = self._service.project_id
        self.cluster = self._service.sharded.name
        self.cluster_id = self._service.sharded.id
        self.replica_set_cluster = self._service.replica_set.name
        self.replica_set_cluster_id = self._service.replica_set.id
        self.public_key = self._service.public_key
        self.private_key = self._service.private_key
        self.client_id = self._service.client_id
        self.client_secret = self._service.client_secret
        self.scenarios = {name: self.add_job(self._named(name)) for name in SCENARIOS}
        self.job_id = self.scenarios[scenario]
        self.batch_id = self.add_batch(*["normal"] * len(self._service.sharded.members))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen and serve, in threads of its own, until `stop`.

        The archive of `job_id` is packed first, so that its delivery begins without a pause.

        Raises:
            OSError: A port is taken, or the archive cannot be written.
            RuntimeError: TLS was asked for and `trustme` is not installed; or it was started before.
        """
        if self._servers or self._service.stopped.is_set():
            raise RuntimeError("a sandbox starts once")
        try:
            self.archive(self.job_id)
            context = self._make_certificate() if self._tls else None
            shared: dict[str, Any] = {"service": self._service, "journal": self._journal, "tls": context}
            self._servers.append(ApiServer(self._addresses[0], gate=self._gate, tokens=self._tokens, **shared))
            self._servers.append(WireServer(self._addresses[1], DeliveryHandler, name="delivery", **shared))
        except BaseException:
            self.stop()
            raise
        self._service.delivery_url = self._servers[1].origin
        for server in self._servers:
            server.start()

    def stop(self) -> None:
        """Hang up on every client, at once, and delete the archives. A second call does nothing."""
        self._service.stopped.set()
        for server in self._servers:
            server.stop()
        self._archives.close()

    @property
    def base_url(self) -> str:
        """Origin of the API, without a path."""
        return self._origin(0)

    @property
    def delivery_url(self) -> str:
        """Origin of the delivery, without a path."""
        return self._origin(1)

    @property
    def ca_file(self) -> Path | None:
        """Certificate of the authority to trust, in PEM; `None` without TLS."""
        return self._archives.folder / "ca.pem" if self._tls else None

    @property
    def requests(self) -> list[LoggedRequest]:
        """Every request so far, at both servers, in the order of the answers."""
        return self._journal.requests

    @property
    def errors(self) -> list[BaseException]:
        """Errors of the sandbox itself, which a test may want to see empty."""
        return self._journal.errors

    def description(self) -> dict[str, Any]:
        """What a client needs to know, as JSON values: the line that `restore-fetch sandbox` prints."""
        return {
            "base_url": self.base_url,
            "service": self.service,
            "project_id": self.project_id,
            "cluster": self.cluster_id if self.service in _CLUSTERS_BY_ID else self.cluster,
            "job_id": self.job_id,
            "batch_id": self.batch_id,
            "public_key": self.public_key,
            "private_key": self.private_key,
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "ca_file": None if self.ca_file is None else str(self.ca_file),
            "scenarios": dict(self.scenarios),
        }

    def job_for(self, scenario: str) -> str:
        """The job that plays a named scenario.

        Raises:
            KeyError: There is no such scenario.
        """
        return self.scenarios[scenario]

    def add_job(self, scenario: Scenario) -> str:
        """A further job, of one shard, that behaves as told; returns its identifier."""
        if self.service != "atlas-cloud":
            return self._service.add_job(scenario).id
        snapshot = self._service.encrypted_snapshot if scenario.encrypted else self._latest()
        return self._service.add_cloud_job(snapshot, snapshot.cluster.members[:1], [scenario]).id

    def add_batch(self, *scenarios: Scenario | str) -> str:
        """A further batch of the sharded cluster; returns its identifier.

        In Cloud Backup that is one job with three files: the first scenario decides about the job, each about its
        file.

        Args:
            scenarios: How each of its jobs behaves: shard 0, shard 1 and so on, last the config servers.

        Raises:
            ValueError: There is no scenario of that name, or there are not as many as members.
        """
        chosen = [self._named(one) if isinstance(one, str) else one for one in scenarios]
        if self.service != "atlas-cloud":
            return self._service.add_batch(chosen)
        snapshot = self._latest()
        if len(chosen) != len(snapshot.cluster.members):
            raise ValueError(f"a batch has {len(snapshot.cluster.members)} files, not {len(chosen)}")
        return self._service.add_cloud_job(snapshot, snapshot.cluster.members, chosen).id

    def jobs_of(self, batch_id: str) -> list[str]:
        """The jobs of a batch: shard 0, shard 1 and so on, the config servers; or those that a client created.

        In Cloud Backup, what the delivery calls the files of a job.
        """
        if batch_id in self._service.cloud_jobs:
            return [file.id for file in self._service.cloud_jobs[batch_id].files]
        return [job.id for job in self._service.jobs.copy().values() if job.batch_id == batch_id]

    def add_snapshot(self, cluster: str | None = None, *, complete: bool = True) -> str:
        """Take a snapshot of a cluster now; returns its identifier.

        Args:
            cluster: Name of the cluster; the sharded one when left out.
            complete: Whether it may be restored at once; else from `complete_snapshot` on.

        Raises:
            KeyError: There is no such cluster.
        """
        by_name: dict[str, Cluster] = {one.name: one for one in self._service.clusters}
        return self._service.add_snapshot(by_name[cluster or self.cluster], complete=complete).id

    def complete_snapshot(self, snapshot_id: str) -> None:
        """Let a snapshot be complete from now on.

        Raises:
            KeyError: There is no such snapshot.
        """
        self._service.complete_snapshot(snapshot_id)

    def revoke_tokens(self) -> None:
        """Let every token of the service account end now, before its time."""
        self._tokens.revoke()

    def drop_snapshot(self, snapshot_id: str) -> None:
        """Let a snapshot be gone, as it is once it has expired; the jobs that restore it stay.

        Raises:
            KeyError: There is no such snapshot.
        """
        self._service.remove_snapshot(snapshot_id)

    def delivery_gets(self, job_id: str | None = None) -> int:
        """How many GETs reached the delivery, of one job or at all; ones it redirected or refused count.

        Args:
            job_id: The job; `None` counts every GET.
        """
        return sum(
            request.server == "delivery" and request.method == "GET" and job_id in (None, request.job_id)
            for request in self.requests
        )

    def archive(self, job_id: str) -> Archive:
        """What the delivery hands out for a job, packed now if it was not before.

        Where a scenario changes the archive between attempts, this is the one of the later attempts.

        Raises:
            KeyError: There is no such job.
            OSError: It cannot be packed.
        """
        return self._service.archive_of(self._delivered(job_id), attempt=2)

    def file_name(self, job_id: str) -> str:
        """Last segment of a job's download URL.

        Raises:
            KeyError: There is no such job.
        """
        return self._delivered(job_id).file_name

    def expire(self, job_id: str) -> None:
        """Let a job's download URL die now.

        Raises:
            KeyError: There is no such job.
        """
        with self._service.lock:
            cloud_job = self._service.cloud_jobs.get(job_id)
            for file in cloud_job.files if cloud_job else (self._delivered(job_id),):
                file.expires = self._service.now() - timedelta(seconds=1)

    def set_clock_offset(self, seconds: float) -> None:
        """Set the service's clock ahead of this machine's, or behind it below zero.

        It shows in `Date` headers and decides what has expired.
        """
        self._service.clock_offset_seconds = seconds

    def secrets(self) -> list[str]:
        """Every secret handed out: private key, client secret, tokens, keys in URLs, values of `authHeader`."""
        return [*self._service.secrets(), *self._tokens.tokens()]

    def _delivered(self, job_id: str) -> Job:
        job = self._service.delivered(job_id)
        if job is None:
            raise KeyError(job_id)
        return job

    def _latest(self) -> Snapshot:
        return self._service.latest_snapshot(self._service.sharded)

    def _named(self, name: str) -> Scenario:
        if name not in SCENARIOS:
            raise ValueError(f"no scenario is called {name!r}; there are {', '.join(SCENARIOS)}")
        scenario = SCENARIOS[name]
        # An unheard-of status would never be seen, and a job that is over at once has nothing to wait for.
        if self._polls is None or not scenario.polls_until_finished or scenario.waiting_status != "IN_PROGRESS":
            return scenario
        return replace(scenario, polls_until_finished=self._polls)

    def _origin(self, index: int) -> str:
        if not self._servers:
            raise RuntimeError("the sandbox has not been started")
        return self._servers[index].origin

    def _make_certificate(self) -> ssl.SSLContext:
        try:
            import trustme
        except ImportError as exc:
            raise RuntimeError("TLS needs trustme: install restore-fetch[sandbox]") from exc
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        names = dict.fromkeys([self._addresses[0][0], "127.0.0.1", "localhost"])
        authority.issue_cert(*names).configure_cert(context)
        authority.cert_pem.write_to_path(str(self.ca_file))
        return context
