"""`python -m mlops_assets.serving`: the decision server, as the settings say; becomes BentoML's own command."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from mlops_assets.foundation.errors import MlopsError
from mlops_assets.foundation.settings import Settings, load_settings

REFUSED = 2
_SERVICE = "mlops_assets.serving.service:service"
# Longer than proxies and clients keep a connection: closed by the server while a request is on its way, it is an error
# that nobody can tell from a request that was answered.
_KEEP_ALIVE_SECONDS = 75
_QUIET: Mapping[str, str] = {
    "BENTOML_DO_NOT_TRACK": "True",
    "DO_NOT_TRACK": "1",
}


def server_command(settings: Settings) -> list[str]:
    """Return the command line of the server."""
    return [
        str(Path(sys.executable).with_name("bentoml")),
        "serve",
        _SERVICE,
        "--host",
        settings.serving_host,
        "--port",
        str(settings.serving_port),
        "--timeout-keep-alive",
        str(_KEEP_ALIVE_SECONDS),
    ]


def server_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the server: telemetry off, and as many workers as the settings say."""
    quiet = {name: environ.get(name, value) for name, value in _QUIET.items()}
    return {**environ, **quiet, "BENTOML_CONFIG_OPTIONS": f"services.decisions.workers={settings.serving_workers}"}


def main() -> NoReturn:
    """Become the server; exit code 2 and one line when the settings do not allow it."""
    try:
        settings = load_settings()
    except MlopsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(REFUSED)
    command = server_command(settings)
    os.execve(command[0], command, server_environment(settings, os.environ))  # noqa: S606 - its own process, no shell


if __name__ == "__main__":
    main()
