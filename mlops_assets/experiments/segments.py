"""Whom an experiment is for: bounds and choices on what a request says of itself. Everybody else gets the control, uncounted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError

# What every request says, beside the agent's context.
CHOICES = ("agent_id", "test_id", "ui_framework", "browser", "test_type", "requirement_id")


@dataclass(frozen=True)
class Segment:
    """`ranges`: context field to (low, high), both inclusive. `choices`: field of a request to its allowed values.

    An empty segment is everybody.
    """

    ranges: Mapping[str, tuple[float, float]] = field(default_factory=lambda: MappingProxyType({}))
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def has(self, said: Mapping[str, Any], context: Mapping[str, float]) -> bool:
        """Whether a request with these fields and this context belongs to it."""
        return all(said.get(name) in allowed for name, allowed in self.choices.items()) and all(
            low <= context[name] <= high for name, (low, high) in self.ranges.items()
        )

    def document(self) -> dict[str, Any]:
        """Return it as JSON keeps it."""
        return {
            "ranges": {name: list(bounds) for name, bounds in self.ranges.items()},
            "choices": {name: list(allowed) for name, allowed in self.choices.items()},
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Segment":
        """Return what `document` gave."""
        return cls(
            {name: (bounds[0], bounds[1]) for name, bounds in document.get("ranges", {}).items()},
            {name: tuple(allowed) for name, allowed in document.get("choices", {}).items()},
        )


EVERYBODY = Segment()


def parse_segment(conditions: Sequence[str], spec: AgentSpec) -> Segment:
    """Read conditions such as `browser=chromium,firefox` and `ui_complexity_score=0.2..0.8` (either end may be left out).

    Raises:
        InputError: a condition is none, names no field, or leaves nobody.
    """
    fields = {one.name: one for one in spec.context}
    ranges: dict[str, tuple[float, float]] = {}
    choices: dict[str, tuple[str, ...]] = {}
    for condition in conditions:
        name, equals, wanted = condition.partition("=")
        if name in fields and equals:
            ranges[name] = _range(condition, wanted, fields[name].low, fields[name].high)
        elif name in CHOICES and wanted:
            choices[name] = tuple(wanted.split(","))
        else:
            raise InputError(
                f"the condition {condition!r} names no field of {spec.name}; write <field>=<low>..<high> for "
                f"{', '.join(fields)}, or <field>=<value>,<value> for {', '.join(CHOICES)}"
            )
    return Segment(ranges, choices)


def _range(condition: str, wanted: str, lowest: float, highest: float) -> tuple[float, float]:
    low_text, dots, high_text = wanted.partition("..")
    try:
        low, high = float(low_text or lowest), float(high_text or highest)
    except ValueError:
        dots = ""
        low = high = 0.0
    if not dots or not low <= high:
        raise InputError(f"the condition {condition!r} is no range; write <low>..<high>, such as 0.2..0.8")
    if high < lowest or low > highest:
        raise InputError(f"the condition {condition!r} leaves nobody: the field lies within {lowest:g} to {highest:g}")
    return low, high
