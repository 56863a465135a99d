"""Concept drift: accuracy of a version on its newest labelled decisions, against its own baseline."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from sqlalchemy import Engine, select

from mlops_assets.evaluation.intervals import Interval, cluster_bootstrap, cluster_numbers, cluster_sums, ratio
from mlops_assets.evaluation.metrics import greedy
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.policies import DriftPolicy, EvaluationPolicy, MonitoringPolicy
from mlops_assets.foundation.tables import OutcomeRecord, PredictionRecord
from mlops_assets.monitoring.drift_bands import Verdict, accuracy_drop_limits

_SEED = 0


@dataclass(frozen=True)
class RecentAccuracy:
    """Accuracy of `labelled` decisions; the drop is a share of the baseline, None where either is not known.

    `certain_drop` is the drop that the accuracy's interval leaves no doubt of, at least 0; the verdict is its band.
    """

    labelled: int
    accuracy: Interval | None
    baseline: float | None
    drop_rel: float | None
    certain_drop_rel: float | None
    verdict: Verdict


def recent_accuracy(
    engine: Engine,
    spec: AgentSpec,
    version: str,
    baseline: float | None,
    end: datetime,
    *,
    as_of: datetime | None,
    monitoring: MonitoringPolicy,
    drift: DriftPolicy,
    evaluation: EvaluationPolicy,
) -> RecentAccuracy:
    """Judge the newest `concept_window` labelled decisions that are as old as labels take to come.

    Whose label came early are not like the others, so younger decisions do not count, also where they have theirs.

    Args:
        engine: operational database.
        spec: the agent.
        version: whose decisions.
        baseline: the version's own accuracy; None: not known.
        end: decisions before it, less the label delay, count.
        as_of: outcomes that were received later do not count; None for all.
        monitoring: window and label delay.
        drift: bands of the drop.
        evaluation: confidence and resamples of the interval.
    """
    prediction, outcome = PredictionRecord, OutcomeRecord
    query = (
        select(prediction.q_values, outcome.best_action, prediction.episode_id)
        .join(outcome, outcome.prediction_id == prediction.prediction_id)
        .where(
            prediction.agent == spec.name,
            prediction.model_version == version,
            prediction.event_time < end - timedelta(hours=monitoring.label_delay_hours),
            outcome.best_action.is_not(None),
            *([] if as_of is None else [outcome.received_at <= as_of]),
        )
        .order_by(prediction.event_time.desc(), prediction.prediction_id)
        .limit(monitoring.concept_window)
    )
    with read_transaction(engine) as session:
        rows = [row for row in session.execute(query) if len(row.q_values) == len(spec.actions)]
    if len(rows) < monitoring.min_labelled:
        return RecentAccuracy(len(rows), None, baseline, None, None, "insufficient_data")
    right = greedy(np.array([row.q_values for row in rows], dtype=np.float32)) == np.array(
        [row.best_action for row in rows]
    )
    clusters = cluster_numbers(np.array([row.episode_id for row in rows], dtype=np.str_))
    sums = cluster_sums(np.stack([right, np.ones(len(rows))], axis=1).astype(np.float64), clusters)
    found = cluster_bootstrap(
        sums, ratio, samples=evaluation.bootstrap_samples, confidence=evaluation.confidence, seed=_SEED
    )
    drop = _drop(baseline, found.estimate)
    certain = _drop(baseline, found.high)
    if certain is None:
        return RecentAccuracy(len(rows), found, baseline, drop, None, "insufficient_data")
    certain = max(0.0, certain)
    return RecentAccuracy(len(rows), found, baseline, drop, certain, accuracy_drop_limits(drift).band(certain))


def _drop(baseline: float | None, accuracy: float | None) -> float | None:
    if baseline is None or baseline <= 0.0 or accuracy is None:
        return None
    return (baseline - accuracy) / baseline
