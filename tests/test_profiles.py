"""Profiles of MongoDB's own tools: found where they keep them, read without quoting a key."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from restore_fetch.errors import ConfigurationError
from restore_fetch.profiles import find_profile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for tool in ("atlascli", "mongocli"):
        (tmp_path / tool).mkdir()
    return tmp_path


def write(folder: Path, tool: str, text: str) -> None:
    (folder / tool / "config.toml").write_text(text)


def test_no_file_is_no_error(tmp_path):
    assert find_profile(None, tmp_path / "nowhere") is None


def test_a_profile_asked_for_must_be_there(folder):
    with pytest.raises(ConfigurationError, match=r"no profile 'prod'.*--profile"):
        find_profile("prod", folder)
    write(folder, "mongocli", '[default]\npublic_api_key = "public"\n')
    with pytest.raises(ConfigurationError, match=r"mongocli.config\.toml"):
        find_profile("prod", folder)


def test_the_profile_asked_for_is_found_in_either_file(folder):
    write(folder, "atlascli", '[default]\nproject_id = "a"\n')
    write(folder, "mongocli", '[prod]\nproject_id = "b"\n')
    profile = find_profile("prod", folder)
    assert profile is not None
    assert (profile.name, profile.values) == ("prod", {"project_id": "b"})
    assert str(profile) == f"profile 'prod' in {folder / 'mongocli' / 'config.toml'}"


def test_the_newer_tools_file_comes_first(folder):
    write(folder, "atlascli", '[default]\nproject_id = "a"\n')
    write(folder, "mongocli", '[default]\nproject_id = "b"\n')
    profile = find_profile("default", folder)
    assert profile is not None
    assert profile.values == {"project_id": "a"}


def test_the_only_profile_there_is_needs_no_name(folder):
    write(folder, "atlascli", 'telemetry_enabled = false\n[only]\nproject_id = "a"\n')
    profile = find_profile(None, folder)
    assert profile is not None
    assert profile.name == "only"


def test_of_several_the_default_is_taken_or_none(folder):
    write(folder, "atlascli", '[one]\nproject_id = "a"\n[two]\nproject_id = "b"\n')
    assert find_profile(None, folder) is None
    write(folder, "atlascli", '[one]\nproject_id = "a"\n[default]\nproject_id = "b"\n')
    profile = find_profile(None, folder)
    assert profile is not None
    assert profile.name == "default"


def test_only_texts_that_say_something_are_taken(folder):
    write(folder, "atlascli", '[p]\nproject_id = ""\nskip_update_check = true\noutput = 5\nservice = "cloud"\n')
    profile = find_profile(None, folder)
    assert profile is not None
    assert profile.values == {"service": "cloud"}


@pytest.mark.parametrize(
    "text",
    [
        '[p\nprivate_api_key = "very-secret"',
        'private_api_key = "very-secret',
        "a = " + "[" * 5000,
        "n = " + "9" * 5000,
    ],
    ids=["syntax", "half a line", "nesting", "number"],
)
def test_a_file_that_cannot_be_read_is_our_error_and_is_not_quoted(folder, text):
    write(folder, "atlascli", text)
    with pytest.raises(ConfigurationError, match="not a TOML file") as caught:
        find_profile(None, folder)
    assert "very-secret" not in str(caught.value)


def test_what_is_no_text_or_no_file_is_our_error(folder):
    (folder / "atlascli" / "config.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="not a TOML file"):
        find_profile(None, folder)
    (folder / "atlascli" / "config.toml").unlink()
    (folder / "atlascli" / "config.toml").mkdir()
    with pytest.raises(ConfigurationError, match="cannot read the profiles"):
        find_profile(None, folder)


def test_a_profile_does_not_show_what_may_be_a_key(folder):
    write(folder, "atlascli", '[p]\nprivate_api_key = "very-secret"\n')
    assert "very-secret" not in repr(find_profile(None, folder))


def test_the_users_own_folder_is_looked_into(monkeypatch, tmp_path):
    monkeypatch.setattr(platformdirs, "user_config_path", lambda: tmp_path)
    (tmp_path / "mongocli").mkdir()
    write(tmp_path, "mongocli", '[p]\nproject_id = "a"\n')
    profile = find_profile(None)
    assert profile is not None
    assert profile.path == tmp_path / "mongocli" / "config.toml"


def test_a_user_without_a_home_has_no_profiles(monkeypatch):
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(_):
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert find_profile(None) is None
    with pytest.raises(ConfigurationError, match=r"'prod'.*no home.*set HOME"):
        find_profile("prod")
