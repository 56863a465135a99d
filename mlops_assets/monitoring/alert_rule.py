"""One rule of Prometheus as data, and from which limit on a severity is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from mlops_assets.foundation.policies import Levels, Role
from mlops_assets.monitoring.severity import Severity

# The value that fired; `humanize` would call a score of .35 "350m".
VALUE = '{{ $value | printf "%.3g" }}'
_Sign = Literal[">", ">="]


@dataclass(frozen=True)
class AlertRule:
    """One rule; `role` answers for it (docs/alerts.md), `name` is its heading in docs/runbooks.md.

    `expr` goes on for `for_minutes` before it fires. Summary and description are Prometheus' templates.
    """

    name: str
    severity: Severity
    role: Role
    expr: str
    for_minutes: float
    summary: str
    description: str
    labels: Mapping[str, str] = field(default_factory=dict)


class Told(NamedTuple):
    """A severity and the comparison from which on it is told."""

    severity: Severity
    sign: _Sign
    limit: float


def of_levels(levels: Levels) -> Sequence[Told]:
    """Return the levels that are set: INFO and WARNING begin at their limit, CRITICAL above its, as in `rules.judged`."""
    given: tuple[tuple[Severity, _Sign, float | None], ...] = (
        (Severity.INFO, ">=", levels.info),
        (Severity.WARNING, ">=", levels.warning),
        (Severity.CRITICAL, ">", levels.critical),
    )
    return [Told(severity, sign, limit) for severity, sign, limit in given if limit is not None]


def of_bands(monitor: float, warning: float, critical: float) -> Sequence[Told]:
    """Return the bands of a drift policy, which begin above their limits; of two with one limit, the worse one is told."""
    bands = (
        (Severity.INFO, monitor, warning),
        (Severity.WARNING, warning, critical),
        (Severity.CRITICAL, critical, None),
    )
    return [Told(severity, ">", limit) for severity, limit, following in bands if limit != following]
