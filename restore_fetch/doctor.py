"""What a pull will need, looked at beforehand: the service, the folder, what earlier runs left.

Nothing is changed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from restore_fetch import files
from restore_fetch.clock import Clock
from restore_fetch.delivery.journal import UNVERIFIED_SUFFIX
from restore_fetch.errors import (
    ApiError,
    AuthenticationError,
    ConfigurationError,
    NotFoundError,
    RestoreFetchError,
    StorageError,
)
from restore_fetch.inventory import CHANGED, UNPROVEN, Inventory, take_inventory
from restore_fetch.models import RestoreJob, Snapshot
from restore_fetch.pull_journal import PullFile
from restore_fetch.receipts import REJECTED_SUFFIX, is_batch_receipt
from restore_fetch.restore_service import BackupService
from restore_fetch.retention import taken
from restore_fetch.rules import clock_skew
from restore_fetch.shelf import in_the_way
from restore_fetch.units import show_duration, show_size

State = Literal["ok", "warn", "fail"]
_FORBIDDEN = 403
_LOCK_SUFFIX = ".lock"
_OURS = ".restore-fetch-"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it is about.
        state: `ok`; `warn` when a pull can go on all the same; `fail` when it cannot.
        what: What was found.
        next_step: What to do about it.
        error: What a pull would end with; with every `fail`, and only then.
    """

    name: str
    state: State
    what: str
    next_step: str = ""
    error: RestoreFetchError | None = None


def failed(name: str, error: RestoreFetchError) -> Check:
    """The check that found what a pull would end with."""
    what = "; ".join(part for part in (error.what, error.files) if part)
    return Check(name, "fail", what, error.next_step, error)


@dataclass(frozen=True)
class Seen:
    """What the service showed.

    Attributes:
        jobs: Its restore jobs, the newest first.
        newest: The snapshot that would be pulled.
    """

    jobs: tuple[RestoreJob, ...]
    newest: Snapshot | None


# --- the service -----------------------------------------------------------------------------------------


def check_service(service: BackupService, identity: str, clock: Clock) -> tuple[list[Check], Seen | None]:
    """Ask the service for its snapshots and jobs, once.

    Args:
        service: The API side.
        identity: As whom it is asked, for people.
        clock: The local time.

    Returns:
        The checks, and what it showed when it did.
    """
    try:
        snapshots = service.snapshots()
        jobs = service.all_jobs()
    except (ApiError, ConfigurationError) as exc:
        return _refused(exc, identity), None
    complete = [snapshot for snapshot in snapshots if snapshot.complete is not False]
    checks = [
        Check("reachability", "ok", f"the service {service.name} answers"),
        Check("authentication", "ok", f"it knows {identity}"),
        Check(
            "role",
            "ok",
            f"may read the cluster: {len(snapshots)} snapshots, {len(jobs)} restore jobs; whether it may also make "
            "restore jobs only the first pull can show",
        ),
        _check_clock(service, clock),
    ]
    return checks, Seen(jobs, complete[0] if complete else None)


def _refused(exc: ApiError | ConfigurationError, identity: str) -> list[Check]:
    answered = Check("reachability", "ok", "the service answers")
    known = Check("authentication", "ok", f"it knows {identity}")
    if isinstance(exc, AuthenticationError):
        if exc.status == _FORBIDDEN:
            return [answered, known, failed("role", exc)]
        return [answered, failed("authentication", exc)]
    if isinstance(exc, NotFoundError):
        return [answered, known, failed("cluster", exc)]
    return [failed("reachability", exc)]


def _check_clock(service: BackupService, clock: Clock) -> Check:
    skew = clock_skew(service.now(), clock.now())
    if skew is None:
        return Check("clock", "ok", "this machine's clock and the service's agree")
    direction = "ahead of" if skew.total_seconds() > 0 else "behind"
    return Check(
        "clock",
        "warn",
        f"this machine's clock is {show_duration(abs(skew.total_seconds()))} {direction} the service's",
        "set the clock; expiry is judged by the service's, but records are dated by this one",
    )


# --- the folder ------------------------------------------------------------------------------------------


def check_folder(folder: Path) -> tuple[Check, Inventory | None]:
    """Whether archives can be put into a folder; one that does not exist would be made.

    Returns:
        The check, and what the folder holds, when it can be looked into.
    """
    place = _nearest(folder)
    try:
        _require_writable(place)
        here = take_inventory(folder)
    except StorageError as exc:
        return failed("folder", exc), None
    what = f"{folder} can be written to" if place == folder else f"{folder} would be made in {place}"
    return Check("folder", "ok", what), here


def _require_writable(place: Path) -> None:
    if not place.is_dir():
        raise StorageError(f"{place} is no folder", path=place, next_step="move it, or choose another --out-dir")
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        raise StorageError(
            f"{place} cannot be written to", path=place, next_step="check who owns the folder and its mode"
        )


def _nearest(folder: Path) -> Path:
    """The folder, or what is there of the way to it."""
    place = folder.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    return folder if place == folder.absolute() else place


