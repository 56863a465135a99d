"""The API against its own description: requests made from it, good and bad, never meet a server error."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mlops_assets_tests.lifecycle.worlds import BIN
from mlops_assets_tests.serving.live import LiveServer

pytestmark = pytest.mark.slow


def test_schemathesis_finds_no_server_error(
    served_home: Path, new_server: Callable[..., LiveServer], tmp_path: Path
) -> None:
    """Some input that the description allows, or does not, is answered with a server error or with something else."""
    server = new_server(served_home)
    checks = (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
    )
    result = subprocess.run(
        [
            BIN / "schemathesis",
            "run",
            f"{server.url}/openapi.json",
            "--checks",
            ",".join(checks),
            "--max-examples",
            "30",
            "--seed",
            "1",
            "--no-color",
        ],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "SCHEMATHESIS_HOOKS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert "Traceback" not in server.log
    assert " error " not in server.log
