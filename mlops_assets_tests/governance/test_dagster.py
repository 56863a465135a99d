"""The ways in by Dagster: the job `decide_approval` and the sensor, on a real instance."""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest

from mlops_assets.definitions import build_definitions
from mlops_assets.foundation.resources import Platform
from mlops_assets.governance.sensors import approval_sensor
from mlops_assets_tests.governance.conftest import ML, QA, Office
from mlops_assets_tests.mlflow_runs import SPEC, dying_at_commit

NAME = SPEC.registered_model


@pytest.fixture
def platform(small_office: Office) -> Platform:
    small_office.clock.instant = datetime.now(UTC)
    return Platform(
        settings_override={
            "MLOPS_HOME": str(small_office.settings.home),
            "MLOPS_DATABASE_URL": small_office.engine.url.render_as_string(hide_password=False),
            "MLFLOW_TRACKING_URI": small_office.runs.tracking_uri,
        }
    )


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def run(platform: Platform, instance: dg.DagsterInstance, **config: str) -> dg.ExecuteInProcessResult:
    values = {"model_name": NAME, "version": "1.0.0", "decision": "approve", "comment": "read it", **config}
    job = build_definitions(resources={"platform": platform}).get_job_def("decide_approval")
    return job.execute_in_process(
        run_config={"ops": {"vote_on_version": {"config": values}}}, instance=instance, raise_on_error=False
    )


def test_the_job_counts_a_vote(small_office: Office, platform: Platform, instance: dg.DagsterInstance) -> None:
    """The launchpad says success, and nothing was decided."""
    small_office.decide()
    assert run(platform, instance, user=ML).success
    assert small_office.registry.champion(NAME) is None
    assert run(platform, instance, user=QA).success
    assert small_office.registry.champion(NAME) is not None
    assert [event.details["channel"] for event in small_office.events() if event.event_type == "approval_vote"] == [
        "dagster",
        "dagster",
    ]


def test_a_refused_vote_fails_the_run_once_with_the_reason(
    small_office: Office, platform: Platform, instance: dg.DagsterInstance
) -> None:
    """A vote that did not count looks like one that did, or is retried for ten minutes."""
    small_office.decide()
    for config, text in (
        ({"user": "eve@company.com"}, "'eve@company.com' is no required approver"),
        ({"user": "rollout"}, "'rollout' is the name of a service"),
        ({"user": ML, "version": "9.9.9"}, "has no version 9.9.9"),
    ):
        result = run(platform, instance, **config)
        assert not result.success
        (failure,) = [event for event in result.all_events if event.is_step_failure]
        assert text in str(failure.step_failure_data.user_failure_data.description)
    with pytest.raises(dg.DagsterInvalidConfigError):
        build_definitions(resources={"platform": platform}).get_job_def("decide_approval").execute_in_process(
            run_config={"ops": {"vote_on_version": {"config": {"decision": "maybe"}}}}, instance=instance
        )


def test_the_sensor_resumes_what_a_crash_interrupted(
    small_office: Office, platform: Platform, instance: dg.DagsterInstance
) -> None:
    """An approved version never reaches the registry, and its asset never shows it."""

    def tick() -> dg.SensorResult | dg.SkipReason:
        with dg.build_sensor_context(instance=instance, resources={"platform": platform}) as context:
            return approval_sensor(context)

    assert "no request" in str(tick().skip_message)
    small_office.decide()
    votes = {"decision": "approve", "comment": "read it", "channel": "cli"}
    small_office.approvals.vote(NAME, "1.0.0", approver=ML, **votes)
    with dying_at_commit(small_office.engine, survived=2), pytest.raises(KeyboardInterrupt):
        small_office.approvals.vote(NAME, "1.0.0", approver=QA, **votes)
    assert small_office.registry.champion(NAME) is None
    result = tick()
    assert isinstance(result, dg.SensorResult)
    (event,) = result.asset_events
    assert (event.asset_key, event.partition) == (dg.AssetKey("approval"), "requirements")
    assert event.metadata["semver"].value == "1.0.0"
    assert small_office.registry.champion(NAME) is not None
    assert "no request" in str(tick().skip_message)
