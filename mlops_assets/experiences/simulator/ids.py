"""Names of simulated episodes and decisions: readable, deterministic, unique over worlds, cheap by the hundred thousand."""

import re
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlops_assets.foundation.errors import InputError

if TYPE_CHECKING:
    from mlops_assets.experiences.simulator.world import World

_EPISODE = re.compile(r"(?P<prefix>.+)-d(?P<day>\d{4,})-(?P<number>\d{6,})")


def episode_ids(world: "World", day: int) -> pa.Array:
    """Return the ids of a day's episodes: `<agent>-<world>-d<day>-<number>`."""
    numbers = pc.utf8_lpad(pa.array(np.arange(world.episodes_per_day)).cast(pa.string()), 6, padding="0")
    return pc.binary_join_element_wise(f"{_prefix(world)}-d{day:04d}", numbers, "-")


def experience_ids(episodes: pa.Array, steps: pa.Array) -> pa.Array:
    """Return `<episode>-<step>` for every decision."""
    return pc.binary_join_element_wise(episodes, pc.utf8_lpad(steps.cast(pa.string()), 2, padding="0"), "-")


def parse_episode_id(text: str, world: "World") -> tuple[int, int]:
    """Return (day, number) of an episode.

    Raises:
        InputError: the id is not one of this world's.
    """
    match = _EPISODE.fullmatch(text)
    if match is not None and match["prefix"] == _prefix(world):
        day, number = int(match["day"]), int(match["number"])
        if day < world.config.total_days and number < world.episodes_per_day:
            return day, number
    raise InputError(
        f"episode {text!r} is not one of this simulation ({_prefix(world)}-d0000-000000 to "
        f"d{world.config.total_days - 1:04d}-{world.episodes_per_day - 1:06d}): same seed, rows and days as in the log?"
    )


def _prefix(world: "World") -> str:
    return f"{world.spec.name}-{world.key}"
