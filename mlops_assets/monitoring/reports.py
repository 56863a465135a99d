"""The two reports of a day: performance of each agent, and service levels of the platform; measured, drawn, published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Engine

from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.profiles import PolicyProfile
from mlops_assets.monitoring.baseline import Baseline, baseline_of
from mlops_assets.monitoring.figures import Figure, in_words
from mlops_assets.monitoring.maturity import LEVELS, Maturity, maturity
from mlops_assets.monitoring.page import Page, Part, Published, publish
from mlops_assets.monitoring.performance import Performance, measure
from mlops_assets.monitoring.pictures import trend_picture, window_picture
from mlops_assets.monitoring.slo import ServiceLevels, service_levels
from mlops_assets.monitoring.summary import Summary, daily_trend, monitoring_summary
from mlops_assets.monitoring.window import read_window, served_versions

PERFORMANCE, SLO = "performance_report", "slo_report"
PLATFORM: Final = "platform"
TREND_PICTURE, WINDOW_PICTURE = "trend by day", "within the window"
_FIGURES_HEAD: Final = ("figure", "value", "interval", "limit", "standing", "how", "from")
_MOMENT: Final = timedelta(microseconds=1)


@dataclass(frozen=True)
class PerformanceReport:
    """What one agent served in a window; `versions` by decisions, the most first, and empty when it served nothing."""

    summaries: Sequence[Summary]
    trend: Sequence[Summary]
    versions: Sequence[Performance]
    page: Page
    pictures: Mapping[str, bytes]
    published: Published

    @property
    def verdict(self) -> str:
        """Of the version that took most decisions."""
        return self.page.verdict

    def facts(self) -> dict[str, Any]:
        """What service levels, overview and model cards need of it; None is unknown.

        `accuracy_rolling`: of all labelled decisions of the trend's days.
        """
        labelled = sum(day.labelled for day in self.trend)
        right = sum(day.labelled * day.avg_accuracy for day in self.trend if day.avg_accuracy is not None)
        main = self.versions[0] if self.versions else None
        names = ("accuracy", "accuracy_drop", "latency_p95_ms", "error_rate")
        return {
            "version": None if main is None else main.window.version,
            "verdict": self.verdict,
            "decisions": 0 if main is None else main.window.total,
            **{name: None if main is None else main.figure(name).value for name in names},
            "accuracy_rolling": right / labelled if labelled else None,
        }


@dataclass(frozen=True)
class SloReport:
    """Service levels and maturity of the platform."""

    levels: ServiceLevels
    maturity: Maturity
    page: Page
    published: Published


def performance_report(
    engine: Engine,
    spec: AgentSpec,
    profile: PolicyProfile,
    paths: ArtifactPaths,
    *,
    newest: datetime,
    as_of: datetime | None,
) -> PerformanceReport:
    """Measure what one agent served in the window that ends just after `newest`, and publish the report.

    Args:
        engine: operational database.
        spec: the agent.
        profile: limits.
        paths: where reports and evaluations lie.
        newest: on the clock of the decisions.
        as_of: outcomes that came later do not count; None for all.

    Raises:
        InputError: a version's validation report is damaged.
        StorageError: the report cannot be written, or the database does not answer.
    """
    policy = profile.monitoring
    end = newest + _MOMENT
    start = end - timedelta(hours=policy.window_hours)
    summaries = monitoring_summary(engine, spec, start, end, policy)
    trend = daily_trend(engine, spec, end, policy)
    versions = [
        measure(
            read_window(engine, spec, start, end, version=version, as_of=as_of),
            spec,
            policy,
            profile.evaluation,
            baseline_of(engine, spec, version, paths),
        )
        for version in served_versions(engine, spec, start, end)
    ]
    pictures = {TREND_PICTURE: trend_picture(trend, title=f"{spec.registered_model}: trend by day")}
    if versions:
        main = versions[0]
        title = f"{spec.registered_model} {main.window.version}: {start:%m-%d %H:%M} to {end:%m-%d %H:%M} UTC"
        pictures[WINDOW_PICTURE] = window_picture(
            main.window, main.baseline, concept_window=policy.concept_window, title=title
        )
    page = Page(
        f"{spec.registered_model}: performance",
        versions[0].verdict if versions else "insufficient_data",
        f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, policy profile {profile.name}",
        [_summary_part(summaries), *(_version_part(one) for one in versions), _trend_part(trend, pictures)],
    )
    document = {
        "agent": spec.name,
        "start": start,
        "end": end,
        "policy_profile": profile.name,
        "verdict": page.verdict,
        "summaries": [summary.to_json() for summary in summaries],
        "versions": [one.to_json() for one in versions],
        "trend": [day.to_json() for day in trend],
    }
    published = publish(page, document, paths.monitoring(spec.name) / f"{newest:%Y-%m-%d}", PERFORMANCE)
    return PerformanceReport(summaries, trend, versions, page, pictures, published)


def slo_report(
    engine: Engine, profile: PolicyProfile, paths: ArtifactPaths, *, now: datetime, triggers: Mapping[str, str]
) -> SloReport:
    """Compute service levels and maturity, and publish the report; see `service_levels`.

    Raises:
        StorageError: the report cannot be written, or the database does not answer.
    """
    levels = service_levels(engine, profile.monitoring, now=now, triggers=triggers)
    score = maturity(engine, triggers)
    target = profile.monitoring.maturity_target
    page = Page(
        "Service levels of the platform",
        levels.verdict,
        f"{levels.start:%Y-%m-%d} to {levels.end:%Y-%m-%d %H:%M} UTC, policy profile {profile.name}",
        [slo_part(levels), maturity_part(score, target)],
    )
    document = {**levels.to_json(), "policy_profile": profile.name, "maturity": {**score.to_json(), "target": target}}
    published = publish(page, document, paths.monitoring(PLATFORM) / f"{now:%Y-%m-%d}", SLO)
    return SloReport(levels, score, page, published)


def slo_part(levels: ServiceLevels) -> Part:
    """Return the table of the service levels."""
    rows = [
        [one.name, in_words(one.value, one.unit), _limit(one), one.standing, one.formula, one.window, one.source]
        for one in levels.figures
    ]
    return Part("Service levels", head=("level", "value", "target", "standing", "formula", "window", "from"), rows=rows)


def maturity_part(score: Maturity, target: int) -> Part:
    """Return the table of the maturity items."""
    words = f"Level {score.level} ({LEVELS[score.level]}), score {score.score:.2f}; the target is level {target}."
    rows = [[str(item.level), item.name.replace("_", " "), item.standing, item.evidence] for item in score.items]
    return Part("Maturity", [words], ("level", "item", "standing", "evidence"), rows)


def daily_text(engine: Engine, spec: AgentSpec, profile: PolicyProfile, *, newest: datetime) -> str:
    """Return the text of the daily mail about one agent: summary by version, and the trend."""
    from mlops_assets.monitoring.page import as_text

    end = newest + _MOMENT
    start = end - timedelta(hours=profile.monitoring.window_hours)
    summaries = monitoring_summary(engine, spec, start, end, profile.monitoring)
    trend = daily_trend(engine, spec, end, profile.monitoring)
    subtitle = f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
    return as_text(
        Page(
            f"{spec.registered_model}: daily report",
            summaries[0].status,
            subtitle,
            [_summary_part(summaries), _trend_part(trend, {})],
        )
    )


def _summary_part(summaries: Sequence[Summary]) -> Part:
    head = (
        "version", "status", "decisions", "accuracy", "errors", "latency mean", "p50", "p95", "p99", "per hour",
        "data quality", "drift incidents", "alerts (critical, warning, info)",
    )  # fmt: skip
    return Part("Summary", head=head, rows=[_summary_row(one, one.version or "all") for one in summaries])


def _summary_row(one: Summary, name: str) -> list[str]:
    alerts = ", ".join(str(one.alerts[severity]) for severity in one.alerts)
    latencies = (one.avg_latency_ms, one.latency_p50_ms, one.latency_p95_ms, one.latency_p99_ms)
    return [
        name,
        one.status,
        f"{one.total_predictions:,}",
        in_words(one.avg_accuracy, "share"),
        in_words(one.avg_error_rate, "share"),
        *(in_words(value, "ms") for value in latencies),
        in_words(one.throughput_per_hour, ""),
        in_words(one.avg_data_quality, "share"),
        str(one.drift_incidents),
        alerts,
    ]


def _trend_part(trend: Sequence[Summary], pictures: Mapping[str, bytes]) -> Part:
    head = ("day", "status", "decisions", "accuracy", "errors", "latency p95", "confidence", "drift incidents")
    rows = [
        [
            f"{day.start:%Y-%m-%d}",
            day.status,
            f"{day.total_predictions:,}",
            in_words(day.avg_accuracy, "share"),
            in_words(day.avg_error_rate, "share"),
            in_words(day.latency_p95_ms, "ms"),
            in_words(day.avg_confidence, ""),
            str(day.drift_incidents),
        ]
        for day in trend
    ]
    return Part(f"The last {len(trend)} calendar days (UTC)", head=head, rows=rows, pictures=pictures)


def _version_part(one: Performance) -> Part:
    window = one.window
    read = f"all {window.total:,}" if not window.sampled else f"a sample of {len(window):,} of {window.total:,}"
    words = [f"{one.verdict.replace('_', ' ')}; from {read} decisions; baseline: {_baseline(one.baseline)}."]
    rows = [
        [
            figure.name.replace("_", " "),
            in_words(figure.value, figure.unit),
            _interval(one, figure),
            _limit(figure),
            figure.standing if figure.target is not None else "–",
            figure.formula,
            figure.source,
        ]
        for figure in one.figures
    ]
    return Part(f"Version {window.version}", words, _FIGURES_HEAD, rows)


def _baseline(baseline: Baseline) -> str:
    return f"accuracy {in_words(baseline.accuracy, 'share')}, {baseline.source}"


def _interval(one: Performance, figure: Figure) -> str:
    found = one.intervals.get(figure.name)
    if found is None or found.low is None or found.high is None:
        return "–"
    return f"{in_words(found.low, figure.unit)} to {in_words(found.high, figure.unit)}"


def _limit(figure: Figure) -> str:
    return "–" if figure.target is None else f"{figure.comparison} {in_words(figure.target, figure.unit)}"
