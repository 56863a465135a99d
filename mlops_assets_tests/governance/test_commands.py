"""The commands that CI and operators call, on real stores."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from mlops_assets.evaluation.report import REPORT_JSON
from mlops_assets.foundation.clock import FixedClock
from mlops_assets.foundation.database import create_operational_engine, read_transaction, upgrade
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.records import write_record
from mlops_assets.foundation.tables import AuditEvent
from mlops_assets.governance.commands import DONE, MISSED, REFUSED, main
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets_tests.governance.conftest import ML, QA, Office
from mlops_assets_tests.mlflow_runs import NOW, SPEC, MlflowRuns
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
def two_versions(small_office: Office) -> ModelRegistry:
    """A champion 1.0.0 and an approved challenger 1.1.0."""
    for index in range(2):
        small_office.decide(index, "approved")
    return small_office.registry


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


@pytest.fixture
def waiting(small_office: Office, environ: dict[str, str]) -> dict[str, str]:
    """A champion 1.0.0, and a version 1.1.0 that waits for two people."""
    small_office.decide(0, "approved")
    small_office.clock.instant = datetime.now(UTC)
    small_office.decide(1)
    return {**environ, "MLOPS_HOME": str(small_office.settings.home)}


def vote(environ: dict[str, str], decision: str, user: str, version: str = "1.1.0") -> int:
    what = ["--model-name", NAME, "--version", version, "--user", user, "--comment", "read it"]
    return main([decision, *what], environ)


def test_approve_on_the_command_line(
    waiting: dict[str, str], small_office: Office, capsys: pytest.CaptureFixture[str]
) -> None:
    """The way from a waiting version to its users, as an operator types it."""
    assert main(["requests"], waiting) == DONE
    listed = capsys.readouterr().out
    assert f"{NAME} 1.1.0: open, 2 more of {ML}, {QA} until" in listed
    assert "because requires_review" in listed
    who = ["--model-name", NAME, "--user", "ana", "--reason", "tested"]
    assert main(["promote", *who, "--version", "1.1.0"], waiting) == REFUSED
    assert vote(waiting, "approve", "eve@company.com") == REFUSED
    assert "'eve@company.com' is no required approver" in capsys.readouterr().err
    assert vote(waiting, "approve", ML) == DONE
    assert f"open, 1 more of {QA} until" in capsys.readouterr().out
    assert vote(waiting, "approve", QA) == DONE
    assert f"1.1.0: approved; {ML}: approve, read it; {QA}: approve, read it" in capsys.readouterr().out
    assert main(["requests"], waiting) == DONE
    assert capsys.readouterr().out == "nothing waits for approval\n"
    assert main(["promote", *who], waiting) == DONE
    assert small_office.registry.version(NAME, "1.1.0").stage == "Production"


def test_reject_on_the_command_line(waiting: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """A rejected version is listed with who rejected it and why."""
    assert vote(waiting, "reject", QA) == DONE
    assert main(["requests", "--all"], waiting) == DONE
    assert f"1.1.0: rejected; {QA}: reject, read it" in capsys.readouterr().out


def test_evidence_that_changed_after_approval_is_not_promoted(
    waiting: dict[str, str], small_office: Office, capsys: pytest.CaptureFixture[str]
) -> None:
    """The approval of one model would carry another one to all users."""
    assert vote(waiting, "approve", ML) == vote(waiting, "approve", QA) == DONE
    small_office.write_report(1, gap=4.5)
    assert main(["promote", "--model-name", NAME, "--user", "ana", "--reason", "r"], waiting) == REFUSED
    assert "the evidence changed after the approval" in capsys.readouterr().err
    assert small_office.registry.version(NAME, "1.1.0").stage == "Staging"


def test_roles_on_the_command_line(
    two_versions: ModelRegistry, environ: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever can stage can deploy, and whoever calls themselves a service can do everything."""
    roles = tmp_path / "roles.yaml"
    roles.write_text("eve@c.com: [ml_engineer]\nops@c.com: [mlops]\nnight@c.com: [sre]\n", encoding="utf-8")
    environ = {**environ, "MLOPS_ROLES_FILE": str(roles)}

    def run(command: str, user: str) -> int:
        return main([command, "--model-name", NAME, "--user", user, "--reason", "r"], environ)

    assert [run("promote", user) for user in ("eve@c.com", "night@c.com", "rollout", "x")] == [REFUSED] * 4
    assert "may not deploy to production; that takes the role mlops, held by ops@c.com" in capsys.readouterr().err
    assert run("promote", "ops@c.com") == DONE
    assert [run("rollback", user) for user in ("eve@c.com", "ops@c.com")] == [REFUSED] * 2
    assert run("rollback", "night@c.com") == DONE
    champion = two_versions.champion(NAME)
    assert champion is not None
    assert champion.semver == "1.0.0"
    engine = create_operational_engine(environ["MLOPS_DATABASE_URL"])
    with read_transaction(engine) as session:
        denied = session.scalars(select(AuditEvent).where(AuditEvent.event_type == "access_denied")).all()
    engine.dispose()
    assert [event.user for event in denied] == ["eve@c.com", "night@c.com", "x", "eve@c.com", "ops@c.com"]
    assert denied[0].details["permission"] == "deploy_production"
