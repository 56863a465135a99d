"""What follows from a guard's rollback is done at once, by a real process, and its failure is said."""

import logging

import pytest

from mlops_assets.rollout.effects import undelivered
from mlops_assets.serving.deliveries import DeliveryProcess
from mlops_assets_tests.programs import wait_for
from mlops_assets_tests.rollout.conftest import (
    MODEL,
    Tower,
    clock,
    mlflow_runs,
    mlflow_template,
    new_office,
    new_tower,
    small_tower,
)
from mlops_assets_tests.rollout.ledgers import go

__all__ = ["clock", "mlflow_runs", "mlflow_template", "new_office", "new_tower", "small_tower"]


@pytest.fixture
def deployment(small_tower: Tower, monkeypatch: pytest.MonkeyPatch) -> Tower:
    monkeypatch.setenv("MLOPS_HOME", str(small_tower.office.settings.home))
    monkeypatch.setenv("MLOPS_DATABASE_URL", small_tower.engine.url.render_as_string(hide_password=False))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", small_tower.office.runs.tracking_uri)
    return small_tower


def test_registry_and_people_follow_at_once(deployment: Tower) -> None:
    """For five minutes the registry would call a version a candidate that no user gets any more, and nobody would know."""
    state = deployment.rollouts.tick(MODEL).state
    assert state is not None
    go(deployment.engine, state, "rolled_back")
    deliveries = DeliveryProcess()
    deliveries.follow()
    assert deployment.stages()["1.1.0"] == "Staging"
    deliveries.ask()
    deliveries.follow()
    wait_for(lambda: undelivered(deployment.engine) == [], 60.0)
    assert deployment.stages()["1.1.0"] == "Archived"
    assert deployment.aliases() == {"champion": "1.0.0"}
    deliveries.stop()


def test_a_process_that_fails_is_said(
    deployment: Tower, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong setting would leave every rollback half done, silently."""
    monkeypatch.setenv("MLOPS_POLICY_PROFILE", "nobody")
    deliveries = DeliveryProcess()
    deliveries.ask()
    deliveries.follow()
    with caplog.at_level(logging.ERROR):

        def said() -> bool:
            deliveries.follow()
            return "deliver ended with 2" in caplog.text

        wait_for(said, 60.0)
    assert deployment.kinds() == []
    deliveries.stop()
