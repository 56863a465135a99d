"""The verdict on a snapshot: rules run by Great Expectations, data docs for people, a record that training asks for.

The only module that speaks to Great Expectations. The rules are in `validation_rules.py`, the frames in
`validation_data.py`.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Engine, delete, select

from mlops_assets.experiences.collection import quarantined_rows
from mlops_assets.experiences.snapshots import REJECTED, VALIDATED, Snapshot
from mlops_assets.experiences.validation_data import FailingRow, frame_statistics, snapshot_frame
from mlops_assets.experiences.validation_rules import (
    Facts,
    Rule,
    Severity,
    Undecided,
    fact_rules,
    shift_rules,
    snapshot_rules,
)
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.database import transaction
from mlops_assets.foundation.errors import NotReadyError
from mlops_assets.foundation.files import atomic_folder, storage_errors
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.policies import DataPolicy
from mlops_assets.foundation.tables import SnapshotRecord, ValidationRecord

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.data_context import EphemeralDataContext

Verdict = Literal["pass", "fail", "insufficient_data"]

SNAPSHOT_SUITE = "training_experiences"
FACTS_SUITE = "collection"
SHIFT_SUITE = "shift_from_previous"
_SITE = "data_docs"
_RESULT = "result.json"
_CELL_LENGTH = 80


@dataclass(frozen=True)
class ExpectationOutcome:
    """What became of one rule. `observed` is None where the expectation looks at rows and finds none that break it."""

    suite: str
    name: str
    verdict: Verdict
    severity: Severity
    expected: str
    observed: float | str | None
    details: Mapping[str, float]


@dataclass(frozen=True)
class ValidationResult:
    """The verdict on one snapshot.

    `quality_score` (0..1) is the share of rows that were not quarantined times the share of decided rules that hold.
    `data_docs` is the HTML page to open, `report` the same result as JSON.
    """

    agent: str
    data_hash: str
    passed: bool
    expectations: tuple[ExpectationOutcome, ...]
    failing_rows: tuple[FailingRow, ...]
    quarantined: int
    quality_score: float
    data_docs: Path
    report: Path

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the critical rules that are broken: why the snapshot is rejected."""
        return tuple(o.name for o in self.expectations if o.verdict == "fail" and o.severity == "critical")

    @property
    def warnings(self) -> tuple[str, ...]:
        """Names of the broken rules that reject nothing."""
        return tuple(o.name for o in self.expectations if o.verdict == "fail" and o.severity == "warning")

    @property
    def insufficient_data(self) -> tuple[str, ...]:
        """Names of the rules that could not be judged."""
        return tuple(o.name for o in self.expectations if o.verdict == "insufficient_data")

    def as_markdown(self) -> str:
        """Return the outcomes as a table, what needs attention first."""
        rank = {"fail": 0, "insufficient_data": 1, "pass": 2}
        ordered = sorted(self.expectations, key=lambda outcome: (rank[outcome.verdict], outcome.severity))
        rows = [
            f"| {o.verdict} | {o.severity} | {o.name} | {_cell(o.expected)} | {_cell(_shown(o.observed))} |"
            for o in ordered
        ]
        return "\n".join(["| verdict | severity | rule | expected | observed |", "|---|---|---|---|---|", *rows])


@dataclass(frozen=True)
class _Suite:
    name: str
    frame: "pd.DataFrame"
    rules: Sequence[Rule]


