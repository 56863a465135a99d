import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops_assets.features.decision_table import DecisionTable
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.errors import InputError, TransientError
from mlops_assets.training.episodes import episode_curve
from mlops_assets.training.learner import TrainedAgent
from mlops_assets.training.onnx_export import export_onnx
from mlops_assets.training.policy import GreedyPolicy
from mlops_assets.training.tracking import TrainingTracker, connect
from mlops_assets_tests.training.samples import TOY

PARAMS = {"learning_rate": "0.1", "trigger_type": "manual"}


def _start(tracker: TrainingTracker, lifecycle_run: str = "dagster-1", **changes: Any) -> str:
    arguments = {
        "lifecycle_run_id": lifecycle_run,
        "run_name": "20260601_baseline",
        "parent_run_id": None,
        "params": PARAMS,
        "tags": {"git_sha": "a1", "fingerprint": "f1"},
    }
    return tracker.start(TOY, **{**arguments, **changes})


@pytest.fixture
def onnx_file(trained: TrainedAgent, table: DecisionTable, tmp_path: Path) -> Path:
    path = tmp_path / "policy.onnx"
    export_onnx(path, trained.network, TOY, table.state)
    return path


def test_a_run_is_named_tagged_and_placed(tracker: TrainingTracker, tmp_path: Path) -> None:
    """A run in the wrong experiment, or with artifacts in whatever folder the process ran in."""
    run_id = _start(tracker, parent_run_id="0" * 32)
    client = connect(tracker.tracking_uri)
    run = client.get_run(run_id)
    experiment = client.get_experiment_by_name("toy-agent-training")
    assert run.info.experiment_id == experiment.experiment_id
    assert experiment.artifact_location == (tmp_path / "artifacts" / "toy-agent-training").as_uri()
    assert (run.info.run_name, run.info.status) == ("20260601_baseline", "RUNNING")
    assert run.data.params == PARAMS
    expected = {"git_sha": "a1", "agent": "toy", "lifecycle_run_id": "dagster-1", "mlflow.parentRunId": "0" * 32}
    assert expected.items() <= run.data.tags.items()


def test_a_step_that_is_tried_again_takes_up_its_run(tracker: TrainingTracker) -> None:
    """Two MLflow runs for one training: the second is registered, the first stays RUNNING for ever."""
    run_id = _start(tracker)
    tracker.finish(run_id, failed=True)
    assert _start(tracker) == run_id
    assert connect(tracker.tracking_uri).get_run(run_id).info.status == "RUNNING"
    assert _start(tracker, "dagster-2") != run_id


def test_agents_have_experiments_of_their_own(tracker: TrainingTracker) -> None:
    """Three agents trained in one Dagster run must not share a run."""
    runs = {
        name: tracker.start(
            spec, lifecycle_run_id="dagster-1", run_name="x", parent_run_id=None, params=PARAMS, tags={}
        )
        for name, spec in AGENTS.items()
    }
    client = connect(tracker.tracking_uri)
    experiments = {name: client.get_run(run_id).info.experiment_id for name, run_id in runs.items()}
    assert len(set(experiments.values())) == len(AGENTS)
    assert client.get_experiment(experiments["generation"]).name == "generation-agent-training"


def test_other_parameters_are_another_run(tracker: TrainingTracker) -> None:
    """MLflow refuses changed parameters with an internal message, after half of them are written."""
    run_id = _start(tracker)
    tracker.finish(run_id)
    with pytest.raises(InputError, match=r"other parameters .*learning_rate.*'0\.1', '0\.2'"):
        _start(tracker, params=PARAMS | {"learning_rate": "0.2", "new": "1"})
    run = connect(tracker.tracking_uri).get_run(run_id)
    assert (run.data.params, run.info.status) == (PARAMS, "FINISHED")


