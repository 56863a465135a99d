"""How a decision becomes numbers for the calibration: everything that is known of it before a label comes. No model here."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mlops_assets.monitoring.linear_models import Float
from mlops_assets.monitoring.version_decisions import VersionDecisions

_KNOTS = (0.05, 0.15, 0.3, 0.5, 0.7, 0.9)
# Random half-spaces of the state (Rahimi & Recht 2008): what is not linear in it.
_HALF_SPACES = 48
# Kinks of the state's fields, shared out among them, each field at most so many: what is not linear in one field, such as
# sessions that are broken off after some steps.
_KINKS, _MOST_KINKS = 96, 5
# Standardised inputs beyond this say no more than "far off", as in the network.
_LIMIT = 8.0
_MIN_SPREAD = 1e-6


@dataclass(frozen=True)
class Features:
    """How a decision becomes F numbers: fitted on the reference, then fixed."""

    centre: Float
    spread: Float
    value_spread: float
    knots: Float
    kinks: Float
    directions: Float
    offsets: Float
    mean: Float
    scale: Float

    @classmethod
    def fitted(cls, decisions: VersionDecisions, seed: int) -> "Features":
        """Fit scales and knots on the reference."""
        state = decisions.state.astype(np.float64)
        spread = state.std(axis=0)
        random = np.random.default_rng(seed)
        width = state.shape[1] + decisions.actions
        value_spread = max(float(decisions.q_values.std()), _MIN_SPREAD)
        spread = np.where(spread > _MIN_SPREAD, spread, 1.0)
        kinks = max(1, min(_MOST_KINKS, _KINKS // state.shape[1]))
        start = cls(
            centre=state.mean(axis=0),
            spread=spread,
            value_spread=value_spread,
            knots=np.quantile(_margins(decisions.q_values)[:, 0] / value_spread, _KNOTS),
            kinks=np.quantile((state - state.mean(axis=0)) / spread, np.arange(1, kinks + 1) / (kinks + 1), axis=0),
            directions=random.normal(size=(width, _HALF_SPACES)) / np.sqrt(width),
            offsets=random.normal(size=_HALF_SPACES),
            mean=np.zeros(1),
            scale=np.ones(1),
        )
        raw = start._raw(decisions)
        deviation = raw.std(axis=0)
        scale = np.where(deviation > _MIN_SPREAD, deviation, np.inf)
        return replace(start, mean=raw.mean(axis=0), scale=scale)

    def of(self, decisions: VersionDecisions) -> Float:
        """Features (N, F), standardised by the reference; one that is constant there is 0 everywhere."""
        return np.clip((self._raw(decisions) - self.mean) / self.scale, -_LIMIT, _LIMIT)

    def _raw(self, decisions: VersionDecisions) -> Float:
        rows = np.arange(len(decisions))
        values = decisions.q_values.astype(np.float64) / self.value_spread
        margins = _margins(decisions.q_values) / self.value_spread
        state = np.clip((decisions.state - self.centre) / self.spread, -_LIMIT, _LIMIT)
        ramp = np.maximum(margins[:, :1] - self.knots, 0.0)
        bent = np.maximum(state[:, None, :] - self.kinks, 0.0).reshape(len(state), self.kinks.size)
        greedy = np.eye(decisions.actions)[decisions.greedy]
        below = values[rows, decisions.action] - values.max(axis=1)
        near = np.exp(-margins[:, :1])
        centred = values - values.mean(axis=1, keepdims=True)
        curved = np.maximum(np.concatenate([state, centred], axis=1) @ self.directions + self.offsets, 0.0)
        return np.concatenate(
            [state, bent, values, margins, ramp, near, greedy, greedy * near, below[:, None], curved], axis=1
        )


def _margins(q_values: NDArray[np.float32]) -> Float:
    ordered = np.sort(q_values.astype(np.float64), axis=1)
    return np.stack([ordered[:, -1] - ordered[:, -2], ordered[:, -1] - ordered[:, :-1].mean(axis=1)], axis=1)