def validate_snapshot(
    snapshot: Snapshot,
    spec: AgentSpec,
    policy: DataPolicy,
    *,
    previous: Snapshot | None,
    paths: ArtifactPaths,
    engine: Engine,
    now: datetime,
) -> ValidationResult:
    """Judge a snapshot, write data docs and result, and record the verdict; only a passed one may be trained on.

    `previous` is the snapshot that its new decisions are compared with, None for no comparison. The age of the newest
    decision is taken at `now`, or, for a history that has ended, at its end. A second call replaces the first verdict.

    Raises:
        NotReadyError: the snapshot was never published.
        StorageError: the disk is full or read-only.
    """
    moment = now if snapshot.live else snapshot.label_cutoff
    facts = Facts(new_rows=snapshot.new_rows, age_hours=round((moment - snapshot.last_event).total_seconds() / 3600, 3))
    baseline = None if previous is None else frame_statistics(snapshot_frame(previous, spec), spec)
    frame = snapshot_frame(snapshot, spec)
    suites = [
        _Suite(FACTS_SUITE, facts.frame(), list(fact_rules(policy))),
        _Suite(SNAPSHOT_SUITE, frame, snapshot_rules(spec, policy, list(frame.columns), baseline)),
    ]
    undecided: list[Undecided] = []
    if previous is not None and baseline is not None:
        new = snapshot_frame(snapshot, spec, after=previous.last_event)
        rules, undecided = shift_rules(spec, policy, baseline, frame_statistics(new, spec))
        suites += [_Suite(SHIFT_SUITE, new, rules)] if rules else []
    quarantined = quarantined_rows(engine, snapshot.agent, snapshot.source)
    folder = paths.validation(snapshot.agent, snapshot.data_hash) / f"at-{now.astimezone(UTC):%Y%m%dT%H%M%S%fZ}"
    result = _run(snapshot, suites, undecided, quarantined, folder, now)
    _record(engine, result, now)
    _remove_all_but(folder)
    return result


def _remove_all_but(folder: Path) -> None:
    """Remove what earlier verdicts on the same snapshot, or killed ones, have left."""
    with storage_errors(folder):
        for other in folder.parent.iterdir():
            if other != folder:
                shutil.rmtree(other)


def _run(
    snapshot: Snapshot,
    suites: Sequence[_Suite],
    undecided: Sequence[Undecided],
    quarantined: int,
    folder: Path,
    now: datetime,
) -> ValidationResult:
    with atomic_folder(folder) as temporary:
        context = _context(temporary / _SITE)
        outcomes = [outcome for suite in suites for outcome in _outcomes(context, suite, snapshot, now)]
        context.build_data_docs()
        _list_pages(temporary / _SITE)
        outcomes += [
            ExpectationOutcome(SHIFT_SUITE, rule.name, "insufficient_data", "warning", rule.reason, None, {})
            for rule in undecided
        ]
        broken = {(o.suite, o.name) for o in outcomes if o.verdict == "fail"}
        result = ValidationResult(
            agent=snapshot.agent,
            data_hash=snapshot.data_hash,
            passed=not any(o.verdict == "fail" and o.severity == "critical" for o in outcomes),
            expectations=tuple(outcomes),
            failing_rows=tuple(
                row
                for suite in suites
                for rule in suite.rules
                if (suite.name, rule.name) in broken
                for row in rule.failing_rows(suite.frame)
            ),
            quarantined=quarantined,
            quality_score=_quality(snapshot.rows, quarantined, outcomes),
            data_docs=folder / _SITE / "index.html",
            report=folder / _RESULT,
        )
        (temporary / _RESULT).write_text(json.dumps(asdict(result), default=str, indent=2), encoding="utf-8")
    return result


def _list_pages(site: Path) -> None:
    """Put plain links on top of the index, whose own tables are filled by scripts from public servers: empty offline."""
    index = site / "index.html"
    pages = sorted(page.relative_to(site).as_posix() for page in site.rglob("*.html") if page != index)
    links = "".join(f'<li><a href="{page}">{page}</a></li>' for page in pages)
    text = index.read_text(encoding="utf-8")
    index.write_text(text.replace("<body>", f"<body>\n<ul>{links}</ul>", 1), encoding="utf-8")


def _quality(rows: int, quarantined: int, outcomes: Sequence[ExpectationOutcome]) -> float:
    decided = [outcome.verdict == "pass" for outcome in outcomes if outcome.verdict != "insufficient_data"]
    return rows / (rows + quarantined) * sum(decided) / len(decided)


