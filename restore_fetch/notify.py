"""Telling others how a run went, when nobody watches it: a ping, a metrics file, a command.

The run is over by then, and its files and its exit code say how it went. So nothing here changes either: whatever
fails while others are told is a warning for whoever asked to log, and no more.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from restore_fetch import files
from restore_fetch.errors import ConfigurationError, StorageError
from restore_fetch.redaction import remember, remember_url, scrub

if TYPE_CHECKING:
    from restore_fetch.records import Verdict

_BODY_BYTES = 10_000  # healthchecks keeps no more
_PING_TRIES = 2
_TOLD_BYTES = 4096
_DRAIN_SECONDS = 1.0
_METRICS_MODE = 0o644  # the collector is another user, and there is no secret in it
_VARIABLE = "RESTORE_FETCH_RESULT_"
_SECRET_VARIABLES = (
    "MONGODB_ATLAS_PRIVATE_API_KEY",
    "MCLI_PRIVATE_API_KEY",
    "MONGODB_ATLAS_CLIENT_SECRET",
    "MCLI_CLIENT_SECRET",
    "RESTORE_FETCH_PING_URL",
    "CREDENTIALS_DIRECTORY",
)


@dataclass(frozen=True)
class Archive:
    """A file that a run found to be right, or published.

    Attributes:
        path: The file.
        sha1: Its SHA1.
        size: Its bytes.
        verdict: `verified`, `structure` or `unverified`, as in receipts.
        receipt: Its receipt, where there is one.
    """

    path: Path
    sha1: str
    size: int
    verdict: Verdict
    receipt: Path | None = None


@dataclass(frozen=True)
class Report:
    """How a run went.

    Attributes:
        command: Which command it was.
        project: The project, as far as it is known.
        cluster: The cluster, likewise.
        exit_code: What the run ends with.
        verdict: That of its archives, of several the weakest; of a failure `mismatch`, `damaged`, `unverified` or
            `error`.
        error: Why it failed; empty when it did not.
        finished: When it ended, in seconds since 1970.
        seconds: How long it took.
        archives: What is here by it.
        receipt: The receipt for all of them, where there is one.
    """

    command: str
    project: str
    cluster: str
    exit_code: int
    verdict: str
    error: str
    finished: float
    seconds: float
    archives: Sequence[Archive] = ()
    receipt: Path | None = None


# --- a ping ----------------------------------------------------------------------------------------------


class Ping:
    """Pings a URL by the convention of healthchecks: `URL/start`, then `URL/EXIT-CODE` with the last log lines.

    Args:
        url: The address. It is a secret: who knows it can say that all is well.
        user_agent: Who asks.

    Raises:
        ConfigurationError: It is no such address.
    """

    def __init__(self, url: str, *, user_agent: str) -> None:
        remember(url)
        try:
            self._parts = urlsplit(url.strip())
            usable = self._parts.scheme in ("http", "https") and bool(self._parts.hostname)
            _ = self._parts.port
            remember_url(url)
        except ValueError:
            usable = False
        if not usable or not url.strip().isascii() or not url.strip().isprintable() or " " in url.strip():
            # What was given may be the better part of a good address, so it is not repeated.
            raise ConfigurationError("--ping-url must be like https://hc-ping.com/UUID")
        self._user_agent = user_agent

    def start(self, *, seconds: float) -> str | None:
        """Say that a run begins; see `_send`."""
        return self._send("start", b"", seconds)

    def end(self, exit_code: int, lines: Sequence[str], *, seconds: float) -> str | None:
        """Say how it ended; see `_send`.

        Args:
            exit_code: What the run ends with.
            lines: The last log lines.
            seconds: How long this may take in all.
        """
        body = scrub("\n".join(lines)).encode("utf-8", "replace")[-_BODY_BYTES:]
        return self._send(str(exit_code), body, seconds)

    def _send(self, word: str, body: bytes, seconds: float) -> str | None:
        """Send one, in so many seconds or not at all.

        Returns:
            Why it did not arrive; None when it did.
        """
        outcome: list[str | None] = []

        def send() -> None:
            for _ in range(_PING_TRIES):
                reason, again = _request(_below(self._parts, word), body, self._user_agent, seconds)
                if not again:
                    break
            outcome.append(reason)

        # A server that sends a byte now and then, or a resolver, knows no timeout of ours. A thread can be left.
        thread = threading.Thread(target=send, name="ping", daemon=True)
        thread.start()
        thread.join(seconds)
        reason = outcome[0] if outcome else f"no answer within {seconds:g} s"
        return f"{self._parts.hostname}: {reason}" if reason is not None else None


def _below(parts: SplitResult, word: str) -> str:
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{word}", fragment=""))


def _request(url: str, body: bytes, user_agent: str, seconds: float) -> tuple[str | None, bool]:
    """One POST: why it failed, or None; and whether another try may succeed."""
    import http
    import urllib.error
    import urllib.request

    class Stay(urllib.request.HTTPRedirectHandler):
        """Follows no redirect: a POST would become a GET without its body."""

        def redirect_request(self, *_: Any, **__: Any) -> None:
            return None

    headers = {"User-Agent": user_agent, "Content-Type": "text/plain; charset=utf-8"}
    try:
        request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310 - http or https
        with urllib.request.build_opener(Stay).open(request, timeout=seconds / _PING_TRIES):
            return None, False
    except urllib.error.HTTPError as exc:
        exc.close()
        return f"status {exc.code}", exc.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR
    except urllib.error.URLError as exc:
        reason = exc.reason
        return (getattr(reason, "strerror", None) or str(reason)), True
    except Exception as exc:  # noqa: BLE001 - a thread that ends by an error would print it, with the address
        return getattr(exc, "strerror", None) or type(exc).__name__, True


# --- a metrics file --------------------------------------------------------------------------------------

_PREFIX = "restore_fetch_"
_OWNERS = ("project", "cluster")
_SUCCESS = ("last_success_timestamp_seconds", "bytes")
_METRICS = {
    "last_success_timestamp_seconds": "When the last run that succeeded ended.",
    "last_run_timestamp_seconds": "When the last run ended, however it did.",
    "last_exit_code": "What the last run ended with; 0 is success.",
    "bytes": "Size of the archives of the last run that succeeded.",
    "duration_seconds": "How long the last run took.",
    "info": "Which command and which version wrote this.",
}
_LABELS = {"info": (*_OWNERS, "command", "version")}
_Labels = tuple[tuple[str, str], ...]
_Samples = dict[str, dict[_Labels, float]]


def check_metrics_path(path: Path) -> None:
    """Find out before a run whether its metrics will be read at all.

    Raises:
        ConfigurationError: They will not.
    """
    if path.suffix != ".prom":
        raise ConfigurationError(f"--metrics-file must end in .prom, or no collector reads it: {path}")


def write_metrics(path: Path, report: Report, *, version: str) -> None:
    """Write how a run went for the textfile collector of Prometheus: whole, or not at all.

    What the file tells of other clusters stays, and so does the last success of this one when the run failed.

    Args:
        path: The file.
        report: How the run went.
        version: Of this tool.

    Raises:
        StorageError: It cannot be written, or something else than our metrics is there.
    """
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    samples = _read_metrics(path)
    owner = (("project", report.project), ("cluster", report.cluster))
    succeeded = report.exit_code == 0
    for name, series in samples.items():
        if succeeded or name not in _SUCCESS:
            for labels in [labels for labels in series if _owner(labels) == owner]:
                del series[labels]
    new = {
        "last_run_timestamp_seconds": report.finished,
        "last_exit_code": float(report.exit_code),
        "duration_seconds": report.seconds,
    }
    if succeeded:
        size = sum(archive.size for archive in report.archives)
        new |= {"last_success_timestamp_seconds": report.finished, "bytes": float(size)}
    for name, value in new.items():
        samples[name][owner] = value
    samples["info"][(*owner, ("command", report.command), ("version", version))] = 1.0
    registry = CollectorRegistry()
    for name, text in _METRICS.items():
        gauge = Gauge(_PREFIX + name, text, _LABELS.get(name, _OWNERS), registry=registry)
        for labels, value in samples[name].items():
            gauge.labels(**dict(labels)).set(value)
    files.write_whole(path, generate_latest(registry), mode=_METRICS_MODE)


def _owner(labels: _Labels) -> _Labels:
    return tuple((name, value) for name, value in labels if name in _OWNERS)


def _read_metrics(path: Path) -> _Samples:
    """What an earlier run wrote; a file that is not like that is somebody else's."""
    from prometheus_client.parser import text_string_to_metric_families

    samples: _Samples = {name: {} for name in _METRICS}
    try:
        for family in text_string_to_metric_families((files.read_small(path) or b"").decode("utf-8")):
            for sample in family.samples:
                name = sample.name.removeprefix(_PREFIX)
                expected = _LABELS.get(name, _OWNERS)
                labels = tuple((label, sample.labels.pop(label)) for label in expected)
                samples[name][labels] = sample.value
    except (ValueError, LookupError, AttributeError, TypeError) as exc:  # the parser knows no error of its own
        raise StorageError(
            f"{path} holds other things than the metrics of restore-fetch",
            path=path,
            files="it was left untouched",
            next_step="move it, or choose another --metrics-file",
        ) from exc
    return samples


