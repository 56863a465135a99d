"""Bad candidates are taken back and good ones are not: whole rollouts in simulated time, beside the rule of the sources.

    python benchmarks/rollout_drills.py [--runs 1000] [--processes 2] [--only CANDIDATE] [--write]

What decides is the product's code: `rollout.advance` on the default profile and its calendar, on what `rollout.evidence`
finds in users' outcomes and what the servers' guard finds in first answers. What is simulated is the traffic: users who come
at random, stay in the arm that they drew, send several requests each and are alike in them. A candidate is as good as the
champion while it is in the shadow: what the shadow would have refused is no drill.

The naive rule is that of ROLL-3 and ROLL-4, on the same traffic: a check every 300 s of the stage's requests so far, a
rollback at twice the champion's error rate, at 1.5 times its 95th percentile or at 5 % less accuracy; a stage is passed
after its hours. `--write` replaces benchmarks/rollout_drills.md.
"""

import argparse
import gc
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks.rollout_traffic import (
    CANDIDATES,
    TICKS_AN_HOUR,
    Arrivals,
    Candidate,
    Float,
    Served,
    Traffic,
    arrivals,
    serve,
)
from mlops_assets.experiments.metrics import EARLIER, excess, percentiles_before
from mlops_assets.experiments.units import Unit
from mlops_assets.foundation.policies import STAGE_SHARES, RolloutPolicy, StageName
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.rollout.advance import Decision, Observation, ShadowFindings, advance, guard_decision
from mlops_assets.rollout.calendar import closed
from mlops_assets.rollout.evidence import RolloutEvidence
from mlops_assets.rollout.harm import Harm
from mlops_assets.rollout.limits import pair_of, slow_thresholds
from mlops_assets.rollout.state import RolloutState, after

TABLE = Path(__file__).with_name("rollout_drills.md")
POLICY: RolloutPolicy = load_profile("aiwebtest").rollout
End = Literal["rolled back", "promoted", "undecided", "split alarm"]
HOUR = timedelta(hours=1)
TICK = timedelta(minutes=5)
# Seeds before it chose the profile's `accuracy_effect`, the traffic and the horizon; what is reported was seen by none.
_FIRST_SEED = 10_000
# What the naive rule does shows in fewer runs.
_NAIVE_PART = 5
DAYS = 21.0
# A Monday; each run starts at a random hour of the week from it, when the calendar allows.
WEEK = datetime(2026, 1, 5, tzinfo=UTC)
# Traffic, and by how much fewer runs: with few users, harm at the edge of the limits takes its days.
TRAFFICS = ((Traffic(), 1), (Traffic(users_an_hour=400.0), 10))