def test_curves_are_logged_once(tracker: TrainingTracker, trained: TrainedAgent) -> None:
    """A second try that logs every point again doubles the curve; NaN would be drawn as a value."""
    run_id = _start(tracker)
    blind = replace(trained.curve[2], train_accuracy=float("nan"))
    tracker.log_curves(run_id, trained.curve[:2])
    tracker.log_curves(run_id, [*trained.curve[:2], blind])
    client = connect(tracker.tracking_uri)
    losses = client.get_metric_history(run_id, "loss")
    assert [(metric.step, metric.value) for metric in losses] == [(p.update, p.loss) for p in trained.curve[:3]]
    assert [metric.step for metric in client.get_metric_history(run_id, "train_accuracy")] == [100, 200]
    assert {"q_value_mean", "learning_rate", "exploration_rate"} <= client.get_run(run_id).data.metrics.keys()


def test_logged_episodes_are_logged_once(tracker: TrainingTracker, table: DecisionTable) -> None:
    """As for the curves."""
    run_id = _start(tracker)
    curve = episode_curve(table, table.action, actions=2)
    tracker.log_episodes(run_id, curve)
    tracker.log_episodes(run_id, curve)
    client = connect(tracker.tracking_uri)
    rewards = client.get_metric_history(run_id, "episode_reward")
    assert [metric.step for metric in rewards] == list(range(600))
    assert rewards[17].value == pytest.approx(curve.reward[17])
    averages = client.get_metric_history(run_id, "avg_reward_100")
    assert [metric.step for metric in averages] == [99, 199, 299, 399, 499, 599]


def test_the_model_is_ready_and_loads_without_this_project(
    tracker: TrainingTracker, onnx_file: Path, table: DecisionTable
) -> None:
    """A logged model that only loads where this package is installed, or that takes one batch size only."""
    import mlflow

    run_id = _start(tracker)
    policy = GreedyPolicy.from_onnx(onnx_file)
    uri = tracker.log_model(run_id, onnx_file, TOY, table.state, policy.q_values(table.state))
    assert tracker.log_model(run_id, onnx_file, TOY, table.state, policy.q_values(table.state)) == uri
    client = connect(tracker.tracking_uri)
    model = client.get_logged_model(uri.removeprefix("models:/"))
    assert (model.name, str(model.status), model.source_run_id, model.params) == ("model", "READY", run_id, PARAMS)
    folder = mlflow.artifacts.download_artifacts(artifact_uri=model.artifact_location)
    loaded = mlflow.pyfunc.load_model(folder)
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 3)
    assert loaded.metadata.metadata == {
        "agent": "toy",
        "actions": ["harvest", "invest"],
        "state_fields": list(TOY.state_fields),
    }
    for rows in (1, 5):
        values = loaded.predict(table.state[:rows])["q_values"]
        np.testing.assert_array_equal(values, policy.q_values(table.state[:rows]))
    assert GreedyPolicy.from_onnx(Path(folder) / "model.onnx").weights_hash == policy.weights_hash


def test_logging_a_model_registers_nothing(tracker: TrainingTracker, onnx_file: Path, table: DecisionTable) -> None:
    """B-3: log_model and the registry asset both register, and every training makes two versions."""
    policy = GreedyPolicy.from_onnx(onnx_file)
    tracker.log_model(_start(tracker), onnx_file, TOY, table.state, policy.q_values(table.state))
    assert list(connect(tracker.tracking_uri).search_registered_models()) == []


def test_a_failed_model_is_marked_and_tried_again(
    tracker: TrainingTracker, onnx_file: Path, table: DecisionTable, tmp_path: Path
) -> None:
    """MLflow registers a half-uploaded model without a word; only its status tells."""
    run_id = _start(tracker)
    values = GreedyPolicy.from_onnx(onnx_file).q_values(table.state)
    with pytest.raises(InputError, match="export it before"):
        tracker.log_model(run_id, tmp_path / "absent.onnx", TOY, table.state, values)
    client = connect(tracker.tracking_uri)
    experiment = client.get_run(run_id).info.experiment_id
    assert [str(model.status) for model in client.search_logged_models([experiment])] == ["FAILED"]
    uri = tracker.log_model(run_id, onnx_file, TOY, table.state, values)
    assert str(client.get_logged_model(uri.removeprefix("models:/")).status) == "READY"


