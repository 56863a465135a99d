"""What people read of a rollout: its state and steps in words, and the picture of share, evidence and events over time."""

import math
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from mlops_assets.experiments.odds import MOST_EVIDENCE, odds_in_words
from mlops_assets.experiments.report import PICTURE_DPI, PICTURE_INCHES, evidence_axis
from mlops_assets.foundation.files import atomic_write
from mlops_assets.rollout.advance import needed
from mlops_assets.rollout.ledger import rollout_named
from mlops_assets.rollout.looks import Looked, looked
from mlops_assets.rollout.state import RolloutState, Step

_SHOWN = {"advanced", "paused", "resumed", "jumped", "stalled"}
# Steps that are nearer to each other than this part of the picture's width share a label.
_LABEL_WIDTH = 0.025
_MOST_LABELS = 3
# Red is harm's.
_COLOURS = ("C0", "C1", "C2", "C4", "C5", "C6", "C7")
_LIMITS = {"floor": "accuracy floor"}
# What shadow findings are, in words, and how each is written.
_SHADOW = {
    "requests": ("requests to the champion", "{:,}"),
    "answered": ("answered by the candidate, too", "{:,}"),
    "agreement": ("same action as the champion", "{:.1%}"),
    "illegal": ("illegal actions", "{:,}"),
    "request_ms": ("whole request to the champion, 95th percentile", "{:.4g} ms"),
    "champion_ms": ("evaluation of the champion, 95th percentile", "{:.4g} ms"),
    "candidate_ms": ("evaluation of the candidate, 95th percentile", "{:.4g} ms"),
    "labelled": ("answered, and the best action is known", "{:,}"),
    "champion_accuracy": ("accuracy of the champion", "{:.1%}"),
    "candidate_accuracy": ("accuracy of the candidate", "{:.1%}"),
    "accuracy_gain_lower": ("gain of accuracy, at least", "{:+.1%} points"),
    "accuracy_gain_upper": ("gain of accuracy, at most", "{:+.1%} points"),
    "value_gain_lower": ("gain of reward, part of its range, at least", "{:+.1%} points"),
    "value_gain_upper": ("gain of reward, part of its range, at most", "{:+.1%} points"),
}


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
    criteria: Sequence[Mapping[str, Any]] = step.evidence.get("stage", {}).get("criteria", [])
    # What a stage was passed for is the table.
    told = {one["words"] for one in criteria} if step.kind in {"advanced", "promoting"} else set()
    lines = [f"- {reason}" for reason in step.reasons if not any(words in reason for words in told)]
    if criteria:
        lines += ["", "| limit | found | evidence that it is kept |", "|---|---|---:|"]
        lines += [
            f"| {_limit(one['name'])} | {one['words']} | {odds_in_words(one['log_e_kept'])} |" for one in criteria
        ]
    shadow: Mapping[str, Any] = step.evidence.get("shadow", {})
    if shadow.get("requests"):
        lines += ["", "| in the shadow | found |", "|---|---:|"]
        lines += [f"| {words} | {figure} |" for words, figure in _shadow_rows(shadow)]
    return "\n".join(lines).strip("\n")


def rollout_png(engine: Engine, rollout: str, path: Path) -> None:
    """Draw a rollout into a file, see `rollout_picture`.

    Raises:
        InputError: no such rollout.
        StorageError: the file cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(rollout_picture(engine, rollout))


def rollout_picture(engine: Engine, rollout: str) -> bytes:
    """Draw a rollout: the candidate's share of the users, evidence of harm and of kept limits, and its steps; as PNG.

    Raises:
        InputError: no such rollout.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    done = rollout_named(engine, rollout)
    looks = looked(engine, rollout)
    figure = Figure(figsize=(PICTURE_INCHES, 7.0), layout="constrained")
    FigureCanvasAgg(figure)
    share, evidence = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    _draw_share(share, done, looks)
    _draw_evidence(evidence, looks, done)
    evidence.set_xlabel(f"hours since {done[0].at:%Y-%m-%d %H:%M} UTC")
    last = done[-1].state
    figure.align_ylabels()
    figure.suptitle(f"{rollout}: {last.status.replace('_', ' ')}, {last.stage.replace('_', ' ')}")
    figure.legend(*evidence.get_legend_handles_labels(), fontsize="small", ncols=3, loc="outside lower center")
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=PICTURE_DPI)
    return picture.getvalue()


