"""What the package promises to others: these names, and no more."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import restore_fetch


def test_the_public_names_are_these():
    assert restore_fetch.__all__ == sorted(restore_fetch.__all__)
    assert set(restore_fetch.__all__) >= {
        "Clock",
        "Connection",
        "DeliveryClient",
        "Digest",
        "FetchOptions",
        "Fetched",
        "Observer",
        "Receipt",
        "RestoreFetchError",
        "RestoreFetcher",
        "RestoreJob",
        "Secret",
        "SilentObserver",
        "SystemClock",
        "__version__",
        "open_service",
        "tls_context",
    }
    assert dir(restore_fetch) == restore_fetch.__all__


@pytest.mark.parametrize("name", restore_fetch.__all__)
def test_each_public_name_can_be_imported_and_says_what_it_is(name):
    value = getattr(restore_fetch, name)
    if name != "__version__":
        assert value.__doc__
        assert value.__module__.startswith("restore_fetch.")


def test_every_name_for_type_checkers_is_there_at_run_time_and_the_other_way_round():
    tree = ast.parse(Path(restore_fetch.__file__).read_text("utf-8"))
    checked = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("restore_fetch.")
        for alias in node.names
    }
    assert set(checked) == set(restore_fetch.__all__) - {"__version__"}
    for name, module in checked.items():
        assert getattr(importlib.import_module(module), name) is getattr(restore_fetch, name)


def test_a_name_that_is_not_there_is_said_not_to_be():
    with pytest.raises(AttributeError, match="no attribute 'Unheard'"):
        _ = restore_fetch.Unheard  # type: ignore[attr-defined]


def test_the_package_says_that_it_is_typed():
    assert Path(restore_fetch.__file__).with_name("py.typed").is_file()
