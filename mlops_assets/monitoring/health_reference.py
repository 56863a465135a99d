"""How one version's learner was when it was well, frozen: what the alarms of `health.py` compare with."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.policies import HealthPolicy
from mlops_assets.monitoring.calibration import cluster_error
from mlops_assets.monitoring.design_effect import design_effect
from mlops_assets.monitoring.frozen_arrays import from_bytes, to_bytes
from mlops_assets.monitoring.learner_errors import overestimation, td_errors
from mlops_assets.monitoring.unseen_states import SeenStates
from mlops_assets.monitoring.version_decisions import VersionDecisions

_KIND = "health-1"


@dataclass(frozen=True)
class HealthReference:
    """Frozen. `counts` (A,) of the taken actions, worth `rows / action_effect` independent ones.

    `overestimation`, its standard deviation `_spread` and standard error `_error`, in units of the reward; `tail` is the
    `tail_quantile` of the TD error's distance from its median. NaN where the reference does not know them.
    """

    discount: float
    counts: NDArray[np.int64]
    action_effect: float
    episodes: int
    overestimation: float
    overestimation_spread: float
    overestimation_error: float
    td_rows: int
    tail_quantile: float
    tail: float
    seen: SeenStates

    @classmethod
    def of(cls, reference: VersionDecisions, policy: HealthPolicy, *, discount: float, seed: int) -> "HealthReference":
        """Freeze decisions that the version itself took: held-out episodes played in an environment, or its first in service.

        Decisions that another policy took show other states and another mix of actions, which would look like illness.

        Raises:
            InputError: fewer than `min_reference_rows`, or one cluster only.
        """
        rows = len(reference)
        if rows < policy.min_reference_rows or len(np.unique(reference.cluster)) < 2:  # noqa: PLR2004
            raise InputError(
                f"{rows} decisions in {len(np.unique(reference.cluster))} clusters are no reference of health; "
                f"{policy.min_reference_rows} in several are needed: wait for more, or lower health.min_reference_rows"
            )
        sorted_ = reference.ordered()
        clusters = np.unique(sorted_.cluster, return_inverse=True)[1].astype(np.int64)
        over, errors = overestimation(sorted_, discount), td_errors(sorted_, discount)
        known, settled = np.isfinite(over), np.isfinite(errors)
        return cls(
            discount=discount,
            counts=np.bincount(sorted_.action, minlength=sorted_.actions),
            action_effect=design_effect(sorted_.action.astype(np.intp), clusters, sorted_.actions),
            episodes=len(np.unique(sorted_.episode[known])),
            overestimation=float(over[known].mean()) if known.any() else float("nan"),
            overestimation_spread=float(over[known].std()) if known.any() else float("nan"),
            overestimation_error=cluster_error(over, clusters),
            td_rows=int(settled.sum()),
            tail_quantile=policy.tail_quantile,
            tail=tail_of(errors[settled], policy.tail_quantile) if settled.any() else float("nan"),
            seen=SeenStates.of(sorted_.state, clusters, policy.unseen_quantile, seed),
        )

    def to_bytes(self) -> bytes:
        """Freeze: equal references give equal bytes. NaN stands as None."""
        numbers, arrays = _split(vars(self), "")
        seen_numbers, seen_arrays = _split(vars(self.seen), "seen.")
        return to_bytes(_KIND, {**numbers, **seen_numbers}, {**arrays, **seen_arrays})

    @classmethod
    def from_bytes(cls, content: bytes) -> "HealthReference":
        """Read a frozen reference.

        Raises:
            InputError: these bytes are none.
        """
        numbers, arrays = from_bytes(_KIND, content)
        values: dict[str, Any] = {name: np.nan if value is None else value for name, value in numbers.items()}
        values.update(arrays)
        seen = {name.removeprefix("seen."): value for name, value in values.items() if name.startswith("seen.")}
        own = {name: value for name, value in values.items() if not name.startswith("seen.")}
        return cls(**own, seen=SeenStates(**seen))


def tail_of(errors: NDArray[np.float64], quantile: float) -> float:
    """Quantile of the distance of TD errors (N,) from their median.

    From the median, not from 0: an error that all decisions share is over-estimation, and has its own alarm.
    """
    return float(np.quantile(np.abs(errors - np.median(errors)), quantile))


def _split(values: dict[str, Any], prefix: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    arrays = {prefix + name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    numbers = {
        prefix + name: None if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in values.items()
        if isinstance(value, float | int)
    }
    return numbers, arrays
