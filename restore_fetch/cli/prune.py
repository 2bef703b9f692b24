"""`restore-fetch prune`: a retention policy for the verified pulls in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from restore_fetch.cli.console import Console
from restore_fetch.cli.exit_codes import epilog, exit_code_of, worst
from restore_fetch.cli.options import OUT_DIR, common_options, option

if TYPE_CHECKING:
    from restore_fetch.pruning import Pruned
    from restore_fetch.retention import Policy, Pull

CODES = (17, 19, 130, 143)
_NUMBER = click.IntRange(0, 100_000)


@click.command("prune", epilog=epilog(*CODES))
@OUT_DIR
@option("--keep-last", type=_NUMBER, metavar="N", help="Keep the N newest pulls of each cluster.")
@option("--keep-daily", type=_NUMBER, metavar="N", help="Keep the newest pull of each of the last N days with one.")
@option("--keep-weekly", type=_NUMBER, metavar="N", help="The same for weeks, which begin on Monday.")
@option("--keep-monthly", type=_NUMBER, metavar="N", help="The same for months.")
@option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@common_options
@click.pass_obj
def command(
    console: Console,
    out_dir: Path,
    keep_last: int | None,
    keep_daily: int | None,
    keep_weekly: int | None,
    keep_monthly: int | None,
    dry_run: bool,
) -> None:
    """Remove verified pulls that no --keep-* keeps, each as a whole: an archive or a batch, with its receipts.

    The date of a pull is that of its snapshot, in UTC. The newest pull of each cluster and its newest verified one
    always stay. Left alone are pulls that another run works on, batches that are not here as a whole, whatever is
    unverified, has no receipt, or is not what its receipt says (17), and downloads that are not done.
    """
    from restore_fetch.cli.progress import Progress
    from restore_fetch.pruning import Pruner
    from restore_fetch.retention import Policy

    policy = Policy(keep_last or 0, keep_daily or 0, keep_weekly or 0, keep_monthly or 0)
    with Progress(console) as progress:
        done = Pruner(out_dir, policy, observer=progress, dry_run=dry_run).prune()
    console.result("\n".join(_lines(done, dry_run)), _document(done, out_dir, policy, dry_run))
    for left in done.left:
        console.note("left", f"left alone: {left.what}: {left.why}", level="warning")
    if done.errors:
        code = worst([exit_code_of(error) for error in done.errors])
        raise next(error for error in done.errors if exit_code_of(error) == code)


def _lines(done: Pruned, dry_run: bool) -> Iterator[str]:
    for fate in done.kept:
        yield f"kept     {_shown(fate.pull)}  ({', '.join(fate.reasons)})"
    for pull in done.removed:
        yield f"{'would go' if dry_run else 'removed '} {_shown(pull)}"


def _shown(pull: Pull) -> str:
    from restore_fetch.units import show_size

    what = f"batch {pull.id}, {len(pull.files)} archives" if pull.is_batch else pull.files[0]
    return f"{pull.taken:%Y-%m-%d %H:%M}Z  {pull.cluster}  {what}  {show_size(pull.bytes)}"


def _document(done: Pruned, out_dir: Path, policy: Policy, dry_run: bool) -> dict[str, Any]:
    return {
        "out_dir": str(out_dir),
        "policy": {
            "keep_last": policy.last,
            "keep_daily": policy.daily,
            "keep_weekly": policy.weekly,
            "keep_monthly": policy.monthly,
        },
        "dry_run": dry_run,
        "kept": [{**_pull(fate.pull), "reasons": list(fate.reasons)} for fate in done.kept],
        "removed": [_pull(pull) for pull in done.removed],
        "left": [{"what": left.what, "why": left.why} for left in done.left],
    }


def _pull(pull: Pull) -> dict[str, Any]:
    from restore_fetch.clock import iso

    return {
        "batch_id" if pull.is_batch else "job_id": pull.id,
        "cluster": pull.cluster,
        "snapshot_id": pull.snapshot_id,
        "taken": iso(pull.taken),
        "files": list(pull.files),
        "bytes": pull.bytes,
    }
