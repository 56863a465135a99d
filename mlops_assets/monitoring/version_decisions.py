"""One version's decisions in a window as plain arrays: what drift of quality and the learner's health are measured on.

No measure is defined here, and nothing is read from a store.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from mlops_assets.foundation.errors import InputError

_MICROSECONDS_PER_HOUR = 3_600_000_000


@dataclass(frozen=True)
class VersionDecisions:
    """N decisions of one version, in any order; D state fields, A actions. Nothing here is changed by a measure.

    `state` (N, D) and `q_values` (N, A) float32; `action` (N,) int64, the one that was taken; `reward` (N,) float32, NaN
    where no outcome is known; `done` (N,) bool; `episode` and `step` (N,) int64; `cluster` (N,) int64, whose decisions
    depend on each other (users, or episodes where there are none). `best_action` (N,) int64 is -1, and `action_values` (N, A)
    are NaN, where no label is known. `event_time` (N,) int64, microseconds UTC.
    """

    state: NDArray[np.float32]
    q_values: NDArray[np.float32]
    action: NDArray[np.int64]
    reward: NDArray[np.float32]
    done: NDArray[np.bool_]
    episode: NDArray[np.int64]
    step: NDArray[np.int64]
    cluster: NDArray[np.int64]
    best_action: NDArray[np.int64]
    action_values: NDArray[np.float32]
    event_time: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together.

        Raises:
            InputError: lengths differ, an action is out of range, or a Q value or state is not finite.
        """
        rows = len(self.action)
        for field in fields(self):
            array = getattr(self, field.name)
            wanted = 2 if field.name in {"state", "q_values", "action_values"} else 1
            if array.ndim != wanted or len(array) != rows:
                raise InputError(f"{field.name} has shape {array.shape}; expected {wanted} dimensions and {rows} rows")
        if self.action_values.shape != self.q_values.shape or self.actions < 2:  # noqa: PLR2004
            raise InputError(
                f"q_values are {self.q_values.shape} and action_values {self.action_values.shape}; expected (N, A) both, "
                "with at least two actions"
            )
        if rows and not (self.action.min() >= 0 and self.action.max() < self.actions):
            raise InputError(
                f"actions reach from {self.action.min()} to {self.action.max()}; 0 to {self.actions - 1} are legal"
            )
        if rows and not (self.best_action.min() >= -1 and self.best_action.max() < self.actions):
            raise InputError(
                f"best actions reach from {self.best_action.min()} to {self.best_action.max()}; -1 (unlabelled) to "
                f"{self.actions - 1} are legal"
            )
        for name in ("state", "q_values"):
            if not np.isfinite(getattr(self, name)).all():
                raise InputError(f"{name} hold a value that is not finite: leave rows out that no agent has answered")

    def __len__(self) -> int:
        """Number of decisions."""
        return len(self.action)

    @property
    def actions(self) -> int:
        """Number of actions."""
        return int(self.q_values.shape[1])

    @property
    def greedy(self) -> NDArray[np.int64]:
        """Largest Q value's action (N,), the first of equals."""
        return self.q_values.argmax(axis=1)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Whether the best action is known, (N,)."""
        return self.best_action >= 0

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the greedy action is the labelled best, (N,); False where no label is known."""
        return self.greedy == self.best_action

    @property
    def regret(self) -> NDArray[np.float64]:
        """Value lost by taking the greedy action instead of the best, in units of the reward, (N,); NaN without label.

        Of the greedy action, since exploring costs the same whether the version is good or not. Summed over an episode and
        discounted, it is what the policy earns less than the optimum (performance difference lemma, Kakade & Langford 2002).
        """
        exact = self.action_values.astype(np.float64)
        return exact.max(axis=1) - exact[np.arange(len(self)), self.greedy]

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> "VersionDecisions":
        """Return some of the decisions, by number, mask or slice."""
        return VersionDecisions(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def ordered(self) -> "VersionDecisions":
        """Return them sorted by episode and step."""
        return self.take(np.lexsort((self.step, self.episode)))

    def without_labels(self) -> "VersionDecisions":
        """Return them as they were before any label came."""
        return replace(
            self,
            best_action=np.full(len(self), -1, dtype=np.int64),
            action_values=np.full_like(self.action_values, np.nan),
        )

    def old_enough(self, now: int, label_delay_hours: float) -> NDArray[np.bool_]:
        """Whether labels have had their time to come by `now` (microseconds UTC), (N,).

        Early labels are not those of an average decision: before the delay is over, the labelled are a biased choice.
        """
        return self.event_time <= now - round(label_delay_hours * _MICROSECONDS_PER_HOUR)


def some_clusters(clusters: NDArray[np.int64], most: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return row numbers of whole clusters, drawn at random up to `most` rows (of one cluster more than that, its first)."""
    if len(clusters) <= most:
        return np.arange(len(clusters))
    place = random.permutation(int(clusters.max()) + 1)[clusters]
    return np.sort(np.argsort(place, kind="stable")[:most])