def _draw_share(axes: Any, done: Sequence[Step], looks: Sequence[Looked]) -> None:
    begin = done[0].at
    hours = [_hours(step.at, begin) for step in done]
    shares = [0.0 if step.state.status == "paused" else 100.0 * step.state.share for step in done]
    # What the last step gave the users, they have until somebody looked for the last time.
    end = max([hours[-1], *(_hours(look.at, begin) for look in looks)] if done[-1].state.active else hours)
    axes.step([*hours, end], [*shares, shares[-1]], where="post", color="C0")
    axes.fill_between([*hours, end], [*shares, shares[-1]], step="post", alpha=0.2, color="C0")
    axes.set_ylabel("users with\nthe candidate, %")
    axes.set_ylim(0, 105)
    for step, hour in zip(done, hours, strict=True):
        axes.axvline(hour, color=_colour(step), linewidth=0.8)
    for near in _near(done, _LABEL_WIDTH * end):
        labels = [_label(step) for step in near]
        if len(labels) > _MOST_LABELS:
            labels = [labels[0], "…", labels[-1]]
        at, colour = _hours(near[0].at, begin), _colour(near[-1])
        axes.annotate(
            ", ".join(labels), (at, 103), (-1, 0), textcoords="offset points", rotation=90, va="top", ha="right",
            fontsize="x-small", color=colour,
        )  # fmt: skip


def _near(done: Sequence[Step], hours: float) -> Iterator[list[Step]]:
    """Steps in groups, each within so many hours of its first."""
    group: list[Step] = []
    for step in done:
        if group and _hours(step.at, group[0].at) > hours:
            yield group
            group = []
        group.append(step)
    yield group


def _label(step: Step) -> str:
    stage = step.state.stage.replace("_", " ")
    return {"advanced": f"to {stage}", "jumped": f"back to {stage}"}.get(step.kind, step.kind.replace("_", " "))


def _colour(step: Step) -> str:
    return "C3" if step.kind == "rolled_back" else "0.4"


def _draw_evidence(axes: Any, looks: Sequence[Looked], done: Sequence[Step]) -> None:
    # Not as a RolloutPolicy: a rollout of long ago is drawn, too, whose policy may have had other fields.
    begin, policy = done[0].at, done[0].evidence["policy"]
    hours = [_hours(look.at, begin) for look in looks]
    # A line of one look is no line.
    dot: dict[str, Any] = {"marker": "o", "markersize": 4, "markevery": slice(max(0, len(looks) - 1), None)}
    axes.plot(hours, [_log10(look.log_e_harm) for look in looks], color="C3", label="harm, any limit", **dot)
    names = sorted({name for look in looks for name in look.log_e_kept})
    for colour, name in zip(cycle(_COLOURS), names, strict=False):
        values = [_log10(look.log_e_kept[name]) if name in look.log_e_kept else math.nan for look in looks]
        axes.plot(hours, values, linestyle="--", color=colour, label=f"{_limit(name)} kept", **dot)
    guard = [
        (_hours(step.at, begin), step.evidence["guard"]["log_e_harm"]) for step in done if "guard" in step.evidence
    ]
    if guard:
        seen_at, log_e = zip(*guard, strict=True)
        label = "harm, found by the servers' guard"
        axes.plot(seen_at, [_log10(one) for one in log_e], linestyle="", marker="X", color="C3", label=label)
    for alpha, colour, what in (
        (policy["alpha_harm"], "C3", "harm from here on: rollback"),
        (policy["alpha_pass"], "black", "every limit from here on: stage passed"),
    ):
        label = f"{what} ({odds_in_words(needed(alpha))})"
        axes.axhline(needed(alpha) / math.log(10), color=colour, linewidth=0.8, linestyle=":", label=label)
    for step in done:
        if step.kind in _SHOWN or not step.state.active:
            axes.axvline(_hours(step.at, begin), color=_colour(step), linewidth=0.8)
    evidence_axis(axes, least=-MOST_EVIDENCE)


def _hours(at: Any, begin: Any) -> float:
    return float((at - begin).total_seconds() / 3600.0)


def _log10(log_e: float) -> float:
    return max(-MOST_EVIDENCE, min(MOST_EVIDENCE, log_e / math.log(10.0)))


def _limit(name: str) -> str:
    return _LIMITS.get(name, name)


def _shadow_rows(shadow: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in shadow.items():
        words, form = _SHADOW.get(name, (name.replace("_", " "), "{}"))
        yield words, "–" if value is None else form.format(value)
