"""Replay of CI histories: honest history, exact rewards and labels, the source's tables, and the environment."""

import itertools
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlops_assets.experiences.napfd import napfd
from mlops_assets.experiences.replay.history import CycleHistory, cycle_histories
from mlops_assets.experiences.replay.rewards import CycleOutcome, CycleSchedule, PriorityClass, best_class
from mlops_assets.experiences.replay.source import HistoryReplay, ReplayConfig
from mlops_assets.experiences.schema import EXECUTIONS, experience_schema, label_schema
from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.errors import InputError
from mlops_assets_tests.experiences.histories import EPOCH, Run, executions, random_executions

SPEC = agent_spec("execution")
FIELDS = [field.name for field in SPEC.context]
NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def history() -> pa.Table:
    return random_executions(np.random.default_rng(11), cycles=40, tests=14)


def collect(source: HistoryReplay, cursor: str | None = None) -> tuple[pa.Table, pa.Table]:
    batches = list(source.batches(SPEC, cursor))
    return pa.concat_tables([b.experiences for b in batches]), pa.concat_tables([b.labels for b in batches])


def contexts(experiences: pa.Table) -> NDArray[np.float32]:
    flat = experiences["state"].combine_chunks().flatten().to_numpy()
    return np.asarray(flat).reshape(-1, len(FIELDS))


def run_to_end(source: HistoryReplay, episode_ids: list[str], actions: dict[str, list[int]]) -> NDArray[np.float64]:
    environment = source.environment(SPEC, episode_ids)
    total = np.zeros(len(episode_ids))
    for step in range(int(environment.lengths.max())):
        chosen = [actions[name][step] if step < len(actions[name]) else 0 for name in episode_ids]
        total += environment.step(np.array(chosen))
    return total


def test_history_is_what_was_known_before_the_cycle() -> None:
    """Numbers worked out by hand for a test with the verdicts fail, pass, fail and one that is new."""
    cycles = cycle_histories(
        executions(
            [
                [("a", True, 1000.0), ("b", False, 500.0)],
                [("a", False, 3000.0)],
                [("a", True, 2000.0), ("b", False, 500.0)],
                [("a", False, 9000.0), ("new", True, 1000.0)],
            ]
        )
    )
    last = cycles[3]
    assert last.failure_rate_recent.tolist() == pytest.approx([(1 + 0.25) / 1.75, 1.0])
    assert last.last_failed.tolist() == [1.0, 0.0]
    assert last.last_four_failures.tolist() == [0.5, 0.0]
    assert last.runs_seen.tolist() == [3.0, 0.0]
    # Five runs with two failures so far: prior 3/7; two runs of it are added to the test's own.
    assert last.failure_rate_total.tolist() == pytest.approx([(2 + 2 * 3 / 7) / 5, 3 / 7])
    assert last.flakiness.tolist() == [1.0, 0.0]
    assert last.days_since_run.tolist() == [1.0, np.inf]
    assert last.expected_durations.tolist() == [2000.0, 2000.0]
    # a: missing run, fail, pass, fail as 1 1 0 1; new: all four missing.
    assert last.sorting_priority.tolist() == [0b1101, 0b1111]
    assert last.durations.tolist() == [9000.0, 1000.0]
    assert last.suite_failure_rate[0] == pytest.approx((0.5 + 0.5 * 0.0 + 0.25 * 0.5) / 1.75)


def test_a_repeated_run_does_not_see_the_verdicts_of_its_own_cycle() -> None:
    """The leak of the original data: a test's second run in a cycle was shown the first one's verdict."""
    first, second = cycle_histories(
        executions([[("a", False, 1.0)], [("a", True, 1.0), ("a", True, 1.0), ("a", False, 1.0)]])
    )
    assert first.runs_seen.tolist() == [0.0]
    assert second.failure_rate_recent.tolist() == [0.0, 0.0, 0.0]
    assert second.runs_seen.tolist() == [1.0, 1.0, 1.0]


@given(st.integers(0, 2**32 - 1), st.data())
@settings(max_examples=25, deadline=None)
def test_verdicts_from_a_cycle_on_never_change_what_it_is_shown(seed: int, data: st.DataObject) -> None:
    """Any path from a verdict or duration of this cycle, or a later one, into its history is a leak."""
    table = random_executions(np.random.default_rng(seed), cycles=6, tests=5)
    cycle = data.draw(st.integers(0, 5))
    position = np.array([int(name) - 1 for name in table["cycle_id"].to_pylist()])
    verdicts = np.array(table["status"].to_pylist())
    flipped = np.where(position >= cycle, np.where(verdicts == "failed", "passed", "failed"), verdicts)
    durations = np.where(position >= cycle, 777_000.0, table["duration_ms"].to_numpy())
    other = table.set_column(table.column_names.index("status"), EXECUTIONS.field("status"), pa.array(flipped))
    other = other.set_column(table.column_names.index("duration_ms"), EXECUTIONS.field("duration_ms"), [durations])
    before, after = cycle_histories(table)[cycle], cycle_histories(other)[cycle]
    for name in CycleHistory.__dataclass_fields__:
        if name not in {"durations", "failed", "known_at"}:
            assert np.array_equal(getattr(before, name), getattr(after, name)), name


