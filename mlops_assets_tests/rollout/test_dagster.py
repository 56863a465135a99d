"""The ways in by Dagster: the jobs and the sensor, on a real instance, and what the UI then shows of each stage."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from mlops_assets.definitions import build_definitions
from mlops_assets.foundation.clock import ScaledClock
from mlops_assets.foundation.errors import TransientError
from mlops_assets.foundation.resources import Platform
from mlops_assets.rollout.ledger import current, steps
from mlops_assets.rollout.sensors import rollout_sensor
from mlops_assets_tests.mlflow_runs import SPEC
from mlops_assets_tests.rollout.conftest import MODEL, Tower
from mlops_assets_tests.rollout.crowds import crowd

WHO = {"user": "mlops@company.com", "reason": "tests"}


def platform_of(tower: Tower) -> Platform:
    """The deployment as a run opens it, at the test's time."""
    clock = ScaledClock(tower.office.clock.instant, datetime.now(UTC), 1.0)
    return Platform(
        settings_override={
            "MLOPS_HOME": str(tower.office.settings.home),
            "MLOPS_DATABASE_URL": tower.engine.url.render_as_string(hide_password=False),
            "MLFLOW_TRACKING_URI": tower.office.runs.tracking_uri,
            "MLOPS_CLOCK": str(clock),
        }
    )


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def run(tower: Tower, instance: dg.DagsterInstance, job: str, op: str, **config: object) -> dg.ExecuteInProcessResult:
    definition = build_definitions(resources={"platform": platform_of(tower)}).get_job_def(job)
    return definition.execute_in_process(
        run_config={"ops": {op: {"config": config}}}, instance=instance, raise_on_error=False
    )


def shown(instance: dg.DagsterInstance, stage: str) -> tuple[list[str], list[str]]:
    """Steps that materialised the stage's asset, and that were observed on it, the newest first."""
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(f"rollout_{stage}"), asset_partitions=[SPEC.name])
    made = instance.fetch_materializations(wanted, limit=100).records
    seen = instance.fetch_observations(wanted, limit=100).records
    of = [[record.asset_materialization for record in made], [one.event_log_entry.asset_observation for one in seen]]
    found = [[str(event.metadata["step"].value) for event in events if event is not None] for events in of]
    return found[0], found[1]


def test_a_passed_stage_is_materialised_once_whoever_looks(small_tower: Tower, instance: dg.DagsterInstance) -> None:
    """The stage's evidence is in the ledger and nobody sees it, or every tick shows it again."""
    tower = small_tower
    assert run(tower, instance, "advance_rollout", "look_at_rollouts", model_name=MODEL).success
    assert shown(instance, "shadow") == ([], ["started"])
    state = current(tower.engine, MODEL)
    assert state is not None
    crowd(tower.engine, state, range(1200), tower.office.clock.instant)
    tower.office.clock.instant += timedelta(hours=3)
    with dg.build_sensor_context(instance=instance, resources={"platform": platform_of(tower)}) as context:
        ticked = rollout_sensor(context)
    assert isinstance(ticked, dg.SensorResult)
    (event,) = ticked.asset_events
    assert isinstance(event, dg.AssetMaterialization)
    assert (event.asset_key, event.partition) == (dg.AssetKey("rollout_shadow"), SPEC.name)
    assert event.metadata["candidate"].value == "1.1.0"
    assert "agrees in 100.0%" in str(event.metadata["evidence"].value)
    assert "| same action as the champion | 100.0% |" in str(event.metadata["evidence"].value)
    assert event.metadata["afterwards"].value == "running in 5_percent, 5% of the users have 1.1.0"
    assert str(event.metadata["picture"].value).startswith("![share and evidence](data:image/png;base64,")
    # The daemon stores what a sensor returns; a run that comes before that shows the step by itself.
    assert run(tower, instance, "advance_rollout", "look_at_rollouts").success
    assert shown(instance, "shadow") == (["advanced"], ["started"])
    assert run(tower, instance, "advance_rollout", "look_at_rollouts").success
    assert shown(instance, "shadow") == (["advanced"], ["started"])


