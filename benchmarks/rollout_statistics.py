"""How often rules that look every five minutes decide wrongly, and how soon they find harm: ours beside three others.

    python benchmarks/rollout_statistics.py [--runs 2000] [--write]

66 hours, a look every five minutes, 100 users between two. Every user is drawn into the treatment with the share; outcomes
are failures. `independent`: one request a user. `correlated`: five requests a
user, who fails at a rate of his own (Beta, intraclass correlation 0.3); ours judges users, the others are given requests,
as a dashboard would, except GrowthBook, whose formula takes users' means.

Rules for a rollback: **ours** (`experiments.sequential`, limit: equal rates), the **naive** one (posterior P(worse) >= 95 %
at any look), an hourly one-sided **z-test** at 5 %, and **GrowthBook**'s sequential interval (gbstats 0.8.0, N* = 5,000,
alpha 5 %, every look). gbstats needs numpy < 2, so its formula is written here, and compared with the package itself in an
environment of its own at every run. Rule for a promotion: ours, of a model that is exactly as bad as the margin (1.5 times
the rate); the naive one promotes at P(not worse than the margin) >= 95 %. `--write` replaces benchmarks/rollout_statistics.md.
"""

import argparse
import json
import math
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from mlops_assets.experiments.bets import bets
from mlops_assets.experiments.frequentist import required_sample_size
from mlops_assets.experiments.sequential import LOWEST_PARTS, Evidence, Limit

TABLE = Path(__file__).with_name("rollout_statistics.md")
HOURS, LOOKS_AN_HOUR = 66, 12
USERS_A_LOOK = 100.0
RATES = (0.001, 0.01, 0.02, 0.1, 0.5)
SHARES = (0.05, 0.2, 0.5)
RAMP = ((0.05, 6), (0.2, 12), (0.5, 48))
ALPHA = 0.05
REQUESTS = 5
CORRELATION = 0.3
TUNING = 5000.0
MARGIN = 1.5
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Traffic:
    """Rates of both arms, the treatment's share at every look, and whether a user sends several requests."""

    control: float
    treatment: float
    shares: Float
    correlated: bool


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    check_growthbook()
    text = report(arguments.runs)
    sys.stdout.write(text)
    if arguments.write:
        TABLE.write_text(text, encoding="utf-8")


