"""What people read of a rollout: the evidence of a step without repetition, and a picture that shows where it stands."""

import struct
from datetime import datetime, timedelta
from typing import Any

from matplotlib.figure import Figure
from sqlalchemy import Engine

from mlops_assets.rollout.ledger import rollout_named
from mlops_assets.rollout.looks import Looked
from mlops_assets.rollout.report import _draw_share, rollout_picture, step_markdown
from mlops_assets.rollout.state import Kind, Step
from mlops_assets_tests.experiments.test_report import DIALOG_WIDTH
from mlops_assets_tests.rollout.ledgers import begin, climb, go
from mlops_assets_tests.rollout.rollouts import BEGIN, rollout

WORDS = "wrong decisions 2.72% against the champion's 5.25% (allowed: 15%)"
STAGE = {"criteria": [{"name": "floor", "words": WORDS, "log_e_kept": 16.4}]}


def step(kind: Kind, *reasons: str, **evidence: Any) -> Step:
    return Step(kind, rollout("5_percent"), reasons, evidence, "rollout", BEGIN)


def hours(count: float) -> datetime:
    return BEGIN + timedelta(hours=count)


def test_what_a_stage_was_passed_for_is_told_once() -> None:
    """Four sentences, and then the same four in a table with powers of ten."""
    passed = step_markdown(step("advanced", f"{WORDS} (evidence 1.33e+07 to 1)", stage=STAGE))
    assert passed.splitlines()[0].startswith("| limit | found |")
    assert passed.splitlines()[-1] == f"| accuracy floor | {WORDS} | over 1,000,000 to 1 |"
    # Which limit is not proven is in the reasons only.
    stalled = step_markdown(step("stalled", f"not proven yet: {WORDS}", stage=STAGE))
    assert stalled.splitlines()[0] == f"- not proven yet: {WORDS}"


def test_what_the_shadow_found_has_words_and_units() -> None:
    """`candidate ms 0.2` and `value gain upper –`: of what, and in what?"""
    shadow = {"requests": 1600, "candidate_ms": 0.2, "accuracy_gain_lower": 0.0241, "value_gain_upper": None, "new": 3}
    lines = step_markdown(step("advanced", "it answered", shadow=shadow)).splitlines()
    assert lines[0] == "- it answered"
    assert lines[-5:] == [
        "| requests to the champion | 1,600 |",
        "| evaluation of the candidate, 95th percentile | 0.2 ms |",
        "| gain of accuracy, at least | +2.4% points |",
        "| gain of reward, part of its range, at most | – |",
        "| new | 3 |",
    ]


def test_the_share_is_drawn_up_to_the_newest_look(sqlite_engine: Engine) -> None:
    """A rollout that was resumed at 50 % looks as if nobody had the candidate since."""
    state = climb(sqlite_engine, begin(sqlite_engine, rollout()), "20_percent")
    go(sqlite_engine, go(sqlite_engine, state, "paused", now=hours(3)), "resumed", now=hours(5))
    done = rollout_named(sqlite_engine, state.name)
    axes = Figure().subplots()
    _draw_share(axes, done, [Looked(hours(9), "20_percent", 0.0, {})])
    drawn = axes.get_lines()[0]
    assert (drawn.get_xdata()[-1], drawn.get_ydata()[-1]) == (9.0, 20.0)
    # All but the last are at the begin, and would be written over each other.
    assert [text.get_text() for text in axes.texts] == ["started, to 5 percent, to 20 percent", "paused", "resumed"]
    picture = rollout_picture(sqlite_engine, state.name)
    assert 800 < struct.unpack(">I", picture[16:20])[0] <= DIALOG_WIDTH


def test_a_rollout_that_is_over_has_no_share_after_it(sqlite_engine: Engine) -> None:
    """The looks after a rollback look as if users had the candidate still."""
    state = climb(sqlite_engine, begin(sqlite_engine, rollout()), "20_percent")
    go(sqlite_engine, state, "rolled_back", now=hours(3))
    axes = Figure().subplots()
    _draw_share(axes, rollout_named(sqlite_engine, state.name), [Looked(hours(9), "20_percent", 0.0, {})])
    assert (axes.get_lines()[0].get_xdata()[-1], axes.get_lines()[0].get_ydata()[-1]) == (3.0, 0.0)
