"""The HTTP API of decisions: routes, documents, errors. What they answer is made by the other modules of the room.

Requests are parsed and validated in one pass by pydantic from the raw bytes; nothing else of FastAPI runs on the path of
a decision. Whatever asks the database runs in a worker thread, within a bound.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import anyio
import anyio.to_thread
from fastapi import FastAPI, Query, Request
from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mlops_assets.experiments.experiments import all_experiments, experiment_named
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.errors import InputError
from mlops_assets.registry.catalogue import CHAMPION
from mlops_assets.serving.api_documents import describe_api
from mlops_assets.serving.approvals import ApprovalDesk, ForgedTokens, voter
from mlops_assets.serving.boundary import (
    RETRY_SECONDS,
    Boundary,
    Counted,
    ProblemError,
    add_refusals,
    with_database,
)
from mlops_assets.serving.decide import Decision
from mlops_assets.serving.explain import explain_prediction
from mlops_assets.serving.guard import Guard
from mlops_assets.serving.model_documents import model_card_text, registered_run, served_models
from mlops_assets.serving.outcomes import record_outcomes
from mlops_assets.serving.parsing import parse_batch, parse_outcomes, parse_request
from mlops_assets.serving.runtime import ServingRuntime
from mlops_assets.serving.status import experiment_status, monitoring_status

_MAX_HOURS = 24 * 366
Handler = Callable[[bytes], Awaitable[Response]]


def create_app(runtime: ServingRuntime, *, manage: bool = True) -> ASGIApp:
    """Return the whole API around a runtime.

    With `manage` the app starts and stops the runtime with its own life; else somebody else does.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if manage:
            await anyio.to_thread.run_sync(runtime.start)
        yield
        if manage:
            await anyio.to_thread.run_sync(runtime.stop)

    app = FastAPI(
        title="Decisions of the web-testing agents", version="1", lifespan=lifespan, docs_url=None, redoc_url=None
    )
    handlers = _decision_routes(runtime)
    for path, handler in handlers.items():
        # Answered on the short way; here for the document, and for whoever comes with another method.
        app.add_api_route(
            path,
            _documented(handler),
            methods=["POST"],
            name=handler.__name__,
            include_in_schema=path != "/predict_batch",
        )
    _add_knowledge(app, runtime)
    _add_approvals(app, runtime)
    _add_health(app, runtime)
    add_refusals(app)
    # Inside of the framework's own last resort, which would answer first, and then raise what it answered.
    app.add_middleware(Boundary)
    describe_api(app, authenticated=runtime.settings.authenticated)
    guarded = Guard(
        Boundary(_ShortWay(app, handlers)),
        authenticated=runtime.settings.authenticated,
        tokens=lambda: runtime.tokens,
        policy=runtime.policy,
        now=SystemClock().now,
    )
    return Counted(ForgedTokens(guarded, runtime.forged_votes), runtime.metrics)


def _decision_routes(runtime: ServingRuntime) -> dict[str, Handler]:
    """What POST does, by path."""

    async def predict(body: bytes) -> Response:
        """Decide one request."""
        started = time.perf_counter()
        asked = parse_request(body, runtime.experiments)
        (decision,) = await runtime.decide([asked], started)
        return _json(_answer(decision))

    async def predict_batch(body: bytes) -> Response:
        """Decide up to a thousand requests, of any agents, in order."""
        started = time.perf_counter()
        asked = parse_batch(body, runtime.experiments, runtime.policy.max_batch_rows)
        decisions = await runtime.decide(asked, started)
        return _json({"predictions": [_answer(decision) for decision in decisions], "count": len(decisions)})

    async def outcomes(body: bytes) -> Response:
        """Tell what came of decisions; the same outcome twice counts once, a late one counts."""
        told = parse_outcomes(body, runtime.policy.max_batch_rows)
        recorded = await with_database(
            lambda: record_outcomes(runtime.engine, told, unshipped=runtime.log.find, now=runtime.clock.now())
        )
        return _json(asdict(recorded))

    return {
        "/predict": predict,
        "/predict/batch": predict_batch,
        "/predict_batch": predict_batch,
        "/outcomes": outcomes,
    }


