"""How far performance estimated without labels is from what labels say later, beside "assume unchanged".

    python benchmarks/label_free.py [--references 10] [--write]

Three agents, trained for 1,500 updates, in the project's simulator. Each reference is six days (about 18,000 decisions) of the
agent's own; a window is a part of six later days. Accuracy in points, loss in units of the reward per decision.
`assume unchanged` says what the reference said. Coverage: of the 95 % interval, over all references and windows of a row.
`--write` replaces benchmarks/label_free.md.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

# One process; two BLAS threads on two busy cores only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.typing import NDArray

from mlops_assets.experiences.simulator.config import Drift
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring.calibration import CalibrationReference
from mlops_assets.monitoring.estimate import estimate_performance
from mlops_assets.monitoring.version_decisions import VersionDecisions
from mlops_assets_tests.monitoring.sessions import benign, part_of_sessions, tilted
from mlops_assets_tests.monitoring.simulated import Agent, agent, play, scored, world_of

TABLE = Path(__file__).with_name("label_free.md")
AGENTS = ("requirements", "generation", "execution")
REFERENCE_DAYS, WINDOW_DAYS, DRIFT_DAY = 6, 6, 60
POLICY = load_profile("aiwebtest").estimate
SEEN = ("no shift", "column that does not matter", "sessions with more at stake", "with less", "late steps", "early steps",
        "more exploration")  # fmt: skip
UNSEEN = ("the simulator's covariate shift", "another relation of rewards")
TIMED_ROWS = 100_000
HEAD = """# Performance without labels

`python benchmarks/label_free.py --references {references}`: agents {agents}; mean absolute errors.
`unchanged` is "assume unchanged".

{overall}

