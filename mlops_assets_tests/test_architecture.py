"""The import contracts hold, and each of them catches the import that it forbids."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the package in `folder`."""
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def copy_of_package(tmp_path: Path) -> Path:
    """A copy of the package and its contracts that a test may break."""
    shutil.copytree(ROOT / "mlops_assets", tmp_path / "mlops_assets", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_contracts_hold() -> None:
    """A room that imports upwards, or a second place that knows Dagster, gets in unseen."""
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("experiences/schema.py", "import mlops_assets.registry.semver", "Knowledge points one way"),
        ("foundation/clock.py", "import mlops_assets.experiences.schema", "Knowledge points one way"),
        ("training/learner.py", "import dagster", "Dagster only in its files"),
        ("foundation/audit.py", "from dagster import asset", "Dagster only in its files"),
        ("features/vector.py", "import feast", "One vendor, one file"),
        ("evaluation/metrics.py", "import mlflow", "One vendor, one file"),
        ("features/vector.py", "import great_expectations", "One vendor, one file"),
        ("serving/app.py", "import bentoml", "One vendor, one file"),
        ("serving/batch.py", "import ray", "One vendor, one file"),
        ("monitoring/heatmap.py", "import evidently", "One vendor, one file"),
        ("experiments/assignment.py", "import mlops_assets.serving.decide", "Knowledge points one way"),
        ("retraining/routes.py", "import mlops_assets.operations", "Knowledge points one way"),
    ],
)
def test_each_contract_catches_what_it_forbids(copy_of_package: Path, module: str, line: str, contract: str) -> None:
    """A contract with a wrong pattern is green for ever and forbids nothing."""
    file = copy_of_package / "mlops_assets" / module
    file.write_text(f"{file.read_text()}\n{line}\n")
    result = lint_imports(copy_of_package)
    broken = [row for row in result.stdout.splitlines() if " BROKEN" in row]
    assert result.returncode != 0
    assert len(broken) == 1
    assert broken[0].startswith(contract)
