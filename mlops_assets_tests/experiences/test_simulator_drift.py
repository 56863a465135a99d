from functools import cache

import numpy as np
import pyarrow as pa
import pytest

from mlops_assets.experiences.row_checks import check_experiences
from mlops_assets.experiences.simulator.config import Drift, SimulatorConfig
from mlops_assets.experiences.simulator.drift import NEW_FRAMEWORK
from mlops_assets.experiences.simulator.simulate import Simulator
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.errors import InputError, SettingsError

ROWS, DAYS, START = 12_000, 4, 2


def world(*drifts: Drift) -> SimulatorConfig:
    return SimulatorConfig(seed=8, rows=ROWS, days=DAYS, drifts=drifts)


@cache
def days(agent: str, *drifts: Drift) -> tuple[tuple[pa.Table, pa.Table], ...]:
    return tuple((b.experiences, b.labels) for b in Simulator(world(*drifts)).batches(AGENTS[agent], None))


def after(agent: str, *drifts: Drift) -> pa.Table:
    return pa.concat_tables([table for table, _ in days(agent, *drifts)[START:]])


def context(agent: str, table: pa.Table, name: str) -> np.ndarray:
    names = [field.name for field in AGENTS[agent].context]
    return table["state"].combine_chunks().flatten().to_numpy().reshape(-1, len(names))[:, names.index(name)]


def shares(table: pa.Table) -> np.ndarray:
    return np.bincount(table["action"].to_numpy(), minlength=5) / table.num_rows


KNOBS: dict[str, Drift] = {
    "covariate": Drift(start_day=START, covariate_shift=0.8),
    "reward": Drift(start_day=START, reward_change=1.0),
    "behaviour": Drift(start_day=START, behaviour_shift=0.3, behaviour_action=1),
    "unit": Drift(start_day=START, unit_field="ui_complexity_score", unit_factor=1000.0),
    "schema": Drift(start_day=START, renamed_column="reward"),
    "framework": Drift(start_day=START, new_framework_share=0.3),
}


@pytest.mark.parametrize("knob", KNOBS)
@pytest.mark.parametrize("agent", AGENTS)
def test_a_drift_leaves_the_days_before_it_alone(agent: str, knob: str) -> None:
    """A drift that rewrites the past: the reference window would drift with it."""
    for before, drifted in zip(days(agent)[:START], days(agent, KNOBS[knob])[:START], strict=True):
        assert before[0].equals(drifted[0])
        assert before[1].equals(drifted[1])


@pytest.mark.parametrize(
    ("agent", "field"),
    [
        ("requirements", "requirement_risk"),
        ("generation", "fault_proneness"),
        ("execution", "failure_rate_recent"),
    ],
)
def test_a_covariate_shift_moves_the_inputs_and_no_reward_relation(agent: str, field: str) -> None:
    """A shift of inputs that also changes what they mean: data drift and concept drift could not be told apart."""
    plain, shifted = after(agent), after(agent, KNOBS["covariate"])
    base = context(agent, plain, field)

    assert context(agent, shifted, field).mean() > base.mean() + 0.5 * base.std()
    simulator, drifted = Simulator(world()), Simulator(world(KNOBS["covariate"]))
    problems = [s._world(AGENTS[agent]).regime(START).problem for s in (simulator, drifted)]
    assert np.array_equal(problems[0].reward, problems[1].reward)
    assert not np.allclose(problems[0].item_probability, problems[1].item_probability)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_changed_reward_relation_keeps_the_inputs_and_changes_what_is_best(agent: str) -> None:
    """Concept drift that the inputs give away, or that leaves the best actions as they were."""
    plain, changed = days(agent)[START], days(agent, KNOBS["reward"])[START]
    simulator, drifted = Simulator(world()), Simulator(world(KNOBS["reward"]))
    env = simulator.environment(AGENTS[agent], plain[0]["episode_id"].unique().to_pylist())
    other = drifted.environment(AGENTS[agent], list(env.episode_ids))

    assert np.array_equal(env.context(), other.context())
    assert (env.best_actions() != other.best_actions()).mean() > 0.1
    assert changed[0]["test_id"].equals(plain[0]["test_id"])
    assert changed[0]["requirement_id"].equals(plain[0]["requirement_id"])
    assert changed[1].num_rows == plain[1].num_rows


