"""Plain decisions written to the operational database as the server logs them, and a version to which they belong."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine

from mlops_assets.experiences.simulator.config import EPOCH
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.clock import FixedClock
from mlops_assets.foundation.database import insert_missing, transaction
from mlops_assets.foundation.files import atomic_write
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.profiles import PolicyProfile
from mlops_assets.foundation.settings import load_settings
from mlops_assets.foundation.tables import DriftReferenceRecord, OutcomeRecord
from mlops_assets.monitoring.drift_checks import DriftCheck, check_version
from mlops_assets.monitoring.reference import Reference
from mlops_assets.monitoring.version_decisions import VersionDecisions
from mlops_assets.monitoring.window import CATEGORICAL, decision_columns
from mlops_assets.serving.batch import confidences
from mlops_assets.serving.prediction_rows import insert_predictions
from mlops_assets_tests.experiences.served import outcome_row, prediction_row
from mlops_assets_tests.monitoring.traffic import columns_of

VERSION = "1.0.0"
OUTCOME_HOURS = 0.5


def day(number: float) -> datetime:
    """Begin of a day of the simulator's, of which a part may be given."""
    return EPOCH + timedelta(days=number)


def log(
    engine: Engine,
    spec: AgentSpec,
    decisions: VersionDecisions,
    *,
    label_hours: float = OUTCOME_HOURS,
    prefix: str = "p",
) -> None:
    """Write the decisions; what came of each is told after `label_hours`, and nothing of those without a reward."""
    template = columns_of(prediction_row(spec, "template"))
    told = columns_of(outcome_row(prediction_row(spec, "template"), 1.0))
    told.pop("id", None)
    confidence = confidences(decisions.q_values)
    predictions: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    for row in range(len(decisions)):
        at = datetime.fromtimestamp(int(decisions.event_time[row]) / 1e6, UTC)
        name = f"{prefix}-{row}"
        predictions.append(
            {
                **template,
                "prediction_id": name,
                "event_time": at,
                "model_version": VERSION,
                "episode_id": f"{prefix}-{decisions.episode[row]}",
                "step": int(decisions.step[row]),
                "user_hash": f"{prefix}-user-{decisions.cluster[row]}",
                "state": decisions.state[row].astype("<f4").tobytes(),
                "q_values": decisions.q_values[row].tolist(),
                "action": int(decisions.action[row]),
                "confidence": float(confidence[row]),
            }
        )
        if np.isfinite(decisions.reward[row]):
            known = decisions.best_action[row] >= 0
            outcomes.append(
                {
                    **told,
                    "prediction_id": name,
                    "reward": float(decisions.reward[row]),
                    "done": bool(decisions.done[row]),
                    "best_action": int(decisions.best_action[row]) if known else None,
                    "action_values": decisions.action_values[row].tolist() if known else None,
                    "occurred_at": at,
                    "received_at": at + timedelta(hours=label_hours),
                }
            )
    with transaction(engine) as session:
        insert_predictions(session, predictions)
        insert_missing(session, OutcomeRecord, outcomes)


@dataclass(frozen=True)
class Served:
    """A version whose drift reference is frozen, and its checks."""

    engine: Engine
    spec: AgentSpec
    profile: PolicyProfile
    home: Path

    @property
    def paths(self) -> ArtifactPaths:
        return load_settings({"MLOPS_HOME": str(self.home)}).paths

    def freeze(self, held_out: VersionDecisions) -> None:
        """Freeze what drift is compared with."""
        texts = {name: np.full(len(held_out), value) for name, value in _TEXTS.items()}
        found = decision_columns(
            self.spec,
            states=held_out.state,
            action=held_out.greedy,
            confidence=confidences(held_out.q_values),
            texts=texts,
        )
        reference = Reference.freeze(
            found, self.profile.drift, clusters=held_out.cluster.astype(str), categorical=CATEGORICAL
        )
        file = self.paths.monitoring(self.spec.name) / "references" / f"{reference.content_hash}.bin"
        with atomic_write(file) as temporary:
            temporary.write_bytes(reference.to_bytes())
        row = {
            "model_name": self.spec.registered_model,
            "model_version": VERSION,
            "agent": self.spec.name,
            "content_hash": reference.content_hash,
            "rows": reference.rows,
            "accuracy": float(held_out.correct.mean()),
            "mean_confidence": float(confidences(held_out.q_values).mean()),
            "created_at": day(0),
        }
        with transaction(self.engine) as session:
            insert_missing(session, DriftReferenceRecord, [row])

    def check(self, end: datetime) -> DriftCheck:
        """Check the window that ends then, when it ends."""
        now = FixedClock(end).now()
        return check_version(self.engine, self.spec, VERSION, self.profile, self.paths, end=end, as_of=end, now=now)


_TEXTS = {"browser": "chromium", "ui_framework": "react", "test_type": "e2e"}
