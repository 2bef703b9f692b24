"""The house: which module may know which, who touches the network and the terminal, how long things may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import restore_fetch

PACKAGE = Path(restore_fetch.__file__).parent
LONGEST_FILE_LINES = 410  # about 400
LONGEST_FUNCTION_LINES = 45

# Bottom first: a room may import those of the floors below it, and none of its own floor.
FLOORS = [
    {"errors", "hashes", "units", "clock", "redaction", "observer"},
    {"models", "profiles", "network", "files", "dask_workers"},
    {"rules", "waiting", "restore_service", "sources"},
    {"records", "credentials", "members"},
    {"settings", "receipts", "looks", "retention"},
    {"service", "notify"},
    {"delivery", "saved", "pull_journal"},
    {"offer", "shelf"},
    {"proof", "publication", "transfer", "verification", "locking", "inventory"},
    {"workflow", "pruning", "doctor"},
    {"assembly"},
    {"crews", "batch_shelf"},
    {"batch_result"},
    {"batch"},
    {"pull"},
    {"sandbox"},
    {"cli"},
]
MAY_IMPORT = {
    "httpx": {"service", "delivery"},
    "h11": {"delivery"},
    "isal": {"delivery"},
    "tenacity": {"waiting"},
    "tqdm": {"cli"},
    "click": {"cli"},
    "filelock": {"locking"},
    "platformdirs": {"profiles"},
    "prometheus_client": {"notify"},
    "trustme": {"sandbox"},
    "distributed": {"dask_workers"},
    "subprocess": {"settings", "credentials", "notify"},
    "pydantic": {"models", "records", "receipts", "service"},
}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name below it; a package is called by its own name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text("utf-8"), str(path))
    return found


def imports_of(tree: ast.AST) -> Iterator[str]:
    """The dotted names that are imported anywhere in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inner_imports(name: str, tree: ast.AST | None = None) -> set[str]:
    """The modules of the package that a module imports, by their dotted name below it."""
    found = {text.removeprefix("restore_fetch.") for text in imports_of(tree or modules()[name])}
    return {text for text in found if text in modules()} - {name, ""}


def room_of(name: str) -> str:
    return name.partition(".")[0]


def walked() -> list[str]:
    """The modules that have a place in the house; the entrances, which only point at others, have none."""
    return [name for name in modules() if name not in ("", "__main__")]


def test_every_room_has_its_floor():
    rooms = {room_of(name) for name in walked()}
    assert rooms <= set().union(*FLOORS)


@pytest.mark.parametrize("name", walked())
def test_imports_point_one_way(name):
    floor_of = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    here = room_of(name)
    for other in {room_of(imported) for imported in inner_imports(name)} - {here}:
        assert floor_of[other] < floor_of[here], f"{name} must not know {other}"


def test_the_service_and_the_delivery_do_not_know_each_other():
    for name in walked():
        if room_of(name) == "service":
            assert "delivery" not in {room_of(imported) for imported in inner_imports(name)}
        if room_of(name) == "delivery":
            assert "service" not in {room_of(imported) for imported in inner_imports(name)}


def test_the_sandbox_knows_nobody_and_only_the_command_line_knows_it():
    for name in walked():
        rooms = {room_of(imported) for imported in inner_imports(name)}
        if room_of(name) == "sandbox":
            assert rooms <= {"sandbox"}, "a misreading of the service would be mirrored"
        elif "sandbox" in rooms:
            assert room_of(name) == "cli"


def test_the_command_line_is_known_to_nobody():
    for name in walked():
        if room_of(name) != "cli":
            assert "cli" not in {room_of(imported) for imported in inner_imports(name)}


def test_no_module_imports_itself_by_a_way_round():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join((*path, name))}"
        if name in done:
            return
        for imported in inner_imports(name):
            # A package's own page imports its modules; they do not need it.
            if not name.startswith(f"{imported}."):
                visit(imported, (*path, name))
        done.add(name)

    for name in walked():
        visit(name, ())


@pytest.mark.parametrize("name", walked())
def test_each_library_stays_in_its_rooms(name):
    for imported in {text.partition(".")[0] for text in imports_of(modules()[name])}:
        allowed = MAY_IMPORT.get(imported)
        assert allowed is None or room_of(name) in allowed, f"{name} must not use {imported}"


@pytest.mark.parametrize("name", walked())
def test_only_the_command_line_prints_or_exits(name):
    if room_of(name) == "cli":
        return
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Name):
            assert node.id not in ("print", "input", "exit", "quit", "SystemExit", "breakpoint")
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            said = f"{node.value.id}.{node.attr}"
            assert said not in ("sys.exit", "sys.stdout", "sys.stderr", "sys.argv", "os._exit", "os.abort")


@pytest.mark.parametrize("name", walked())
def test_nothing_sleeps_or_asks_the_time_behind_the_clocks_back(name):
    if name == "clock" or room_of(name) in ("sandbox", "cli"):
        return
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Call):  # to pass such a function on is how it is meant
            said = ast.unparse(node.func)
            assert said not in ("time.time", "time.sleep", "datetime.now", "datetime.utcnow", "random.random")


@pytest.mark.parametrize("name", sorted(modules()))
def test_files_and_functions_can_be_read_at_one_go(name):
    tree = modules()[name]
    longest = max((node.end_lineno or 0 for node in ast.walk(tree) if isinstance(node, ast.stmt)), default=0)
    assert longest <= LONGEST_FILE_LINES
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1] if len(node.body) > 1 and ast.get_docstring(node) else node.body[0]
            lines = (node.body[-1].end_lineno or 0) - first.lineno + 1
            assert lines <= LONGEST_FUNCTION_LINES, f"{node.name} has {lines} lines"


def test_every_error_of_the_package_has_the_one_root():
    foreign = {"Exception", "ValueError", "RuntimeError", "OSError"}  # a wish to stop is no error at all
    for name in walked():
        for node in modules()[name].body:
            if isinstance(node, ast.ClassDef) and name != "errors" and room_of(name) != "sandbox":
                bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                assert not bases & foreign, f"{name}.{node.name} is outside the tree"


def test_importing_the_package_imports_nothing_heavy():
    program = "import sys, restore_fetch; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True, timeout=60, cwd="/"
    )
    loaded = set(done.stdout.split())
    assert "restore_fetch" in loaded
    assert not loaded & {"httpx", "pydantic", "click", "tqdm", "tenacity", "h11", "filelock", "ssl", "asyncio"}
    assert "prometheus_client" not in loaded
