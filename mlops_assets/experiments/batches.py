"""Users of a look as batches to bet on. The evidence itself is `sequential.py`'s."""

import math
from collections.abc import Iterator, Mapping, Sequence

from mlops_assets.experiments.sequential import Batch, Outcomes
from mlops_assets.experiments.units import Unit

# Nothing is known of the rates of the first batch, so nothing is bet on it: it should not be a whole day.
_SMALLEST_BATCH = 50
_BATCHES_A_LOOK = 20


def batches(units: Sequence[Unit], metric: str) -> Iterator[tuple[float, Batch]]:
    """Give (traffic share, batch) for the users with this metric, so that bets on the later ones know the earlier.

    The order knows nothing of outcomes. Apart by the probability with which users were treated, on which bets depend, and
    by traffic share, the smaller first: that a user is there again says that he was in the control before, so nothing may
    be bet on before with that known.
    """
    size = max(_SMALLEST_BATCH, math.ceil(len(units) / _BATCHES_A_LOOK))
    for begin in range(0, len(units), size):
        values: dict[tuple[float, float], tuple[list[float], list[float]]] = {}
        for unit in units[begin : begin + size]:
            outcome = unit.outcomes.get(metric)
            if outcome is None:
                continue
            drawn = unit.treatment_share, unit.share
            arms = values.get(drawn)
            if arms is None:
                arms = values[drawn] = ([], [])
            arms[unit.treatment].append(outcome)
        for (traffic_share, share), (control, treatment) in sorted(values.items()):
            yield traffic_share, Batch(share, Outcomes.of(control), Outcomes.of(treatment))


class Batches:
    """Users of a look at one traffic share, their batches made once for all tests of a metric."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self._units = units
        self._of: dict[str, list[Batch]] = {}

    def of(self, metric: str) -> Sequence[Batch]:
        """Return the batches of the users with this metric."""
        found = self._of.get(metric)
        if found is None:
            found = self._of[metric] = [batch for _, batch in batches(self._units, metric)]
        return found


def by_traffic_share(units: Sequence[Unit]) -> Mapping[float, Batches]:
    """Return a look's users by traffic share, the smaller first."""
    found: dict[float, list[Unit]] = {}
    for unit in units:
        found.setdefault(unit.treatment_share, []).append(unit)
    return {share: Batches(found[share]) for share in sorted(found)}
