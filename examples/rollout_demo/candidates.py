"""Candidates with a defect, as training runs of their own: made from the better run's files, tracked, not yet judged."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.rollout_demo.deployment import Deployment
from examples.rollout_demo.slow_graph import slow_down
from examples.rollout_demo.surgery import always_one_action, overflowing
from examples.rollout_demo.users import AGENT, COMPLEX_PAGES, FAILING_SUITES, RESTED_SUITES
from mlops_assets.features.decision_table import DecisionTable
from mlops_assets.features.training_set import open_training_set
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.files import digest
from mlops_assets.training.artifacts import ArtifactFolder
from mlops_assets.training.checkpoint import load_checkpoint, save_checkpoint
from mlops_assets.training.config import DqnConfig
from mlops_assets.training.device import choose_device
from mlops_assets.training.learner import TrainedAgent
from mlops_assets.training.network import DuelingQNetwork, weights_hash
from mlops_assets.training.onnx_export import export_onnx
from mlops_assets.training.policy import GreedyPolicy
from mlops_assets.training.tracking import TrainingTracker

_EXAMPLE_ROWS = 4
# The best action of one request in twelve.
_RARELY_RIGHT = "high"


@dataclass(frozen=True)
class _Defect:
    """How a network is changed, and how its exported file."""

    network: Callable[[DuelingQNetwork, AgentSpec, DecisionTable], DuelingQNetwork]
    policy: Callable[[Path, AgentSpec], None]


def _as_it_is(network: DuelingQNetwork, _spec: AgentSpec, _table: DecisionTable) -> DuelingQNetwork:
    return network


def _untouched(_policy: Path, _spec: AgentSpec) -> None:
    return


def _wrong_in_webkit(network: DuelingQNetwork, spec: AgentSpec, table: DecisionTable) -> DuelingQNetwork:
    return always_one_action(network, spec, FAILING_SUITES, spec.actions.index(_RARELY_RIGHT), table.state)


def _failing(network: DuelingQNetwork, spec: AgentSpec, table: DecisionTable) -> DuelingQNetwork:
    return overflowing(network, spec, COMPLEX_PAGES, table.state)


_DEFECTS: Mapping[str, _Defect] = {
    "errors": _Defect(_failing, _untouched),
    "slow": _Defect(_as_it_is, lambda policy, spec: slow_down(policy, spec, RESTED_SUITES)),
    "slice": _Defect(_wrong_in_webkit, _untouched),
}


def with_defect(deployment: Deployment, better: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Make the candidate `name` from the better run, and return the record of its own run, for `lifecycle.judge`."""
    spec, settings = deployment.spec, deployment.settings
    defect = _DEFECTS[name]
    table = open_training_set(AGENT, better["training_hash"], paths=settings.paths).train()
    source = ArtifactFolder(settings.paths.models(AGENT) / better["run_id"])
    network = defect.network(load_checkpoint(source.checkpoint).network, spec, table)
    tracker = TrainingTracker(settings.tracking_uri, settings.artifact_root)
    run_id = tracker.start(
        spec,
        lifecycle_run_id=f"demo-{name}",
        run_name=f"demo-{name}",
        parent_run_id=None,
        params={},
        tags={"made_from": better["run_id"]},
    )
    files = ArtifactFolder(settings.paths.models(AGENT) / run_id)
    save_checkpoint(files.checkpoint, _trained(network, settings.training_seed), spec)
    export_onnx(files.onnx, network, spec, table.state)
    defect.policy(files.onnx, spec)
    tracker.log_artifacts(run_id, files.folder)
    example = table.state[:_EXAMPLE_ROWS]
    q_values = GreedyPolicy.from_onnx(files.onnx).q_values(example)
    tracker.log_model(run_id, files.onnx, spec, example, q_values)
    tracker.finish(run_id)
    identity = digest({"made_from": better["identity"], "defect": name})
    return {**better, "run_id": run_id, "identity": identity, "weights_hash": weights_hash(network)}


def _trained(network: DuelingQNetwork, seed: int) -> TrainedAgent:
    """The network as a training that made no updates."""
    return TrainedAgent(
        network=network,
        curve=(),
        seconds=0.0,
        updates=0,
        transitions=0,
        device=choose_device("cpu"),
        seed=seed,
        config=DqnConfig(),
        weights_hash=weights_hash(network),
    )
