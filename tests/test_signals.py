"""Signals that ask a run to stop, wherever they arrive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from restore_fetch.cli.signals import Stopped, stop_on_signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_an_error_that_a_library_makes_of_a_signal_is_still_the_signals(number, code):
    def library() -> None:
        try:
            os.kill(os.getpid(), number)
        except Stopped as exc:
            raise ValueError("an error of its own") from exc

    with pytest.raises(Stopped) as caught, stop_on_signals():
        library()
    assert caught.value.exit_code == code


def test_an_error_without_a_signal_stays_what_it_is():
    with pytest.raises(ValueError, match="its own"), stop_on_signals():
        raise ValueError("an error of its own")


EARLY = """
import os, signal, sys
import restore_fetch.__main__ as entry

class Early:
    def find_spec(self, *_):
        os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Early())
entry.run()
"""


def test_a_signal_that_comes_before_the_command_line_is_ready_leaves_no_traceback():
    done = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""
