"""Every state that the files of a run can be in, as the real command leaves them."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from restore_fetch.sandbox import Sandbox, documents
from restore_fetch.sandbox.delivery import DeliveryHandler
from restore_fetch.sandbox.model import Job
from restore_fetch.sandbox.wire import Headers, WireHandler
from tests.run_support import add_job, change, names_in, published, run, sha1, start

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=64 * 1024) as sandbox:
        yield sandbox


# --- published -------------------------------------------------------------------------------------------


def test_the_archive_is_the_one_the_service_has_and_sha1sum_agrees(sandbox: Sandbox, tmp_path: Path) -> None:
    outcome = run(sandbox, tmp_path, "fetch")
    name = sandbox.file_name(sandbox.job_id)

    assert outcome.code == 0, outcome.stderr
    assert outcome.bytes_of(name) == sandbox.archive(sandbox.job_id).path.read_bytes()
    program = shutil.which("sha1sum")
    if program is None:
        assert outcome.bytes_of(f"{name}.sha1").decode() == f"{sha1(tmp_path / name)}  {name}\n"
    else:
        checked = subprocess.run(
            [program, "-c", "--strict", f"{name}.sha1"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout) == (0, f"{name}: OK\n"), checked.stderr


def test_the_receipt_has_every_element_and_each_is_true(sandbox: Sandbox, tmp_path: Path) -> None:
    outcome = run(sandbox, tmp_path / "out", "fetch")
    name, archive = sandbox.file_name(sandbox.job_id), sandbox.archive(sandbox.job_id)
    receipt = outcome.json_of(f"{name}.receipt.json")
    job = sandbox._service.jobs[sandbox.job_id]

    moments = [receipt.pop(key) for key in ("started", "finished")]
    attempt = receipt["attempts"][0]
    moments += [attempt.pop(key) for key in ("started", "ended")]
    moments += [receipt["job"].pop("created"), receipt["delivery"].pop("expires")]
    moments.append(receipt["job"]["timestamp"].pop("date"))
    assert all(MOMENT.fullmatch(moment) for moment in moments), moments
    assert moments[0] <= moments[2] <= moments[3] <= moments[1]
    seconds = receipt.pop("seconds")
    assert seconds.keys() == {"waiting", "downloading", "verifying"}
    assert all(value >= 0 for value in seconds.values())
    assert receipt.pop("tool").startswith("restore-fetch ")
    assert receipt == {
        "schema": "restore-fetch/receipt/v1",
        "verdict": "verified",
        "file": name,
        "bytes": archive.size,
        "sha1": archive.sha1,
        "published_hash": {"type_name": "SHA1", "file_name": name, "hash": archive.sha1},
        "checks": {"length": True, "hash": True, "gzip": None, "tar": None},
        "job": {
            "id": sandbox.job_id,
            "batch_id": None,
            "snapshot_id": job.snapshot.id,
            "group_id": sandbox.project_id,
            "cluster_id": job.member.cluster_id,
            "cluster_name": "Cluster0",
            "point_in_time": False,
            "timestamp": {"increment": 1},
            "encryption_enabled": False,
            "master_key_uuid": None,
        },
        "delivery": {"host": "127.0.0.1", "max_downloads": 2147483647},
        "attempts": [{"bytes": archive.size, "resumed_from": 0, "outcome": "complete"}],
        "service": "atlas",
    }


def test_a_length_that_was_never_announced_was_never_checked(sandbox: Sandbox, tmp_path: Path) -> None:
    outcome = run(sandbox, tmp_path, "fetch", add_job(sandbox, "chunked"))

    receipt = next(outcome.json_of(name) for name in outcome.names if name.endswith(".receipt.json"))
    assert receipt["verdict"] == "verified"
    assert receipt["checks"]["length"] is None


def test_the_receipt_of_an_encrypted_snapshot_names_the_master_key(sandbox: Sandbox, tmp_path: Path) -> None:
    job = sandbox.job_for("encrypted")
    outcome = run(sandbox, tmp_path, "fetch", job)
    key = sandbox._service.jobs[job].snapshot.master_key

    assert key is not None
    recorded = outcome.json_of(f"{sandbox.file_name(job)}.receipt.json")["job"]
    assert (recorded["encryption_enabled"], recorded["master_key_uuid"]) == (True, key)
    assert key in outcome.stderr


def test_files_are_the_owner_s_alone_and_so_are_folders_made_here(sandbox: Sandbox, tmp_path: Path) -> None:
    folder = tmp_path / "backups" / "today"
    outcome = run(sandbox, folder, "fetch", umask=0)

    assert outcome.code == 0, outcome.stderr
    for path in (folder.parent, folder):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for name in outcome.names:
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, name


def test_a_folder_that_was_there_keeps_its_mode(sandbox: Sandbox, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o750)
    run(sandbox, folder, "fetch")

    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


def test_without_an_out_dir_the_files_go_into_the_current_folder(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    outcome = run(sandbox, tmp_path / "here", "fetch", "--out-dir", ".")

    assert outcome.code == 0, outcome.stderr
    assert outcome.names == published(sandbox.file_name(sandbox.job_id))


# --- during a download, and after one that broke off --------------------------------------------------------


def test_during_a_download_there_is_a_part_a_journal_and_a_lock_and_nothing_else(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    job = add_job(sandbox, "stall")
    name, lock = sandbox.file_name(job), f".restore-fetch-{job}.lock"
    with start(sandbox, tmp_path / "out", "fetch", job, umask=0) as running:
        running.until_bytes()
        during = names_in(tmp_path / "out")
        modes = {stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) for name in during}
        outcome = running.kill()

    assert during == {f"{name}.part", f"{name}.part.json", lock}
    assert modes == {0o600}
    journal = outcome.json_of(f"{name}.part.json")
    assert journal["schema"] == "restore-fetch/journal/v1"
    assert journal["job"]["id"] == job
    assert [attempt["outcome"] for attempt in journal["attempts"]] == [None]


def test_after_a_download_that_broke_off_the_part_is_a_beginning_of_the_archive(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    job = add_job(sandbox, "cut-always")
    outcome = run(sandbox, tmp_path, "fetch", job, "--retries", "0")
    name, whole = sandbox.file_name(job), sandbox.archive(job).path.read_bytes()

    assert outcome.code == 16
    part = outcome.bytes_of(f"{name}.part")
    assert part == whole[: len(whole) // 2]
    assert f"{len(part)} bytes are kept in {name}.part" in outcome.last_line
    attempts = outcome.json_of(f"{name}.part.json")["attempts"]
    assert [(attempt["bytes"], attempt["outcome"]) for attempt in attempts] == [(len(part), "cut")]


# --- unverified ------------------------------------------------------------------------------------------


def test_an_archive_without_a_hash_is_unverified_until_verify_online_publishes_it(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    job = add_job(sandbox, "no-hash")
    name = sandbox.file_name(job)
    fetched = run(sandbox, tmp_path / "out", "fetch", job, "--hash-wait", "0")
    assert fetched.code == 18
    assert fetched.names == {f"{name}.unverified", f"{name}.part.json"}
    assert stat.S_IMODE((tmp_path / "out" / f"{name}.unverified").stat().st_mode) == 0o600

    early = run(sandbox, tmp_path / "out", "verify", "--online", f"{name}.unverified")
    assert early.code == 18
    assert early.names == fetched.names

    change(sandbox, job, hash_kind="right")
    proven = run(sandbox, tmp_path / "out", "verify", "--online", f"{name}.unverified")
    assert proven.code == 0, proven.stderr
    assert proven.names == published(name)
    assert sha1(tmp_path / "out" / name) == sandbox.archive(job).sha1

    again = run(sandbox, tmp_path / "out", "fetch", job)
    assert again.code == 0, again.stderr
    assert again.names == published(name)
    assert sandbox.delivery_gets(job) == 1


def test_an_unverified_archive_is_published_by_the_next_fetch_without_a_download(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    job = add_job(sandbox, "no-hash", max_downloads=1)
    name = sandbox.file_name(job)
    run(sandbox, tmp_path, "fetch", job, "--hash-wait", "0")
    sandbox.expire(job)
    waited_again = run(sandbox, tmp_path, "fetch", job, "--hash-wait", "0")
    change(sandbox, job, hash_kind="right")
    outcome = run(sandbox, tmp_path, "fetch", job)

    assert (waited_again.code, outcome.code) == (18, 0), outcome.stderr
    assert published(name) <= outcome.names
    assert f"{name}.unverified" not in outcome.names
    assert sandbox.delivery_gets(job) == 1


def test_an_unverified_archive_whose_hash_turns_out_wrong_is_rejected(sandbox: Sandbox, tmp_path: Path) -> None:
    job = add_job(sandbox, "no-hash")
    name = sandbox.file_name(job)
    run(sandbox, tmp_path / "out", "fetch", job, "--hash-wait", "0")
    change(sandbox, job, hash_kind="wrong")
    outcome = run(sandbox, tmp_path / "out", "verify", "--online", f"{name}.unverified")

    assert outcome.code == 17
    assert outcome.names == {f"{name}.rejected", f"{name}.rejected.json"}


def test_an_unverified_archive_that_was_changed_on_disk_is_downloaded_again(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    job = add_job(sandbox, "no-hash")
    name = sandbox.file_name(job)
    run(sandbox, tmp_path / "out", "fetch", job, "--hash-wait", "0")
    with (tmp_path / "out" / f"{name}.unverified").open("r+b") as stream:
        stream.write(b"another beginning")
    change(sandbox, job, hash_kind="right")
    outcome = run(sandbox, tmp_path / "out", "fetch", job)

    assert outcome.code == 0, outcome.stderr
    assert outcome.names == published(name)
    assert sha1(tmp_path / "out" / name) == sandbox.archive(job).sha1


def test_allow_unverified_publishes_and_the_receipt_says_so(sandbox: Sandbox, tmp_path: Path) -> None:
    job = add_job(sandbox, "no-hash")
    name = sandbox.file_name(job)
    outcome = run(sandbox, tmp_path, "fetch", job, "--hash-wait", "0", "--allow-unverified")

    assert outcome.code == 0, outcome.stderr
    assert published(name) <= outcome.names
    receipt = outcome.json_of(f"{name}.receipt.json")
    assert receipt["verdict"] == "unverified"
    assert receipt["published_hash"] is None
    assert receipt["checks"]["hash"] is None
    assert "UNVERIFIED" in outcome.stderr
    offline = run(sandbox, tmp_path, "verify", name)
    assert offline.code == 18


def test_what_was_let_through_unverified_is_verified_once_its_hash_appears(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    job = add_job(sandbox, "no-hash")
    name = sandbox.file_name(job)
    run(sandbox, tmp_path / "out", "fetch", job, "--hash-wait", "0", "--allow-unverified")

    still_none = run(sandbox, tmp_path / "out", "fetch", job, "--hash-wait", "0")
    assert still_none.code == 18
    assert still_none.names == published(name)
    change(sandbox, job, hash_kind="right")
    proven = run(sandbox, tmp_path / "out", "fetch", job)
    assert proven.code == 0, proven.stderr
    assert proven.names == published(name)
    assert proven.json_of(f"{name}.receipt.json")["verdict"] == "verified"
    assert sandbox.delivery_gets(job) == 1


def test_what_was_let_through_unverified_is_rejected_once_its_hash_turns_out_wrong(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    job = add_job(sandbox, "no-hash")
    name = sandbox.file_name(job)
    run(sandbox, tmp_path / "out", "fetch", job, "--hash-wait", "0", "--allow-unverified")
    change(sandbox, job, hash_kind="wrong")
    outcome = run(sandbox, tmp_path / "out", "fetch", job, "--hash-wait", "1s")

    assert outcome.code == 17
    assert f"{name}.rejected" in outcome.names
    assert name not in outcome.names
    assert f"{name}.receipt.json" not in outcome.names
    assert f"{name}.sha1" not in outcome.names


# --- rejected --------------------------------------------------------------------------------------------


def test_a_wrong_archive_is_set_aside_with_the_finding(sandbox: Sandbox, tmp_path: Path) -> None:
    job = sandbox.job_for("wrong-hash")
    outcome = run(sandbox, tmp_path / "out", "fetch", job)
    name, archive = sandbox.file_name(job), sandbox.archive(job)

    assert outcome.code == 17
    assert outcome.names == {f"{name}.rejected", f"{name}.rejected.json"}
    assert outcome.bytes_of(f"{name}.rejected") == archive.path.read_bytes()
    finding = outcome.json_of(f"{name}.rejected.json")
    wrong = sandbox._service.jobs[job].other_hash()
    assert finding["sha1"] == archive.sha1
    assert finding["published_hash"]["hash"] == wrong
    assert finding["job"]["id"] == job
    assert wrong in outcome.last_line
    assert archive.sha1 in outcome.last_line


def test_a_rejected_archive_is_never_taken_for_a_backup(sandbox: Sandbox, tmp_path: Path) -> None:
    job = add_job(sandbox, "wrong-hash")
    name = sandbox.file_name(job)
    run(sandbox, tmp_path / "out", "fetch", job)
    offline = run(sandbox, tmp_path / "out", "verify", f"{name}.rejected")
    again = run(sandbox, tmp_path / "out", "fetch", job, "--hash-wait", "1s")

    assert (offline.code, again.code) == (17, 17)
    assert again.names == {f"{name}.rejected", f"{name}.rejected.json"}
    assert len(again.json_of(f"{name}.rejected.json")["attempts"]) == sandbox.delivery_gets(job) == 2


def test_after_a_rejection_the_right_archive_is_published_all_the_same(sandbox: Sandbox, tmp_path: Path) -> None:
    job = add_job(sandbox, "wrong-hash")
    name = sandbox.file_name(job)
    run(sandbox, tmp_path / "out", "fetch", job)
    change(sandbox, job, hash_kind="right")
    outcome = run(sandbox, tmp_path / "out", "fetch", job)

    assert outcome.code == 0, outcome.stderr
    assert outcome.names >= published(name)
    assert sha1(tmp_path / "out" / name) == sandbox.archive(job).sha1


# --- a stranger's file, and --force --------------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True], ids=["as-usual", "with-force"])
def test_a_stranger_s_file_of_the_archive_s_name_is_replaced_only_with_force(
    sandbox: Sandbox, tmp_path: Path, force: bool
) -> None:
    name = sandbox.file_name(sandbox.job_id)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / name).write_text("a stranger's")
    outcome = run(sandbox, folder, "fetch", *(["--force"] if force else []))

    if force:
        assert outcome.code == 0, outcome.stderr
        assert sha1(folder / name) == sandbox.archive(sandbox.job_id).sha1
    else:
        assert outcome.code == 19
        assert outcome.names == {name}
        assert outcome.bytes_of(name) == b"a stranger's"
        assert sandbox.delivery_gets() == 0


def test_with_force_the_verified_archive_stays_until_the_new_one_is_verified(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    job = add_job(sandbox)
    name = sandbox.file_name(job)
    run(sandbox, tmp_path / "out", "fetch", job)
    change(sandbox, job, cut_at=0.5, cut_attempts=None)
    broken = run(sandbox, tmp_path / "out", "fetch", job, "--force", "--retries", "0")

    assert broken.code == 16
    assert broken.names == published(name) | {f"{name}.part", f"{name}.part.json"}
    assert sha1(tmp_path / "out" / name) == sandbox.archive(job).sha1

    change(sandbox, job, cut_at=None)
    done = run(sandbox, tmp_path / "out", "fetch", job, "--force")
    assert done.code == 0, done.stderr
    assert done.names == published(name)
    assert len(done.json_of(f"{name}.receipt.json")["attempts"]) == sandbox.delivery_gets(job) == 3


def test_an_archive_that_was_changed_after_it_was_verified_is_told_and_left_alone(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    name = sandbox.file_name(sandbox.job_id)
    run(sandbox, tmp_path / "out", "fetch")
    with (tmp_path / "out" / name).open("r+b") as stream:
        stream.write(b"changed by hand")
    changed = sha1(tmp_path / "out" / name)
    outcome = run(sandbox, tmp_path / "out", "fetch")

    assert outcome.code == 17
    assert "changed after it was verified" in outcome.last_line
    assert sha1(tmp_path / "out" / name) == changed
    assert sandbox.delivery_gets() == 1

    forced = run(sandbox, tmp_path / "out", "fetch", "--force")
    assert forced.code == 0, forced.stderr
    assert sha1(tmp_path / "out" / name) == sandbox.archive(sandbox.job_id).sha1


# --- names from the service ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "label",
    [
        "../../escaped",
        "/etc/cron.d/job",
        "-rf",
        ".hidden",
        "line\nbreak",
        "\x1b[2Jscreen",
        "nul\x00",
        "\u202egnp",
        "Z\u00fcrich",
        "%2e%2e%2fescaped",
        "x" * 200,
    ],
    ids=lambda label: quote(label[:16], safe=""),
)
def test_a_hostile_name_in_the_url_becomes_one_made_from_the_job_s_id(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str
) -> None:
    def quoted(job: Job, *, keyed: bool, folder: str = documents.DELIVERY_PATH) -> str:
        return f"{folder}/{job.id}{f'/{job.key}' if keyed else ''}/{quote(job.file_name, safe='')}"

    def begin(self: DeliveryHandler, status: int, headers: Headers, **about: str | None) -> None:
        sent = [header for header in headers if header[1].isascii() and header[1].isprintable()]
        WireHandler.begin(self, status, sent, **about)

    monkeypatch.setattr(documents, "delivery_path", quoted)
    monkeypatch.setattr(DeliveryHandler, "begin", begin)
    job = add_job(sandbox)
    known = sandbox._service.jobs[job]
    known.member = replace(known.member, file_label=label)
    folder = tmp_path / "far" / "down" / "out"
    outcome = run(sandbox, folder, "fetch", job)

    assert outcome.code == 0, outcome.stderr
    assert outcome.names == published(f"restore-{job}.tar.gz")
    assert {path.name for path in tmp_path.rglob("*") if path.is_dir()} == {"far", "down", "out"}
    assert not set(outcome.stderr + outcome.stdout) & {"\x1b", "\x00", "\u202e"}
