"""Archives far larger than the memory that fetching them may take, through the real command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

JOB_ID = "6b77893b80eef5354c77ee15"
PROJECT_ID = "5a2b46fe80eef53a4d0ca4b5"
MIB = 1024 * 1024
ROOT = Path(__file__).parent.parent
SHARED = Path("/dev/shm")

# The SHA1 of so many zeros, as sha1sum has it.
ZEROS = {
    256 * MIB: "7b91dbdc56c5781edf6c8847b4aa6965566c5c75",
    2048 * MIB: "91d50642dd930e9542c39d36f0516d45f4e1af0d",
}
MOST_RESIDENT_BYTES = 100 * MIB
MOST_DIFFERENCE_BYTES = 8 * MIB

# A process is charged with the memory of the one it was forked from: so it is not forked from this one.
LAUNCHER = """
import json, os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss]))
"""


@contextmanager
def service(size: int) -> Iterator[int]:
    """The port of a restore service in another process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.zeros_server", str(size), ZEROS[size]],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


def resident_bytes_of_fetching(size: int, port: int, out_dir: Path) -> int:
    command = [sys.executable, "-m", "restore_fetch", "fetch", JOB_ID, "--out-dir", str(out_dir)]
    command += ["--base-url", f"http://127.0.0.1:{port}", "--project-id", PROJECT_ID, "--cluster", "Cluster0"]
    command += ["--poll-interval", "0.05s", "--min-free", "0", "--retries", "0", "--quiet"]
    environment = {
        **os.environ,
        "MONGODB_ATLAS_PUBLIC_API_KEY": "public",
        "MONGODB_ATLAS_PRIVATE_API_KEY": "private-key-0123456789",
    }
    ended = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCHER, *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    *_, last = ended.stdout.splitlines()
    code, kibibytes = json.loads(last)
    assert code == 0, ended.stderr
    archive = out_dir / "zeros.tar.gz"
    receipt = json.loads(archive.with_name("zeros.tar.gz.receipt.json").read_bytes())
    assert (receipt["verdict"], receipt["sha1"], archive.stat().st_size) == ("verified", ZEROS[size], size)
    return int(kibibytes) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is measured as Linux counts it")
@pytest.mark.timeout(900)
def test_an_archive_of_two_gibibytes_takes_no_more_memory_than_a_small_one() -> None:
    largest = max(ZEROS)
    if not (SHARED.is_dir() and os.access(SHARED, os.W_OK)):
        pytest.skip("there is no folder in memory to put two gibibytes into")
    if shutil.disk_usage(SHARED).free < 2 * largest:
        pytest.skip("there is no room in memory for two gibibytes")
    resident = {}
    for size in sorted(ZEROS):
        with (
            service(size) as port,
            tempfile.TemporaryDirectory(dir=SHARED, prefix="restore-fetch-tests-") as folder,
        ):
            resident[size] = resident_bytes_of_fetching(size, port, Path(folder))
    assert max(resident.values()) < MOST_RESIDENT_BYTES
    assert max(resident.values()) - min(resident.values()) < MOST_DIFFERENCE_BYTES
