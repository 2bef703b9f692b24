"""`restore-fetch verify PATH...`: archives that are on disk already."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from restore_fetch.cli.console import Console
from restore_fetch.cli.exit_codes import epilog, exit_code_of, worst
from restore_fetch.cli.failures import verdict_of
from restore_fetch.cli.options import DEEP, FILE, common_options, connection_options, option
from restore_fetch.cli.unattended import unattended_options

if TYPE_CHECKING:
    from restore_fetch.cli.progress import Progress
    from restore_fetch.errors import RestoreFetchError
    from restore_fetch.hashes import Digest
    from restore_fetch.notify import Archive
    from restore_fetch.settings import Connection
    from restore_fetch.verification import Reference, Verified

Verifier = Callable[[Path, "Progress"], "Verified"]
CODES = (10, 11, 12, 17, 18, 19, 20, 130, 143)


@click.command("verify", epilog=epilog(*CODES))
@click.argument("paths", nargs=-1, required=True, type=FILE, metavar="PATH...")
@option("--sha1", metavar="HEX", help="What the file should have; for one PATH.")
@option("--job-json", type=FILE, metavar="FILE", help="A saved answer of the API, plain or enveloped.")
@option("--online", is_flag=True, help="Ask the service for the published hash; publishes what waits for it.")
@option("--job-id", metavar="HEX24", help="The restore job to ask for; else the one that the receipt names.")
@DEEP
@unattended_options
@connection_options
@common_options
@click.pass_obj
def command(
    console: Console,
    paths: tuple[Path, ...],
    sha1: str | None,
    job_json: Path | None,
    online: bool,
    job_id: str | None,
    deep: bool,
    connect: Callable[[], Connection],
) -> None:
    """Check archives on disk against their receipts, a hash, a saved answer, or the service.

    Without any option: against the receipt beside the file, else against PATH.sha1. The path of each verified
    file is written to stdout. With --online, a file called .unverified gets its final name, without another
    download, once its hash is published and right.
    """
    from restore_fetch.cli.progress import Progress
    from restore_fetch.verification import archive_of

    with (
        _verifier(paths, sha1, job_json, online, job_id, deep, connect, console) as verify,
        Progress(console) as progress,
    ):
        _verify_all(console, [archive_of(path) for path in paths], lambda path: verify(path, progress))


@contextlib.contextmanager
def _verifier(
    paths: tuple[Path, ...],
    sha1: str | None,
    job_json: Path | None,
    online: bool,
    job_id: str | None,
    deep: bool,
    connect: Callable[[], Connection],
    console: Console,
) -> Iterator[Verifier]:
    """How each file is to be verified, by the options given."""
    from restore_fetch import verification
    from restore_fetch.errors import ConfigurationError

    if sum((sha1 is not None, job_json is not None, online)) > 1:
        raise ConfigurationError("--sha1, --job-json and --online exclude each other")
    if job_id is not None and not online:
        raise ConfigurationError("--job-id goes with --online")
    if sha1 is not None and len(paths) > 1:
        raise ConfigurationError("--sha1 is for one PATH")

    def against(find: Callable[[Path, Digest], Reference]) -> Verifier:
        return lambda path, progress: verification.verify(
            path, lambda actual: find(path, actual), progress.rereading, deep=deep
        )

    if sha1 is not None:
        given = verification.Reference("--sha1", verification.parse_sha1(sha1))
        yield against(lambda *_: given)
    elif job_json is not None:
        from restore_fetch.saved import read_saved_job

        job = read_saved_job(job_json)
        yield against(lambda path, actual: verification.reference_in_job(job, path, job_json.name)(actual))
    elif online:
        from restore_fetch.cli.online import online_verifier

        with online_verifier(connect(), job_id, console, deep=deep) as verify:
            yield verify
    else:
        yield against(lambda path, _: verification.reference_beside(path))


def _verify_all(console: Console, paths: list[Path], verify: Callable[[Path], Verified]) -> None:
    """Verify each; tell each; end with the worst error, if there was any.

    Raises:
        RestoreFetchError: The error whose exit code is the worst.
    """
    from restore_fetch.errors import RestoreFetchError
    from restore_fetch.verification import check_file

    results: list[dict[str, Any]] = []
    errors: list[RestoreFetchError] = []
    verified: list[str] = []
    for path in paths:
        try:
            check_file(path)
            found = verify(path)
        except RestoreFetchError as exc:
            errors.append(exc)
            results.append(_failed(path, exc))
        else:
            verified.append(str(found.path))
            console.archives.append(_archive(found))
            results.append(_found(found))
            _tell(console, found)
    if verified or console.json_output:
        console.result("\n".join(verified), {"results": results})
    if errors:
        code = worst([exit_code_of(exc) for exc in errors])
        last = next(error for error in errors if exit_code_of(error) == code)
        for error in errors:
            if error is not last:
                console.note("not-verified", str(error), level="error")
        raise last


def _found(found: Verified) -> dict[str, Any]:
    result = {
        "path": str(found.path),
        "verdict": found.verdict,
        "bytes": found.size,
        "sha1": found.digest.hex,
        "compared_with": found.source,
    }
    if (inspection := found.inspection) is not None:
        result["checks"] = {"gzip": inspection.gzip, "tar": inspection.tar}
        result["archive"] = inspection.archive.model_dump(mode="json")
    return result


def _tell(console: Console, found: Verified) -> None:
    from restore_fetch.publication import outside_warning

    whole = ""
    if (inspection := found.inspection) is not None:
        whole = ", and its structure is whole"
        if inspection.archive.outside_count:
            console.note("outside", f"{found.path}: {outside_warning(inspection.archive)}", level="warning")
    same = f"SHA1 {found.digest}, as {found.source} says{whole}"
    if found.structure is None:
        console.note("verified", f"{found.path} is verified: {same}")
    else:
        console.note("structure", f"{found.path} is as it was received: {same}; {found.structure}", level="warning")


def _archive(found: Verified) -> Archive:
    from restore_fetch.notify import Archive
    from restore_fetch.receipts import receipt_path

    receipt = receipt_path(found.path)
    return Archive(found.path, found.digest.hex, found.size, found.verdict, receipt if receipt.is_file() else None)


def _failed(path: Path, exc: RestoreFetchError) -> dict[str, Any]:
    return {
        "path": str(path),
        "verdict": verdict_of(exc),
        "sha1": getattr(exc, "actual", None),
        "expected": getattr(exc, "expected", None),
        "error": type(exc).__name__,
        "message": str(exc),
    }
