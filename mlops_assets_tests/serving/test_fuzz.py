"""Bodies that nobody foresaw, posted to the whole app: its door, its parsers, its decisions, its log and database."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.database import read_transaction, upgrade
from mlops_assets.foundation.settings import load_settings
from mlops_assets.foundation.tables import OutcomeRecord, PredictionRecord
from mlops_assets.serving.app import create_app
from mlops_assets.serving.problems import PROBLEM_MEDIA_TYPE
from mlops_assets.serving.runtime import ServingRuntime
from mlops_assets_tests.serving.loopback import served
from mlops_assets_tests.serving.served import champions, request_of, served_model
from mlops_assets_tests.serving.test_parsing import JSON, MUTATED

# Stands for the id of a decision that is in the log.
KNOWN = "of the fixture"
VALID = st.sampled_from([request_of(spec) for spec in AGENTS.values()])
# Texts of every kind where texts may stand: they reach the log and the database.
NAMED = st.builds(
    lambda request, names: {**request, **names, **({"step": 0} if "episode_id" in names else {})},
    VALID,
    st.dictionaries(
        st.sampled_from(["agent_id", "test_id", "user_id", "episode_id", "browser", "requirement_id"]),
        st.text(min_size=1, max_size=60),
        max_size=3,
    ),
)
TOLD = st.fixed_dictionaries(
    {"prediction_id": st.just(KNOWN), "reward": st.sampled_from([0, 1.5]) | st.floats(-200, 200)},
    optional={
        "done": st.booleans(),
        "best_action": st.integers(0, 5),
        "action_values": st.lists(st.floats(allow_nan=False), min_size=3, max_size=5),
    },
)
CHANGES = st.dictionaries(st.sampled_from(["prediction_id", "reward", "done", "new"]), JSON, min_size=1, max_size=2)
WRONGLY_TOLD = st.builds(lambda told, changes: {**told, **changes}, TOLD, CHANGES)


def lists_of(name: str, good: st.SearchStrategy[Any], *bad: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Bodies with a list that is all good, or mixed, or is none."""
    lists = st.lists(good, min_size=1, max_size=3), st.lists(st.one_of(good, *bad), max_size=4)
    return st.one_of(*(st.fixed_dictionaries({name: one}) for one in lists), JSON)


BODIES = {
    "/predict": st.one_of(NAMED, MUTATED, JSON),
    "/predict/batch": lists_of("requests", NAMED, MUTATED, JSON),
    "/outcomes": lists_of("outcomes", TOLD, WRONGLY_TOLD, JSON),
}
POSTS = st.one_of(
    st.tuples(st.sampled_from(list(BODIES)), st.binary(max_size=200)),
    *(st.tuples(st.just(path), body.map(lambda one: json.dumps(one).encode())) for path, body in BODIES.items()),
)


@pytest.fixture(params=["sqlite", "postgresql"])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServingRuntime]:
    """A server with a champion of every agent, a database and a log, without the online store."""
    variables = {"MLOPS_HOME": str(tmp_path)}
    if request.param == "postgresql":
        variables["MLOPS_DATABASE_URL"] = request.getfixturevalue("new_postgres_database")()
    made = ServingRuntime(load_settings(variables), mirror=False)
    upgrade(made.engine)
    made.registry.models = champions(*(served_model(spec) for spec in AGENTS.values()))
    made.tokens = {}
    made.log.start()
    yield made
    made.log.stop()
    made.engine.dispose()
    made.readers.dispose()


@pytest.mark.slow
def test_two_thousand_bodies_meet_no_server_error(runtime: ServingRuntime) -> None:
    """Some body passes the parser, and is a server error, or an answer that is never logged, behind it."""
    answered: list[str] = []
    statuses: Counter[tuple[str, int]] = Counter()
    with (
        served(create_app(runtime, manage=False)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        known = client.post("/predict", json=request_of(AGENTS["execution"])).json()["prediction_id"]

        @settings(max_examples=2_000, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
        @given(POSTS)
        def post(request: tuple[str, bytes]) -> None:
            path, body = request
            answer = client.post(path, content=body.replace(KNOWN.encode(), known.encode()))
            statuses[path, answer.status_code] += 1
            assert answer.status_code < 500, answer.text
            if answer.status_code != 200:
                assert answer.status_code in {404, 409, 422}
                assert answer.headers["content-type"] == PROBLEM_MEDIA_TYPE
            elif path != "/outcomes":
                found: Any = answer.json()
                answered.extend(one["prediction_id"] for one in found.get("predictions", [found]))

        post()
    for path in BODIES:
        # Both sides of the parser are reached.
        assert statuses[path, 200] > 0
        assert statuses[path, 422] > 0
    assert statuses["/outcomes", 409] > 0
    runtime.log.stop()
    with read_transaction(runtime.engine) as session:
        assert set(session.scalars(select(PredictionRecord.prediction_id))) == {known, *answered}
        assert session.scalar(select(func.count()).select_from(OutcomeRecord)) == 1
    assert runtime.log.problem is None
