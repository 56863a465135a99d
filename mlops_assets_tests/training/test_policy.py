from pathlib import Path

import numpy as np
import onnx
import pytest

from mlops_assets.foundation.errors import InputError
from mlops_assets.training import policy as policy_module
from mlops_assets.training.checkpoint import save_checkpoint
from mlops_assets.training.learner import TrainedAgent
from mlops_assets.training.onnx_export import export_onnx
from mlops_assets.training.policy import GreedyPolicy
from mlops_assets_tests.training.samples import HARVEST, INVEST, TOY, toy_state, toy_table

STATES = toy_table(50).state


@pytest.fixture
def policies(trained: TrainedAgent, tmp_path: Path) -> list[GreedyPolicy]:
    save_checkpoint(tmp_path / "policy.pt", trained, TOY)
    export_onnx(tmp_path / "policy.onnx", trained.network, TOY, STATES)
    return [
        GreedyPolicy.from_network(trained.network),
        GreedyPolicy.from_checkpoint(tmp_path / "policy.pt"),
        GreedyPolicy.from_onnx(tmp_path / "policy.onnx"),
    ]


def test_every_origin_is_the_same_policy(policies: list[GreedyPolicy], trained: TrainedAgent) -> None:
    """Evaluation on the checkpoint and serving on the export must mean one policy."""
    expected = policies[0].q_values(STATES)
    for policy in policies:
        values = policy.q_values(STATES)
        assert values.shape == (150, 2)
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(policy.actions(STATES), expected.argmax(axis=1))
        assert (policy.state_size, policy.action_count) == (3, 2)
        assert policy.weights_hash == trained.weights_hash
    assert policies[2].action_names == TOY.actions
    wise = np.array([toy_state(0, 0), toy_state(2, 1)], dtype=np.float32)
    assert policies[2].actions(wise).tolist() == [INVEST, HARVEST]


def test_chunks_do_not_show(policies: list[GreedyPolicy], monkeypatch: pytest.MonkeyPatch) -> None:
    """A million states in one pass need gigabytes; in chunks, the last one must not be lost."""
    whole = [policy.q_values(STATES) for policy in policies]
    monkeypatch.setattr(policy_module, "_CHUNK_ROWS", 64)
    for policy, expected in zip(policies, whole, strict=True):
        np.testing.assert_allclose(policy.q_values(STATES), expected, rtol=1e-5, atol=1e-5)


def test_shapes(policies: list[GreedyPolicy]) -> None:
    """States of another agent give Q-values of nothing; none at all give none."""
    for policy in policies:
        assert policy.q_values(STATES[:0]).shape == (0, 2)
        for wrong in (STATES[:, :2], STATES[0]):
            with pytest.raises(InputError, match=r"expects \(N, 3\)"):
                policy.q_values(wrong)


def test_any_layout_of_states_is_taken(policies: list[GreedyPolicy]) -> None:
    """Columns of a table come as float64 or transposed."""
    for policy in policies:
        expected = policy.q_values(STATES)
        np.testing.assert_array_equal(policy.q_values(np.asfortranarray(STATES)), expected)
        np.testing.assert_array_equal(policy.q_values(STATES.astype(np.float64)), expected)


def test_a_foreign_onnx_file_is_refused(policies: list[GreedyPolicy], tmp_path: Path) -> None:
    """A policy without the names of its actions is decided on by position."""
    model = onnx.load(str(tmp_path / "policy.onnx"))
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "policy.onnx"))
    with pytest.raises(InputError, match="lacks the metadata actions, state_fields, weights_hash"):
        GreedyPolicy.from_onnx(tmp_path / "policy.onnx")
