"""What a run was told: flags, environment, profile and defaults, made into frozen values.

The order is: flag, `RESTORE_FETCH_*`, the variables of MongoDB's own tools, the profile, the default. An empty
value counts as unset.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from restore_fetch.credentials import SecretPlace, find_credentials, secret_at
from restore_fetch.errors import ConfigurationError
from restore_fetch.redaction import Secret
from restore_fetch.rules import is_private_host
from restore_fetch.sources import Finder, path_of
from restore_fetch.sources import Given as Given

SERVICES = ("atlas", "atlas-v2", "atlas-cloud", "cloud-manager", "ops-manager")
DEFAULT_ORIGIN = "https://cloud.mongodb.com"
_OBJECT_ID = re.compile(r"[0-9a-fA-F]{24}\Z")
_HOST = re.compile(r"[^\x00-\x20\x7f-\xa0\ud800-\udfff\"<>\\^`{|}]+\Z")
_TOOLS_SERVICES = {"cloud": "atlas"}  # in the words of MongoDB's own tools
_OWN_LAYER = 1


@dataclass(frozen=True)
class Connection:
    """How to reach the API, and as whom.

    Attributes:
        service: Which of the services it is.
        base_url: The API's origin: scheme, host and port.
        project_id: The project, 24 hexadecimal digits.
        cluster: The cluster's name (Atlas) or id (Cloud Manager, Ops Manager).
        public_key: The public half of the API key; None for a service account.
        private_key: The private half; None likewise.
        client_id: The service account; None for an API key.
        client_secret: Its secret; None likewise.
        ca_file: Certificates to trust instead of the system's, or None.
        allow_http: Whether plain HTTP is accepted beyond this machine and private networks.
        sources: Where each value came from, by attribute.
        secret_place: Where another process can read the secret, or None when it cannot.
    """

    service: str
    base_url: str
    project_id: str
    cluster: str
    public_key: str | None = None
    private_key: Secret | None = None
    client_id: str | None = None
    client_secret: Secret | None = None
    ca_file: Path | None = None
    allow_http: bool = False
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    secret_place: SecretPlace | None = field(default=None, compare=False)

    def without_secret(self) -> Connection:
        """The same for other machines: the secret stays here, and its place goes in its stead.

        Raises:
            ConfigurationError: The secret is in no place that another machine could have, too.
        """
        if self.secret_place is None:
            name = "client_secret" if self.client_id is not None else "private_key"
            raise ConfigurationError(
                f"the {name.replace('_', ' ')} ({self.sources.get(name, 'a value')}) would have to be sent to the"
                " workers, and that is never done",
                next_step="put it where each worker reads it by itself: into a file or an environment variable",
            )
        ca_file = self.ca_file.absolute() if self.ca_file is not None else None
        return replace(self, private_key=None, client_secret=None, ca_file=ca_file)

    def with_secret(self, environ: Mapping[str, str]) -> Connection:
        """The same with the secret, which is read from its place unless it is here.

        Raises:
            ConfigurationError: It is not in that place.
        """
        if self.secret_place is None or self.private_key is not None or self.client_secret is not None:
            return self
        secret = secret_at(self.secret_place, environ)
        if self.client_id is not None:
            return replace(self, client_secret=secret)
        return replace(self, private_key=secret)


@dataclass(frozen=True)
class FetchOptions:
    """How one job is fetched. Durations are seconds, sizes bytes.

    Attributes:
        out_dir: Where the files go.
        wait_seconds: How long to wait for FINISHED and READY; 0 is one look.
        poll_seconds: The first pause between two looks.
        hash_wait_seconds: How long to wait for the published hash after the download.
        retries: Further attempts after the first.
        stall_seconds: An attempt is given up when less than `min_rate` arrives over this long.
        min_rate: Bytes a second, for the above.
        limit_rate: At most so many bytes a second, or None.
        min_free_bytes: What must stay free on the disk.
        max_bytes: The largest archive accepted, or None.
        deep: Whether to check the structure of the archive, too; it is always checked where no hash is published.
        allow_unverified: Whether to publish an archive whose hash never appears.
        force: Whether to download again although a verified archive is here, or the budget is spent.
        lock_wait_seconds: How long to wait for another run on the same job.
    """

    out_dir: Path = Path()
    wait_seconds: float = 86400.0
    poll_seconds: float = 10.0
    hash_wait_seconds: float = 600.0
    retries: int = 3
    stall_seconds: float = 60.0
    min_rate: int = 1024
    limit_rate: int | None = None
    min_free_bytes: int = 256 * 1024 * 1024
    max_bytes: int | None = None
    deep: bool = False
    allow_unverified: bool = False
    force: bool = False
    lock_wait_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.poll_seconds <= 0:
            raise ConfigurationError("--poll-interval must be more than 0")
        if self.stall_seconds <= 0:
            raise ConfigurationError("--stall-timeout must be more than 0")
        if self.limit_rate is not None and self.limit_rate <= 0:
            raise ConfigurationError("--limit-rate must be more than 0")
        if self.limit_rate is not None and self.limit_rate < self.min_rate:
            raise ConfigurationError(
                "--limit-rate is below --min-rate: every attempt would be given up as stalled",
                next_step="lower --min-rate too",
            )


def parse_object_id(text: str, what: str) -> str:
    """An id of 24 hexadecimal digits, in lower case.

    Raises:
        ConfigurationError: It is not one.
    """
    if not _OBJECT_ID.match(text):
        raise ConfigurationError(f"{what} must be 24 hexadecimal digits, not {text[:64]!r}")
    return text.lower()


def resolve_connection(
    given: Mapping[str, Given],
    environ: Mapping[str, str],
    *,
    run: Callable[[str], str] | None = None,
    config_folder: Path | None = None,
) -> Connection:
    """Find every value of the connection, in the documented order.

    Args:
        given: What flags and `RESTORE_FETCH_*` said, by attribute of `Connection`, and also `profile`,
            `private_key_file`, `private_key_command`, `client_secret_file`, `allow_http`.
        environ: The environment.
        run: How to run `--private-key-command`; it gets the command line and returns its output.
        config_folder: Where profiles are looked for; None for the user's own configuration folder.

    Returns:
        The connection.

    Raises:
        ConfigurationError: A required value is missing, malformed, or said twice in different words.
    """
    found = Finder(given, environ, config_folder)
    service = _service(found)
    base_url = _base_url(found, service.value)
    project = found.required("project_id", "set --project-id")
    cluster = found.required("cluster", "set --cluster")
    credentials = find_credentials(found, service.value, run)
    ca_file = found.value("ca_file")
    allow_http = "allow_http" in given
    return Connection(
        service=service.value,
        base_url=parse_origin(base_url.value, allow_http=allow_http),
        project_id=parse_object_id(project.value, f"the project id ({project.source})"),
        cluster=cluster.value,
        public_key=credentials.public_key,
        private_key=credentials.private_key,
        client_id=credentials.client_id,
        client_secret=credentials.client_secret,
        ca_file=path_of(ca_file) if ca_file else None,
        allow_http=allow_http,
        sources={
            "service": service.source,
            "base_url": base_url.source,
            "project_id": project.source,
            "cluster": cluster.source,
            **credentials.sources,
            "ca_file": ca_file.source if ca_file else "system trust",
        },
        secret_place=credentials.place,
    )


def _service(found: Finder) -> Given:
    service = found.value("service") or Given("atlas", "default")
    if service.layer > _OWN_LAYER:
        service = Given(_TOOLS_SERVICES.get(service.value, service.value), service.source)
    if service.value not in SERVICES:
        raise ConfigurationError(
            f"{service.value!r} ({service.source}) is no service this version knows",
            next_step=f"use one of {', '.join(SERVICES)}",
        )
    return service


def _base_url(found: Finder, service: str) -> Given:
    base_url = found.value("base_url")
    if base_url is None and service == "ops-manager":
        raise ConfigurationError("an Ops Manager has no address by default", next_step="set --base-url")
    return base_url or Given(DEFAULT_ORIGIN, "default")


def parse_origin(text: str, *, allow_http: bool) -> str:
    """The origin of an API: scheme, host and port, without a path.

    Raises:
        ConfigurationError: It is no origin, or is plain HTTP to a public host without `allow_http`.
    """
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as exc:
        raise ConfigurationError("--base-url is not a URL") from exc
    if parts.scheme not in ("https", "http") or not parts.hostname or not _HOST.match(parts.hostname):
        raise ConfigurationError("--base-url must be like https://opsmanager.example.net:8443")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("--base-url must not carry a user name or password")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigurationError("--base-url is the origin alone, without a path such as /api/public/v1.0")
    if parts.scheme == "http" and not allow_http and not is_private_host(parts.hostname):
        raise ConfigurationError(
            f"--base-url is plain http to {parts.hostname}, which is not a loopback or private address",
            next_step="use https, or --allow-http if the network in between can be trusted",
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")
