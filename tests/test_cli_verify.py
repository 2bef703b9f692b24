"""`restore-fetch verify`: every form, and what each of them finds."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from restore_fetch.receipts import read_record, receipt_path, write_receipt
from restore_fetch.records import Receipt
from restore_fetch.sandbox import SCENARIOS, Sandbox
from tests.command_support import FAST, Ran, assert_no_secret, connection_flags, run_here
from tests.wire_support import unused_port


@dataclass
class Place:
    """A sandbox, a folder for archives, and the flags that lead to the sandbox."""

    sandbox: Sandbox
    folder: Path
    flags: list[str]
    capsys: pytest.CaptureFixture[str]

    def run(self, *arguments: object) -> Ran:
        ran = run_here(self.capsys, *arguments)
        assert_no_secret(self.sandbox, ran.out, ran.err)
        return ran

    def fetch(self, job: str, *options: object) -> Ran:
        return self.run("fetch", job, *self.flags, *FAST, "--out-dir", self.folder, *options)

    def fetched(self, scenario: str = "normal") -> Path:
        """A published archive of the job that plays a scenario."""
        job = self.sandbox.job_for(scenario)
        ran = self.fetch(job)
        assert ran.code == 0, ran.err
        return self.folder / self.sandbox.file_name(job)

    def unverified(self, scenario: str = "late-hash") -> Path:
        """An archive that was received before its hash was published."""
        job = self.sandbox.job_for(scenario)
        assert self.fetch(job, "--hash-wait", "0").code == 18
        return self.folder / f"{self.sandbox.file_name(job)}.unverified"

    def digest(self) -> object:
        """Whatever the folder holds, to see that nothing was changed."""
        return {path.name: path.read_bytes() for path in sorted(self.folder.iterdir())}


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Place]:
    with Sandbox(size_bytes=64 * 1024, polls=0) as sandbox:
        folder = tmp_path / "archives"
        yield Place(sandbox, folder, connection_flags(sandbox, tmp_path), capsys)


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _assert_one_error(ran: Ran, code: int, *words: str) -> None:
    assert ran.code == code
    assert not ran.out
    assert ran.last.startswith("error: ")
    assert ran.err.count("error: ") == 1
    for word in words:
        assert word in ran.last


# --- offline ---------------------------------------------------------------------------------------------


def test_an_archive_is_verified_against_its_receipt(place: Place) -> None:
    path = place.fetched()
    requests = len(place.sandbox.requests)
    ran = place.run("verify", path)
    assert (ran.code, ran.out) == (0, f"{path}\n")
    assert "receipt" in ran.err
    assert len(place.sandbox.requests) == requests, "verify is offline unless asked"


def test_without_a_receipt_the_sha1_file_is_taken(place: Place) -> None:
    path = place.fetched()
    path.with_name(f"{path.name}.receipt.json").unlink()
    ran = place.run("verify", path)
    assert (ran.code, ran.out) == (0, f"{path}\n")
    assert f"{path.name}.sha1" in ran.err
    _flip_a_bit(path)
    _assert_one_error(place.run("verify", path), 17, "HASH MISMATCH")


def test_the_sha1_file_is_one_that_sha1sum_takes(place: Place) -> None:
    path = place.fetched()
    checked = subprocess.run(
        ["sha1sum", "-c", f"{path.name}.sha1"], cwd=place.folder, capture_output=True, text=True, check=False
    )
    assert checked.stdout == f"{path.name}: OK\n"


def test_a_sha1_file_of_sha1sum_is_taken(place: Place, tmp_path: Path) -> None:
    for option in ((), ("-b",)):
        (tmp_path / "old.tar").write_bytes(b"an archive of last year")
        made = subprocess.run(
            ["sha1sum", *option, "old.tar"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        (tmp_path / "old.tar.sha1").write_text(made.stdout)
        assert place.run("verify", tmp_path / "old.tar").code == 0


def test_a_receipt_or_sha1_file_stands_for_its_archive(place: Place) -> None:
    path = place.fetched()
    for suffix in (".receipt.json", ".sha1"):
        assert place.run("verify", f"{path}{suffix}").out == f"{path}\n"


def test_one_flipped_bit_is_a_mismatch_and_nothing_is_touched(place: Place) -> None:
    path = place.fetched()
    _flip_a_bit(path)
    before = place.digest()
    ran = place.run("verify", path)
    _assert_one_error(ran, 17, "HASH MISMATCH", path.name, "left untouched")
    assert place.digest() == before


@pytest.mark.parametrize("change", ["shorter", "longer", "empty"])
def test_an_archive_of_another_length_is_a_mismatch(place: Place, change: str) -> None:
    path = place.fetched()
    content = path.read_bytes()
    path.write_bytes({"shorter": content[:-1], "longer": content + b"\0", "empty": b""}[change])
    _assert_one_error(place.run("verify", path), 17, "HASH MISMATCH")


def test_the_receipt_of_another_file_says_nothing(place: Place) -> None:
    path = place.fetched()
    other = path.with_name("renamed.tar.gz")
    path.rename(other)
    shutil.copy(f"{path}.receipt.json", f"{other}.receipt.json")
    _assert_one_error(place.run("verify", other), 19, "receipt of another file")


def test_a_damaged_receipt_is_never_believed(place: Place) -> None:
    path = place.fetched()
    receipt = Path(f"{path}.receipt.json")
    for content in ("", "{", receipt.read_text().replace('"verified"', '"perfect"'), "[]", "null"):
        receipt.write_text(content)
        _assert_one_error(place.run("verify", path), 19, "damaged")


def test_a_file_with_nothing_beside_it_is_unverified(place: Place, tmp_path: Path) -> None:
    (tmp_path / "stray.tar.gz").write_bytes(b"from somewhere")
    _assert_one_error(place.run("verify", tmp_path / "stray.tar.gz"), 18, "no receipt")


def test_what_waits_for_its_hash_is_unverified_offline(place: Place) -> None:
    path = place.unverified()
    before = place.digest()
    _assert_one_error(place.run("verify", path), 18, "no hash was published")
    assert place.digest() == before


def test_an_archive_let_through_without_a_hash_stays_unverified(place: Place) -> None:
    job = place.sandbox.job_for("no-hash")
    assert place.fetch(job, "--hash-wait", "0", "--allow-unverified").code == 0
    path = place.folder / place.sandbox.file_name(job)
    _assert_one_error(place.run("verify", path), 18, "no hash was published")
    _flip_a_bit(path)
    _assert_one_error(place.run("verify", path), 17)


def test_what_was_rejected_stays_rejected(place: Place) -> None:
    job = place.sandbox.job_for("wrong-hash")
    assert place.fetch(job, "--hash-wait", "0.1s").code == 17
    path = place.folder / f"{place.sandbox.file_name(job)}.rejected"
    _assert_one_error(place.run("verify", path), 17, "HASH MISMATCH")


@pytest.mark.parametrize("kind", ["missing", "folder", "link", "fifo"])
def test_what_is_no_file_is_told_and_not_followed(place: Place, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.tar.gz"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        (tmp_path / "target").write_bytes(b"x")
        path.symlink_to(tmp_path / "target")
    elif kind == "fifo":
        os.mkfifo(path)
    ran = place.run("verify", path, "--sha1", hashlib.sha1(b"x").hexdigest())
    _assert_one_error(ran, 19, "x.tar.gz")


# --- a hash, a saved answer ------------------------------------------------------------------------------


def test_a_given_sha1_decides_in_either_case(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "old.tar"
    path.write_bytes(b"an archive of last year")
    right = hashlib.sha1(path.read_bytes()).hexdigest()
    assert place.run("verify", path, "--sha1", right).out == f"{path}\n"
    assert place.run("verify", path, "--sha1", right.upper()).code == 0
    _assert_one_error(place.run("verify", path, "--sha1", "0" * 40), 17, right, "0" * 40)


def test_a_given_sha1_is_believed_rather_than_the_receipt(place: Place) -> None:
    path = place.fetched()
    _assert_one_error(place.run("verify", path, "--sha1", "0" * 40), 17)


def _saved_answer(place: Place, job: str, query: str = "") -> bytes:
    """The answer that `curl --digest` would have saved."""
    sandbox = place.sandbox
    path = f"/api/atlas/v1.0/groups/{sandbox.project_id}/clusters/{sandbox.cluster}/restoreJobs/{job}"
    auth = httpx.DigestAuth(sandbox.public_key, sandbox.private_key)
    with httpx.Client(auth=auth, trust_env=False) as client:
        return client.get(sandbox.base_url + path + query).raise_for_status().content


@pytest.mark.parametrize("query", ["", "?envelope=true", "?pretty=true", "?envelope=true&pretty=true"])
def test_a_saved_answer_decides_plain_or_enveloped(place: Place, tmp_path: Path, query: str) -> None:
    path = place.fetched()
    saved = tmp_path / "job.json"
    saved.write_bytes(_saved_answer(place, place.sandbox.job_id, query))
    ran = place.run("verify", path, "--job-json", saved)
    assert (ran.code, ran.out) == (0, f"{path}\n")
    assert "job.json" in ran.err
    _flip_a_bit(path)
    _assert_one_error(place.run("verify", path, "--job-json", saved), 17, "job.json")


def test_a_saved_answer_without_a_hash_verifies_nothing(place: Place, tmp_path: Path) -> None:
    path = place.fetched()
    saved = tmp_path / "job.json"
    saved.write_bytes(_saved_answer(place, place.sandbox.job_for("never-ready")))
    _assert_one_error(place.run("verify", path, "--job-json", saved), 18, "publishes no SHA1")


@pytest.mark.parametrize("content", ["", "{}", "[]", "<html>", '{"status": 200}', "{" * 100_000])
def test_something_else_than_a_saved_answer_is_refused(place: Place, tmp_path: Path, content: str) -> None:
    path = place.fetched()
    (tmp_path / "job.json").write_text(content)
    _assert_one_error(place.run("verify", path, "--job-json", tmp_path / "job.json"), 2, "job.json")


# --- the service -----------------------------------------------------------------------------------------


def test_online_publishes_what_waited_for_its_hash_without_another_download(place: Place) -> None:
    unproven = place.unverified()
    job = place.sandbox.job_for("late-hash")
    published = unproven.with_name(place.sandbox.file_name(job))
    for _ in range(4):  # the sandbox shows the hash after a few looks
        ran = place.run("verify", unproven, "--online", *place.flags)
        if ran.code == 0:
            break
        assert not published.exists()
    assert (ran.code, ran.out) == (0, f"{published}\n")
    assert not unproven.exists()
    assert json.loads(Path(f"{published}.receipt.json").read_text())["verdict"] == "verified"
    assert Path(f"{published}.sha1").exists()
    assert place.sandbox.delivery_gets(job) == 1


def test_online_never_publishes_what_was_changed_while_it_waited(place: Place) -> None:
    unproven = place.unverified()
    job = place.sandbox.job_for("late-hash")
    _flip_a_bit(unproven)
    changed = unproven.read_bytes()
    for _ in range(4):
        ran = place.run("verify", *place.folder.glob("*.unverified"), unproven, "--online", *place.flags)
        assert ran.code != 0
        assert not ran.out
    assert not (place.folder / place.sandbox.file_name(job)).exists()
    assert any(path.read_bytes() == changed for path in place.folder.iterdir()), "nothing is thrown away"


def test_online_another_verified_file_of_the_job_says_nothing_about_this_one(place: Place, tmp_path: Path) -> None:
    unproven = place.unverified()
    job = place.sandbox.job_for("late-hash")
    right = unproven.read_bytes()
    _flip_a_bit(unproven)
    elsewhere = tmp_path / "elsewhere"
    while place.run("fetch", job, *place.flags, *FAST, "--force", "--out-dir", elsewhere).code != 0:
        pass  # the sandbox shows the hash after a few looks
    archive = elsewhere / place.sandbox.file_name(job)
    receipt = read_record(receipt_path(archive), Receipt)
    assert receipt is not None
    other = place.folder / "other.tar.gz"
    other.write_bytes(right)
    write_receipt(other, receipt.model_copy(update={"file": other.name, "sha1": hashlib.sha1(right).hexdigest()}))
    ran = place.run("verify", unproven, "--online", *place.flags)
    assert ran.code == 17, ran.err
    assert not ran.out


def test_a_folder_is_not_verified_and_the_error_says_what_is(place: Place, tmp_path: Path) -> None:
    ran = place.run("verify", tmp_path)
    assert ran.code == 19
    assert "only a file can be verified" in ran.err
    assert "--out-dir" not in ran.err


def test_an_api_asked_in_the_clear_beyond_private_networks_is_warned_of(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = place.sandbox.job_for("normal")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_port()}")
    public = place.run("status", job, *place.flags, "--base-url", "http://api.example.com", "--allow-http")
    assert public.code == 12
    assert "http://api.example.com is asked over plain http" in public.err
    monkeypatch.delenv("http_proxy")
    assert "plain http" not in place.run("status", job, *place.flags, "--allow-http").err


def test_online_without_a_published_hash_keeps_the_file(place: Place) -> None:
    unproven = place.unverified("no-hash")
    content = unproven.read_bytes()
    ran = place.run("verify", unproven, "--online", *place.flags)
    _assert_one_error(ran, 18, "not verified")
    assert unproven.read_bytes() == content


def test_online_compares_a_published_archive_with_its_job(place: Place) -> None:
    path = place.fetched()
    before = place.digest()
    ran = place.run("verify", path, "--online", *place.flags)
    assert (ran.code, ran.out) == (0, f"{path}\n")
    assert place.sandbox.job_id in ran.err
    assert place.digest() == before
    assert place.sandbox.delivery_gets() == 1
    _flip_a_bit(path)
    _assert_one_error(place.run("verify", path, "--online", *place.flags), 17, "HASH MISMATCH")


def test_online_finds_the_job_of_a_rejected_file(place: Place) -> None:
    job = place.sandbox.job_for("wrong-hash")
    assert place.fetch(job, "--hash-wait", "0.1s").code == 17
    path = place.folder / f"{place.sandbox.file_name(job)}.rejected"
    _assert_one_error(place.run("verify", path, "--online", *place.flags), 17, "HASH MISMATCH")
    assert path.exists()


def test_online_takes_a_job_id_where_nothing_beside_the_file_names_one(place: Place, tmp_path: Path) -> None:
    archive = place.fetched()
    stray = tmp_path / archive.name
    shutil.copy(archive, stray)
    _assert_one_error(place.run("verify", stray, "--online", *place.flags), 2, "--job-id")
    ran = place.run("verify", stray, "--online", *place.flags, "--job-id", place.sandbox.job_id)
    assert (ran.code, ran.out) == (0, f"{stray}\n")


def test_online_says_whom_it_could_not_ask(place: Place) -> None:
    path = place.fetched()
    refused = place.run("verify", path, "--online", *place.flags, "--public-key", "somebody")
    _assert_one_error(refused, 10, "401")
    unreachable = place.run("verify", path, "--online", *place.flags, "--base-url", "http://127.0.0.1:1")
    _assert_one_error(unreachable, 12, "cannot be reached")
    unknown = place.run("verify", path, "--online", *place.flags, "--job-id", "f" * 24)
    _assert_one_error(unknown, 11, "404")


def test_online_takes_an_archive_let_through_for_verified_once_its_hash_is_there(place: Place) -> None:
    job = place.sandbox.add_job(replace(SCENARIOS["late-hash"], polls_until_finished=0, hash_delay_looks=2))
    assert place.fetch(job, "--hash-wait", "0", "--allow-unverified").code == 0
    path = place.folder / place.sandbox.file_name(job)
    for _ in range(4):
        ran = place.run("verify", path, "--online", *place.flags)
        if ran.code == 0:
            break
        assert ran.code == 18
        assert path.exists()
    assert (ran.code, ran.out) == (0, f"{path}\n")
    assert place.run("verify", path).code == 0
    assert place.sandbox.delivery_gets(job) == 1


# --- several files, and programs that read the answer ----------------------------------------------------


def test_of_several_files_each_is_told_and_the_worst_decides(place: Place, tmp_path: Path) -> None:
    good = place.fetched()
    bad = place.fetched("encrypted")
    _flip_a_bit(bad)
    stray = tmp_path / "stray.tar.gz"
    stray.write_bytes(b"from somewhere")
    ran = place.run("verify", tmp_path / "missing.tar.gz", bad, good, stray)
    assert ran.code == 17
    assert ran.out == f"{good}\n"
    assert bad.name in ran.last
    for name in ("missing.tar.gz", "stray.tar.gz", bad.name):
        assert any(line.startswith("error: ") and name in line for line in ran.err.splitlines())
    assert place.run("verify", good, stray).code == 18
    assert place.run("verify", tmp_path / "missing.tar.gz", good).code == 19


def test_json_is_one_document_whatever_was_found(place: Place, tmp_path: Path) -> None:
    good = place.fetched()
    stray = tmp_path / "stray.tar.gz"
    stray.write_bytes(b"from somewhere")
    sha1 = hashlib.sha1(b"from somewhere").hexdigest()
    ran = place.run("verify", good, stray, "--json")
    assert ran.code == 18
    first, second = json.loads(ran.out)["results"]
    assert first == {
        "path": str(good),
        "verdict": "verified",
        "bytes": good.stat().st_size,
        "sha1": hashlib.sha1(good.read_bytes()).hexdigest(),
        "compared_with": first["compared_with"],
    }
    assert (second["verdict"], second["sha1"]) == ("unverified", sha1)
    wrong = json.loads(place.run("verify", stray, "--sha1", "0" * 40, "--json").out)["results"][0]
    assert (wrong["verdict"], wrong["sha1"], wrong["expected"]) == ("mismatch", sha1, "0" * 40)
    missing = json.loads(place.run("verify", tmp_path / "missing", "--json").out)["results"][0]
    assert (missing["verdict"], missing["error"]) == ("error", "StorageError")


def test_json_log_lines_end_with_the_failure(place: Place, tmp_path: Path) -> None:
    stray = tmp_path / "stray.tar.gz"
    stray.write_bytes(b"from somewhere")
    ran = place.run("verify", stray, "--sha1", "0" * 40, "--log-format", "json")
    last = json.loads(ran.last)
    assert (last["event"], last["exit_code"], last["error"]) == ("failed", 17, "HashMismatchError")
    assert last["level"] == "error"


def test_quiet_is_silent_when_all_is_well(place: Place) -> None:
    path = place.fetched()
    ran = place.run("verify", path, "--quiet")
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("x", "--sha1", "0" * 40, "--online"),
        ("x", "--sha1", "0" * 40, "--job-json", "y"),
        ("x", "--job-json", "y", "--online"),
        ("x", "z", "--sha1", "0" * 40),
        ("x", "--sha1", "0" * 39),
        ("x", "--sha1", "sha1:" + "0" * 40),
        ("x", "--job-id", "f" * 24),
        ("x", "--job-json", "no-such-file"),
        ("x", "--online", "--job-id", "short"),
        ("x", "--online"),
        (),
    ],
)
def test_what_does_not_go_together_is_one_clear_line(place: Place, arguments: tuple[str, ...]) -> None:
    ran = place.run("verify", *arguments)
    _assert_one_error(ran, 2)
    assert ran.err.count("\n") == 1


def test_a_file_that_may_not_be_read_is_a_matter_of_storage_and_not_of_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(b"x")
    monkeypatch.setattr(os, "access", lambda *_, **__: False)

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    ran = run_here(capsys, "verify", archive, "--sha1", "0" * 40)
    monkeypatch.undo()
    assert ran.code == 19, ran.err
    assert "Permission denied" in ran.err
