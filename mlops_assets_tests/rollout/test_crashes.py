"""Daemons that are killed at any moment, two at a time, with clocks that are wrong: every stage once, and nothing half done."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.tables import ExperimentLook, RolloutEffect
from mlops_assets.rollout.effects import undelivered
from mlops_assets.rollout.ledger import current, steps, verify
from mlops_assets_tests.rollout.conftest import MODEL, Tower

ROOT = Path(__file__).resolve().parents[2]
WHOLE = ["started", "advanced", "advanced", "advanced", "advanced", "promoting", "completed"]


@pytest.mark.slow
def test_random_kills(tower: Tower) -> None:
    """A stage that is passed twice or skipped, an alias that stays behind, a promotion that is done by halves."""
    tower.office.decide(3, "approved")
    tower.office.decide(0, "approved")
    versions = ["1.1.0", "1.2.0", "1.3.0"]
    # A process takes longer to reach a server than a file.
    kills = 200 if tower.engine.dialect.name == "sqlite" else 40
    done = subprocess.run(
        [sys.executable, "-m", "mlops_assets_tests.rollout.crashes", ",".join(versions), str(kills), "7"],
        cwd=ROOT,
        env={
            **os.environ,
            "MLOPS_HOME": str(tower.office.settings.home),
            "MLOPS_DATABASE_URL": tower.engine.url.render_as_string(hide_password=False),
            "MLFLOW_TRACKING_URI": tower.office.runs.tracking_uri,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert (found["left"], found["finished"]) == ([], True)
    assert found["killed"] >= kills
    ledger = steps(tower.engine)
    assert [step.kind for step in ledger] == WHOLE * 3
    for number, version in enumerate(versions):
        of_one = ledger[number * len(WHOLE) : (number + 1) * len(WHOLE)]
        assert {step.state.candidate for step in of_one} == {version}
        stages = [step.state.stage for step in of_one if step.kind in {"started", "advanced"}]
        assert stages == ["shadow", "5_percent", "20_percent", "50_percent", "100_percent"]
    (final,) = verify(tower.engine)
    assert (final.candidate, final.status) == ("1.3.0", "completed")
    assert undelivered(tower.engine) == []
    assert tower.stages() == {"1.3.0": "Production", "1.2.0": "Archived", "1.1.0": "Archived", "1.0.0": "Archived"}
    assert tower.aliases() == {"champion": "1.3.0"}
    # Each promotion once, and the audit trail unbroken.
    promoted = [event.version for event in tower.office.events() if event.event_type == "model_promoted_to_production"]
    assert promoted == ["1.0.0", *versions]


def test_the_state_is_the_ledger(small_tower: Tower) -> None:
    """Something beside the ledger that has to be there: lost, it would take the rollout with it."""
    started = small_tower.rollouts.tick(MODEL).state
    assert started is not None
    with small_tower.engine.begin() as connection:
        for table in (ExperimentLook.__table__, RolloutEffect.__table__):
            connection.execute(table.delete())
    assert current(small_tower.engine, MODEL) == started
    assert verify(small_tower.engine) == [started]
    assert small_tower.rollouts.tick(MODEL).reasons == ("shadow goes on for 2.0 h more",)
    with read_transaction(small_tower.engine) as session:
        looks = session.query(ExperimentLook).filter(ExperimentLook.experiment == started.name)
        assert looks.count() == 1
