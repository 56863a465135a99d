"""The demo of the loop: its users, what it calls as it should, and one deployment as a user runs it."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from examples.loop_demo.story import Event, Story
from examples.loop_demo.town import Town
from mlops_assets.experiences.simulator.config import SimulatorConfig

ROOT = Path(__file__).resolve().parents[2]
BEGIN = datetime(2026, 3, 8, 3, tzinfo=UTC)


def closed() -> Story:
    """A loop that went as it should: changed after two hours, recovered after six."""
    return Story(
        "drift",
        BEGIN,
        BEGIN + timedelta(hours=2),
        accuracy=[0.94, 0.94, *[0.8] * 4, *[0.93] * 6],
        verdicts=["insufficient_data", "ok", "critical", *["critical"] * 9],
        triggers=["drift", "drift"],
        champions=["1.0.0", *["1.0.0"] * 5, *["1.2.0"] * 6],
        events=[
            Event(
                BEGIN + timedelta(hours=6), "rollout", "2026-03-08 09:00:00 completed by rollout: it keeps its limits"
            )
        ],
    )


def quiet() -> Story:
    """A week in which nothing happened but its training."""
    return Story(
        "control",
        BEGIN,
        None,
        accuracy=[0.94] * 12,
        verdicts=["insufficient_data", *["ok"] * 10, "monitor"],
        triggers=["schedule"],
        champions=["1.0.0"] * 12,
    )


def test_as_it_should() -> None:
    """A demo that ends well says that it did not."""
    assert closed().problems() == []
    assert quiet().problems() == []
    assert (closed().baseline, closed().last) == pytest.approx((0.94, 0.93))
    assert closed().summary(5.0, Path("a.png")).endswith("trainings: drift, drift; as it should; a.png")


@pytest.mark.parametrize(
    ("story", "words"),
    [
        (replace(closed(), verdicts=["ok", "critical", "critical"]), "1 alarms before the change"),
        (replace(closed(), verdicts=["ok", "ok", "warning", "critical"]), "the next check said warning"),
        (replace(closed(), triggers=["schedule"]), "no training was asked for by drift"),
        (replace(closed(), champions=["1.0.0"] * 12), "the champion is still the same"),
        (replace(closed(), accuracy=[0.94, 0.94, *[0.92] * 10]), "accuracy is 2.1% below what it was"),
        (replace(quiet(), verdicts=["ok", "warning"]), "1 alarms without a change"),
        (replace(quiet(), triggers=["schedule", "drift"]), "trainings were asked for by drift"),
        (replace(closed(), events=[]), "no rollout was completed"),
        (replace(quiet(), triggers=[]), "0 scheduled trainings, not the week's one"),
        (replace(quiet(), triggers=["schedule"] * 2), "2 scheduled trainings, not the week's one"),
    ],
)
def test_not_as_it_should(story: Story, words: str) -> None:
    """The exit code is 0 whatever happened."""
    assert story.problems() == [words]
    assert f"NOT as it should: {words}" in story.summary(5.0, Path("a.png"))


def test_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Events are printed and not drawn, or the other way round."""
    story = closed()
    story.happened(BEGIN + timedelta(hours=2), "change", "everything is different")
    story.draw(tmp_path / "accuracy.png")
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert "Sun 08 Mar 05:00  change   everything is different" in capsys.readouterr().out


def test_users_ask_for_other_things_once_the_world_has_changed() -> None:
    """The world of the demo does not change, or other answers are right in it."""
    town = Town(SimulatorConfig(rows=3000), rate=3000, seed=1)
    before, after = town.hour(BEGIN, changed=False), town.hour(BEGIN + timedelta(hours=1), changed=True)
    failing = [np.mean([one.context.failure_rate_total for one in asked.requests]) for asked in (before, after)]
    assert failing[1] > 1.3 * failing[0]
    for asked in (before, after):
        assert len(asked.requests) == len(asked.at) == 3000
        assert (asked.values.argmax(axis=1) == asked.best).all()
        assert sorted(asked.at) == list(asked.at)
        assert 1.2 < len(asked.requests) / len({one.user_id for one in asked.requests}) < 1.4
    assert before.at[-1] < BEGIN + timedelta(hours=1) <= after.at[0]


def test_make_knows_the_demo() -> None:
    """The documented command is not there."""
    command = ["make", "--dry-run", "demo-loop", "only=drift", "seed=4"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "python -m examples.loop_demo --only drift --seed 4" in said


@pytest.mark.slow
def test_the_loop_closes(tmp_path: Path) -> None:
    """The loop needs a hand, or something that only its author has."""
    home = tmp_path / "home"
    home.mkdir()
    result = subprocess.run(
        [sys.executable, "-m", "examples.loop_demo", "--only", "drift"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "MLOPS_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=2400,
    )
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-3000:]
    lines = result.stdout.splitlines()
    kinds = [found[1] for line in lines if (found := re.match(r"drift +\w{3} \d\d \w{3} \d\d:00 +(\w+) ", line))]
    assert kinds[0] == "change"
    assert {"drift", "alert", "training", "version", "rollout"} <= set(kinds)
    (summary,) = (line for line in lines if line.startswith("drift: "))
    assert "; as it should; " in summary
    assert (home / "demo-loop" / "drift" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in home.iterdir()] == ["demo-loop"]
