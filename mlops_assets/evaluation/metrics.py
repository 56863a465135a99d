"""What the numbers mean. This docstring is their one definition; reports, cards, gates and tags use these words.

A DQN's data are (state, action, reward), which leaves "accuracy" undefined. Here:

accuracy
    Share of held-out decisions with a label in which the policy's greedy action (the largest Q value, the first of
    equals) is the labelled best action. Labels arrive late and are joined by decision id; decisions without one do
    not count. Held-out decisions lie later in time than every training decision and are frozen per snapshot.
precision, recall, f1
    Of the same decisions, per action and then averaged over the actions that occur as label or as choice, each with
    the same weight (macro); 0 for an action that is never chosen or never best.
roc_auc
    Of the same decisions, each action against the rest, averaged over the actions that are best somewhere and not
    everywhere. The score of an action is its margin Q(a) - max of the other Q, which is positive exactly where a is
    greedy.
regret
    Mean of max_a q(a) - q(greedy action), with q the labelled action values (exact values of the source). 0 is perfect.
avg_reward
    Mean undiscounted return of one held-out episode under the greedy policy: the off-policy estimate of
    `off_policy.py` from the logged rewards and propensities, with its interval. Where too few logged episodes agree
    with the policy to say, it is the return measured in the source's own environment (`returns.py`), and the report
    names which one it is.
return_share
    Return of the greedy policy over that of the optimal policy, both summed over the held-out episodes and measured
    in the source's environment; `share of optimal` in tables.
latency_p50_ms, latency_p95_ms, latency_p99_ms, throughput_qps
    Of one decision at batch size 1 after warm-up, and decisions per second in batches (`latency.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlops_assets.evaluation.intervals import Interval, cluster_bootstrap, cluster_sums, ratio

# States that go through the network at once: bounded memory on any number of rows.
_BATCH_ROWS = 65_536


class QFunction(Protocol):
    """A policy as its action values."""

    def q_values(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return action values (N, A) of states (N, D)."""
        ...


@dataclass(frozen=True)
class ClassificationMetrics:
    """Metrics on labelled decisions; `confusion[i, j]` counts decisions with best action i and greedy action j."""

    labelled: int
    unlabelled: int
    accuracy: Interval
    precision: float
    recall: float
    f1: Interval
    roc_auc: float | None
    regret: Interval | None
    confusion: NDArray[np.int64]


def q_values(policy: QFunction, states: NDArray[np.float32]) -> NDArray[np.float32]:
    """Action values (N, A) of any number of states, in batches."""
    parts = [policy.q_values(states[start : start + _BATCH_ROWS]) for start in range(0, len(states), _BATCH_ROWS)]
    return np.concatenate(parts) if parts else policy.q_values(states)


