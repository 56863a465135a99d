"""The online store is frozen and killed under load, and comes back: answers go out without it, flagged."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlops_assets.features.store import FeatureStoreAdapter
from mlops_assets.foundation.settings import load_settings
from mlops_assets_tests.programs import free_port, system_program, wait_for
from mlops_assets_tests.serving.faults import RATE, SPEC, requests_for
from mlops_assets_tests.serving.live import LiveServer, frozen, load

pytestmark = pytest.mark.slow


@contextmanager
def redis_server(port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Redis server on loopback that forgets everything when it ends."""
    options = {"bind": "127.0.0.1", "port": str(port), "save": "", "appendonly": "no", "dir": str(folder)}
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    process = subprocess.Popen([system_program("redis-server", "redis-server"), *arguments], stdout=subprocess.DEVNULL)
    try:
        import redis

        with redis.Redis(host="127.0.0.1", port=port) as client:
            wait_for(lambda: _pings(client))
        yield process
    finally:
        process.kill()
        process.wait()


def _pings(client: Any) -> bool:
    import redis

    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


def test_redis_frozen_and_killed(served_home: Path, new_server: Callable[..., LiveServer], tmp_path: Path) -> None:
    """Without its feature store the server hangs, fails, or passes defaults off as values."""
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    settings = load_settings({"MLOPS_HOME": str(served_home), "MLOPS_REDIS_URL": url})
    store = FeatureStoreAdapter(settings.paths, redis_url=url)
    embedded = FeatureStoreAdapter(settings.paths)
    moments: dict[str, float] = {}

    def fill() -> None:
        store.apply()
        until = embedded.materialized_until()
        assert until is not None
        store.materialize(until)

    def disturb() -> None:
        time.sleep(3.0)
        moments["frozen"] = time.time()
        with frozen(port):
            time.sleep(4.0)
        moments["thawed"] = time.time()
        time.sleep(6.0)
        moments["killed"] = time.time()
        first.kill()
        time.sleep(3.0)
        moments["starting"] = time.time()
        with redis_server(port, tmp_path):
            fill()
            moments["back"] = time.time()
            time.sleep(6.0)
            moments["end"] = time.time()

    with redis_server(port, tmp_path) as first:
        fill()
        server = new_server(served_home, MLOPS_REDIS_URL=url)
        answers = load(server.url, requests_for(settings), rate=RATE, seconds=1, meanwhile=disturb)
    assert answers.statuses.keys() == {200}, answers.statuses

    def statuses(begin: str, end: str, *, after: float = 0.0) -> set[str]:
        between = (moments[begin] + after, moments[end])
        return {d["status"] for asked, answered, _, d in answers.all if between[0] < asked and answered < between[1]}

    assert "degraded" in statuses("frozen", "thawed")
    assert statuses("frozen", "thawed", after=1.0) == {"degraded"}
    assert statuses("thawed", "killed", after=3.0) == {"ok"}
    assert statuses("killed", "starting", after=1.0) == {"degraded"}
    assert statuses("back", "end", after=4.0) == {"ok"}
    slow = [answered - asked for asked, answered, _, _ in answers.all]
    assert sorted(slow)[int(len(slow) * 0.99)] < 1.0
    for asked, answered, _, document in answers.all:
        all_missing = len(document["missing_features"]) == len(SPEC.features)
        # The new Redis is empty until it is filled: asked and answered, with nothing.
        filling = moments["starting"] < answered and asked < moments["back"]
        assert (document["status"] == "degraded") == all_missing or (filling and all_missing)
