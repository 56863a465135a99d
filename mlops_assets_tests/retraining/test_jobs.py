"""The two jobs on a small graph with the lifecycle's groups: which assets, which agents, which tags, how many tries."""

from collections.abc import Callable
from datetime import UTC, datetime

import dagster as dg
import pytest
from sqlalchemy import Engine

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.errors import InputError, TransientError
from mlops_assets.foundation.partitions import AGENT_PARTITIONS, permanent_failures
from mlops_assets.foundation.policies import RetryPolicySettings
from mlops_assets.foundation.profiles import PolicyProfile, load_profile, profile_names
from mlops_assets.foundation.settings import Settings
from mlops_assets.foundation.trigger import TriggerReason
from mlops_assets.retraining.jobs import lifecycle_jobs
from mlops_assets.retraining.requests import all_requests
from mlops_assets_tests.retraining.conftest import location, platform_at

GROUPS = ["experiences", "features", "training", "evaluation", "registry", "governance"]
Runs = list[tuple[str, tuple[str, ...]]]


def _definitions(runs: Runs, profile: PolicyProfile, fail: Callable[[], None] = lambda: None) -> dg.Definitions:
    """One asset in each room and one that belongs to none; each notes the agents that it ran for."""

    def asset(group: str, deps: list[str], partitions: dg.PartitionsDefinition[str] | None) -> dg.AssetsDefinition:
        @dg.asset(name=f"of_{group}", group_name=group, deps=deps, partitions_def=partitions)
        def noted(context: dg.AssetExecutionContext) -> None:
            runs.append((group, tuple(sorted(context.partition_keys)) if partitions else ()))
            if group == "training":
                fail()

        return noted

    chain = [
        asset(group, [f"of_{before}"] if before else [], AGENT_PARTITIONS if before else None)
        for before, group in zip(["", *GROUPS], GROUPS, strict=False)
    ]
    return dg.Definitions(assets=[*chain, asset("else", [], None)], jobs=lifecycle_jobs(profile))


def _patient(max_retries: int) -> PolicyProfile:
    retry = RetryPolicySettings(max_retries=max_retries, delay_seconds=0)
    return load_profile("aiwebtest").model_copy(update={"retry": retry})


def test_the_main_job_runs_every_room_once_for_all_agents(instance: dg.DagsterInstance) -> None:
    """A room whose group is not selected is skipped in silence: models were registered that nobody had evaluated."""
    runs: Runs = []
    job = _definitions(runs, _patient(0)).resolve_job_def("model_lifecycle")
    result = job.execute_in_process(instance=instance)
    assert result.success
    everybody = tuple(sorted(AGENTS))
    assert runs == [("experiences", ()), *((group, everybody) for group in GROUPS[1:])]
    assert TriggerReason.from_tags(result.dagster_run.tags) == TriggerReason()


def test_retrain_runs_the_same_assets_for_one_agent(instance: dg.DagsterInstance) -> None:
    """A drift of one agent would retrain all three, or leave its features as they were."""
    runs: Runs = []
    job = _definitions(runs, _patient(0)).resolve_job_def("retrain")
    reason = TriggerReason(trigger_type="drift", reason="PSI of page_load 0.41 > 0.3")
    result = job.execute_in_process(instance=instance, partition_key="generation", tags=reason.tags())
    assert result.success
    assert runs == [("experiences", ()), *((group, ("generation",)) for group in GROUPS[1:])]
    assert TriggerReason.from_tags(result.dagster_run.tags) == reason


def test_retrain_without_an_agent_says_so(instance: dg.DagsterInstance) -> None:
    """Which agent was meant cannot be guessed; it must not become all of them."""
    runs: Runs = []
    job = _definitions(runs, _patient(0)).resolve_job_def("retrain")
    with pytest.raises(dg.DagsterInvariantViolationError, match="partition"):
        job.execute_in_process(instance=instance)
    assert [run for run in runs if run[1]] == []


def test_a_transient_failure_is_retried_as_often_as_the_profile_says(instance: dg.DagsterInstance) -> None:
    """The job's policy has to reach assets that have none of their own, and to end."""

    def fail() -> None:
        with permanent_failures("execution"):
            raise TransientError("process 7 holds the lock")

    runs: Runs = []
    job = _definitions(runs, _patient(2), fail).resolve_job_def("retrain")
    result = job.execute_in_process(instance=instance, partition_key="execution", raise_on_error=False)
    assert not result.success
    assert [group for group, _ in runs] == ["experiences", "features", "training", "training", "training"]


def test_a_permanent_failure_is_not_retried(instance: dg.DagsterInstance) -> None:
    """Twenty minutes of retries before anybody hears of a bad file."""

    def fail() -> None:
        with permanent_failures("execution"):
            raise InputError("a bad file: mend it")

    runs: Runs = []
    job = _definitions(runs, _patient(2), fail).resolve_job_def("model_lifecycle")
    assert not job.execute_in_process(instance=instance, raise_on_error=False).success
    assert [group for group, _ in runs] == ["experiences", "features", "training"]


@pytest.mark.parametrize("name", profile_names())
def test_the_retry_numbers_are_the_profiles(name: str) -> None:
    """A number in the code would make the profile's a lie."""
    profile = load_profile(name)
    for job in lifecycle_jobs(profile):
        assert job.op_retry_policy == dg.RetryPolicy(
            max_retries=profile.retry.max_retries, delay=profile.retry.delay_seconds
        )


def test_a_whole_run_is_one_process() -> None:
    """An interpreter per step imports Feast, MLflow and torch fourteen times: minutes of nothing."""
    definitions = _definitions([], _patient(0))
    for name in ("model_lifecycle", "retrain"):
        assert definitions.resolve_job_def(name).executor_def.name == "in_process"


ASKED = {"agent": "execution", "reason": "new browser", "user": "ana@company.com", "override": False}


def _ask(settings: Settings, instance: dg.DagsterInstance, **changes: object) -> dg.ExecuteInProcessResult:
    job = location(platform_at(settings)).resolve_job_def("request_retraining")
    config = {"ops": {"ask_for_retraining": {"config": {**ASKED, **changes}}}}
    return job.execute_in_process(run_config=config, instance=instance, raise_on_error=False)


def test_a_training_by_hand(settings: Settings, instance: dg.DagsterInstance, sqlite_engine: Engine) -> None:
    """The launchpad says success, and nothing was asked for."""
    done = _ask(settings, instance)
    assert done.success
    (found,) = all_requests(sqlite_engine, since=datetime(2020, 1, 1, tzinfo=UTC))
    assert (found.trigger_type, found.reason, found.user) == ("manual", "new browser", "ana@company.com")
    # What has to wait is no failure: it is asked for, and the run says what it waits for.
    again = _ask(settings, instance, override=True)
    assert again.success
    (output,) = (event for event in again.all_events if event.event_type_value == "STEP_OUTPUT")
    assert output.step_output_data.metadata["decision"].value == "suppressed"
    assert "in_flight" in str(output.step_output_data.metadata["reason"].value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent": ""}, "unknown agent ''"),
        ({"reason": " "}, "needs who asks for it, a reason"),
        ({"user": ""}, "needs who asks for it, a reason"),
        ({"user": "retraining"}, "is the name of a service"),
    ],
)
def test_a_training_by_nobody(
    settings: Settings, instance: dg.DagsterInstance, changes: dict[str, object], message: str
) -> None:
    """The launchpad opens with empty fields, and somebody launches them."""
    done = _ask(settings, instance, **changes)
    failures = [str(event.event_specific_data) for event in done.all_events if event.is_failure]
    assert not done.success
    assert any(message in one for one in failures), failures
