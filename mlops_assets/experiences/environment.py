"""What an experience source gives: logged batches, and environments that replay episodes for any policy. No source."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlops_assets.foundation.agents import AgentSpec


class DecisionEnvironment(Protocol):
    """E logged episodes side by side, replayed for any policy; what an episode brings does not depend on the actions.

    Every episode starts at its first decision on construction and after `reset`. Two policies meet the same items and
    the same noise (common random numbers), so the difference of their returns is a paired one.
    """

    episode_ids: tuple[str, ...]
    lengths: NDArray[np.int64]

    def reset(self) -> None:
        """Put every episode back to its first decision."""
        ...

    def context(self) -> NDArray[np.float32]:
        """Return the context of the current decisions, (E, C) in catalogue order; zeros for finished episodes."""
        ...

    def active(self) -> NDArray[np.bool_]:
        """Return (E,) true where the episode still has a decision to take."""
        ...

    def step(self, actions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Take one action in every episode, (E,), and return the rewards, (E,); 0 where the episode is finished.

        Raises:
            InputError: an action of an active episode is out of range, or the shape is not (E,).
        """
        ...

    def best_actions(self) -> NDArray[np.int64]:
        """Return the best action of the current decisions, (E,), as a label would name it; 0 for finished episodes."""
        ...


@dataclass(frozen=True)
class ExperienceBatch:
    """Whole episodes in the tables of `schema.py`, and the position that the source has reached with them.

    `labels` holds every label that belongs to these experiences, with the time from which it is known;
    `requirement_texts` holds the texts that these experiences refer to.
    """

    experiences: pa.Table
    labels: pa.Table
    requirement_texts: pa.Table
    cursor: str


class ExperienceSource(Protocol):
    """Where experiences come from."""

    @property
    def name(self) -> str:
        """Name of the source, stored with every snapshot."""
        ...

    def as_of(self, now: datetime) -> datetime:
        """Return the time up to which this source knows the world: `now` if live, its end if a closed history."""
        ...

    def batches(self, spec: AgentSpec, cursor: str | None) -> Iterator[ExperienceBatch]:
        """Yield the agent's experiences after `cursor` in order of time; everything when it is None.

        Raises:
            InputError: the cursor is not one of this source's, or the source cannot be read.
        """
        ...

    def environment(self, spec: AgentSpec, episode_ids: Sequence[str]) -> DecisionEnvironment | None:
        """Return the named episodes as an environment, in the given order.

        None where what other actions would have brought is not known, as of decisions that were really served.

        Raises:
            InputError: an episode id is unknown to this source.
        """
        ...
