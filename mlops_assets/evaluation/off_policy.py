"""What a policy would have earned on episodes that another policy logged. Live replays are in `returns.py`.

The target policy is greedy: its probability of the logged action is 1 or 0, so the weight of an episode up to step t is
rho_t = product over k <= t of 1[a_k = greedy(s_k)] / propensity_k. Estimators, with rewards undiscounted:

importance_sampling
    mean over episodes of sum_t rho_t r_t (per-decision importance sampling, Precup et al. 2000): unbiased, high
    variance.
weighted_importance_sampling
    the same with the weights of each step divided by their mean: slightly biased, far lower variance.
doubly_robust
    sum_t [ w_{t-1} V(s_t) + w_t (r_t - Q(s_t, a_t)) ] with those self-normalised weights w and the model's own Q as
    control variate, V(s) = max Q (Jiang & Li 2016; weighted: Thomas & Brunskill 2016). Weights die out along long
    episodes, so the correction ends at the last step with enough effective episodes, and V stands for the rest;
    `corrected_steps` says where.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mlops_assets.evaluation.intervals import Interval, cluster_bootstrap
from mlops_assets.evaluation.metrics import greedy
from mlops_assets.features.decision_table import DecisionTable
from mlops_assets.foundation.errors import InputError

Estimator = Literal["importance_sampling", "weighted_importance_sampling", "doubly_robust"]


@dataclass(frozen=True)
class OffPolicyEstimate:
    """Estimated mean undiscounted return of one episode.

    `effective_sample_size` is (sum w)^2 / sum w^2 over episodes at step `corrected_steps`. `sufficient` is true when
    every step of the horizon was corrected; else the value rests on too few episodes (or, doubly robust, partly on
    the model).
    """

    method: Estimator
    value: Interval
    effective_sample_size: float
    corrected_steps: int
    horizon: int
    sufficient: bool


@dataclass(frozen=True)
class OffPolicyReport:
    """All estimates that are defined, beside what the logging policy earned on the same episodes."""

    estimates: tuple[OffPolicyEstimate, ...]
    logged_return: Interval
    episodes: int
    incomplete_episodes: int

    def best(self) -> OffPolicyEstimate | None:
        """Return the doubly robust estimate if the data carry it, else None."""
        return next((e for e in self.estimates if e.method == "doubly_robust" and e.sufficient), None)


@dataclass(frozen=True)
class _Episodes:
    """Episodes as (E, T) arrays, padded behind their end; `weight` keeps its last value there."""

    reward: NDArray[np.float64]
    value: NDArray[np.float64]
    action_value: NDArray[np.float64]
    weight: NDArray[np.float64]
    incomplete: int


def off_policy_value(
    table: DecisionTable,
    values: NDArray[np.float32],
    *,
    min_effective_sample_size: float,
    samples: int,
    confidence: float,
    seed: int,
) -> OffPolicyReport | None:
    """Estimate the greedy policy's mean episode return from logged held-out episodes.

    Args:
        table: held-out decisions.
        values: the policy's action values of the table's states, (N, A).
        min_effective_sample_size: effective episodes that a step's weights must have to be used.
        samples: bootstrap resamples of episodes.
        confidence: coverage of the intervals.
        seed: of the bootstrap.

    Returns:
        None when no episode is complete (steps 0, 1, ... up to one that is done).

    Raises:
        InputError: a propensity outside (0, 1].
    """
    episodes = _as_episodes(table, values)
    if episodes is None:
        return None
    sizes = _effective_sizes(episodes.weight)
    enough = sizes >= min_effective_sample_size
    corrected = len(sizes) if enough.all() else int(np.argmin(enough))

    def bootstrap(contributions: NDArray[np.float64], statistic: "_Estimate") -> Interval:
        return cluster_bootstrap(contributions, statistic, samples=samples, confidence=confidence, seed=seed)

    def estimate(method: Estimator, contributions: NDArray[np.float64], steps: int) -> OffPolicyEstimate:
        return OffPolicyEstimate(
            method=method,
            value=bootstrap(contributions, _Estimate(method, steps)),
            effective_sample_size=float(sizes[steps - 1]) if steps else float(len(episodes.weight)),
            corrected_steps=steps,
            horizon=len(sizes),
            sufficient=corrected == len(sizes),
        )

    plain = _plain_contributions(episodes)
    estimates = (
        estimate("importance_sampling", plain, len(sizes)),
        estimate("weighted_importance_sampling", plain, len(sizes)),
        estimate("doubly_robust", _robust_contributions(episodes, corrected), corrected),
    )
    return OffPolicyReport(
        # Where no episode agrees with the policy up to some step, the self-normalised estimate is undefined: left out.
        estimates=tuple(found for found in estimates if np.isfinite(found.value.estimate)),
        logged_return=bootstrap(_mean_contributions(episodes.reward.sum(axis=1)), _Estimate("importance_sampling", 1)),
        episodes=len(episodes.weight),
        incomplete_episodes=episodes.incomplete,
    )


@dataclass(frozen=True)
class _Estimate:
    """Value from summed contributions (..., 1 + 2 T): episodes, then each step's numerators, then its weights.

    The numerators of the doubly robust estimate carry two weights, so its columns are (..., 1 + 4 T).
    """

    method: Estimator
    steps: int

    def __call__(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        count, columns = sums[..., :1], sums[..., 1:]
        if self.method == "doubly_robust":
            return _self_normalised(columns, self.steps * 2 + 1)
        if self.method == "weighted_importance_sampling":
            return _self_normalised(columns, self.steps)
        return np.asarray((columns[..., : self.steps] / count).sum(axis=-1))


def _self_normalised(columns: NDArray[np.float64], terms: int) -> NDArray[np.float64]:
    numerators, weights = columns[..., :terms], columns[..., terms:]
    with np.errstate(divide="ignore", invalid="ignore"):
        # A step that no episode agrees with has no estimate: NaN, and so no interval.
        return np.asarray((numerators / weights).sum(axis=-1))


def _mean_contributions(returns: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.ones(len(returns)), returns], axis=1)


def _plain_contributions(episodes: _Episodes) -> NDArray[np.float64]:
    ones = np.ones((len(episodes.weight), 1))
    return np.concatenate([ones, episodes.weight * episodes.reward, episodes.weight], axis=1)


def _robust_contributions(episodes: _Episodes, steps: int) -> NDArray[np.float64]:
    """Columns of the doubly robust sum: w_{t-1} V for t = 0..steps, then w (r - Q), then both kinds of weights."""
    ones = np.ones((len(episodes.weight), 1))
    before = np.concatenate([ones, episodes.weight[:, :steps]], axis=1)
    value = np.concatenate([episodes.value, np.zeros_like(ones)], axis=1)[:, : steps + 1]
    weight = episodes.weight[:, :steps]
    residual = (episodes.reward - episodes.action_value)[:, :steps]
    return np.concatenate([ones, before * value, weight * residual, before, weight], axis=1)


def _effective_sizes(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    squares = (weight**2).sum(axis=0)
    return np.divide(weight.sum(axis=0) ** 2, squares, out=np.zeros_like(squares), where=squares > 0)


def _as_episodes(table: DecisionTable, values: NDArray[np.float32]) -> _Episodes | None:
    propensity = table.propensity.astype(np.float64)
    if len(propensity) and not ((propensity > 0) & (propensity <= 1)).all():
        raise InputError(f"propensities must lie in (0, 1], found {propensity.min()} to {propensity.max()}")
    rows, incomplete = _complete_episodes(table)
    if rows is None:
        return None
    inside = rows >= 0
    chosen = np.where(inside, rows, 0)
    wide = values.astype(np.float64)
    agreement: NDArray[np.float64] = (greedy(values) == table.action) / propensity
    taken = wide[np.arange(len(wide)), table.action]
    return _Episodes(
        reward=np.where(inside, table.reward.astype(np.float64)[chosen], 0.0),
        value=np.where(inside, wide.max(axis=1)[chosen], 0.0),
        action_value=np.where(inside, taken[chosen], 0.0),
        weight=np.cumprod(np.where(inside, agreement[chosen], 1.0), axis=1, dtype=np.float64),
        incomplete=incomplete,
    )


def _complete_episodes(table: DecisionTable) -> tuple[NDArray[np.int64] | None, int]:
    """Row numbers (E, T) of the complete episodes, -1 behind their end, and how many episodes are not complete."""
    names, episode = np.unique(table.episode_id, return_inverse=True)
    order = np.lexsort((table.step, episode))
    lengths = np.bincount(episode, minlength=len(names))
    starts = np.cumsum(lengths) - lengths
    position = np.arange(len(order)) - np.repeat(starts, lengths)
    in_order = np.bincount(episode[order], weights=table.step[order] == position, minlength=len(names)) == lengths
    ends = np.zeros(len(names), dtype=bool)
    if len(names):
        ends = table.done[order[starts + lengths - 1]]
    complete = in_order & ends
    if not complete.any():
        return None, len(names)
    row_of = np.full((len(names), int(lengths[complete].max())), -1, dtype=np.int64)
    kept = complete[episode[order]]
    row_of[episode[order][kept], position[kept]] = order[kept]
    return row_of[complete], int((~complete).sum())
