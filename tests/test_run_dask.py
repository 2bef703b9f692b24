"""`--dask`: a batch by the workers of a Dask cluster, as a user runs it."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from restore_fetch import fetch_batch
from restore_fetch.cli.main import main
from restore_fetch.crews import Unit, fetch_one
from restore_fetch.dask_workers import DaskWorkers
from restore_fetch.errors import ConfigurationError, StorageError
from restore_fetch.sandbox import SCENARIOS, Sandbox
from restore_fetch.settings import resolve_connection
from restore_fetch.sources import Given
from tests import batch_support
from tests.batch_support import Ran, creations, end, expected_paths, run, start
from tests.command_support import key_file
from tests.dask_support import PATIENCE_SECONDS, Cluster, dask_cluster, until
from tests.run_support import change

READY = replace(SCENARIOS["normal"], polls_until_finished=0)
SILENT = replace(SCENARIOS["stall"], polls_until_finished=0)  # in the middle of the first download
WITHHELD = replace(READY, hash_delay_looks=10**9)
KEY_VARIABLE = "MONGODB_ATLAS_PRIVATE_API_KEY"
NOWHERE = "tcp://127.0.0.1:1"
needs_dask = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="the extra dask is not installed"
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=16384) as sandbox:
        yield sandbox
        assert sandbox.errors == []


@pytest.fixture(scope="module")
def scheduler(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    variables = {KEY_VARIABLE: sandbox.private_key, "NO_PROXY": "127.0.0.1"}
    with dask_cluster(tmp_path_factory.mktemp("dask"), variables) as cluster:
        yield cluster
        assert [secret for secret in sandbox.secrets() if secret in cluster.said()] == []


@pytest.fixture
def cluster(scheduler: Cluster) -> Cluster:
    """A scheduler with two workers; those that a test before this one killed are replaced."""
    scheduler.have_workers(2)
    return scheduler


def fetch(sandbox: Sandbox, out_dir: Path, batch_id: str, address: str, *arguments: str) -> Ran:
    return run(sandbox, out_dir, "fetch", "--batch-id", batch_id, "--dask", address, *arguments)


def gets(sandbox: Sandbox, batch_id: str) -> list[int]:
    return [sandbox.delivery_gets(job_id) for job_id in sandbox.jobs_of(batch_id)]


def part_of(sandbox: Sandbox, folder: Path, job_id: str) -> Path:
    return folder / f"{sandbox.file_name(job_id)}.part"


def has_bytes(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def batch_receipts(folder: Path) -> list[Path]:
    return list(folder.glob("batch-*"))


# A cluster that runs


@needs_dask
def test_a_batch_is_verified_by_the_workers_and_the_second_run_needs_no_scheduler(
    sandbox: Sandbox, cluster: Cluster, tmp_path: Path
) -> None:
    batch_id = sandbox.add_batch("normal", "late-hash", "normal")
    ran = fetch(sandbox, tmp_path, batch_id, cluster.address, "--log-format", "json")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == expected_paths(sandbox, tmp_path, batch_id)
    assert gets(sandbox, batch_id) == [1, 1, 1]
    lines = [json.loads(line) for line in ran.err.splitlines()]
    assert [line["message"] for line in lines if line["event"] == "workers"] == ["the Dask cluster has 2 workers"]
    receipt = json.loads((tmp_path / f"batch-{batch_id}.receipt.json").read_bytes())
    assert {member["job_id"] for member in receipt["members"]} == set(sandbox.jobs_of(batch_id))
    assert not list(tmp_path.glob(".restore-fetch-*"))
    again = fetch(sandbox, tmp_path, batch_id, NOWHERE)
    assert (again.code, again.out) == (0, ran.out)


@needs_dask
def test_the_batch_ends_verified_although_a_worker_is_killed_in_the_middle(
    sandbox: Sandbox, cluster: Cluster, tmp_path: Path
) -> None:
    batch_id = sandbox.add_batch(replace(SILENT, max_downloads=2), READY, READY)
    job_ids = sandbox.jobs_of(batch_id)
    part = part_of(sandbox, tmp_path, job_ids[0])
    process = start(sandbox, tmp_path, "fetch", "--batch-id", batch_id, "--dask", cluster.address)
    try:
        until(lambda: process.poll() is not None or has_bytes(part))
        assert process.poll() is None
        cluster.worker_with(part).kill()
    finally:
        ran = end(process)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == expected_paths(sandbox, tmp_path, batch_id)
    assert gets(sandbox, batch_id) == [2, 1, 1]
    for job_id in job_ids:
        receipt = json.loads((tmp_path / f"{sandbox.file_name(job_id)}.receipt.json").read_bytes())
        outcomes = [attempt["outcome"] for attempt in receipt["attempts"]]
        assert len(outcomes) == sandbox.delivery_gets(job_id)  # also the one that died was counted
        assert outcomes[-1] == "complete"
        assert receipt["sha1"] == sandbox.archive(job_id).sha1
    assert len(batch_receipts(tmp_path)) == 1
    assert not list(tmp_path.glob("*.part*"))
    assert not list(tmp_path.glob(".restore-fetch-*"))


@needs_dask
def test_two_runs_by_the_same_workers_download_each_part_once(
    sandbox: Sandbox, cluster: Cluster, tmp_path: Path
) -> None:
    batch_id = sandbox.add_batch(READY, WITHHELD, READY)
    arguments = ("fetch", "--batch-id", batch_id, "--dask", cluster.address)
    processes = [start(sandbox, tmp_path, *arguments) for _ in range(2)]
    try:
        until(lambda: gets(sandbox, batch_id)[1] == 1)  # neither can end before the hash is published
        change(sandbox, sandbox.jobs_of(batch_id)[1], hash_delay_looks=0)
    finally:
        ends = [end(process) for process in processes]
    assert [ran.code for ran in ends] == [0, 0], [ran.err for ran in ends]
    assert ends[0].out == ends[1].out
    assert gets(sandbox, batch_id) == [1, 1, 1]


@needs_dask
def test_one_bad_part_gives_17(sandbox: Sandbox, cluster: Cluster, tmp_path: Path) -> None:
    batch_id = sandbox.add_batch(READY, replace(READY, hash_kind="wrong"), READY)
    ran = fetch(sandbox, tmp_path, batch_id, cluster.address, "--hash-wait", "0", "--retries", "0")
    assert ran.code == 17
    assert len(ran.out.splitlines()) == 2
    assert sandbox.jobs_of(batch_id)[1] in ran.last_line
    assert not batch_receipts(tmp_path)


@needs_dask
def test_a_signal_ends_the_run_and_what_a_worker_has_begun_comes_to_its_end(
    sandbox: Sandbox, cluster: Cluster, tmp_path: Path
) -> None:
    batch_id = sandbox.add_batch(WITHHELD, WITHHELD, WITHHELD)
    process = start(sandbox, tmp_path, "fetch", "--batch-id", batch_id, "--dask", cluster.address)
    try:
        until(lambda: process.poll() is not None or sum(gets(sandbox, batch_id)) == 2)
        process.send_signal(signal.SIGTERM)
    finally:
        ran = end(process)
    assert (ran.code, ran.out) == (143, "")
    assert ran.last_line.startswith("error: stopped by a signal")
    for job_id in sandbox.jobs_of(batch_id):
        change(sandbox, job_id, hash_delay_looks=0)
    until(lambda: len(list(tmp_path.glob("*.receipt.json"))) == 2)
    assert sorted(gets(sandbox, batch_id)) == [0, 1, 1]  # what was not begun is forgotten
    rest = fetch(sandbox, tmp_path, batch_id, cluster.address)
    assert rest.code == 0, rest.err
    assert gets(sandbox, batch_id) == [1, 1, 1]


@needs_dask
def test_a_sharded_cluster_is_pulled_by_the_workers_and_only_once(
    sandbox: Sandbox, cluster: Cluster, tmp_path: Path
) -> None:
    made, newest = len(creations(sandbox)), sandbox.add_snapshot()
    first = run(sandbox, tmp_path, "pull", "--dask", cluster.address)
    assert first.code == 0, first.err
    assert "the Dask cluster has 2 workers" in first.err
    (path,) = batch_receipts(tmp_path)
    receipt = json.loads(path.read_bytes())
    assert receipt["snapshot_id"] == newest
    assert first.out.splitlines() == expected_paths(sandbox, tmp_path, receipt["batch_id"])
    again = run(sandbox, tmp_path, "pull", "--dask", NOWHERE)
    assert (again.code, again.out) == (0, first.out)
    assert gets(sandbox, receipt["batch_id"]) == [1, 1, 1]
    assert len(creations(sandbox)) == made + 1


@needs_dask
def test_a_scheduler_that_is_lost_is_12_and_another_run_does_the_rest(sandbox: Sandbox, tmp_path: Path) -> None:
    place, out_dir = tmp_path / "dask", tmp_path / "out"
    place.mkdir()
    batch_id = sandbox.add_batch(SILENT, SILENT, SILENT)
    parts = [part_of(sandbox, out_dir, job_id) for job_id in sandbox.jobs_of(batch_id)]
    with dask_cluster(place, {KEY_VARIABLE: sandbox.private_key}) as own:
        own.have_workers(1)
        process = start(sandbox, out_dir, "fetch", "--batch-id", batch_id, "--dask", own.address)
        try:
            until(lambda: process.poll() is not None or any(map(has_bytes, parts)))
            (part,) = filter(has_bytes, parts)
            own.worker_with(part).kill()
            own.scheduler.kill()
        finally:
            ran = end(process)
    assert (ran.code, ran.out) == (12, "")
    assert "scheduler" in ran.last_line
    for job_id in sandbox.jobs_of(batch_id):
        change(sandbox, job_id, cut_at=None)
    rest = run(sandbox, out_dir, "fetch", "--batch-id", batch_id)
    assert rest.code == 0, rest.err


# Without one


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of somebody who lets others connect, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


@needs_dask
@pytest.mark.parametrize("says", ["refused", "silent"])
def test_a_scheduler_out_of_reach_is_12(
    sandbox: Sandbox, silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "0.5s")
    address = silent if says == "silent" else NOWHERE
    batch_id = sandbox.add_batch(READY, READY, READY)
    ran = fetch(sandbox, tmp_path, batch_id, address)
    assert (ran.code, ran.out) == (12, "")
    assert ran.last_line.startswith(f"error: the Dask scheduler at {address} cannot be reached")
    assert gets(sandbox, batch_id) == [0, 0, 0]


@needs_dask
def test_something_else_at_that_address_is_2(sandbox: Sandbox, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE_SECONDS)
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        process = start(sandbox, tmp_path, "fetch", "--batch-id", sandbox.batch_id, "--dask", address)
        try:
            peer, _ = server.accept()
            with peer:
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                process.wait(PATIENCE_SECONDS)
        finally:
            ran = end(process)
    assert (ran.code, ran.out) == (2, "")
    assert ran.last_line.startswith(f"error: Dask cannot connect to {address}")


@needs_dask
@pytest.mark.parametrize("certificate", [None, "missing.pem"])
def test_tls_without_certificates_is_2(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certificate: str | None
) -> None:
    if certificate:
        for name in ("CA_FILE", "CLIENT__CERT", "CLIENT__KEY"):
            monkeypatch.setenv(f"DASK_DISTRIBUTED__COMM__TLS__{name}", str(tmp_path / certificate))
    ran = fetch(sandbox, tmp_path, sandbox.batch_id, "tls://127.0.0.1:1")
    assert (ran.code, ran.out) == (2, "")
    assert "certificate" in ran.last_line


@pytest.mark.parametrize("address", ["127.0.0.1:8786", "tcp://127.0.0.1", "http://127.0.0.1:8786", "tcp://a b:1"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="--dask must be like"):
        DaskWorkers(address)


@pytest.mark.parametrize("command", ["fetch", "pull"])
def test_without_the_extra_it_is_named(
    sandbox: Sandbox,
    tmp_path: Path,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.setenv(KEY_VARIABLE, sandbox.private_key)
    line = batch_support.command_line(sandbox, tmp_path, command, "--dask", "tcp://127.0.0.1:8786")[3:]
    batch = ["--batch-id", sandbox.batch_id] if command == "fetch" else []
    asked = len(sandbox.requests)
    assert main([*line, *batch]) == 2
    assert "restore-fetch[dask]" in capsys.readouterr().err
    assert len(sandbox.requests) == asked


# The key


def test_no_key_is_sent_to_workers_but_its_place(sandbox: Sandbox, tmp_path: Path) -> None:
    path = key_file(sandbox, tmp_path)
    for extra, environ in [
        ({"private_key_file": Given(str(path), "--private-key-file")}, {}),
        ({"private_key_command": Given(f"cat {path}", "--private-key-command")}, {}),
        ({}, {KEY_VARIABLE: sandbox.private_key}),
    ]:
        here = resolve_connection(given(sandbox) | extra, environ, config_folder=tmp_path)
        sent = pickle.dumps(here.without_secret())
        assert sandbox.private_key.encode() not in sent
        there = pickle.loads(sent)
        assert there.private_key is None
        assert there.with_secret(environ).private_key == here.private_key


def test_a_secret_of_a_service_account_stays_here_too(sandbox: Sandbox, tmp_path: Path) -> None:
    values = given(sandbox) | {"service": Given("atlas-v2", "--service")}
    del values["public_key"]
    environ = {"MONGODB_ATLAS_CLIENT_ID": "mdb_sa_id_1", "MONGODB_ATLAS_CLIENT_SECRET": "mdb_sa_sk_1234"}
    here = resolve_connection(values, environ, config_folder=tmp_path)
    sent = pickle.dumps(here.without_secret())
    assert b"mdb_sa_sk_1234" not in sent
    assert pickle.loads(sent).with_secret(environ).client_secret == here.client_secret


def test_a_worker_without_the_key_says_so(sandbox: Sandbox, tmp_path: Path) -> None:
    here = resolve_connection(given(sandbox), {KEY_VARIABLE: sandbox.private_key}, config_folder=tmp_path)
    result = fetch_one(Unit(here.without_secret(), batch_support.options(tmp_path), sandbox.job_id))
    assert isinstance(result.error, ConfigurationError)
    assert KEY_VARIABLE in str(result.error)


@needs_dask
def test_a_key_that_workers_cannot_read_by_themselves_is_2(sandbox: Sandbox, tmp_path: Path) -> None:
    folder = tmp_path / "config" / "atlascli"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(f'[default]\nprivate_api_key = "{sandbox.private_key}"\n')
    line = batch_support.command_line(sandbox, tmp_path, "fetch", "--batch-id", sandbox.batch_id, "--dask", NOWHERE)
    environ = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
    environ |= {"XDG_CONFIG_HOME": str(folder.parent), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(line, env=environ, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "never" in done.stderr
    assert sandbox.private_key not in done.stderr


def given(sandbox: Sandbox) -> dict[str, Given]:
    values = {
        "base_url": sandbox.base_url,
        "project_id": sandbox.project_id,
        "cluster": sandbox.cluster,
        "public_key": sandbox.public_key,
    }
    return {name: Given(value, "--" + name.replace("_", "-")) for name, value in values.items()}


# The folder


class Elsewhere(Executor):
    """A worker that does not share the folder: what it sees under that path is a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        (unit,) = args
        future: Future[Any] = Future()
        result = fn(replace(unit, options=replace(unit.options, out_dir=self._folder)))
        future.set_result(result)
        return future


