"""`restore-fetch demo`: the whole job, end to end, on a machine with nothing else."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from restore_fetch.cli.console import Console
from restore_fetch.cli.exit_codes import epilog
from restore_fetch.cli.options import SIZE, common_options, option

if TYPE_CHECKING:
    from restore_fetch.sandbox import Sandbox
    from restore_fetch.settings import Connection, FetchOptions
    from restore_fetch.workflow import Fetched

CODES = (12, 16, 17, 18, 19, 130, 143)
_SHOWN_SECONDS = 2.0
_SLOWEST = 256 * 1024
_FLIPPED_BIT = 0x10


@click.command("demo", epilog=epilog(*CODES))
@option("--keep", is_flag=True, help="Leave the folder with the archive and its receipt.")
@option("--size", type=SIZE, default="32MiB", metavar="SIZE", help="About how large the archive is.")
@common_options
@click.pass_obj
def command(console: Console, keep: bool, size: float) -> None:
    """Show the main job, end to end, against a simulated service in this process.

    It waits for a job, downloads its archive with the progress bar, verifies and publishes it, shows the
    receipt, verifies the file again offline, runs a second time, and shows what becomes of a damaged copy. It
    needs no account and no network, and leaves nothing behind.
    """
    with _workshop(console, keep) as folder, _service(int(size)) as sandbox:
        demo = _Demo(console, sandbox, _connection(sandbox), _options(folder))
        fetched = demo.fetch()
        demo.show_receipt(fetched)
        demo.verify_again(fetched)
        demo.fetch_again(fetched)
        demo.damage_a_copy(fetched)
        demo.say("Done", "every step did what it should; restore-fetch fetch --help is where to go on")


@dataclass
class _Demo:
    """The steps, each told before it is taken."""

    console: Console
    sandbox: Sandbox
    connection: Connection
    options: FetchOptions
    step: int = 0

    def say(self, title: str, text: str) -> None:
        self.console.note("demo", f"── {title}: {text}")

    def next(self, text: str) -> None:
        self.step += 1
        self.say(f"Step {self.step}", text)

    def fetch(self) -> Fetched:
        from restore_fetch.cli.session import open_fetcher

        self.next(f"restore-fetch fetch {self.sandbox.job_id} (the service is at {self.sandbox.base_url})")
        with open_fetcher(self.connection, self.options, self.console) as fetcher:
            return fetcher.fetch(self.sandbox.job_id)

    def show_receipt(self, fetched: Fetched) -> None:
        self.next(f"the receipt, beside the archive as {fetched.receipt.file}.receipt.json")
        document = fetched.receipt.to_json().decode()
        self.console.result(document, fetched.receipt.model_dump(mode="json"))

    def verify_again(self, fetched: Fetched) -> None:
        from restore_fetch.verification import reference_beside, verify

        self.next("restore-fetch verify: the file once more, offline, against its receipt")
        found = verify(fetched.path, lambda _: reference_beside(fetched.path), lambda *_: None)
        self.console.note("verified", f"{found.path.name} has {found.digest}, as {found.source} says")

    def fetch_again(self, fetched: Fetched) -> None:
        from restore_fetch.cli.session import open_fetcher

        self.next("the same fetch again: what is verified is not downloaded twice")
        with open_fetcher(self.connection, self.options, self.console) as fetcher:
            again = fetcher.fetch(self.sandbox.job_id)
        downloads = self.sandbox.delivery_gets(self.sandbox.job_id)
        if again.downloaded or downloads != len(fetched.receipt.attempts):
            raise AssertionError("the second run downloaded the archive again")
        self.console.note("demo", f"the service counted {downloads} download in all")

    def damage_a_copy(self, fetched: Fetched) -> None:
        from restore_fetch.errors import HashMismatchError
        from restore_fetch.verification import Reference, verify

        self.next("one bit of a copy is flipped, and the copy is verified")
        copy = fetched.path.with_name("damaged-copy.tar.gz")
        shutil.copyfile(fetched.path, copy)
        with copy.open("r+b") as stream:
            stream.seek(fetched.receipt.bytes // 2)
            byte = stream.read(1)[0]
            stream.seek(-1, os.SEEK_CUR)
            stream.write(bytes([byte ^ _FLIPPED_BIT]))
        try:
            verify(copy, lambda _: Reference("the receipt", fetched.receipt.digest), lambda *_: None)
        except HashMismatchError as exc:
            self.console.note("demo", f"caught, and a script would see exit code 17: {exc.what}")
        else:
            raise AssertionError("a damaged copy was taken for the archive")
        copy.unlink()


@contextlib.contextmanager
def _workshop(console: Console, keep: bool) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="restore-fetch-demo-"))
    try:
        yield folder
    finally:
        if keep:
            console.note("kept", f"the files are kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _service(size_bytes: int) -> Iterator[Sandbox]:
    """A sandbox whose one job takes a few looks, and whose delivery takes long enough to watch."""
    from restore_fetch.sandbox import SCENARIOS, Sandbox

    # A proxy in the environment is for real services; this one is in the same process.
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1"
    with Sandbox(size_bytes=size_bytes) as sandbox:
        # An archive is never as small as was asked for: a pace made from the size alone could last for ever.
        pace = max(_SLOWEST, int(size_bytes / _SHOWN_SECONDS))
        watchable = replace(SCENARIOS["normal"], polls_until_finished=2, bytes_per_second=pace)
        sandbox.job_id = sandbox.add_job(watchable)
        yield sandbox


def _connection(sandbox: Sandbox) -> Connection:
    from restore_fetch.redaction import Secret
    from restore_fetch.settings import Connection

    return Connection(
        service="atlas",
        base_url=sandbox.base_url,
        project_id=sandbox.project_id,
        cluster=sandbox.cluster,
        public_key=sandbox.public_key,
        private_key=Secret(sandbox.private_key),
    )


def _options(folder: Path) -> FetchOptions:
    from restore_fetch.settings import FetchOptions

    return FetchOptions(out_dir=folder, poll_seconds=0.5, min_free_bytes=0)
