"""The demo of rollouts: its defects do what they are said to, and one scenario as a user runs it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray

from examples.rollout_demo.slow_graph import slow_down
from examples.rollout_demo.surgery import always_one_action, overflowing
from examples.rollout_demo.users import AGENT, COMPLEX_PAGES, FAILING_SUITES, RESTED_SUITES, Crowd, Oddity
from mlops_assets.experiences.simulator.config import SimulatorConfig
from mlops_assets.foundation.agents import agent_spec
from mlops_assets.training.network import DuelingQNetwork
from mlops_assets.training.onnx_export import export_onnx
from mlops_assets.training.policy import GreedyPolicy

ROOT = Path(__file__).resolve().parents[2]
SPEC = agent_spec(AGENT)
ODDITIES = (FAILING_SUITES, RESTED_SUITES, COMPLEX_PAGES)


@pytest.fixture(scope="module")
def network() -> DuelingQNetwork:
    torch.manual_seed(3)
    made = DuelingQNetwork(len(SPEC.state_fields), len(SPEC.actions), (48, 48, 48)).eval()
    made.input_mean.fill_(0.15)
    made.input_scale.fill_(0.1)
    return made


@pytest.fixture(scope="module")
def states() -> NDArray[np.float32]:
    """As training data are: no oddity."""
    drawn = np.random.default_rng(5).random((400, len(SPEC.state_fields)), dtype=np.float32)
    for oddity in ODDITIES:
        drawn[:, SPEC.state_fields.index(oddity.field)] *= oddity.edge
    return drawn


def odd(states: NDArray[np.float32], oddity: Oddity) -> NDArray[np.float32]:
    """The same states with the least odd value."""
    changed = states.copy()
    changed[:, SPEC.state_fields.index(oddity.field)] = oddity.values[0]
    return changed


def test_one_action_is_taken_where_the_field_is_odd(network: DuelingQNetwork, states: NDArray[np.float32]) -> None:
    """A candidate is worse everywhere, and refused before it meets a user; or it is worse nowhere."""
    changed = GreedyPolicy.from_network(always_one_action(network, SPEC, FAILING_SUITES, 3, states))
    before = GreedyPolicy.from_network(network)
    assert (changed.actions(odd(states, FAILING_SUITES)) == 3).all()
    assert (before.actions(odd(states, FAILING_SUITES)) == 3).mean() < 0.9
    assert (changed.actions(states) == before.actions(states)).mean() > 0.9


def test_numbers_overflow_where_the_field_is_odd(network: DuelingQNetwork, states: NDArray[np.float32]) -> None:
    """Errors come on every request, so that the registry refuses the version; or on none."""
    changed = GreedyPolicy.from_network(overflowing(network, SPEC, COMPLEX_PAGES, states))
    assert not np.isfinite(changed.q_values(odd(states, COMPLEX_PAGES))).any()
    assert np.isfinite(changed.q_values(states)).all()


def test_the_slow_file_answers_the_same(network: DuelingQNetwork, states: NDArray[np.float32], tmp_path: Path) -> None:
    """It is another policy, or nobody would notice that it is slow."""
    path = tmp_path / "policy.onnx"
    export_onnx(path, network, SPEC, states)
    before = GreedyPolicy.from_onnx(path)
    slow_down(path, SPEC, RESTED_SUITES)
    slow = GreedyPolicy.from_onnx(path)
    took = []
    for rows in (states, odd(states, RESTED_SUITES)):
        np.testing.assert_array_equal(slow.q_values(rows), before.q_values(rows))
        begun = time.perf_counter()
        for row in rows[:20]:
            slow.q_values(row[None])
        took.append(time.perf_counter() - begun)
    assert took[1] > 5 * took[0]


def test_users_are_odd_only_where_they_should_be() -> None:
    """A defect shows in the shadow stage already, or in another browser."""
    crowd = Crowd(SimulatorConfig(rows=6000), seed=1)
    for later in (False, True):
        asked = [crowd.ask(later=later) for _ in range(3000)]
        for oddity in ODDITIES:
            found = [one.request["context"][oddity.field] > oddity.edge for one in asked]
            webkit = [one.request["browser"] == "webkit" for one in asked]
            if oddity is FAILING_SUITES:
                assert not np.any(np.array(found) & ~np.array(webkit))
                assert np.mean(np.array(found)[webkit]) == pytest.approx(oddity.share, abs=0.1)
            else:
                assert np.mean(found) == pytest.approx(oddity.share if later else 0.0, abs=0.03)
        assert all(one.best_action == int(np.argmax(one.action_values)) for one in asked)
        users = {one.request["user_id"] for one in asked}
        assert 1.2 < len(asked) / len(users) < 1.4


def test_make_knows_the_demo() -> None:
    """The documented command is not there."""
    command = ["make", "--dry-run", "demo-rollout", "only=errors", "seed=4"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "python -m examples.rollout_demo --only errors --seed 4" in said


@pytest.mark.slow
def test_errors_are_taken_back(tmp_path: Path) -> None:
    """The demo needs something that only its author has, touches models of one's own, or leaves a server behind."""
    home = tmp_path / "home"
    home.mkdir()
    mine = home / "mine"
    mine.write_text("my own")
    result = subprocess.run(
        [sys.executable, "-m", "examples.rollout_demo", "--only", "errors"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "MLOPS_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-3000:]
    lines = result.stdout.splitlines()
    kinds = [line.split()[2] for line in lines if line.startswith("  2026-")]
    assert kinds == ["started", "advanced", "rolled"]
    (taken_back,) = (line for line in lines if " rolled back by rollout: " in line)
    assert "harm: failed requests" in taken_back
    (summary,) = (line for line in lines if line.startswith("errors: rolled back after "))
    assert "; as it should; " in summary
    assert (home / "demo-rollout" / "errors.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in home.iterdir()) == ["demo-rollout", "mine"]
    assert _processes_of(home) == []


def _processes_of(home: Path) -> list[int]:
    """Processes whose environment names a folder below `home` as theirs."""
    found = []
    for process in psutil.process_iter(["environ"]):
        environ = process.info["environ"] or {}
        if environ.get("MLOPS_HOME", "").startswith(str(home)):
            found.append(process.pid)
    return found
