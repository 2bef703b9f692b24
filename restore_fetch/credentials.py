"""As whom the API is asked: an API key, or a service account where the service knows those.

When both are given, the one nearer to the command line is taken: a flag before `RESTORE_FETCH_*`, before the
variables of MongoDB's own tools, before the profile. Both in the same place is an error. Where the service knows
no service accounts, one that stands in a variable of another tool or in a profile is passed over.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from restore_fetch.errors import ConfigurationError
from restore_fetch.redaction import Secret
from restore_fetch.sources import Finder, Given, path_of

ACCOUNT_SERVICES = ("atlas-v2", "atlas-cloud")
_COMMAND_SECONDS = 60
_KEY = ("public_key", "private_key_file", "private_key_command", "private_key")
_ACCOUNT = ("client_id", "client_secret_file", "client_secret")
_OWN_LAYERS = (0, 1)


@dataclass(frozen=True)
class SecretPlace:
    """Where a secret was found, for another process that shall read it there by itself.

    Attributes:
        kind: `file`, `command` or `variable`.
        where: The path, the command line, or the name of the environment variable.
        what: What the secret is, in words.
    """

    kind: str
    where: str
    what: str


@dataclass(frozen=True)
class Credentials:
    """An API key or a service account: two of the four are None.

    Attributes:
        public_key: The public half of the API key.
        private_key: The private half.
        client_id: The service account.
        client_secret: Its secret.
        sources: Where each came from, by attribute.
        place: Where another process can read the secret; None when it has no such place, as in a profile.
    """

    sources: Mapping[str, str]
    public_key: str | None = None
    private_key: Secret | None = None
    client_id: str | None = None
    client_secret: Secret | None = None
    place: SecretPlace | None = None


def find_credentials(found: Finder, service: str, run: Callable[[str], str] | None = None) -> Credentials:
    """Find the key or the account to use.

    Args:
        found: Where to look.
        service: Which service it is for.
        run: How to run `--private-key-command`; it gets the command line and returns its output.

    Raises:
        ConfigurationError: A part is missing or malformed, or it cannot be told which of the two is meant.
    """
    if _wants_account(service, _nearest(found, _KEY), _nearest(found, _ACCOUNT)):
        return _account(found)
    public_key = found.required("public_key", _missing(service))
    private_key = _private_key(found, run or _run_command)
    return Credentials(
        public_key=public_key.value,
        private_key=Secret(private_key.value),
        sources={"public_key": public_key.source, "private_key": private_key.source},
        place=_place(found, "private_key"),
    )


def secret_at(place: SecretPlace, environ: Mapping[str, str], run: Callable[[str], str] | None = None) -> Secret:
    """Read a secret where it was found by another process, as this one sees that place.

    Args:
        place: Where.
        environ: The environment.
        run: How to run a command; it gets the command line and returns its output.

    Raises:
        ConfigurationError: It is not there, or is no secret.
    """
    if place.kind == "file":
        text = _read_file(Path(place.where), place.what)
    elif place.kind == "command":
        text = (run or _run_command)(place.where)
    else:
        text = environ.get(place.where, "")
    source = f"the {place.kind} {place.where}" if place.kind != "command" else "--private-key-command"
    return Secret(_one_line(text, source, place.what).value)


def _place(found: Finder, name: str) -> SecretPlace | None:
    """The place of a secret, looked for in the same order as the secret itself."""
    what = name.replace("_", " ")
    if file := found.given.get(f"{name}_file"):
        return SecretPlace("file", str(path_of(file).absolute()), what)
    if command := found.given.get(f"{name}_command"):
        return SecretPlace("command", command.value, what)
    value = found.value(name)
    if value is not None and found.environ.get(value.source):
        return SecretPlace("variable", value.source, what)
    return None


def _wants_account(service: str, key: Given | None, account: Given | None) -> bool:
    if account is None:
        return False
    if service not in ACCOUNT_SERVICES:
        if account.layer in _OWN_LAYERS or key is None:
            raise ConfigurationError(
                f"the service {service} knows no service accounts ({account.source})",
                next_step=f"use an API key, or --service {' or '.join(ACCOUNT_SERVICES)}",
            )
        return False
    if key is not None and key.layer == account.layer:
        raise ConfigurationError(
            f"both an API key ({key.source}) and a service account ({account.source}) are given",
            next_step="leave one of them out",
        )
    return key is None or account.layer < key.layer


def _nearest(found: Finder, names: Sequence[str]) -> Given | None:
    """The part that stands nearest to the command line."""
    parts = [part for name in names if (part := found.value(name)) is not None]
    return min(parts, key=lambda part: part.layer, default=None)


def _missing(service: str) -> str:
    account = ", or --client-id for a service account" if service in ACCOUNT_SERVICES else ""
    return f"set --public-key or MONGODB_ATLAS_PUBLIC_API_KEY{account}"


def _account(found: Finder) -> Credentials:
    client_id = found.required("client_id", "set --client-id or MONGODB_ATLAS_CLIENT_ID")
    if ":" in client_id.value or not client_id.value.isprintable():
        raise ConfigurationError(f"the client id ({client_id.source}) is not one")
    client_secret = _client_secret(found)
    return Credentials(
        client_id=client_id.value,
        client_secret=Secret(client_secret.value),
        sources={"client_id": client_id.source, "client_secret": client_secret.source},
        place=_place(found, "client_secret"),
    )


def _client_secret(found: Finder) -> Given:
    what, options = "client secret", "--client-secret-file or MONGODB_ATLAS_CLIENT_SECRET"
    if file := found.given.get("client_secret_file"):
        return _one_line(_read_file(path_of(file), what), file.source, what)
    return _stored(found, "client_secret", what, options)


def _private_key(found: Finder, run: Callable[[str], str]) -> Given:
    what = "private key"
    options = "--private-key-file, --private-key-command or MONGODB_ATLAS_PRIVATE_API_KEY"
    file, command = found.given.get("private_key_file"), found.given.get("private_key_command")
    if file and command:
        raise ConfigurationError("--private-key-file and --private-key-command exclude each other")
    if file:
        return _one_line(_read_file(path_of(file), what), file.source, what)
    if command:
        return _one_line(run(command.value), command.source, what)
    return _stored(found, "private_key", what, options)


def _stored(found: Finder, name: str, what: str, options: str) -> Given:
    """A secret out of the environment, a profile, or the folder that systemd puts credentials into."""
    if value := found.value(name):
        return _one_line(value.value, value.source, what)
    credential = name.replace("_", "-")
    folder = found.environ.get("CREDENTIALS_DIRECTORY")
    if folder and (path := Path(folder) / credential).exists():
        return _one_line(_read_file(path, what), f"$CREDENTIALS_DIRECTORY/{credential}", what)
    profile = found.profile()
    if profile:
        raise ConfigurationError(
            f"{profile} has no {what}: it may live in the operating system's keyring, which is not read",
            next_step=f"set {options}",
        )
    raise ConfigurationError(f"the {what} is missing", next_step=f"set {options}")


def _read_file(path: Path, what: str) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as exc:
        raise ConfigurationError(f"cannot read the {what} from {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{path} holds no {what}: it is not text") from exc


def _run_command(command: str) -> str:
    # What the command printed may be the key itself, or half of it, and so may its arguments: neither is shown.
    try:
        words = shlex.split(command)
        name = Path(words[0]).name
    except (ValueError, IndexError) as exc:
        raise ConfigurationError("--private-key-command is no command") from exc
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=_COMMAND_SECONDS, check=False)
    except subprocess.TimeoutExpired as exc:
        reason = f"did not end in {_COMMAND_SECONDS} s"
        raise ConfigurationError(f"--private-key-command: the command {name} {reason}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"--private-key-command: the command {name} printed no text") from exc
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or "there is no such name"
        raise ConfigurationError(f"--private-key-command: the command {name} cannot be run: {reason}") from exc
    if done.returncode != 0:
        ended = f"exit code {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        raise ConfigurationError(f"--private-key-command: the command {name} failed with {ended}")
    return done.stdout


def _one_line(text: str, source: str, what: str) -> Given:
    line = text.strip()
    if not line or not line.isprintable():
        raise ConfigurationError(f"the {what} from {source} is empty or more than one line")
    return Given(line, source)
