"""What people read of a rollout: its state and steps in words, and the picture of share, evidence and events over time."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from mlops_assets.foundation.files import atomic_write
from mlops_assets.foundation.profiles import RolloutPolicy
from mlops_assets.rollout.advance import needed, odds
from mlops_assets.rollout.ledger import rollout_named
from mlops_assets.rollout.looks import Looked, looked
from mlops_assets.rollout.state import RolloutState, Step

# Evidence beyond one to a million, for or against, is drawn at the edge.
_MOST_EVIDENCE = 6.0
_SHOWN = {"advanced", "paused", "resumed", "jumped", "stalled"}


def state_in_words(state: RolloutState) -> str:
    """Say in a line what a rollout is at the moment."""
    status = state.status.replace("_", " ")
    share = f", {state.share:.0%} of the users have {state.candidate}" if state.status == "running" else ""
    return f"{state.name}: {status} in {state.stage} since {state.since:%Y-%m-%d %H:%M} UTC{share}"


def step_in_words(step: Step) -> str:
    """Say in a line what a step did, by whom and why."""
    where = f" to {step.state.stage}" if step.kind in {"advanced", "jumped"} else ""
    kind = step.kind.replace("_", " ")
    return f"{step.at:%Y-%m-%d %H:%M:%S} {kind}{where} by {step.user}: {'; '.join(step.reasons)}"


def step_markdown(step: Step) -> str:
    """Return the evidence on which a step was taken, as Markdown."""
    lines = [f"- {reason}" for reason in step.reasons]
    criteria: Sequence[Mapping[str, Any]] = step.evidence.get("stage", {}).get("criteria", [])
    if criteria:
        lines += ["", "| limit | found | evidence that it is kept |", "|---|---|---:|"]
        lines += [f"| {one['name']} | {one['words']} | {odds(one['log_e_kept'])} |" for one in criteria]
    shadow: Mapping[str, Any] = step.evidence.get("shadow", {})
    if shadow.get("requests"):
        lines += ["", "| in the shadow | |", "|---|---:|"]
        lines += [f"| {name.replace('_', ' ')} | {_figure(value)} |" for name, value in shadow.items()]
    return "\n".join(lines)


def rollout_png(engine: Engine, rollout: str, path: Path) -> None:
    """Draw a rollout: the candidate's share of the users, evidence of harm and of kept limits, and its events.

    Raises:
        InputError: no such rollout.
        StorageError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    done = rollout_named(engine, rollout)
    policy = RolloutPolicy.model_validate(done[0].evidence["policy"])
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    share, evidence = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    _draw_share(share, done)
    _draw_evidence(evidence, looked(engine, rollout), policy, done)
    last = done[-1]
    figure.suptitle(f"{rollout}: {last.kind.replace('_', ' ')}")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _draw_share(axes: Any, done: Sequence[Step]) -> None:
    begin = done[0].at
    hours = [_hours(step.at, begin) for step in done]
    shares = [0.0 if step.state.status == "paused" else 100.0 * step.state.share for step in done]
    axes.step(hours, shares, where="post", color="C0")
    axes.fill_between(hours, shares, step="post", alpha=0.2, color="C0")
    axes.set_ylabel("users of the candidate, %")
    axes.set_ylim(0, 105)
    for step, hour in zip(done, hours, strict=True):
        colour = "C3" if step.kind == "rolled_back" else "0.4"
        axes.axvline(hour, color=colour, linewidth=0.8)
        label = step.state.stage if step.kind == "advanced" else step.kind.replace("_", " ")
        axes.annotate(label, (hour, 103), rotation=90, va="top", ha="right", fontsize="x-small", color=colour)


def _draw_evidence(axes: Any, looks: Sequence[Looked], policy: RolloutPolicy, done: Sequence[Step]) -> None:
    begin = done[0].at
    hours = [_hours(look.at, begin) for look in looks]
    axes.plot(hours, [_log10(look.log_e_harm) for look in looks], color="C3", label="harm")
    names = sorted({name for look in looks for name in look.log_e_kept})
    # Red is harm's.
    for colour, name in zip(("C0", "C1", "C2", "C4"), names, strict=False):
        values = [_log10(look.log_e_kept[name]) if name in look.log_e_kept else math.nan for look in looks]
        axes.plot(hours, values, linestyle="--", color=colour, label=f"{name} kept")
    guard = [
        (_hours(step.at, begin), step.evidence["guard"]["log_e_harm"]) for step in done if "guard" in step.evidence
    ]
    if guard:
        seen_at, log_e = zip(*guard, strict=True)
        label = "harm, found by the servers' guard"
        axes.plot(seen_at, [_log10(one) for one in log_e], linestyle="", marker="X", color="C3", label=label)
    axes.axhline(needed(policy.alpha_harm) / math.log(10), color="C3", linewidth=0.8, label="takes it back")
    axes.axhline(needed(policy.alpha_pass) / math.log(10), color="black", linewidth=0.8, label="passes the stage")
    for step in done:
        if step.kind in _SHOWN or not step.state.active:
            axes.axvline(_hours(step.at, begin), color="C3" if step.kind == "rolled_back" else "0.4", linewidth=0.8)
    axes.set_xlabel("hours since its start")
    axes.set_ylabel("evidence, powers of ten")
    axes.legend(fontsize="x-small", loc="lower left")


def _hours(at: Any, begin: Any) -> float:
    return float((at - begin).total_seconds() / 3600.0)


def _log10(log_e: float) -> float:
    return max(-_MOST_EVIDENCE, min(_MOST_EVIDENCE, log_e / math.log(10.0)))


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