def greedy(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Greedy actions (N,) of action values (N, A); the first of equals."""
    return np.argmax(values, axis=1).astype(np.int64)


def classification_metrics(
    values: NDArray[np.float32],
    best_action: NDArray[np.int64],
    action_values: NDArray[np.float32],
    clusters: NDArray[np.int64],
    *,
    samples: int,
    confidence: float,
    seed: int,
) -> ClassificationMetrics | None:
    """Compute the metrics of this module's docstring.

    Args:
        values: Q values of the policy (N, A).
        best_action: labelled best action (N,), -1 where there is no label.
        action_values: labelled values of all actions (N, A), NaN where there is no label.
        clusters: episode number (N,), 0..C-1.
        samples: bootstrap resamples.
        confidence: coverage of the intervals.
        seed: of the bootstrap.

    Returns:
        None when not one decision has a label.
    """
    labelled = best_action >= 0
    if not labelled.any():
        return None
    actions = values.shape[1]
    scores, best = values[labelled], best_action[labelled]
    chosen = greedy(scores)
    numbers = np.unique(clusters[labelled], return_inverse=True)[1]
    cells = _confusion_by_cluster(best, chosen, numbers, actions)
    confusion = cells.sum(axis=0)

    def interval(statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Interval:
        return cluster_bootstrap(cells, statistic, samples=samples, confidence=confidence, seed=seed)

    macro = macro_scores(confusion.reshape(actions, actions))
    return ClassificationMetrics(
        labelled=int(labelled.sum()),
        unlabelled=int((~labelled).sum()),
        accuracy=interval(lambda sums: _accuracy(sums.reshape(*sums.shape[:-1], actions, actions))),
        precision=float(macro[0]),
        recall=float(macro[1]),
        f1=interval(lambda sums: macro_scores(sums.reshape(*sums.shape[:-1], actions, actions))[2]),
        roc_auc=roc_auc(scores, best),
        regret=_regret(action_values[labelled], chosen, numbers, samples, confidence, seed),
        confusion=confusion.reshape(actions, actions).astype(np.int64),
    )


def macro_scores(
    confusion: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Macro precision, recall and F1 of confusion counts (..., A, A), over actions that occur as label or choice."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    chosen, best = confusion.sum(axis=-2), confusion.sum(axis=-1)
    occurring = np.maximum(((chosen + best) > 0).sum(axis=-1), 1)
    precision = _safe_ratio(hits, chosen)
    recall = _safe_ratio(hits, best)
    f1 = _safe_ratio(2 * hits, chosen + best)
    return (
        precision.sum(axis=-1) / occurring,
        recall.sum(axis=-1) / occurring,
        f1.sum(axis=-1) / occurring,
    )


def roc_auc(values: NDArray[np.float32], best_action: NDArray[np.int64]) -> float | None:
    """Macro one-against-rest area under the ROC curve of the action margins; None when every label is the same action.

    The area is the Mann-Whitney statistic with mid-ranks for ties.
    """
    from scipy.stats import rankdata

    areas = []
    for action in range(values.shape[1]):
        positive = best_action == action
        hits, misses = int(positive.sum()), int((~positive).sum())
        if hits == 0 or misses == 0:
            continue
        ranks = rankdata(action_margins(values)[:, action])
        areas.append((ranks[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))
    return float(np.mean(areas)) if areas else None


def action_margins(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Margin of every action over the best other one, (N, A)."""
    wide = values.astype(np.float64)
    ordered = np.sort(wide, axis=1)
    top, second = ordered[:, -1:], ordered[:, -2:-1]
    first = wide.argmax(axis=1)[:, None] == np.arange(wide.shape[1])
    return wide - np.where(first, second, top)


def _confusion_by_cluster(
    best: NDArray[np.int64], chosen: NDArray[np.int64], clusters: NDArray[np.int64], actions: int
) -> NDArray[np.float64]:
    count = int(clusters.max()) + 1
    flat = (clusters * actions + best) * actions + chosen
    return np.bincount(flat, minlength=count * actions * actions).reshape(count, actions * actions).astype(np.float64)


def _accuracy(confusion: NDArray[np.float64]) -> NDArray[np.float64]:
    return _undefined_ratio(np.trace(confusion, axis1=-2, axis2=-1), confusion.sum(axis=(-2, -1)))


def _undefined_ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(part / whole)


def _safe_ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole > 0)


def _regret(
    action_values: NDArray[np.float32],
    chosen: NDArray[np.int64],
    clusters: NDArray[np.int64],
    samples: int,
    confidence: float,
    seed: int,
) -> Interval | None:
    known = np.isfinite(action_values).all(axis=1)
    if not known.any():
        return None
    exact = action_values[known].astype(np.float64)
    losses = exact.max(axis=1) - exact[np.arange(len(exact)), chosen[known]]
    return cluster_bootstrap(
        cluster_sums(
            np.stack([losses, np.ones_like(losses)], axis=1), np.unique(clusters[known], return_inverse=True)[1]
        ),
        ratio,
        samples=samples,
        confidence=confidence,
        seed=seed,
    )