@dataclass
class Rollout:
    """One rollout under way, as the controller and the servers' guard have it."""

    traffic: Traffic
    candidate: Candidate
    state: RolloutState
    evidence: RolloutEvidence = field(default_factory=RolloutEvidence)
    guard: Harm = field(default_factory=lambda: Harm(names=("errors", "latency"), sliced=False))
    shadow_ms: list[Float] = field(default_factory=list)
    earlier_ms: list[float] = field(default_factory=list)
    waiting: list[tuple[datetime, list[Unit]]] = field(default_factory=list)

    def serve(self, come: Arrivals, now: datetime) -> tuple[Decision | None, int]:
        """Serve users; return what the guard decides on their first answers, and how many met the candidate."""
        served = serve(come, self.state.share, self.traffic, self.candidate)
        if self.state.slow_ms is None:
            self.shadow_ms.append(served.ms)
            return None, 0
        slow = {name: served.ms > limit for name, limit in slow_thresholds(POLICY, self.state.slow_ms).items()}
        self.waiting.append((now, self._units(come, served, slow)))
        first = {"failed": served.failed[come.first], **{name: one[come.first] for name, one in slow.items()}}
        self.guard = self.guard.updated(_as_units(served.treated, self.state.share, first), POLICY, self.state.baseline)
        return guard_decision(self.guard.log_e, "", POLICY), int(served.treated.sum())

    def look(self, now: datetime) -> Decision:
        """Look at the users whose outcomes are known, and decide."""
        if self.state.stage == "shadow":
            return advance(self.state, Observation(champion="1.0.0", shadow=self._shadow()), now, POLICY)
        known = now - timedelta(minutes=POLICY.user_window_minutes + POLICY.outcome_delay_minutes)
        units = [unit for came, more in self.waiting if came <= known for unit in more]
        self.waiting = [one for one in self.waiting if one[0] > known]
        if units:
            self.evidence = self.evidence.updated(units, POLICY, self.state.baseline)
        findings = self.evidence.findings(POLICY)
        return advance(self.state, Observation(champion="1.0.0", stage=findings), now, POLICY)

    def step(self, decision: Decision, now: datetime) -> None:
        """Do what was decided."""
        self.state = after(
            self.state, "advanced", now, to=decision.to, slow_ms=decision.slow_ms, baseline=decision.baseline
        )
        self.evidence = self.evidence.in_stage(self.state.stage)

    def _shadow(self) -> ShadowFindings:
        """The candidate does there as the champion does."""
        ms = np.concatenate(self.shadow_ms)
        p95 = float(np.quantile(ms, 0.95))
        accuracy = self.traffic.accuracy
        return ShadowFindings(
            requests=len(ms),
            answered=len(ms),
            agreement=1.0,
            champion_ms=p95,
            candidate_ms=p95,
            request_ms=p95,
            labelled=len(ms),
            champion_accuracy=accuracy,
            candidate_accuracy=accuracy,
            accuracy_gain_lower=0.0,
        )

    def _units(self, come: Arrivals, served: Served, slow: dict[str, NDArray[np.bool_]]) -> list[Unit]:
        requests = np.bincount(come.user, minlength=len(come.draw))
        pair = self._pair(served) if self.state.share == 1.0 else {}
        means = {
            name: np.bincount(come.user, weights=values, minlength=len(come.draw)) / requests
            for name, values in {"failed": served.failed, **slow, "wrong": served.wrong, **pair}.items()
        }
        units = _as_units(served.treated, self.state.share, means)
        names = [f"wrong[browser={name}]" for name, _ in self.traffic.browsers]
        for unit, browser in zip(units, come.browser.tolist(), strict=True):
            unit.outcomes[names[browser]] = unit.outcomes["wrong"]  # type: ignore[index]
        return units

    def _pair(self, served: Served) -> dict[str, Float]:
        """What the shadow tells of candidate and champion on the same requests, as `metrics.observed` makes it."""
        pair = pair_of(self.state, POLICY)
        slow_ms = pair.slow_ratio * percentiles_before(served.beside_ms.tolist(), self.earlier_ms)
        self.earlier_ms = [*self.earlier_ms, *served.beside_ms.tolist()][-EARLIER:]
        slow, champion_slow = ((ms > slow_ms).astype(float) for ms in (served.ms, served.beside_ms))
        wrong, champion_wrong = (one.astype(float) for one in (served.wrong, served.beside_wrong))
        kept = pair.accuracy_kept
        return {"slower": excess(slow, champion_slow, 1.0), "worse": excess(wrong, champion_wrong, kept)}


def _as_units(treated: NDArray[np.bool_], share: float, metrics: Mapping[str, NDArray[np.generic]]) -> list[Unit]:
    names = list(metrics)
    rows = zip(*(metrics[name].astype(float).tolist() for name in names), strict=True)
    return [
        Unit(0, arm, share, dict(zip(names, row, strict=True)), share)
        for arm, row in zip(treated.tolist(), rows, strict=True)
    ]


@dataclass(frozen=True)
class Outcome:
    """How a rollout ended, hours after the candidate's first user; how many users met it, of how many who came since."""

    end: End
    stage: StageName
    by: Literal["guard", "look", "check"]
    hours: float
    met: int
    users: int
    stalled: bool = False


def drill(candidate: Candidate, seed: int, traffic: Traffic, days: float) -> Outcome:
    """Roll a candidate out as the product does, from a random hour of the week on."""
    random = np.random.default_rng(seed)
    begin = next(
        at
        for at in (WEEK + timedelta(hours=int(hour)) for hour in random.integers(0, 168, 99))
        if not closed(POLICY.calendar, at)
    )
    rollout = Rollout(traffic, candidate, begun(begin))
    met, users, first, stalled, stage = 0, 0, begin, False, rollout.state.stage
    for tick, come in enumerate(arrivals(traffic, np.random.default_rng((seed, 1))), start=1):
        now = begin + tick * TICK
        hours = (now - first) / HOUR
        stage = rollout.state.stage
        users += len(come.draw) if rollout.state.share else 0
        decision, more = rollout.serve(come, now)
        met += more
        if decision is not None:
            return Outcome("rolled back", stage, "guard", hours, met, users, stalled)
        if tick % TICKS_AN_HOUR:
            continue
        decision = rollout.look(now)
        stalled = stalled or decision.stalled
        if decision.action in {"rollback", "promote"}:
            end: End = "rolled back" if decision.action == "rollback" else "promoted"
            return Outcome(end, stage, "look", hours, met, users, stalled)
        if decision.action == "advance":
            first = now if stage == "shadow" else first
            rollout.step(decision, now)
        elif decision.action == "abort" and rollout.evidence.findings(POLICY).split is not None:
            return Outcome("split alarm", stage, "look", hours, met, users, stalled)
        elif decision.action != "hold":
            raise RuntimeError(f"{decision.action} of {candidate.name}, seed {seed}: {'; '.join(decision.reasons)}")
        if hours >= days * 24.0:
            break
    return Outcome("undecided", stage, "look", hours, met, users, stalled)


