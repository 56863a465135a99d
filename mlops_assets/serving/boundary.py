"""Where exceptions become answers: the project's own refusals as problem documents, everything else as an error id."""

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlops_assets.foundation.errors import MlopsError, NotReadyError, TransientError
from mlops_assets.serving.metrics import ServingMetrics
from mlops_assets.serving.outcomes import OutcomeConflictError, OutcomeFieldError, UnknownPredictionError
from mlops_assets.serving.problems import problem_response

RETRY_SECONDS = 1
_DATABASE_SECONDS = 5.0
_FIRST_ERROR_STATUS = 400
_SHOWN_CHARACTERS = 100
Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class ProblemError(Exception):
    """A request that is refused, as the client is to see it."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        errors: list[dict[str, str]] | None = None,
        retry_seconds: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail = status, title, detail
        self.errors = errors or []
        self.headers = {} if retry_seconds is None else {"Retry-After": str(retry_seconds)}

    def response(self) -> Response:
        """Return the answer."""
        return problem_response(self.status, self.title, self.detail, errors=self.errors, headers=self.headers)


def _field_problem(error: OutcomeFieldError) -> ProblemError:
    errors = [{"field": error.field, "message": error.message}]
    return ProblemError(422, "Invalid request", str(error), errors=errors)


# In this order: the first class that fits.
_REFUSALS: Mapping[type[Exception], Callable[[Any], ProblemError]] = {
    ProblemError: lambda error: error,
    UnknownPredictionError: lambda e: ProblemError(404, "Unknown prediction", str(e), retry_seconds=RETRY_SECONDS),
    OutcomeConflictError: lambda error: ProblemError(409, "Outcome conflict", str(error)),
    OutcomeFieldError: _field_problem,
    NotReadyError: lambda error: ProblemError(503, "No model", str(error), retry_seconds=RETRY_SECONDS),
    TransientError: lambda _: ProblemError(
        503, "Not available now", "a store does not answer; try again", retry_seconds=RETRY_SECONDS
    ),
}


async def with_database(call: Callable[[], Result]) -> Result:
    """Run a call that asks the database in a thread; 503 when it takes too long, as with one that stands still."""
    with anyio.move_on_after(_DATABASE_SECONDS):
        return await anyio.to_thread.run_sync(call, abandon_on_cancel=True)
    raise ProblemError(
        503,
        "Database not available",
        f"the operational database did not answer within {_DATABASE_SECONDS:g} s; try again",
        retry_seconds=RETRY_SECONDS,
    )


def add_refusals(app: FastAPI) -> None:
    """Have the framework's own refusals, of a query or a path, answered as problem documents."""
    app.add_exception_handler(RequestValidationError, _invalid_query)
    app.add_exception_handler(HTTPException, _http_error)


async def _invalid_query(_: Request, error: Exception) -> Response:
    found = error.errors() if isinstance(error, RequestValidationError) else []
    errors = [{"field": ".".join(map(str, one["loc"][1:])), "message": str(one["msg"])} for one in found]
    detail = "; ".join(
        f"{told['field']}={str(one.get('input'))[:_SHOWN_CHARACTERS]!r}: {told['message']}"
        for one, told in zip(found, errors, strict=True)
    )
    return problem_response(422, "Invalid request", detail, errors=errors)


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    detail = {
        404: f"there is nothing at {request.url.path!r}; see /openapi.json",
        405: f"{request.method} is not for {request.url.path!r}; allowed: {headers.get('allow', headers.get('Allow', ''))}",
    }.get(status, "the request could not be taken")
    return problem_response(status, "Not found" if status == 404 else "Not allowed", detail, headers=headers)  # noqa: PLR2004


class Boundary:
    """Turns every exception into a problem document; of an unexpected one the client sees an id, the log the rest."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or say why not."""
        started = False

        async def tracked(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, tracked)
        except ClientDisconnect:
            # Whoever took the client away, such as the guard with its limit of a body, has answered.
            raise
        except Exception as error:
            if scope["type"] != "http" or started:
                raise
            await self._response(error, scope)(scope, receive, send)

    def _response(self, error: Exception, scope: Scope) -> Response:
        for kind, problem in _REFUSALS.items():
            if isinstance(error, kind):
                if isinstance(error, MlopsError):
                    _log.warning("%s %s refused: %s", scope["method"], scope["path"], error)
                return problem(error).response()
        error_id = secrets.token_hex(8)
        _log.error("error %s at %s %s", error_id, scope["method"], scope["path"], exc_info=error)
        detail = f"the server failed; its log has the reason under {error_id}"
        return problem_response(500, "Server error", detail, error_id=error_id)


class Counted:
    """Counts what is refused, at the door or behind it."""

    def __init__(self, app: ASGIApp, metrics: ServingMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on and look at the status."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= _FIRST_ERROR_STATUS:
                self._metrics.refused(message["status"])
            await send(message)

        await self._app(scope, receive, counted)
