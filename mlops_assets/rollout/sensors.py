"""The sensor of this room: every 300 s a look at every rollout, and in the UI what the ledger has since."""

import os

import dagster as dg

from mlops_assets.foundation.resources import Platform
from mlops_assets.registry.assets import model_registry
from mlops_assets.rollout.controller import open_rollouts
from mlops_assets.rollout.jobs import steps_to_show

_SECONDS = 300


@dg.sensor(
    name="rollout_sensor",
    minimum_interval_seconds=_SECONDS,
    # Half a rollout that nobody advances would keep its users where they are.
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Starts, advances and ends rollouts on evidence, completes what a crash left, shows each step. What a look came to "
        "is the tick's skip reason and log; a look that was not possible fails the tick."
    ),
)
def rollout_sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
    """Tick every rollout once, then show the steps that Dagster has not seen.

    Harm does not wait for it: the servers' guard takes a candidate back by itself.

    Raises:
        dagster.Failure: a model could not be looked at; the others were. While there are steps to show, they come first.
    """
    registry = model_registry(platform)
    rollouts = open_rollouts(
        platform.settings, platform.engine, platform.clock, registry, holder=f"sensor {os.getpid()}"
    )
    ticks = rollouts.tick_all()
    for tick in ticks:
        (context.log.error if tick.failed else context.log.info)(str(tick))
    events = steps_to_show(context.instance, platform.engine)
    if events:
        return dg.SensorResult(asset_events=events)
    failed = [tick for tick in ticks if tick.failed]
    if failed:
        raise dg.Failure(description=" | ".join(str(tick) for tick in failed))
    return dg.SkipReason(" | ".join(str(tick) for tick in ticks))


ROLLOUT_SENSORS = [rollout_sensor]
