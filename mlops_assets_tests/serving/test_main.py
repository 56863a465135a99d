"""How the server is started: BentoML's command, with telemetry off, where the settings say."""

import subprocess
import sys
from pathlib import Path

from mlops_assets.foundation.settings import Settings
from mlops_assets.serving.__main__ import server_command, server_environment

ROOT = Path(__file__).resolve().parents[2]


def test_the_command_says_where_and_how_many() -> None:
    """The server listens on every interface (C-3), or with one worker whatever is set."""
    settings = Settings(serving_port=8123, serving_workers=3)
    command = server_command(settings)
    assert Path(command[0]).name == "bentoml"
    assert command[1:] == [
        "serve",
        "mlops_assets.serving.service:service",
        "--host",
        "127.0.0.1",
        "--port",
        "8123",
        "--timeout-keep-alive",
        "75",
    ]
    environment = server_environment(settings, {"PATH": "/bin", "DO_NOT_TRACK": "yes"})
    assert environment["BENTOML_CONFIG_OPTIONS"] == "services.decisions.workers=3"
    assert environment["BENTOML_DO_NOT_TRACK"] == "True"
    assert (environment["PATH"], environment["DO_NOT_TRACK"]) == ("/bin", "yes")


def test_bad_settings_end_it_with_one_line() -> None:
    """A typing error in a variable starts a server with defaults, or shows a traceback."""
    result = subprocess.run(
        [sys.executable, "-m", "mlops_assets.serving"],
        cwd=ROOT,
        env={"MLOPS_SERVING_PORTS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 2
    assert result.stderr == "unknown environment variable MLOPS_SERVING_PORTS; did you mean MLOPS_SERVING_PORT?\n"