def naive(candidate: Candidate, seed: int, traffic: Traffic) -> Outcome:
    """Roll the same candidate out to the same users by the rule of the sources."""
    met, users, tick = 0, 0, 0
    come_by = arrivals(traffic, np.random.default_rng((seed, 1)))
    # The hours of the shadow, in which nobody has the candidate.
    for _ in range(round(POLICY.shadow.hours * TICKS_AN_HOUR)):
        next(come_by)
    before = Tally()
    for stage, limits in POLICY.stages.items():
        seen = Tally()
        for _ in range(round(limits.hours * TICKS_AN_HOUR)):
            tick += 1
            come = next(come_by)
            served = serve(come, STAGE_SHARES[stage], traffic, candidate)
            seen.add(come, served)
            met, users = met + int(served.treated.sum()), users + len(come.draw)
            # Nobody has the champion in the last stage: what it was in the stage before.
            if seen.failed(before if stage == "100_percent" else seen):
                return Outcome("rolled back", stage, "check", tick / TICKS_AN_HOUR, met, users)
        before = seen
    return Outcome("promoted", "100_percent", "check", tick / TICKS_AN_HOUR, met, users)


@dataclass
class Tally:
    """Requests of one stage so far, (champion, candidate); right or wrong is known of those an hour old."""

    requests: list[int] = field(default_factory=lambda: [0, 0])
    errors: list[int] = field(default_factory=lambda: [0, 0])
    ms: tuple[list[Float], list[Float]] = field(default_factory=lambda: ([], []))
    judged: list[tuple[int, int, int, int]] = field(default_factory=list)

    def add(self, come: Arrivals, served: Served) -> None:
        """Count five minutes more."""
        by_request = served.treated[come.user]
        arms = (~by_request, by_request)
        for arm, mine in enumerate(arms):
            self.requests[arm] += int(mine.sum())
            self.errors[arm] += int(served.failed[mine].sum())
            self.ms[arm].append(served.ms[mine])
        right = [int((~served.wrong[mine]).sum()) for mine in arms]
        self.judged.append((int(arms[0].sum()), right[0], int(arms[1].sum()), right[1]))

    def failed(self, champion: "Tally") -> bool:
        """Whether a criterion is failed: errors above twice, 95th percentile above 1.5 times, accuracy 5 % below."""
        if not self.requests[1] or not champion.requests[0]:
            return False
        ours, theirs = self.errors[1] / self.requests[1], champion.errors[0] / champion.requests[0]
        p95 = [float(np.quantile(np.concatenate(ms), 0.95)) for ms in (self.ms[1], champion.ms[0])]
        old = round(POLICY.outcome_delay_minutes / 60.0 * TICKS_AN_HOUR)
        known, of_champion = (
            np.sum(one.judged[:-old], axis=0, dtype=float) if len(one.judged) > old else None
            for one in (self, champion)
        )
        less = False
        if known is not None and of_champion is not None and known[2] and of_champion[0]:
            less = bool(known[3] / known[2] < 0.95 * of_champion[1] / of_champion[0])
        return ours > 2.0 * theirs or p95[0] > 1.5 * p95[1] or less


def begun(now: datetime) -> RolloutState:
    """A rollout that begins now."""
    return RolloutState(
        name="drill",
        model_name="execution-agent-dqn",
        agent="execution",
        candidate="1.1.0",
        champion="1.0.0",
        training_hash="a" * 64,
        salt="salt",
        number=1,
        status="running",
        stage="shadow",
        share=0.0,
        started_at=now,
        since=now,
    )


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--only", action="append", metavar="CANDIDATE", help="rows of this candidate; several are possible"
    )
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    names = [one.name for one in CANDIDATES]
    for name in arguments.only or ():
        if name not in names:
            parser.error(f"there is no candidate {name!r}; there are {', '.join(names)}")
    chosen = [one for one in CANDIDATES if arguments.only is None or one.name in arguments.only]
    if arguments.write and len(chosen) < len(CANDIDATES):
        parser.error("--write replaces the whole table, which takes all candidates: leave --only out")
    text = report(arguments.runs, arguments.processes, chosen)
    sys.stdout.write(text)
    if arguments.write:
        TABLE.write_text(text, encoding="utf-8")


