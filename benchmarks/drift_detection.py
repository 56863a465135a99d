"""What checks of drift find, and how often they alarm at nothing: ours beside Evidently's defaults and the 5 % rule.

    python benchmarks/drift_detection.py [--hours 2160] [--write]

First, labelled scenarios of benchmarks/drift_scenarios.py, twenty columns each. **Ours** alarms with the verdict warning or
critical of the default profile. **p < 0.05**: any column's Kolmogorov-Smirnov or chi-square test on the rows as they are.
**Evidently** 0.7.23, DataDriftPreset with its defaults: any column drifted, or half of them ("dataset drift"), of scenarios
of 1,000 and 5,000 rows beside a reference of 20,000; of those with drift the first seed (a report takes seconds).

Then 90 days of hourly checks, as the product makes them, of the last 24 hours, in which nothing drifts, and of their newest
1,000 rows: 100 rows an hour, a reference of 14 days;
Evidently is asked every sixth day, and its alarms are counted 144 times. Last, how many hourly checks it takes until a drift that
begins at once is found. `--write` replaces benchmarks/drift_detection.md.
"""

import argparse
import platform
import sys
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.drift_scenarios import CORRELATION, HOURS, NAMES, SEASON, Scenario, Table, draw, scenarios, shape
from mlops_assets.foundation.policies import DriftPolicy
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring import divergence
from mlops_assets.monitoring.drift_verdict import DriftVerdict, check_drift
from mlops_assets.monitoring.drift_windows import Rows, check_windows
from mlops_assets.monitoring.reference import Reference

TABLE = Path(__file__).with_name("drift_detection.md")
POLICY = load_profile("aiwebtest").drift
EVIDENTLY_ROWS, EVIDENTLY_HOURS = (1000, 5000), 6 * HOURS
ROWS_AN_HOUR, REFERENCE_DAYS = 100, 14
Users = NDArray[np.int64] | None
STREAMS = ("independent rows", "users of 10 rows", "daily season", "days that wobble by 0.05 sigma")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=90 * HOURS)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    begin = time.monotonic()
    every = list(scenarios())
    method = (
        f"`python benchmarks/drift_detection.py --hours {arguments.hours}`: {len(every)} labelled scenarios, 20 columns; "
        f"{platform.machine()}, Python {platform.python_version()}. What the columns mean is in the script.\n"
    )
    parts = [
        "# Drift: what is found, and what is not there\n",
        method,
        scenario_table(every),
        quiet_table(arguments.hours),
        delay_table(),
        f"{(time.monotonic() - begin) / 60:.0f} minutes.\n",
    ]
    text = "\n".join(parts)
    sys.stdout.write(text)
    if arguments.write:
        TABLE.write_text(text, encoding="utf-8")


def alarms(verdict: DriftVerdict) -> bool:
    """Whether people are woken."""
    return verdict.verdict in {"warning", "critical"}


def small_p(verdict: DriftVerdict) -> bool:
    """The rule of the handbook: any column's test below 0.05, every row taken as independent."""
    for column in verdict.columns:
        found = column.statistics
        n, m = verdict.reference_rows, found.rows
        p, q = np.array(found.reference_shares), np.array(found.shares)
        p_value = (
            divergence.chi_square(divergence.pooled_table(p, q, n, m))[1]
            if found.ks is None
            else divergence.kolmogorov_p(found.ks, n, m)
        )
        if p_value < 0.05:
            return True
    return False


def evidently(reference: Table, columns: Table) -> tuple[bool, bool]:
    """Whether any column drifted, and whether the data set did."""
    import pandas as pd
    from evidently import Report
    from evidently.presets import DataDriftPreset

    frames = [pd.DataFrame(table) for table in (columns, reference)]
    result: dict[str, Any] = Report([DataDriftPreset()]).run(*frames).dict()
    counted = next(m["value"] for m in result["metrics"] if m["metric_name"].startswith("DriftedColumnsCount"))
    return counted["count"] >= 1, counted["share"] >= 0.5


def judge(scenario: Scenario, policy: DriftPolicy) -> DriftVerdict:
    """Check one scenario."""
    reference, reference_users, columns, users = draw(scenario)
    return check_drift(Reference.freeze(reference, policy, clusters=reference_users), columns, policy, clusters=users)


