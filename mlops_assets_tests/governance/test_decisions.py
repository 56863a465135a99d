"""Decisions: stored once for their evidence, audited, applied, and completed after a crash."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, select

from mlops_assets.foundation.audit import verify_chain
from mlops_assets.foundation.clock import FixedClock
from mlops_assets.foundation.database import create_operational_engine, read_transaction
from mlops_assets.foundation.errors import NotReadyError
from mlops_assets.foundation.tables import AuditEvent, DecisionRecord
from mlops_assets.governance.decision_records import decisions_on
from mlops_assets.governance.decisions import RecordedDecision, record_decision
from mlops_assets.governance.evidence import ApprovalEvidence
from mlops_assets.governance.policy import ApprovalStatus, Decision
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets_tests.mlflow_runs import NOW, SPEC, MlflowRuns, dying_at_commit

NAME = SPEC.registered_model
Decide = Callable[..., RecordedDecision]


def found(report: str) -> ApprovalEvidence:
    return ApprovalEvidence(report_hash=report, weights_hash="weights", data_hash="data")


def verdict(status: ApprovalStatus) -> Decision:
    return Decision(status, "low", (f"because {status}",), ())


@pytest.fixture
def decide(registry: ModelRegistry, engine: Engine, clock: FixedClock, mlflow_runs: MlflowRuns) -> Decide:
    """Register good run i, if it is new, and record a decision on it."""

    def record(index: int, status: ApprovalStatus = "approved", evidence: str = "evidence") -> RecordedDecision:
        version = registry.register(mlflow_runs.candidate(index), SPEC)
        return record_decision(
            version, verdict(status), evidence=found(evidence), engine=engine, registry=registry, clock=clock
        )

    return record


def events(engine: Engine) -> list[str]:
    with read_transaction(engine) as session:
        assert verify_chain(session).intact
        return list(session.scalars(select(AuditEvent.event_type).order_by(AuditEvent.sequence)))


def test_the_first_approval_makes_a_champion(decide: Decide, registry: ModelRegistry, engine: Engine) -> None:
    """A model without a champion has nothing to test against, and would never reach a user."""
    decision = decide(0)
    assert (decision.status, decision.outcome, decision.recorded) == ("approved", "champion", True)
    champion = registry.champion(NAME)
    assert champion is not None
    assert champion.semver == "1.0.0"
    assert events(engine) == ["model_registered", "model_approved", "model_promoted_to_production"]


def test_the_next_approval_makes_a_challenger(decide: Decide, registry: ModelRegistry, mlflow_runs: MlflowRuns) -> None:
    """An approved version goes to staging, never past the rollout into production."""
    decide(0)
    decision = decide(1)
    assert decision.outcome == "challenger"
    challenger, champion = registry.challenger(NAME), registry.champion(NAME)
    assert challenger is not None
    assert champion is not None
    assert (challenger.semver, champion.semver) == ("1.1.0", "1.0.0")
    tags = MlflowStore(mlflow_runs.tracking_uri).versions(NAME)[1].tags
    assert tags["approval_status"] == "approved"
    assert tags["approved_by"] == "governance-policy"
    assert tags["stage"] == "Staging"


@pytest.mark.parametrize(("status", "outcome"), [("rejected", "rejected"), ("requires_review", "waiting")])
def test_other_decisions_leave_the_version_where_it_is(
    decide: Decide,
    registry: ModelRegistry,
    mlflow_runs: MlflowRuns,
    engine: Engine,
    status: ApprovalStatus,
    outcome: str,
) -> None:
    """A rejected version must not move, and whoever looks at it must read why."""
    decision = decide(0, status)
    assert (decision.status, decision.outcome) == (status, outcome)
    assert registry.champion(NAME) is None
    assert registry.version(NAME, "1.0.0").stage == "None"
    (stored,) = MlflowStore(mlflow_runs.tracking_uri).versions(NAME)
    assert stored.tags["approval_status"] == status
    assert stored.tags["approval_reasons"] == f"because {status}"
    assert "approved_by" not in stored.tags
    expected = {"rejected": "model_rejected", "requires_review": "model_review_required"}[status]
    assert events(engine) == ["model_registered", expected]


def test_the_record_says_what_was_decided(decide: Decide, engine: Engine, mlflow_runs: MlflowRuns) -> None:
    """An approval that cannot be traced to its evidence is none."""
    decide(0, "rejected")
    (record,) = decisions_on(engine, NAME, "1.0.0")
    assert (record.status, record.risk, record.reasons) == ("rejected", "low", ["because rejected"])
    assert (record.run_id, record.decided_at, record.request_id) == (mlflow_runs.good[0], NOW, None)
    assert record.evidence_hash == found("evidence").hash
    assert record.evidence == found("evidence").facts()
    assert record.evidence["data_as_recorded"] == "not checked: nobody looked"


def test_the_same_decision_is_stored_once(decide: Decide, engine: Engine) -> None:
    """A retry writes a second decision."""
    first, again = decide(0, "rejected"), decide(0, "rejected")
    assert (first.recorded, again.recorded, again.status) == (True, False, "rejected")
    assert again.reasons == ("because rejected",)
    assert events(engine) == ["model_registered", "model_rejected"]


def test_the_newest_decision_counts(decide: Decide, registry: ModelRegistry, engine: Engine) -> None:
    """An older decision on the same evidence is found again, and the newer one that disagrees blocks it, or is forgotten."""
    decide(0)
    decide(1, "approved", "old")
    decide(1, "rejected", "new")
    again = decide(1, "approved", "old")
    assert (again.status, again.recorded) == ("approved", True)
    stricter = decide(1, "rejected", "old")
    assert (stricter.status, stricter.recorded) == ("rejected", True)
    statuses = [record.status for record in decisions_on(engine, NAME, "1.1.0")]
    assert statuses == ["rejected", "approved", "rejected", "approved"]
    with pytest.raises(NotReadyError, match="is rejected, and only an approved version goes on"):
        registry.promote_to_production(NAME, "1.1.0", user="rollout", reason="done")


def test_new_evidence_is_decided_anew(decide: Decide, registry: ModelRegistry, engine: Engine) -> None:
    """A version that waits for labels is judged again once they are there."""
    decide(0, "requires_review", "few labels")
    assert decide(0, "approved", "enough labels").outcome == "champion"
    assert [record.status for record in decisions_on(engine, NAME, "1.0.0")] == ["approved", "requires_review"]
    assert registry.champion(NAME) is not None


def test_an_old_approval_does_not_lift_a_version_again(decide: Decide, registry: ModelRegistry) -> None:
    """A rerun of an old lifecycle would put a rolled-back version in front of users again."""
    decide(0)
    decide(1)
    registry.promote_to_production(NAME, "1.1.0", user="rollout", reason="done")
    registry.rollback_model(NAME, user="sre", reason="errors")
    assert decide(1).outcome == "unchanged"
    assert decide(1, evidence="other").outcome == "unchanged"
    champion = registry.champion(NAME)
    assert champion is not None
    assert champion.semver == "1.0.0"
    assert registry.version(NAME, "1.1.0").stage == "Archived"


@pytest.mark.parametrize("survived", [0, 1])
def test_a_crash_while_deciding_heals(
    registry: ModelRegistry, engine: Engine, mlflow_runs: MlflowRuns, decide: Decide, survived: int
) -> None:
    """Killed before the decision or between decision and promotion, a rerun has to end where the first would have."""
    registry.register(mlflow_runs.candidate(0), SPEC)
    with dying_at_commit(engine, survived=survived), pytest.raises(KeyboardInterrupt):
        decide(0)
    assert len(decisions_on(engine, NAME, "1.0.0")) == survived
    assert decide(0).outcome == "champion"
    assert events(engine) == ["model_registered", "model_approved", "model_promoted_to_production"]


def test_concurrent_decisions(
    registry: ModelRegistry, engine: Engine, clock: FixedClock, mlflow_runs: MlflowRuns
) -> None:
    """Two lifecycles that decide at once must store one decision a version, and crown one champion."""
    versions = [registry.register(mlflow_runs.candidate(index), SPEC) for index in range(2)]
    url = engine.url.render_as_string(hide_password=False)

    def record(index: int) -> RecordedDecision:
        own = create_operational_engine(url)
        try:
            return record_decision(
                versions[index % 2],
                verdict("approved"),
                evidence=found("evidence"),
                engine=own,
                registry=ModelRegistry(mlflow_runs.tracking_uri, own, clock),
                clock=clock,
            )
        finally:
            own.dispose()

    with ThreadPoolExecutor(max_workers=6) as threads:
        decisions = list(threads.map(record, range(6)))
    assert sum(decision.recorded for decision in decisions) == 2
    with read_transaction(engine) as session:
        assert len(session.scalars(select(DecisionRecord)).all()) == 2
    assert sorted(version.stage for version in registry.versions(NAME)) == ["Production", "Staging"]
    assert events(engine).count("model_approved") == 2
    assert events(engine).count("model_promoted_to_production") == 1
