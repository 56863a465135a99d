"""The report of one experiment: a look at what has come in, the analysis, its words, its picture, its JSON."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine, func, select

from mlops_assets.experiments.analysis import ExperimentAnalysis, MetricAnalysis, judge
from mlops_assets.experiments.assignment import CONTROL, TREATMENT
from mlops_assets.experiments.bayes import Posterior
from mlops_assets.experiments.evidence import kept_history
from mlops_assets.experiments.experiments import Experiment, experiment_named
from mlops_assets.experiments.frequentist import MeanComparison
from mlops_assets.experiments.metrics import MetricScale
from mlops_assets.experiments.odds import MOST_EVIDENCE, odds_in_words
from mlops_assets.experiments.units import first_design, served_versions, take_look
from mlops_assets.experiments.versions import Versions
from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.files import atomic_write, canonical_json
from mlops_assets.foundation.profiles import PolicyProfile
from mlops_assets.foundation.tables import PredictionRecord

_POINTS = 400
# What a density is drawn over: all but one in a million.
_DRAWN_TAIL = 1e-6
_LEAST_DRAWN = -2.0
# A line of one look is no line: so few looks get dots.
_DOTTED_LOOKS = 30
# With it, a picture of PICTURE_INCHES is not wider than the window in which Dagster shows it.
PICTURE_DPI = 110
PICTURE_INCHES = 10.0


@dataclass(frozen=True)
class ExperimentReport:
    """An experiment, what was found at `looked_at` and is decided at level `alpha`, and where its files are."""

    experiment: Experiment
    analysis: ExperimentAnalysis
    alpha: float
    new_users: int
    looked_at: datetime
    versions: Versions
    json: Path
    picture: Path


def report_experiment(
    engine: Engine, name: str, profile: PolicyProfile, folder: Path, *, now: datetime, data_clock: bool = False
) -> ExperimentReport:
    """Take a look at an experiment now, analyse all looks, and write `report.json` and `evidence.png` below `folder`.

    With `data_clock`, now is the time of the experiment's newest decision, since decisions take place in the data's time.

    Raises:
        InputError: no such experiment.
        StorageError: the files cannot be written.
    """
    experiment = experiment_named(engine, name)
    first, newest = _span(engine, name)
    # Judged by the design of its first look: a limit that is moved later would choose among the past's answers.
    design = first_design(engine, name) or profile.ab_test
    moment = now
    if data_clock and newest is not None:
        # Of one that has ended, nothing more comes: its last users' windows are over.
        waited = timedelta(minutes=design.user_window_minutes + design.outcome_delay_minutes)
        moment = newest if experiment.status == "running" else newest + waited
    spec = agent_spec(experiment.agent)
    scale = MetricScale(spec.reward_low, spec.reward_high, {"slow": profile.governance.max_latency_ms})
    new_users = take_look(engine, name, design, scale, now=moment)
    analysis = judge(
        kept_history(engine, name, design),
        design,
        started=first or moment,
        arms=list(experiment.shares),
        without_users=[arm for arm, share in experiment.shares.items() if share == 0.0],
    )
    versions = served_versions(engine, name)
    files = folder / "report.json", folder / "evidence.png"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(files[0]) as temporary:
        temporary.write_text(canonical_json(_document(experiment, analysis, versions, moment)), encoding="utf-8")
    evidence_png(files[1], analysis, design.alpha, title=f"{name}: {analysis.verdict.replace('_', ' ')}")
    return ExperimentReport(experiment, analysis, design.alpha, new_users, moment, versions, *files)


def summary(report: ExperimentReport) -> str:
    """Return the decision in words, with the figures that it rests on, as Markdown."""
    analysis = report.analysis
    looks = f"{analysis.looks} {'look' if analysis.looks == 1 else 'looks'}"
    lines = [f"**{analysis.verdict.replace('_', ' ')}**: {'; '.join(analysis.reasons)}.", ""]
    lines += [line for words in report.versions.words() for line in (f"{words}.", "")]
    for arm, one in analysis.arms.items():
        split = f"{looks}; the traffic split is {'broken' if one.split.alarm else 'as it was set'}."
        lines += [
            f"{one.control_users:,} users of the control, {one.treatment_users:,} of the {_named(arm)}, {split}",
            "",
            *_table(list(one.metrics.values()), several=len(analysis.arms) > 1),
            "",
        ]
    lines.append(_decides(report.alpha, len(analysis.arms)))
    return "\n".join(lines)


def evidence_axis(axes: Any, *, least: float) -> None:
    """Say odds along the vertical axis of evidence, which is drawn as powers of ten between `least` and the most."""
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    def tick(power: float, _position: int | None) -> str:
        edge = "≥ " if power >= MOST_EVIDENCE else "≤ " if power <= least else ""
        return edge + odds_in_words(power * math.log(10.0))

    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -1.1), max(high, 2.1))
    axes.yaxis.set_major_locator(MultipleLocator(1.0))
    axes.yaxis.set_major_formatter(FuncFormatter(tick))
    axes.set_ylabel("evidence (e-value)")


def _decides(alpha: float, arms: int) -> str:
    needed = f"Evidence of {arms / alpha:,.3g} to 1 decides"
    if arms > 1:
        needed += f" on one treatment, and then of {1.0 / alpha:,.3g} to 1 on the last (Holm)"
    return f"{needed}; harm is that of all metrics together. 1 to 1 says nothing, and less speaks against it."


def _named(arm: str) -> str:
    return arm if arm == TREATMENT else f"treatment {arm}"


def _table(metrics: Sequence[MetricAnalysis], *, several: bool) -> list[str]:
    """A row for each metric; columns that could only be empty are left out."""
    adjusted = any(one.adjusted is not None for one in metrics)
    head = ["metric (0 is good)", "control", "treatment", "difference in points (95% CI)"]
    head += ["adjusted by the time before (CUPED)"] * adjusted
    head += ["P(treatment better)", "evidence of harm", "evidence of limit kept"] + ["p, Holm"] * several
    rows = [_cells(one, adjusted=adjusted, several=several) for one in metrics]
    rule = f"|---|{'---:|' * (len(head) - 1)}"
    return [_row(head), rule, *(_row(row + ["–"] * (len(head) - len(row))) for row in rows)]


def _cells(one: MetricAnalysis, *, adjusted: bool, several: bool) -> list[str]:
    if one.means is None:
        return [one.name, "–", "–", "not observed in both arms"]
    cells = [one.name, f"{one.means.control_mean:.2%}", f"{one.means.treatment_mean:.2%}", _difference(one.means)]
    if adjusted and one.adjusted is None:
        cells.append("–")
    elif one.adjusted is not None:
        cells.append(f"{_difference(one.adjusted.means)} ({one.adjusted.variance_reduction:.0%} less variance)")
    cells.append("–" if one.bayes is None else f"{one.bayes.prob_treatment_better:.1%}")
    cells += [odds_in_words(one.log_e_harm), odds_in_words(one.log_e_kept)]
    if several and one.p_adjusted is not None:
        cells.append(f"{one.p_adjusted:.3g}")
    return cells


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _difference(means: MeanComparison) -> str:
    interval = (
        "" if means.low is None or means.high is None else f" ({100 * means.low:+.2f} to {100 * means.high:+.2f})"
    )
    return f"{100 * means.difference:+.2f}{interval}"


def evidence_png(path: Path, analysis: ExperimentAnalysis, alpha: float, *, title: str) -> None:
    """Draw evidence over the looks, and the posteriors of metrics whose outcomes are yes or no; a row for each treatment.

    Raises:
        StorageError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    arms = len(analysis.arms)
    figure = Figure(figsize=(PICTURE_INCHES, 5.0 * arms), layout="constrained")
    FigureCanvasAgg(figure)
    for (arm, found), (over_time, posterior) in zip(
        analysis.arms.items(), figure.subplots(arms, 2, squeeze=False), strict=True
    ):
        _draw_evidence(over_time, list(found.metrics.values()), alpha / arms)
        _draw_posteriors(posterior, found.metrics.values(), arm)
        if arms > 1:
            over_time.set_title(arm)
            posterior.set_title(arm)
    figure.suptitle(title)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=PICTURE_DPI)


