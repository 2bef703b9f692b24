"""What a hostile service says never rewrites the terminal of the person who reads it."""

from __future__ import annotations

import itertools
import json
import os
import pty
import threading
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.faults_support import ARCHIVE, JOB, NAME, SHA1, Stage, refuses, shows, verified
from tests.run_support import Outcome, run
from tests.wire_support import says, with_length

EVIL = (
    "a\x1b[2J\x1b]0;owned\x07\x00\x7f\x9b31m\x85\r\nerror: forged\nstatusName FINISHED\u2028\u2029"
    "\u202eb\u2066c\u2069\u200f\u061c\u200b\ufeff"
)
MARK = "\N{REPLACEMENT CHARACTER}"
"""What stands in the place of each character that was taken out."""

_SHORT = ("--wait", "0.2s", "--hash-wait", "0.2s", "--retries", "0")
_FORBIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_MODES: Mapping[str, tuple[str, ...]] = {
    "text": ("-vv",),
    "json": ("-vv", "--json", "--log-format", "json"),
}
mode = pytest.mark.parametrize("mode", _MODES)


def hold_to_account(text: str) -> None:
    """No control character and no line that the service made up."""
    found = [f"U+{ord(one):04X}" for one in text if unicodedata.category(one) in _FORBIDDEN and one != "\n"]
    assert not found, text
    assert not any(line.startswith(("error: forged", "statusName FINISHED")) for line in text.splitlines())


def read_json(outcome: Outcome) -> None:
    """In JSON, what is written as an escape is no better once it is read."""
    for line in outcome.stderr.splitlines():
        for value in json.loads(line).values():
            hold_to_account(str(value))


_HOSTILE: Mapping[str, tuple[Callable[[], Stage], int]] = {
    "job status": (lambda: Stage(looks=(shows(statusName=EVIL), shows())), 0),
    "job status for ever": (lambda: Stage(looks=(shows(statusName=EVIL),)), 14),
    "delivery status": (lambda: Stage(delivery={"statusName": EVIL}), 14),
    "method": (lambda: Stage(delivery={"methodName": EVIL}), 15),
    "names and keys": (
        lambda: Stage(
            changes={"clusterName": EVIL, "masterKeyUUID": EVIL, "encryptionEnabled": True, "batchId": EVIL},
            hashes=({"fileName": NAME, "hash": SHA1, "typeName": "SHA1"}, {"fileName": EVIL, "hash": EVIL}),
        ),
        0,
    ),
    "a hash of another name": (lambda: Stage(hashes=({"fileName": EVIL, "hash": SHA1},)), 0),
    "detail": (lambda: Stage(looks=(refuses("403 No", detail=EVIL, errorCode=EVIL),)), 10),
    "detail of a busy service": (lambda: Stage(looks=(refuses("503 No", detail=EVIL, errorCode=EVIL),)), 12),
    "a name that is not taken": (lambda: Stage(path="/pull/a%1b%5b2J%0a%e2%80%ae.tar.gz"), 0),
    "content encoding": (
        lambda: Stage(says(with_length(ARCHIVE, headers={"Content-Encoding": "\x9b31m\x85gzip"}))),
        16,
    ),
    "content type": (lambda: Stage(says(with_length(ARCHIVE, headers={"Content-Type": "text/html\x9b31m"}))), 16),
    "reason": (lambda: Stage(says(with_length(b"", "404 \x9b31m\x85"))), 16),
    "header": (lambda: Stage(header=True, delivery={"authHeader": EVIL}), 15),
    "URL": (lambda: Stage(delivery={"url": f"http://{EVIL}/a.tar.gz"}), 12),
    "redirect": (lambda: Stage(says(with_length(b"", "302 Found", {"Location": "http://\x9b31m/\x85"}))), 16),
}


@pytest.mark.parametrize(("kind", "mode"), [*zip(_HOSTILE, itertools.cycle(_MODES), strict=False)])
def test_control_characters_of_a_service_never_reach_the_output(kind: str, mode: str, tmp_path: Path) -> None:
    make, code = _HOSTILE[kind]
    with make() as stage:
        outcome = run(stage, tmp_path / "out", "fetch", *_SHORT, *_MODES[mode])

    assert outcome.code == code, outcome.stderr
    hold_to_account(outcome.stdout)
    hold_to_account(outcome.stderr)
    for name in outcome.names:
        hold_to_account(name)
    if mode == "json":
        read_json(outcome)


_ESCAPED = dict.fromkeys(range(0x20))

_SHOWN: Mapping[str, Any] = {
    "statusName": EVIL,
    "clusterName": EVIL,
    "masterKeyUUID": EVIL,
    "batchId": EVIL,
    "timestamp": {"date": "2026-01-31T11:59:00Z", "increment": EVIL},
    "links": [{"href": EVIL, "rel": EVIL}],
    "hashes": [{"fileName": EVIL, "hash": EVIL, "typeName": EVIL}],
    "delivery": {"methodName": EVIL, "statusName": EVIL, "authHeader": EVIL},
}


@mode
def test_the_table_of_a_status_has_no_row_that_the_service_made_up(mode: str, tmp_path: Path) -> None:
    with Stage(looks=(shows(**_SHOWN),)) as stage:
        outcome = run(stage, tmp_path / "out", "status", JOB, *_MODES[mode])

    assert outcome.code == 0
    hold_to_account(outcome.stdout)
    hold_to_account(outcome.stderr)
    if mode == "json":
        # What JSON escapes is harmless on a terminal, and the reader's own business.
        hold_to_account(json.loads(outcome.stdout)["links"][0]["rel"].translate(_ESCAPED))
    else:
        assert f"a{MARK}[2J" in outcome.stdout
        rows = [line.split()[0] for line in outcome.stdout.splitlines()]
        assert len(rows) == len(set(rows)) + rows.count("downloads") - 1


def test_a_progress_bar_shows_no_control_character_of_the_service(tmp_path: Path) -> None:
    """Only on a terminal is there a bar, and it writes past the log."""
    near, far = pty.openpty()
    seen = bytearray()

    def watch() -> None:
        try:
            while data := os.read(near, 4096):
                seen.extend(data)
        except OSError:
            pass  # the other side is closed

    watcher = threading.Thread(target=watch)
    watcher.start()
    waiting = shows(statusName=EVIL.replace("\n", ""))
    try:
        with Stage(looks=(waiting, waiting, waiting, shows())) as stage:
            environ = {"TERM": "xterm", "COLUMNS": "300", "LINES": "24"}
            outcome = run(stage, tmp_path / "out", "fetch", stderr=far, environ=environ)
    finally:
        os.close(far)
        watcher.join()
        os.close(near)

    assert verified(outcome)
    shown = seen.decode("utf-8")
    assert "waiting for" in shown
    for sequence in ("\x1b[2J", "\x1b]", "\x07", "\x00", "\x9b", "\x85", "\u2028", "\u202e", "\u2066", "\u200b"):
        assert sequence not in shown, repr(shown)


def test_a_usage_error_shows_no_control_character_of_its_arguments(tmp_path: Path) -> None:
    """What a script passes on may have come from a service, too."""
    hostile = EVIL.replace("\x00", "")
    with Stage() as stage:
        for arguments in (
            ("fetch", hostile),
            ("status", hostile),
            (hostile,),
            ("fetch", JOB, "--service", hostile),
        ):
            outcome = run(stage, tmp_path / "out", *arguments)
            assert outcome.code == 2
            hold_to_account(outcome.stderr)
