"""The live state rebuilt from the audit trail alone, and where the stores say something else."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import Engine, select

from mlops_assets.foundation.audit import PROMOTED_TO_PRODUCTION, ROLLED_BACK
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.tables import ApprovalRequestRecord, AuditEvent, ModelVersionRecord
from mlops_assets.governance.approval_events import APPLIED, APPROVED, EXPIRED, REJECTED, REQUESTED, SUPERSEDED
from mlops_assets.governance.replay_rows import Rows, ToldRows, held_rows, row_differences
from mlops_assets.registry.model_registry import ARCHIVED, DELETED, STAGED, ModelRegistry
from mlops_assets.registry.registration import REGISTERED

_STAGES = {REGISTERED: "None", STAGED: "Staging", ARCHIVED: "Archived", DELETED: "Deleted"}
_CROWNING = {PROMOTED_TO_PRODUCTION, ROLLED_BACK}
_REQUESTS = {
    REQUESTED: "open",
    APPROVED: "approved",
    REJECTED: "rejected",
    EXPIRED: "expired",
    SUPERSEDED: "superseded",
    APPLIED: "approved, applied",
}


@dataclass
class ModelState:
    """One registered model: the stage of each version, and the version behind each alias."""

    stages: dict[str, str] = field(default_factory=dict)
    champion: str | None = None
    challenger: str | None = None
    previous: str | None = None


@dataclass
class LiveState:
    """Every model by its name, how every approval request stands by its number, and the rows of `replay_rows.py`."""

    models: dict[str, ModelState] = field(default_factory=dict)
    requests: dict[int, str] = field(default_factory=dict)
    rows: Rows = field(default_factory=dict)


def replay(events: Iterable[AuditEvent]) -> LiveState:
    """Rebuild the state that the events, in their order, lead to."""
    told = ToldRows()
    state = LiveState(rows=told.rows)
    lines: dict[str, list[str]] = {}
    for event in events:
        told.take(event)
        number = event.details.get("request")
        if event.event_type in _REQUESTS and isinstance(number, int):
            _follow_request(state, number, _REQUESTS[event.event_type])
        if event.event_type in _STAGES or event.event_type in _CROWNING:
            model = state.models.setdefault(event.model_name, ModelState())
            _move(model, event, lines.setdefault(event.model_name, []))
    return state


def _follow_request(state: LiveState, number: int, status: str) -> None:
    # An applied approval that is void later has still been applied.
    applied = status == "superseded" and state.requests.get(number) == "approved, applied"
    state.requests[number] = "superseded, applied" if applied else status


def _move(model: ModelState, event: AuditEvent, line: list[str]) -> None:
    version = event.version
    if model.challenger == version:
        model.challenger = None
    if event.event_type == STAGED:
        model.challenger = version
    if event.event_type not in _CROWNING:
        model.stages[version] = _STAGES[event.event_type]
        return
    left = event.details.get("from_version")
    if left is not None:
        model.stages[left] = "Archived"
    model.stages[version], model.champion = "Production", version
    # Who was rolled back is no champion to come back to.
    gone = {version, left} if event.event_type == ROLLED_BACK else {version}
    line[:] = [*(former for former in line if former not in gone), version]
    model.previous = line[-2] if len(line) > 1 else None


def live_state(engine: Engine, registry: ModelRegistry) -> LiveState:
    """Read the state as the operational database and the model store hold it."""
    state = LiveState()
    with read_transaction(engine) as session:
        for record in session.scalars(select(ModelVersionRecord).where(ModelVersionRecord.mlflow_version.is_not(None))):
            state.models.setdefault(record.model_name, ModelState()).stages[record.semver] = record.stage
        for request in session.scalars(select(ApprovalRequestRecord)):
            suffix = "" if request.applied_at is None else ", applied"
            state.requests[request.id] = f"{request.status}{suffix}"
        state.rows = held_rows(session)
    for name, model in state.models.items():
        for alias in ("champion", "challenger", "previous"):
            found = getattr(registry, alias)(name)
            setattr(model, alias, None if found is None else found.semver)
    return state


def replayed_state(engine: Engine) -> LiveState:
    """Rebuild the state from the audit trail of a database."""
    with read_transaction(engine) as session:
        return replay(session.scalars(select(AuditEvent).order_by(AuditEvent.sequence)))


def differences(replayed: LiveState, live: LiveState) -> list[str]:
    """Name everything in which the two differ, in words; empty when the trail explains the stores."""
    found = []
    for name in sorted({*replayed.models, *live.models}):
        told, held = replayed.models.get(name, ModelState()), live.models.get(name, ModelState())
        for version in sorted({*told.stages, *held.stages}):
            found += _differs(f"{name} {version}", told.stages.get(version), held.stages.get(version))
        for alias in ("champion", "challenger", "previous"):
            found += _differs(f"{name} {alias}", getattr(told, alias), getattr(held, alias))
    for number in sorted({*replayed.requests, *live.requests}):
        found += _differs(f"approval request {number}", replayed.requests.get(number), live.requests.get(number))
    return found + row_differences(replayed.rows, live.rows)


def _differs(what: str, told: str | None, held: str | None) -> list[str]:
    if told == held:
        return []
    return [f"{what}: the audit trail says {told or 'nothing'}, the stores hold {held or 'nothing'}"]