def test_changes_and_rollback_by_hand(small_tower: Tower, instance: dg.DagsterInstance) -> None:
    """The launchpad says success, and users still get the version."""
    tower = small_tower
    assert run(tower, instance, "change_rollout", "change", model_name=MODEL, change="start", **WHO).success
    assert run(tower, instance, "change_rollout", "change", model_name=MODEL, change="pause", **WHO).success
    again = run(tower, instance, "change_rollout", "change", model_name=MODEL, change="pause", **WHO)
    assert not again.success
    failures = [event for event in again.all_events if event.is_failure]
    assert any("is paused and cannot be paused; it can be" in str(event.event_specific_data) for event in failures)
    nowhere = run(tower, instance, "change_rollout", "change", model_name=MODEL, change="jump", to="7_percent", **WHO)
    assert not nowhere.success
    assert run(tower, instance, "rollback_model", "roll_back", model_name=MODEL, **WHO).success
    assert [step.kind for step in steps(tower.engine)] == ["started", "paused", "rolled_back"]
    assert tower.stages() == {"1.1.0": "Archived", "1.0.0": "Production"}
    assert shown(instance, "shadow")[1] == ["rolled_back", "paused", "started"]


def test_a_service_cannot_be_played(small_tower: Tower, instance: dg.DagsterInstance) -> None:
    """Who acts as `rollout` would be nobody in the audit trail."""
    done = run(
        small_tower, instance, "rollback_model", "roll_back", model_name=MODEL, user="rollout", reason="nobody did it"
    )
    assert not done.success
    assert steps(small_tower.engine) == []


@pytest.mark.parametrize(("job", "op"), [("change_rollout", "change"), ("rollback_model", "roll_back")])
@pytest.mark.parametrize("left_empty", ["model_name", "user", "reason"])
def test_the_launchpad_opens_with_all_there_is_to_fill_in(
    small_tower: Tower, instance: dg.DagsterInstance, job: str, op: str, left_empty: str
) -> None:
    """People have to guess the names of the fields, or launch what is there, and nobody has done it."""
    assert run(small_tower, instance, "change_rollout", "change", model_name=MODEL, change="start", **WHO).success
    definition = build_definitions(resources={"platform": platform_of(small_tower)}).get_job_def(job)
    opened = dict(definition.run_config["ops"][op]["config"])
    assert {name for name, value in opened.items() if value == ""} >= {"model_name", "user", "reason"}
    refused = run(small_tower, instance, job, op, **{**opened, "model_name": MODEL, **WHO, left_empty: " "})
    failures = [str(event.event_specific_data) for event in refused.all_events if event.is_failure]
    assert any(f"nothing is given as {left_empty}: fill in model_name, user, reason" in one for one in failures)
    assert [step.kind for step in steps(small_tower.engine)] == ["started"]


def test_a_look_that_was_not_possible_fails_the_tick(
    small_tower: Tower, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sensor's page is green for weeks, and no rollout was looked at."""
    tower = small_tower
    assert run(tower, instance, "advance_rollout", "look_at_rollouts", model_name=MODEL).success

    def away(*_: object) -> None:
        raise TransientError("the store is away")

    monkeypatch.setattr("mlops_assets.rollout.controller.Rollouts._advanced", away)
    with (
        dg.build_sensor_context(instance=instance, resources={"platform": platform_of(tower)}) as context,
        pytest.raises(dg.Failure, match=f"{MODEL} cannot be looked at: the store is away"),
    ):
        rollout_sensor(context)
    monkeypatch.undo()
    with dg.build_sensor_context(instance=instance, resources={"platform": platform_of(tower)}) as context:
        skipped = rollout_sensor(context)
    assert isinstance(skipped, dg.SkipReason)
    assert str(skipped.skip_message).split(" | ")[1].endswith("nothing waits for a rollout")
