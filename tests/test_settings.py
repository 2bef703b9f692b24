"""Settings: where each value comes from, in which order, and what is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from restore_fetch.errors import ConfigurationError
from restore_fetch.settings import (
    Connection,
    FetchOptions,
    Given,
    parse_object_id,
    parse_origin,
    resolve_connection,
)

PROJECT = "5a5ddcf1df9db10f66d3c5c3"
KEY = "12345678-abcd-abcd-abcd-1234567890ab"
FLAGS = {
    "project_id": Given(PROJECT, "--project-id"),
    "cluster": Given("Cluster0", "--cluster"),
    "public_key": Given("public", "--public-key"),
}
ENVIRON = {"MONGODB_ATLAS_PRIVATE_API_KEY": KEY}
PROJECTS = {"MCLI_PROJECT_ID": PROJECT, "MCLI_PUBLIC_API_KEY": "public"}
PROFILE = """
[default]
service = "cloud"
project_id = "aaaaaaaaaaaaaaaaaaaaaaaa"
public_api_key = "profile-public"
private_api_key = "profile-private"
ops_manager_url = "https://profile.example.net/"
ops_manager_ca_certificate = "/profile/ca.pem"
"""


def resolve(flags=None, environ=None, *, folder: Path = Path("/nowhere"), **options) -> Connection:
    given = {
        name: value if isinstance(value, Given) else Given(value, f"--{name}")
        for name, value in (flags or {}).items()
    }
    return resolve_connection(
        FLAGS | given, ENVIRON if environ is None else environ, config_folder=folder, **options
    )


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    (tmp_path / "mongocli").mkdir()
    (tmp_path / "mongocli" / "config.toml").write_text(PROFILE)
    return tmp_path


# --- where values come from ------------------------------------------------------------------------------


def test_a_few_flags_and_a_key_are_enough():
    connection = resolve()
    assert (connection.service, connection.base_url) == ("atlas", "https://cloud.mongodb.com")
    assert (connection.project_id, connection.cluster, connection.public_key) == (PROJECT, "Cluster0", "public")
    assert connection.private_key.reveal() == KEY
    assert (connection.ca_file, connection.allow_http) == (None, False)
    assert KEY not in repr(connection)


def test_each_place_is_asked_in_order(profiles):
    bare = {"cluster": FLAGS["cluster"]}

    def project(given: dict[str, Given], environ: dict[str, str]) -> tuple[str, str]:
        connection = resolve_connection(bare | given, environ, config_folder=profiles)
        return connection.project_id[0], connection.sources["project_id"]

    tool = {"MCLI_PROJECT_ID": "b" * 24}
    flag = {"project_id": Given("c" * 24, "--project-id")}
    assert project(flag, tool) == ("c", "--project-id")
    assert project({}, tool) == ("b", "MCLI_PROJECT_ID")
    assert project({}, {"MONGODB_ATLAS_PROJECT_ID": "d" * 24}) == ("d", "MONGODB_ATLAS_PROJECT_ID")
    letter, source = project({}, {})
    assert letter == "a"
    assert source.startswith("profile 'default' in ")


def test_everything_but_the_cluster_can_be_in_a_profile(profiles):
    connection = resolve_connection({"cluster": FLAGS["cluster"]}, {}, config_folder=profiles)
    assert connection.service == "atlas"
    assert connection.base_url == "https://profile.example.net"
    assert connection.public_key == "profile-public"
    assert connection.private_key.reveal() == "profile-private"
    assert connection.ca_file == Path("/profile/ca.pem")


@pytest.mark.parametrize("name", ["PROJECT_ID", "PUBLIC_API_KEY", "PRIVATE_API_KEY", "SERVICE", "OPS_MANAGER_URL"])
def test_two_variables_that_differ_are_an_error(name):
    environ = {f"MONGODB_ATLAS_{name}": "one", f"MCLI_{name}": "another"}
    with pytest.raises(ConfigurationError, match=f"MONGODB_ATLAS_{name} and MCLI_{name} are both set") as caught:
        resolve_connection(
            {"cluster": FLAGS["cluster"]}, ENVIRON | PROJECTS | environ, config_folder=Path("/nowhere")
        )
    assert "another" not in str(caught.value)


def test_two_variables_that_agree_are_fine():
    environ = {"MONGODB_ATLAS_PRIVATE_API_KEY": KEY, "MCLI_PRIVATE_API_KEY": KEY}
    assert resolve(environ=environ).private_key.reveal() == KEY


def test_an_empty_variable_counts_as_unset(profiles):
    environ = {
        "MCLI_PROJECT_ID": "",
        "MONGODB_ATLAS_PROJECT_ID": "",
        "SSL_CERT_FILE": "",
        "MONGODB_ATLAS_PROFILE": "",
    }
    given = {"cluster": FLAGS["cluster"], "project_id": Given("", "RESTORE_FETCH_PROJECT_ID")}
    connection = resolve_connection(given, environ, config_folder=profiles)
    assert connection.project_id == "a" * 24
    assert connection.ca_file == Path("/profile/ca.pem")


@pytest.mark.parametrize("variable", ["MONGODB_ATLAS_SERVICE", "MCLI_SERVICE"])
@pytest.mark.parametrize(
    ("value", "service"), [("cloud", "atlas"), ("cloud-manager", "cloud-manager"), ("ops-manager", "ops-manager")]
)
def test_the_services_of_the_other_tools_are_understood(variable, value, service):
    environ = ENVIRON | {variable: value, "MCLI_OPS_MANAGER_URL": "https://ops.example.net"}
    assert resolve(environ=environ).service == service


@pytest.mark.parametrize("given", [{"service": "cloud"}, {"service": "Atlas"}, {"service": "gov"}])
def test_a_service_that_is_none_is_refused(given):
    with pytest.raises(ConfigurationError, match=r"use one of atlas, .*ops-manager"):
        resolve(given)


def test_an_ops_manager_needs_an_address():
    with pytest.raises(ConfigurationError, match="--base-url"):
        resolve({"service": "ops-manager"})
    assert (
        resolve({"service": "ops-manager", "base_url": "http://127.0.0.1:8080"}).base_url == "http://127.0.0.1:8080"
    )


@pytest.mark.parametrize(
    ("name", "option"), [("project_id", "--project-id"), ("cluster", "--cluster"), ("public_key", "--public-key")]
)
def test_what_is_required_is_asked_for_by_name(name, option):
    given = {known: value for known, value in FLAGS.items() if known != name}
    with pytest.raises(ConfigurationError, match=option):
        resolve_connection(given, ENVIRON, config_folder=Path("/nowhere"))


@pytest.mark.parametrize("name", ["cluster", "public_key"])
@pytest.mark.parametrize("value", ["a\nb", "a\x00", "a\udce4", "a\x1b[2J"])
def test_what_cannot_be_sent_is_refused_before_it_is(name, value):
    with pytest.raises(ConfigurationError, match=f"--{name}.*cannot be sent"):
        resolve({name: value})


def test_certificates_to_trust_may_be_named_in_three_places(profiles):
    environ = ENVIRON | {"SSL_CERT_FILE": "/env/ca.pem"}
    assert resolve({"ca_file": "~/ca.pem"}, environ).ca_file == Path.home() / "ca.pem"
    assert resolve(environ=environ).ca_file == Path("/env/ca.pem")
    assert resolve(folder=profiles).ca_file == Path("/profile/ca.pem")


# --- the private key -------------------------------------------------------------------------------------


def test_the_private_key_may_be_in_a_file(tmp_path):
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    connection = resolve({"private_key_file": str(file)}, {})
    assert connection.private_key.reveal() == KEY
    assert connection.sources["private_key"] == "--private_key_file"


def test_the_private_key_may_come_from_a_command():
    asked: list[str] = []

    def run(command: str) -> str:
        asked.append(command)
        return f"{KEY}\n"

    assert resolve({"private_key_command": "pass show key"}, {}, run=run).private_key.reveal() == KEY
    assert asked == ["pass show key"]


def test_the_command_is_run_without_a_shell(tmp_path):
    given = {"private_key_command": "printf '%s' 'from a;command'"}
    assert resolve(given, {}).private_key.reveal() == "from a;command"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("false", "the command false failed with exit code 1"),
        ("no-such-command-anywhere", "the command no-such-command-anywhere cannot be run: No such file"),
        ("printf 'half-of-the-key", "is no command"),
        ("  ", "is no command"),
        ("sh -c 'echo half-of-the-key; exit 3'", "the command sh failed with exit code 3"),
        ("/bin/sh -c 'kill -9 $$' half-of-the-key", "the command sh failed with signal 9"),
        (r"printf '\377half-of-the-key'", "the command printf printed no text"),
        ("true", "is empty"),
    ],
)
def test_a_command_that_fails_is_our_error_and_its_output_stays_secret(command, words):
    with pytest.raises(ConfigurationError) as caught:
        resolve({"private_key_command": command}, {})
    assert words in str(caught.value)
    assert "half-of-the-key" not in str(caught.value)


def test_a_command_that_hangs_is_given_up(monkeypatch):
    def run(*arguments: object, **options: object) -> None:
        raise subprocess.TimeoutExpired("key", 60, output="half-of-the-key")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ConfigurationError, match="the command key did not end in 60 s") as caught:
        resolve({"private_key_command": "key"}, {})
    assert "half-of-the-key" not in str(caught.value)


def test_a_file_and_a_command_exclude_each_other():
    with pytest.raises(ConfigurationError, match="exclude each other"):
        resolve({"private_key_file": "/key", "private_key_command": "key"}, {})


def test_the_private_key_may_be_a_credential_of_systemd(tmp_path):
    (tmp_path / "private-key").write_text(KEY)
    connection = resolve(environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert connection.private_key.reveal() == KEY


def test_a_credentials_folder_without_a_key_is_overlooked(tmp_path):
    with pytest.raises(ConfigurationError, match="the private key is missing"):
        resolve(environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})


@pytest.mark.parametrize("content", [b"", b"\n \n", b"one\ntwo\n", b"a\x00b", b"\xff\xfe"])
def test_a_file_that_holds_no_key_is_refused(tmp_path, content):
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError):
        resolve({"private_key_file": str(file)}, {})


@pytest.mark.parametrize("place", ["nothing-here", "."])
def test_a_key_file_that_cannot_be_read_is_named(tmp_path, place):
    with pytest.raises(ConfigurationError, match="cannot read the private key from"):
        resolve({"private_key_file": str(tmp_path / place)}, {})


def test_a_profile_without_a_private_key_may_have_it_in_the_keyring(tmp_path):
    (tmp_path / "atlascli").mkdir()
    (tmp_path / "atlascli" / "config.toml").write_text('[prod]\npublic_api_key = "public"\n')
    with pytest.raises(ConfigurationError, match=r"profile 'prod'.*keyring.*--private-key-file"):
        resolve({"profile": "prod"}, {}, folder=tmp_path)


def test_the_profile_is_chosen_by_flag_or_variable(tmp_path):
    (tmp_path / "atlascli").mkdir()
    text = "".join(f'[{name}]\nprivate_api_key = "{name}-private"\n' for name in ("one", "two", "default"))
    (tmp_path / "atlascli" / "config.toml").write_text(text)
    variable = {"MONGODB_ATLAS_PROFILE": "two"}
    assert resolve({"profile": "one"}, variable, folder=tmp_path).private_key.reveal() == "one-private"
    assert resolve({}, variable, folder=tmp_path).private_key.reveal() == "two-private"
    assert resolve({}, {}, folder=tmp_path).private_key.reveal() == "default-private"


# --- the address -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://ops.example.net", "https://ops.example.net"),
        ("https://OPS.example.net:8443/", "https://ops.example.net:8443"),
        (" https://ops.example.net ", "https://ops.example.net"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://10.1.2.3", "http://10.1.2.3"),
        ("http://localhost", "http://localhost"),
    ],
)
def test_an_origin_is_read(text, origin):
    assert parse_origin(text, allow_http=False) == origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ops.example.net",
        "//ops.example.net",
        "ftp://ops.example.net",
        "https://",
        "https://:8443",
        "https://ops.example.net/api/public/v1.0",
        "https://ops.example.net?x=1",
        "https://ops.example.net#x",
        "https://user@ops.example.net",
        "https://user:word@ops.example.net",
        "https://ops.example.net:port",
        "https://ops.example.net:99999",
        "https://[::1",
        "https://exa mple.net",
        "https://exa\\mple.net",
        "https://exa\udce4mple.net",
        "https://exam\u00a0ple.net",
        "file:///etc/passwd",
    ],
)
def test_what_is_no_origin_is_refused(text):
    with pytest.raises(ConfigurationError, match="--base-url"):
        parse_origin(text, allow_http=True)


def test_plain_http_to_a_public_host_wants_to_be_allowed():
    with pytest.raises(ConfigurationError, match="--allow-http"):
        parse_origin("http://ops.example.net:8080", allow_http=False)
    assert parse_origin("http://ops.example.net:8080", allow_http=True) == "http://ops.example.net:8080"
    with pytest.raises(ConfigurationError, match="--allow-http"):
        resolve({"base_url": "http://ops.example.net:8080"})
    assert resolve({"base_url": "http://ops.example.net:8080", "allow_http": "1"}).allow_http


@pytest.mark.parametrize(
    "text", ["", PROJECT[:-1], PROJECT + "0", PROJECT[:-1] + "g", f"{PROJECT}\n", "../../../../../../etc.."]
)
def test_an_id_is_24_hexadecimal_digits(text):
    with pytest.raises(ConfigurationError, match="24 hexadecimal digits"):
        parse_object_id(text, "the project id")
    assert parse_object_id(PROJECT.upper(), "the project id") == PROJECT


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"poll_seconds": 0.0}, "--poll-interval"),
        ({"stall_seconds": 0.0}, "--stall-timeout"),
        ({"limit_rate": 0}, "--limit-rate"),
        ({"limit_rate": 1023}, "--min-rate"),
    ],
)
def test_options_that_could_never_work_are_refused(options, named):
    with pytest.raises(ConfigurationError, match=named):
        FetchOptions(**options)


def test_the_defaults_are_the_documented_ones():
    options = FetchOptions()
    assert (options.wait_seconds, options.poll_seconds, options.hash_wait_seconds) == (86400.0, 10.0, 600.0)
    assert (options.retries, options.stall_seconds, options.min_rate) == (3, 60.0, 1024)
    assert (options.limit_rate, options.max_bytes, options.min_free_bytes) == (None, None, 256 * 1024 * 1024)
    assert not (options.allow_unverified)
    assert not (options.force)
    assert options.lock_wait_seconds == 0.0
