"""Where values come from: flag, `RESTORE_FETCH_*`, the variables of MongoDB's own tools, the profile.

An empty value counts as unset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from restore_fetch.errors import ConfigurationError
from restore_fetch.profiles import Profile, find_profile

_PROFILE_KEYS = {
    "service": "service",
    "base_url": "ops_manager_url",
    "project_id": "project_id",
    "public_key": "public_api_key",
    "private_key": "private_api_key",
    "client_id": "client_id",
    "client_secret": "client_secret",
    "ca_file": "ops_manager_ca_certificate",
}
_TOOL_VARIABLES = {
    "service": "SERVICE",
    "base_url": "OPS_MANAGER_URL",
    "project_id": "PROJECT_ID",
    "public_key": "PUBLIC_API_KEY",
    "private_key": "PRIVATE_API_KEY",
    "client_id": "CLIENT_ID",
    "client_secret": "CLIENT_SECRET",
}
_TOOL_PREFIXES = ("MONGODB_ATLAS_", "MCLI_")
_OWN_PREFIX = "RESTORE_FETCH_"


@dataclass(frozen=True)
class Given:
    """A value with the place it came from, as people would name that place: `--cluster`, `MCLI_SERVICE`."""

    value: str
    source: str

    @property
    def layer(self) -> int:
        """How far from the command line: 0 a flag, 1 our variables, 2 those of other tools, 3 a profile."""
        if self.source.startswith("--"):
            return 0
        if self.source.startswith(_OWN_PREFIX):
            return 1
        return 3 if self.source.startswith("profile") else 2


def path_of(given: Given) -> Path:
    """The path in a value, with a leading `~` made the user's home.

    Raises:
        ConfigurationError: Nobody knows that home, as for a user of a container.
    """
    try:
        return Path(given.value).expanduser()
    except RuntimeError as exc:
        raise ConfigurationError(
            f"{given.source} is {given.value}, and no home folder is known for that ~",
            next_step="give the whole path",
        ) from exc


class Finder:
    """Looks a value up in each place, in order, and remembers the profile once it was needed.

    Args:
        given: What flags and `RESTORE_FETCH_*` said.
        environ: The environment.
        folder: Where profiles are looked for; None for the user's own configuration folder.
    """

    def __init__(self, given: Mapping[str, Given], environ: Mapping[str, str], folder: Path | None) -> None:
        self.given = given
        self.environ = environ
        self._folder = folder
        self._profile: Profile | None = None
        self._profile_read = False

    def value(self, name: str) -> Given | None:
        """The value of that name which is nearest to the command line.

        Raises:
            ConfigurationError: It is said twice in different words, or the profile cannot be read.
        """
        if name in self.given and self.given[name].value:
            return self.given[name]
        return self._tool_variable(name) or self._other_variable(name) or self._from_profile(name)

    def required(self, name: str, next_step: str) -> Given:
        """The same, for a value that must be there.

        Raises:
            ConfigurationError: It is missing, or cannot be sent; or as `value` does.
        """
        found = self.value(name)
        if found is None:
            raise ConfigurationError(f"the {name.replace('_', ' ')} is missing", next_step=next_step)
        if not found.value.isprintable():
            raise ConfigurationError(
                f"the {name.replace('_', ' ')} ({found.source}) has characters that cannot be sent"
            )
        return found

    def profile(self) -> Profile | None:
        """The profile to use, if there is one.

        Raises:
            ConfigurationError: It cannot be read, or the one asked for does not exist.
        """
        if not self._profile_read:
            asked = self.given.get("profile")
            name = asked.value if asked else self.environ.get("MONGODB_ATLAS_PROFILE")
            self._profile = find_profile(name or None, self._folder)
            self._profile_read = True
        return self._profile

    def _tool_variable(self, name: str) -> Given | None:
        if name not in _TOOL_VARIABLES:
            return None
        variables = [prefix + _TOOL_VARIABLES[name] for prefix in _TOOL_PREFIXES]
        values = [Given(self.environ[variable], variable) for variable in variables if self.environ.get(variable)]
        if len({given.value for given in values}) > 1:
            raise ConfigurationError(
                f"{' and '.join(variables)} are both set, and differ", next_step="unset one of them"
            )
        return values[0] if values else None

    def _other_variable(self, name: str) -> Given | None:
        if name == "ca_file" and self.environ.get("SSL_CERT_FILE"):
            return Given(self.environ["SSL_CERT_FILE"], "SSL_CERT_FILE")
        return None

    def _from_profile(self, name: str) -> Given | None:
        key = _PROFILE_KEYS.get(name)
        profile = self.profile()
        if key is None or profile is None or key not in profile.values:
            return None
        return Given(profile.values[key], str(profile))
