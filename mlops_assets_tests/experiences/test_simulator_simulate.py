import time
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.experiences.environment import ExperienceBatch, ExperienceSource
from mlops_assets.experiences.schema import REQUIREMENT_TEXTS, experience_schema, label_schema
from mlops_assets.experiences.simulator.config import EPOCH, SimulatorConfig
from mlops_assets.experiences.simulator.simulate import Simulator
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.errors import InputError, SettingsError

SMALL = SimulatorConfig(seed=5, rows=6_000, days=6)


@cache
def logged(agent: str, config: SimulatorConfig = SMALL) -> tuple[ExperienceBatch, ...]:
    return tuple(Simulator(config).batches(AGENTS[agent], None))


def experiences(agent: str, config: SimulatorConfig = SMALL) -> pa.Table:
    return pa.concat_tables([batch.experiences for batch in logged(agent, config)])


def labels(agent: str) -> pa.Table:
    return pa.concat_tables([batch.labels for batch in logged(agent)])


def column(table: pa.Table, name: str) -> np.ndarray:
    return np.array(table[name].to_pylist())


def matrix(table: pa.Table, name: str) -> np.ndarray:
    flat = table[name].combine_chunks().flatten().to_numpy()
    return flat.reshape(table.num_rows, -1)


@pytest.mark.parametrize("agent", AGENTS)
def test_the_log_has_the_schemas_and_at_least_the_asked_rows(agent: str) -> None:
    """Tables that snapshots refuse; fewer rows than configured, so that the row gate fails."""
    spec, table = AGENTS[agent], experiences(agent)

    assert table.schema.equals(experience_schema(spec))
    assert labels(agent).schema.equals(label_schema(spec))
    assert logged(agent)[0].requirement_texts.schema.equals(REQUIREMENT_TEXTS)
    assert 6_000 <= table.num_rows <= 6_000 + 6 * 7
    assert len(logged(agent)) == 6
    assert all(table[name].null_count == 0 for name in table.column_names)


@pytest.mark.parametrize("agent", AGENTS)
def test_the_same_config_gives_the_same_bytes_and_another_seed_another_world(agent: str) -> None:
    """A run that cannot be repeated: data hash and weights would differ between two machines."""
    again = list(Simulator(SMALL).batches(AGENTS[agent], None))
    other = next(Simulator(SimulatorConfig(seed=6, rows=6_000, days=6)).batches(AGENTS[agent], None))

    for first, second in zip(logged(agent), again, strict=True):
        assert first.experiences.equals(second.experiences)
        assert first.labels.equals(second.labels)
        assert first.requirement_texts.equals(second.requirement_texts)
    assert not set(column(other.experiences, "experience_id")) & set(column(experiences(agent), "experience_id"))


@pytest.mark.parametrize("agent", AGENTS)
def test_a_cursor_resumes_after_its_day_and_extra_days_leave_the_past_alone(agent: str) -> None:
    """A second run that reads everything again, or a longer simulation that rewrites days already stored."""
    longer = SimulatorConfig(seed=5, rows=6_000, days=6, extra_days=2)
    simulator = Simulator(longer)

    after = list(simulator.batches(AGENTS[agent], "3"))

    assert simulator.name == Simulator(SMALL).name
    assert [batch.cursor for batch in after] == ["4", "5", "6", "7"]
    assert after[0].experiences.equals(logged(agent)[4].experiences)
    assert after[1].experiences.equals(logged(agent)[5].experiences)
    assert after[1].labels.equals(logged(agent)[5].labels)
    assert not list(Simulator(SMALL).batches(AGENTS[agent], "5"))


@pytest.mark.parametrize("cursor", ["", "yesterday", "-1"])
def test_a_foreign_cursor_is_refused(cursor: str) -> None:
    """The cursor of another source read as a day: rows silently skipped."""
    with pytest.raises(InputError, match="not one of the simulator's"):
        next(Simulator(SMALL).batches(AGENTS["execution"], cursor))


