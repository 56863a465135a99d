import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from mlops_assets.features.decision_table import DecisionTable
from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.errors import InputError
from mlops_assets.training.config import DqnConfig
from mlops_assets.training.learner import CurvePoint, TrainedAgent, train
from mlops_assets_tests.training.samples import EXACT, FAST, HARVEST, INVEST, TOY, changed, toy_state, toy_table

SHORT = FAST.model_copy(update={"updates": 40, "report_every": 16})


def _hash(table: DecisionTable, config: DqnConfig = SHORT, seed: int = 7) -> str:
    return train(table, TOY, config, device="cpu", seed=seed).weights_hash


def test_it_learns_the_exact_values(trained: TrainedAgent) -> None:
    """A wrong target (no bootstrap, no end of episode, wrong action, wrong discount) gives other Q-values than the closed form."""
    states = np.array([toy_state(*where) for where in EXACT], dtype=np.float32)
    with torch.no_grad():
        values = trained.network(torch.from_numpy(states)).numpy()
    np.testing.assert_allclose(values, np.array(list(EXACT.values())), atol=0.15)


def test_it_looks_ahead(trained: TrainedAgent, table: DecisionTable) -> None:
    """A short-sighted learner harvests at once: investing costs 1 now and pays two decisions later."""
    first, last = np.array([toy_state(0, 0), toy_state(2, 0)], dtype=np.float32)
    with torch.no_grad():
        greedy = trained.network(torch.from_numpy(np.stack([first, last]))).argmax(dim=1)
    assert greedy.tolist() == [INVEST, HARVEST]
    short_sighted = train(table, TOY, FAST.model_copy(update={"gamma": 0.0}), device="cpu", seed=7)
    with torch.no_grad():
        assert short_sighted.network(torch.from_numpy(first[None])).argmax().item() == HARVEST


def test_same_inputs_same_bits(table: DecisionTable) -> None:
    """Training that cannot be repeated cannot be audited; a seed that changes nothing is not used."""
    assert _hash(table) == _hash(table)
    assert _hash(table) != _hash(table, seed=8)
    assert _hash(table) != _hash(toy_table(seed=1))
    assert _hash(table) != _hash(table, SHORT.model_copy(update={"learning_rate": 1e-3}))


def test_same_bits_in_another_process(table: DecisionTable) -> None:
    """Order of sets, number of threads or memory layout of one process leak into the weights."""
    code = (
        "from mlops_assets_tests.training.samples import TOY, toy_table\n"
        "from mlops_assets_tests.training.test_learner import SHORT\n"
        "from mlops_assets.training.learner import train\n"
        "print(train(toy_table(), TOY, SHORT, device='cpu', seed=7).weights_hash)\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "3", "OMP_NUM_THREADS": "2"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.strip() == _hash(table)


def test_labels_are_not_learned_from(table: DecisionTable) -> None:
    """Labels come late and partly: a learner that sees them is evaluated on what it was told."""
    blind = changed(table, best_action=np.full(len(table), -1), action_values=np.full((len(table), 2), np.nan))
    assert _hash(blind) == _hash(table)


def test_the_buffer_keeps_the_newest_transitions(table: DecisionTable) -> None:
    """A full buffer that keeps the oldest rows never learns of the present."""
    newest = table.take(slice(-300, None))
    limited = train(table, TOY, SHORT.model_copy(update={"buffer_size": 300}), device="cpu", seed=7)
    assert limited.transitions == 300
    assert limited.weights_hash == train(newest, TOY, SHORT, device="cpu", seed=7).weights_hash


def test_the_end_of_an_episode_cuts_what_follows(table: DecisionTable) -> None:
    """0 * NaN is NaN: whatever stands in the next state of a last decision must not matter."""
    junk = table.next_state.copy()
    junk[table.done] = np.nan
    assert _hash(changed(table, next_state=junk)) == _hash(table)


def test_curves_and_progress(table: DecisionTable) -> None:
    """A training without visible progress looks hung; its last point must be the end."""
    seen: list[CurvePoint] = []
    result = train(table, TOY, SHORT, device="cpu", seed=7, progress=seen.append)
    assert tuple(seen) == result.curve
    assert [point.update for point in seen] == [16, 32, 40]
    last = seen[-1]
    assert 0 <= last.train_accuracy <= 1
    assert 0 <= last.exploration_rate <= 1
    assert [point.learning_rate / SHORT.learning_rate for point in seen] == pytest.approx([0.655, 0.095, 0.0], abs=1e-3)
    assert seen[0].seconds < seen[-1].seconds <= result.seconds
    assert (result.updates, result.seed, result.config) == (40, 7, SHORT)
    assert result.updates_per_second == pytest.approx(40 / result.seconds)


def test_agreement_is_unknown_without_labels(table: DecisionTable) -> None:
    """Unknown is not zero: an accuracy of 0.0 for want of labels looks like a broken agent."""
    unlabelled = changed(table, best_action=np.full(len(table), -1))
    assert math.isnan(train(unlabelled, TOY, SHORT, device="cpu", seed=7).curve[-1].train_accuracy)


def test_huber_is_another_loss(table: DecisionTable) -> None:
    """A configuration field that nothing reads."""
    assert _hash(table, SHORT.model_copy(update={"loss": "huber"})) != _hash(table)


def test_torchs_global_state_is_left_as_it_was(table: DecisionTable) -> None:
    """A training inside a long-lived process changes thread count, random stream or determinism of everything after it."""
    torch.manual_seed(3)
    before = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state())
    train(table, TOY, SHORT.model_copy(update={"threads": 2}), device="cpu", seed=7)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_a_tiny_table_trains() -> None:
    """A cold start has fewer decisions than a batch."""
    result = train(toy_table(2), TOY, SHORT, device="cpu", seed=7)
    assert result.transitions == 6
    assert np.isfinite(result.curve[-1].loss)


