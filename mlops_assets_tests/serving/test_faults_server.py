"""The server is killed under load, and comes back: it has logged what it answered."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from mlops_assets.foundation.database import create_operational_engine
from mlops_assets.foundation.settings import load_settings
from mlops_assets_tests.serving.faults import RATE, answered_ids, episodes, requests_for
from mlops_assets_tests.serving.live import LiveServer, load

pytestmark = pytest.mark.slow
# The stated bound of what `kill -9` may cost.
LOSS_SECONDS = 0.1


@pytest.mark.parametrize("killed", ["server", "worker"])
def test_a_killed_server_has_logged_what_it_answered(
    served_home: Path, new_server: Callable[..., LiveServer], killed: str
) -> None:
    """`kill -9` costs more answers than the stated bound, the restart logs some of them twice, or none restarts."""
    settings = load_settings({"MLOPS_HOME": str(served_home)})
    server = new_server(served_home)
    at: dict[str, float] = {}

    def kill_and_wait() -> None:
        time.sleep(4.0)
        at["kill"] = time.time()
        if killed == "server":
            server.kill()
            server.start()
        else:
            # Nobody but its supervisor starts it again.
            server.kill_worker()
            server.wait_ready()
        at["ready"] = time.time()
        time.sleep(2.0)

    answers = load(server.url, requests_for(settings), rate=RATE, seconds=1, meanwhile=kill_and_wait)
    assert answers.statuses.keys() <= {200, 503, 0}, answers.statuses
    later = [(status, document) for asked, _, status, document in answers.all if asked > at["ready"]]
    assert len(later) > RATE
    assert {status for status, _ in later} == {200}
    server.end()
    engine = create_operational_engine(settings.database)
    found = episodes(engine)
    safe = answered_ids(answers, before=at["kill"] - LOSS_SECONDS)
    assert len(safe) > 200
    assert safe <= found.keys()
    assert {document["prediction_id"] for _, document in later} <= found.keys()
    # A row at most for each request; and one that nobody was told of only where the kill cut a request off.
    assert max(Counter(found.values()).values()) == 1
    cut_off = {document["request"]["episode_id"] for *_, document in answers.of(0)}
    assert {found[one] for one in found.keys() - answered_ids(answers)} <= cut_off
    assert list(settings.paths.prediction_journal.glob("*-*")) == []
    engine.dispose()
