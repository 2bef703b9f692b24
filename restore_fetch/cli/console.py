"""What people and log collectors see: results on stdout, everything else on stderr, no secret on either."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from restore_fetch.redaction import plain, scrub

if TYPE_CHECKING:
    from restore_fetch.notify import Archive

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_KEPT_LINES = 50
_LONGEST_LINE = 20_000


@dataclass
class Console:
    """Both streams, and how they are to be written.

    Attributes:
        json_output: Whether results are one JSON document.
        json_logs: Whether each line on stderr is a JSON object.
        quiet: Whether only the error that ends a run is told.
        verbose: How much more is told than usual.
        progress: Whether progress may be shown.
        last_lines: The last log lines as people see them, or would if this were not quiet.
        archives: What the run found to be right, or published.
        receipt: The receipt for all of them, where there is one.
    """

    json_output: bool = False
    json_logs: bool = False
    quiet: bool = False
    verbose: int = 0
    progress: bool = True
    last_lines: list[str] = field(default_factory=list)
    archives: list[Archive] = field(default_factory=list)
    receipt: Path | None = None
    _hide: Callable[[], None] | None = None

    def note(
        self, event: str, message: str, *, level: str = "info", even_quiet: bool = False, **fields: Any
    ) -> None:
        """Write a log line, if it matters enough.

        Args:
            event: A short, stable name for machines.
            message: A sentence for people.
            level: `debug`, `info`, `warning` or `error`.
            even_quiet: Whether it is told although only errors are asked for.
            fields: Further elements for machines.
        """
        least = "debug" if self.verbose else "info"
        if _LEVELS[level] < _LEVELS[least]:
            return
        message = _short(plain(scrub(message)))
        prefix = f"{level}: " if level in ("warning", "error") else ""
        text = prefix + message
        self.last_lines = [*self.last_lines, text][-_KEPT_LINES:]
        if self.quiet and level != "error" and not even_quiet:
            return
        now = datetime.now(UTC)
        if self.json_logs:
            entry = {"ts": now.isoformat(timespec="milliseconds")[:-6] + "Z", "level": level, "event": event}
            self._write_log(json.dumps({**entry, "message": message, **fields}))
        else:
            self._write_log(f"{now:%H:%M:%S}Z {text}" if self.verbose else text)

    def fail(self, error: BaseException, message: str, exit_code: int) -> None:
        """Write the last line of a failed run."""
        self.note("failed", message, level="error", exit_code=exit_code, error=type(error).__name__)

    def raw(self, text: str) -> None:
        """Write lines to stderr as they are, but for secrets and control characters."""
        for line in text.splitlines():
            self._write_log(plain(scrub(line)))

    def result(self, text: str, document: Any = None) -> None:
        """Write the result of a command to stdout.

        Args:
            text: For people and simple scripts.
            document: For `--json`, anything that JSON can say.

        Raises:
            OSError: It cannot be written.
        """
        if sys.stdout is None:
            return
        shown = json.dumps(document, indent=2, ensure_ascii=False) if self.json_output else text
        # Only at the line ends written here: JSON leaves other ones, such as U+2028, inside of its strings.
        lines = [plain(scrub(line)) for line in shown.split("\n")] if shown else []
        try:
            with self.hidden():
                sys.stdout.write("".join(f"{line}\n" for line in lines))
                sys.stdout.flush()
        except OSError:
            _give_up(sys.stdout)
            raise

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Take a progress bar out of the way while something is written."""
        if self._hide is not None:
            self._hide()
        yield

    def hide_with(self, hide: Callable[[], None] | None) -> None:
        """Say how a progress bar is taken out of the way; None when there is none any more."""
        self._hide = hide

    @property
    def draws(self) -> bool:
        """Whether a progress bar may be drawn."""
        return self.tells_progress and not self.json_logs and sys.stderr is not None and sys.stderr.isatty()

    @property
    def tells_progress(self) -> bool:
        """Whether progress may be told at all."""
        return self.progress and not self.quiet

    def _write_log(self, line: str) -> None:
        if sys.stderr is None:
            return
        try:
            with self.hidden():
                sys.stderr.write(line + "\n")
                sys.stderr.flush()
        except OSError:
            _give_up(sys.stderr)  # nobody listens: the work goes on, its files and its exit code still tell


def _short(text: str) -> str:
    """A line that a hostile service cannot make so long that a log drowns in it."""
    return text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]}… ({len(text)} characters)"


def _give_up(stream: TextIO) -> None:
    """Stop writing to a broken stream, so that closing it at exit fails no more."""
    with contextlib.suppress(OSError, ValueError):
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, stream.fileno())
        os.close(sink)