class _ShortWay:
    """Takes decisions past the framework, whose layers take as long as a decision does; the rest goes to the app."""

    def __init__(self, app: ASGIApp, handlers: Mapping[str, Handler]) -> None:
        self._app = app
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._handlers.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if handler is None:
            await self._app(scope, receive, send)
            return
        response = await handler(await Request(scope, receive).body())
        await response(scope, receive, send)


def _add_knowledge(app: FastAPI, runtime: ServingRuntime) -> None:
    @app.get("/predictions/{prediction_id}", name="explain")
    async def explain(prediction_id: str) -> Response:
        """Return a decision with its feature values, model version, training snapshot, outcome, and shadows."""
        found = await with_database(
            lambda: explain_prediction(runtime.readers, _stored_text(prediction_id), runtime.log.find(prediction_id))
        )
        if found is None:
            raise ProblemError(404, "Unknown prediction", f"there is no prediction {prediction_id!r} in the log")
        return _json(found)

    @app.get("/models", name="models")
    async def models() -> Response:
        """List the versions in service, by agent and alias, and those that could not be taken into it."""
        return _json({"models": served_models(runtime.registry.models), "refused": sorted(runtime.registry.refused)})

    @app.get("/models/{model_name}/{version}/card", name="model_card")
    async def card(model_name: str, version: str) -> Response:
        """Return the model card of a registered version, as YAML."""
        text = await with_database(lambda: _card(runtime, _stored_text(model_name), _stored_text(version)))
        return Response(text, media_type="application/yaml")

    @app.get("/monitoring/status", name="monitoring_status")
    async def status(hours: Annotated[float, Query(gt=0, le=_MAX_HOURS, allow_inf_nan=False)] = 24.0) -> Response:
        """Summarise the decisions of the last hours by agent, version and variant."""
        end = runtime.clock.now() + timedelta(microseconds=1)
        start = end - timedelta(hours=hours)
        groups = await with_database(lambda: monitoring_status(runtime.readers, start, end))
        return _json({"start": start, "end": end, "groups": groups, "serving": _process(runtime)})

    @app.get("/experiments/{name}/status", name="experiment_status")
    async def experiment(name: str) -> Response:
        """Return an experiment's split and what its arms have brought."""
        return _json(await with_database(lambda: _experiment(runtime, _stored_text(name))))

    @app.get("/experiments", name="experiments")
    async def experiments() -> Response:
        """List every experiment, the newest first."""
        found = await with_database(lambda: all_experiments(runtime.readers))
        return _json({"experiments": [one.public() for one in found]})


def _add_approvals(app: FastAPI, runtime: ServingRuntime) -> None:
    desk = ApprovalDesk(runtime.settings, runtime.engine, runtime.readers)
    # One at a time: each takes an interpreter of its own, beside the decisions.
    voting = anyio.CapacityLimiter(1)

    @app.get("/approvals", name="approvals")
    async def approvals(status: Literal["open", "all"] = "open") -> Response:
        """List what waits for approval; with `all`, also what was decided, expired or superseded."""
        return _json({"requests": await with_database(lambda: desk.listed(every=status == "all"))})

    @app.get("/approvals/{model_name}/{version}", name="approval")
    async def approval(model_name: str, version: str) -> Response:
        """Return the newest approval request of a version."""
        return _json(await with_database(lambda: desk.newest(_stored_text(model_name), _stored_text(version))))

    @app.post("/approvals/{model_name}/{version}", name="vote")
    async def vote(model_name: str, version: str, request: Request) -> Response:
        """Approve or reject a version, as the approver whom the bearer token names."""
        approver = voter(request.scope)
        body = await request.body()
        counted = await anyio.to_thread.run_sync(lambda: desk.vote(model_name, version, approver, body), limiter=voting)
        return _json(counted)


