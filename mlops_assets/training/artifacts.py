"""The files that a training leaves behind, in one folder. Storing them in MLflow is `tracking.py`'s business."""

import json
import math
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import yaml

from mlops_assets.experiences.text_embedding import TextEmbedder
from mlops_assets.features.decision_table import DecisionTable
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.files import atomic_write, digest, sha256_file
from mlops_assets.training.checkpoint import save_checkpoint
from mlops_assets.training.episodes import EpisodeCurve, episode_curve, write_reward_curve
from mlops_assets.training.learner import TrainedAgent
from mlops_assets.training.onnx_export import OnnxParity, export_onnx
from mlops_assets.training.plots import training_curves_png
from mlops_assets.training.policy import GreedyPolicy
from mlops_assets.training.tracking import TEXT_EMBEDDER_FILE


@dataclass(frozen=True)
class ArtifactFolder:
    """Names of the files in a training's folder."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """Weights and metadata for torch."""
        return self.folder / "policy.pt"

    @property
    def onnx(self) -> Path:
        """The policy for ONNX Runtime."""
        return self.folder / "policy.onnx"

    @property
    def training_curves(self) -> Path:
        """Picture of loss, Q-values, agreement and logged returns."""
        return self.folder / "training_curves.png"

    @property
    def reward_curve(self) -> Path:
        """Logged episodes, one row each."""
        return self.folder / "reward_curve.csv"

    @property
    def metrics(self) -> Path:
        """Final numbers of the training."""
        return self.folder / "training_metrics.json"

    @property
    def config(self) -> Path:
        """Hyper-parameters, readable by `load_config`."""
        return self.folder / "config.yaml"


def served_hash(policy: Path, text_embedder: TextEmbedder | None) -> str:
    """Hash what serving a model takes, 64 hex digits: equal to `ModelCatalogue.files_hash` of the version it becomes."""
    files = {policy.name: sha256_file(policy)}
    if text_embedder is not None:
        files[TEXT_EMBEDDER_FILE] = sha256(text_embedder.to_bytes()).hexdigest()
    return digest(files)


@dataclass(frozen=True)
class TrainingArtifacts:
    """What was written, with the numbers that go to MLflow and the UI."""

    files: ArtifactFolder
    metrics: dict[str, float]
    episodes: EpisodeCurve
    parity: OnnxParity


def write_artifacts(trained: TrainedAgent, table: DecisionTable, spec: AgentSpec, folder: Path) -> TrainingArtifacts:
    """Write checkpoint, ONNX policy, curves, metrics and configuration; each file is whole or absent.

    Args:
        trained: the result of `train`.
        table: the decisions it was trained on.
        spec: the agent.
        folder: where to write; files of an earlier try are replaced.

    Raises:
        InputError: the exported policy does not compute what the network computes.
        StorageError: the folder cannot be written.
    """
    files = ArtifactFolder(folder)
    save_checkpoint(files.checkpoint, trained, spec)
    parity = export_onnx(files.onnx, trained.network, spec, table.state)
    greedy = GreedyPolicy.from_network(trained.network).actions(table.state)
    episodes = episode_curve(table, greedy, len(spec.actions))
    write_reward_curve(files.reward_curve, episodes)
    training_curves_png(files.training_curves, trained.curve, episodes, title=f"{spec.name}: offline training")
    metrics = final_metrics(trained, episodes, parity)
    with atomic_write(files.metrics) as temporary:
        report = {
            "agent": spec.name,
            "weights_hash": trained.weights_hash,
            "seed": trained.seed,
            "device": trained.device.device,
            "device_reason": trained.device.reason,
            "metrics": metrics,
        }
        temporary.write_text(json.dumps(report, indent=2, allow_nan=False), encoding="utf-8")
    with atomic_write(files.config) as temporary:
        temporary.write_text(yaml.safe_dump(trained.config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    return TrainingArtifacts(files=files, metrics=metrics, episodes=episodes, parity=parity)


def final_metrics(trained: TrainedAgent, episodes: EpisodeCurve, parity: OnnxParity) -> dict[str, float]:
    """Final numbers of a training; a number that is unknown is absent.

    `final_avg_reward` is the mean return of the last 100 logged episodes, earned by the behaviour policy: the bar that
    the learned policy has to clear in evaluation. `final_train_accuracy` is measured on training decisions.
    """
    last = trained.curve[-1]
    numbers = {
        "final_avg_reward": float(episodes.avg_reward_100[-1]),
        "total_episodes": float(len(episodes)),
        "total_transitions": float(trained.transitions),
        "training_time_seconds": trained.seconds,
        "updates_per_second": trained.updates_per_second,
        "final_loss": last.loss,
        "final_q_value_mean": last.q_value_mean,
        "final_train_accuracy": last.train_accuracy,
        "final_exploration_rate": last.exploration_rate,
        "onnx_max_difference": parity.max_difference,
    }
    return {name: value for name, value in numbers.items() if math.isfinite(value)}