def _context(site: Path) -> "EphemeralDataContext":
    """A context that lives in memory, calls nobody, and writes data docs to `site` only."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(),
            analytics_enabled=False,
            progress_bars=ProgressBarsConfig(globally=False),
        ),
    )
    context.add_data_docs_site(
        _SITE,
        {
            "class_name": "SiteBuilder",
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(site)},
            "show_how_to_buttons": False,
        },
    )
    return context


def _outcomes(
    context: "EphemeralDataContext", suite: _Suite, snapshot: Snapshot, now: datetime
) -> list[ExpectationOutcome]:
    import great_expectations as gx
    import great_expectations.expectations as gxe
    from great_expectations.core.run_identifier import RunIdentifier

    asset = context.data_sources.add_or_update_pandas(suite.name).add_dataframe_asset(snapshot.agent)
    rules = [
        getattr(gxe, rule.kind)(**rule.arguments, severity=rule.severity, meta={"name": rule.name})
        for rule in suite.rules
    ]
    # All at once: a suite that is in a context already is stored again with every rule added to it.
    expectations = context.suites.add(gx.ExpectationSuite(suite.name, expectations=rules))
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(
            name=suite.name, data=asset.add_batch_definition_whole_dataframe("all"), suite=expectations
        )
    )
    results = definition.run(
        batch_parameters={"dataframe": suite.frame},
        # Rows that break a rule are found by the rule itself: Great Expectations collects them one by one.
        result_format={"result_format": "BASIC"},
        run_id=RunIdentifier(run_name=snapshot.data_hash, run_time=now),
    )
    by_name = {result.expectation_config.meta["name"]: result for result in results.results}
    return [_outcome(suite.name, rule, by_name[rule.name]) for rule in suite.rules]


def _outcome(suite: str, rule: Rule, result: Any) -> ExpectationOutcome:
    observed = result.result.get("observed_value", result.result.get("unexpected_count"))
    raised = result.exception_info.get("exception_message") if result.exception_info else None
    return ExpectationOutcome(
        suite=suite,
        name=rule.name,
        verdict="pass" if result.success else "fail",
        severity=rule.severity,
        expected=", ".join(f"{key} {_shown(value)}" for key, value in rule.arguments.items() if key != "column"),
        observed=str(raised) if raised else _plain(observed),
        details=dict(rule.details),
    )


def _plain(value: Any) -> float | str | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else str(number)


def _cell(text: str) -> str:
    return text if len(text) <= _CELL_LENGTH else f"{text[:_CELL_LENGTH]}…"


def _shown(value: object) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _record(engine: Engine, result: ValidationResult, now: datetime) -> None:
    """Replace the verdict on this snapshot, suite by suite, and its status, in one transaction."""
    failed: dict[str, list[str]] = {outcome.suite: [] for outcome in result.expectations}
    for outcome in result.expectations:
        if outcome.verdict == "fail" and outcome.severity == "critical":
            failed[outcome.suite].append(outcome.name)
    with transaction(engine) as session:
        query = select(SnapshotRecord).where(
            SnapshotRecord.agent == result.agent, SnapshotRecord.data_hash == result.data_hash
        )
        record = session.scalars(query).one_or_none()
        if record is None:
            raise NotReadyError(
                f"agent {result.agent!r} has no snapshot {result.data_hash}: "
                "materialise training_experiences for it first"
            )
        record.status = VALIDATED if result.passed else REJECTED
        session.execute(
            delete(ValidationRecord).where(
                ValidationRecord.agent == result.agent, ValidationRecord.data_hash == result.data_hash
            )
        )
        for suite, names in failed.items():
            session.add(
                ValidationRecord(
                    agent=result.agent,
                    data_hash=result.data_hash,
                    suite=suite,
                    passed=not names,
                    failed_expectations=names,
                    report_path=str(result.data_docs),
                    created_at=now,
                )
            )