@pytest.mark.parametrize("agent", AGENTS)
def test_a_behaviour_shift_changes_the_action_mix_with_true_propensities_and_labels(agent: str) -> None:
    """A shift of predictions that is really one of the world."""
    plain, shifted = after(agent), after(agent, KNOBS["behaviour"])
    spec = AGENTS[agent]

    assert shares(shifted)[1] > shares(plain)[1] + 0.15
    inverse = np.where(shifted["action"].to_numpy() == 1, 1.0 / shifted["propensity"].to_numpy(), 0.0)
    assert abs(inverse.mean() - 1.0) < 4 * inverse.std() / np.sqrt(len(inverse))
    regimes = [Simulator(world(*drift))._world(spec).regime(START) for drift in ((), (KNOBS["behaviour"],))]
    assert np.array_equal(regimes[0].solution.action_values, regimes[1].solution.action_values)


def test_a_broken_unit_scales_one_field_only() -> None:
    """An upstream change of unit that touches more, or less, than the field it was asked for."""
    plain, broken = after("execution"), after("execution", KNOBS["unit"])

    scaled = context("execution", broken, "ui_complexity_score")

    assert np.allclose(scaled, 1000.0 * context("execution", plain, "ui_complexity_score"))
    for name in [field.name for field in AGENTS["execution"].context if field.name != "ui_complexity_score"]:
        assert np.array_equal(context("execution", broken, name), context("execution", plain, name))


def test_the_unit_of_a_state_field_can_break_too_and_the_environment_shows_it() -> None:
    """Log and environment that disagree about a broken field."""
    drift = Drift(start_day=START, unit_field="budget_left", unit_factor=100.0)
    table = days("requirements", drift)[START][0]
    ids = table["episode_id"].unique().to_pylist()
    env = Simulator(world(drift)).environment(AGENTS["requirements"], ids)

    logged = context("requirements", table, "budget_left").reshape(len(ids), -1)

    assert (logged[:, 0] == 100.0).all()
    assert np.array_equal(env.context()[:, 3], logged[:, 0])


def test_a_renamed_column_is_refused_by_name_downstream() -> None:
    """A schema change that slips through as a column of nulls."""
    broken = days("generation", KNOBS["schema"])[START][0]

    with pytest.raises(InputError, match="reward_v2"):
        check_experiences(broken, AGENTS["generation"], as_of=Simulator(world()).config.end)


def test_a_new_framework_appears_in_its_share_of_episodes() -> None:
    """A new category that never comes, or replaces all others."""
    plain, new = after("generation"), after("generation", KNOBS["framework"])
    column = np.array(new["ui_framework"].to_pylist())

    assert NEW_FRAMEWORK not in plain["ui_framework"].to_pylist()
    assert (column == NEW_FRAMEWORK).mean() == pytest.approx(0.3, abs=0.04)
    assert new["reward"].equals(plain["reward"])


def test_the_drift_that_started_last_is_in_force() -> None:
    """Two drifts, and the first one never ends."""
    first, second = Drift(start_day=1, reward_change=0.5), Drift(start_day=3, covariate_shift=1.0)
    config = world(second, first)

    assert [config.drift_on(day) for day in range(5)] == [None, first, first, second, second]


def test_a_drift_of_something_that_does_not_exist_is_refused() -> None:
    """A misspelt field: the drift would silently not happen."""
    for drift in (Drift(start_day=0, unit_field="duration"), Drift(start_day=0, renamed_column="payload")):
        with pytest.raises(SettingsError, match=r"'duration' is no context field|'payload' is no column"):
            next(Simulator(world(drift)).batches(AGENTS["execution"], None))
    with pytest.raises(SettingsError, match=r"drift\.reward_change is 1\.5"):
        Drift(start_day=0, reward_change=1.5)