def test_constant_inputs_and_rewards_stay_finite() -> None:
    """A standard deviation of zero divides by zero."""
    table = toy_table(20)
    flat = changed(
        table,
        state=np.ones_like(table.state),
        next_state=np.ones_like(table.state),
        reward=np.zeros_like(table.reward),
    )
    result = train(flat, TOY, SHORT, device="cpu", seed=7)
    assert all(torch.isfinite(tensor).all() for tensor in result.network.state_dict().values())


def _bad_tables() -> dict[str, tuple[DecisionTable, str]]:
    table = toy_table(4)
    reward = table.reward.copy()
    reward[5] = np.nan
    following = table.next_state.copy()
    following[0, 1] = np.inf
    action = table.action.copy()
    action[3] = 2
    return {
        "empty": (table.take(slice(0, 0)), "has no decisions"),
        "width": (changed(table, state=table.state[:, :2]), r"expected \(12, 3\)"),
        "reward": (changed(table, reward=reward), r"reward of decision 'e0001/2' is not finite \(1 such rows\)"),
        "next state": (changed(table, next_state=following), r"next_state of decision 'e0000/0' is not finite"),
        "action": (changed(table, action=action), "actions run from 0 to 2, expected 0 to 1"),
    }


@pytest.mark.parametrize("case", ["empty", "width", "reward", "next state", "action"])
def test_bad_tables_are_refused(case: str) -> None:
    """One NaN in a reward makes every weight NaN, an hour later."""
    table, message = _bad_tables()[case]
    with pytest.raises(InputError, match=message):
        train(table, TOY, SHORT, device="cpu", seed=7)


def test_a_table_of_another_agent_is_refused(table: DecisionTable) -> None:
    """Training requirements on generation's states must not depend on luck with shapes."""
    with pytest.raises(InputError, match="requirements"):
        train(table, agent_spec("requirements"), SHORT, device="cpu", seed=7)


def test_divergence_is_an_error_with_advice() -> None:
    """A training that ends in NaN must not end in a registered model."""
    table = toy_table(20)
    wild = SHORT.model_copy(update={"learning_rate": 1.0, "max_gradient_norm": 1e30, "updates": 400, "loss": "mse"})
    huge = changed(table, reward=np.where(table.action == INVEST, 3e38, -3e38).astype(np.float32))
    with pytest.raises(InputError, match=r"diverged.*learning_rate|not finite"):
        train(huge, TOY, wild, device="cpu", seed=7)


def test_the_curve_is_plain_numbers(trained: TrainedAgent) -> None:
    """Tensors in the curve cannot be written to JSON, and keep the graph alive."""
    assert json.dumps([point.__dict__ for point in trained.curve])