def test_nothing_global_is_left_behind(tracker: TrainingTracker, onnx_file: Path, table: DecisionTable) -> None:
    """An active run or tracking URI that leaks into the next training of the process."""
    import mlflow

    before = mlflow.get_tracking_uri()
    run_id = _start(tracker)
    tracker.log_metrics(run_id, {"accuracy": 0.9}, tags={"weights_hash": "w"})
    tracker.log_model(run_id, onnx_file, TOY, table.state, GreedyPolicy.from_onnx(onnx_file).q_values(table.state))
    assert mlflow.active_run() is None
    assert mlflow.get_tracking_uri() == before


def test_runs_end_as_they_went(tracker: TrainingTracker, tmp_path: Path) -> None:
    """A failed training that looks finished is compared with, or registered."""
    run_id, other = _start(tracker), _start(tracker, "dagster-2")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "config.yaml").write_text("updates: 1\n", encoding="utf-8")
    tracker.log_artifacts(run_id, tmp_path / "files")
    tracker.log_metrics(run_id, {"accuracy": 0.9}, step=5, tags={"weights_hash": "w"})
    tracker.log_dataset(run_id, name="set", digest="d" * 64, source="/data", rows=12, context="training")
    tracker.finish(run_id)
    tracker.finish(other, failed=True)
    client = connect(tracker.tracking_uri)
    run = client.get_run(run_id)
    assert (run.info.status, client.get_run(other).info.status) == ("FINISHED", "FAILED")
    assert run.info.end_time is not None
    assert (run.data.metrics["accuracy"], run.data.tags["weights_hash"]) == (0.9, "w")
    assert [file.path for file in client.list_artifacts(run_id)] == ["config.yaml"]
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("set", "d" * 36)
    assert [tag.value for tag in dataset.tags] == ["training"]


def test_a_repetition_is_found_by_its_fingerprint(tracker: TrainingTracker) -> None:
    """Nothing has changed, yet an agent is trained and registered again."""
    assert tracker.find_finished(TOY, "f1") is None
    run_id = _start(tracker)
    assert tracker.find_finished(TOY, "f1") is None
    tracker.finish(run_id)
    assert tracker.find_finished(TOY, "f1") == run_id
    assert tracker.find_finished(TOY, "f2") is None


def test_abandoned_runs_are_closed(tracker: TrainingTracker) -> None:
    """After `kill -9` a run says RUNNING for ever; a finished one must keep its end."""
    finished, abandoned = _start(tracker), _start(tracker, "dagster-2")
    tracker.finish(finished)
    assert tracker.close_abandoned(TOY) == [abandoned]
    client = connect(tracker.tracking_uri)
    assert [client.get_run(run_id).info.status for run_id in (finished, abandoned)] == ["FINISHED", "KILLED"]
    assert tracker.close_abandoned(TOY) == []


def test_artifacts_come_back_from_the_store(tracker: TrainingTracker, tmp_path: Path) -> None:
    """The champion was trained on another machine: its files are in MLflow only."""
    run_id = _start(tracker)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "policy.pt").write_bytes(b"weights")
    tracker.log_artifacts(run_id, tmp_path / "files")
    tracker.download_artifact(run_id, "policy.pt", tmp_path / "back")
    tracker.download_artifact(run_id, "absent.pt", tmp_path / "back")
    assert [(file.name, file.read_bytes()) for file in (tmp_path / "back").iterdir()] == [("policy.pt", b"weights")]
    with pytest.raises(InputError, match="refused"):
        tracker.download_artifact("0" * 32, "policy.pt", tmp_path / "back")


def test_a_server_that_does_not_answer_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A permanent failure where the next try would pass, or a password in the log."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = TrainingTracker("http://user:secret@127.0.0.1:9")
    with pytest.raises(TransientError, match="does not answer") as caught:
        _start(tracker)
    assert "127.0.0.1:9" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_processes_take_turns_at_a_new_database(tmp_path: Path) -> None:
    """Four trainings on a fresh machine: three die of `duplicate column name` in MLflow's first migration."""
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    # Forked, so that the import of MLflow is paid once.
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=connect, args=(uri,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [experiment.name for experiment in connect(uri).search_experiments()] == ["Default"]