def test_skipped_tests_did_not_run() -> None:
    """A skipped test counted as passed would lower its failure rate without evidence."""
    table = executions([[("a", True, 1.0), ("b", True, 1.0)], [("a", True, 1.0)]])
    status = pa.array(["failed", "skipped", "failed"])
    cycles = cycle_histories(table.set_column(table.column_names.index("status"), EXECUTIONS.field("status"), status))
    assert [cycle.test_ids for cycle in cycles] == [("a",), ("a",)]


@pytest.mark.parametrize("duration", [-1.0, float("nan"), float("inf")])
def test_absurd_durations_are_refused(duration: float) -> None:
    """One NaN duration would make every budget NaN and every reward 0."""
    with pytest.raises(InputError, match="duration_ms"):
        cycle_histories(executions([[("a", True, duration)]]))


def test_a_table_of_another_schema_is_refused_by_name() -> None:
    """A missing column must be named, not become a KeyError deep inside."""
    with pytest.raises(InputError, match="suite"):
        cycle_histories(executions([[("a", True, 1.0)]]).drop_columns(["suite"]))


@pytest.mark.parametrize("seed", range(6))
def test_rewards_telescope_to_the_napfd_of_the_schedule(seed: int) -> None:
    """A reward that is not the potential's exact growth would train for another metric."""
    generator = np.random.default_rng(seed)
    for cycle in cycle_histories(random_executions(generator, cycles=8, tests=9)):
        outcome, tests = CycleOutcome(cycle), len(cycle.failed)
        order, actions = generator.permutation(tests), generator.integers(0, 4, tests)
        rewards, values = outcome.replay(order, actions)
        classes = np.empty(tests, dtype=np.int64)
        classes[order] = actions
        schedule = [row for priority in (3, 2, 1) for row in outcome.seat_order if classes[row] == priority]
        expected = 100.0 * napfd(schedule, cycle.durations, cycle.failed) if cycle.has_failure else 0.0
        assert rewards.sum() == pytest.approx(expected, abs=1e-9)
        assert np.abs(rewards).max(initial=0.0) <= 100.0
        # The logged action's value covers its own reward and an optimal rest, so it is at least what was earned after.
        earned = rewards[::-1].cumsum()[::-1]
        assert (values.max(axis=1) >= earned - 1e-9).all()


@pytest.mark.parametrize("seed", range(6))
def test_one_step_at_a_time_gives_the_same_rewards_and_values(seed: int) -> None:
    """The environment and the logged batch are two implementations; apart, a policy would be judged by other rules."""
    generator = np.random.default_rng(100 + seed)
    for cycle in cycle_histories(random_executions(generator, cycles=8, tests=10)):
        outcome, tests = CycleOutcome(cycle), len(cycle.failed)
        order, actions = generator.permutation(tests), generator.integers(0, 4, tests)
        rewards, values = outcome.replay(order, actions)
        schedule = CycleSchedule(outcome)
        for step, (row, action) in enumerate(zip(order.tolist(), actions.tolist(), strict=True)):
            seat = int(outcome.seats[row])
            assert schedule.action_values(seat).tolist() == pytest.approx(values[step].tolist(), abs=1e-9)
            assert schedule.assign(seat, action) == pytest.approx(rewards[step], abs=1e-9)


def exhaustive_values(
    outcome: CycleOutcome, order: NDArray[np.int64], actions: NDArray[np.int64], step: int
) -> NDArray[np.float64]:
    """Value of every action at one step by trying all assignments of the tests decided later."""
    tests, later = len(order), order[step + 1 :]
    classes = np.zeros((tests, 4 ** len(later)), dtype=np.int8)
    classes[outcome.seats[order[:step]]] = actions[:step, None]
    before = outcome.detections(classes)[0]
    rest = np.array(list(itertools.product(range(4), repeat=len(later))), dtype=np.int8)
    classes[outcome.seats[later]] = rest.reshape(-1, len(later)).T if len(later) else 0
    best = []
    for action in PriorityClass:
        classes[outcome.seats[order[step]]] = action
        best.append((outcome.detections(classes).max() - before) * outcome.scale)
    return np.array(best)