@pytest.mark.parametrize("agent", AGENTS)
def test_a_batch_holds_whole_episodes_of_its_day_in_order(agent: str) -> None:
    """Half an episode, a step twice, a decision before its predecessor or on another day."""
    for day, batch in enumerate(logged(agent)):
        table = batch.experiences
        episode, step, done = column(table, "episode_id"), column(table, "step"), column(table, "done")
        seconds = np.array(table["event_time"].cast(pa.int64())) / 1e6 - EPOCH.timestamp()
        length = int(step.max()) + 1

        assert len(set(column(table, "experience_id"))) == table.num_rows
        assert np.array_equal(step.reshape(-1, length), np.tile(np.arange(length), (len(step) // length, 1)))
        assert all(len(set(ids)) == 1 for ids in episode.reshape(-1, length))
        assert len(set(episode)) == table.num_rows // length
        assert np.array_equal(done, step == length - 1)
        assert (np.diff(seconds.reshape(-1, length), axis=1) > 0).all()
        assert seconds.min() >= day * 86_400
        assert seconds.max() < (day + 1) * 86_400


@pytest.mark.parametrize("agent", AGENTS)
def test_values_lie_within_the_catalogue_s_bounds(agent: str) -> None:
    """Rewards or context outside of what the agent declares: the validation suite rejects the snapshot."""
    spec, table = AGENTS[agent], experiences(agent)
    state, reward = matrix(table, "state"), column(table, "reward")

    assert (state >= [field.low for field in spec.context]).all()
    assert (state <= [field.high for field in spec.context]).all()
    assert spec.reward_low <= reward.min() < 0 < reward.max() <= spec.reward_high
    assert set(column(table, "action")) == set(range(len(spec.actions)))
    assert set(column(table, "ui_framework")) == {"react", "angular", "vue", "svelte"}
    assert set(column(table, "browser")) == {"chromium", "firefox", "webkit"}
    assert len(set(column(table, "agent_id"))) == 12


@pytest.mark.parametrize("agent", AGENTS)
def test_context_fields_vary_and_describe_more_than_noise(agent: str) -> None:
    """A dead context field: a constant that no drift monitor could watch."""
    state = matrix(experiences(agent), "state")

    assert (state.std(axis=0) > 0.05).all()


@pytest.mark.parametrize("agent", AGENTS)
def test_propensities_are_the_frequencies_of_the_logged_actions(agent: str) -> None:
    """Propensities that do not belong to the actions: every off-policy estimate would be biased."""
    table = experiences(agent)
    inverse = 1.0 / column(table, "propensity")
    action = column(table, "action")

    # Under the logged policy E[1{action = a} / propensity(a)] = 1 for every action.
    for code in range(len(AGENTS[agent].actions)):
        terms = np.where(action == code, inverse, 0.0)
        assert abs(terms.mean() - 1.0) < 4 * terms.std() / np.sqrt(len(terms))


@pytest.mark.parametrize("agent", AGENTS)
def test_labels_name_the_best_action_one_to_three_days_later(agent: str) -> None:
    """Labels that come at once, for everything, or that do not name the action of largest value."""
    table, all_rows = labels(agent), experiences(agent)
    values = matrix(table, "action_values")
    delay = np.array(pc.subtract(table["label_time"].cast(pa.int64()), table["event_time"].cast(pa.int64()))) / 8.64e10

    assert table.num_rows / all_rows.num_rows == pytest.approx(0.8, abs=0.03)
    assert len(set(column(table, "experience_id"))) == table.num_rows
    assert set(column(table, "experience_id")) < set(column(all_rows, "experience_id"))
    assert np.array_equal(values.argmax(axis=1), column(table, "best_action"))
    assert 1.0 <= delay.min() < 1.1
    assert 2.9 < delay.max() <= 3.0


@pytest.mark.parametrize("agent", ["requirements", "generation"])
def test_every_requirement_of_a_decision_has_its_text_in_the_batch(agent: str) -> None:
    """An embedding of nothing, because the text came with another batch."""
    batch = logged(agent)[0]

    texts = dict(
        zip(column(batch.requirement_texts, "requirement_id"), column(batch.requirement_texts, "text"), strict=True)
    )

    assert set(column(batch.experiences, "requirement_id")) == set(texts)
    assert all(text.startswith("As a ") for text in texts.values())


def test_the_area_of_a_requirement_is_the_one_in_the_context() -> None:
    """Texts that have nothing to do with the decision: the embedding would be noise by construction."""
    batch = logged("requirements")[0]
    area = dict(
        zip(column(batch.requirement_texts, "requirement_id"), column(batch.requirement_texts, "area"), strict=True)
    )
    names = [field.name for field in AGENTS["requirements"].context]
    shown = matrix(batch.experiences, "state")[
        :, [names.index(f"area_is_{a}") for a in ("forms", "navigation", "data")]
    ]

    told = [area[key] for key in column(batch.experiences, "requirement_id")]

    assert [("forms", "navigation", "data")[index] for index in shown.argmax(axis=1)] == told


def test_the_execution_agent_has_no_requirements() -> None:
    """A requirement id that no text belongs to."""
    assert set(column(experiences("execution"), "requirement_id")) == {""}
    assert logged("execution")[0].requirement_texts.num_rows == 0


@pytest.mark.parametrize("agent", AGENTS)
def test_a_replay_of_the_logged_actions_gives_the_logged_rewards_and_contexts(agent: str) -> None:
    """An environment that is not the world of the log: returns of a trained policy would mean nothing."""
    source: ExperienceSource = Simulator(SMALL)
    table = logged(agent)[2].experiences
    length = int(column(table, "step").max()) + 1
    ids = column(table, "episode_id")[::length]
    action = column(table, "action").reshape(-1, length)
    reward = column(table, "reward").reshape(-1, length)
    state = matrix(table, "state").reshape(len(ids), length, -1)

    environment = source.environment(AGENTS[agent], list(ids))

    for step in range(length):
        assert environment.active().all()
        assert np.array_equal(environment.context(), state[:, step])
        assert np.allclose(environment.step(action[:, step]), reward[:, step], atol=1e-5)
    assert not environment.active().any()


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 4), st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_any_small_world_is_whole(seed: int, rows: int, days: int, label_share: float) -> None:
    """Sizes that do not divide: a day without episodes, or a world with fewer rows than asked for."""
    config = SimulatorConfig(seed=seed, rows=rows, days=days, label_share=label_share)

    found = list(Simulator(config).batches(AGENTS["execution"], None))

    assert len(found) == days
    assert sum(batch.experiences.num_rows for batch in found) >= rows
    assert all(batch.experiences.num_rows == found[0].experiences.num_rows > 0 for batch in found)


@pytest.mark.parametrize(
    ("name", "value"),
    [("rows", 0), ("days", 0), ("extra_days", -1), ("label_share", 1.1), ("exploration", 0.0), ("seed", -1)],
)
def test_a_senseless_world_is_refused_by_name(name: str, value: float) -> None:
    """A setting out of range that becomes an empty table or a propensity of zero much later."""
    with pytest.raises(SettingsError, match=f"simulator.{name} is {value}"):
        SimulatorConfig(**{name: value})  # type: ignore[arg-type]


def test_simulated_time_ends_where_the_config_says() -> None:
    """A data set that looks stale because the wall clock has moved on."""
    now = datetime(2031, 5, 1, tzinfo=UTC)

    assert Simulator(SMALL).as_of(now) == EPOCH + timedelta(days=6)
    assert max(experiences("generation")["event_time"].to_pylist()) < Simulator(SMALL).as_of(now)


def test_three_hundred_thousand_transitions_a_second_on_one_core() -> None:
    """A loop over rows that nobody noticed; the bound is half of what an idle core does."""
    simulator = Simulator(SimulatorConfig(rows=100_000, days=10))
    list(simulator.batches(AGENTS["requirements"], "8"))
    started = time.process_time()

    rows = sum(batch.experiences.num_rows for batch in simulator.batches(AGENTS["requirements"], None))

    assert rows / (time.process_time() - started) >= 300_000
