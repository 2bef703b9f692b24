"""Real runs of `restore-fetch fetch` under strace: what they do to files, and what becomes of them when it fails.

A run is traced once. Each call that it made in its folder is then a point at which another run, on a job of its
own, is killed (strace delivers SIGKILL before the call is carried out) or told an error. What must hold after
that is checked here, and `finish` repeats the command, which must end verified.

A call is addressed by its name, one path, and its number among the calls with that name and path: strace counts
for each thread apart, and only one thread touches a path at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from restore_fetch.cli.main import main as restore_fetch
from restore_fetch.sandbox import SCENARIOS, Sandbox, Scenario

UNVERIFIED = 18
STORAGE = 19
KILLED = -signal.SIGKILL
DEADLINE_SECONDS = 180.0
ENDINGS = ("", ".sha1", ".receipt.json", ".part", ".part.json", ".unverified", ".rejected", ".rejected.json")
WRITTEN_WHOLE = (".sha1", ".receipt.json", ".part.json", ".rejected.json")
_CALLS = [
    *("openat", "write", "pwrite64", "ftruncate", "fallocate", "fsync", "fdatasync", "close", "fchmod", "flock"),
    *("rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat"),
]
_SENDING = ["sendto", "sendmsg"]
ERRORS = {
    "write": ("ENOSPC", "EDQUOT", "EIO", "EFBIG"),
    "fsync": ("EIO", "ENOSPC", "EDQUOT"),
    "close": ("EIO",),
    "rename": ("EIO", "ENOSPC", "EDQUOT"),
    "openat": ("ENOSPC", "EIO"),
    "fchmod": ("EIO",),
    "ftruncate": ("EIO", "EFBIG"),
    "fallocate": ("ENOSPC", "EDQUOT", "EFBIG"),
    "mkdir": ("ENOSPC",),
    "unlink": ("EIO",),
}
"""Which errors each system call may give."""
SHORT_WRITES = """
import os
real = os.write
os.write = lambda descriptor, view: real(descriptor, memoryview(view)[: max(1, len(view) * 2 // 3)])
"""
LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))
"""
_LINE = re.compile(r"(?P<thread>\d+) +(?P<call>\w+)\((?P<rest>.*)\Z")
_UNFINISHED = " <unfinished ...>"
_RESUMED = re.compile(r"(?P<thread>\d+) +<\.\.\. (?P<call>\w+) resumed>(?P<rest>.*)\Z")
_RESULT = re.compile(r"\) += (?P<result>-?\d+|\?)[^)]*(?P<injected>\(INJECTED\))?(?: \(deleted\))?\Z")
_NAMED_PATH = re.compile(r'(?<!\w)"(/[^"]*)"')
_OPEN_PATH = re.compile(r"^\d+<([^>]*)>")


def why_no_strace() -> str | None:
    """Why system calls cannot be traced and injected here; None when they can."""
    if not sys.platform.startswith("linux"):
        return "strace is for Linux"
    if shutil.which("strace") is None:
        return "strace is not installed"
    trial = ["strace", "-f", "-qq", "-o", os.devnull, "--inject=getppid:error=EIO", sys.executable, "-c", ""]
    if subprocess.run(trial, capture_output=True, check=False).returncode != 0:
        return "strace may not trace here (ptrace is not permitted, or it is older than 5.0)"
    return None


@dataclass(frozen=True)
class Call:
    """One system call of a traced run.

    Attributes:
        thread: Which thread made it.
        name: What it is called.
        arguments: As strace shows them.
        paths: The files it is about, the first one first.
        result: What it returned; None when the process did not live to see it.
        injected: Whether strace made that up.
    """

    thread: int
    name: str
    arguments: str
    paths: tuple[str, ...]
    result: int | None
    injected: bool

    @property
    def path(self) -> str:
        return self.paths[0] if self.paths else ""

    @property
    def changes(self) -> bool:
        """Whether it may change what is on the disk, or ends such a change; looking around does not."""
        if self.name == "openat":
            to_be_flushed = "O_DIRECTORY" in self.arguments and "O_NONBLOCK" not in self.arguments
            return "O_CREAT" in self.arguments or to_be_flushed
        return True


@dataclass(frozen=True)
class Point:
    """One call of a traced run, so that it can be found again in another one.

    Attributes:
        name: The system call.
        ending: What its path ends in: the file is the archive's name with that.
        number: Which of the calls with this name and path it is, counted from 1.
        call: The call itself, for reports.
    """

    name: str
    ending: str
    number: int
    call: Call | None = field(default=None, compare=False)

    @property
    def codes_of_error(self) -> tuple[int, ...]:
        """The exit codes that are right when the disk refuses this call."""
        if self.ending == "the lock" and self.name in ("unlink", "close"):
            return (0,)  # a file that is not locked stops nobody
        if self.ending == "the folder" and self.name == "mkdir" and self.number > 1:
            return (0, STORAGE)  # it is there by now
        return (STORAGE,)

    def __str__(self) -> str:
        return f"{self.name} #{self.number} on {self.ending}"


@dataclass
class Run:
    """One finished process.

    Attributes:
        code: Its exit code, below zero for a signal.
        out: Its stdout.
        err: Its stderr.
        calls: What strace saw.
        seconds: How long it took.
    """

    code: int
    out: str
    err: str
    calls: list[Call] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Tally:
    """What many runs add up to.

    Attributes:
        runs: How many real processes ran.
        successes: How many of them exited with 0.
        false_successes: How many of those left something other than the published bytes.
        wasted: Requests for an archive that was here in full.
    """

    runs: int = 0
    successes: int = 0
    false_successes: int = 0
    wasted: int = 0

    def add(self, code: int, right: bool) -> None:
        """Count a run that ended with this code, and whether the final name holds the archive now."""
        self.runs += 1
        self.successes += code == 0
        self.false_successes += code == 0 and not right


class Workshop:
    """A sandbox, and a folder for the cases that are run against it.

    Args:
        size_bytes: About how large an archive is; above 64 KiB it is written in more than one piece.
    """

    def __init__(self, size_bytes: int) -> None:
        self.sandbox = Sandbox(size_bytes=size_bytes)
        self.tally = Tally()
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="restore-fetch-crash-")).resolve()
        try:
            self.sandbox.start()
        except BaseException:
            shutil.rmtree(self.folder)
            raise
        self.key_file = self.folder / "private-key"
        self.key_file.write_text(self.sandbox.private_key)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sandbox.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def case(self, scenario: str | Scenario, *options: str) -> Case:
        """A job of its own that finishes at once, and a folder of its own."""
        chosen = SCENARIOS[scenario] if isinstance(scenario, str) else scenario
        job_id = self.sandbox.add_job(replace(chosen, polls_until_finished=0))
        return Case(self, chosen, job_id, self.folder / f"case-{next(self._numbers)}", options)

    def environment(self) -> dict[str, str]:
        """Nothing of the settings and proxies of whoever runs this."""
        kept = ("PATH", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "PYDANTIC_DISABLE_PLUGINS")
        return {name: os.environ[name] for name in kept if name in os.environ} | {"HOME": str(self.folder)}


class Case:
    """One restore job, its folder, and the command that fetches it."""

    def __init__(
        self, workshop: Workshop, scenario: Scenario, job_id: str, folder: Path, options: Sequence[str]
    ) -> None:
        self.workshop = workshop
        self.scenario = scenario
        self.job_id = job_id
        self.folder = folder
        self.out_dir = folder / "out"
        self.folder.mkdir()
        self.options = options
        sandbox = workshop.sandbox
        self.name = sandbox.file_name(job_id)
        self.final = self.out_dir / self.name
        self.part = self.file(".part")
        self.archive = sandbox.archive(job_id)

    def file(self, ending: str) -> Path:
        return self.out_dir / (self.name + ending)

    def path_of(self, ending: str) -> Path:
        """The path that a `Point` names: of the folder, the lock, or one of the archive's files."""
        if ending == "the folder":
            return self.out_dir
        if ending == "the lock":
            return self.out_dir / f".restore-fetch-{self.job_id}.lock"
        return self.file("" if ending == "the archive" else ending)

    def paths(self) -> dict[str, str]:
        """What each path that a run touches is called in reports."""
        endings = [*ENDINGS[1:], *(f"{ending}.tmp" for ending in WRITTEN_WHOLE)]
        return {str(self.path_of(name)): name for name in ("the folder", "the lock", "the archive", *endings)}

    @property
    def gets(self) -> int:
        return self.workshop.sandbox.delivery_gets(self.job_id)

    def command(self) -> list[str]:
        sandbox = self.workshop.sandbox
        return [
            *(sys.executable, "-m", "restore_fetch", "fetch", self.job_id, "--no-progress"),
            *("--base-url", sandbox.base_url, "--project-id", sandbox.project_id, "--cluster", sandbox.cluster),
            *("--public-key", sandbox.public_key, "--private-key-file", str(self.workshop.key_file)),
            *("--out-dir", str(self.out_dir), "--poll-interval", "0.05s", "--min-free", "0"),
            *("--hash-wait", "30s", *self.options),
        ]

    def start(self, *before: str, command: Sequence[str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*before, *(command or self.command())],
            env=self.workshop.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self, process: subprocess.Popen[str]) -> Run:
        """Wait for a process, and count it."""
        began = time.monotonic()
        try:
            out, err = process.communicate(timeout=DEADLINE_SECONDS)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        self.workshop.tally.add(process.returncode, self.is_right())
        return Run(process.returncode, out, err, seconds=time.monotonic() - began)

    def run(self, *before: str, command: Sequence[str] | None = None) -> Run:
        return self.wait(self.start(*before, command=command))

    def run_here(self) -> Run:
        """Run the same command in this process, which is much faster."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = restore_fetch(self.command()[3:])
        self.workshop.tally.add(code, self.is_right())
        return Run(code, out.getvalue(), err.getvalue())

    def traced(self, *, only: Path | None = None, inject: str | None = None, everything: bool = False) -> Run:
        """Run under strace.

        Args:
            only: Look at this path only; without it at every path of the case.
            inject: What strace is to do to which call.
            everything: Look at all calls that name files or send something, whatever the path.
        """
        log = self.folder / "trace"
        watched = [str(only)] if only else list(self.paths())
        wanted = ",".join(f"?{name}" for name in (_CALLS + _SENDING if everything else _CALLS))
        options = ["-f", "-y", "-qq", "-s", "512", "-o", str(log), "-e", f"trace={wanted}", "-e", "signal=none"]
        if not everything:
            options += [word for path in watched for word in ("-P", path)]
        if inject is not None:
            options += ["-e", f"inject={inject}"]
        run = self.run("strace", *options)
        run.calls = parse_trace(log.read_text(errors="replace"))
        return run

    def inject(self, point: Point, what: str) -> Run:
        """Run, and have strace do something to one call: `signal=KILL`, `error=EIO`, `retval=1`."""
        return self.traced(only=self.path_of(point.ending), inject=f"{point.name}:{what}:when={point.number}")

    # --- what must hold

    def is_right(self) -> bool:
        """Whether the final name holds the archive that the service delivers."""
        return self.final.is_file() and _sha1(self.final) == self.archive.sha1

    def journal(self) -> dict[str, object]:
        try:
            document = json.loads(self.file(".part.json").read_bytes())
        except FileNotFoundError:
            return {}
        assert isinstance(document, dict)
        return document

    def is_here_in_full(self) -> bool:
        """Whether every byte is here, and something says so: then nothing need be downloaded again."""
        finished = (self.final, self.file(".unverified"))
        if any(path.is_file() and _sha1(path) == self.archive.sha1 for path in finished):
            return True
        if not self.part.is_file() or _sha1(self.part) != self.archive.sha1:
            return False
        journal = self.journal()
        attempts = journal.get("attempts")
        last = attempts[-1] if isinstance(attempts, list) and attempts else {}
        return (
            journal.get("state") in ("whole", "publishing")
            or journal.get("total_bytes") == self.archive.size
            or last.get("outcome") == "complete"
        )

    def wrong_after(self, run: Run) -> list[str]:
        """What must never be, however a run ended."""
        wrong = []
        if os.path.lexists(self.final) and not self.is_right():
            wrong.append("the final name holds something other than the archive")
        if "Traceback" in run.err:
            wrong.append("a traceback")
        if any(secret in run.out + run.err for secret in self.workshop.sandbox.secrets()):
            wrong.append("a secret in the output")
        return wrong

    def wrong_after_error(self, run: Run, codes: Sequence[int] = (STORAGE,)) -> list[str]:
        """What must not be after a system call failed."""
        wrong = self.wrong_after(run)
        if run.code not in codes:
            wrong.append(f"exit {run.code}: {run.err.strip().splitlines()[-1:]}")
        lines = run.err.splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        if run.code != 0 and (len(errors) != 1 or lines[-1] != errors[0]):
            wrong.append(f"{len(errors)} error lines")
        wrong += self._wrong_flushes(run)
        return wrong

    def _wrong_flushes(self, run: Run) -> Iterator[str]:
        """A flush that failed says that bytes may be gone; a second one would say that all is well."""
        failed: set[str] = set()
        for call in run.calls:
            if call.name == "openat":
                failed.discard(call.path)
            elif call.name in ("fsync", "fdatasync"):
                if call.path in failed:
                    yield "a failed fsync was tried again"
                if call.result != 0 and call.result is not None:
                    failed.add(call.path)

    def finish(self) -> list[str]:
        """Run the same command again; what is wrong when it does not end verified, with nothing lost or left."""
        whole, gets = self.is_here_in_full(), self.gets
        kept = self.part.stat().st_size if self.part.is_file() else 0
        goes_on = kept > 0 and not whole and self.journal().get("etag") is not None
        run = self.run()
        wrong = self.wrong_after(run)
        if run.code != 0:
            return [*wrong, f"the next run: exit {run.code}: {run.err.strip().splitlines()[-1:]}"]
        asked = self.gets - gets
        if asked > (0 if whole else 1):
            self.workshop.tally.wasted += 1
            wrong.append(f"the next run made {asked} requests for an archive that was here {'in full' * whole}")
        wrong += self.wrong_when_verified(run)
        if goes_on and asked:
            last = json.loads(self.file(".receipt.json").read_bytes())["attempts"][-1]
            if last["resumed_from"] != kept:
                wrong.append(f"{kept} bytes were here, the next run went on from {last['resumed_from']}")
        return wrong

    def wrong_when_verified(self, run: Run) -> list[str]:
        """What must be there after an exit with 0, and nothing else."""
        wrong = []
        if not self.is_right():
            wrong.append("exit 0 with a SHA1 other than the published one")
        if run.out.strip() != str(self.final):
            wrong.append("stdout is not the path of the archive")
        expected = {self.name, f"{self.name}.sha1", f"{self.name}.receipt.json"}
        if (here := {path.name for path in self.out_dir.iterdir()}) != expected:
            wrong.append(f"left: {sorted(here - expected)}, missing: {sorted(expected - here)}")
            return wrong
        receipt = json.loads(self.file(".receipt.json").read_bytes())
        if (receipt["verdict"], receipt["sha1"]) != ("verified", self.archive.sha1):
            wrong.append("the receipt does not say what was verified")
        if self.file(".sha1").read_text() != f"{self.archive.sha1}  {self.name}\n":
            wrong.append("the .sha1 file is wrong")
        return wrong

    def close(self) -> None:
        """Remove what the case left on the disk."""
        shutil.rmtree(self.folder)


def cut_short(case: Case, prelude: str, *values: object) -> Run:
    """Run the same command in an interpreter that was first told something about writing."""
    command = case.command()
    module = command.index("restore_fetch")
    code = (
        prelude.format(*values)
        + f"import runpy, sys\nsys.argv[1:] = {command[module + 1 :]!r}\n"
        + "runpy.run_module('restore_fetch', run_name='__main__', alter_sys=True)"
    )
    return case.run(command=[sys.executable, "-c", code])


def prepare_part(case: Case) -> None:
    """Leave a part file with a third of the archive and the journal that goes with it."""
    run = case.inject(Point("write", ".part", 2), "signal=KILL")
    assert run.code == KILLED
    assert 0 < case.part.stat().st_size < case.archive.size


def prepare_unverified(case: Case) -> None:
    """Leave an archive that is whole, with its hash not published yet."""
    case.options = ("--hash-wait", "0")
    run = case.run()
    assert run.code == UNVERIFIED, run.err
    case.options = ()


def prepare_publication(case: Case) -> None:
    """Leave an archive that is proven and not yet published."""
    run = case.inject(Point("rename", ".part", 1), "signal=KILL")
    assert run.code == KILLED
    assert case.journal()["state"] == "publishing"


def power_cuts(case: Case) -> list[Path]:
    """Let a run be, and return every state of its folder that a power cut on its way could have left."""
    states = case.folder / "states"
    command = case.command()
    module = command.index("restore_fetch")
    recorder = [sys.executable, str(Path(__file__).with_name("power_cuts.py")), str(case.out_dir), str(states)]
    run = case.run(command=[*recorder, *command[module + 1 :]])
    assert run.code == 0, run.err
    return sorted(states.iterdir())


def wrong_after_power_cut(case: Case, state: Path, run: Callable[[], Run]) -> list[str]:
    """Put a state in the place of the folder, as a machine finds it when it starts again, and run once more."""
    shutil.rmtree(case.out_dir, ignore_errors=True)
    shutil.copytree(state, case.out_dir)
    journal = case.file(".part.json")
    if journal.is_file():
        journal.write_bytes(re.sub(rb'"boot_id": "[^"]*"', b'"boot_id": "an earlier one"', journal.read_bytes()))
    proven = case.journal().get("state") in ("whole", "publishing") or case.file(".receipt.json").exists()
    gets = case.gets
    again = run()
    wrong = case.wrong_after(again)
    if again.code != 0:
        return [*wrong, f"exit {again.code}: {again.err.strip().splitlines()[-1:]}"]
    if case.gets - gets > (0 if proven else 1):
        case.workshop.tally.wasted += 1
        wrong.append(f"{case.gets - gets} requests for an archive {'that was proven' * proven}")
    return wrong + case.wrong_when_verified(again)


def points_of(case: Case, calls: Sequence[Call]) -> list[Point]:
    """Every call of a traced run that changes something, as points in time."""
    names = case.paths()
    numbers: Counter[tuple[int, str, str]] = Counter()
    points = []
    listed: set[str] = set()  # folders that are open to be read
    for call in calls:
        for path in dict.fromkeys(call.paths):
            numbers[call.thread, call.name, path] += 1
        if call.name == "openat":
            (listed.discard if call.changes else listed.add)(call.path)
        looks = not call.changes or (call.name == "close" and call.path in listed)
        if not looks and call.path in names:
            number = numbers[call.thread, call.name, call.path]
            points.append(Point(call.name, names[call.path], number, call))
    return points


def wrong_order(case: Case, calls: Sequence[Call]) -> list[str]:
    """What is wrong with the order in which a run made its files last; nothing when it is right.

    The bytes are flushed before the archive gets its name, the name before the receipt begins to be written, and
    the journal goes last. Whatever is written beside a file is flushed before it takes its place.
    """
    wrong = []
    landmarks = {
        "the last write of the bytes": _last(calls, "write", case.part),
        "their flush": _last(calls, "fsync", case.part),
        "the rename to the final name": _last(calls, "rename", case.part),
        "the flush of the folder": _next(calls, "fsync", case.out_dir, _last(calls, "rename", case.part)),
        "the first write of the .sha1 file": _next(calls, "openat", case.file(".sha1.tmp"), 0),
        "its rename": _last(calls, "rename", case.file(".sha1.tmp")),
        "the first write of the receipt": _next(calls, "openat", case.file(".receipt.json.tmp"), 0),
        "the receipt's rename": _last(calls, "rename", case.file(".receipt.json.tmp")),
        "the last flush of the folder": _last(calls, "fsync", case.out_dir),
        "the end of the journal": _last(calls, "unlink", case.file(".part.json")),
    }
    wrong += [f"{what} never happens" for what, at in landmarks.items() if at < 0]
    wrong += [
        f"{later} comes before {earlier}"
        for (earlier, first), (later, second) in itertools.pairwise(landmarks.items())
        if 0 <= second <= first
    ]
    for ending in WRITTEN_WHOLE[:3]:
        beside = str(case.file(f"{ending}.tmp"))
        story = [call.name for call in calls if call.path == beside and call.name in ("write", "fsync", "rename")]
        if not story or story != ["write", "fsync", "rename"] * (len(story) // 3):
            wrong.append(f"{beside} is not written, flushed and renamed in turn: {story}")
    for at, call in enumerate(calls):
        if call.name == "rename" and "fsync" not in _until_next_rename(calls, at, case.out_dir):
            wrong.append(f"the folder is not flushed after {call.arguments}")
    return wrong


def attempt_recorded_before_request(case: Case, calls: Sequence[Call]) -> bool:
    """Whether the journal was on disk before the archive was asked for: `calls` are of a run with `everything`."""
    sent = [at for at, call in enumerate(calls) if call.name in _SENDING and case.name in call.arguments]
    before = calls[: sent[0]]
    journal = str(case.file(".part.json"))
    renamed = [at for at, call in enumerate(before) if call.name == "rename" and call.paths[1:] == (journal,)]
    flushed = [at for at, call in enumerate(before) if (call.name, call.path) == ("fsync", str(case.out_dir))]
    # The first journal has no attempt yet, the second one has.
    return len(renamed) >= 2 and flushed[-1] > renamed[-1]


def parse_trace(text: str) -> list[Call]:
    """The calls in a log of `strace -f -y`, in the order in which they ended."""
    calls = []
    begun: dict[str, str] = {}
    for line in text.splitlines():
        if (resumed := _RESUMED.match(line)) is not None:
            line = begun.pop(resumed["thread"], "") + resumed["rest"]
        elif line.endswith(_UNFINISHED):
            begun[line.split(" ", 1)[0]] = line.removesuffix(_UNFINISHED)
            continue
        if (match := _LINE.match(line)) is not None:
            calls.append(_call(match))
    return calls


def _call(match: re.Match[str]) -> Call:
    rest = match["rest"]
    ended = _RESULT.search(rest) or re.search(r"\) += (?P<result>-?\d+|\?)(?P<injected>)", rest)
    arguments = rest[: ended.start()] if ended else rest
    opened = _OPEN_PATH.match(arguments)
    paths = (opened[1],) if opened else tuple(_NAMED_PATH.findall(arguments))
    result = int(ended["result"]) if ended and ended["result"] != "?" else None
    return Call(int(match["thread"]), match["call"], arguments, paths, result, "(INJECTED)" in rest)


def _last(calls: Sequence[Call], name: str, path: Path) -> int:
    return max((at for at, call in enumerate(calls) if (call.name, call.path) == (name, str(path))), default=-1)


def _next(calls: Sequence[Call], name: str, path: Path, start: int) -> int:
    found = (at for at, call in enumerate(calls) if at > start and (call.name, call.path) == (name, str(path)))
    return next(found, -1)


def _until_next_rename(calls: Sequence[Call], at: int, folder: Path) -> list[str]:
    later = itertools.takewhile(lambda call: call.name not in ("rename", "unlink"), calls[at + 1 :])
    return [call.name for call in later if call.path == str(folder)]


def _sha1(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha1").hexdigest()
