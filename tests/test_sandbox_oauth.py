"""The sandbox's service account: tokens, and where they are good."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from restore_fetch.sandbox import Sandbox
from restore_fetch.sandbox.oauth import TokenGate
from tests.services_support import VERSIONED
from tests.support import ManualClock

FORM = {"grant_type": "client_credentials"}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(service="atlas-v2", size_bytes=16 * 1024) as sandbox:
        yield sandbox
        assert sandbox.errors == []


def ask(sandbox: Sandbox, **request: Any) -> httpx.Response:
    request = {"data": FORM, "auth": (sandbox.client_id, sandbox.client_secret)} | request
    return httpx.post(f"{sandbox.base_url}/api/oauth/token", trust_env=False, **request)


def look(sandbox: Sandbox, token: str, prefix: str = "/api/atlas/v2") -> httpx.Response:
    path = f"{prefix}/groups/{sandbox.project_id}/clusters/{sandbox.cluster}/restoreJobs"
    headers = {"Authorization": f"Bearer {token}", "Accept": VERSIONED}
    return httpx.get(sandbox.base_url + path, headers=headers, trust_env=False)


def test_a_token_opens_the_versioned_api(sandbox: Sandbox):
    document = ask(sandbox).json()

    assert (document["token_type"], document["expires_in"]) == ("Bearer", 3600)
    assert look(sandbox, document["access_token"]).status_code == 200


def test_a_token_opens_no_other_api(sandbox: Sandbox):
    token = ask(sandbox).json()["access_token"]

    for prefix in ("/api/atlas/v1.0", "/api/public/v1.0"):
        assert look(sandbox, token, prefix).status_code == 401


def test_a_made_up_token_opens_nothing(sandbox: Sandbox):
    answer = look(sandbox, "made-up")

    assert (answer.status_code, answer.json()["errorCode"]) == (401, "INVALID_TOKEN")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


def test_a_revoked_token_opens_nothing(sandbox: Sandbox):
    token = ask(sandbox).json()["access_token"]
    sandbox.revoke_tokens()

    assert look(sandbox, token).status_code == 401
    assert look(sandbox, ask(sandbox).json()["access_token"]).status_code == 200


@pytest.mark.parametrize(
    ("request_", "status", "error"),
    [
        ({"auth": ("nobody", "nothing")}, 401, "invalid_client"),
        ({"auth": None}, 401, "invalid_client"),
        ({"auth": None, "headers": {"Authorization": "Basic ~~~"}}, 401, "invalid_client"),
        ({"auth": None, "headers": {"Authorization": "Bearer x"}}, 401, "invalid_client"),
        ({"data": {}}, 400, "unsupported_grant_type"),
        ({"data": {"grant_type": "password"}}, 400, "unsupported_grant_type"),
    ],
)
def test_who_asks_in_another_way_gets_no_token(sandbox: Sandbox, request_: Any, status: int, error: str):
    answer = ask(sandbox, **request_)

    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert "access_token" not in answer.json()


def test_a_token_is_asked_for_by_post(sandbox: Sandbox):
    answer = httpx.get(f"{sandbox.base_url}/api/oauth/token", trust_env=False)

    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


def test_secret_and_tokens_are_among_the_secrets(sandbox: Sandbox):
    token = ask(sandbox).json()["access_token"]

    assert {sandbox.client_secret, token} <= set(sandbox.secrets())


def test_a_token_ends_with_its_time(clock: ManualClock):
    gate = TokenGate("id", "secret", seconds=30, clock=clock.monotonic)
    token = gate.issue("Basic aWQ6c2VjcmV0", b"grant_type=client_credentials").document["access_token"]

    clock.advance(29)
    assert gate.admits(f"Bearer {token}")
    clock.advance(1)
    assert not gate.admits(f"Bearer {token}")
