"""A drift applied: to the problem (items, rewards), or to the tables on their way (units, schema, categories)."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlops_assets.experiences.simulator.config import Drift
from mlops_assets.experiences.simulator.problem import DecisionProblem
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import SettingsError

NEW_FRAMEWORK = "solid"


def drifted_problem(problem: DecisionProblem, drift: Drift | None) -> DecisionProblem:
    """Return the problem as it is under `drift`: other item frequencies, other gains."""
    if drift is None:
        return problem
    risk = problem.profile.risk
    tilt = (risk - risk.mean()) / risk.std()
    probability = problem.item_probability * np.exp(drift.covariate_shift * tilt)
    share = drift.reward_change
    return replace(
        problem,
        item_probability=probability / probability.sum(),
        gain=(1 - share) * problem.gain + share * problem.changed_gain,
    )


def break_unit(context: NDArray[np.float32], spec: AgentSpec, drift: Drift | None) -> None:
    """Scale the drift's `unit_field` in contexts (..., C), in place.

    Raises:
        SettingsError: the agent has no such field.
    """
    if drift is None or drift.unit_field is None:
        return
    names = [item.name for item in spec.context]
    if drift.unit_field not in names:
        raise SettingsError(f"drift.unit_field {drift.unit_field!r} is no context field of {spec.name!r}: {names}")
    context[..., names.index(drift.unit_field)] *= np.float32(drift.unit_factor)


def break_schema(experiences: pa.Table, drift: Drift | None) -> pa.Table:
    """Rename the drift's `renamed_column`.

    Raises:
        SettingsError: the table has no such column.
    """
    if drift is None or drift.renamed_column is None:
        return experiences
    names = experiences.column_names
    if drift.renamed_column not in names:
        raise SettingsError(f"drift.renamed_column {drift.renamed_column!r} is no column of the experiences: {names}")
    return experiences.rename_columns([f"{name}_v2" if name == drift.renamed_column else name for name in names])