def random_cycle(generator: np.random.Generator, *, idle: float) -> CycleHistory:
    """Five tests with a history, and one passing test of `idle` ms that makes room in the budget."""
    names = [f"t{number}" for number in range(5)]
    before: list[Run] = [(name, bool(generator.random() < 0.5), float(generator.integers(1, 30))) for name in names]
    now: list[Run] = [(name, bool(generator.random() < 0.5), float(generator.integers(1, 30))) for name in names]
    now[0] = (names[0], True, now[0][2])
    return cycle_histories(executions([before, [*now, ("idle", False, idle)]]))[1]


@pytest.mark.parametrize("seed", range(8))
def test_action_values_are_exact_while_the_tests_fit_the_budget(seed: int) -> None:
    """Regret and accuracy are measured against these: they must be the optimum over everything that can follow."""
    generator = np.random.default_rng(seed)
    cycle = random_cycle(generator, idle=1000.0)
    outcome, order, actions = CycleOutcome(cycle), generator.permutation(6), generator.integers(0, 4, 6)
    _, values = outcome.replay(order, actions)
    for step in range(1, 6):
        assert values[step] == pytest.approx(exhaustive_values(outcome, order, actions, step), abs=1e-9)


def test_action_values_are_a_bound_and_labels_nearly_always_optimal_when_the_budget_binds() -> None:
    """Packing under a tight budget is a knapsack: the priced completions may miss its optimum, but hardly the label."""
    generator, optimal, decisions = np.random.default_rng(5), 0, 0
    for _ in range(25):
        cycle = random_cycle(generator, idle=1.0)
        outcome, order = CycleOutcome(cycle), generator.permutation(6)
        actions = generator.choice(4, size=6, p=[0.15, 0.4, 0.15, 0.3])
        _, values = outcome.replay(order, actions)
        for step in range(1, 6):
            exact = exhaustive_values(outcome, order, actions, step)
            assert (values[step] <= exact + 1e-9).all()
            optimal += exact[best_class(values[step])] >= exact.max() - 1e-9
            decisions += 1
        order_by_oracle = sorted(range(6), key=lambda row: (not cycle.failed[row], cycle.durations[row]))
        oracle = 100.0 * napfd(order_by_oracle, cycle.durations, cycle.failed)
        assert values[0].max() == pytest.approx(oracle)
    assert optimal / decisions >= 0.97


def test_the_label_prefers_running_last_what_costs_nothing() -> None:
    """Ties broken towards high or skip would teach that passing tests come first, or never run."""
    assert best_class(np.array([[0.0, 0.0, 0.0, 0.0], [2.0, 1.0, 2.0, 2.0], [0.0, 1.0, 2.0, 3.0]])).tolist() == [
        1,
        0,
        3,
    ]


def test_batches_have_the_schema_and_whole_episodes(history: pa.Table) -> None:
    """A column out of place, a broken episode or a repeated id would be quarantined or train on nonsense."""
    source = HistoryReplay(history, ReplayConfig(passes=3))
    experiences, labels = collect(source)
    assert experiences.schema.equals(experience_schema(SPEC))
    assert labels.schema.equals(label_schema(SPEC))
    failing = [cycle for cycle in source.cycles if cycle.has_failure]
    assert experiences.num_rows == 3 * sum(len(cycle.failed) for cycle in failing)
    assert len(set(experiences["experience_id"].to_pylist())) == experiences.num_rows
    assert labels["experience_id"].equals(experiences["experience_id"])
    episodes = experiences.group_by("episode_id").aggregate([("step", "count"), ("step", "max"), ("done", "sum")])
    assert episodes.num_rows == 3 * len(failing)
    assert set(episodes["done_sum"].to_pylist()) == {1}
    assert (np.array(episodes["step_count"]) == np.array(episodes["step_max"]) + 1).all()
    assert (labels["label_time"].to_numpy() >= labels["event_time"].to_numpy()).all()


def test_contexts_stay_within_the_catalogue_s_ranges(history: pa.Table) -> None:
    """A field outside its declared range is quarantined downstream, and the network never saw such values."""
    experiences, _ = collect(HistoryReplay(history))
    states = contexts(experiences)
    low, high = np.array([f.low for f in SPEC.context]), np.array([f.high for f in SPEC.context])
    assert (states >= low).all()
    assert (states <= high).all()
    constant = {name for name, column in zip(FIELDS, states.T, strict=True) if np.ptp(column) == 0}
    assert constant == {"ui_complexity_score", "historical_test_coverage", "previous_agent_confidence"}


