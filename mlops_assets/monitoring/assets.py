"""Assets of this room: what people read of what was served, and of the platform itself."""

from typing import TYPE_CHECKING

import dagster as dg

from mlops_assets.experiences.assets import OWNERS
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.partitions import AGENT_PARTITIONS, Outcome, each_agent, permanent_failures
from mlops_assets.foundation.resources import Platform
from mlops_assets.foundation.trigger import TRIGGER_TAG
from mlops_assets.governance.assets import approval

if TYPE_CHECKING:
    from mlops_assets.monitoring.findings import Alert
    from mlops_assets.monitoring.page import Published

GROUP = "monitoring"


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"numpy", "onnx"},
    partitions_def=AGENT_PARTITIONS,
    deps=[approval],
    description="What the champion's traffic is compared with: its held-out decisions as its own policy decides, frozen once.",
)
def drift_reference(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
    """Freeze the champion's reference; one that is frozen stays."""
    from mlops_assets.monitoring.frozen_references import frozen_reference

    def freeze(spec: AgentSpec) -> Outcome:
        version = _champion(platform, spec)
        if version is None:
            return _no_champion(spec)
        found = frozen_reference(
            platform.engine, spec, version, platform.profile.drift, paths=platform.paths, now=platform.clock.now()
        )
        state = "frozen" if found.frozen_now else "was frozen before"
        context.log.info(f"{spec.name}: reference of {version} {state}, {found.reference.rows:,} decisions")
        facts = {
            "version": version,
            "rows": found.reference.rows,
            "accuracy": found.accuracy,
            "mean_confidence": found.mean_confidence,
            "frozen_at": found.created_at.isoformat(),
            "columns": sorted(found.reference.columns),
        }
        known = {name: value for name, value in facts.items() if value is not None}
        return Outcome(record=facts, version=found.content_hash, metadata={**known, "frozen_now": found.frozen_now})

    return each_agent(context, platform, freeze)


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"numpy", "html"},
    partitions_def=AGENT_PARTITIONS,
    deps=[drift_reference],
    description=(
        "What the champion was asked and answered in the last hours, against its reference: drift of the inputs, of the "
        "predictions, of the concept and upstream; verdict, columns, pictures, Evidently's page. What is beyond the "
        "thresholds is an alert."
    ),
)
def drift_report(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
    """Check, keep, alert and publish; a window is checked once."""
    from mlops_assets.monitoring.channels import alert_routing
    from mlops_assets.monitoring.drift_reports import drift_report as report_drift
    from mlops_assets.monitoring.page import as_markdown, data_uri
    from mlops_assets.monitoring.window import newest_moment

    routing = alert_routing(platform.settings)
    data_clock = platform.settings.data_clock

    def check(spec: AgentSpec) -> Outcome:
        version = _champion(platform, spec)
        if version is None:
            return _no_champion(spec)
        newest = newest_moment(platform.engine, spec, platform.clock, data_clock=data_clock)
        done = report_drift(
            platform.engine,
            spec,
            version,
            platform.profile,
            platform.paths,
            routing,
            newest=newest,
            as_of=None if data_clock else newest,
            now=platform.clock.now(),
        )
        facts = done.facts()
        context.log.info(f"{spec.name}: {version} {facts['verdict']}, {facts['decisions']:,} decisions")
        context.log.info(f"{spec.name}: alerts: {', '.join(map(_in_words, done.alerts)) or 'none begins or ends'}")
        for other, reason in done.unchecked.items():
            context.log.warning(f"{spec.name}: {other} was not checked: {reason}")
        known = {name: value for name, value in facts.items() if value is not None}
        tables = {part.title: dg.MetadataValue.md(as_markdown(part)) for part in done.page.parts}
        pictures = {
            name: dg.MetadataValue.md(f"![{name}]({data_uri(picture)})") for name, picture in done.pictures.items()
        }
        return Outcome(
            record={**facts, "others": dict(done.others)},
            version=f"{done.check.reference.content_hash}-{facts['window_end']}",
            metadata={**known, **tables, **pictures, **_files(done.published)},
        )

    return each_agent(context, platform, check)


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"numpy", "html"},
    partitions_def=AGENT_PARTITIONS,
    description=(
        "What each agent served in the last hours, by version: quality on labelled decisions with intervals, latency, errors, "
        "data quality, against the version's own baseline; and the trend by day. What is beyond the thresholds is an alert."
    ),
)
def performance_report(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
    """Measure, publish and alert; a second run of a day replaces its report."""
    # scipy and pandas take a second to import, and the code location has to load without them.
    from mlops_assets.monitoring import reports
    from mlops_assets.monitoring.channels import alert_routing
    from mlops_assets.monitoring.page import as_markdown, data_uri
    from mlops_assets.monitoring.tell import tell
    from mlops_assets.monitoring.window import newest_moment

    routing = alert_routing(platform.settings)
    data_clock = platform.settings.data_clock

    def measure(spec: AgentSpec) -> Outcome:
        newest = newest_moment(platform.engine, spec, platform.clock, data_clock=data_clock)
        done = reports.performance_report(
            platform.engine,
            spec,
            platform.profile,
            platform.paths,
            newest=newest,
            # Decisions of a closed history lie in its past, and what came of them is told in the machine's present.
            as_of=None if data_clock else newest,
        )
        facts = done.facts()
        context.log.info(f"{spec.name}: {done.verdict}, {facts['decisions']:,} decisions")
        # Of the version that took most decisions: an alert is about the model that users have.
        for one in done.versions[:1]:
            changed = tell(platform.engine, spec, one, platform.profile.alert_thresholds, routing, platform.clock.now())
            context.log.info(f"{spec.name}: alerts: {', '.join(map(_in_words, changed)) or 'none begins or ends'}")
        known = {name: value for name, value in facts.items() if value is not None}
        tables = {part.title: dg.MetadataValue.md(as_markdown(part)) for part in done.page.parts}
        pictures = {
            name: dg.MetadataValue.md(f"![{name}]({data_uri(picture)})") for name, picture in done.pictures.items()
        }
        return Outcome(
            record=facts,
            version=f"{newest.isoformat()}-{facts['decisions']}",
            metadata={**known, **tables, **pictures, **_files(done.published)},
        )

    return each_agent(context, platform, measure)


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"sqlalchemy", "html"},
    deps=[performance_report],
    description="Service levels of the platform, each with formula, window, value, target and source; and its maturity level.",
)
def slo_report(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
    """Compute and publish; what cannot be measured is said to be unknown."""
    from mlops_assets.monitoring import reports
    from mlops_assets.monitoring.lifecycle_facts import training_runs
    from mlops_assets.monitoring.page import as_markdown

    with permanent_failures("slo_report"):
        now = platform.clock.now()
        # A run of another instance, or one that was deleted, has no trigger that anybody knows.
        runs = {run_id: context.instance.get_run_by_id(run_id) for run_id in training_runs(platform.engine)}
        triggers = {run_id: run.tags.get(TRIGGER_TAG, "manual") for run_id, run in runs.items() if run is not None}
        done = reports.slo_report(platform.engine, platform.profile, platform.paths, now=now, triggers=triggers)
        values = {figure.name: figure.value for figure in done.levels.figures if figure.value is not None}
        record = {"verdict": done.levels.verdict, "maturity": done.maturity.level, **values}
        platform.write_record("slo_report", "", context.run.run_id, record)
    context.log.info(f"service levels: {done.levels.verdict}; maturity level {done.maturity.level}")
    tables = {part.title: dg.MetadataValue.md(as_markdown(part)) for part in done.page.parts}
    return dg.MaterializeResult(
        metadata={**record, **tables, **_files(done.published)}, data_version=dg.DataVersion(now.isoformat())
    )


def _champion(platform: Platform, spec: AgentSpec) -> str | None:
    from mlops_assets.registry.catalogue import ModelCatalogue

    champion = ModelCatalogue(platform.settings.tracking_uri, platform.engine).champion(spec.registered_model)
    return None if champion is None else champion.semver


def _no_champion(spec: AgentSpec) -> Outcome:
    """An agent that nobody has trained is not ill."""
    words = f"{spec.registered_model} has no champion yet; run the job model_lifecycle for its agent first"
    facts = {"verdict": "insufficient_data", "reason": words}
    return Outcome(record=facts, version="none", metadata=facts)


def _in_words(alert: "Alert") -> str:
    return f"{alert.state.status}: {alert.finding.title}"


def _files(published: "Published") -> dict[str, dg.MetadataValue]:
    # Paths to copy: browsers refuse to follow file:// links from a page that came over http.
    return {"report": dg.MetadataValue.path(published.html), "report_json": dg.MetadataValue.path(published.json)}


MONITORING_ASSETS = [drift_reference, drift_report, performance_report, slo_report]
