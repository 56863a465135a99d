"""The server is killed under load, and comes back: it has logged what it answered."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlops_assets.foundation.database import create_operational_engine
from mlops_assets.foundation.settings import load_settings
from mlops_assets_tests.serving.faults import RATE, answered_ids, requests_for, stored
from mlops_assets_tests.serving.live import LiveServer, load

pytestmark = pytest.mark.slow
# The stated bound of what `kill -9` may cost.
LOSS_SECONDS = 0.1


def test_a_killed_server_has_logged_what_it_answered(served_home: Path, new_server: Callable[..., LiveServer]) -> None:
    """`kill -9` costs more answers than the stated bound, or the restart logs some of them twice."""
    settings = load_settings({"MLOPS_HOME": str(served_home)})
    server = new_server(served_home)
    killed: list[float] = []

    def kill_and_restart() -> None:
        time.sleep(4.0)
        killed.append(time.time())
        server.kill()
        killed.append(time.time())
        server.start()
        time.sleep(2.0)

    answers = load(server.url, requests_for(settings), rate=RATE, seconds=1, meanwhile=kill_and_restart)
    assert answers.statuses.keys() <= {200, 503, 0}, answers.statuses
    assert any(answered > killed[1] for _, answered, status, _ in answers.all if status == 200)
    server.end()
    engine = create_operational_engine(settings.database)
    found = stored(engine)
    safe = answered_ids(answers, before=killed[0] - LOSS_SECONDS)
    after = {d["prediction_id"] for asked, _, _, d in answers.of(200) if asked > killed[1]}
    assert len(safe) > 200
    assert safe <= found.keys()
    assert after <= found.keys()
    # Nothing that nobody was told, but for requests that the kill cut off.
    assert len(found.keys() - answered_ids(answers)) <= RATE * 2
    assert list(settings.paths.prediction_journal.glob("*-*")) == []
    engine.dispose()
