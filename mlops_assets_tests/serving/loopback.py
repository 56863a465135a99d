"""A real HTTP server of the loopback interface around any ASGI app, in a thread."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from mlops_assets_tests.programs import free_port

_SECONDS = 30.0


@contextmanager
def served(app: ASGIApp) -> Iterator[int]:
    """Serve the app by uvicorn and give the port; the server has ended on return."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + _SECONDS
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield port
    finally:
        server.should_exit = True
        thread.join(timeout=_SECONDS)
