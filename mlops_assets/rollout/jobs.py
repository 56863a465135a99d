"""Jobs of this room: a look at the rollouts, a change by hand, a rollback; from the launchpad, the UI or the command line."""

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import dagster as dg
from pydantic import Field
from sqlalchemy import Engine

from mlops_assets.foundation.access import access_control
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.partitions import permanent_failures
from mlops_assets.foundation.policies import StageName
from mlops_assets.foundation.resources import Platform
from mlops_assets.registry.assets import model_registry
from mlops_assets.rollout.assets import STAGE_KEYS
from mlops_assets.rollout.controller import Rollouts, open_rollouts
from mlops_assets.rollout.ledger import steps
from mlops_assets.rollout.report import rollout_picture, step_markdown
from mlops_assets.rollout.state import STAGES, Step, stage_named

_NUMBER = "ledger_number"
_ENOUGH = 1000
_PASSED = ("advanced", "promoting")
_MODEL = f"Registered model: {', '.join(spec.registered_model for spec in AGENTS.values())}."
_USER = "Who answers for it, such as mlops@company.com; needs a role that may, where there is a table of roles."
_REASON = "Why; goes to the ledger, the audit trail and the alert."
_CHANGE = (
    "start: begin with the shadow stage; pause: everybody gets the champion for a while; resume: go on; "
    "abort: end it without blame; jump: back to an earlier stage."
)
# What the launchpad opens with, so that people fill it in; left empty it is refused.
_WHO = {"model_name": "", "user": "", "reason": ""}
_BACK = {**_WHO, "to_version": ""}
_CHANGED = {**_WHO, "change": "pause", "version": "", "to": "", "accept_accuracy": False}


class AdvanceConfig(dg.Config):
    """Which rollouts to look at."""

    model_name: str = Field(default="", description=f"{_MODEL} Empty: every one.")


class RollbackConfig(dg.Config):
    """One rollback by hand."""

    model_name: str = Field(description=_MODEL)
    user: str = Field(description=_USER)
    reason: str = Field(description=_REASON)
    to_version: str = Field(
        default="", description="Without a rollout under way: the former champion to return to; empty: the last one."
    )


class ChangeConfig(dg.Config):
    """One change of a rollout by hand."""

    model_name: str = Field(description=_MODEL)
    change: Literal["start", "pause", "resume", "abort", "jump"] = Field(description=_CHANGE)
    user: str = Field(description=_USER)
    reason: str = Field(description=_REASON)
    version: str = Field(default="", description="To start: the candidate; empty: the challenger.")
    to: str = Field(default="", description=f"To jump: an earlier stage, one of {', '.join(STAGES[:-1])}.")
    accept_accuracy: bool = Field(
        default=False, description="To start: also a version whose accuracy before is below the last stage's floor."
    )


@dg.op(description="Look at rollouts once: start, advance, promote or take back, by their evidence.")
def look_at_rollouts(context: dg.OpExecutionContext, config: AdvanceConfig, platform: Platform) -> None:
    """Tick one model's rollout, or all; what failed fails the run after all were looked at."""
    with _rollouts(context, platform, config.model_name or "rollouts") as rollouts:
        ticks = [rollouts.tick(config.model_name)] if config.model_name else rollouts.tick_all()
        for tick in ticks:
            context.log.info(str(tick))
        context.add_output_metadata({tick.model_name: str(tick) for tick in ticks})
    failed = [tick for tick in ticks if tick.failed]
    if failed:
        raise dg.Failure(description="; ".join(str(tick) for tick in failed))


@dg.op(description="Take a model's rollout back; without one under way, give production back to a former champion.")
def roll_back(context: dg.OpExecutionContext, config: RollbackConfig, platform: Platform) -> None:
    """Roll back; who may not, or where it makes no sense, fails the run with the reason."""
    with _rollouts(context, platform, config.model_name or "the run config") as rollouts:
        _require_filled(model_name=config.model_name, user=config.user, reason=config.reason)
        access_control(platform.settings).require_person(config.user)
        line = rollouts.roll_back(config.model_name, config.to_version or None, user=config.user, reason=config.reason)
        context.log.info(line)
        context.add_output_metadata({"rollback": line})


@dg.op(description="Start, pause, resume, abort a model's rollout, or jump back to an earlier stage.")
def change(context: dg.OpExecutionContext, config: ChangeConfig, platform: Platform) -> None:
    """Change a rollout; what makes no sense fails the run with the reason."""
    with _rollouts(context, platform, config.model_name or "the run config") as rollouts:
        _require_filled(model_name=config.model_name, user=config.user, reason=config.reason)
        access_control(platform.settings).require_person(config.user)
        if config.change == "start":
            state = rollouts.start(
                config.model_name,
                config.version or None,
                user=config.user,
                reason=config.reason,
                accept_accuracy=config.accept_accuracy,
            )
        else:
            to = stage_named(config.to) if config.change == "jump" else None
            state = rollouts.change(config.model_name, config.change, user=config.user, reason=config.reason, to=to)
        context.add_output_metadata({"rollout": state.name, "status": state.status, "stage": state.stage})


