"""Which of a key and a service account is meant, and where its parts may stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from restore_fetch import redaction
from restore_fetch.errors import ConfigurationError
from restore_fetch.redaction import Secret
from restore_fetch.settings import Connection, Given, resolve_connection

PROJECT = "6a793f6b2c88faeba59bae37"
KEY_VARIABLES = {"MONGODB_ATLAS_PUBLIC_API_KEY": "abcdefgh", "MONGODB_ATLAS_PRIVATE_API_KEY": "key-of-variables"}
ACCOUNT_VARIABLES = {"MONGODB_ATLAS_CLIENT_ID": "mdb_sa_id_1", "MONGODB_ATLAS_CLIENT_SECRET": "mdb_sa_sk_variables"}
PROFILE_KEY = 'public_api_key = "profile1"\nprivate_api_key = "key-of-profile"\n'
PROFILE_ACCOUNT = 'client_id = "mdb_sa_id_2"\nclient_secret = "mdb_sa_sk_profile"\n'


def connect(
    folder: Path,
    *,
    service: str = "atlas-v2",
    flags: dict[str, str] | None = None,
    own: dict[str, str] | None = None,
    environ: dict[str, str] | None = None,
    profile: str = "",
) -> Connection:
    """A connection from flags, `RESTORE_FETCH_*`, other variables and a profile."""
    if profile:
        (folder / "atlascli").mkdir()
        (folder / "atlascli" / "config.toml").write_text(f"[default]\n{profile}")
    given = {"service": service, "project_id": PROJECT, "cluster": "Cluster0"}
    sources = {name: Given(value, "--" + name.replace("_", "-")) for name, value in given.items()}
    for name, value in (own or {}).items():
        sources[name] = Given(value, f"RESTORE_FETCH_{name.upper()}")
    for name, value in (flags or {}).items():
        sources[name] = Given(value, "--" + name.replace("_", "-"))
    return resolve_connection(sources, environ or {}, config_folder=folder)


def secret_file(folder: Path, text: str = "mdb_sa_sk_file\n") -> str:
    path = folder / "secret"
    path.write_text(text)
    return str(path)


# where an account may stand


def test_a_service_account_comes_from_flags(tmp_path: Path):
    flags = {"client_id": "mdb_sa_id_3", "client_secret_file": secret_file(tmp_path)}

    connection = connect(tmp_path, flags=flags)

    assert (connection.client_id, connection.client_secret) == ("mdb_sa_id_3", Secret("mdb_sa_sk_file"))
    assert (connection.public_key, connection.private_key) == (None, None)
    assert connection.sources["client_id"] == "--client-id"
    assert connection.sources["client_secret"] == "--client-secret-file"


@pytest.mark.parametrize("service", ["atlas-v2", "atlas-cloud"])
def test_a_service_account_comes_from_variables(tmp_path: Path, service: str):
    connection = connect(tmp_path, service=service, environ=ACCOUNT_VARIABLES)

    assert (connection.client_id, connection.client_secret) == ("mdb_sa_id_1", Secret("mdb_sa_sk_variables"))
    assert connection.sources["client_secret"] == "MONGODB_ATLAS_CLIENT_SECRET"


def test_a_service_account_comes_from_a_profile(tmp_path: Path):
    connection = connect(tmp_path, profile=PROFILE_ACCOUNT)

    assert (connection.client_id, connection.client_secret) == ("mdb_sa_id_2", Secret("mdb_sa_sk_profile"))
    assert connection.sources["client_id"].startswith("profile 'default'")


def test_a_client_secret_comes_from_systemd(tmp_path: Path):
    (tmp_path / "client-secret").write_text("mdb_sa_sk_systemd\n")
    environ = {"MONGODB_ATLAS_CLIENT_ID": "mdb_sa_id_1", "CREDENTIALS_DIRECTORY": str(tmp_path)}

    assert connect(tmp_path, environ=environ).client_secret == Secret("mdb_sa_sk_systemd")


def test_a_client_secret_is_kept_out_of_all_output(tmp_path: Path):
    connection = connect(tmp_path, environ=ACCOUNT_VARIABLES)

    assert "mdb_sa_sk" not in repr(connection)
    assert redaction.scrub("it is mdb_sa_sk_variables") == "it is ***"


# which of the two


@pytest.mark.parametrize("service", ["atlas", "cloud-manager", "ops-manager"])
def test_an_account_in_the_surroundings_is_passed_over_where_there_are_none(tmp_path: Path, service: str):
    own = {"base_url": "https://ops.example.net"}

    connection = connect(tmp_path, service=service, own=own, environ=KEY_VARIABLES | ACCOUNT_VARIABLES)

    assert (connection.public_key, connection.client_id) == ("abcdefgh", None)


@pytest.mark.parametrize("layer", ["flags", "own"])
def test_an_account_that_is_asked_for_where_there_are_none_is_an_error(tmp_path: Path, layer: str):
    parts = {"client_id": "mdb_sa_id_3", "client_secret_file": secret_file(tmp_path)}

    with pytest.raises(ConfigurationError, match="atlas knows no service accounts"):
        connect(tmp_path, service="atlas", environ=KEY_VARIABLES, **{layer: parts})  # type: ignore[arg-type]


def test_an_account_alone_where_there_are_none_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="knows no service accounts"):
        connect(tmp_path, service="cloud-manager", environ=ACCOUNT_VARIABLES)


def test_both_in_the_same_place_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"both an API key .* and a service account"):
        connect(tmp_path, environ=KEY_VARIABLES | ACCOUNT_VARIABLES)


def test_both_in_a_profile_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"both an API key .* and a service account"):
        connect(tmp_path, profile=PROFILE_KEY + PROFILE_ACCOUNT)


def test_the_nearer_of_the_two_is_taken(tmp_path: Path):
    account = connect(tmp_path, environ=ACCOUNT_VARIABLES, profile=PROFILE_KEY)
    assert (account.client_id, account.public_key) == ("mdb_sa_id_1", None)

    other = tmp_path / "other"
    other.mkdir()
    key = connect(other, environ=KEY_VARIABLES, profile=PROFILE_ACCOUNT)
    assert (key.client_id, key.public_key) == (None, "abcdefgh")


def test_a_flag_is_nearer_than_a_variable_of_ours(tmp_path: Path):
    own = {"client_id": "mdb_sa_id_3", "client_secret_file": secret_file(tmp_path)}
    flags = {"public_key": "flagflag", "private_key_file": secret_file(tmp_path, "key-of-file")}

    connection = connect(tmp_path, own=own, flags=flags)

    assert (connection.public_key, connection.private_key) == ("flagflag", Secret("key-of-file"))


def test_the_other_half_may_stand_further_away(tmp_path: Path):
    connection = connect(tmp_path, flags={"client_id": "mdb_sa_id_3"}, environ=ACCOUNT_VARIABLES)

    assert (connection.client_id, connection.client_secret) == ("mdb_sa_id_3", Secret("mdb_sa_sk_variables"))


# what is missing or malformed


def test_an_account_without_its_secret_says_what_to_set(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="the client secret is missing; set --client-secret-file"):
        connect(tmp_path, flags={"client_id": "mdb_sa_id_3"})


def test_a_secret_without_its_account_says_what_to_set(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="the client id is missing; set --client-id"):
        connect(tmp_path, environ={"MONGODB_ATLAS_CLIENT_SECRET": "mdb_sa_sk_variables"})


def test_a_profile_whose_secret_may_be_in_the_keyring_is_named(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"profile 'default' .* has no client secret.*keyring"):
        connect(tmp_path, profile='client_id = "mdb_sa_id_2"\n')


def test_nothing_at_all_names_both_ways(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"--public-key .*--client-id"):
        connect(tmp_path)


@pytest.mark.parametrize("text", ["", "two\nlines", "\n"])
def test_a_secret_that_is_no_single_line_is_refused(tmp_path: Path, text: str):
    flags = {"client_id": "mdb_sa_id_3", "client_secret_file": secret_file(tmp_path, text)}

    with pytest.raises(ConfigurationError, match="client secret") as caught:
        connect(tmp_path, flags=flags)
    assert "two" not in str(caught.value)


def test_a_secret_file_that_is_not_there_is_named(tmp_path: Path):
    flags = {"client_id": "mdb_sa_id_3", "client_secret_file": str(tmp_path / "nowhere")}

    with pytest.raises(ConfigurationError, match=r"cannot read the client secret from .*nowhere"):
        connect(tmp_path, flags=flags)


def test_a_client_id_that_would_split_its_header_is_refused(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="client id"):
        connect(tmp_path, flags={"client_id": "one:two"}, environ={"MONGODB_ATLAS_CLIENT_SECRET": "mdb_sa_sk_1"})


def test_cloud_in_a_profile_means_atlas(tmp_path: Path):
    (tmp_path / "atlascli").mkdir()
    (tmp_path / "atlascli" / "config.toml").write_text(f'[default]\nservice = "cloud"\n{PROFILE_KEY}')
    given = {"project_id": Given(PROJECT, "--project-id"), "cluster": Given("Cluster0", "--cluster")}

    assert resolve_connection(given, {}, config_folder=tmp_path).service == "atlas"


@pytest.mark.parametrize("variable", ["MONGODB_ATLAS_SERVICE", "MCLI_SERVICE"])
def test_cloud_in_a_variable_of_other_tools_means_atlas(tmp_path: Path, variable: str):
    given = {"project_id": Given(PROJECT, "--project-id"), "cluster": Given("Cluster0", "--cluster")}

    connection = resolve_connection(given, KEY_VARIABLES | {variable: "cloud"}, config_folder=tmp_path)

    assert (connection.service, connection.sources["service"]) == ("atlas", variable)


@pytest.mark.parametrize("service", ["atlas", "atlas-v2", "atlas-cloud", "cloud-manager", "ops-manager"])
def test_each_of_the_five_services_is_known(tmp_path: Path, service: str):
    own = {"base_url": "https://ops.example.net"}

    assert connect(tmp_path, service=service, own=own, environ=KEY_VARIABLES).service == service


@pytest.mark.parametrize("service", ["cloud", "Atlas", "atlas-v3"])
def test_another_service_is_an_error_that_names_the_five(tmp_path: Path, service: str):
    with pytest.raises(ConfigurationError, match="atlas, atlas-v2, atlas-cloud, cloud-manager, ops-manager"):
        connect(tmp_path, service=service, environ=KEY_VARIABLES)
