"""Exceptions as answers: what the client is told of each, and what only the log is."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.errors import InputError, NotReadyError, StorageError
from mlops_assets.foundation.settings import load_settings
from mlops_assets.serving.app import create_app
from mlops_assets.serving.boundary import Boundary, ProblemError
from mlops_assets.serving.models import ServedModel, ServedModels
from mlops_assets.serving.outcomes import OutcomeConflictError, OutcomeFieldError, UnknownPredictionError
from mlops_assets.serving.problems import PROBLEM_MEDIA_TYPE
from mlops_assets.serving.runtime import ServingRuntime
from mlops_assets_tests.serving.live import run_async
from mlops_assets_tests.serving.served import request_of

SPEC = AGENTS["execution"]
SECRET = "secret of the store"


def failing(error: BaseException, *, after_start: bool = False) -> ASGIApp:
    """An app that fails, also in the middle of its answer."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if after_start:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    return app


def ask(app: ASGIApp, method: str, path: str, document: Any = None) -> httpx.Response:
    """One request; what the app raises is raised here."""

    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.request(method, path, json=document)

    return run_async(asked())


def assert_told_by_id_only(answer: httpx.Response, caplog: pytest.LogCaptureFixture) -> None:
    """The client has an id and nothing else, the log has the rest under that id."""
    assert (answer.status_code, answer.headers["content-type"]) == (500, PROBLEM_MEDIA_TYPE)
    told = answer.json()
    assert set(told) == {"type", "title", "status", "detail", "error_id"}
    assert (told["status"], len(told["error_id"])) == (500, 16)
    assert told["error_id"] in told["detail"]
    for hidden in (SECRET, "RuntimeError", "Traceback", ".py"):
        assert hidden not in answer.text
    (record,) = (one for one in caplog.records if one.levelno >= logging.ERROR)
    assert told["error_id"] in record.getMessage()
    assert record.exc_info is not None
    assert f"RuntimeError: {SECRET}" in caplog.text
    assert "Traceback (most recent call last)" in caplog.text


def test_an_unexpected_error_is_an_id(caplog: pytest.LogCaptureFixture) -> None:
    """The client reads an exception's text (B-62), or nobody finds the reason in the log."""
    app = Boundary(failing(RuntimeError(SECRET)))
    answer = ask(app, "GET", "/models")
    assert_told_by_id_only(answer, caplog)
    assert "at GET /models" in caplog.text
    assert ask(app, "GET", "/models").json()["error_id"] != answer.json()["error_id"]


class BrokenModels(dict[tuple[str, str], ServedModel]):
    """Versions in service that cannot be looked at."""

    def get(self, *_: Any) -> Any:
        """Fail."""
        raise RuntimeError(SECRET)

    items = get


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[ServingRuntime]:
    """A server whose every look at its models fails."""
    runtime = ServingRuntime(load_settings({"MLOPS_HOME": str(tmp_path)}), mirror=False)
    runtime.registry.models = ServedModels(BrokenModels())
    runtime.tokens = {}
    yield runtime
    runtime.engine.dispose()
    runtime.readers.dispose()


@pytest.mark.parametrize(
    ("method", "path", "document"),
    [
        ("POST", "/predict", request_of(SPEC)),
        ("POST", "/predict/batch", {"requests": [request_of(SPEC)]}),
        ("GET", "/models", None),
        ("GET", "/health", None),
    ],
)
def test_no_route_goes_around_it(
    broken: ServingRuntime, caplog: pytest.LogCaptureFixture, method: str, path: str, document: Any
) -> None:
    """A decision goes past the framework, the rest through it: one of the two answers by itself, or is not counted."""
    answer = ask(create_app(broken, manage=False), method, path, document)
    assert_told_by_id_only(answer, caplog)
    assert 'ml_requests_refused_total{status="500"} 1.0' in broken.metrics.exposition().decode()


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (ProblemError(413, "Too large", "shorter"), 413, None),
        (ProblemError(503, "Busy", "later", retry_seconds=7), 503, "7"),
        (UnknownPredictionError("prediction 'p'"), 404, "1"),
        (OutcomeConflictError("another reward"), 409, None),
        (OutcomeFieldError("outcomes.3.reward", "1000 is too much"), 422, None),
        (NotReadyError("no champion yet"), 503, "1"),
    ],
)
def test_refusals_are_told(error: Exception, status: int, retry: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """A client's own mistake is a server error to it, or it is not told when to come back."""
    answer = ask(Boundary(failing(error)), "POST", "/outcomes")
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry)
    assert answer.headers["content-type"] == PROBLEM_MEDIA_TYPE
    assert answer.json()["status"] == status
    assert str(error) in answer.json()["detail"]
    assert "error_id" not in answer.json()
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]
    if isinstance(error, OutcomeFieldError):
        assert answer.json()["errors"] == [{"field": "outcomes.3.reward", "message": "1000 is too much"}]


def test_a_store_that_is_away_is_not_quoted(caplog: pytest.LogCaptureFixture) -> None:
    """A database's error, with its address, is shown to whoever asks."""
    answer = ask(Boundary(failing(StorageError(SECRET))), "GET", "/experiments")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert SECRET not in answer.text
    assert SECRET in caplog.text


def test_a_refusal_that_no_route_means_is_a_server_error(caplog: pytest.LogCaptureFixture) -> None:
    """An InputError from inside, about the server's own files, is told as if the client had made it."""
    answer = ask(Boundary(failing(InputError(SECRET))), "GET", "/models")
    assert answer.status_code == 500
    assert SECRET not in answer.text
    assert answer.json()["error_id"] in caplog.text


@pytest.mark.parametrize(
    ("error", "after_start"), [(RuntimeError(SECRET), True), (ClientDisconnect(), False), (KeyboardInterrupt(), False)]
)
def test_what_cannot_be_answered_is_raised(error: BaseException, after_start: bool) -> None:
    """A second answer is sent into the first one, or to a client that has gone."""
    with pytest.raises(type(error)):
        ask(Boundary(failing(error, after_start=after_start)), "GET", "/models")


def test_what_goes_well_is_passed_on() -> None:
    """An answer is touched on its way."""
    answer = ask(Boundary(PlainTextResponse("well", 201)), "GET", "/models")
    assert (answer.status_code, answer.text) == (201, "well")
