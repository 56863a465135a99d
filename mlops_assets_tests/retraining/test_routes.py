"""The HTTP way in, on a real server: who may ask, what is answered, and what is refused how."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from mlops_assets.foundation.clock import FixedClock, SystemClock
from mlops_assets.foundation.settings import Settings
from mlops_assets.retraining.requests import all_requests
from mlops_assets.retraining.routes import create_router
from mlops_assets.serving.tokens import create_token, revoke_token
from mlops_assets_tests.retraining.triggers import NOW
from mlops_assets_tests.sockets import on_a_socket

USER = "ana@company.com"
ASKED = {"agent": "execution", "reason": "new browser"}


@contextmanager
def serving(settings: Settings, engine: Engine, clock: FixedClock) -> Iterator[str]:
    """Address of the routes on a server that mounts them."""
    app = FastAPI()
    app.include_router(create_router(settings, engine, clock))
    with on_a_socket(app) as address:
        yield f"{address}/retraining"


@pytest.fixture
def url(settings: Settings, sqlite_engine: Engine, clock: FixedClock) -> Iterator[str]:
    """Address of a server without roles."""
    with serving(settings, sqlite_engine, clock) as address:
        yield address


@pytest.fixture
def bearer(sqlite_engine: Engine) -> dict[str, str]:
    """A valid token of a person."""
    return {"Authorization": f"Bearer {create_token(sqlite_engine, USER, user='ops', now=SystemClock().now())}"}


def test_a_training_is_asked_for_and_explained(url: str, bearer: dict[str, str], sqlite_engine: Engine) -> None:
    """A training of the token's owner is asked for in another's name, or twice, since an answer was lost on its way."""
    key = {**bearer, "Idempotency-Key": "k1"}
    first = httpx.post(url, json=ASKED, headers=key)
    assert (first.status_code, first.json()["decision"]) == (201, "retrain")
    assert first.json()["run_key"] == "retrain-execution-1"
    (found,) = all_requests(sqlite_engine, since=NOW)
    assert (found.user, found.reason, found.trigger_type) == (USER, "new browser", "manual")
    again = httpx.post(url, json=ASKED, headers=key)
    assert (again.status_code, again.json()["decision"]) == (202, "idle")
    other = httpx.post(url, json={**ASKED, "override": True}, headers=bearer)
    assert (other.status_code, other.json()["suppressed_by"]) == (202, ["in_flight"])
    assert "retrain-execution-1 requested" in other.json()["reason"]
    history = httpx.get(f"{url}/history?days=7", headers=bearer).json()["evaluations"]
    assert [one["decision"] for one in history] == ["suppressed", "retrain"]
    assert httpx.get(f"{url}/history?agent=generation", headers=bearer).json() == {"evaluations": []}


def test_without_a_valid_token_nothing_is_said(url: str, bearer: dict[str, str], sqlite_engine: Engine) -> None:
    """Anybody on the network trains, or reads why it was done."""
    for headers in ({}, {"Authorization": "Bearer mlops_wrong"}, {"Authorization": "Basic abc"}):
        assert httpx.post(url, json=ASKED, headers=headers).status_code == 401
        assert httpx.get(f"{url}/history", headers=headers).status_code == 401
    revoke_token(sqlite_engine, USER, user="ops", now=SystemClock().now())
    refused = httpx.post(url, json=ASKED, headers=bearer)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert refused.headers["content-type"] == "application/problem+json"
    assert all_requests(sqlite_engine, since=NOW) == []


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ("{", 422, "body: Invalid JSON"),
        ('{"agent": "execution"}', 422, "reason: Field required"),
        ('{"agent": "execution", "reason": "x", "user": "bob"}', 422, "user: Extra inputs are not permitted"),
        ('{"agent": "executions", "reason": "x"}', 422, "unknown agent 'executions'; known agents:"),
        ('{"agent": "execution", "reason": " "}', 422, "needs who asks for it, a reason"),
        ('{"agent": "execution", "reason": "' + "x" * 20_000 + '"}', 413, "more than 16384 bytes"),
    ],
)
def test_bad_requests_are_named(
    url: str, bearer: dict[str, str], sqlite_engine: Engine, body: str, status: int, detail: str
) -> None:
    """A 500 for a typing error, or a training of nobody knows what."""
    answer = httpx.post(url, content=body, headers=bearer)
    assert answer.status_code == status
    assert detail in answer.json()["detail"]
    assert all_requests(sqlite_engine, since=NOW) == []


@pytest.mark.parametrize("query", ["days=0", "days=nan", "days=-1", "days=x", "days=1e9", "agent=nobody"])
def test_bad_queries_are_named(url: str, bearer: dict[str, str], query: str) -> None:
    """`nan` days is all of history, or a crash."""
    answer = httpx.get(f"{url}/history?{query}", headers=bearer)
    assert answer.status_code == 422
    assert answer.json()["title"] == "Invalid request"


def test_a_role_is_needed_where_there_are_roles(
    settings: Settings, sqlite_engine: Engine, clock: FixedClock, bearer: dict[str, str]
) -> None:
    """Whoever may decide may also train."""
    table = settings.home.parent / "roles.yaml"
    table.write_text("bob@company.com: [ml_engineer]\n", encoding="utf-8")
    with serving(settings.model_copy(update={"roles_file": table}), sqlite_engine, clock) as address:
        answer = httpx.post(address, json=ASKED, headers=bearer)
    assert answer.status_code == 403
    assert "bob@company.com" in answer.json()["detail"]
    assert all_requests(sqlite_engine, since=NOW) == []
