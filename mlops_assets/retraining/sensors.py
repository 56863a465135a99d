"""The sensors of this room: shells that collect triggers and let `evaluate.py` decide; `drift_sensor` starts the runs."""

from collections.abc import Sequence

import dagster as dg

from mlops_assets.foundation.profiles import PolicyProfile
from mlops_assets.foundation.resources import Platform
from mlops_assets.foundation.trigger import REQUEST_TAG
from mlops_assets.retraining.evaluate import Evaluated, evaluate_all
from mlops_assets.retraining.requests import FindRun, RunRequest, SeenRun, reconcile
from mlops_assets.retraining.signals import NewSignal
from mlops_assets.retraining.sources import of_age, of_new_data, of_served

_FIVE_MINUTES = 300
_HOUR = 3600
# Set by Dagster on a run that died, whose retry it has yet to start.
_WILL_RETRY = "dagster/will_retry"


def retraining_sensors(profile: PolicyProfile) -> list[dg.SensorDefinition]:
    """Return the sensors; the policy profile says whether they run without being switched on."""
    status = dg.DefaultSensorStatus.RUNNING if profile.retraining.automatic_start else dg.DefaultSensorStatus.STOPPED

    @dg.sensor(
        name="drift_sensor",
        job_name="retrain",
        minimum_interval_seconds=_FIVE_MINUTES,
        default_status=status,
        description=(
            "Turns drift checks, accuracy and errors into triggers, decides on all that wait, and starts every training "
            "that was decided on, by whomever; it follows them to their end."
        ),
    )
    def drift_sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        """Reconcile, evaluate, hand over.

        It alone hands trainings to Dagster: its run keys are then known in one place, and a key is handed over until its
        run is seen. What others decided on waits for it, five minutes at most.
        """
        policy, now = platform.profile.retraining, platform.clock.now()
        left = reconcile(platform.engine, _runs_of(context.instance), now)
        found = of_served(platform.engine, policy, platform.clock, platform.settings)
        done = evaluate_all(platform.engine, policy, now, found)
        handed = [*left, *(one.request for one in done if one.request is not None)]
        for one in done:
            context.log.info(str(one))
        if not handed:
            return dg.SkipReason(_said(done))
        return dg.SensorResult(run_requests=[_run_request(one) for one in handed])

    @dg.sensor(
        name="new_data_sensor",
        job_name="retrain",
        minimum_interval_seconds=_FIVE_MINUTES,
        default_status=status,
        description="Turns new files and the volume of new data into triggers; drift_sensor starts what is decided.",
    )
    def new_data_sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SkipReason:
        """Look for new data, then evaluate."""
        policy = platform.profile.retraining
        return _evaluated(context, platform, of_new_data(platform.engine, policy, platform.clock, platform.settings))

    @dg.sensor(
        name="staleness_sensor",
        job_name="retrain",
        minimum_interval_seconds=_HOUR,
        default_status=status,
        description="Turns models that are too old into triggers; drift_sensor starts what is decided.",
    )
    def staleness_sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SkipReason:
        """Look at the models' age, then evaluate."""
        return _evaluated(context, platform, of_age(platform.engine, platform.profile.retraining, platform.clock))

    return [drift_sensor, new_data_sensor, staleness_sensor]


def _evaluated(context: dg.SensorEvaluationContext, platform: Platform, signals: Sequence[NewSignal]) -> dg.SkipReason:
    done = evaluate_all(platform.engine, platform.profile.retraining, platform.clock.now(), signals)
    for one in done:
        context.log.info(str(one))
    return dg.SkipReason(_said(done))


def _said(done: Sequence[Evaluated]) -> str:
    return " | ".join(map(str, done))


def _run_request(request: RunRequest) -> dg.RunRequest:
    return dg.RunRequest(run_key=request.run_key, partition_key=request.agent, tags=request.tags())


def _runs_of(instance: dg.DagsterInstance) -> FindRun:
    def find(run_key: str) -> SeenRun | None:
        runs = instance.get_runs(dg.RunsFilter(tags={REQUEST_TAG: run_key}))
        if not runs:
            return None
        newest = runs[0]
        if any(run.status is dg.DagsterRunStatus.SUCCESS for run in runs):
            return SeenRun(newest.run_id, "succeeded")
        if any(not run.is_finished for run in runs) or newest.tags.get(_WILL_RETRY) == "true":
            return SeenRun(newest.run_id, "started")
        return SeenRun(newest.run_id, "failed" if newest.status is dg.DagsterRunStatus.FAILURE else "canceled")

    return find
