"""Dispatchers and checks that are killed at any moment: nothing is lost, and what comes twice was in flight."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.tables import AlertRecord
from mlops_assets_tests.monitoring.alerting import outbox
from mlops_assets_tests.monitoring.receivers import Answer, Slack, receiving

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_random_kills(engine: Engine, tmp_path: Path) -> None:
    """Show 7: an alert that was written is never told, or told again for ever; the end of one comes before its beginning."""
    slack = Slack()
    # It has taken the message, and its answer comes a moment later: most kills fall into it.
    slack.standing = Answer(delay_seconds=0.01)
    # A process takes longer to reach a server than a file.
    kills, longest_life = (60, 0.5) if engine.dialect.name == "sqlite" else (40, 1.2)
    with receiving(slack):
        done = subprocess.run(
            [sys.executable, "-m", "mlops_assets_tests.monitoring.alert_crashes", str(kills), str(longest_life), "7"],
            cwd=ROOT,
            env={
                **os.environ,
                "MLOPS_HOME": str(tmp_path),
                "MLOPS_DATABASE_URL": engine.url.render_as_string(hide_password=False),
                "MLOPS_SLACK_WEBHOOK": slack.url,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["left"] == 0
    assert found["killed"] >= kills
    rows = [row for row in outbox(engine) if row.channel == "slack_alerts"]
    came = Counter(one["id"] for one in slack.taken)
    # None lost, none made up.
    assert set(came) == {row.message["id"] for row in rows}
    assert len(rows) > kills / 2
    # Twice came only what was begun twice: it was in flight when its dispatcher was killed.
    begun = {row.message["id"]: row.attempts for row in rows}
    assert all(times <= begun[identity] for identity, times in came.items())
    assert sum(times - 1 for times in came.values()) <= found["killed"]
    # A notice is known to be taken, or comes again, before the next one of its key.
    order = {row.message["id"]: (row.dedupe_key, row.number) for row in rows}
    for key in {row.dedupe_key for row in rows}:
        numbers = [order[one["id"]][1] for one in slack.taken if order[one["id"]][0] == key]
        assert numbers == sorted(numbers)
    # A check that was killed has written all of a change or nothing: no alert without its notices.
    with read_transaction(engine) as session:
        for alert in session.scalars(select(AlertRecord)):
            kinds = [row.kind for row in rows if row.alert_id == alert.id]
            wanted = (
                ["raised"]
                + ["worsened"] * (alert.severity == "CRITICAL")
                + ["recovered"] * (alert.status == "recovered")
            )
            assert kinds == wanted
