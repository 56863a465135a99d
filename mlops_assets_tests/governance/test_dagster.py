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
        ({"user": " "}, "nobody is named as user"),
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


def test_the_launchpad_opens_with_what_is_to_be_filled_in(
    small_office: Office, platform: Platform, instance: dg.DagsterInstance
) -> None:
    """Whoever opens it has to guess the names of fields, or launches a vote by leaving them as they are."""
    small_office.decide()
    job = build_definitions(resources={"platform": platform}).get_job_def("decide_approval")
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "nobody is named as user" in str(failure.step_failure_data.user_failure_data.description)
    assert [event for event in small_office.events() if event.event_type == "approval_vote"] == []


def tick(
    platform: Platform, instance: dg.DagsterInstance, cursor: str | None = None
) -> dg.SensorResult | dg.SkipReason:
    with dg.build_sensor_context(instance=instance, resources={"platform": platform}, cursor=cursor) as context:
        found = approval_sensor(context)
    assert isinstance(found, dg.SensorResult | dg.SkipReason)
    return found


def vote(office: Office, approver: str) -> None:
    office.approvals.vote(NAME, "1.0.0", approver=approver, decision="approve", comment="read it", channel="cli")


@pytest.mark.parametrize("crash", [False, True])
def test_the_sensor_shows_what_was_approved_and_completes_it(
    small_office: Office, platform: Platform, instance: dg.DagsterInstance, crash: bool
) -> None:
    """An approved version never reaches the registry, or its asset says for ever that it waits."""
    assert "no request" in str(tick(platform, instance).skip_message)
    small_office.decide()
    vote(small_office, ML)
    # Whoever opens the sensor's page sees whom it waits for.
    waits = str(tick(platform, instance).skip_message)
    assert f"waits for people: {NAME} 1.0.0: open, 1 more of " in waits
    assert QA in waits
    if crash:
        with dying_at_commit(small_office.engine, survived=2), pytest.raises(KeyboardInterrupt):
            vote(small_office, QA)
        assert small_office.registry.champion(NAME) is None
    else:
        vote(small_office, QA)
    result = tick(platform, instance)
    assert isinstance(result, dg.SensorResult)
    (event,) = result.asset_events
    assert (event.asset_key, event.partition) == (dg.AssetKey("approval"), "requirements")
    assert event.metadata["semver"].value == "1.0.0"
    assert small_office.registry.champion(NAME) is not None
    assert "no request" in str(tick(platform, instance, result.cursor).skip_message)


def test_a_failing_mail_server_keeps_nothing_back(
    small_office: Office, platform: Platform, instance: dg.DagsterInstance
) -> None:
    """An approval waits for a mail server that is away."""
    settings = {**platform.settings_override, "MLOPS_SMTP_URL": "smtp://127.0.0.1:1"}
    small_office.decide()
    told = str(tick(Platform(settings_override=settings), instance).skip_message)
    assert "notify by e-mail" in told
    assert "did not take the message" in told
    vote(small_office, ML)
    vote(small_office, QA)
    assert isinstance(tick(Platform(settings_override=settings), instance), dg.SensorResult)