"""
SECTIONS = (
    ("## Reference: the version's own decisions; shifts that inputs show", "own decisions", SEEN),
    (
        "## What inputs do not show: what an action is worth changes (with the simulator's covariate shift, by what is to come)",
        "own decisions",
        UNSEEN,
    ),
    (
        "## Reference: another policy's decisions (the log that the agent was trained on goes on)",
        "another policy's decisions",
        SEEN,
    ),
)
Float = NDArray[np.float64]


def windows(own: Agent, first: int, seed: int) -> Mapping[str, Callable[[], VersionDecisions]]:
    """Windows of every row that begin on day `first`."""
    world, days = world_of(own.spec), range(first, first + WINDOW_DAYS)
    later = range(DRIFT_DAY + first, DRIFT_DAY + first + WINDOW_DAYS)

    @cache
    def plain() -> VersionDecisions:
        return play(world, days, own.policy)

    def drifted(drift: Drift) -> Callable[[], VersionDecisions]:
        return lambda: play(world_of(own.spec, drift=drift), later, own.policy)

    return {
        "no shift": plain,
        "column that does not matter": lambda: benign(own, days),
        "sessions with more at stake": lambda: tilted(plain(), own.spec, 1.0, seed),
        "with less": lambda: tilted(plain(), own.spec, -1.0, seed),
        "late steps": lambda: part_of_sessions(plain(), late=True),
        "early steps": lambda: part_of_sessions(plain(), late=False),
        "more exploration": lambda: play(world, days, own.policy, exploration=0.3),
        "the simulator's covariate shift": drifted(Drift(0, covariate_shift=1.0)),
        "another relation of rewards": drifted(Drift(0, reward_change=1.0)),
    }


def errors(reference: CalibrationReference, window: VersionDecisions) -> Float | None:
    """Errors of accuracy and loss, those of "assume unchanged", and whether either interval holds the truth; None: none given."""
    found = estimate_performance(reference, window.without_labels(), POLICY)
    if found.accuracy is None or found.loss is None:
        return None
    truths = float(window.correct.mean()), float(window.regret.mean()) - reference.mean_of("loss")
    said = found.accuracy, found.loss
    off = [abs(one.estimate - truth) for one, truth in zip(said, truths, strict=True)]
    unchanged = [abs(reference.mean_of("correct") - truths[0]), abs(truths[1])]
    held = [
        one.low is not None and one.high is not None and one.low <= truth <= one.high
        for one, truth in zip(said, truths, strict=True)
    ]
    return np.array([*off, *unchanged, *held], dtype=np.float64)


def measure(references: int) -> tuple[dict[tuple[str, str], list[Float | None]], dict[str, Float]]:
    """Errors of every run by (reference, row), and median seconds for 100,000 rows."""
    found: dict[tuple[str, str], list[Float | None]] = {}
    seconds: dict[str, list[float]] = {"fit (18,000 decisions)": [], "estimate (100,000 decisions)": []}
    for name in AGENTS:
        own = agent(name)
        for number in range(references):
            days = range(20 + 12 * number, 20 + 12 * number + REFERENCE_DAYS)
            logged = scored(play(world_of(own.spec), days, None), own.policy) if number < 2 else None
            kinds = {"own decisions": play(world_of(own.spec), days, own.policy)}
            if logged is not None:
                kinds["another policy's decisions"] = logged
            for kind, decisions in kinds.items():
                started = time.perf_counter()
                reference = CalibrationReference.of(decisions, min_rows=POLICY.min_reference_rows, seed=number)
                seconds["fit (18,000 decisions)"].append(time.perf_counter() - started)
                for row, make in windows(own, days.stop, number).items():
                    found.setdefault((kind, row), []).append(errors(reference, make()))
        large = play(world_of(own.spec), range(300, 334), own.policy).take(slice(TIMED_ROWS))
        started = time.perf_counter()
        estimate_performance(reference, large, POLICY)
        seconds["estimate (100,000 decisions)"].append(time.perf_counter() - started)
    return found, {name: np.asarray(values) for name, values in seconds.items()}


def table(found: dict[tuple[str, str], list[Float | None]], kind: str, rows: tuple[str, ...]) -> list[str]:
    """Markdown rows of one kind of reference."""
    lines = [
        "| window | runs | accuracy, points: estimate | unchanged | covered | loss: estimate | unchanged | covered |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        runs = [one for one in found.get((kind, row), []) if one is not None]
        if not runs:
            lines.append(
                f"| {row} | 0 of {len(found.get((kind, row), []))} | outside of the reference: no estimate ||||||"
            )
            continue
        off, off_loss, flat, flat_loss, held, held_loss = np.mean(runs, axis=0)
        lines.append(
            f"| {row} | {len(runs)} | {100 * off:.2f} | {100 * flat:.2f} | {held:.0%} | {off_loss:.3f} | {flat_loss:.3f} | "
            f"{held_loss:.0%} |"
        )
    return lines


def overall(found: dict[tuple[str, str], list[Float | None]]) -> str:
    """Mean errors over the shifts that inputs show, and coverage over all their runs."""
    runs = [one for row in SEEN for one in found["own decisions", row] if one is not None]
    shifts = [one for row in SEEN[2:] for one in found["own decisions", row] if one is not None]
    off, off_loss, flat, flat_loss, *_ = np.mean(shifts, axis=0)
    held, held_loss = np.mean(runs, axis=0)[4:]
    return (
        f"Over the five shifts that inputs show, the error is {100 * off:.2f} points of accuracy instead of {100 * flat:.2f} "
        f"({off / flat:.0%}), and {off_loss:.3f} of loss instead of {flat_loss:.3f} ({off_loss / flat_loss:.0%}). Over all "
        f"{len(runs)} runs of the first table, the 95 % intervals hold the truth in {held:.1%} (accuracy) and "
        f"{held_loss:.1%} (loss)."
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", type=int, default=10)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    started = time.perf_counter()
    found, seconds = measure(arguments.references)
    text = HEAD.format(references=arguments.references, agents=", ".join(AGENTS), overall=overall(found))
    for heading, kind, rows in SECTIONS:
        text += "\n".join([heading, "", *table(found, kind, rows), "", ""])
    times = [f"- {name}: {np.median(values):.2f} s (median of {len(values)})" for name, values in seconds.items()]
    spent = f"{platform.machine()}, one thread; all in {time.perf_counter() - started:.0f} s."
    text += "\n".join(["## Time", "", *times, "", spent, ""])
    print(text)
    if arguments.write:
        TABLE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
