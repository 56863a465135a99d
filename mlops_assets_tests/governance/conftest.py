"""Fixtures of the governance room's tests: versions that wait for people, with real evidence."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from mlops_assets.evaluation.report import REPORT_JSON
from mlops_assets.foundation.audit import verify_chain
from mlops_assets.foundation.clock import FixedClock
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.settings import Settings
from mlops_assets.foundation.tables import AuditEvent
from mlops_assets.governance.approvals import Approvals, open_approvals
from mlops_assets.governance.decisions import RecordedDecision, record_decision
from mlops_assets.governance.policy import ApprovalStatus, Decision
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets_tests.mlflow_runs import SPEC, MlflowRuns, clock, mlflow_runs, mlflow_template, registry
from mlops_assets_tests.registry.test_model_card import a_report

__all__ = ["clock", "mlflow_runs", "mlflow_template", "registry"]

ML, QA = "ml-lead@company.com", "qa-lead@company.com"


@dataclass
class Office:
    """One deployment with a version that people are asked about."""

    engine: Engine
    registry: ModelRegistry
    clock: FixedClock
    settings: Settings
    runs: MlflowRuns
    approvals: Approvals

    def write_report(self, index: int, *, gap: float = 3.25) -> str:
        """Write the report of a good run; another `gap` is other evidence. Returns its hash."""
        run_id = self.runs.good[index]
        report = a_report(gap=gap)
        report = report.model_copy(update={"identity": report.identity.model_copy(update={"run_id": run_id})})
        file = self.settings.paths.reports(SPEC.name) / run_id / REPORT_JSON
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(report.model_dump_json(), encoding="utf-8")
        return report.evidence_hash

    def decide(
        self,
        index: int = 0,
        status: ApprovalStatus = "requires_review",
        *,
        gap: float = 3.25,
        author: str | None = "ana",
        report: bool = True,
    ) -> RecordedDecision:
        """Register a good run as version 1.<index>.0, and record the policy's decision on it.

        Without `report`, on the one that is there.
        """
        if report:
            self.write_report(index, gap=gap)
        candidate = replace(self.runs.candidate(index, user=author or "dagster:retrain"), author=author)
        version = self.registry.register(candidate, SPEC)
        return record_decision(
            version,
            Decision(status, "high", (f"because {status}",), ()),
            evidence=self.approvals.evidence(version),
            engine=self.engine,
            registry=self.registry,
            clock=self.clock,
            approvals=self.approvals,
        )

    def events(self) -> list[AuditEvent]:
        """The audit trail, which has to verify at any time."""
        with read_transaction(self.engine) as session:
            assert verify_chain(session).intact
            return list(session.scalars(select(AuditEvent).order_by(AuditEvent.sequence)))


@pytest.fixture
def new_office(mlflow_runs: MlflowRuns, clock: FixedClock, tmp_path: Path) -> Callable[[Engine], Office]:
    def make(engine: Engine) -> Office:
        settings = Settings(home=tmp_path / "home", mlflow_tracking_uri=mlflow_runs.tracking_uri)
        registry = ModelRegistry(mlflow_runs.tracking_uri, engine, clock)
        return Office(engine, registry, clock, settings, mlflow_runs, open_approvals(settings, engine, clock, registry))

    return make


@pytest.fixture
def office(new_office: Callable[[Engine], Office], engine: Engine) -> Office:
    """Once on each database engine."""
    return new_office(engine)


@pytest.fixture
def small_office(new_office: Callable[[Engine], Office], sqlite_engine: Engine) -> Office:
    """On SQLite only."""
    return new_office(sqlite_engine)