def _add_health(app: FastAPI, runtime: ServingRuntime) -> None:
    settled = False

    @app.get("/livez", name="livez")
    async def livez() -> Response:
        """Tell that the process answers."""
        return _json({"status": "alive"})

    @app.get("/readyz", name="readyz")
    async def readyz() -> Response:
        """Tell whether decisions can be asked for: 503 without a champion in service."""
        nonlocal settled
        if not runtime.ready:
            raise ProblemError(503, "Not ready", _not_ready(runtime), retry_seconds=RETRY_SECONDS)
        if not settled:
            settled = True
            runtime.settle()
        return _json({"status": "ready"})

    @app.get("/health", name="health")
    async def health() -> Response:
        """Tell how the server is, and of what it is short: 503 without a champion in service."""
        facts = _health(runtime)
        return _json(facts, 503 if facts["status"] == "unavailable" else 200)

    @app.get("/metrics", name="metrics")
    async def metrics() -> Response:
        """Return the metrics in Prometheus' text format."""
        text = runtime.metrics.exposition(all_workers=runtime.settings.serving_workers > 1)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _documented(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def route(request: Request) -> Response:
        return await handler(await request.body())

    route.__doc__ = handler.__doc__
    return route


def _answer(decision: Decision) -> dict[str, Any]:
    row = decision.row
    names = decision.model.spec.actions
    return {
        "prediction_id": row["prediction_id"],
        "agent": row["agent"],
        "action": row["action"],
        "action_name": decision.action_name,
        "q_values": dict(zip(names, row["q_values"], strict=True)),
        "confidence": row["confidence"],
        "model": {"name": row["model_name"], "version": row["model_version"], "alias": row["model_alias"]},
        "experiment": row["experiment"],
        "variant": row["variant"],
        "propensity": row["propensity"],
        "explored": row["explored"],
        "cached": row["cached"],
        "status": row["status"],
        "fallback": row["fallback"],
        "missing_features": row["missing_features"],
        "latency_ms": row["latency_ms"],
        "timestamp": row["event_time"],
    }


def _stored_text(text: str) -> str:
    """Refuse what no stored name holds, before PostgreSQL refuses the character."""
    if not text.isprintable():
        raise ProblemError(404, "Unknown name", f"there is nothing called {text!r}")
    return text


def _card(runtime: ServingRuntime, model_name: str, version: str) -> str:
    try:
        agent, run_id, semver = registered_run(runtime.readers, model_name, version)
    except InputError as error:
        raise ProblemError(404, "Unknown name", str(error)) from None
    text = model_card_text(runtime.settings, agent, run_id, semver)
    if text is None:
        raise ProblemError(404, "No model card", f"{model_name} {semver} has no card; materialise model_card for it")
    return text


def _experiment(runtime: ServingRuntime, name: str) -> dict[str, Any]:
    try:
        found = experiment_named(runtime.readers, name)
    except InputError as error:
        raise ProblemError(404, "Unknown experiment", str(error)) from None
    return experiment_status(runtime.readers, found)


def _process(runtime: ServingRuntime) -> dict[str, Any]:
    cache = runtime.decider.cache
    return {
        "uptime_seconds": runtime.uptime_seconds,
        "answers": runtime.answers,
        "failures": runtime.failures,
        "cache": {"entries": len(cache), "hits": cache.hits, "misses": cache.misses},
        "log": {"unshipped": runtime.log.unshipped, "in_memory": runtime.log.in_memory},
        "exploration_epsilon": runtime.decider.epsilon,
    }


def _health(runtime: ServingRuntime) -> dict[str, Any]:
    models = runtime.registry.models
    champions = {name: models.get(name, CHAMPION) for name in AGENTS}
    problems = {
        "model_registry": runtime.registry.problem,
        "operational_database": runtime.database_poll.problem,
        "online_features": runtime.features.problem,
        "prediction_log": runtime.log.problem,
        **runtime.registry.refused,
    }
    short_of = {name: text for name, text in problems.items() if text is not None}
    served = any(model is not None for model in champions.values())
    return {
        "status": "unavailable" if not served else "degraded" if short_of else "healthy",
        "model_loaded": served,
        "current_model_versions": {name: model.semver if model else None for name, model in champions.items()},
        "models_loaded": [f"{model.spec.registered_model} {model.semver}" for model in models.all()],
        "uptime_seconds": runtime.uptime_seconds,
        "request_count": runtime.answers,
        "error_count": runtime.failures,
        # Names only: what exactly a store said is for the server's log.
        "short_of": sorted(short_of),
        "timestamp": datetime.now(UTC),
    }


def _not_ready(runtime: ServingRuntime) -> str:
    if runtime.registry.problem is not None:
        return "the model registry does not answer"
    if not runtime.registry.models.by_alias:
        return "no agent has a champion in service; run the job model_lifecycle"
    return "the online store is being read for the first time"


def _json(content: Any, status: int = 200) -> Response:
    return Response(to_json(content), status, media_type="application/json")
