"""Approving over HTTP: who the token names votes, everything else is refused with its reason and on the audit trail."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from mlops_assets.foundation.settings import Settings, load_settings
from mlops_assets.serving import approvals as serving_approvals
from mlops_assets.serving.app import create_app
from mlops_assets.serving.runtime import ServingRuntime
from mlops_assets.serving.tokens import active_tokens, create_token
from mlops_assets_tests.governance.conftest import (
    ML,
    QA,
    Office,
    clock,
    mlflow_runs,
    mlflow_template,
    new_office,
    small_office,
)
from mlops_assets_tests.mlflow_runs import SPEC
from mlops_assets_tests.serving.test_boundary import run_async

__all__ = ["clock", "mlflow_runs", "mlflow_template", "new_office", "small_office"]

PATH = f"/approvals/{SPEC.registered_model}/1.0.0"


class Door:
    """The API of one deployment, asked under tokens by their owners' names."""

    def __init__(self, runtime: ServingRuntime, tokens: dict[str, str]) -> None:
        self._app = create_app(runtime, manage=False)
        self._tokens = tokens

    def ask(self, method: str, path: str, who: str | None = None, document: Any = None) -> httpx.Response:
        token = None if who is None else self._tokens.get(who, who)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}

        async def asked() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app), base_url="http://test") as client:
                return await client.request(method, path, json=document, headers=headers)

        return run_async(asked())

    def vote(self, who: str | None, path: str = PATH, **changes: Any) -> httpx.Response:
        return self.ask("POST", path, who, {"decision": "approve", "comment": "read it", **changes})


