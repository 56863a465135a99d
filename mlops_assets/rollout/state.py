"""What a rollout is at a moment, and how each step of the ledger changes it. Pure: no database, no clock."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Literal, cast, get_args

from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.policies import STAGE_SHARES, StageName

Status = Literal["running", "paused", "promoting", "completed", "rolled_back", "aborted", "superseded"]
Kind = Literal[
    "started",
    "advanced",
    "jumped",
    "paused",
    "resumed",
    "stalled",
    "promoting",
    "completed",
    "rolled_back",
    "aborted",
    "superseded",
]
STAGES: tuple[StageName, ...] = get_args(StageName)
# The rollout is over: nothing but a new one can follow.
FINAL: tuple[Status, ...] = ("completed", "rolled_back", "aborted", "superseded")
_AFTER: Mapping[Kind, tuple[Status, ...]] = {
    "advanced": ("running",),
    "jumped": ("running", "paused"),
    "paused": ("running",),
    "resumed": ("paused",),
    "stalled": ("running",),
    "promoting": ("running",),
    "completed": ("promoting",),
    "rolled_back": ("running", "paused", "promoting"),
    "aborted": ("running", "paused"),
    "superseded": ("running", "paused"),
}
_STATUS_OF: Mapping[Kind, Status] = {
    "started": "running",
    "advanced": "running",
    "resumed": "running",
    "stalled": "running",
    "paused": "paused",
    "promoting": "promoting",
    "completed": "completed",
    "rolled_back": "rolled_back",
    "aborted": "aborted",
    "superseded": "superseded",
}


@dataclass(frozen=True)
class Rate:
    """A rate as it was found, and the upper bound of what it may be."""

    mean: float
    upper: float


@dataclass(frozen=True)
class RolloutState:
    """One rollout after its newest step.

    `number` counts the steps of the model, over all of its rollouts. `share` is the part of the users that the candidate
    has. `since`: begin of the stage, moved by as long as the rollout was paused. `slow_ms` is the champion's 95th
    percentile in the shadow stage, `baseline` its rate of failed requests before the last stage. `stalled`: that the stage
    lasts longer than it should has been said. `training_hash` identifies what the candidate was trained on, and how.
    """

    name: str
    model_name: str
    agent: str
    candidate: str
    champion: str
    training_hash: str
    salt: str
    number: int
    status: Status
    stage: StageName
    share: float
    started_at: datetime
    since: datetime
    paused_at: datetime | None = None
    slow_ms: float | None = None
    baseline: Rate | None = None
    stalled: bool = False

    @property
    def active(self) -> bool:
        """Whether more steps may follow."""
        return self.status not in FINAL

    @property
    def next_stage(self) -> StageName | None:
        """The stage after this one; None after the last."""
        position = STAGES.index(self.stage) + 1
        return STAGES[position] if position < len(STAGES) else None

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(self).items()
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "RolloutState":
        """Read what `document` wrote."""
        values = dict(document)
        for name in ("started_at", "since", "paused_at"):
            values[name] = None if values[name] is None else datetime.fromisoformat(values[name])
        values["baseline"] = baseline_from(values["baseline"])
        return cls(**values)


@dataclass(frozen=True)
class Step:
    """One entry of the ledger: what was done, by whom, why, and the state after it."""

    kind: Kind
    state: RolloutState
    reasons: tuple[str, ...]
    evidence: Mapping[str, Any]
    user: str
    at: datetime


def after(
    state: RolloutState,
    kind: Kind,
    now: datetime,
    *,
    to: StageName | None = None,
    slow_ms: float | None = None,
    baseline: Rate | None = None,
) -> RolloutState:
    """Return the state after one more step.

    Args:
        state: before the step.
        kind: what is done; a rollout begins with `started`, which is no change.
        now: time of the step.
        to: the stage, of `advanced` and `jumped`.
        slow_ms: the champion's 95th percentile, when the first stage with users begins.
        baseline: the champion's rate of failed requests, when the last stage begins.

    Raises:
        InputError: the step makes no sense after this state; the message says what does.
    """
    if kind not in _AFTER or state.status not in _AFTER[kind]:
        possible = [one for one, before in _AFTER.items() if state.status in before]
        raise InputError(
            f"rollout {state.name} is {_word(state.status)} and cannot be {_word(kind)}; "
            + (
                f"it can be {', '.join(_word(one) for one in possible)}"
                if possible
                else "it is over: start another one"
            )
        )
    changed = replace(state, number=state.number + 1, status=_STATUS_OF.get(kind, state.status))
    if kind in {"advanced", "jumped"}:
        _require_order(state, kind, to)
        stage = cast("StageName", to)
        changed = replace(
            changed,
            stage=stage,
            share=STAGE_SHARES[stage],
            since=now,
            stalled=False,
            paused_at=None if state.paused_at is None else now,
            slow_ms=slow_ms if slow_ms is not None else state.slow_ms,
            baseline=baseline if baseline is not None else state.baseline,
        )
    elif kind == "stalled":
        changed = replace(changed, stalled=True)
    elif kind == "paused":
        changed = replace(changed, paused_at=now)
    elif kind == "resumed" and state.paused_at is not None:
        changed = replace(changed, since=state.since + (now - state.paused_at), paused_at=None)
    elif changed.status in {"rolled_back", "aborted", "superseded"}:
        changed = replace(changed, share=0.0)
    return changed


def baseline_from(document: Mapping[str, Any] | None) -> Rate | None:
    """Read what dataclasses.asdict made of a baseline, and JSON of that."""
    return None if document is None else Rate(**document)


def fold(steps: Iterable[Step]) -> dict[str, RolloutState]:
    """Rebuild the newest state of each model by doing every step again, in order.

    Raises:
        InputError: a step does not follow from the one before it: the ledger was tampered with.
    """
    states: dict[str, RolloutState] = {}
    for step in steps:
        before, told = states.get(step.state.model_name), step.state
        if step.kind == "started":
            number = 0 if before is None else before.number
            if (before is not None and before.active) or told.number != number + 1 or told.stage != STAGES[0]:
                raise InputError(f"step {told.number} of {told.model_name} starts {told.name} where nothing can start")
            states[told.model_name] = told
            continue
        if before is None or before.name != told.name:
            raise InputError(f"step {told.number} of {told.model_name} is of {told.name}, which was not started")
        done = after(before, step.kind, step.at, to=told.stage, slow_ms=told.slow_ms, baseline=told.baseline)
        if done != told:
            raise InputError(
                f"step {told.number} of {told.model_name} ({step.kind}) does not follow from the one before"
            )
        states[told.model_name] = done
    return states


def stage_named(name: str) -> StageName:
    """Return the stage of that name.

    Raises:
        InputError: there is none.
    """
    found = next((stage for stage in STAGES if stage == name), None)
    if found is None:
        raise InputError(f"there is no stage {name!r}; stages: {', '.join(STAGES)}")
    return found


def _require_order(state: RolloutState, kind: Kind, to: StageName | None) -> None:
    if kind == "advanced" and to != state.next_stage:
        raise InputError(f"rollout {state.name} is in {state.stage}: after it comes {state.next_stage}, not {to}")
    if kind == "jumped" and (to not in STAGES or STAGES.index(to) >= STAGES.index(state.stage)):
        earlier = ", ".join(STAGES[: STAGES.index(state.stage)]) or "none"
        raise InputError(
            f"rollout {state.name} is in {state.stage} and cannot jump to {to}: stages are passed on evidence, so it can "
            f"only go back; earlier stages: {earlier}"
        )


def _word(name: str) -> str:
    return name.replace("_", " ")