def report(runs: int, processes: int, candidates: Sequence[Candidate]) -> str:
    """The tables of these candidates."""
    begin = time.monotonic()
    lines = ["# Drills of rollouts", "", f"`python benchmarks/rollout_drills.py --runs {runs}`", METHOD.rstrip()]
    # Nothing that is made here is part of a cycle, and there is much of it.
    with multiprocessing.Pool(processes, initializer=gc.disable) as pool:
        for traffic, part in TRAFFICS:
            fewer = max(1, runs // part)
            lines += [
                "",
                f"## {traffic.users_an_hour:,.0f} users an hour",
                "",
                f"{fewer:,} runs a row of ours, {max(1, fewer // _NAIVE_PART):,} of the naive rule's.",
                "",
                HEAD,
                "|" + "---|" * 2 + "---:|" * (HEAD.count("|") - 3),
            ]
            for candidate in candidates:
                for rule in ("ours", "naive"):
                    number = fewer if rule == "ours" else max(1, fewer // _NAIVE_PART)
                    seeds = range(_FIRST_SEED, _FIRST_SEED + number)
                    jobs = [(rule, candidate, seed, traffic) for seed in seeds]
                    lines.append(row(candidate, rule, pool.map(_job, jobs, chunksize=4)))
                    sys.stderr.write(f"{time.monotonic() - begin:6.0f} s {lines[-1]}\n")
    took = time.monotonic() - begin
    lines += ["", f"{platform.machine()}, Python {platform.python_version()}; {took:.0f} s."]
    return "\n".join(lines) + "\n"


METHOD = """
Ours is the product's code on its default profile and calendar (nothing advances on a Friday): shadow 2 h, 5 % 6 h, 20 % 12 h,
50 % 24 h, 100 % 24 h, each until it is proven. Every rollout begins at a random hour of the week. Users come once each, at
random, send 1 + Poisson(3) requests and keep their arm. The champion: 0.5 % errors, 95 % accuracy, log-normal latency (40 ms,
of users by 0.3, of requests by 0.5); errors and wrong decisions of two requests of a user correlate by 0.2. Browsers:
chromium 60 %, firefox 20 %, webkit 20 %. A candidate is as good as the champion in the shadow, and what it is from its first
user on. The guard reads first answers every 5 minutes. Users are looked at 2 h after they came, once an hour: the product
does so every 5 minutes, with error rates that hold at any number of looks, and finds harm half an hour sooner than here.
In the last stage the former champion is asked the same requests in the shadow; its errors there, and its time beyond what
is the user's, have nothing to do with the candidate's.

Naive (ROLL-3, ROLL-4), on the same users: every 5 minutes of each stage, twice the errors, 1.5 times the 95th percentile or
5 % less accuracy in the stage's requests so far is a rollback; a stage is passed after its hours.

`undecided`: held for 21 days, at the share of its stage. `split alarm`: chance alone made the split look broken, which ends a
rollout, at a chance of 0.1 %. `stalled`: undecided 72 h beyond a stage's hours, which is alerted.
Hours and users are counted from the candidate's first user to the end that it should have, a rollback of a bad one, the
promotion of a good one; `of all`: of those who came in that time.
"""
HEAD = (
    "| candidate | rule | rolled back | promoted | undecided | split alarm | ever stalled | found by the guard | "
    "hours: median | p95 | users who met it: median | p95 | of all: median | p95 |"
)


def row(candidate: Candidate, rule: str, found: Sequence[Outcome]) -> str:
    """One row: ends, then time and users until the end that most runs of a candidate like this should have."""
    ends = [sum(one.end == end for one in found) / len(found) for end in get_args(End)]
    stalled = sum(one.stalled for one in found) / len(found)
    back = [one for one in found if one.end == "rolled back"]
    guard = f"{sum(one.by == 'guard' for one in back) / len(back):.0%}" if back and rule == "ours" else "–"
    of_interest = [one for one in found if one.end == ("rolled back" if candidate.bad else "promoted")]
    cells = [f"{end:.1%}" for end in ends] + [f"{stalled:.1%}" if rule == "ours" else "–", guard]
    if not of_interest:
        return f"| {candidate.name} | {rule} | {' | '.join(cells)} | {' | '.join('–' * 6)} |"
    for values, form in (
        ([one.hours for one in of_interest], "{:.1f}"),
        ([float(one.met) for one in of_interest], "{:,.0f}"),
        ([one.met / one.users for one in of_interest], "{:.1%}"),
    ):
        cells += [form.format(statistics.median(values)), form.format(float(np.quantile(values, 0.95)))]
    return f"| {candidate.name} | {rule} | {' | '.join(cells)} |"


def _job(job: tuple[str, Candidate, int, Traffic]) -> Outcome:
    rule, candidate, seed, traffic = job
    return drill(candidate, seed, traffic, DAYS) if rule == "ours" else naive(candidate, seed, traffic)


if __name__ == "__main__":
    main()
