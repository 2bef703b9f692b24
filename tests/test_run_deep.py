"""Whole runs that look into the archive: with `--deep`, and where no hash is published."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from restore_fetch.sandbox import Sandbox
from tests.archive_support import data_directory, look, member, packed, serve
from tests.run_support import Outcome, add_job, names_in, published, run

SIZE = 300_000
WHOLE = packed()
NOT_PROVEN = "no hash was published, so nothing proves that these are the bytes the service made"


def cloud() -> Sandbox:
    return Sandbox(service="atlas-cloud", size_bytes=SIZE, polls=0)


def fetch(sandbox: Sandbox, folder: Path, *arguments: str) -> Outcome:
    return run(
        sandbox, folder, "fetch", *arguments, environ={"RESTORE_FETCH_SERVICE": sandbox.description()["service"]}
    )


def verify(sandbox: Sandbox, folder: Path, *arguments: str) -> Outcome:
    return run(
        sandbox, folder, "verify", *arguments, environ={"RESTORE_FETCH_SERVICE": sandbox.description()["service"]}
    )


# --- services that publish hashes


def test_a_deep_fetch_fills_the_receipt(tmp_path):
    with Sandbox(size_bytes=SIZE, polls=0) as sandbox:
        name = sandbox.file_name(sandbox.job_id)
        done = fetch(sandbox, tmp_path, "--deep")
        assert done.code == 0, done.stderr
        receipt = done.json_of(f"{name}.receipt.json")
        assert receipt["verdict"] == "verified"
        assert receipt["checks"] == {"length": True, "hash": True, "gzip": True, "tar": True}
        expected = look(sandbox.archive(sandbox.job_id).path.read_bytes()).archive
        assert receipt["archive"] == expected.model_dump(mode="json")
        assert receipt["archive"]["data_directory"] is True
        assert receipt["archive"]["restore_info"]["MongoDB Version"] == "4.0.28"
        assert done.last_line.endswith("and its structure is whole")


def test_without_deep_the_structure_counts_as_not_checked(tmp_path):
    with Sandbox(size_bytes=SIZE, polls=0) as sandbox:
        done = fetch(sandbox, tmp_path, "--json")
        assert done.code == 0, done.stderr
        receipt = json.loads(done.stdout)
        assert receipt["checks"] == {"length": True, "hash": True, "gzip": None, "tar": None}
        assert not {"archive", "proves"} & set(receipt)


def test_an_archive_that_the_service_damaged_is_rejected_although_its_hash_is_right(tmp_path):
    with Sandbox(size_bytes=SIZE, scenario="damaged") as sandbox:
        name = sandbox.file_name(sandbox.job_id)
        done = fetch(sandbox, tmp_path, "--deep")
        assert done.code == 17
        assert "the archive is DAMAGED: the CRC of gzip member 1 is wrong" in done.last_line
        assert "its SHA1 is the published one, so the service itself made it so" in done.last_line
        assert names_in(tmp_path) == {f"{name}.rejected", f"{name}.rejected.json"}
        assert "CRC" in done.json_of(f"{name}.rejected.json")["finding"]
        archive = sandbox.archive(sandbox.job_id)
        assert hashlib.sha1(done.bytes_of(f"{name}.rejected")).hexdigest() == archive.sha1

        again = verify(sandbox, tmp_path, "--deep", str(tmp_path / f"{name}.rejected"))
        assert again.code == 17


def test_of_a_wrong_hash_and_a_damaged_archive_the_hash_is_told(tmp_path):
    with Sandbox(size_bytes=SIZE, polls=0) as sandbox:
        job_id = add_job(sandbox, "damaged", hash_kind="wrong")
        done = fetch(sandbox, tmp_path, job_id, "--deep", "--hash-wait", "0.1s")
        assert done.code == 17
        assert "HASH MISMATCH" in done.last_line


def test_a_deep_fetch_that_was_cut_looks_at_all_of_it(tmp_path):
    with Sandbox(size_bytes=SIZE, polls=0, scenario="cut-download") as sandbox:
        name = sandbox.file_name(sandbox.job_id)
        first = fetch(sandbox, tmp_path, "--deep", "--retries", "0")
        assert first.code == 16
        assert f"{name}.part" in first.names
        second = fetch(sandbox, tmp_path, "--deep")
        assert second.code == 0, second.stderr
        receipt = second.json_of(f"{name}.receipt.json")
        assert receipt["attempts"][1]["resumed_from"] > 0
        assert (receipt["checks"]["gzip"], receipt["checks"]["tar"]) == (True, True)
        assert receipt["archive"] == look((tmp_path / name).read_bytes()).archive.model_dump(mode="json")


def test_an_attempt_that_goes_on_in_the_same_run_is_looked_at_whole(tmp_path):
    with Sandbox(size_bytes=SIZE, polls=0, scenario="cut-download") as sandbox:
        done = fetch(sandbox, tmp_path, "--deep", "--json")
        assert done.code == 0, done.stderr
        receipt = json.loads(done.stdout)
        assert [attempt["outcome"] for attempt in receipt["attempts"]][-1] == "complete"
        assert len(receipt["attempts"]) == 2
        assert receipt["checks"]["tar"] is True


def test_a_whole_archive_that_waits_for_its_hash_stays_unverified(tmp_path):
    with Sandbox(size_bytes=SIZE, polls=0) as sandbox:
        job_id = add_job(sandbox, "no-hash")
        name = sandbox.file_name(job_id)
        first = fetch(sandbox, tmp_path, job_id, "--deep", "--hash-wait", "0")
        assert first.code == 18
        assert f"{name}.unverified" in first.names
        let_through = fetch(sandbox, tmp_path, job_id, "--deep", "--hash-wait", "0", "--allow-unverified")
        assert let_through.code == 0, let_through.stderr
        receipt = let_through.json_of(f"{name}.receipt.json")
        assert receipt["verdict"] == "unverified"
        assert receipt["checks"]["tar"] is True
        assert sandbox.delivery_gets(job_id) == 1


def test_a_hostile_member_is_reported_and_nothing_is_unpacked(tmp_path):
    with Sandbox(size_bytes=SIZE, polls=0) as sandbox:
        name = sandbox.file_name(sandbox.job_id)
        serve(sandbox, sandbox.job_id, packed([*data_directory(), member("../../etc/passwd", b"root")]))
        done = fetch(sandbox, tmp_path, "--deep")
        assert done.code == 0, done.stderr
        assert "would leave the folder" in done.stderr
        assert "../../etc/passwd" in done.stderr
        assert done.json_of(f"{name}.receipt.json")["archive"]["outside"] == ["../../etc/passwd"]
        assert names_in(tmp_path) == published(name)


# --- a service that publishes none


def test_a_whole_archive_without_a_hash_is_published_and_said_to_be_no_more_than_whole(tmp_path):
    with cloud() as sandbox:
        done = fetch(sandbox, tmp_path)
        assert done.code == 0, done.stderr
        (path,) = map(Path, done.stdout.splitlines())
        assert names_in(tmp_path) == published(path.name)
        receipt = done.json_of(f"{path.name}.receipt.json")
        assert receipt["verdict"] == "structure"
        assert receipt["published_hash"] is None
        assert (receipt["checks"]["hash"], receipt["checks"]["gzip"], receipt["checks"]["tar"]) == (
            None,
            True,
            True,
        )
        assert receipt["proves"].endswith(NOT_PROVEN)
        assert done.last_line.endswith(NOT_PROVEN)
        assert "the archive is whole: gzip CRC and tar structure" in done.last_line
        assert "verified" not in done.last_line

        again = fetch(sandbox, tmp_path)
        assert (again.code, again.stdout) == (0, done.stdout)
        assert again.last_line.endswith(NOT_PROVEN)
        assert sandbox.delivery_gets() == 1


def test_verify_of_such_an_archive_compares_it_with_its_receipt(tmp_path):
    with cloud() as sandbox:
        path = Path(fetch(sandbox, tmp_path).stdout.strip())
        for options in ((), ("--deep",), ("--online",), ("--online", "--deep")):
            done = verify(sandbox, tmp_path, str(path), "--json", *options)
            assert done.code == 0, (options, done.stderr)
            (result,) = json.loads(done.stdout)["results"]
            assert result["verdict"] == "structure"
            assert done.last_line.endswith(NOT_PROVEN)
            assert ("archive" in result) == ("--deep" in options)

        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        assert verify(sandbox, tmp_path, str(path), "--deep").code == 17
        assert "HASH MISMATCH" in verify(sandbox, tmp_path, str(path)).last_line


DAMAGED = {
    "cut": WHOLE[: len(WHOLE) // 2],
    "cut in the trailer": WHOLE[:-1],
    "trailing rubbish": WHOLE + b"rubbish",
    "flipped bit": WHOLE[:3000] + bytes([WHOLE[3000] ^ 1]) + WHOLE[3001:],
    "no archive": b"an error page" * 100,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_archive_without_a_hash_is_rejected(tmp_path, content):
    with cloud() as sandbox:
        name = sandbox.file_name(sandbox.job_id)
        serve(sandbox, sandbox.job_id, content)
        done = fetch(sandbox, tmp_path, "--allow-unverified")
        assert done.code == 17, done.stderr
        assert "the archive is DAMAGED" in done.last_line
        assert names_in(tmp_path) == {f"{name}.rejected", f"{name}.rejected.json"}
        assert done.bytes_of(f"{name}.rejected") == content
        assert sandbox.delivery_gets() == 1


def test_a_cut_that_the_framing_hides_is_found_by_the_structure(tmp_path):
    with cloud() as sandbox:
        job_id = add_job(sandbox, "cut-close")
        name = sandbox.file_name(job_id)
        done = fetch(sandbox, tmp_path, job_id)
        assert done.code == 17, done.stderr
        assert "the file ends in the middle of gzip member 1" in done.last_line
        assert names_in(tmp_path) == {f"{name}.rejected", f"{name}.rejected.json"}

        again = fetch(sandbox, tmp_path, job_id)
        assert again.code == 0, again.stderr
        assert again.json_of(f"{name}.receipt.json")["verdict"] == "structure"


def test_a_batch_of_such_archives_says_so_in_its_receipt(tmp_path):
    with cloud() as sandbox:
        done = fetch(sandbox, tmp_path, sandbox.batch_id)
        assert done.code == 0, done.stderr
        assert len(done.stdout.splitlines()) == 3
        (batch,) = tmp_path.glob("batch-*.receipt.json")
        assert json.loads(batch.read_text())["verdict"] == "structure"
        assert "nothing proves" in done.last_line

        logged = fetch(sandbox, tmp_path / "logged", sandbox.batch_id, "--log-format", "json").stderr
        last = json.loads(logged.splitlines()[-1])
        assert (last["event"], last["level"]) == ("batch-structure", "warning")
        assert "verified" not in logged

        again = fetch(sandbox, tmp_path, sandbox.batch_id)
        assert (again.code, again.stdout) == (0, done.stdout)
        assert "is here already, whole; " in again.last_line
        assert "nothing proves" in again.last_line
        assert "verified" not in again.stderr


def test_nobody_waits_for_a_hash_that_is_never_published(tmp_path):
    with cloud() as sandbox:
        done = fetch(sandbox, tmp_path)
        assert done.code == 0, done.stderr
        assert "waiting for the service to publish the hash" not in done.stderr


def test_a_pull_of_what_is_here_says_what_speaks_for_it(tmp_path):
    with cloud() as sandbox:
        environ = {"RESTORE_FETCH_SERVICE": sandbox.description()["service"]}
        pulled = run(sandbox, tmp_path, "pull", environ=environ)
        assert pulled.code == 0, pulled.stderr
        again = run(sandbox, tmp_path, "pull", environ=environ)
        assert (again.code, again.stdout) == (0, pulled.stdout)
        assert "nothing proves" in again.last_line
        assert "verified" not in again.stderr

        seen = run(sandbox, tmp_path, "doctor", environ=environ)
        assert seen.code == 0, seen.stderr
        assert "is here and whole, though no hash of it was published" in seen.stdout
        batch_id = next(tmp_path.glob("batch-*.receipt.json")).name.split("-")[1].split(".")[0]
        status = run(sandbox, tmp_path, "status", "--batch-id", batch_id, environ=environ)
        assert "3 jobs, all of it is here and whole; not for each was a hash published" in status.stdout
        assert "verified" not in status.stdout
        listed = run(sandbox, tmp_path, "status", "--json", environ=environ)
        assert "structure" in {one["here"]["standing"] for one in json.loads(listed.stdout)["snapshots"]}


# --- verify


def test_verify_deep_finds_damage_behind_a_right_hash(tmp_path):
    content = WHOLE[:3000] + bytes([WHOLE[3000] ^ 1]) + WHOLE[3001:]
    path = tmp_path / "x.tar.gz"
    path.write_bytes(content)
    sha1 = hashlib.sha1(content).hexdigest()
    with Sandbox(size_bytes=SIZE) as sandbox:
        assert verify(sandbox, tmp_path, str(path), "--sha1", sha1).code == 0
        done = verify(sandbox, tmp_path, str(path), "--sha1", sha1, "--deep", "--json")
        assert done.code == 17
        (result,) = json.loads(done.stdout)["results"]
        assert (result["verdict"], result["error"]) == ("damaged", "ArchiveDamagedError")
        assert "DAMAGED" in done.last_line
        wrong = verify(sandbox, tmp_path, str(path), "--sha1", "0" * 40, "--deep")
        assert (wrong.code, "HASH MISMATCH" in wrong.last_line) == (17, True)
        assert path.read_bytes() == content
        assert names_in(tmp_path) == {"x.tar.gz"}


def test_verify_deep_of_a_whole_archive_that_nothing_speaks_for_is_not_success(tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(WHOLE)
    with Sandbox(size_bytes=SIZE) as sandbox:
        done = verify(sandbox, tmp_path, str(path), "--deep")
        assert done.code == 18
        assert "its structure is whole, which proves no more than that" in done.last_line
