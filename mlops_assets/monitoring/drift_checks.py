"""One check of one version: its decisions of a window against its frozen reference, kept, and told where it is bad."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, select

from mlops_assets.evaluation.metrics import greedy
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.database import insert_missing, read_transaction, transaction
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.profiles import PolicyProfile
from mlops_assets.foundation.tables import DriftCheckRecord
from mlops_assets.monitoring import drift_bands as bands
from mlops_assets.monitoring.alerts import report
from mlops_assets.monitoring.drift_bands import ORDER
from mlops_assets.monitoring.drift_verdict import ColumnDrift, DriftVerdict
from mlops_assets.monitoring.drift_windows import DriftWindows, Rows, check_windows
from mlops_assets.monitoring.findings import Alert, Routing
from mlops_assets.monitoring.frozen_references import CONFIDENCE, FrozenReference, frozen_reference
from mlops_assets.monitoring.learner_checks import LearnerCheck, check_learner, findings_of, recovered_keys
from mlops_assets.monitoring.learner_references import Service
from mlops_assets.monitoring.recent_accuracy import RecentAccuracy, recent_accuracy
from mlops_assets.monitoring.rules import Measurements, Subject, alerts_of, recoveries_of
from mlops_assets.monitoring.shared_values import shared_draws
from mlops_assets.monitoring.window import DecisionWindow, columns, read_window
from mlops_assets.monitoring.window_decisions import dependent_rows

SOURCE = "drift_report"
# What a version puts out; all other columns are what it is given.
OUTPUTS = frozenset({"action", CONFIDENCE})


@dataclass(frozen=True)
class DriftCheck:
    """What came of a check; `columns_checked` are those that were compared."""

    window: DecisionWindow
    reference: FrozenReference
    windows: DriftWindows
    accuracy: RecentAccuracy
    columns_checked: dict[str, NDArray[Any]]
    learner: LearnerCheck

    @property
    def drift(self) -> DriftVerdict:
        """Of the whole window, or of its newest hours where they are worse."""
        return self.windows.drift

    @property
    def verdict(self) -> bands.Verdict:
        """Of the columns, the predictions and the accuracy, the worst."""
        return bands.worst(self.drift.verdict, self.accuracy.verdict)

    @property
    def drifted(self) -> Sequence[ColumnDrift]:
        """Columns that have drifted beyond what chance explains, the worst first."""
        return [one for one in self.drift.columns if ORDER.index(one.verdict) >= ORDER.index("monitor")]

    def largest(self, measure: str) -> float | None:
        """Return the largest `psi` or `ks` of the columns that drifted: 0 of none, None where too little was there."""
        if self.drift.verdict == "insufficient_data":
            return None
        values = [getattr(one.statistics, measure) for one in self.drifted]
        return max((value for value in values if value is not None), default=0.0)

    def combined(self) -> float | None:
        """Return the combined score of the predictions: 0 where it is no more than chance explains, None: not known."""
        prediction = self.drift.prediction
        return 0.0 if prediction.verdict == "ok" else prediction.score

    def document(self) -> dict[str, Any]:
        """As JSON: every column's statistics; `psi` and `ks` of those that drifted."""
        return {
            **self.drift.document(),
            "verdict": self.verdict,
            "psi": self.largest("psi"),
            "ks": self.largest("ks"),
            "drift_hours": self.windows.hours,
            "accuracy": asdict(self.accuracy),
            **self.learner.document(),
        }


