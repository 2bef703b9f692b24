"""`--dask`: a batch by the workers of a Dask cluster, as a user runs it."""

from __future__ import annotations

import importlib.util
import json
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from restore_fetch import fetch_batch
from restore_fetch.crews import Unit, fetch_one
from restore_fetch.errors import ConfigurationError, StorageError
from restore_fetch.sandbox import SCENARIOS, Sandbox
from restore_fetch.settings import resolve_connection
from restore_fetch.sources import Given
from tests import batch_support
from tests.batch_support import end, expected_paths, run, start
from tests.command_support import key_file
from tests.dask_support import PATIENCE_SECONDS, Cluster, dask_cluster

READY = replace(SCENARIOS["normal"], polls_until_finished=0)
SLOW = replace(READY, bytes_per_second=6000)
KEY_VARIABLE = "MONGODB_ATLAS_PRIVATE_API_KEY"
needs_dask = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="the extra dask is not installed"
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=16384) as sandbox:
        yield sandbox
        assert sandbox.errors == []


@pytest.fixture(scope="module")
def cluster(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    variables = {KEY_VARIABLE: sandbox.private_key, "NO_PROXY": "127.0.0.1"}
    with dask_cluster(tmp_path_factory.mktemp("dask"), variables) as cluster:
        yield cluster


def fetch(sandbox: Sandbox, out_dir: Path, batch_id: str, address: str, *arguments: str) -> Any:
    return run(sandbox, out_dir, "fetch", "--batch-id", batch_id, "--dask", address, *arguments)


def gets(sandbox: Sandbox, batch_id: str) -> list[int]:
    return [sandbox.delivery_gets(job_id) for job_id in sandbox.jobs_of(batch_id)]


def arriving(folder: Path) -> int:
    """How many downloads have brought bytes so far."""
    return sum(1 for path in folder.glob("*.part") if path.stat().st_size)


def wait_until(happened: Any) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# A cluster that runs


@needs_dask
def test_a_batch_is_verified_by_the_workers_and_the_second_run_needs_no_scheduler(
    sandbox: Sandbox, cluster: Cluster, tmp_path: Path
) -> None:
    batch_id = sandbox.add_batch("normal", "late-hash", "normal")
    with cluster.worker("whole-1"), cluster.worker("whole-2"):
        ran = fetch(sandbox, tmp_path, batch_id, cluster.address, "--log-format", "json")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == expected_paths(sandbox, tmp_path, batch_id)
    assert gets(sandbox, batch_id) == [1, 1, 1]
    events = [json.loads(line)["event"] for line in ran.err.splitlines()]
    assert "workers" in events
    receipt = json.loads((tmp_path / f"batch-{batch_id}.receipt.json").read_bytes())
    assert {member["job_id"] for member in receipt["members"]} == set(sandbox.jobs_of(batch_id))
    assert not list(tmp_path.glob(".restore-fetch-*"))
    again = fetch(sandbox, tmp_path, batch_id, "tcp://127.0.0.1:1")
    assert (again.code, again.out) == (0, ran.out)


@needs_dask
def test_the_batch_ends_verified_although_a_worker_is_killed_in_the_middle(
    sandbox: Sandbox, cluster: Cluster, tmp_path: Path
) -> None:
    batch_id = sandbox.add_batch(*[replace(SLOW, max_downloads=2)] * 3)
    with cluster.worker("survivor"), cluster.worker("victim") as victim:
        process = start(sandbox, tmp_path, "fetch", "--batch-id", batch_id, "--dask", cluster.address)
        try:
            wait_until(lambda: process.poll() is not None or arriving(tmp_path) == 2)
            assert process.poll() is None
            victim.kill()
        finally:
            ran = end(process)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == expected_paths(sandbox, tmp_path, batch_id)
    assert sorted(gets(sandbox, batch_id)) == [1, 1, 2]
    for job_id in sandbox.jobs_of(batch_id):
        receipt = json.loads((tmp_path / f"{sandbox.file_name(job_id)}.receipt.json").read_bytes())
        outcomes = [attempt["outcome"] for attempt in receipt["attempts"]]
        assert len(outcomes) == sandbox.delivery_gets(job_id)  # also the one that died was counted
        assert outcomes[-1] == "complete"
        assert receipt["sha1"] == sandbox.archive(job_id).sha1
    assert len(list(tmp_path.glob("batch-*"))) == 1
    assert not list(tmp_path.glob("*.part*"))
    assert not list(tmp_path.glob(".restore-fetch-*"))


@needs_dask
def test_two_runs_by_the_same_workers_download_each_part_once(
    sandbox: Sandbox, cluster: Cluster, tmp_path: Path
) -> None:
    batch_id = sandbox.add_batch(READY, SLOW, READY)
    arguments = ("fetch", "--batch-id", batch_id, "--dask", cluster.address)
    with cluster.worker("both-1"), cluster.worker("both-2"):
        processes = [start(sandbox, tmp_path, *arguments) for _ in range(2)]
        ends = [end(process) for process in processes]
    assert [ran.code for ran in ends] == [0, 0], [ran.err for ran in ends]
    assert ends[0].out == ends[1].out
    assert gets(sandbox, batch_id) == [1, 1, 1]


@needs_dask
def test_one_bad_part_gives_17_and_workers_tell_no_secret(
    sandbox: Sandbox, cluster: Cluster, tmp_path: Path
) -> None:
    batch_id = sandbox.add_batch(READY, replace(READY, hash_kind="wrong"), READY)
    with cluster.worker("bad"):
        ran = fetch(sandbox, tmp_path, batch_id, cluster.address, "--hash-wait", "0", "--retries", "0")
    assert ran.code == 17
    assert len(ran.out.splitlines()) == 2
    assert sandbox.jobs_of(batch_id)[1] in ran.last_line
    assert not list(tmp_path.glob("batch-*"))


@needs_dask
def test_a_signal_ends_the_run_and_what_a_worker_has_begun_comes_to_its_end(
    sandbox: Sandbox, cluster: Cluster, tmp_path: Path
) -> None:
    batch_id = sandbox.add_batch(SLOW, SLOW, SLOW)
    with cluster.worker("single"):
        process = start(sandbox, tmp_path, "fetch", "--batch-id", batch_id, "--dask", cluster.address)
        try:
            wait_until(lambda: process.poll() is not None or arriving(tmp_path) == 1)
            process.send_signal(signal.SIGTERM)
        finally:
            ran = end(process)
        assert (ran.code, ran.out) == (143, "")
        assert ran.last_line.startswith("error: stopped by a signal")
        wait_until(lambda: len(list(tmp_path.glob("*.receipt.json"))) == 1)
        rest = fetch(sandbox, tmp_path, batch_id, cluster.address)
    assert rest.code == 0, rest.err
    assert gets(sandbox, batch_id) == [1, 1, 1]


@needs_dask
def test_a_scheduler_that_is_lost_is_12_and_another_run_does_the_rest(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "1s")
    place, out_dir = tmp_path / "dask", tmp_path / "out"
    place.mkdir()
    batch_id = sandbox.add_batch(SLOW, SLOW, SLOW)
    with dask_cluster(place, {KEY_VARIABLE: sandbox.private_key}) as own, own.worker("lonely") as worker:
        process = start(sandbox, out_dir, "fetch", "--batch-id", batch_id, "--dask", own.address)
        try:
            wait_until(lambda: process.poll() is not None or arriving(out_dir) == 1)
            worker.kill()
            own.process.kill()
        finally:
            ran = end(process)
    assert (ran.code, ran.out) == (12, "")
    assert "scheduler" in ran.last_line
    rest = run(sandbox, out_dir, "fetch", "--batch-id", batch_id)
    assert rest.code == 0, rest.err


# Without one


@needs_dask
def test_a_scheduler_out_of_reach_is_12(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "0.5s")
    batch_id = sandbox.add_batch(READY, READY, READY)
    ran = fetch(sandbox, tmp_path, batch_id, "tcp://127.0.0.1:1")
    assert (ran.code, ran.out) == (12, "")
    assert ran.last_line.startswith("error: the Dask scheduler at tcp://127.0.0.1:1 cannot be reached")
    assert gets(sandbox, batch_id) == [0, 0, 0]


@needs_dask
def test_tls_without_certificates_is_2(sandbox: Sandbox, tmp_path: Path) -> None:
    ran = fetch(sandbox, tmp_path, sandbox.add_batch(READY, READY, READY), "tls://127.0.0.1:1")
    assert (ran.code, ran.out) == (2, "")
    assert "certificates" in ran.last_line


@needs_dask
@pytest.mark.parametrize("address", ["127.0.0.1:8786", "tcp://127.0.0.1", "http://127.0.0.1:8786", "tcp://a b:1"])
def test_an_address_that_is_none_is_2(sandbox: Sandbox, tmp_path: Path, address: str) -> None:
    ran = fetch(sandbox, tmp_path, "5" * 24, address)
    assert (ran.code, ran.out) == (2, "")
    assert "--dask" in ran.last_line


@pytest.mark.parametrize("command", ["fetch", "pull"])
def test_without_the_extra_it_is_named(
    sandbox: Sandbox,
    tmp_path: Path,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from restore_fetch.cli.main import main

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
    line = batch_support.command_line(
        sandbox, tmp_path, "fetch", "--batch-id", sandbox.batch_id, "--dask", "tcp://127.0.0.1:1"
    )
    import os
    import subprocess

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
