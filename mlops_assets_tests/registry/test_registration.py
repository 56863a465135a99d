"""Registration: exactly once, a version of its own, whatever runs beside it and wherever it dies."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import Engine, select

from mlops_assets.foundation.audit import verify_chain
from mlops_assets.foundation.clock import FixedClock
from mlops_assets.foundation.database import create_operational_engine, read_transaction
from mlops_assets.foundation.errors import InputError, NotReadyError
from mlops_assets.foundation.tables import AuditEvent, ModelVersionRecord
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.registry.registration import RegisteredVersion
from mlops_assets_tests.mlflow_runs import GOOD_RUNS, NOW, SPEC, MlflowRuns, dying_at_commit, stage_tags

NAME = SPEC.registered_model


def test_a_run_becomes_version_one(registry: ModelRegistry, engine: Engine, mlflow_runs: MlflowRuns) -> None:
    """What a version is, and from which data and run it came, has to stand on the version itself."""
    version = registry.register(mlflow_runs.candidate(0), SPEC)
    assert (version.model_name, version.semver, version.stage, version.created) == (NAME, "1.0.0", "None", True)
    assert version.registered_at == NOW
    (stored,) = MlflowStore(mlflow_runs.tracking_uri).versions(NAME)
    expected = {
        "semantic_version": "1.0.0",
        "stage": "None",
        "framework": "pytorch",
        "agent_type": "requirements",
        "validation_status": "pending",
        "approval_status": "pending",
        "data_version": "data-0",
        "training_hash": "training-0",
        "training_date": NOW.isoformat(),
        "metric.accuracy": "0.9",
        "git_sha": "abc",
    }
    assert dict(stored.tags) == expected
    assert stored.run_id == mlflow_runs.good[0]
    with read_transaction(engine) as session:
        (registered,) = session.scalars(select(AuditEvent))
        assert (registered.event_type, registered.version, registered.user) == ("model_registered", "1.0.0", "tests")
        assert verify_chain(session).intact


def test_a_second_call_registers_nothing(registry: ModelRegistry, engine: Engine, mlflow_runs: MlflowRuns) -> None:
    """Every retry of a step used to register one more version."""
    first = registry.register(mlflow_runs.candidate(0), SPEC)
    again = registry.register(mlflow_runs.candidate(0, training_hash="other"), SPEC)
    same_training = registry.register(mlflow_runs.candidate(1, training_hash="training-0"), SPEC)
    assert [version.created for version in (first, again, same_training)] == [True, False, False]
    assert {version.semver for version in (first, again, same_training)} == {"1.0.0"}
    assert len(MlflowStore(mlflow_runs.tracking_uri).versions(NAME)) == 1
    with read_transaction(engine) as session:
        assert verify_chain(session).entries == 1


def test_bumps_follow_the_highest_version(registry: ModelRegistry, mlflow_runs: MlflowRuns) -> None:
    """Two candidates bumped from the same production version would share one semantic version."""
    semvers = [
        registry.register(mlflow_runs.candidate(i), SPEC, bump=bump).semver  # type: ignore[arg-type]
        for i, bump in enumerate(["major", "minor", "patch", "major"])
    ]
    assert semvers == ["1.0.0", "1.1.0", "1.1.1", "2.0.0"]
    assert [version.semver for version in registry.versions(NAME)] == ["2.0.0", "1.1.1", "1.1.0", "1.0.0"]


def test_bad_models_leave_both_stores_as_they_were(
    registry: ModelRegistry, engine: Engine, mlflow_runs: MlflowRuns
) -> None:
    """A version without a usable model behind it is worse than none."""
    with pytest.raises(InputError):
        registry.register(mlflow_runs.candidate(run_id=mlflow_runs.diverged), SPEC)
    with pytest.raises(NotReadyError):
        registry.register(mlflow_runs.candidate(run_id=mlflow_runs.failed), SPEC)
    registry.register(mlflow_runs.candidate(0), SPEC)
    with pytest.raises(InputError, match="major, minor or patch"):
        registry.register(mlflow_runs.candidate(1), SPEC, bump="huge")  # type: ignore[arg-type]
    assert len(MlflowStore(mlflow_runs.tracking_uri).versions(NAME)) == 1
    with read_transaction(engine) as session:
        assert verify_chain(session).entries == 1


@pytest.mark.parametrize("same_run", [True, False])
def test_a_death_before_the_commit_heals(
    registry: ModelRegistry, engine: Engine, mlflow_runs: MlflowRuns, *, same_run: bool
) -> None:
    """A process killed between MLflow and the database left a version that nobody knew, and the rerun a second one."""
    with dying_at_commit(engine), pytest.raises(KeyboardInterrupt):
        registry.register(mlflow_runs.candidate(0), SPEC)
    assert registry.versions(NAME) == []
    assert stage_tags(mlflow_runs, NAME) == {"1.0.0": "None"}
    rerun = mlflow_runs.candidate(0) if same_run else mlflow_runs.candidate(1, training_hash="training-0")
    version = registry.register(rerun, SPEC)
    assert (version.semver, version.run_id) == ("1.0.0", mlflow_runs.good[0])
    assert stage_tags(mlflow_runs, NAME) == {"1.0.0": "None"}
    with read_transaction(engine) as session:
        assert session.scalars(select(AuditEvent)).one().details["adopted"] is True


@pytest.mark.parametrize("author", ["ana@company.com", None])
def test_who_adopts_a_version_is_not_its_author(
    registry: ModelRegistry, engine: Engine, mlflow_runs: MlflowRuns, *, author: str | None
) -> None:
    """Whoever reruns a registration that died becomes the author, and who made the model may approve it."""
    with dying_at_commit(engine), pytest.raises(KeyboardInterrupt):
        registry.register(replace(mlflow_runs.candidate(0), author=author), SPEC)
    registry.register(replace(mlflow_runs.candidate(0, user="bob@company.com"), author="bob@company.com"), SPEC)
    with read_transaction(engine) as session:
        event = session.scalars(select(AuditEvent)).one()
    assert (event.user, event.details["author"], event.details["adopted"]) == ("bob@company.com", author, True)


def test_the_version_of_a_dead_registration_is_not_given_away(
    registry: ModelRegistry, engine: Engine, mlflow_runs: MlflowRuns
) -> None:
    """Another run that registers before the dead one heals would take its semantic version."""
    with dying_at_commit(engine), pytest.raises(KeyboardInterrupt):
        registry.register(mlflow_runs.candidate(0), SPEC)
    assert registry.register(mlflow_runs.candidate(1), SPEC).semver == "1.1.0"
    assert registry.register(mlflow_runs.candidate(0), SPEC).semver == "1.0.0"


def test_concurrent_registrations(engine: Engine, mlflow_runs: MlflowRuns, clock: FixedClock) -> None:
    """Two lifecycles at once must give each run one version, and every version to one run."""
    url = engine.url.render_as_string(hide_password=False)
    calls = [index for index in range(GOOD_RUNS) for _ in range(3)]

    def register(index: int) -> RegisteredVersion:
        own = create_operational_engine(url)
        try:
            return ModelRegistry(mlflow_runs.tracking_uri, own, clock).register(mlflow_runs.candidate(index), SPEC)
        finally:
            own.dispose()

    with ThreadPoolExecutor(max_workers=len(calls)) as threads:
        versions = list(threads.map(register, calls))
    by_run = {version.run_id: version.semver for version in versions}
    assert len(by_run) == GOOD_RUNS
    assert sorted(by_run.values()) == ["1.0.0", "1.1.0", "1.2.0", "1.3.0"]
    assert sum(version.created for version in versions) == GOOD_RUNS
    assert set(stage_tags(mlflow_runs, NAME)) == set(by_run.values())
    with read_transaction(engine) as session:
        assert len(session.scalars(select(ModelVersionRecord)).all()) == GOOD_RUNS
        assert verify_chain(session).entries == GOOD_RUNS