def scenario_table(every: list[Scenario]) -> str:
    """Alarms of each kind of scenario, by size."""
    # No rows are too few for the p-values that the 5 % rule looks at.
    loose = POLICY.model_copy(update={"min_rows": 2})
    found: dict[tuple[str, int], list[list[bool | None]]] = defaultdict(list)
    for scenario in every:
        verdict = judge(scenario, POLICY)
        unsure = verdict.verdict == "insufficient_data"
        plain = judge(scenario, loose) if unsure else verdict
        peer: tuple[bool | None, bool | None] = (None, None)
        if scenario.rows in EVIDENTLY_ROWS and (scenario.quiet or scenario.seed == 0):
            reference, _, columns, _ = draw(scenario)
            peer = evidently(reference, columns)
        found[scenario.kind, scenario.rows].append([None if unsure else alarms(verdict), small_p(plain), *peer])
    lines = [
        "## Scenarios: share that alarms\n",
        "`-`: says that there are too few rows (ours, below 1,000), or not run (Evidently, other sizes).\n",
        "| kind | rows | scenarios | ours | p < 0.05 | Evidently, any column | Evidently, data set |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for (kind, rows), results in sorted(found.items(), key=lambda item: (not item[0][0].startswith("none"), item[0])):
        lines.append(f"| {kind} | {rows:,} | {len(results)} | {' | '.join(map(_share, zip(*results, strict=True)))} |")
    return "\n".join([*lines, ""])


def _share(values: tuple[bool | None, ...]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.0%}" if known else "-"


def stream(kind: str, hours: int, seed: int, *, shift_at: int | None = None, shift: float = 0.0) -> tuple[Table, Users]:
    """Traffic of some hours, in order; from `shift_at` on, the latent normal of column normal_0 is shifted."""
    random = np.random.default_rng([seed, hours, STREAMS.index(kind)])
    rows = hours * ROWS_AN_HOUR
    hour = np.arange(rows) // ROWS_AN_HOUR
    users = np.arange(rows) // 10 if "users" in kind else None
    table: Table = {}
    for name in NAMES:
        latent = random.normal(size=rows)
        if users is not None:
            latent *= np.sqrt(1 - CORRELATION)
            latent += np.sqrt(CORRELATION) * random.normal(size=rows // 10)[users]
        if "season" in kind:
            latent += SEASON * np.sin(2 * np.pi * hour / HOURS)
        if "wobble" in kind:
            latent += 0.05 * random.normal(size=hours // HOURS + 1)[hour // HOURS]
        if name == "normal_0" and shift_at is not None:
            latent[hour >= shift_at] += shift
        table[name] = shape(name, latent, random)
    return table, users


def part(table: Table, users: Users, begin: int, end: int) -> Rows:
    """The hours from `begin` to before `end`."""
    rows = slice(begin * ROWS_AN_HOUR, end * ROWS_AN_HOUR)
    at = np.arange(rows.start, rows.stop) * (3600.0 / ROWS_AN_HOUR)
    columns = {name: values[rows] for name, values in table.items()}
    return Rows(columns, at.astype("datetime64[s]").astype("datetime64[us]"), None if users is None else users[rows])


def checked(reference: Reference, table: Table, users: Users, end: int) -> DriftVerdict:
    """As the product checks at hour `end`: the last 24 hours, and the newest of them."""

    def read(begin: np.datetime64, until: np.datetime64) -> Rows:
        first, last = (int(one.astype("datetime64[us]").astype(np.int64) // 3_600_000_000) for one in (begin, until))
        return part(table, users, first, last)

    now = np.datetime64(end * 3_600_000_000, "us")
    return check_windows(reference, part(table, users, end - HOURS, end), now, HOURS, POLICY, read=read).drift


def hourly(kind: str, hours: int, seed: int, *, with_evidently: bool) -> list[float]:
    """Alarms in `hours` hourly checks: ours, ours with monitor, the 5 % rule, Evidently's two."""
    before, before_users = stream(kind, REFERENCE_DAYS * HOURS, seed)
    reference = Reference.freeze(before, POLICY, clusters=before_users)
    table, users = stream(kind, hours + 2 * HOURS, seed + 1000)
    counts = np.zeros(5)
    for end in range(2 * HOURS + 1, hours + 2 * HOURS + 1):
        verdict = checked(reference, table, users, end)
        counts[:3] += (alarms(verdict), verdict.verdict == "monitor", small_p(verdict))
        if with_evidently and end % EVIDENTLY_HOURS == 0:
            counts[3:] += (
                np.array(evidently(before, dict(part(table, users, end - HOURS, end).columns)), dtype=float)
                * EVIDENTLY_HOURS
            )
    return counts.tolist()


def quiet_table(hours: int) -> str:
    """False alarms of quiet streams."""
    lines = [
        f"## False alarms in {hours / HOURS:g} days of hourly checks\n",
        f"{hours:,} overlapping windows of {ROWS_AN_HOUR * HOURS:,} rows.\n",
        "| traffic | ours, warning or worse | ours, monitor | p < 0.05 | Evidently, any column | Evidently, data set |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for number, kind in enumerate(STREAMS):
        counts = hourly(kind, hours, number, with_evidently=True)
        lines.append(f"| {kind} | {' | '.join(f'{count:,.0f}' for count in counts)} |")
    return "\n".join([*lines, ""])


def delay(kind: str, shift: float, seed: int, *, longest: int = 3 * HOURS) -> int | None:
    """Hourly checks until an alarm after one column shifted; None: none in three days."""
    before, before_users = stream(kind, REFERENCE_DAYS * HOURS, seed)
    reference = Reference.freeze(before, POLICY, clusters=before_users)
    table, users = stream(kind, 2 * HOURS + longest, seed + 1000, shift_at=2 * HOURS, shift=shift)
    for hours in range(1, longest + 1):
        if alarms(checked(reference, table, users, 2 * HOURS + hours)):
            return hours
    return None


def delay_table(runs: int = 10) -> str:
    """Hours until a sudden drift of one column is found."""
    lines = [
        "## Hourly checks until a sudden drift of one of twenty columns is found\n",
        f"Of 24 hours, 1, 2, ... have drifted; 1,000 rows are ten hours. Median of {runs} runs, and how many found it.\n",
        "| traffic | shift 0.6 | shift 1.0 | shift 2.0 |",
        "|---|---:|---:|---:|",
    ]
    for kind in STREAMS[:2]:
        cells = []
        for shift in (0.6, 1.0, 2.0):
            found = [hours for seed in range(runs) if (hours := delay(kind, shift, seed)) is not None]
            cells.append(f"{np.median(found):.0f} ({len(found)} of {runs})" if found else f"- (0 of {runs})")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
