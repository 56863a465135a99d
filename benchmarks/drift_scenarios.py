"""Labelled traffic with and without drift: twenty columns, drawn from latent normals that are shifted and stretched.

Every column is a function of a standard normal of its own, so that a drift of one size means the same in all of them: a
shift of 0.6 standard deviations of a normal is a PSI of about 0.36 and a Kolmogorov-Smirnov D of 0.24.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Table = dict[str, NDArray[Any]]
Float = NDArray[np.float64]
NAMES = (
    *(f"normal_{i}" for i in range(6)),
    *(f"skewed_{i}" for i in range(4)),
    *(f"count_{i}" for i in range(3)),
    "share_0",
    "gaps_0",
    *(f"category_{i}" for i in range(3)),
    "rare_0",
    "flag_0",
)
USER_ROWS, CORRELATION = 10, 0.3
HOURS = 24
# Of the daily wave, in standard deviations.
SEASON = 0.8
_CATEGORIES = np.array(["click", "type", "scroll", "drag", "hover", "wait"])
_CATEGORY_LIMITS = np.cumsum([0.4, 0.3, 0.15, 0.08, 0.05])
QUIET = ("none", "none, users of 10 rows", "none, daily season")
# What a scenario does to the latent normals, or to the table, of the columns that drift.
DRIFTS = (
    "sudden 0.6",
    "sudden 1.0",
    "sudden 1.0, users of 10 rows",
    "spread x2",
    "gradual 0 to 1.6",
    "recurring 1.4 every other hour",
    "season three times as strong",
    "rare class 1 % to 15 %",
    "NaN burst 25 %",
    "new category 5 %",
    "unit x1000",
)


@dataclass(frozen=True)
class Scenario:
    """What is to be told apart: `kind` one of QUIET or DRIFTS, in `drifted` columns, at `rows` rows beside the reference."""

    kind: str
    drifted: tuple[str, ...]
    rows: int
    seed: int

    @property
    def reference_rows(self) -> int:
        """Twenty thousand, or as many as are checked."""
        return max(20_000, self.rows)

    @property
    def quiet(self) -> bool:
        """Whether nothing drifts."""
        return self.kind in QUIET


def scenarios() -> Iterator[Scenario]:
    """All of them: of five sizes several seeds, of the two largest one or few."""
    for rows, seeds in ((500, 3), (1000, 3), (2000, 3), (5000, 3), (20_000, 3), (100_000, 1)):
        for kind in QUIET:
            for seed in range(2 * seeds):
                yield Scenario(kind, (), rows, seed)
        for kind in DRIFTS:
            for drifted in columns_of(kind):
                for seed in range(seeds):
                    yield Scenario(kind, drifted, rows, seed)
    yield Scenario("none", (), 1_000_000, 0)
    for kind in ("sudden 0.6", "spread x2", "gradual 0 to 1.6"):
        yield Scenario(kind, columns_of(kind)[0], 1_000_000, 0)


def columns_of(kind: str) -> tuple[tuple[str, ...], ...]:
    """One column, and several, that a kind of drift is tried on."""
    if kind.startswith("rare"):
        return (("rare_0",),)
    if kind.startswith("new"):
        return ("category_0",), ("category_0", "category_1", "category_2")
    if kind.startswith(("unit", "spread", "season")):
        return ("normal_0",), ("normal_0", "normal_1", "skewed_0", "skewed_1", "skewed_2")
    return ("normal_0",), ("normal_0", "skewed_0", "count_0", "share_0", "category_0")


def draw(scenario: Scenario) -> tuple[Table, NDArray[np.int64] | None, Table, NDArray[np.int64] | None]:
    """The reference with its users, and the rows of the check with theirs; None: every row is one."""
    random = np.random.default_rng([scenario.seed, scenario.rows, _number(scenario)])
    users = "users" in scenario.kind
    season = "season" in scenario.kind
    reference, reference_users = traffic(random, scenario.reference_rows, users=users, season=season)
    shift, spread = _change(scenario)
    changed = dict.fromkeys(scenario.drifted, (shift, spread))
    columns, owners = traffic(random, scenario.rows, users=users, season=season, changed=changed)
    for name in scenario.drifted:
        columns[name] = _broken(scenario.kind, columns[name], random)
    return reference, reference_users, columns, owners


def _number(scenario: Scenario) -> int:
    return (QUIET + DRIFTS).index(scenario.kind) * 100 + len(scenario.drifted)


def traffic(
    random: np.random.Generator,
    rows: int,
    *,
    users: bool = False,
    season: bool = False,
    changed: Mapping[str, tuple[Float | float, float]] | None = None,
) -> tuple[Table, NDArray[np.int64] | None]:
    """Draw a table: `changed` has the shift and the spread of a column's latent normal."""
    owners = np.arange(rows) // USER_ROWS if users else None
    wave = SEASON * np.sin(2 * np.pi * np.arange(rows) / rows) if season else 0.0
    table: Table = {}
    for name in NAMES:
        latent = random.normal(size=rows)
        if owners is not None:
            own = random.normal(size=int(owners[-1]) + 1)[owners]
            latent = np.sqrt(1 - CORRELATION) * latent + np.sqrt(CORRELATION) * own
        shift, spread = (changed or {}).get(name, (0.0, 1.0))
        table[name] = shape(name, latent * spread + shift + wave, random)
    return table, owners


def shape(name: str, latent: Float, random: np.random.Generator) -> NDArray[Any]:
    """Turn a latent normal into the column of that name."""
    family = name.split("_", maxsplit=1)[0]
    if family == "gaps":
        return np.where(random.random(len(latent)) < 0.05, np.nan, latent)
    shapes: dict[str, Callable[[], NDArray[Any]]] = {
        "normal": lambda: latent * 3 + 10,
        "skewed": lambda: np.exp(1.2 * latent),
        "count": lambda: np.floor(np.exp(0.7 * latent + 0.5)).astype(np.int64),
        "share": lambda: ndtr(latent),
        "category": lambda: _CATEGORIES[np.searchsorted(_CATEGORY_LIMITS, ndtr(latent))],
        "rare": lambda: latent > 2.3263,
        "flag": lambda: latent > 0,
    }
    return shapes[family]()


def _change(scenario: Scenario) -> tuple[Float | float, float]:
    rows, kind = scenario.rows, scenario.kind
    hours = np.arange(rows) * HOURS // rows
    if kind.startswith("sudden"):
        return float(kind.split()[1].rstrip(",")), 1.0
    shifts: dict[str, Any] = {
        "gradual": np.linspace(0, 1.6, rows),
        "recurring": 1.4 * (hours % 2).astype(np.float64),
        "season": 2 * SEASON * np.sin(2 * np.pi * np.arange(rows) / rows),
        "rare": 1.29,
    }
    word = kind.split()[0]
    return shifts.get(word, 0.0), 2.0 if word == "spread" else 1.0


def _broken(kind: str, values: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
    rows = len(values)
    if kind.startswith("NaN"):
        start = int(random.integers(0, rows * 3 // 4 + 1))
        broken = values.astype(object if values.dtype.kind == "U" else np.float64)
        broken[start : start + rows // 4] = None if values.dtype.kind == "U" else np.nan
        return broken
    if kind.startswith("new"):
        return np.where(random.random(rows) < 0.05, "swipe", values)
    return values * 1000 if kind.startswith("unit") else values
