"""The BentoML service around the HTTP API: the only file that knows BentoML. Start it with `python -m mlops_assets.serving`.

BentoML supervises the worker processes and packs the image. Its layers around a request (tracing, access log, time-out)
and its adaptive batching are passed by: each costs as much as a decision, and requests are brought together where it
pays, at the feature store. So /readyz, /livez and /metrics are the project's own too, and mean what README says.
"""

import os
from typing import Any

import bentoml
from starlette.types import ASGIApp, Receive, Scope, Send


class _Api:
    """The project's app in front of BentoML's, in one worker process."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None
        self.bentoml: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer requests; BentoML has the server's life, and requests before its start."""
        answering = self.app if scope["type"] == "http" else None
        app = answering or self.bentoml
        if app is None:
            raise RuntimeError("a request came before BentoML made its app")
        await app(scope, receive, send)


class _DirectService(bentoml.Service):  # type: ignore[misc]
    """A service whose requests go to `api` and not through BentoML's layers."""

    api: _Api

    def to_asgi(self, is_main: bool = True) -> _Api:  # noqa: FBT001, FBT002 - BentoML's signature
        """Return what the worker process serves."""
        self.api.bentoml = super().to_asgi(is_main)
        return self.api


def build_service() -> Any:
    """Return a fresh service; nothing is read, opened or started before a worker process starts it."""
    api = _Api()

    @bentoml.service(name="decisions", service_class=_DirectService, metrics={"enabled": False})
    class Decisions:
        """Starts with its worker process and ends with it."""

        def __init__(self) -> None:
            # Here and not above: the supervisor imports this file as well, and needs nothing of this.
            from mlops_assets.foundation.settings import load_settings

            settings = load_settings()
            if settings.serving_workers == 1:
                # One process counts in memory; with the variable, every count goes through a file.
                os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
            from mlops_assets.serving.app import create_app
            from mlops_assets.serving.runtime import ServingRuntime

            self._runtime = ServingRuntime(settings)
            self._runtime.start()
            api.app = create_app(self._runtime, manage=False)

        @bentoml.on_shutdown  # type: ignore[untyped-decorator]
        def stop(self) -> None:
            """Write down what was answered."""
            api.app = None
            self._runtime.stop()

    service: Any = Decisions  # the decorator makes a service of the class, which mypy does not see
    service.api = api
    return service


service = build_service()