def _draw_evidence(over_time: Any, metrics: Sequence[MetricAnalysis], alpha: float) -> None:
    from matplotlib.ticker import MaxNLocator

    looks = range(1, max((len(one.harm_over_time) for one in metrics), default=0) + 1)
    dot, cross = (".", "x") if len(looks) <= _DOTTED_LOOKS else ("", "")
    for number, one in enumerate(metrics):
        harm, kept = ([_log10(e) for e in over] for over in (one.harm_over_time, one.kept_over_time))
        colour = f"C{number}"
        over_time.plot(looks, kept, color=colour, linestyle="--", marker=dot, label=f"{one.name}: limit kept")
        over_time.plot(looks, harm, color=colour, linewidth=0.8, marker=cross, markersize=4, label=f"{one.name}: harm")
    together = np.logaddexp.reduce([one.harm_over_time for one in metrics]) - np.log(len(metrics))
    over_time.plot(
        looks, [_log10(e) for e in together], color="black", linewidth=2.0, marker=cross, label="harm of all together"
    )
    label = f"decides, at {1.0 / alpha:,.3g} to 1"
    over_time.axhline(-math.log10(alpha), color="black", linewidth=0.8, linestyle=":", label=label)
    over_time.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    over_time.set_xlim(0.5, max(2, len(looks)) + 0.5)
    over_time.set_xlabel("look")
    evidence_axis(over_time, least=_LEAST_DRAWN)
    _legend_below(over_time)


