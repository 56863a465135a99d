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
    description="Starts, advances and ends rollouts on evidence, completes what a crash left, shows each passed stage.",
)
def rollout_sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
    """Tick every rollout once, then show the steps that Dagster has not seen.

    Harm does not wait for it: the servers' guard takes a candidate back by itself.
    """
    registry = model_registry(platform)
    rollouts = open_rollouts(
        platform.settings, platform.engine, platform.clock, registry, holder=f"sensor {os.getpid()}"
    )
    lines = [str(tick) for tick in rollouts.tick_all()]
    for line in lines:
        context.log.info(line)
    events = steps_to_show(context.instance, platform.engine)
    return dg.SensorResult(asset_events=events) if events else dg.SkipReason("; ".join(lines))


ROLLOUT_SENSORS = [rollout_sensor]
