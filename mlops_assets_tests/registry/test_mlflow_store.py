"""The words with MLflow, on a real store."""

import dataclasses
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import make_url

from mlops_assets.foundation.errors import InputError, NotReadyError, StorageError
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets_tests.mlflow_runs import SPEC, MlflowRuns

ACTIONS = len(SPEC.actions)


@pytest.fixture
def store(mlflow_runs: MlflowRuns) -> MlflowStore:
    return MlflowStore(mlflow_runs.tracking_uri)


def test_a_good_model_is_loaded_and_asked(store: MlflowStore, mlflow_runs: MlflowRuns) -> None:
    """A model that is registered without ever being loaded fails in front of its users."""
    policy = store.verified_model(mlflow_runs.good[0], SPEC)
    assert policy.uri.startswith("file://")
    assert policy.model_id.startswith("m-")


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        ("without_model", InputError, "no logged model named 'model'"),
        ("with_failed_model", InputError, "is FAILED, not READY"),
        ("failed", NotReadyError, "is FAILED, not FINISHED"),
        (
            "other_agent",
            InputError,
            "has .* inputs and 5 actions, requirements has .* and 4; it belongs to another agent",
        ),
        ("diverged", InputError, "its training diverged"),
    ],
)
def test_bad_runs_are_refused(
    store: MlflowStore, mlflow_runs: MlflowRuns, run: str, error: type[Exception], message: str
) -> None:
    """MLflow itself registers failed and empty models without complaint."""
    with pytest.raises(error, match=message):
        store.verified_model(getattr(mlflow_runs, run), SPEC)


def test_an_unknown_run_is_refused_with_the_store(store: MlflowStore) -> None:
    """A run of another store must not end in MLflow's own traceback."""
    with pytest.raises(InputError, match=r"sqlite:///.* has no run 'nope'"):
        store.verified_model("nope", SPEC)


def test_a_deleted_run_is_refused(store: MlflowStore, mlflow_runs: MlflowRuns) -> None:
    """What was thrown away must not come back as a version."""
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=mlflow_runs.tracking_uri).delete_run(mlflow_runs.good[0])
    with pytest.raises(InputError, match="is deleted"):
        store.verified_model(mlflow_runs.good[0], SPEC)


def test_lost_artifacts_are_refused(store: MlflowStore, mlflow_runs: MlflowRuns) -> None:
    """A version whose files are gone would only fail once it is promoted."""
    policy = store.verified_model(mlflow_runs.good[0], SPEC)
    gone = dataclasses.replace(policy, uri=policy.uri + "/gone")
    number = store.create_version("m", gone, run_id=mlflow_runs.good[0], tags={}, purpose="", description="")
    with pytest.raises(InputError, match="is not there"):
        store.load("m", number)


def test_versions_carry_their_tags_from_the_first_moment(store: MlflowStore, mlflow_runs: MlflowRuns) -> None:
    """A version created first and tagged later has no semantic version after a crash in between."""
    policy = store.verified_model(mlflow_runs.good[1], SPEC)
    tags = {"semantic_version": "1.0.0", "stage": "None"}
    number = store.create_version("m", policy, run_id=mlflow_runs.good[1], tags=tags, purpose="p", description="d")
    (stored,) = store.versions("m")
    assert (stored.number, stored.run_id, dict(stored.tags)) == (number, mlflow_runs.good[1], tags)
    states = np.ones((7, len(SPEC.state_fields)), dtype=np.float32)
    assert store.load("m", number).q_values(states).shape == (7, ACTIONS)


def test_absent_things_are_absent(store: MlflowStore, mlflow_runs: MlflowRuns) -> None:
    """The first run of all finds neither model nor alias, which is no error."""
    assert store.versions("m") == []
    assert store.alias_target("m", "champion") is None
    policy = store.verified_model(mlflow_runs.good[0], SPEC)
    number = store.create_version("m", policy, run_id=mlflow_runs.good[0], tags={}, purpose="", description="")
    assert store.alias_target("m", "champion") is None
    store.drop_alias("m", "champion")
    store.set_alias("m", "champion", number)
    assert store.alias_target("m", "champion") == number
    with pytest.raises(InputError, match="no version 9"):
        store.load("m", "9")


def test_metrics_of_a_run(store: MlflowStore, mlflow_runs: MlflowRuns) -> None:
    """A comparison reads them from the run, and an unknown run is the user's mistake."""
    assert store.run_metrics(mlflow_runs.good[1])["accuracy"] == pytest.approx(0.91)
    with pytest.raises(InputError, match="has no run"):
        store.run_metrics("nope")


def test_a_store_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """An outage of MLflow must say so, and be worth a retry, instead of looking like a missing model."""
    broken = tmp_path / "mlflow.db"
    broken.write_bytes(b"this is no database")
    with pytest.raises(StorageError, match=r"MLflow at sqlite:///.*file is not a database.*try again"):
        MlflowStore(f"sqlite:///{broken}").versions("m")


@pytest.mark.parametrize(
    "tracking_uri",
    [
        "http://qa:secret@127.0.0.1:9/",  # nobody listens
        "http://qa:sec#secret@127.0.0.1:9",  # refused by MLflow itself, which quotes it
        "http://qa:se@secret@127.0.0.1:9",
    ],
)
def test_the_password_of_a_store_is_not_shown(tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that is away writes its password into every log, and into the file of the aliases."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(
        StorageError, match=r"MLflow at http://qa:\*\*\*@127\.0\.0\.1:9.*\(.*//qa:\*\*\*@127"
    ) as refused:
        MlflowStore(tracking_uri).versions("m")
    assert "secret" not in "".join(traceback.format_exception(refused.value))
    with pytest.raises(StorageError, match="MLflow at http://127") as open_to_all:
        MlflowStore("http://127.0.0.1:9").versions("m")
    assert open_to_all.value.__cause__ is not None


def test_the_password_of_a_store_is_not_shown_with_a_run_that_it_lacks(
    new_postgres_database: Callable[[], str],
) -> None:
    """A mistyped run id shows the password of the database to whoever reads the run's log."""
    url = make_url(new_postgres_database()).set(drivername="postgresql", password="secret")
    store = MlflowStore(url.render_as_string(hide_password=False))
    with pytest.raises(InputError, match=r"postgresql://postgres:\*\*\*@127.* has no run 'nope'"):
        store.run_metrics("nope")


def test_another_format_is_refused(store: MlflowStore, mlflow_runs: MlflowRuns, tmp_path: Path) -> None:
    """A model that somebody logged as a pickle would run its code on whoever promotes it."""
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModelStatus
    from mlflow.models import Model

    client = MlflowClient(tracking_uri=mlflow_runs.tracking_uri)
    run_id = mlflow_runs.without_model
    model = client.create_logged_model(client.get_run(run_id).info.experiment_id, name="model", source_run_id=run_id)
    folder = tmp_path / "sklearn"
    folder.mkdir()
    Model(flavors={"sklearn": {"pickled_model": "model.pkl"}}).save(str(folder / "MLmodel"))
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    with pytest.raises(InputError, match="is logged as sklearn, expected onnx"):
        store.verified_model(run_id, SPEC)
