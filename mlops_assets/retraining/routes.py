"""The HTTP way to ask for a training, and to read what was decided and why. Who asks is who the bearer token names."""

import json
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Engine

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.clock import Clock, SystemClock
from mlops_assets.foundation.errors import AccessDeniedError, InputError, SettingsError, TransientError
from mlops_assets.foundation.settings import Settings
from mlops_assets.retraining.by_hand import request_retraining
from mlops_assets.retraining.evaluate import evaluations
from mlops_assets.serving.problems import problem_response
from mlops_assets.serving.tokens import bearer_token

_MAX_BODY_BYTES = 16_384
_MAX_DAYS = 3650.0


class RetrainingRequest(BaseModel):
    """One training by hand; `override`: also within the shortest time between two trainings."""

    model_config = ConfigDict(extra="forbid", strict=True)

    agent: str = Field(min_length=1, max_length=64)
    reason: str = Field(min_length=1, max_length=400)
    override: bool = False


def create_router(settings: Settings, engine: Engine, clock: Clock) -> APIRouter:
    """Return `POST /retraining` and `GET /retraining/history`, for whichever application mounts them.

    Both need a bearer token, made by `python -m mlops_assets.serving.tokens create <person's address>`; asking for a
    training needs its permission as well. A header `Idempotency-Key` makes a second try of the same request harmless.
    """
    router = APIRouter(prefix="/retraining", tags=["retraining"])

    @router.post("")
    async def ask(request: Request) -> Response:
        """Ask for a training: 201 when it is started, 202 when it waits; the answer says what for."""
        body = await _body(request)

        def answer() -> Response:
            user = _caller(request, engine)
            if user is None:
                return _unauthorized()
            if body is None:
                return problem_response(413, "Too large", f"the body has more than {_MAX_BODY_BYTES} bytes")
            return _asked(settings, engine, clock, user, body, request.headers.get("idempotency-key"))

        return await _guarded(answer)

    @router.get("/history")
    async def history(request: Request, days: str = "7", agent: str | None = None) -> Response:
        """Return what was decided in the last days, the newest first, with reason and suppressors."""

        def answer() -> Response:
            if _caller(request, engine) is None:
                return _unauthorized()
            span = _days(days)
            if span is None:
                detail = f"days={days!r}: expected a number more than 0, up to {_MAX_DAYS:g}"
                return problem_response(422, "Invalid request", detail)
            if agent is not None and agent not in AGENTS:
                return problem_response(
                    422, "Invalid request", f"there is no agent {agent!r}; agents: {', '.join(AGENTS)}"
                )
            return _json({"evaluations": evaluations(engine, since=clock.now() - span, agent=agent)})

        return await _guarded(answer)

    return router


def _asked(settings: Settings, engine: Engine, clock: Clock, user: str, body: bytes, key: str | None) -> Response:
    try:
        asked = RetrainingRequest.model_validate_json(body)
    except ValidationError as error:
        errors = [
            {"field": ".".join(map(str, one["loc"])) or "body", "message": one["msg"]}
            for one in error.errors(include_url=False)
        ]
        detail = "; ".join(f"{one['field']}: {one['message']}" for one in errors)
        return problem_response(422, "Invalid request", detail, errors=errors)
    done = request_retraining(
        settings,
        engine,
        clock,
        agent=asked.agent,
        reason=asked.reason,
        user=user,
        override=asked.override,
        key=key or uuid.uuid4().hex,
    )
    return _json(
        {
            "agent": done.agent,
            "decision": done.decision.verdict,
            "reason": done.decision.reason,
            "suppressed_by": list(done.decision.suppressed_by),
            "run_key": None if done.request is None else done.request.run_key,
        },
        201 if done.request is not None else 202,
    )


async def _guarded(answer: Callable[[], Response]) -> Response:
    """Let the database be asked off the event loop, and turn typed refusals into answers."""
    try:
        return await anyio.to_thread.run_sync(answer)
    except AccessDeniedError as error:
        return problem_response(403, "Access denied", str(error))
    except (InputError, SettingsError) as error:
        return problem_response(422, "Invalid request", str(error))
    except TransientError:
        return problem_response(
            503, "Not available now", "a store does not answer; try again", headers={"Retry-After": "1"}
        )


async def _body(request: Request) -> bytes | None:
    """Read the body; None when it is too long, without keeping the rest."""
    read = b""
    async for chunk in request.stream():
        read += chunk
        if len(read) > _MAX_BODY_BYTES:
            return None
    return read


def _caller(request: Request, engine: Engine) -> str | None:
    """Return who the bearer token names; None when it names nobody."""
    # Whether a token has expired is a matter of the machine's time, whatever time the lifecycle is in.
    token = bearer_token(engine, request.headers.get("authorization"), SystemClock().now())
    return None if token is None else token.name


def _unauthorized() -> Response:
    return problem_response(
        401,
        "Unauthorized",
        "retraining needs a valid bearer token: python -m mlops_assets.serving.tokens create <person's address>",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _days(text: str) -> timedelta | None:
    try:
        days = float(text)
    except ValueError:
        return None
    return timedelta(days=days) if 0.0 < days <= _MAX_DAYS else None


def _json(content: Any, status: int = 200) -> Response:
    return Response(json.dumps(content), status_code=status, media_type="application/json")
