"""The commands that CI and operators call, on real stores."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from mlops_assets.evaluation.report import REPORT_JSON
from mlops_assets.foundation.clock import FixedClock
from mlops_assets.foundation.database import create_operational_engine, upgrade
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.records import write_record
from mlops_assets.governance.commands import DONE, MISSED, REFUSED, main
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets_tests.mlflow_runs import NOW, SPEC, MlflowRuns, approve
from mlops_assets_tests.registry.test_model_card import a_report

NAME = SPEC.registered_model


@pytest.fixture
def environ(tmp_path: Path, sqlite_engine: Engine, mlflow_runs: MlflowRuns) -> dict[str, str]:
    return {
        "MLOPS_HOME": str(tmp_path / "home"),
        "MLOPS_DATABASE_URL": sqlite_engine.url.render_as_string(hide_password=False),
        "MLFLOW_TRACKING_URI": mlflow_runs.tracking_uri,
    }


@pytest.fixture
def reported(environ: dict[str, str], sqlite_engine: Engine) -> dict[str, str]:
    """A validation report of the agent `requirements`: accuracy 0.93, latency 0.4 ms."""
    folder = ArtifactPaths(Path(environ["MLOPS_HOME"])).reports(SPEC.name) / "run"
    folder.mkdir(parents=True)
    (folder / REPORT_JSON).write_text(a_report().model_dump_json(), encoding="utf-8")
    write_record(
        sqlite_engine,
        asset="validation_report",
        partition=SPEC.name,
        run_id="dagster",
        payload={"run_id": "run"},
        now=NOW,
    )
    return environ


@pytest.fixture
def two_versions(environ: dict[str, str], sqlite_engine: Engine, mlflow_runs: MlflowRuns) -> ModelRegistry:
    """A champion 1.0.0 and an approved challenger 1.1.0."""
    registry = ModelRegistry(mlflow_runs.tracking_uri, sqlite_engine, FixedClock(NOW))
    for index in range(2):
        semver = registry.register(mlflow_runs.candidate(index), SPEC).semver
        approve(sqlite_engine, NAME, semver)
        registry.promote_approved(NAME, semver, user="tests")
    return registry


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ([], DONE),
        (["--min-accuracy", "0.93", "--max-latency", "0.4"], DONE),
        (["--min-accuracy", "0.94"], MISSED),
        (["--max-latency", "0.3"], MISSED),
    ],
)
def test_thresholds(
    reported: dict[str, str], capsys: pytest.CaptureFixture[str], options: list[str], code: int
) -> None:
    """A pipeline that goes on after a missed threshold has no gate."""
    assert main(["check-thresholds", "--model-name", NAME, *options], reported) == code
    told = capsys.readouterr().out
    assert "accuracy 0.93" in told
    assert ("fail" in told) == (code == MISSED)


def test_thresholds_without_a_report(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing evaluated is not everything passed."""
    assert main(["check-thresholds"], environ) == REFUSED
    assert "'validation_report' has not been materialised" in capsys.readouterr().err


def test_promote_and_roll_back(
    two_versions: ModelRegistry, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Both take the version that is meant when none is named, and say who did it."""
    who = ["--model-name", NAME, "--user", "ana", "--reason", "test passed"]
    assert main(["promote", *who], environ) == DONE
    assert capsys.readouterr().out == f"{NAME} 1.1.0 is in production\n"
    assert main(["rollback", *who], environ) == DONE
    champion = two_versions.champion(NAME)
    assert champion is not None
    assert champion.semver == "1.0.0"
    assert main(["promote", *who], environ) == REFUSED
    assert "has no challenger to promote" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model-name", "nope"], "unknown model 'nope'; registered models: requirements-agent-dqn"),
        (["--model-name", NAME, "--version", "3"], "write MAJOR.MINOR.PATCH"),
        (["--model-name", NAME, "--version", "v9.0.0"], "registered versions: 1.1.0, 1.0.0"),
    ],
)
def test_refusals_are_one_line(
    two_versions: ModelRegistry,
    environ: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    """A traceback tells the operator of a broken night nothing."""
    assert main(["promote", "--user", "ana", "--reason", "r", *options], environ) == REFUSED
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_an_unapproved_version_is_refused(
    environ: dict[str, str], sqlite_engine: Engine, mlflow_runs: MlflowRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    """Registering and promoting from CI went past every approval."""
    registry = ModelRegistry(mlflow_runs.tracking_uri, sqlite_engine, FixedClock(NOW))
    registry.register(mlflow_runs.candidate(0), SPEC)
    code = main(["promote", "--model-name", NAME, "--version", "1.0.0", "--user", "ci", "--reason", "r"], environ)
    assert code == REFUSED
    assert registry.champion(NAME) is None


def test_a_fresh_database_is_migrated_first(tmp_path: Path) -> None:
    """The first command on a new machine must not fail on a missing table."""
    database = f"sqlite:///{tmp_path / 'new.db'}"
    environ = {"MLOPS_HOME": str(tmp_path), "MLOPS_DATABASE_URL": database}
    assert main(["check-thresholds", "--model-name", NAME], environ) == REFUSED
    engine = create_operational_engine(database)
    upgrade(engine)
    engine.dispose()