def report(runs: int) -> str:
    """The tables."""
    begin = time.monotonic()
    method = (
        f"`python benchmarks/rollout_statistics.py --runs {runs}`: {HOURS} h, a look every 5 minutes, {USERS_A_LOOK:g} users "
        f"a look, {runs:,} runs a row. Wanted: at most 5 % (three standard errors are "
        f"{3 * math.sqrt(0.05 * 0.95 / runs):.1%})."
    )
    power = (
        "Power: part of the runs that find the planned harm within 1.35 times the users of a fixed two-sided test of power "
        "0.8. Time: median until three times the rate is found, in users, ours over GrowthBook's."
    )
    lines = [
        "# Statistics of a rollout",
        "",
        method,
        "",
        "## An equal model is rolled back",
        "",
        "| traffic | share | rate | ours | naive posterior | hourly z-test | GrowthBook |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for traffic, name, share in scenarios(1.0):
        found = simulate(traffic, runs, Limit(), seed=1)
        cells = " | ".join(f"{np.isfinite(found[rule]).mean():.1%}" for rule in ("ours", "naive", "z", "growthbook"))
        lines.append(f"| {name} | {share} | {traffic.control:.1%} | {cells} |")
    lines += [
        "",
        f"## A model that is {MARGIN:g} times as bad, the margin itself, is promoted",
        "",
        "| traffic | share | rate | ours | naive posterior |",
        "|---|---|---:|---:|---:|",
    ]
    for traffic, name, share in scenarios(MARGIN):
        found = simulate(traffic, runs, Limit(ratio=MARGIN, above=True), seed=2)
        cells = " | ".join(f"{np.isfinite(found[rule]).mean():.1%}" for rule in ("ours", "naive"))
        lines.append(f"| {name} | {share} | {traffic.control:.1%} | {cells} |")
    lines += [
        "",
        "## Harm is found",
        "",
        power,
        "",
        "| share | rate | planned harm | power | median of the fixed size | 3 x: ours, users | GrowthBook | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [power_row(share, rate, runs) for share in SHARES for rate in RATES]
    took = time.monotonic() - begin
    lines += ["", f"{platform.machine()}, Python {platform.python_version()}; {took:.0f} s."]
    return "\n".join(lines) + "\n"


def scenarios(times: float) -> list[tuple[Traffic, str, str]]:
    """Every traffic, share and rate at which the treatment's rate is a possible one."""
    looks = HOURS * LOOKS_AN_HOUR
    plans = [(f"{share:.0%}", np.full(looks, share)) for share in SHARES]
    plans.append(("5, 20, 50 %", np.repeat([share for share, _ in RAMP], [hours * LOOKS_AN_HOUR for _, hours in RAMP])))
    return [
        (Traffic(rate, rate * times, shares, correlated), "correlated" if correlated else "independent", name)
        for correlated in (False, True)
        for name, shares in plans
        for rate in RATES
        if rate * times < 1.0
    ]


def power_row(share: float, rate: float, runs: int) -> str:
    """One row of the last table."""
    effect = {0.1: 0.3, 0.5: 0.1}.get(rate, 1.0)
    fixed = sum(required_sample_size(rate, effect, treatment_share=share))
    looks = 400
    planned = Traffic(rate, rate * (1 + effect), np.full(looks, share), correlated=False)
    found = simulate(planned, runs, Limit(), seed=3, users_a_look=1.35 * fixed / looks, effect=effect)["ours"]
    power, median = np.isfinite(found).mean(), np.median(found) / looks * 1.35
    cells = f"| {share:.0%} | {rate:.1%} | {effect:+.0%} | {power:.2f} | {median:.2f} |"
    if 3 * rate >= 1.0:
        return f"{cells} – | – | – |"
    harm = Traffic(rate, 3 * rate, np.full(looks, share), correlated=False)
    needed = sum(required_sample_size(rate, 2.0, treatment_share=share))
    # As many users a look in each: long enough for the slower rule.
    times = simulate(harm, runs, Limit(), seed=4, users_a_look=6 * needed / looks, effect=effect)
    ours, theirs = (np.median(times[rule]) * 6 * needed / looks for rule in ("ours", "growthbook"))
    return f"{cells} {ours:,.0f} | {theirs:,.0f} | {ours / theirs:.2f} |"


def simulate(
    traffic: Traffic,
    runs: int,
    limit: Limit,
    *,
    seed: int,
    users_a_look: float = USERS_A_LOOK,
    effect: float = 0.5,
) -> dict[str, Float]:
    """The look at which each rule decided in each run, infinity where it never did."""
    random = np.random.default_rng(seed)
    plan = Evidence(limit, effect)
    sizes, log_weights = np.array(plan.sizes)[:, None], np.log(plan.weights)[:, None]
    values = np.arange(REQUESTS + 1) / REQUESTS if traffic.correlated else np.arange(2.0)
    chances = [_chances(rate, traffic.correlated) for rate in (traffic.control, traffic.treatment)]
    log_wealth = np.zeros((len(sizes), runs))
    users, sums, squares = np.zeros((2, runs)), np.zeros((2, runs)), np.zeros((2, runs))
    decided = {rule: np.full(runs, np.inf) for rule in ("ours", "naive", "z", "growthbook")}
    for look, share in enumerate(traffic.shares, start=1):
        total = random.poisson(users_a_look, runs)
        treated = random.binomial(total, share)
        counts = [random.multinomial(n, p) for n, p in zip((total - treated, treated), chances, strict=True)]
        # As `Evidence.updated`, for all runs at once.
        control = (sums[0] + 0.5) / (users[0] + 1.0)
        expected = limit.at(control) + (-sizes if limit.above else sizes) * effect * control
        if limit.above:
            expected = np.maximum(expected, limit.at(control) * np.array(LOWEST_PARTS)[:, None])
        payoffs = bets(limit, float(share), control, expected)
        for arm, (a, b) in enumerate((payoffs[:2], payoffs[2:])):
            paid = sum(counts[arm][:, i] * np.log(a + b * value) for i, value in enumerate(values))
            log_wealth += np.where(users[0] > 0, paid, 0.0)
        for arm in (0, 1):
            users[arm] += counts[arm].sum(axis=1)
            sums[arm] += counts[arm] @ values
            squares[arm] += counts[arm] @ values**2
        _note(decided["ours"], np.logaddexp.reduce(log_wealth + log_weights, axis=0) >= -np.log(ALPHA), look)
        with np.errstate(divide="ignore", invalid="ignore"):
            _note(decided["naive"], _naive(users, sums, limit, traffic.correlated), look)
            if look % LOOKS_AN_HOUR == 0:
                _note(decided["z"], _z(users, sums, traffic.correlated), look)
            _note(decided["growthbook"], growthbook_lower(users, sums, squares) > 0, look)
    return decided


def _chances(rate: float, correlated: bool) -> Float:  # noqa: FBT001 - a column of the table
    """Probabilities of a user's outcomes: failed or not, or of 0 to 5 failed requests."""
    if not correlated:
        return np.array([1.0 - rate, rate])
    size = (1.0 - CORRELATION) / CORRELATION
    return np.asarray(stats.betabinom.pmf(np.arange(REQUESTS + 1), REQUESTS, rate * size, (1.0 - rate) * size))


def _note(decided: Float, now: NDArray[np.bool_], look: int) -> None:
    decided[now & np.isinf(decided)] = look


def _naive(users: Float, sums: Float, limit: Limit, correlated: bool) -> NDArray[np.bool_]:  # noqa: FBT001
    """P(worse), or P(not worse than the margin), at 95 %, by the normal approximation of the posteriors, over requests."""
    times = REQUESTS if correlated else 1
    n, s = users * times, sums * times
    a, b = s + 1.0, n - s + 1.0
    mean, variance = a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1.0))
    z = (mean[1] - limit.ratio * mean[0]) / np.sqrt(variance[1] + limit.ratio**2 * variance[0])
    return np.asarray(special.ndtr(-z if limit.above else z) >= 1.0 - ALPHA)


