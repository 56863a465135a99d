"""One run of the loop: each hour users are served, and then everything looks that looks in production, in its order."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import dagster as dg

from examples.loop_demo.server import HourlyServer
from examples.loop_demo.story import SETTLED_HOURS, Story
from examples.loop_demo.town import Town
from examples.rollout_demo.deployment import Deployment
from examples.rollout_demo.lifecycle import QUIET, handlers_kept
from examples.rollout_demo.users import AGENT
from mlops_assets.definitions import build_definitions
from mlops_assets.experiences.sources import simulator_config
from mlops_assets.foundation.clock import FixedClock, ScaledClock
from mlops_assets.foundation.profiles import PolicyProfile, load_profile
from mlops_assets.foundation.records import read_record
from mlops_assets.foundation.resources import Platform
from mlops_assets.monitoring.channels import alert_routing
from mlops_assets.monitoring.drift_checks import check_version, keep
from mlops_assets.retraining.schedules import retraining_schedules
from mlops_assets.retraining.sensors import retraining_sensors
from mlops_assets.rollout.guard import RolloutGuard
from mlops_assets.rollout.ledger import current, steps
from mlops_assets.rollout.report import step_in_words
from mlops_assets.rollout.sensors import rollout_sensor
from mlops_assets.serving.outcomes import record_outcomes

# Requests an hour: what a stage of a rollout needs for its evidence within a day.
_RATE = 1_200
# The guard reads a thousand answers at a time, every 200 ms in production.
_GUARD_READS = 3
_SUNDAY, _SCHEDULED_HOUR = 6, 2
# As the users' world has it that are served: the log they are written to is the experience.
_LEARNS_FROM = {"MLOPS_EXPERIENCE_SOURCE": "prediction_log", "MLOPS_DATA_PROFILE": "bootstrap"}
_TRAINING = {"updates": 3_000}


@dataclass
class Loop:
    """One deployment, its users, and all that looks at them.

    Args:
        deployment: with a champion.
        begin: on a full hour.
        change_after_hours: when the world changes; None: never.
        most_hours: it is over by then.
        seed: of users and exploration.
    """

    deployment: Deployment
    begin: datetime
    change_after_hours: int | None
    most_hours: int
    seed: int
    story: Story = field(init=False)
    _clock: FixedClock = field(init=False)
    _instance: dg.DagsterInstance = field(init=False)
    _told: int = 0
    _verdict: str = "ok"
    _alerts: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        changed = None if self.change_after_hours is None else self.begin + timedelta(hours=self.change_after_hours)
        self.story = Story("control" if changed is None else "drift", self.begin, changed)
        self._clock = FixedClock(self.begin)

    def run(self) -> Story:
        """Let the hours go by until the loop is closed, or time is over."""
        settings, engine, spec = self.deployment.settings, self.deployment.engine, self.deployment.spec
        town = Town(simulator_config(settings), rate=_RATE, seed=self.seed)
        server = HourlyServer(settings, engine, spec, seed=self.seed)
        guard = RolloutGuard(engine, self._profile.rollout, served=self._clock, clock=self._clock)
        closed: int | None = None
        with dg.DagsterInstance.ephemeral() as self._instance:
            for hour in range(self.most_hours):
                begin = self.begin + timedelta(hours=hour)
                changed = self.change_after_hours is not None and hour >= self.change_after_hours
                if hour == self.change_after_hours:
                    self.story.happened(begin, "change", "items with a high risk come far more often from now on")
                outcomes, accuracy = server.answer(town.hour(begin, changed=changed))
                self._clock.instant = begin + timedelta(hours=1)
                record_outcomes(engine, outcomes, unshipped=lambda _: None, now=self._clock.now())
                self.story.accuracy.append(accuracy)
                for _ in range(_GUARD_READS):
                    guard.refresh()
                self._look_at_rollouts()
                self._check_drift()
                self._decide_on_training()
                self._raise_scheduled()
                self._note_champion()
                # What begins after it, such as the next training, is another loop.
                if closed is None and self._closed():
                    closed = hour
                if closed is not None and hour >= closed + SETTLED_HOURS:
                    break
        return self.story

    @cached_property
    def _profile(self) -> PolicyProfile:
        return load_profile(self.deployment.settings.policy_profile)

    @property
    def _platform(self) -> Platform:
        """The deployment at this hour: what a run takes on the machine is no time here."""
        clock = ScaledClock(self._clock.now(), datetime.now(UTC), 1.0)
        return Platform(settings_override={**self.deployment.variables, **_LEARNS_FROM, "MLOPS_CLOCK": str(clock)})

    @cached_property
    def _sensors(self) -> Mapping[str, dg.SensorDefinition]:
        return {one.name: one for one in retraining_sensors(self._profile)}

    @cached_property
    def _schedules(self) -> Mapping[str, dg.ScheduleDefinition]:
        return {one.name: one for one in retraining_schedules(self._profile)}

    @cached_property
    def _definitions(self) -> dg.Definitions:
        return build_definitions(resources={"platform": self._platform})

    def _look_at_rollouts(self) -> None:
        with (
            self._logged(),
            dg.build_sensor_context(instance=self._instance, resources={"platform": self._platform}) as context,
        ):
            found = rollout_sensor(context)
        # As the daemon does: what was shown once is not shown again.
        for event in (found.asset_events or ()) if isinstance(found, dg.SensorResult) else ():
            if isinstance(event, dg.AssetMaterialization | dg.AssetObservation):
                self._instance.report_runless_asset_event(event)
        every = steps(self.deployment.engine)
        for step in every[self._told :]:
            self.story.happened(step.at, "rollout", step_in_words(step))
        self._told = len(every)

    def _check_drift(self) -> None:
        """As the job `drift_monitoring` checks every hour, but for its pages, which take longer to draw than all the rest."""
        deployment, now = self.deployment, self._clock.now()
        champion = deployment.registry.champion(deployment.spec.registered_model)
        if champion is None:
            raise SystemExit("there is no champion any more")
        check = check_version(
            deployment.engine,
            deployment.spec,
            champion.semver,
            self._profile,
            deployment.settings.paths,
            end=now,
            as_of=now,
            now=now,
        )
        alerts = keep(deployment.engine, deployment.spec, check, self._profile, alert_routing(deployment.settings), now)
        self.story.verdicts.append(check.verdict)
        if check.verdict not in {self._verdict, "insufficient_data"}:
            columns = ", ".join(one.name for one in check.drifted[:3]) or "no column"
            self.story.happened(
                now, "drift", f"{champion.semver} is {check.verdict}: {columns}; {check.drift.recommendation}"
            )
            self._verdict = check.verdict
        for one in alerts:
            said = (str(one.finding.severity), one.state.status)
            if self._alerts.get(one.finding.key) != said:
                self.story.happened(now, "alert", f"{said[0]} {said[1]}: {one.finding.title}")
                self._alerts[one.finding.key] = said

    def _decide_on_training(self) -> None:
        """As `drift_sensor` looks every five minutes; what it hands over is run."""
        found = self._tick("drift_sensor")
        for request in (found.run_requests or ()) if isinstance(found, dg.SensorResult) else ():
            if request.partition_key == AGENT:
                self._train(request)

    def _tick(self, name: str) -> Any:
        with (
            self._logged(),
            dg.build_sensor_context(
                instance=self._instance, resources={"platform": self._platform}, definitions=self._definitions
            ) as context,
        ):
            return self._sensors[name](context)

    def _train(self, request: dg.RunRequest) -> None:
        from mlops_assets.training.resources import DqnTrainer

        now, tags = self._clock.now(), dict(request.tags)
        self.story.triggers.append(tags["mlops/trigger_type"])
        self.story.happened(now, "training", f"{request.run_key}: {tags['mlops/trigger_type']}: {tags['mlops/reason']}")
        begun = time.monotonic()
        job = build_definitions(
            resources={"platform": self._platform, "trainer": DqnTrainer(overrides=dict(_TRAINING))}
        ).resolve_job_def("retrain")
        with handlers_kept():
            result = job.execute_in_process(
                instance=self._instance, partition_key=AGENT, tags=tags, run_config=QUIET, raise_on_error=False
            )
        took = f"({time.monotonic() - begun:.0f} s on this machine)"
        if not result.success:
            self.story.happened(now, "version", f"{request.run_key} failed {took}")
            return
        decided = read_record(self.deployment.engine, asset="approval", partition=AGENT, run_id=result.run_id)
        self.story.happened(now, "version", f"{decided['semver']} {decided['outcome']}: {decided['summary']} {took}")

    def _raise_scheduled(self) -> None:
        now = self._clock.now()
        if (now.weekday(), now.hour) != (_SUNDAY, _SCHEDULED_HOUR):
            return
        with (
            self._logged(),
            dg.build_schedule_context(
                instance=self._instance, scheduled_execution_time=now, resources={"platform": self._platform}
            ) as context,
        ):
            self._schedules["weekly_retraining"](context)
        self._decide_on_training()

    @contextmanager
    def _logged(self) -> Iterator[None]:
        """What each tick came to goes to a file: the story has what came of it."""
        with (self.deployment.settings.home / "ticks.log").open("a") as log, redirect_stderr(log):
            yield

    def _note_champion(self) -> None:
        champion = self.deployment.registry.champion(self.deployment.spec.registered_model)
        self.story.champions.append("none" if champion is None else champion.semver)

    def _closed(self) -> bool:
        """Whether users have another version than when the world changed, and no rollout is under way."""
        if self.change_after_hours is None or len(self.story.champions) <= self.change_after_hours:
            return False
        under_way = current(self.deployment.engine, self.deployment.spec.registered_model)
        before = self.story.champions[self.change_after_hours]
        return self.story.champions[-1] != before and (under_way is None or not under_way.active)
