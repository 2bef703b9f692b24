"""`python -m restore_fetch` is `restore-fetch`."""

from __future__ import annotations

import signal


def run() -> None:
    """The program `restore-fetch`."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Until the command line takes over, there is nothing to tidy up, and nobody wants to read a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from restore_fetch.cli.main import run as run_command_line

    run_command_line()


if __name__ == "__main__":
    run()