def test_the_context_follows_the_decisions() -> None:
    """Budget and saturation that do not answer to what was done would make the problem a bandit."""
    table = executions([[("a", True, 10.0), ("b", True, 30.0)], [("a", True, 10.0), ("b", True, 30.0)]])
    source = HistoryReplay(table, ReplayConfig(passes=1))
    episode = next(name for name in set(collect(source)[0]["episode_id"].to_pylist()) if name.startswith("000002"))
    environment = source.environment(SPEC, [episode])
    first = dict(zip(FIELDS, environment.context()[0].tolist(), strict=True))
    assert [first[name] for name in ("budget_left", "steps_left", "queued_ahead", "suite_saturation")] == [1, 1, 0, 0]
    short_first = first["duration_share"] < 1
    environment.step(np.array([int(PriorityClass.HIGH)]))
    second = dict(zip(FIELDS, environment.context()[0].tolist(), strict=True))
    # 40 ms expected in all, so the budget is 20: the short test takes half of it, the long one more than all.
    assert second["budget_left"] == pytest.approx(0.5 if short_first else 0.0)
    assert second["queued_ahead"] == pytest.approx(0.5 if short_first else 1.0)
    assert second["steps_left"] == pytest.approx(0.5)
    assert second["suite_saturation"] == pytest.approx(0.5)


def test_propensities_are_those_of_the_behaviour(history: pa.Table) -> None:
    """Off-policy estimates divide by them: they must be exact, positive and those of the class the rate suggests."""
    experiences, _ = collect(HistoryReplay(history, ReplayConfig(passes=8, epsilon=0.6)))
    rates = contexts(experiences)[:, FIELDS.index("failure_rate_recent")]
    suggested = np.where(rates >= 0.5, 3, np.where(rates >= 0.125, 2, 1))
    actions = experiences["action"].to_numpy()
    expected = np.where(actions == suggested, 0.4 + 0.15, 0.15)
    assert experiences["propensity"].to_numpy() == pytest.approx(expected)
    assert (actions == suggested).mean() == pytest.approx(0.55, abs=0.04)


def test_the_environment_repeats_the_logged_episodes(history: pa.Table) -> None:
    """Replaying the logged actions has to show the logged contexts and pay the logged rewards."""
    source = HistoryReplay(history, ReplayConfig(passes=2))
    experiences, labels = collect(source)
    names = experiences["episode_id"].to_numpy(zero_copy_only=False)
    chosen = sorted(set(names))[:12]
    environment = source.environment(SPEC, chosen)
    rows = [np.flatnonzero(names == name) for name in chosen]
    assert environment.lengths.tolist() == [len(row) for row in rows]
    actions, rewards = experiences["action"].to_numpy(), experiences["reward"].to_numpy()
    states, best = contexts(experiences), labels["best_action"].to_numpy()
    for _ in range(2):
        environment.reset()
        for step in range(int(environment.lengths.max())):
            active = environment.active()
            assert active.tolist() == [step < len(row) for row in rows]
            logged = np.array([row[min(step, len(row) - 1)] for row in rows])
            assert environment.context()[active] == pytest.approx(states[logged][active])
            assert environment.best_actions()[active].tolist() == best[logged][active].tolist()
            assert not environment.context()[~active].any()
            paid = environment.step(actions[logged].astype(np.int64))
            assert paid == pytest.approx(np.where(active, rewards[logged], 0.0), abs=1e-4)
    assert not environment.active().any()


def test_best_actions_earn_the_oracle_s_napfd(history: pa.Table) -> None:
    """Returns are reported as a share of what best_actions earn: it has to be the most that any policy can."""
    source = HistoryReplay(history, ReplayConfig(passes=1))
    names = sorted(set(collect(source)[0]["episode_id"].to_pylist()))
    environment = source.environment(SPEC, names)
    earned = np.zeros(len(names))
    while environment.active().any():
        earned += environment.step(environment.best_actions())
    for name, total in zip(names, earned, strict=True):
        cycle = source.cycle_of(name)
        order = sorted(range(len(cycle.failed)), key=lambda row: (not cycle.failed[row], cycle.durations[row]))
        assert total == pytest.approx(100.0 * napfd(order, cycle.durations, cycle.failed))


def test_the_same_seed_gives_the_same_tables_and_another_one_does_not(history: pa.Table) -> None:
    """Data hashes, and with them weights, depend on byte-identical replays."""
    first, again = (collect(HistoryReplay(history, ReplayConfig(passes=2)))[0] for _ in range(2))
    other, _ = collect(HistoryReplay(history, ReplayConfig(passes=2, seed=1)))
    assert first.equals(again)
    assert not first["action"].equals(other["action"])