def opened(office: Office, **variables: str) -> Iterator[Door]:
    office.clock.instant = datetime.now(UTC)
    environ = {
        "MLOPS_HOME": str(office.settings.home),
        "MLOPS_DATABASE_URL": office.engine.url.render_as_string(hide_password=False),
        "MLFLOW_TRACKING_URI": office.runs.tracking_uri,
        **variables,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        settings: Settings = load_settings()
        runtime = ServingRuntime(settings, mirror=False)
        now = datetime.now(UTC)
        people = (ML, QA, "ci")
        tokens = {name: create_token(office.engine, name, user="tests", now=now) for name in people}
        runtime.tokens = active_tokens(office.engine, now)
        yield Door(runtime, tokens)
        runtime.engine.dispose()
        runtime.readers.dispose()


@pytest.fixture
def door(small_office: Office) -> Iterator[Door]:
    """Without authentication, as on a laptop."""
    yield from opened(small_office)


@pytest.fixture
def locked_door(small_office: Office) -> Iterator[Door]:
    """Where every route needs a token."""
    yield from opened(small_office, MLOPS_SERVING_AUTHENTICATION="required")


def refusals(office: Office) -> list[tuple[str, str]]:
    return [
        (event.user, event.details["reason"]) for event in office.events() if event.event_type == "approval_refused"
    ]


def test_two_tokens_approve(small_office: Office, door: Door) -> None:
    """The link of the message leads to a request that cannot be decided on there."""
    small_office.decide()
    (listed,) = door.ask("GET", "/approvals").json()["requests"]
    assert (listed["version"], listed["status"], listed["awaited"]) == ("1.0.0", "open", [ML, QA])
    first = door.vote(ML)
    assert (first.status_code, first.json()["approved_by"]) == (200, [ML])
    assert small_office.registry.champion(SPEC.registered_model) is None
    second = door.vote(QA, comment="and so did I")
    assert (second.status_code, second.json()["status"], second.json()["applied"]) == (200, "approved", True)
    assert small_office.registry.champion(SPEC.registered_model) is not None
    assert door.ask("GET", "/approvals").json() == {"requests": []}
    assert len(door.ask("GET", "/approvals?status=all").json()["requests"]) == 1
    assert [vote["comment"] for vote in door.ask("GET", PATH).json()["votes"]] == ["read it", "and so did I"]
    assert [event.details["channel"] for event in small_office.events() if event.event_type == "approval_vote"] == [
        "http",
        "http",
    ]


def test_refusals(small_office: Office, door: Door) -> None:
    """Whoever has any token at all approves, or a refused try leaves no trace."""
    small_office.decide(author=ML)
    other = f"/approvals/{SPEC.registered_model}/9.9.9"
    assert (door.vote("ci").status_code, door.vote("ci").json()["title"]) == (403, "Not a required approver")
    assert (door.vote(ML).status_code, door.vote(ML).json()["title"]) == (403, "Own model")
    assert door.vote(QA, path=other).status_code == 404
    assert door.vote(QA, path="/approvals/nothing/1.0.0").status_code == 404
    assert door.vote(QA).status_code == 200
    again = door.vote(QA)
    assert (again.status_code, again.headers["content-type"]) == (409, "application/problem+json")
    assert "has approved already" in again.json()["detail"]
    small_office.write_report(0, gap=4.5)
    assert [door.vote(who).status_code for who in ("ci", QA)] == [403, 409]
    assert refusals(small_office) == [
        ("ci", "wrong_role"),
        ("ci", "wrong_role"),
        (ML, "own_model"),
        (ML, "own_model"),
        (QA, "unknown_version"),
        (QA, "unknown_version"),
        (QA, "same_approver_twice"),
        ("ci", "wrong_role"),
        (QA, "same_approver_twice"),
    ]


def test_changed_evidence_is_refused(small_office: Office, door: Door) -> None:
    """The process that holds MLflow refuses, and the client is told of a server error."""
    small_office.decide()
    small_office.write_report(0, gap=4.5)
    answer = door.vote(QA)
    assert (answer.status_code, answer.json()["title"]) == (409, "Evidence changed")
    assert refusals(small_office) == [(QA, "evidence_changed")]


@pytest.mark.parametrize(
    ("kind", "status", "detail"),
    [
        ("denied", 403, "why not"),
        ("input", 422, "why not"),
        ("conflict", 409, "why not"),
        ("transient", 503, "a store does not answer; try again"),
        ("settings", 500, "the server failed"),
    ],
)
def test_what_the_vote_ran_into(
    small_office: Office, door: Door, monkeypatch: pytest.MonkeyPatch, kind: str, status: int, detail: str
) -> None:
    """A vote that can never pass is answered with 503, and tried again for ever."""
    small_office.decide()
    monkeypatch.setattr(serving_approvals, "_count", lambda _: {"failed": kind, "message": "why not"})
    answer = door.vote(QA)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["detail"].startswith(detail)
    assert ("Retry-After" in answer.headers) == (status == 503)


@pytest.mark.parametrize("body", [{"decision": "maybe"}, {"comment": ""}, {"comment": 5}, {"more": 1}])
def test_what_is_no_vote(small_office: Office, door: Door, body: dict[str, Any]) -> None:
    """A misspelt decision counts as an approval."""
    small_office.decide()
    answer = door.vote(QA, **body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, next(iter(body)))
    assert door.ask("GET", PATH).json()["votes"] == []


@pytest.mark.parametrize("which", ["door", "locked_door"])
def test_a_forged_token(small_office: Office, which: str, request: pytest.FixtureRequest) -> None:
    """Guessing approvers' tokens leaves no trace, or fills the audit trail."""
    found: Door = request.getfixturevalue(which)
    small_office.decide()
    for _ in range(5):
        answer = found.vote("mlops_forged")
        assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
    assert found.vote(None).status_code == 401
    assert refusals(small_office) == [("unknown", "forged_token")]
    event = small_office.events()[-1]
    assert (event.model_name, event.version, event.details["tries"]) == (SPEC.registered_model, "1.0.0", 1)
    assert "mlops_forged" not in str(event.details)


def test_reading_is_guarded_as_everything_else(small_office: Office, locked_door: Door) -> None:
    """Requests name people and models."""
    assert locked_door.ask("GET", "/approvals").status_code == 401
    assert locked_door.ask("GET", "/approvals", ML).status_code == 200
    assert locked_door.ask("GET", PATH, ML).status_code == 404
    assert locked_door.ask("GET", "/approvals?status=some", ML).status_code == 422


def test_the_document_describes_the_routes(small_office: Office, door: Door) -> None:
    """A client is generated without the vote, or without its refusals."""
    document = door.ask("GET", "/openapi.json").json()
    vote = document["paths"]["/approvals/{model_name}/{version}"]["post"]
    assert {"200", "401", "403", "404", "409", "422"} <= set(vote["responses"])
    answered = set(document["components"]["schemas"]["ApprovalAnswer"]["properties"])
    small_office.decide()
    assert set(door.ask("GET", PATH).json()) == answered
    schema = document["components"]["schemas"]["VoteRequest"]
    assert schema["properties"]["decision"]["enum"] == ["approve", "reject"]
