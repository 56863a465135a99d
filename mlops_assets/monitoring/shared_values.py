"""Features that many decisions share: a value of an agent's day is drawn once, however many decisions see it.

Of twelve agents, a day's window has twelve draws of each of their features, in three thousand rows. Taken for three
thousand, every day differs from the days before it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_assets.features.vector import column_name
from mlops_assets.foundation.agents import AgentSpec


def shared_draws(columns: Mapping[str, NDArray[Any]], spec: AgentSpec) -> dict[str, NDArray[np.int64]]:
    """Number, for each column of a feature view, the draws that its rows (N,) are of: rows with the view's values all equal.

    Where a value is missing, each row is a draw of its own: what is not there is shared by nobody, and has to be seen. Columns
    of other kinds are not in the answer.
    """
    views: dict[str, list[str]] = {}
    for field in spec.features:
        if column_name(field) in columns:
            views.setdefault(field.view, []).append(column_name(field))
    return {name: draws for names in views.values() for draws in [_numbered(columns, names)] for name in names}


def _numbered(columns: Mapping[str, NDArray[Any]], names: list[str]) -> NDArray[np.int64]:
    found = np.zeros(len(columns[names[0]]), dtype=np.int64)
    missing = np.zeros(len(found), dtype=bool)
    for name in names:
        codes = np.unique(columns[name], return_inverse=True, equal_nan=True)[1]
        # Numbered anew each time: the product of all counts need not fit 64 bits.
        found = np.unique(found * (int(codes.max(initial=0)) + 1) + codes, return_inverse=True)[1].astype(np.int64)
        missing |= np.isnan(columns[name].astype(np.float64))
    found[missing] = int(found.max(initial=0)) + 1 + np.arange(int(missing.sum()))
    return np.unique(found, return_inverse=True)[1].astype(np.int64)