def _z(users: Float, sums: Float, correlated: bool) -> NDArray[np.bool_]:  # noqa: FBT001
    """One-sided z-test of equal rates, over requests."""
    times = REQUESTS if correlated else 1
    n, s = users * times, sums * times
    pooled = s.sum(axis=0) / n.sum(axis=0)
    error = np.sqrt(pooled * (1.0 - pooled) * (1.0 / n[0] + 1.0 / n[1]))
    return np.asarray((s[1] / n[1] - s[0] / n[0]) / error > stats.norm.isf(ALPHA))


def growthbook_lower(users: Float, sums: Float, squares: Float) -> Float:
    """Lower end of gbstats' sequential interval of the difference (Waudby-Smith et al. 2023, equations 9 and 161)."""
    total = users.sum(axis=0)
    means = sums / users
    variance = ((squares - users * means**2) / (users - 1.0) / users).sum(axis=0)
    rho2 = (-2 * np.log(ALPHA) + np.log(-2 * np.log(ALPHA) + 1)) / TUNING
    spread = total * rho2 + 1.0
    width = np.sqrt(variance * total * 2 * spread * np.log(np.sqrt(spread) / ALPHA) / (total**2 * rho2))
    return np.asarray(means[1] - means[0] - width)


def check_growthbook() -> None:
    """Compare the formula with gbstats itself, in an environment of its own.

    Raises:
        SystemExit: they differ, or gbstats cannot be had.
    """
    random = np.random.default_rng(0)
    users = random.integers(500, 5000, (2, 20)).astype(float)
    sums = np.floor(users * random.uniform(0.05, 0.5, (2, 20)))
    code = (
        "import json, sys\n"
        "from gbstats.frequentist.tests import SequentialConfig, SequentialTwoSidedTTest as Test\n"
        "from gbstats.models.statistics import ProportionStatistic as Rate\n"
        "users, sums = json.load(sys.stdin)\n"
        "config = SequentialConfig(difference_type='absolute', sequential_tuning_parameter=5000, alpha=0.05)\n"
        "rates = [[Rate(n=int(n), sum=int(s)) for n, s in zip(*arm)] for arm in zip(users, sums)]\n"
        "print(json.dumps([Test(a, b, config).confidence_interval[0] for a, b in zip(*rates)]))\n"
    )
    command = [str(Path(sys.executable).with_name("uv")), "run", "--quiet", "--no-project", "--with", "gbstats==0.8.0"]
    done = subprocess.run(
        [*command, "python", "-c", code],
        input=json.dumps([users.tolist(), sums.tolist()]),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"gbstats cannot be run: {done.stderr[-1500:]}")
    theirs, ours = np.array(json.loads(done.stdout)), growthbook_lower(users, sums, sums)
    # gbstats' variance of a rate is p (1 - p), without the sample's n / (n - 1).
    if not np.allclose(theirs, ours, rtol=0.0, atol=1e-3):
        raise SystemExit(f"gbstats gives {theirs[:3]}, the formula here {ours[:3]}")


if __name__ == "__main__":
    main()