def _draw_posteriors(posterior: Any, metrics: Iterable[MetricAnalysis], treatment: str) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    drawn = False
    for number, one in enumerate(metrics):
        if one.bayes is None or one.means is None:
            continue
        for arm, mean, users, line in (
            (CONTROL, one.means.control_mean, one.control_users, ":"),
            (treatment, one.means.treatment_mean, one.treatment_users, "-"),
        ):
            rates, density = _density(Posterior.of(round(mean * users), users))
            posterior.plot(rates, density, line, color=f"C{number}", label=f"{one.name}: {arm}")
            drawn = True
    posterior.set_xlabel("rate (0% is good)")
    posterior.set_ylabel("posterior density, largest is 1")
    posterior.xaxis.set_major_locator(MaxNLocator(6))
    posterior.xaxis.set_major_formatter(PercentFormatter(1.0))
    if drawn:
        _legend_below(posterior)
    else:
        words = "no rates of both arms yet"
        posterior.text(0.5, 0.5, words, transform=posterior.transAxes, ha="center", va="center")


def _legend_below(axes: Any) -> None:
    """Put the legend where it covers no line."""
    axes.legend(fontsize="x-small", ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))


def _density(posterior: Posterior) -> tuple[Any, Any]:
    from scipy import stats

    known = stats.beta(posterior.a, posterior.b)
    rates = np.linspace(known.ppf(_DRAWN_TAIL), known.isf(_DRAWN_TAIL), _POINTS)
    density = known.pdf(rates)
    return rates, density / density.max()


def _span(engine: Engine, name: str) -> tuple[datetime | None, datetime | None]:
    with read_transaction(engine) as session:
        query = select(func.min(PredictionRecord.event_time), func.max(PredictionRecord.event_time))
        first, newest = session.execute(query.where(PredictionRecord.experiment == name)).one()
    return first, newest


def _document(
    experiment: Experiment, analysis: ExperimentAnalysis, versions: Versions, moment: datetime
) -> Mapping[str, Any]:
    found = asdict(analysis)
    for arm in found["arms"].values():
        # JSON has no infinity: evidence that is proof.
        arm["split"]["log_e"] = min(arm["split"]["log_e"], 1e308)
        for one in arm["metrics"].values():
            one["limit"] = one["limit"].model_dump()
    return {
        "experiment": experiment.name,
        "agent": experiment.agent,
        "status": experiment.status,
        "treatments": {arm: vars(one) for arm, one in experiment.treatments.items()},
        "looked_at": moment,
        "versions": versions.pinned,
        "not_counted": versions.others,
        **found,
    }


def _log10(log_e: float) -> float:
    return max(_LEAST_DRAWN, min(MOST_EVIDENCE, log_e / math.log(10.0)))
