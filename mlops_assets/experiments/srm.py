"""Sample-ratio mismatch: whether users come into the arms in the shares that were set, at any number of looks.

The e-process mixes the likelihood ratios of all splits by a Beta around the set share (Lindon and Malek, Anytime-valid
inference for multinomial count data, NeurIPS 2022): it is exact, and depends on the counts alone, not on when they were
looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from mlops_assets.foundation.errors import InputError

# Of the mixture, in users: splits that are off by some points weigh the most, as a broken router's are.
_CONCENTRATION = 400.0


@dataclass(frozen=True)
class Assigned:
    """Users assigned while the share was the same."""

    share: float
    control: int
    treatment: int


@dataclass(frozen=True)
class SplitCheck:
    """`log_e`: evidence that the split is broken. `leaks`: the arm that lacks users, None while nothing is proven."""

    log_e: float
    alarm: bool
    leaks: Literal["control", "treatment"] | None
    expected_treatment: float
    treatment: int


def check_split(assigned: Sequence[Assigned], *, alpha: float = 0.001) -> SplitCheck:
    """Check counts of users, a row for each share that was set; a right split alarms with probability alpha, ever.

    Raises:
        InputError: a share or a count is none.
    """
    log_e, expected, treated = 0.0, 0.0, 0
    for one in assigned:
        if not (0.0 <= one.share <= 1.0 and one.control >= 0 and one.treatment >= 0):
            raise InputError(
                f"{one.treatment} of {one.control + one.treatment} users at a share of {one.share} cannot be; "
                "expected a share of 0 to 1 and counts from 0 on"
            )
        log_e += _log_e(one)
        expected += one.share * (one.control + one.treatment)
        treated += one.treatment
    alarm = log_e >= -np.log(alpha)
    leaks: Literal["control", "treatment"] = "treatment" if treated < expected else "control"
    return SplitCheck(log_e, bool(alarm), leaks if alarm else None, expected, treated)


def _log_e(one: Assigned) -> float:
    if one.share in {0.0, 1.0}:
        # Nobody belongs into the other arm: a single user there is proof.
        return float("inf") if (one.treatment if one.share == 0.0 else one.control) else 0.0
    a, b = _CONCENTRATION * one.share, _CONCENTRATION * (1.0 - one.share)
    mixed = special.betaln(a + one.treatment, b + one.control) - special.betaln(a, b)
    return float(mixed - one.treatment * np.log(one.share) - one.control * np.log1p(-one.share))
