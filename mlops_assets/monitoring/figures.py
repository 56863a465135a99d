"""A figure held against its limit: met, missed, or unknown because too little is there to say."""

import operator
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Standing = Literal["met", "missed", "unknown"]
Comparison = Literal["<=", ">=", "<", ">"]
_COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Figure:
    """One figure of a report: how it is computed, over what, what it is, and what it has to be.

    `value` None: it is not known, and `source` says why; `target` None: nothing is asked of it. `unit` is a share, ms, h, ...
    """

    name: str
    formula: str
    window: str
    value: float | None
    target: float | None
    comparison: Comparison
    unit: str
    source: str

    @property
    def standing(self) -> Standing:
        """Whether the target is met."""
        if self.value is None or self.target is None:
            return "unknown"
        return "met" if _COMPARE[self.comparison](self.value, self.target) else "missed"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "standing": self.standing}


def overall(figures: Iterable[Figure]) -> Standing:
    """Return missed if anything is, unknown if anything that has a target is, else met."""
    standings = [figure.standing for figure in figures if figure.target is not None]
    if "missed" in standings:
        return "missed"
    return "unknown" if "unknown" in standings or not standings else "met"


def in_words(value: float | None, unit: str) -> str:
    """Write a figure with its unit: shares as percent; an unknown one is a dash."""
    if value is None:
        return "–"
    if unit == "share":
        return f"{value:.2%}"
    number = f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"
    return f"{number} {unit}".rstrip()
