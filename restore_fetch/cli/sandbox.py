"""`restore-fetch sandbox`: the simulated service, until it is stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from restore_fetch.cli.console import Console
from restore_fetch.cli.exit_codes import epilog
from restore_fetch.cli.options import DURATION, FILE, SIZE, common_options, one_of, option, services
from restore_fetch.cli.signals import Stopped

if TYPE_CHECKING:
    from restore_fetch.sandbox import Sandbox

CODES = (19,)
_GLANCE_SECONDS = 0.2


def _scenarios() -> Iterable[str]:
    from restore_fetch.sandbox import SCENARIOS

    return SCENARIOS


@click.command("sandbox", epilog=epilog(*CODES))
@option("--host", default="127.0.0.1", metavar="ADDRESS", help="Address to listen on.")
@option(
    "--port", type=click.IntRange(0, 65535), default=0, metavar="N", help="Port of the API; 0 takes a free one."
)
@option(
    "--delivery-port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="N",
    help="Port of the delivery; 0 takes a free one.",
)
@option(
    "--service",
    default="atlas",
    metavar="NAME",
    shell_complete=one_of(services),
    help="Which service the jobs told are of.",
)
@option(
    "--scenario",
    default="normal",
    metavar="NAME",
    shell_complete=one_of(_scenarios),
    help="What JOB does; --list-scenarios tells them.",
)
@option("--list-scenarios", is_flag=True, help="Tell the scenarios, and exit.")
@option("--size", "size_bytes", type=SIZE, default="1MiB", metavar="SIZE", help="About how large the archives are.")
@option("--snapshot", type=FILE, metavar="PATH", help="A folder to pack and deliver in place of made-up data.")
@option("--tls", is_flag=True, help="Speak https, with a certificate for this run.")
@option("--polls", type=click.IntRange(0), metavar="N", help="Looks that see a job still waiting.")
@option(
    "--ready-after",
    "ready_after_seconds",
    type=DURATION,
    metavar="DURATION",
    help="Let jobs finish at this age, not after looks.",
)
@option(
    "--token-life",
    "token_seconds",
    type=DURATION,
    default="1h",
    metavar="DURATION",
    help="How long a token of the service account is good.",
)
@option(
    "--snapshot-every",
    "snapshot_seconds",
    type=DURATION,
    metavar="DURATION",
    help="Let snapshots come and go: one begins, the one before is complete.",
)
@option("--seed", type=int, default=0, metavar="N", help="What ids, keys and bytes are made from.")
@common_options
@click.pass_obj
def command(console: Console, /, list_scenarios: bool, **settings: Any) -> None:
    """Serve a simulated restore service, to rehearse a restore without one.

    When it is ready, one line of JSON on stdout says where it is, its keys, and which restore job plays which
    scenario. It serves until it is stopped (Ctrl-C), and that is exit code 0.
    """
    from restore_fetch.sandbox import SCENARIOS

    if list_scenarios:
        lines = [f"{one.name:<22}{one.summary}" for one in SCENARIOS.values()]
        console.result("\n".join(lines), {one.name: one.summary for one in SCENARIOS.values()})
        return
    sandbox = _started(settings)
    try:
        # Its keys are the sandbox's own, made up for this run: they are meant to be read.
        click.echo(json.dumps(sandbox.description()))
        console.note("ready", "serving until stopped (Ctrl-C)")
        _serve_until_stopped()
    except Stopped:
        console.note("stopped", "stopped")
    finally:
        sandbox.stop()


def _started(settings: Mapping[str, Any]) -> Sandbox:
    """A sandbox that listens; the options have the names of its arguments."""
    from restore_fetch.sandbox import Sandbox

    try:
        sandbox = Sandbox(**settings)
        sandbox.start()
    except (ValueError, NotADirectoryError, RuntimeError) as exc:
        raise click.UsageError(str(exc)) from exc
    except OSError as exc:
        raise click.UsageError(f"cannot listen on {settings['host']}: {exc.strerror}") from exc
    return sandbox


def _serve_until_stopped() -> None:
    # signal.pause() would sleep through a signal that comes in the moment before it.
    while True:
        time.sleep(_GLANCE_SECONDS)
