"""10,000 triggers from all sources, and daemons that are killed: exactly the trainings that the policy allows."""

import json
import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import Engine, func, select

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.audit import verify_chain
from mlops_assets.foundation.clock import ScaledClock
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.tables import TriggerSignalRecord
from mlops_assets.foundation.trigger import REQUEST_TAG
from mlops_assets.retraining.requests import all_requests
from mlops_assets_tests.retraining.triggers import NOW, POLICY, hours

ROOT = Path(__file__).resolve().parents[2]
TRIGGERS, KILLS = 10_000, 18


@pytest.mark.slow
def test_a_storm_under_kills(engine: Engine, tmp_path: Path) -> None:
    """Ten thousand trainings, or none; a training that is lost with its daemon, or done twice after its restart."""
    # Two hours a second: six hours between two trainings pass while daemons die, and no trigger gets as old as a week.
    clock = ScaledClock(NOW, datetime.now(UTC), 7200.0)
    done = subprocess.run(
        [sys.executable, "-m", "mlops_assets_tests.retraining.storm", str(tmp_path), str(TRIGGERS), str(KILLS), "7"],
        cwd=ROOT,
        env={
            **os.environ,
            "MLOPS_HOME": str(tmp_path / "home"),
            "MLOPS_DATABASE_URL": engine.url.render_as_string(hide_password=False),
            "MLOPS_CLOCK": str(clock),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["finished"], found
    assert found["killed"] >= KILLS
    requests = all_requests(engine, since=NOW)
    # None lost: each trigger is answered by a training, or by one that had just ended.
    with read_transaction(engine) as session:
        by = dict(
            session.execute(
                select(TriggerSignalRecord.settled_by, func.count()).group_by(TriggerSignalRecord.settled_by)
            ).all()
        )
        assert verify_chain(session).intact
    assert sum(by.values()) == TRIGGERS
    assert set(by) <= {"answered", *(one.run_key for one in requests)}
    # None doubled: of each decision one run, and no run without one.
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        runs = Counter(run.tags[REQUEST_TAG] for run in instance.get_runs())
    assert runs == Counter(one.run_key for one in requests)
    assert {one.status for one in requests} == {"succeeded"}
    for agent in AGENTS:
        mine = sorted((one for one in requests if one.agent == agent), key=lambda one: one.requested_at)
        assert mine, agent
        # That no two were open at once is the database's unique key: a time may be read before the lock is waited for.
        assert [one.run_key for one in mine] == [f"retrain-{agent}-{number}" for number in range(1, len(mine) + 1)]
        for before, after in pairwise(mine):
            assert after.requested_at - before.requested_at >= hours(POLICY.min_hours_between)
        for one in mine:
            day = [other for other in mine if one.requested_at - hours(24) < other.requested_at <= one.requested_at]
            assert len(day) <= POLICY.max_per_day
