"""HTTP Digest at the simulated API: signed here by hand, from RFC 7616, and by httpx."""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import pytest

from restore_fetch.sandbox import Sandbox
from restore_fetch.sandbox.digest import DigestGate, Verdict

HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}


@dataclass(frozen=True)
class Answer:
    status: int
    challenges: tuple[dict[str, str], ...]

    @property
    def stale(self) -> str:
        return self.challenges[0]["stale"]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size_bytes=64 * 1024) as sandbox:
        yield sandbox
        assert sandbox.errors == []


def target_of(sandbox: Sandbox) -> str:
    return f"/api/atlas/v1.0/groups/{sandbox.project_id}/clusters/{sandbox.cluster}/restoreJobs/{sandbox.job_id}"


def ask(sandbox: Sandbox, authorization: str | None = None, target: str | None = None) -> Answer:
    address = urlsplit(sandbox.base_url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    try:
        headers = {} if authorization is None else {"Authorization": authorization}
        connection.request("GET", target or target_of(sandbox), headers=headers)
        answer = connection.getresponse()
        challenges = (answer.headers.get_all("WWW-Authenticate") or []) if answer.status == 401 else []
        return Answer(answer.status, tuple(map(parsed, challenges)))
    finally:
        connection.close()


def parsed(challenge: str) -> dict[str, str]:
    fields = (field.split("=", 1) for field in challenge.removeprefix("Digest ").split(", "))
    return {name: value.strip('"') for name, value in fields}


def sign(challenge: dict[str, str], username: str, password: str, target: str, **changes: str) -> str:
    """The `Authorization` of a GET; `changes` are put in after signing."""
    digest = HASHES[challenge["algorithm"]]

    def hashed(*parts: str) -> str:
        return digest(":".join(parts).encode()).hexdigest()

    count = changes.get("nc", "00000001")
    secret = hashed(username, challenge["realm"], password)
    response = hashed(secret, challenge["nonce"], count, "0a4f113b", "auth", hashed("GET", target))
    fields = {
        "username": username, "realm": challenge["realm"], "nonce": challenge["nonce"], "uri": target, "nc": count,
        "cnonce": "0a4f113b", "qop": "auth", "algorithm": challenge["algorithm"], "response": response,
    }  # fmt: skip
    bare = ("nc", "qop", "algorithm")
    return "Digest " + ", ".join(
        f"{name}={value}" if name in bare else f'{name}="{value}"' for name, value in (fields | changes).items()
    )


def signed(sandbox: Sandbox, challenge: dict[str, str], **changes: str) -> str:
    return sign(challenge, sandbox.public_key, sandbox.private_key, target_of(sandbox), **changes)


def test_both_algorithms_are_offered_the_stronger_first(sandbox: Sandbox):
    answer = ask(sandbox)

    assert answer.status == 401
    assert [challenge["algorithm"] for challenge in answer.challenges] == ["SHA-256", "MD5"]
    assert {challenge["qop"] for challenge in answer.challenges} == {"auth"}
    assert answer.stale == "false"


@pytest.mark.parametrize("index", [0, 1], ids=["SHA-256", "MD5"])
def test_a_request_signed_with_either_is_admitted(sandbox: Sandbox, index: int):
    challenge = ask(sandbox).challenges[index]

    assert ask(sandbox, signed(sandbox, challenge)).status == 200


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
def test_httpx_signs_with_the_only_algorithm_offered(algorithm: str):
    with Sandbox(size_bytes=64 * 1024, digest_algorithms=[algorithm]) as sandbox:
        auth = httpx.DigestAuth(sandbox.public_key, sandbox.private_key)

        assert httpx.get(sandbox.base_url + target_of(sandbox), auth=auth, trust_env=False).status_code == 200
        other = {"MD5": "SHA-256", "SHA-256": "MD5"}[algorithm]
        challenge = ask(sandbox).challenges[0] | {"algorithm": other}
        assert ask(sandbox, signed(sandbox, challenge)).status == 401, "an algorithm that was not offered"


def test_every_challenge_has_a_nonce_of_its_own(sandbox: Sandbox):
    assert ask(sandbox).challenges[0]["nonce"] != ask(sandbox).challenges[0]["nonce"]


def test_a_nonce_may_be_used_again_with_the_next_count(sandbox: Sandbox):
    challenge = ask(sandbox).challenges[0]

    for count in ("00000001", "00000002", "00000003"):
        assert ask(sandbox, signed(sandbox, challenge, nc=count)).status == 200


def test_a_replayed_request_is_refused(sandbox: Sandbox):
    authorization = signed(sandbox, ask(sandbox).challenges[0])

    assert ask(sandbox, authorization).status == 200
    assert ask(sandbox, authorization).status == 401


def test_a_nonce_goes_stale_after_its_uses_and_says_so():
    with Sandbox(size_bytes=64 * 1024, nonce_uses=1) as sandbox:
        challenge = ask(sandbox).challenges[0]

        assert ask(sandbox, signed(sandbox, challenge)).status == 200
        late = ask(sandbox, signed(sandbox, challenge, nc="00000002"))

        assert (late.status, late.stale) == (401, "true")
        assert ask(sandbox, signed(sandbox, late.challenges[0])).status == 200


def test_a_client_that_polls_does_not_notice_stale_nonces():
    with Sandbox(size_bytes=64 * 1024, nonce_uses=1) as sandbox:
        auth = httpx.DigestAuth(sandbox.public_key, sandbox.private_key)
        with httpx.Client(auth=auth, trust_env=False) as client:
            answers = [client.get(sandbox.base_url + target_of(sandbox)).status_code for _ in range(4)]

        assert answers == [200] * 4
        assert [request.status for request in sandbox.requests] == [401, 200] * 4


def test_a_nonce_goes_stale_with_age():
    now = 1000.0
    gate = DigestGate("me", "secret", nonce_seconds=60, clock=lambda: now)
    challenge = parsed(gate.challenges()[0])

    assert gate.admit("GET", "/", sign(challenge, "me", "secret", "/")) is Verdict.ADMITTED
    now += 61
    assert gate.admit("GET", "/", sign(challenge, "me", "secret", "/", nc="00000002")) is Verdict.STALE


def test_a_nonce_that_was_never_given_out_is_stale(sandbox: Sandbox):
    challenge = ask(sandbox).challenges[0] | {"nonce": "made-up"}

    assert ask(sandbox, signed(sandbox, challenge)).stale == "true"


def test_a_wrong_private_key_is_refused_and_not_called_stale(sandbox: Sandbox):
    authorization = sign(ask(sandbox).challenges[0], sandbox.public_key, "wrong", target_of(sandbox))

    answer = ask(sandbox, authorization)

    assert (answer.status, answer.stale) == (401, "false")


def test_a_wrong_public_key_is_refused(sandbox: Sandbox):
    authorization = sign(ask(sandbox).challenges[0], "wrong", sandbox.private_key, target_of(sandbox))

    assert ask(sandbox, authorization).status == 401


def test_a_signature_is_good_for_its_own_address_only(sandbox: Sandbox):
    authorization = signed(sandbox, ask(sandbox).challenges[0])

    assert ask(sandbox, authorization, target_of(sandbox) + "?pretty=true").status == 401


def test_an_address_changed_after_signing_is_refused(sandbox: Sandbox):
    other = target_of(sandbox) + "?pretty=true"
    authorization = signed(sandbox, ask(sandbox).challenges[0], uri=other)

    assert ask(sandbox, authorization, other).status == 401


@pytest.mark.parametrize(
    "changes",
    [
        {"realm": "Elsewhere"},
        {"qop": "auth-int"},
        {"algorithm": "SHA-512"},
        {"response": "0" * 64},
        {"cnonce": "x"},
    ],
    ids=["realm", "qop", "algorithm", "response", "cnonce"],
)
def test_a_changed_signature_is_refused(sandbox: Sandbox, changes: dict[str, str]):
    assert ask(sandbox, signed(sandbox, ask(sandbox).challenges[0], **changes)).status == 401


@pytest.mark.parametrize(
    "authorization",
    ["", "Digest", "Digest username", "Digest uri=", 'Digest uri="', "Digest =", "Basic bWU6bWU=", "Bearer token"],
)
def test_broken_credentials_are_refused_like_missing_ones(sandbox: Sandbox, authorization: str):
    assert ask(sandbox, authorization).status == 401


@pytest.mark.parametrize("algorithms", [[], ["SHA-512"], ["MD5", "md5"]])
def test_a_sandbox_knows_which_algorithms_it_can_offer(algorithms: list[str]):
    with pytest.raises(ValueError, match="MD5, SHA-256"):
        Sandbox(digest_algorithms=algorithms)
