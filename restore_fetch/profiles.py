"""Profiles of MongoDB's own command-line tools: `atlascli/config.toml`, then `mongocli/config.toml`.

Both live in the folder that Go calls `UserConfigDir`: `$XDG_CONFIG_HOME` or `~/.config` on Linux,
`~/Library/Application Support` on macOS. No file is no error.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from restore_fetch.errors import ConfigurationError

_FILES = ("atlascli/config.toml", "mongocli/config.toml")
_DEFAULT_NAME = "default"


@dataclass(frozen=True)
class Profile:
    """A named set of values from one file.

    Attributes:
        name: Its name there.
        path: The file.
        values: Key to text, as the file has them; only non-empty texts.
    """

    name: str
    path: Path
    values: dict[str, str] = field(repr=False)  # one of them may be a private key

    def __str__(self) -> str:
        return f"profile {self.name!r} in {self.path}"


def find_profile(name: str | None, folder: Path | None = None) -> Profile | None:
    """The profile asked for, or the one to use when none was.

    Args:
        name: The profile's name; None takes the only profile there is, else `default`.
        folder: The configuration folder; None for the user's own.

    Returns:
        The profile, or None when none was asked for and there is none to use.

    Raises:
        ConfigurationError: A file cannot be read, or no file has a profile of that name.
    """
    folder = _users_own() if folder is None else folder
    if folder is None:
        if name is None:
            return None
        raise ConfigurationError(
            f"there is no profile {name!r}: this user has no home directory",
            next_step="set HOME or XDG_CONFIG_HOME",
        )
    looked_at = []
    for file in _FILES:
        path = folder / file
        profiles = _read(path)
        if profiles is None:
            continue
        looked_at.append(str(path))
        wanted = name or (next(iter(profiles)) if len(profiles) == 1 else _DEFAULT_NAME)
        if wanted in profiles:
            return Profile(wanted, path, profiles[wanted])
    if name is None:
        return None
    where = " or ".join(looked_at) if looked_at else f"{folder}: there is no {' or '.join(_FILES)}"
    raise ConfigurationError(f"there is no profile {name!r} in {where}", next_step="check --profile")


def _users_own() -> Path | None:
    """The user's own configuration folder; None for a user of a container, who has no home at all."""
    try:
        folder = platformdirs.user_config_path()
    except (RuntimeError, KeyError):
        return None
    return folder if folder.is_absolute() else None


def _read(path: Path) -> dict[str, dict[str, str]] | None:
    try:
        with path.open("rb") as stream:
            document: dict[str, Any] = tomllib.load(stream)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise ConfigurationError(f"cannot read the profiles in {path}: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        # The parser's message may quote the line, and the line may hold a key.
        raise ConfigurationError(f"{path} is not a TOML file that can be read") from exc
    return {
        name: {key: text for key, text in table.items() if isinstance(text, str) and text}
        for name, table in document.items()
        if isinstance(table, dict)
    }
