"""The tree of errors: one root, families that can be caught apart, and messages that say what to do next."""

from __future__ import annotations

import inspect
import pickle
import re
from pathlib import Path

import pytest

from restore_fetch import errors
from restore_fetch.cli.exit_codes import exit_code_of
from restore_fetch.errors import RestoreFetchError

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == errors.__name__
]


def make(kind: type[RestoreFetchError]) -> RestoreFetchError:
    """One of a kind, with its obligatory values."""
    possible = {
        "job_id": "6b77893b80eef5354c77ee15",
        "batch_id": "7" * 24,
        "failures": {"6b77893b80eef5354c77ee15": errors.LockedError("locked", path=Path("/x"))},
        "status_name": "BROKEN",
        "path": Path("/x"),
        "outcome": "cut",
    }
    needed = inspect.signature(kind).parameters.values()
    values = {known.name: possible[known.name] for known in needed if known.name in possible}
    return kind("it happened", files="the files are so", next_step="do this", **values)


def test_the_drawing_in_the_docstring_is_the_tree():
    drawn = {}
    ancestors: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"\s{4}([│├└─ ]*)([A-Z]\w+(?:, [A-Z]\w+)*)", line)
        if found:
            depth = len(found[1]) // 4
            ancestors = [*ancestors[:depth], found[2]]
            drawn[found[2]] = ancestors[depth - 1] if depth else None
    real = {kind.__name__: kind.__base__.__name__ for kind in CLASSES if kind is not RestoreFetchError}
    for name, parent in real.items():
        if name in drawn:
            assert drawn[name] in (parent, "DownloadError"), name
    assert set(drawn) == {kind.__name__ for kind in CLASSES}


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_has_the_one_root_and_says_what_it_is_for(kind):
    assert issubclass(kind, RestoreFetchError)
    assert kind.__doc__


@pytest.mark.parametrize("kind", CLASSES)
def test_a_message_says_what_happened_what_the_files_are_and_what_to_do(kind):
    assert str(make(kind)) == "it happened; the files are so; do this"
    assert make(kind).args == ("it happened",)


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_survives_the_way_to_another_process(kind):
    error = make(kind)
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is kind
    assert str(copied) == str(error)
    assert repr(vars(copied)) == repr(vars(error))


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if not kind.__subclasses__()])
def test_every_error_that_is_raised_has_an_exit_code_of_its_own_family(kind):
    error = make(kind)
    if isinstance(error, errors.BatchError):
        error.failures = {"5a66783b80eef5354c77ee13": make(errors.JobFailedError)}
    assert exit_code_of(error) not in (0, 1)


def test_parts_that_say_nothing_leave_nothing_behind():
    assert str(RestoreFetchError("it happened")) == "it happened"
    assert str(RestoreFetchError("it happened", next_step="do this")) == "it happened; do this"
