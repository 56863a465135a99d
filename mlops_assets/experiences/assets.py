"""Assets of this room: test executions, experience snapshots, and the verdict on each snapshot."""

import dagster as dg

from mlops_assets.experiences.ingest import ingest
from mlops_assets.experiences.snapshots import collect_snapshot, open_snapshot, snapshot_before
from mlops_assets.experiences.sources import data_versions, execution_source, experience_source
from mlops_assets.experiences.validation import ValidationResult, validate_snapshot
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.partitions import AGENT_PARTITIONS, Outcome, each_agent, permanent_failures
from mlops_assets.foundation.resources import Platform

GROUP = "experiences"
OWNERS = ["team:mlops"]


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"parquet"},
    pool="executions",
    description="Every test execution known: test reports, CI histories or the simulator, read incrementally by content.",
)
def test_executions(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
    """Read what is new in the configured source into the store of executions."""
    with permanent_failures("test executions"):
        source = execution_source(platform.settings)
        report = ingest(source, paths=platform.paths, engine=platform.engine, now=platform.clock.now())
    context.log.info(
        f"{source.kind}: {report.rows} new executions, {report.files_read} files read, "
        f"{report.files_skipped} known already, {report.quarantined} rows quarantined"
    )
    return dg.MaterializeResult(
        metadata={
            "new_executions": report.rows,
            "source": source.kind,
            "files_read": report.files_read,
            "files_skipped": report.files_skipped,
            "quarantined": report.quarantined,
            "quarantine_reasons": dict(report.reasons),
            "first": str(report.first),
            "last": str(report.last),
        }
    )


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"parquet", "dvc"},
    partitions_def=AGENT_PARTITIONS,
    deps=[test_executions],
    pool="data_versions",
    description="One agent's newest experiences as an immutable snapshot, named by its content and versioned in DVC.",
)
def training_experiences(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
    """Collect what is new since the last success and publish the snapshot."""
    settings = platform.settings

    def collect(spec: AgentSpec) -> Outcome:
        snapshot = collect_snapshot(
            experience_source(settings, spec, platform.engine),
            spec,
            paths=platform.paths,
            engine=platform.engine,
            policy=platform.profile.data.named(settings.data_profile),
            now=platform.clock.now(),
            versions=data_versions(settings),
        )
        facts = {
            "data_hash": snapshot.data_hash,
            "rows": snapshot.rows,
            "new_rows": snapshot.new_rows,
            "source": snapshot.source,
            "dvc_md5": snapshot.dvc_md5 or "",
        }
        context.log.info(f"{spec.name}: {snapshot.rows} rows, {snapshot.new_rows} new, {snapshot.data_hash[:12]}")
        return Outcome(
            record=facts,
            version=snapshot.data_hash,
            metadata={
                **facts,
                "dagster/row_count": snapshot.rows,
                "first_event": str(snapshot.first_event),
                "last_event": str(snapshot.last_event),
                "label_cutoff": str(snapshot.label_cutoff),
                "folder": dg.MetadataValue.path(snapshot.folder),
            },
        )

    return each_agent(context, platform, collect)


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"greatexpectations"},
    partitions_def=AGENT_PARTITIONS,
    deps=[training_experiences],
    description="The Great Expectations verdict on a snapshot; nothing trains on a snapshot without a passed one.",
)
def data_validation_report(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
    """Validate the snapshot of this run and store the verdict."""
    settings = platform.settings

    def validate(spec: AgentSpec) -> Outcome:
        record = platform.record("training_experiences", spec.name, context.run.run_id)
        snapshot = open_snapshot(spec.name, record["data_hash"], paths=platform.paths, engine=platform.engine)
        result = validate_snapshot(
            snapshot,
            spec,
            platform.profile.data.named(settings.data_profile),
            previous=snapshot_before(snapshot, paths=platform.paths, engine=platform.engine),
            paths=platform.paths,
            engine=platform.engine,
            now=platform.clock.now(),
        )
        return Outcome(
            record={"data_hash": snapshot.data_hash, "passed": result.passed, "failed": list(result.failed)},
            version=snapshot.data_hash,
            metadata={
                "data_hash": snapshot.data_hash,
                "passed": result.passed,
                "rules": _counts(result),
                # A path to copy: browsers refuse to follow file:// links from a page that came over http.
                "data_docs": dg.MetadataValue.path(result.data_docs),
                "expectations": dg.MetadataValue.md(result.as_markdown()),
            },
        )

    return each_agent(context, platform, validate)


def _counts(result: ValidationResult) -> str:
    """The table of expectations opens on a click only, since it is long; this line is there at once."""
    hold = sum(outcome.verdict == "pass" for outcome in result.expectations)
    undecided = f", {len(result.insufficient_data)} could not be judged" if result.insufficient_data else ""
    broken = "".join(
        f"; {word}: {', '.join(names)}"
        for word, names in (("broken", result.failed), ("warning", result.warnings))
        if names
    )
    return f"{hold} of {len(result.expectations)} hold{undecided}{broken}"


EXPERIENCES_ASSETS = [test_executions, training_experiences, data_validation_report]
