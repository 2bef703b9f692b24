"""`restore-fetch status JOB_ID`: one look."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from restore_fetch.cli.console import Console
from restore_fetch.cli.exit_codes import epilog
from restore_fetch.cli.options import OUT_DIR, common_options, connection_options

if TYPE_CHECKING:
    from restore_fetch.models import RestoreJob
    from restore_fetch.settings import Connection

CODES = (10, 11, 12, 19, 130, 143)


@click.command("status", epilog=epilog(*CODES))
@click.argument("job_id")
@OUT_DIR
@connection_options
@common_options
@click.pass_obj
def command(console: Console, job_id: str, out_dir: Path, connect: Callable[[], Connection]) -> None:
    """Show restore job JOB_ID: its state, its delivery, the time and the downloads left, its hashes.

    The files in --out-dir tell how many of the downloads allowed were used from here. Nothing is downloaded.
    """
    from restore_fetch.cli.session import open_api
    from restore_fetch.settings import parse_object_id
    from restore_fetch.shelf import Shelf

    asked = parse_object_id(job_id, "JOB_ID")
    with open_api(connect()) as service:
        job = service.job(asked)
        now = service.now()
    used = sum(attempt.may_count for attempt in Shelf(out_dir, asked).attempts())
    document = show_job(job)
    here = _seen_from_here(job, now, used)
    console.result(_table({**document, "": here}), {**document, "here": here})


def show_job(job: RestoreJob) -> dict[str, Any]:
    """A job's elements that are present, by the API's names, without anything secret."""
    from restore_fetch.redaction import display_url

    document = job.model_dump(mode="json", by_alias=True, exclude_none=True)
    delivery = document.get("delivery", {})
    if job.delivery is not None:
        for name, url in (("url", job.delivery.url), ("urlV2", job.delivery.url_v2)):
            if url is not None:
                delivery[name] = display_url(url.get_secret_value())
    document["links"] = [link for link in document.get("links", []) if link.get("href")]
    return {name: value for name, value in document.items() if value not in ([], {}, None)}


def _seen_from_here(job: RestoreJob, now: datetime, used: int) -> dict[str, Any]:
    from restore_fetch.rules import downloads_left

    here: dict[str, Any] = {"downloads_used": used}
    if job.delivery is not None:
        here["downloads_left"] = downloads_left(job.delivery, used)
        if job.delivery.expires is not None:
            here["seconds_left"] = max(0, round((job.delivery.expires - now).total_seconds()))
    return here


def _table(document: Mapping[str, Any]) -> str:
    from restore_fetch.redaction import plain

    rows = [*_rows("", {name: value for name, value in document.items() if name}), *_words(document[""])]
    width = max(len(name) for name, _ in rows)
    # A line end in a value must not make a row of its own.
    return "\n".join(f"{name:<{width}}  {plain(value)}" for name, value in rows)


def _words(here: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from restore_fetch.units import show_duration

    if "seconds_left" in here:
        yield "time left", show_duration(here["seconds_left"]) if here["seconds_left"] else "none: it has expired"
    yield "downloads used from here", str(here["downloads_used"])
    if "downloads_left" in here:
        left = here["downloads_left"]
        yield "downloads left", "without limit" if left is None else str(left)


def _rows(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, element in value.items():
            yield from _rows(f"{prefix}.{name}" if prefix else name, element)
    elif isinstance(value, list):
        for number, element in enumerate(value):
            yield from _rows(f"{prefix}[{number}]", element)
    else:
        yield prefix, {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
