"""From the simulator to served decisions: the same home learns from what its own model was asked, to a new version."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from mlops_assets.evaluation.report import ValidationReport, read_report
from mlops_assets.experiences.snapshots import Snapshot, open_snapshot
from mlops_assets.features.offline import read_rows
from mlops_assets.features.training_set import open_training_set
from mlops_assets.features.views import AGENT_CONTEXT_FEATURES
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.tables import Base
from mlops_assets_tests.experiences.served import episode_rows, outcome_row, state_bytes, write
from mlops_assets_tests.lifecycle.worlds import SMALL, Run, World

AGENT = "execution"
SPEC = AGENTS[AGENT]
EPISODES, STEPS, EPSILON = 300, 3, 0.4
SERVED = {"MLOPS_EXPERIENCE_SOURCE": "prediction_log"}


def _snapshot(world: World, run: Run) -> Snapshot:
    with world.database() as engine:
        data_hash = run.facts("training_experiences", AGENT)["data_hash"]
        return open_snapshot(AGENT, data_hash, paths=world.settings.paths, engine=engine)


def _served(after: Snapshot, *, episodes: int, labelled: float, name: str = "cycle") -> Iterator[Base]:
    """Decisions from the day after a snapshot on: high for what failed lately, or any class; the failing ones pay."""
    random = np.random.default_rng(20261125)
    agent_ids = sorted(set(after.experiences(["agent_id"])["agent_id"].to_pylist()))
    recent = [field.name for field in SPEC.context].index("failure_rate_recent")
    begin = after.last_event + timedelta(days=1)
    for number in range(episodes):
        rows = episode_rows(
            SPEC,
            f"{name}-{number:04d}",
            STEPS,
            event_time=begin + timedelta(minutes=30 * number),
            agent_id=agent_ids[number % len(agent_ids)],
            ui_framework=("react", "vue")[number % 2],
            browser=("chromium", "firefox")[number // 2 % 2],
        )
        for row in rows:
            state = random.random(len(SPEC.state_fields))
            best = 3 if state[recent] > 0.5 else 1
            explored = bool(random.random() < EPSILON)
            row.action = int(random.integers(4)) if explored else best
            row.propensity = EPSILON / 4 + (1 - EPSILON) * (row.action == best)
            row.explored = explored
            row.state = state_bytes(state)
            yield row
            values = [10.0 if action == best else 0.0 for action in range(4)]
            label = {"best_action": best, "action_values": values} if random.random() < labelled else {}
            yield outcome_row(row, values[row.action], done=row.step == STEPS - 1, **label)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The home of a team that started on the simulator."""
    return World.create(tmp_path_factory.mktemp("served"), SMALL)


@pytest.fixture(scope="module")
def simulated(world: World) -> Run:
    """The first training."""
    run = world.run("retrain", AGENT)
    assert run.success, run.failures
    return run


@pytest.fixture(scope="module")
def served(world: World, simulated: Run) -> Run:
    """The retraining on what was served since."""
    with world.database() as engine:
        write(engine, _served(_snapshot(world, simulated), episodes=EPISODES, labelled=0.8))
    run = world.run("retrain", AGENT, settings=SERVED)
    assert run.success, run.failures
    return run


def _report(run: Run) -> ValidationReport:
    return read_report(Path(run.facts("validation_report", AGENT)["report_json"]))


def test_served_decisions_end_with_a_version_of_their_own(world: World, simulated: Run, served: Run) -> None:
    """The loop was open: what serving logged came back into no model."""
    executions = served.facts("test_executions")
    assert (executions["source"], executions["new_executions"]) == ("prediction_log", 0)
    facts = served.facts("training_experiences", AGENT)
    assert (facts["source"], facts["rows"], facts["new_rows"]) == ("prediction-log", EPISODES * STEPS, EPISODES * STEPS)
    assert facts["data_hash"] != simulated.facts("training_experiences", AGENT)["data_hash"]
    rows = _snapshot(world, served).experiences()
    assert set(rows["episode_id"].to_pylist()) == {f"cycle-{number:04d}" for number in range(EPISODES)}
    assert set(rows["propensity"].to_pylist()) == {np.float32(EPSILON / 4), np.float32(1 - EPSILON * 3 / 4)}
    training = open_training_set(AGENT, served.facts("dqn_model", AGENT)["training_hash"], paths=world.settings.paths)
    assert training.rows + training.holdout_rows + training.straddling_rows == EPISODES * STEPS
    assert training.incomplete_rows == 0
    registered = served.facts("registered_model", AGENT)
    assert (registered["semver"], registered["created"]) == ("1.1.0", True)
    assert world.versions()[AGENT] == ["1.1.0", "1.0.0"]
    assert served.facts("approval", AGENT)["status"] in {"approved", "requires_review", "rejected"}


def test_what_cannot_be_judged_without_an_environment_is_said(served: Run) -> None:
    """No return under other actions is known: it must neither stop the evaluation nor count as nothing earned."""
    report = _report(served)
    assert report.returns is None
    assert "return_share" not in report.metrics
    assert any("no environment" in line for line in report.limitations)
    assert report.off_policy is not None
    assert report.off_policy.incomplete_episodes == 0
    # 60 held-out episodes carry no estimate of 200 effective ones.
    assert report.off_policy.best() is None
    assert "avg_reward" not in report.metrics
    assert report.avg_reward_method.startswith("insufficient data")


def test_the_rows_that_served_decisions_saw_are_still_there(world: World, simulated: Run, served: Run) -> None:
    """The change of source dropped the simulator's feature rows, and the first decisions were trained on defaults."""
    assert served.success
    rows = read_rows(world.settings.paths, AGENT_CONTEXT_FEATURES, groups=[AGENT])
    times = rows["event_timestamp"].to_pylist()
    assert min(times) <= _snapshot(world, simulated).first_event + timedelta(days=1)
    assert max(times) > _snapshot(world, served).last_event


def test_decisions_without_labels_are_insufficient_data(world: World, served: Run) -> None:
    """Labels that never came: gates that cannot be judged wait for people, instead of a crash or a pass."""
    with world.database() as engine:
        write(engine, _served(_snapshot(world, served), episodes=100, labelled=0.0, name="unlabelled"))
    run = world.run("retrain", AGENT, settings=SERVED)
    assert run.success, run.failures
    facts = run.facts("training_experiences", AGENT)
    assert (facts["rows"], facts["new_rows"]) == ((EPISODES + 100) * STEPS, 100 * STEPS)
    report = _report(run)
    assert (report.holdout.rows, report.holdout.labelled) == (240, 0)
    verdicts = {gate.name: gate.verdict for gate in report.gates}
    assert verdicts["accuracy"] == verdicts["max_slice_gap_points"] == "insufficient_data"
    assert (run.facts("approval", AGENT)["status"], report.verdict) == ("requires_review", "insufficient_data")
