"""What people are told of a rollout's step, and how bad it is."""

from collections.abc import Sequence
from typing import Literal

from mlops_assets.foundation.messages import Message
from mlops_assets.foundation.profiles import STAGE_SHARES
from mlops_assets.rollout.state import Step

Severity = Literal["INFO", "WARNING", "CRITICAL"]


def alert_of(step: Step, recipients: Sequence[str]) -> Message:
    """Say what the step did, of which versions, why, by whom and when."""
    state = step.state
    severity, title = _title(step)
    lines = [
        f"{severity}: {title}",
        f"{state.model_name}: {_versions(step)}, stage {state.stage}, {state.share:.0%} of the users",
        *(f"- {reason}" for reason in step.reasons),
        f"{state.name}, by {step.user}, {step.at:%Y-%m-%d %H:%M:%S} UTC",
    ]
    return Message(f"{severity}: {title} ({state.model_name})", "\n".join(lines), tuple(recipients))


def _versions(step: Step) -> str:
    state = step.state
    if step.kind == "rolled_back":
        return f"from {state.candidate} to {state.champion}"
    return f"{state.candidate} against {state.champion}"


def _title(step: Step) -> tuple[Severity, str]:
    if step.kind == "started":
        shares = " → ".join(f"{share:.0%}" for share in STAGE_SHARES.values() if share)
        return "INFO", f"Gradual rollout initiated ({shares})"
    if step.kind == "rolled_back":
        return "CRITICAL", "Model Rollback"
    what = {
        "advanced": f"Rollout at {step.state.share:.0%}",
        "jumped": f"Rollout back to {step.state.stage}",
        "stalled": f"Rollout undecided in {step.state.stage}",
        "completed": f"Rollout completed: {step.state.candidate} is champion",
    }.get(step.kind, f"Rollout {step.kind}")
    return "WARNING" if step.kind in {"aborted", "stalled", "superseded"} else "INFO", what