# --- a command -------------------------------------------------------------------------------------------


def parse_command(command: str, option: str) -> list[str]:
    """The words of a command, as a shell would split them.

    Raises:
        ConfigurationError: There are none, or a quotation does not end.
    """
    try:
        words = shlex.split(command)
    except ValueError as exc:
        raise ConfigurationError(f"{option} is no command: {str(exc).lower()}") from exc
    if not words:
        raise ConfigurationError(f"{option} is empty")
    return words


def result_variables(report: Report) -> dict[str, str]:
    """What a command is told. Of several archives, one a line."""
    receipt = report.receipt or next((one.receipt for one in report.archives if one.receipt is not None), None)
    values = {
        "FILE": "\n".join(str(archive.path) for archive in report.archives),
        "SHA1": "\n".join(archive.sha1 for archive in report.archives),
        "VERDICT": report.verdict,
        "EXIT_CODE": str(report.exit_code),
        "RECEIPT": str(receipt) if receipt is not None else "",
        "ERROR": report.error,
    }
    return {_VARIABLE + name: value for name, value in values.items()}


def run_command(words: Sequence[str], report: Report, environ: Mapping[str, str]) -> str | None:
    """Run a command, without a shell, and wait for it.

    It gets the environment of the run without the secrets in it, and what it writes goes nowhere: stdout is for
    results, and a log has its own form.

    Args:
        words: The command.
        report: How the run went.
        environ: The environment of the run.

    Returns:
        Why it failed, with the last line that it wrote; None when it did not.
    """
    kept = {name: value for name, value in environ.items() if name not in _SECRET_VARIABLES}
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=kept | result_variables(report),
        )
    except (OSError, ValueError) as exc:
        return getattr(exc, "strerror", None) or str(exc)
    told = _Tail(process)
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        raise
    last = told.last_line()
    if code == 0:
        return None
    ended = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
    return f"{ended}: {last}" if last else ended


class _Tail:
    """The end of what a process writes. Its pipe may stay open after it, in the hands of its children."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._end = b""
        self._thread = threading.Thread(target=self._read, name="command", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        pipe = self._process.stdout
        if pipe is None:
            return
        with contextlib.suppress(OSError, ValueError), pipe:
            while piece := os.read(pipe.fileno(), _TOLD_BYTES):
                self._end = (self._end + piece)[-_TOLD_BYTES:]

    def last_line(self) -> str:
        self._thread.join(_DRAIN_SECONDS)
        lines = self._end.decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