@dg.job(
    description="One look at every rollout, as rollout_sensor takes every 300 s.", executor_def=dg.in_process_executor
)
def advance_rollout() -> None:
    """Look once."""
    look_at_rollouts()


@dg.job(
    description="Back to the version before: of the rollout under way, or of production. Give model, user and reason.",
    config={"ops": {"roll_back": {"config": _BACK}}},
    executor_def=dg.in_process_executor,
)
def rollback_model() -> None:
    """Roll back once."""
    roll_back()


@dg.job(
    description="Start, pause, resume, abort a rollout or jump back; give model, change, user and reason.",
    config={"ops": {"change": {"config": _CHANGED}}},
    executor_def=dg.in_process_executor,
)
def change_rollout() -> None:
    """Change once."""
    change()


def steps_to_show(instance: dg.DagsterInstance, engine: Engine) -> list[dg.AssetMaterialization | dg.AssetObservation]:
    """Return what Dagster has not seen of the ledger: a materialisation of each passed stage, every other step observed.

    Steps of each model's newest rollout have its picture, as it is now.
    """
    unseen: list[tuple[Step, StageName, bool]] = []
    shown: dict[tuple[str, str], int] = {}
    last: dict[str, Step] = {}
    for step in steps(engine):
        state = step.state
        passed = step.kind in _PASSED
        # What was passed is the stage before the step.
        stage = last[state.model_name].state.stage if passed and state.model_name in last else state.stage
        last[state.model_name] = step
        known = (stage, state.agent)
        if known not in shown:
            shown[known] = _newest_shown(instance, stage, state.agent)
        if state.number > shown[known]:
            unseen.append((step, stage, passed))
    newest = {step.state.name for step in last.values()} & {step.state.name for step, _, _ in unseen}
    pictures = {name: rollout_picture(engine, name) for name in newest}
    return [_event(step, stage, pictures.get(step.state.name), passed=passed) for step, stage, passed in unseen]


def _event(
    step: Step, stage: StageName, picture: bytes | None, *, passed: bool
) -> dg.AssetMaterialization | dg.AssetObservation:
    state = step.state
    made = dg.AssetMaterialization if passed else dg.AssetObservation
    share = 0.0 if state.status == "paused" else state.share
    drawn = {} if picture is None else {"picture": dg.MetadataValue.md(f"![share and evidence]({_data_uri(picture)})")}
    return made(
        asset_key=STAGE_KEYS[stage],
        partition=state.agent,
        description=f"{state.name} {step.kind.replace('_', ' ')}: {'; '.join(step.reasons)}",
        metadata={
            _NUMBER: state.number,
            "rollout": state.name,
            "step": step.kind,
            "candidate": state.candidate,
            "champion": state.champion,
            "afterwards": f"{state.status.replace('_', ' ')} in {state.stage}, {share:.0%} of the users have {state.candidate}",
            "by": step.user,
            "at": dg.MetadataValue.timestamp(step.at),
            "evidence": dg.MetadataValue.md(step_markdown(step)),
            **drawn,
        },
    )


def _require_filled(**values: str) -> None:
    """Refuse what the launchpad opens with: nobody would have done it, or on nothing."""
    empty = [name for name, value in values.items() if not value.strip()]
    if empty:
        raise InputError(f"nothing is given as {', '.join(empty)}: fill in {', '.join(values)} in the run config")


def _data_uri(picture: bytes) -> str:
    return "data:image/png;base64," + b64encode(picture).decode()


def _newest_shown(instance: dg.DagsterInstance, stage: StageName, agent: str) -> int:
    """Number of the newest step that the stage's asset shows."""
    wanted = dg.AssetRecordsFilter(asset_key=STAGE_KEYS[stage], asset_partitions=[agent])
    numbers = [0]
    for fetch in (instance.fetch_materializations, instance.fetch_observations):
        records = fetch(wanted, limit=_ENOUGH).records
        for record in records:
            event = record.asset_materialization or record.event_log_entry.asset_observation
            shown = None if event is None else event.metadata.get(_NUMBER)
            if isinstance(shown, dg.IntMetadataValue):
                numbers.append(shown.value or 0)
    return max(numbers)


@contextmanager
def _rollouts(context: dg.OpExecutionContext, platform: Platform, subject: str) -> Iterator[Rollouts]:
    """Give the rollouts, let permanent errors fail once, and show afterwards what the ledger has got."""
    with permanent_failures(subject):
        registry = model_registry(platform)
        yield open_rollouts(platform.settings, platform.engine, platform.clock, registry, holder=context.run.run_id)
        for event in steps_to_show(context.instance, platform.engine):
            context.log_event(event)


ROLLOUT_JOBS = [advance_rollout, rollback_model, change_rollout]
