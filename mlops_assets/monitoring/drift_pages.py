"""The page of a drift check that people read: verdict, what to do, findings, columns, pictures, and Evidently's own page."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.profiles import PolicyProfile
from mlops_assets.monitoring.drift_checks import DriftCheck
from mlops_assets.monitoring.evidently_report import draw_report
from mlops_assets.monitoring.frozen_references import reference_columns
from mlops_assets.monitoring.heatmap import drift_heatmap, psi_chart
from mlops_assets.monitoring.page import Page, Part, Published, publish

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from mlops_assets.foundation.tables import DriftCheckRecord

DRIFT = "drift_report"
PSI_PICTURE, HEATMAP = "PSI by column", "PSI by time and column"
_ALARMS = ("alarm", "verdict", "what was found")
_HEAD = ("column", "verdict", "PSI", "KS D", "Wasserstein, sigmas", "Cramér's V", "missing", "adjusted p")


def publish_check(
    engine: "Engine",
    spec: AgentSpec,
    check: DriftCheck,
    history: "Sequence[DriftCheckRecord]",
    profile: PolicyProfile,
    paths: ArtifactPaths,
) -> tuple[Page, Mapping[str, bytes], Published]:
    """Draw and publish a check: `drift_report.html` and `.json`, Evidently's page beside them where there is traffic.

    Args:
        engine: operational database.
        spec: the agent.
        check: the check.
        history: checks of the version, this one among them, for the heatmap.
        profile: bands, and how many rows Evidently draws.
        paths: where reports lie.

    Raises:
        NotReadyError: what the version was trained on does not lie here.
        StorageError: the report cannot be written.
    """
    version, window = check.reference.model_version, check.window
    folder = paths.monitoring(spec.name) / f"{window.end:%Y-%m-%d}" / f"drift-{version}-{window.end:%H%M%S}"
    pictures = _pictures(spec, check, history, profile)
    links = {}
    if len(window):
        import pandas as pd

        reference = pd.DataFrame(dict(reference_columns(engine, spec, version, paths=paths)))
        drawn = draw_report(
            reference,
            pd.DataFrame(check.columns_checked),
            folder / "evidently",
            sample_rows=profile.monitoring.report_sample_rows,
            title=f"{spec.registered_model} {version}",
        )
        links[f"Evidently's report ({drawn.note})"] = f"evidently/{drawn.html.name}"
    page = Page(
        f"{spec.registered_model} {version}: drift",
        check.verdict,
        f"{window.start:%Y-%m-%d %H:%M} to {window.end:%Y-%m-%d %H:%M} UTC, {len(window):,} decisions against "
        f"{check.reference.reference.rows:,} held-out ones, policy profile {profile.name}",
        [_summary(check, links), _learner(check), _columns(check, pictures)],
    )
    return page, pictures, publish(page, {"agent": spec.name, **check.document()}, folder, DRIFT)


def _pictures(
    spec: AgentSpec, check: DriftCheck, history: "Sequence[DriftCheckRecord]", profile: PolicyProfile
) -> Mapping[str, bytes]:
    policy, title = profile.drift, f"{spec.registered_model} {check.reference.model_version}"
    pictures = {}
    if check.drift.columns:
        bands = {"monitor": policy.psi_monitor, "warning": policy.psi_warning, "critical": policy.psi_critical}
        pictures[PSI_PICTURE] = psi_chart(check.document(), bands=bands, title=title)
    if any(one.document.get("columns") for one in history):
        pictures[HEATMAP] = drift_heatmap(history, critical=policy.psi_critical, title=title)
    return pictures


def _summary(check: DriftCheck, links: Mapping[str, str]) -> Part:
    accuracy = check.accuracy
    words = [check.drift.recommendation]
    if check.windows.newest:
        words.append(
            f"Of the newest {check.windows.hours:.1f} hours ({check.drift.rows:,} decisions), which differ from the same "
            "hours of the day before too; the whole window shows less."
        )
    if accuracy.accuracy is None:
        words.append(f"Accuracy: {accuracy.labelled:,} labelled decisions are too few to tell.")
    elif accuracy.drop_rel is None:
        words.append(f"Accuracy: {accuracy.accuracy.estimate:.1%}; the version's own is not known.")
    else:
        words.append(
            f"Accuracy: {accuracy.accuracy.estimate:.1%} of {accuracy.labelled:,} labelled decisions, "
            f"{accuracy.drop_rel:.1%} below the version's own {accuracy.baseline:.1%} ({accuracy.verdict})."
        )
    words += [f"{finding.verdict}: {finding.text}" for finding in check.drift.findings]
    return Part("What was found", words=words, links=links)


def _learner(check: DriftCheck) -> Part:
    learner = check.learner
    words = [*learner.words]
    if learner.estimate is not None:
        words.append(f"Without labels: {learner.estimate.words}.")
    if learner.loss is not None:
        words.append(f"Loss: {learner.loss.words}.")
    if learner.loss_per_day is not None:
        day = learner.loss_per_day
        words.append(f"A day's traffic loses {day.estimate:,.4g} of reward ({day.low:,.4g} to {day.high:,.4g}).")
    rows = [] if learner.health is None else [[one.alarm, one.verdict, one.words] for one in learner.health.findings]
    return Part("Does it hurt, and is the learner well", words=words, head=_ALARMS, rows=rows)


def _columns(check: DriftCheck, pictures: Mapping[str, bytes]) -> Part:
    rows = [
        [
            one.name,
            one.verdict,
            f"{one.statistics.psi:.3f}",
            *(
                "" if value is None else f"{value:.3f}"
                for value in (one.statistics.ks, one.statistics.wasserstein_sigmas, one.statistics.cramers_v)
            ),
            f"{one.statistics.missing_rate:.1%}",
            f"{one.adjusted_p:.2g}",
        ]
        for one in check.drift.columns
    ]
    return Part("Columns, the worst first", head=_HEAD, rows=rows, pictures=pictures)