def check_space(here: Inventory, seen: Seen | None, min_free_bytes: int) -> Check:
    """Whether there is room for an archive as large as the last one.

    Args:
        here: What the folder holds.
        seen: What the service showed.
        min_free_bytes: What must stay free.
    """
    try:
        free = files.free_bytes(_nearest(here.folder))
        done = seen is not None and seen.newest is not None and _is_done(here.standing_of_snapshot(seen.newest))
    except StorageError as exc:
        return failed("space", exc)
    last = _last_bytes(here)
    if done:
        return Check("space", "ok", f"{show_size(free)} free; nothing is to be downloaded now")
    kept = f"{show_size(min_free_bytes)} are to stay free"
    if free < min_free_bytes + (last or 0):
        needed = "" if last is None else f", and the last pull was {show_size(last)}"
        return failed(
            "space",
            StorageError(
                f"only {show_size(free)} free: {kept}{needed}",
                path=here.folder,
                next_step="free some space, perhaps with restore-fetch prune, or lower --min-free",
            ),
        )
    if last is None:
        return Check(
            "space",
            "warn",
            f"{show_size(free)} free; there is no pull yet to tell how much an archive needs",
            "compare it with the size of the data, compressed",
        )
    return Check("space", "ok", f"{show_size(free)} free: {kept}, and the last pull was {show_size(last)}")


def _last_bytes(here: Inventory) -> int | None:
    """How much the last pull brought: one archive, or those of a batch."""
    newest = max(here.receipts.values(), key=taken, default=None)
    if newest is None:
        return None
    batch = newest.job.batch_id
    together = [one for one in here.receipts.values() if batch is not None and one.job.batch_id == batch]
    return sum(receipt.bytes for receipt in together or [newest])


def check_leftovers(here: Inventory) -> list[Check]:
    """What earlier runs left that somebody should know of."""
    found = [_damaged(error) for error in here.damaged]
    kinds = (
        (
            [name for name, journal in here.journals.items() if journal.state == "downloading"],
            "download broke off, or is going on",
            "nothing, or restore-fetch fetch for a job that is still wanted",
        ),
        (
            here.ending(UNVERIFIED_SUFFIX),
            "archive waits for its hash",
            "restore-fetch verify --online",
        ),
        (here.ending(REJECTED_SUFFIX), "archive was rejected", "look at the .rejected.json, then remove both"),
        (
            [name for name in here.ending(_LOCK_SUFFIX) if name.startswith(_OURS)],
            "lock file: a run is at work, or one was killed",
            "nothing: a lock that nobody holds is no obstacle",
        ),
        (
            [name for name in here.ending(".json") if name.startswith(f"{_OURS}prune-")],
            "removal was begun and not finished",
            "restore-fetch prune",
        ),
    )
    for names, what, next_step in kinds:
        if names:
            shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            found.append(Check("leftovers", "warn", f"{len(names)} of: {what} ({shown})", next_step))
    return found or [Check("leftovers", "ok", "nothing of earlier runs lies about")]


def _damaged(error: StorageError) -> Check:
    if is_batch_receipt(error.path.name):  # a pull looks into each of these
        return failed("leftovers", error)
    return Check("leftovers", "warn", error.what, error.next_step)


# --- the pull --------------------------------------------------------------------------------------------


def check_pull(here: Inventory | None, seen: Seen, now: datetime) -> Check:
    """What a pull would do now.

    Args:
        here: What the folder holds, when that is known.
        seen: What the service showed.
        now: The time by the service's clock.
    """
    newest = seen.newest
    if newest is None or newest.id is None:
        return failed(
            "pull",
            NotFoundError(
                "the cluster has no complete snapshot", next_step="check --cluster, and that its backup is on"
            ),
        )
    age = "" if newest.created is None else f", taken {show_duration((now - newest.created).total_seconds())} ago"
    named = f"snapshot {newest.id}{age}"
    if here is None:
        return Check("pull", "ok", f"{named} would be pulled")
    try:
        standing = here.standing_of_snapshot(newest)
        if _is_done(standing):
            proved = standing if standing == "verified" else "whole, though no hash of it was published"
            return Check("pull", "ok", f"{named}, is here and {proved}: nothing would be done")
        if standing == CHANGED:
            return Check(
                "pull",
                "warn",
                f"{named}: its archive is here, but was touched since it was published; a pull would read it again",
                "restore-fetch verify",
            )
        _require_ours(here.folder / f"{_OURS}{newest.id}{_LOCK_SUFFIX}")
        journal = PullFile(here.folder, newest.id).read()
    except StorageError as exc:
        return failed("pull", exc)
    if journal is not None:
        known = {job.id for job in seen.jobs}
        jobs = ", ".join(journal.job_ids[:3]) or "whose answer never came"
        if not journal.job_ids or set(journal.job_ids) & known:
            return Check("pull", "ok", f"{named}: the pull of restore job {jobs} would go on")
    return Check("pull", "ok", f"{named}: a restore job would be made, and {_archives(newest)} downloaded")


def _require_ours(lock: Path) -> None:
    there = files.require_regular(lock)
    if there is not None and there.st_size:  # ours are empty
        raise in_the_way(lock)


def _is_done(standing: str | None) -> bool:
    return standing not in (None, *UNPROVEN)


def _archives(snapshot: Snapshot) -> str:
    return f"its {len(snapshot.parts)} archives" if len(snapshot.parts) > 1 else "its archive"


def worst_state(checks: Sequence[Check]) -> State:
    """The state of all checks together."""
    states = {check.state for check in checks}
    return "fail" if "fail" in states else "warn" if "warn" in states else "ok"
