"""The form that every agent's decision problem has: a budget and coverage levels against a stream of random items.

An episode shows `horizon` items, drawn independently from a known distribution whatever the actions. The endogenous
state (budget left, coverage levels) is finite, an action moves it deterministically, and gain and cost of an action
depend on state and item alone. The logged context shows state, item and step: the problem is Markov in it, and its
optimal policy is computed exactly (`solve.py`).
The three problems themselves are in `problems.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class ItemField:
    """A context field that tells the item: its `level` (K,) plus a uniform jitter in +-`jitter`."""

    level: Floats
    jitter: float = 0.0


@dataclass(frozen=True)
class SideField:
    """A plausible context field on which neither reward nor transition depends.

    `base + slope * about[item] + app_spread * app + spread * noise`, clipped to 0..1; noise is uniform in -1..1, and
    so is about every app's fixed position. With `quantum` q the value is rounded, at random and without bias, to a multiple of 1/q.
    """

    base: float
    spread: float
    slope: float = 0.0
    about: Floats | None = None
    app_spread: float = 0.0
    quantum: int | None = None


@dataclass(frozen=True)
class ItemProfile:
    """What kind of requirement or test an item is, (K,) each, to pick a concrete one from the fleet.

    `area` is an index into the fleet's areas, or -1 for any; `risk`, `duration` and `flaky` are levels in 0..1.
    """

    area: Integers
    risk: Floats
    duration: Floats
    flaky: Floats


@dataclass(frozen=True)
class DecisionProblem:
    """Tables of one problem: S states, K items, A actions.

    Attributes:
        item_probability: (K,).
        next_state: (S, K, A) state after the action.
        gain, cost: (S, K, A); the expected reward is gain - cost, and noise acts on the gain.
        changed_gain: (S, K, A) the second reward relation, which a drift blends in.
        state_fields: context fields that show the state, (S,) each.
        item_fields, side_fields: context fields of the item; `steps_left` is filled by the step.
    """

    horizon: int
    discount: float
    start: int
    item_probability: Floats
    next_state: Integers
    gain: Floats
    cost: Floats
    changed_gain: Floats
    profile: ItemProfile
    state_fields: Mapping[str, Floats]
    item_fields: Mapping[str, ItemField]
    side_fields: Mapping[str, SideField] = field(default_factory=dict)

    @property
    def reward(self) -> Floats:
        """Expected reward, (S, K, A)."""
        return self.gain - self.cost

    def check_against(self, spec: AgentSpec) -> None:
        """See that this problem fills exactly the agent's context and actions.

        Raises:
            InputError: a context field is missing or unknown, or the number of actions differs.
        """
        mine = {*self.state_fields, *self.item_fields, *self.side_fields, "steps_left"}
        theirs = {item.name for item in spec.context}
        if mine != theirs:
            raise InputError(
                f"the simulated problem of {spec.name!r} does not fill its context: missing {sorted(theirs - mine)}, "
                f"unknown {sorted(mine - theirs)}; align simulator/problems.py with foundation/agents.py"
            )
        if self.gain.shape[-1] != len(spec.actions):
            raise InputError(
                f"the simulated problem of {spec.name!r} has {self.gain.shape[-1]} actions, the catalogue "
                f"{len(spec.actions)}; align simulator/problems.py with foundation/agents.py"
            )
