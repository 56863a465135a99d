"""The operations server: what monitoring and retraining know, over HTTP. `python -m mlops_assets.operations`.

Every answer is read from the operational database when it is asked for: the process keeps nothing, and may be ended at any
time. Decisions are answered elsewhere, by `mlops_assets/serving`. Exit code 2 when the settings or the database do not
allow a start; the reason goes to standard error.
"""

import sys
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Annotated, Any, Final

import uvicorn
from fastapi import FastAPI, Query, Request
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from pydantic_core import to_json
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from starlette.responses import Response

from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.foundation.clock import Clock, SystemClock, deployment_clock
from mlops_assets.foundation.database import create_operational_engine, read_transaction, upgrade
from mlops_assets.foundation.errors import MlopsError, StorageError
from mlops_assets.foundation.policies import MonitoringPolicy
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import Settings, load_settings
from mlops_assets.monitoring.metrics import monitoring_families
from mlops_assets.monitoring.summary import monitoring_summary
from mlops_assets.monitoring.window import newest_moment
from mlops_assets.retraining.metrics import retraining_families
from mlops_assets.retraining.routes import create_router
from mlops_assets.serving.boundary import Boundary, add_refusals, with_database
from mlops_assets.serving.problems import problem_response
from mlops_assets.serving.tokens import bearer_token

DONE, REFUSED = 0, 2
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_MAX_HOURS: Final = 24 * 366
# Longer than Prometheus waits between two scrapes: a connection that is closed while a scrape is on its way fails it.
_KEEP_ALIVE_SECONDS: Final = 75
_GRACE_SECONDS: Final = 10


def create_operations_app(settings: Settings, engine: Engine, clock: Clock) -> FastAPI:
    """Return the whole API; it opens nothing before it is asked.

    Args:
        settings: who has to bring a token, the policy profile, and whose time decisions are in.
        engine: operational database.
        clock: the deployment's, from which ages are counted.
    """
    app = FastAPI(title="Operations of the web-testing agents", version="1", docs_url=None, redoc_url=None)
    policy = load_profile(settings.policy_profile).monitoring
    registry = CollectorRegistry()
    registry.register(_OperationalGauges(engine, clock))

    async def refusal(request: Request) -> Response | None:
        authorization = request.headers.get("authorization")
        if not settings.operations_authenticated or await with_database(lambda: _known(engine, authorization)):
            return None
        return problem_response(
            401,
            "Unauthorized",
            "operations need a valid bearer token: python -m mlops_assets.serving.tokens create <name>",
            headers={"WWW-Authenticate": "Bearer"},
        )

    @app.get("/healthz", name="healthz")
    async def healthz() -> Response:
        """Tell that the process answers; whether the database does, a scrape tells."""
        return _json({"status": "alive"})

    @app.get("/metrics", name="metrics")
    async def metrics(request: Request) -> Response:
        """Return the gauges in Prometheus' text format; 503 when the database cannot be read, never a part of them."""
        refused = await refusal(request)
        return refused or Response(await with_database(lambda: generate_latest(registry)), media_type=_TEXT)

    @app.get("/monitoring/status", name="monitoring_status")
    async def status(
        request: Request, hours: Annotated[float, Query(gt=0, le=_MAX_HOURS, allow_inf_nan=False)] = 24.0
    ) -> Response:
        """Summarise the last hours of each model, and of each of its versions that took a decision."""
        refused = await refusal(request)
        return refused or _json(
            await with_database(lambda: _status(settings, engine, clock, policy, timedelta(hours=hours)))
        )

    app.include_router(create_router(settings, engine, clock))
    add_refusals(app)
    # Inside of the framework's own last resort, which would answer first, and then raise what it answered.
    app.add_middleware(Boundary)
    return app


class _OperationalGauges(Collector):
    """The gauges of all rooms, as one read transaction sees them; a registry asks for them at each scrape."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def collect(self) -> Iterable[Metric]:
        """Read everything before the first is given out.

        Raises:
            StorageError: the database cannot be read, also where its tables are of another version.
        """
        now = self._clock.now()
        try:
            with read_transaction(self._engine) as session:
                return [*monitoring_families(session, now), *retraining_families(session, now)]
        except DBAPIError as error:
            raise StorageError(f"the operational database cannot be read as it is: {error.orig}") from error


def _known(engine: Engine, authorization: str | None) -> bool:
    # Whether a token has expired is a matter of the machine's time, whatever time the lifecycle is in.
    return bearer_token(engine, authorization, SystemClock().now()) is not None


def _status(
    settings: Settings, engine: Engine, clock: Clock, policy: MonitoringPolicy, span: timedelta
) -> dict[str, Any]:
    def of(spec: AgentSpec) -> dict[str, Any]:
        newest = newest_moment(engine, spec, clock, data_clock=settings.data_clock)
        end = newest + timedelta(microseconds=1)
        whole, *versions = monitoring_summary(engine, spec, end - span, end, policy)
        return {
            "model_name": spec.registered_model,
            **whole.to_json(),
            "versions": [version.to_json() for version in versions],
        }

    return {"hours": span / timedelta(hours=1), "models": [of(spec) for spec in AGENTS.values()]}


def _json(content: Any) -> Response:
    return Response(to_json(content), media_type="application/json")


def main(environ: Mapping[str, str] | None = None) -> int:
    """Serve until a signal ends it: what was begun is answered first. Returns 2 when it is not allowed to start."""
    try:
        settings = load_settings(environ)
        clock = deployment_clock(settings.clock)
        engine = create_operational_engine(settings.database)
        upgrade(engine)
    except MlopsError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    try:
        uvicorn.run(
            create_operations_app(settings, engine, clock),
            host=settings.operations_host,
            port=settings.operations_port,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    finally:
        engine.dispose()
    return DONE


if __name__ == "__main__":
    sys.exit(main())