def test_what_a_worker_keeps_on_its_own_disk_is_not_taken_for_a_backup(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("restore_fetch.batch_shelf._APPEARS_SECONDS", 0.2)
    monkeypatch.setattr("restore_fetch.batch_shelf._LOOK_SECONDS", 0.1)
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    batch_id = sandbox.add_batch(READY, READY, READY)
    with pytest.raises(Exception, match="3 of 3 jobs") as caught:
        fetch_batch(
            batch_support.connection(sandbox), batch_id, batch_support.options(here), executor=Elsewhere(there)
        )
    failures = caught.value.failures  # type: ignore[attr-defined]
    assert len(failures) == 3
    assert all(isinstance(error, StorageError) for error in failures.values())
    assert not list(here.glob("batch-*"))
    assert len(list(there.glob("*.tar.gz"))) == 3


def test_a_worker_that_does_not_see_the_folder_downloads_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    batch_id = sandbox.add_batch(READY, READY, READY)
    executor = Elsewhere(tmp_path / "nowhere")
    with pytest.raises(Exception, match="does not see the folder"):
        fetch_batch(
            batch_support.connection(sandbox), batch_id, batch_support.options(tmp_path / "here"), executor=executor
        )
    assert gets(sandbox, batch_id) == [0, 0, 0]
    assert not (tmp_path / "nowhere").exists()