def check_version(
    engine: Engine,
    spec: AgentSpec,
    version: str,
    profile: PolicyProfile,
    paths: ArtifactPaths,
    *,
    end: datetime,
    as_of: datetime | None,
    now: datetime,
) -> DriftCheck:
    """Compare what a version decided in the `window_hours` before `end` with its references; nothing is written but those.

    Args:
        engine: operational database.
        spec: the agent.
        version: semantic version.
        profile: limits.
        paths: where references lie.
        end: of the window, not in it.
        as_of: outcomes that were received later do not count; None for all.
        now: when a reference is frozen, if it is not yet.

    Raises:
        NotReadyError: the version has no reference, and what it was trained on does not lie here; or a frozen one is gone.
        InputError: a reference is damaged.
        StorageError: the database does not answer.
    """
    reference = frozen_reference(engine, spec, version, profile.drift, paths=paths, now=now)
    start = end - timedelta(hours=profile.monitoring.window_hours)
    window = read_window(engine, spec, start, end, version=version, as_of=as_of)
    checked = _columns(window, spec)

    def before(begin: np.datetime64, until: np.datetime64) -> Rows:
        times = [datetime.fromtimestamp(int(one.astype(np.int64)) / 1e6, UTC) for one in (begin, until)]
        earlier = read_window(engine, spec, times[0], times[1], version=version, as_of=as_of)
        return _rows(earlier, _columns(earlier, spec), spec)

    windows = check_windows(
        reference.reference,
        _rows(window, checked, spec),
        np.datetime64(end.astimezone(UTC).replace(tzinfo=None), "us"),
        profile.monitoring.window_hours,
        profile.drift,
        read=before,
        confidence_column=CONFIDENCE,
    )
    accuracy = recent_accuracy(
        engine,
        spec,
        version,
        reference.accuracy,
        end,
        as_of=as_of,
        monitoring=profile.monitoring,
        drift=profile.drift,
        evaluation=profile.evaluation,
    )
    settled = end - timedelta(hours=profile.monitoring.label_delay_hours)
    service = Service(engine, spec, version, profile, paths, settled, as_of, now)
    learner = check_learner(service, window, labelled=accuracy.labelled)
    return DriftCheck(window, reference, windows, accuracy, checked, learner)


def keep(
    engine: Engine, spec: AgentSpec, check: DriftCheck, profile: PolicyProfile, routing: Routing | None, now: datetime
) -> list[Alert]:
    """Store a check and tell of it, in one transaction; return the alerts that changed. A window is kept once.

    `routing` None: nobody is told, as of a version that is not the model's champion.

    Raises:
        StorageError: the database cannot be written.
    """
    window = check.window
    row = {
        "agent": spec.name,
        "model_name": spec.registered_model,
        "model_version": check.reference.model_version,
        "window_start": window.start,
        "window_end": window.end,
        "checked_at": now,
        "rows": len(window),
        "labelled": check.accuracy.labelled,
        "verdict": check.verdict,
        "psi": check.largest("psi"),
        "combined": check.combined(),
        "accuracy_drop_rel": check.accuracy.certain_drop_rel,
        "document": check.document(),
    }
    measured = measurements_of(check)
    subject = Subject(SOURCE, spec.name, spec.registered_model, check.reference.model_version)
    thresholds, health = profile.alert_thresholds, check.learner.health
    with transaction(engine) as session:
        insert_missing(session, DriftCheckRecord, [row])
        if routing is None:
            return []
        return report(
            session,
            [*alerts_of(measured, thresholds, subject), *findings_of(health, profile.health, subject)],
            [*recoveries_of(measured, thresholds, subject), *recovered_keys(health, subject)],
            routing,
            now,
        )


def measurements_of(check: DriftCheck) -> Measurements:
    """Return what people may have to be told: PSI of the inputs and of the outputs that drifted, and the certain drop."""
    if check.drift.verdict == "insufficient_data":
        return Measurements(concept_drift=check.accuracy.certain_drop_rel)
    psi = {one.name: one.statistics.psi for one in check.drifted}
    return Measurements(
        feature_drift=max((value for name, value in psi.items() if name not in OUTPUTS), default=0.0),
        prediction_drift=max((value for name, value in psi.items() if name in OUTPUTS), default=0.0),
        concept_drift=check.accuracy.certain_drop_rel,
    )


def checks_of(engine: Engine, spec: AgentSpec, version: str, since: datetime) -> list[DriftCheckRecord]:
    """Return a version's checks whose window ended since then, the oldest first."""
    record = DriftCheckRecord
    query = select(record).where(
        record.agent == spec.name,
        record.model_name == spec.registered_model,
        record.model_version == version,
        record.window_end >= since,
    )
    with read_transaction(engine) as session:
        return list(session.scalars(query.order_by(record.window_end, record.id)))


def _rows(window: DecisionWindow, columns: dict[str, NDArray[Any]], spec: AgentSpec) -> Rows:
    return Rows(columns, window.event_time, dependent_rows(window), shared_draws(columns, spec))


def _columns(window: DecisionWindow, spec: AgentSpec) -> dict[str, NDArray[Any]]:
    """Those that the reference has: of the policy's own choice, also where another action was explored."""
    values = np.where(np.isfinite(window.q_values), window.q_values, -np.inf)
    found: dict[str, NDArray[Any]] = dict(columns(_with_actions(window, greedy(values)), spec))
    del found["latency_ms"]
    return found


def _with_actions(window: DecisionWindow, actions: NDArray[np.int64]) -> DecisionWindow:
    return DecisionWindow(**{**vars(window), "action": actions})
