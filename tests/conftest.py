"""What every test gets: an environment without the operator's settings, and a clean memory of secrets."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from restore_fetch import redaction
from tests.support import ManualClock

_SETTINGS = ("RESTORE_FETCH_", "MONGODB_ATLAS_", "MCLI_")
_LONG = os.environ.get("RESTORE_FETCH_TEST_LONG") == "1"
# Every process of these tests would look through all that is installed for plugins of pydantic, of which there are
# none; with what development needs that takes a fifth of its start.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
_OTHERS = ("CREDENTIALS_DIRECTORY", "SSL_CERT_FILE", "SSL_CERT_DIR", "XDG_CONFIG_HOME", "NO_COLOR")

# Seven properties mutate documents: 2,100 of them in the normal form, 21,000 in the long one. No deadline, since
# machines differ.
settings.register_profile(
    "restore-fetch",
    max_examples=3000 if _LONG else 300,
    deadline=None,
    database=None,
    derandomize=not _LONG,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("restore-fetch")


# What these tests run is another process, or the same few lines thousands of times: following each line of that
# tells nothing about coverage, and takes long.
_NOT_COVERED = (
    "test_run_",
    "test_framing_sweep",
    "test_budget",
    "test_properties",
    "test_walks",
    "test_crash_points",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name.startswith(_NOT_COVERED):
            item.add_marker(pytest.mark.no_cover)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing in the environment of the person who runs the tests changes them."""
    for name in list(os.environ):
        if name.startswith(_SETTINGS) or name in _OTHERS or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(autouse=True)
def no_secrets_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets that one test has learnt do not blank out the words of another."""
    monkeypatch.setattr(redaction, "_known", set())


@pytest.fixture
def clock() -> ManualClock:
    """A clock that moves only when it is told to, or slept on."""
    return ManualClock()