def test_reading_on_from_a_cursor_gives_exactly_the_rest(history: pa.Table) -> None:
    """A cursor that repeats or drops a cycle breaks incremental snapshots, as would episodes that newer rows change."""
    source = HistoryReplay(history)
    batches = list(source.batches(SPEC, None))
    known = history.filter(pa.array([int(name) <= 20 for name in history["cycle_id"].to_pylist()]))
    early = list(HistoryReplay(known).batches(SPEC, None))
    late = list(source.batches(SPEC, early[-1].cursor))
    assert early
    assert late
    joined = pa.concat_tables([batch.experiences for batch in early + late])
    assert joined.equals(pa.concat_tables([batch.experiences for batch in batches]))
    assert list(source.batches(SPEC, batches[-1].cursor)) == []


@pytest.mark.parametrize("cursor", ["", "7", "{}", '{"started_at_us": "x", "cycle_id": "1"}'])
def test_a_foreign_cursor_is_refused(cursor: str, history: pa.Table) -> None:
    """Another source's cursor read as "from the beginning" would import everything twice."""
    with pytest.raises(InputError, match="cursor"):
        list(HistoryReplay(history).batches(SPEC, cursor))


def test_a_cycle_of_one_test_is_an_episode_that_earns_nothing() -> None:
    """Its only test never fits half of its own duration; that is a zero, not a crash."""
    source = HistoryReplay(executions([[("a", True, 10.0)]]), ReplayConfig(passes=1))
    experiences, labels = collect(source)
    assert experiences.num_rows == 1
    assert experiences["done"].to_pylist() == [True]
    assert experiences["reward"].to_pylist() == [0.0]
    assert labels["action_values"].to_pylist() == [[0.0] * 4]
    assert source.as_of(NOW) == EPOCH.replace(microsecond=10_000)


def test_cycles_without_durations_or_failures_are_handled() -> None:
    """Zero durations divide by zero in shares; a cycle without failures has no metric and gives no episode."""
    free = HistoryReplay(executions([[("a", True, 0.0), ("b", False, 0.0)]]), ReplayConfig(passes=1))
    experiences, _ = collect(free)
    assert np.isfinite(contexts(experiences)).all()
    green = HistoryReplay(executions([[("a", False, 1.0)], [("a", False, 1.0)]]))
    assert list(green.batches(SPEC, None)) == []


def test_an_empty_history_yields_nothing() -> None:
    """The first lifecycle of a new project runs before any execution is stored."""
    source = HistoryReplay(EXECUTIONS.empty_table())
    assert list(source.batches(SPEC, None)) == []
    assert source.as_of(NOW) == NOW


def test_two_sources_that_count_cycles_alike_stay_apart() -> None:
    """Both call their first cycle 000001: joined, one's failures would be the other's."""
    two = pa.concat_tables([executions([[("a", True, 1.0)]]), executions([[], [("b", True, 1.0)]])])
    renamed = two.set_column(two.column_names.index("cycle_id"), EXECUTIONS.field("cycle_id"), pa.array(["1", "1"]))
    source = HistoryReplay(renamed, ReplayConfig(passes=1))
    experiences, _ = collect(source)
    assert len(source.cycles) == 2
    assert len(set(experiences["episode_id"].to_pylist())) == 2


def test_only_priority_actions_can_be_replayed(history: pa.Table) -> None:
    """A CI history says nothing about how to write tests; asking it must say so."""
    with pytest.raises(InputError, match="requirements"):
        list(HistoryReplay(history).batches(agent_spec("requirements"), None))


@pytest.mark.parametrize(("passes", "epsilon"), [(0, 0.5), (1, 0.0), (1, 1.5)])
def test_a_config_without_exploration_or_passes_is_refused(passes: int, epsilon: float) -> None:
    """With epsilon 0 three of four propensities are 0 and off-policy estimates are undefined."""
    with pytest.raises(InputError):
        ReplayConfig(passes=passes, epsilon=epsilon)


def test_the_environment_refuses_unknown_episodes_and_actions(history: pa.Table) -> None:
    """A typo in an id or an action of another agent must not be played as something else."""
    source = HistoryReplay(history, ReplayConfig(passes=1))
    episode = collect(source)[0]["episode_id"][0].as_py()
    with pytest.raises(InputError, match="nothing#0"):
        source.environment(SPEC, ["nothing#0"])
    environment = source.environment(SPEC, [episode])
    with pytest.raises(InputError, match="4"):
        environment.step(np.array([4]))
    with pytest.raises(InputError, match="shape"):
        environment.step(np.array([1, 1]))
