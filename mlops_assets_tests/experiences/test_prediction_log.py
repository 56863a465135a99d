"""Served decisions as experiences: whole episodes, each once, whatever the order in which outcomes arrive."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, select

from mlops_assets.experiences import prediction_log
from mlops_assets.experiences.environment import ExperienceBatch
from mlops_assets.experiences.prediction_log import PredictionLog
from mlops_assets.experiences.row_checks import check_experiences, check_labels, check_requirement_texts
from mlops_assets.experiences.schema import REQUIREMENT_TEXTS, experience_schema, label_schema
from mlops_assets.experiences.snapshots import Snapshot, collect_snapshot
from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.tables import OutcomeRecord, PredictionRecord, QuarantinedRow
from mlops_assets_tests.experiences.served import (
    SERVED_AT,
    episode_rows,
    outcome_row,
    prediction_row,
    state_bytes,
    write,
)
from mlops_assets_tests.experiences.synthetic import policy

SPEC = AGENTS["execution"]
NOW = SERVED_AT + timedelta(days=1)


def read(engine: Engine, cursor: str | None = None, spec: AgentSpec = SPEC) -> list[ExperienceBatch]:
    """All batches after a cursor; each of them as the stores take it."""
    batches = list(PredictionLog(engine).batches(spec, cursor))
    for batch in batches:
        for table, schema in (
            (batch.experiences, experience_schema(spec)),
            (batch.labels, label_schema(spec)),
            (batch.requirement_texts, REQUIREMENT_TEXTS),
        ):
            assert table.schema.names == schema.names
            assert table.schema.types == schema.types
    return batches


def ids(batches: Sequence[ExperienceBatch]) -> list[str]:
    """Experience ids in the order of delivery."""
    return [name for batch in batches for name in batch.experiences["experience_id"].to_pylist()]


def play(engine: Engine, episode_id: str, steps: int, *, at: datetime = SERVED_AT, spec: AgentSpec = SPEC) -> None:
    """A whole episode, with its outcomes in order."""
    rows = episode_rows(spec, episode_id, steps, event_time=at)
    write(engine, [*rows, *(outcome_row(row, 1.0, done=row.step == steps - 1) for row in rows)])


def collect(engine: Engine, home: Path, **changes: object) -> Snapshot:
    """A real snapshot of the log."""
    return collect_snapshot(
        PredictionLog(engine),
        SPEC,
        paths=ArtifactPaths(home),
        engine=engine,
        policy=policy(min_rows=1, **changes),
        now=NOW,
        versions=None,
    )


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_every_column_is_what_was_logged(engine: Engine, agent: str) -> None:
    """A propensity, a text or a context of another row teaches the wrong lesson, and no check sees it."""
    spec = AGENTS[agent]
    state = np.linspace(0, 1, len(spec.state_fields), dtype=np.float32)
    values = [0.5, 2.5, *[-1.0] * (len(spec.actions) - 2)]
    first = prediction_row(
        spec,
        "p0",
        episode_id="cycle-7",
        agent_id="agent-a",
        test_id="t0",
        requirement_id="REQ-1",
        requirement_text="As a guest I search",
        state=state_bytes(state),
        action=2,
        propensity=0.125,
        ui_framework="vue",
        browser="firefox",
        test_type="api",
    )
    second = prediction_row(spec, "p1", episode_id="cycle-7", step=1, event_time=SERVED_AT + timedelta(seconds=2))
    write(engine, [first, second])
    late = SERVED_AT + timedelta(hours=3)
    write(
        engine, [outcome_row(second, -3.5), outcome_row(first, 7.25, done=False, best_action=1, action_values=values)]
    )
    (batch,) = read(engine, spec=spec)
    rows = batch.experiences.to_pylist()
    assert rows[0] == {
        "experience_id": "p0",
        "agent_id": "agent-a",
        "test_id": "t0",
        "requirement_id": "REQ-1",
        "episode_id": "cycle-7",
        "step": 0,
        "event_time": SERVED_AT,
        "state": state[: len(spec.context)].tolist(),
        "action": 2,
        "reward": 7.25,
        "done": False,
        "propensity": 0.125,
        "ui_framework": "vue",
        "browser": "firefox",
        "test_type": "api",
    }
    assert (rows[1]["experience_id"], rows[1]["reward"], rows[1]["done"]) == ("p1", -3.5, True)
    assert batch.labels.to_pylist() == [
        {
            "experience_id": "p0",
            "best_action": 1,
            "action_values": values,
            "event_time": SERVED_AT,
            "label_time": SERVED_AT + timedelta(minutes=5),
        }
    ]
    assert batch.requirement_texts.to_pylist() == [
        {"requirement_id": "REQ-1", "text": "As a guest I search", "area": ""}
    ]
    for checked in (
        check_experiences(batch.experiences, spec, as_of=late),
        check_labels(batch.labels, spec),
        check_requirement_texts(batch.requirement_texts),
    ):
        assert checked.bad == ()


@pytest.mark.parametrize(
    ("occurred", "known"), [(timedelta(hours=2), timedelta(hours=2)), (timedelta(hours=-2), timedelta())]
)
def test_a_label_is_known_when_it_happened_but_never_before_its_decision(
    sqlite_engine: Engine, occurred: timedelta, known: timedelta
) -> None:
    """On a clock of the data, the machine's time of receipt lies months after, or before, the decision."""
    row = prediction_row(SPEC, "p")
    values = [0.0] * len(SPEC.actions)
    received = datetime(2020, 1, 1, tzinfo=UTC)
    outcome = outcome_row(
        row, 1.0, best_action=0, action_values=values, occurred_at=SERVED_AT + occurred, received_at=received
    )
    write(sqlite_engine, [row, outcome])
    (batch,) = read(sqlite_engine)
    assert batch.labels["label_time"].to_pylist() == [SERVED_AT + known]


def test_half_a_label_is_no_label(engine: Engine) -> None:
    """A best action without values would be null in a column that admits none."""
    rows = [prediction_row(SPEC, name) for name in "abc"]
    write(engine, rows)
    write(
        engine,
        [
            outcome_row(rows[0], 1.0, best_action=1),
            outcome_row(rows[1], 1.0, action_values=[0.0] * 4),
            outcome_row(rows[2], 1.0, best_action=1, action_values=[0.0, 1.0, 0.0, 0.0]),
        ],
    )
    assert read(engine)[0].labels["experience_id"].to_pylist() == ["c"]


def test_only_whole_episodes_are_delivered_and_the_rest_waits(engine: Engine) -> None:
    """Half an episode in training ends in a state that was no end; waiting must not lose it, however late it comes."""
    rows = {name: episode_rows(SPEC, name, 3) for name in ("gap", "open", "tail", "early", "whole")}
    write(engine, [row for episode in rows.values() for row in episode])
    for name, steps, done_at in (
        ("gap", (0, 2), 2),
        ("open", (0, 1, 2), None),
        ("tail", (0, 1), None),
        ("early", (0, 1, 2), 1),
        ("whole", (0, 1, 2), 2),
    ):
        write(engine, [outcome_row(rows[name][step], 1.0, done=step == done_at) for step in steps])
    first = read(engine)
    assert ids(first) == ["whole-0", "whole-1", "whole-2"]
    for number in range(20):
        play(engine, f"later-{number}", 1, at=SERVED_AT + timedelta(days=number))
    then = read(engine, first[-1].cursor)
    assert ids(then) == [f"later-{number}-0" for number in range(20)]
    months_later = SERVED_AT + timedelta(days=200)
    write(engine, [outcome_row(rows["tail"][2], 9.0, received_at=months_later)])
    late = read(engine, then[-1].cursor)
    assert ids(late) == ["tail-0", "tail-1", "tail-2"]
    assert late[0].experiences["reward"].to_pylist() == [1.0, 1.0, 9.0]
    write(engine, [outcome_row(rows["gap"][1], 1.0, done=False, received_at=months_later)])
    assert ids(read(engine, late[-1].cursor)) == ["gap-0", "gap-1", "gap-2"]


def test_a_decision_without_an_episode_is_one_of_its_own(engine: Engine) -> None:
    """Single decisions would wait for steps that never come."""
    rows = [prediction_row(SPEC, f"single-{number}") for number in range(3)]
    write(engine, [*rows, *(outcome_row(row, 1.0) for row in rows[:2])])
    table = read(engine)[0].experiences
    assert table["episode_id"].to_pylist() == ["single-0", "single-1"]
    assert table["step"].to_pylist() == [0, 0]


def test_of_a_retried_step_the_first_outcome_counts(engine: Engine) -> None:
    """A client that asked twice acted on one answer: both in an episode make two decisions of one."""
    first = prediction_row(SPEC, "first", episode_id="e")
    again = prediction_row(SPEC, "again", episode_id="e", action=3)
    lost = prediction_row(SPEC, "lost", episode_id="e", step=1)
    answered = prediction_row(SPEC, "answered", episode_id="e", step=1)
    write(engine, [first, again, lost, answered])
    write(engine, [outcome_row(again, 1.0, done=False), outcome_row(first, 2.0, done=False)])
    assert ids(read(engine)) == []
    write(engine, [outcome_row(answered, 3.0)])
    batches = read(engine)
    assert ids(batches) == ["again", "answered"]
    write(engine, [outcome_row(lost, 4.0)])
    assert ids(read(engine, batches[-1].cursor)) == []
    assert ids(read(engine)) == ["again", "answered"]


def test_agents_are_kept_apart(engine: Engine) -> None:
    """Episodes of two agents with one name would make one, of both agents' decisions."""
    play(engine, "e", 2)
    other = AGENTS["generation"]
    rows = [prediction_row(other, f"g{step}", episode_id="e", step=step) for step in range(3)]
    write(engine, [*rows, *(outcome_row(row, 1.0, done=row.step == 2) for row in rows)])
    assert ids(read(engine)) == ["e-0", "e-1"]
    assert ids(read(engine, spec=other)) == ["g0", "g1", "g2"]
    assert ids(read(engine, spec=AGENTS["requirements"])) == []


@dataclass(frozen=True)
class Story:
    """Predictions, and their outcomes in the order of arrival, cut into collections."""

    predictions: list[dict[str, object]]
    outcomes: list[tuple[str, float, bool]]
    cuts: list[int]


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Some episodes, with retried steps and missing outcomes, in any interleaving, collected at any moments."""
    predictions: list[dict[str, object]] = []
    outcomes: list[tuple[str, float, bool]] = []
    for number in range(draw(st.integers(1, 4))):
        steps = draw(st.integers(1, 4))
        for step in range(steps):
            for attempt in range(draw(st.sampled_from([1, 1, 1, 2]))):
                name = f"e{number}-{step}-{attempt}"
                predictions.append({"prediction_id": name, "episode_id": f"e{number}", "step": step})
                if draw(st.integers(0, 9)):
                    outcomes.append((name, float(len(outcomes)), step == steps - 1))
    order = draw(st.permutations(outcomes))
    cuts = draw(st.lists(st.integers(0, len(order)), max_size=4))
    return Story(predictions, order, sorted(cuts))


@given(story=stories(), limit=st.integers(1, 5), size=st.integers(1, 5))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_interleaving_and_any_split_gives_the_same_experiences(
    engine: Engine, story: Story, limit: int, size: int
) -> None:
    """An episode lost or doubled at the border of two collections is never noticed."""
    with transaction(engine) as session:
        session.execute(delete(OutcomeRecord))
        session.execute(delete(PredictionRecord))
    rows = {str(one["prediction_id"]): prediction_row(SPEC, **one) for one in story.predictions}  # type: ignore[arg-type]
    write(engine, rows.values())
    collected: list[ExperienceBatch] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction_log, "_OUTCOMES_A_READ", limit)
        patch.setattr(prediction_log, "_DECISIONS_A_BATCH", size)
        for start, end in zip([0, *story.cuts], [*story.cuts, len(story.outcomes)], strict=True):
            write(
                engine, [outcome_row(rows[name], reward, done=done) for name, reward, done in story.outcomes[start:end]]
            )
            collected += read(engine, collected[-1].cursor if collected else None)
    at_once = read(engine)
    assert ids(collected) == ids(at_once)
    assert len(set(ids(collected))) == len(ids(collected))
    assert sorted(ids(collected)) == sorted(by_hand(story))
    cursors = [batch.cursor for batch in collected]
    assert len(set(cursors)) == len(cursors)


def by_hand(story: Story) -> list[str]:
    """The rule, row by row."""
    arrived = {name: (position, done) for position, (name, _, done) in enumerate(story.outcomes)}
    episodes: dict[object, dict[int, list[str]]] = {}
    for one in story.predictions:
        steps = episodes.setdefault(one["episode_id"], {})
        steps.setdefault(int(str(one["step"])), []).append(str(one["prediction_id"]))
    found = []
    for steps in episodes.values():
        chosen = [
            min((n for n in names if n in arrived), key=lambda n: arrived[n], default=None) for names in steps.values()
        ]
        if None not in chosen:
            found += [name for name in chosen if name is not None]
    return found


def test_an_outcome_that_commits_after_a_later_one_is_not_missed(postgres_engine: Engine) -> None:
    """PostgreSQL hands out numbers before it commits: a cursor at the highest number passed the slow one by, for good."""
    rows = [prediction_row(SPEC, name) for name in ("slow", "quick", "next")]
    write(postgres_engine, rows)
    with transaction(postgres_engine) as slow:
        slow.add(outcome_row(rows[0], 1.0))
        slow.flush()
        write(postgres_engine, [outcome_row(rows[1], 1.0)])
        first = read(postgres_engine)
        assert ids(first) == ["quick"]
        assert read(postgres_engine, first[-1].cursor) == []
    second = read(postgres_engine, first[-1].cursor)
    assert ids(second) == ["slow"]
    write(postgres_engine, [outcome_row(rows[2], 1.0)])
    assert ids(read(postgres_engine, second[-1].cursor)) == ["next"]


@pytest.mark.parametrize("seed", range(8))
def test_numbers_that_show_up_in_any_order_are_all_delivered_once(engine: Engine, seed: int) -> None:
    """The same on both engines, with episodes whose outcomes commit in an order that is not that of their numbers."""
    draw = random.Random(seed)
    rows = [row for number in range(12) for row in episode_rows(SPEC, f"e{number}", draw.randint(1, 3))]
    write(engine, rows)
    lengths = {row.episode_id: row.step for row in rows}
    numbered = list(zip(draw.sample(range(1, 60), len(rows)), rows, strict=True))
    draw.shuffle(numbered)
    delivered: list[str] = []
    cursor = None
    while numbered:
        for outcome_id, row in [numbered.pop() for _ in range(min(draw.randint(1, 4), len(numbered)))]:
            write(engine, [outcome_row(row, 1.0, done=row.step == lengths[row.episode_id], outcome_id=outcome_id)])
        batches = read(engine, cursor)
        delivered += ids(batches)
        cursor = batches[-1].cursor if batches else cursor
    assert sorted(delivered) == sorted(row.prediction_id for row in rows)


def test_a_number_that_never_shows_up_is_given_up(engine: Engine) -> None:
    """Rolled-back inserts leave gaps for ever: a cursor that waits for all of them grows without end."""
    rows = [prediction_row(SPEC, f"p{number}") for number in range(6)]
    write(engine, rows)
    for minute, number in ((0, 1), (1, 4), (2, 9)):
        write(
            engine,
            [outcome_row(rows[minute], 1.0, outcome_id=number, received_at=SERVED_AT + timedelta(minutes=minute))],
        )
    first = read(engine)
    assert '"open_ids": [[2, 3], [5, 8]]' in first[-1].cursor
    write(engine, [outcome_row(rows[3], 1.0, outcome_id=10, received_at=SERVED_AT + timedelta(minutes=11.5))])
    second = read(engine, first[-1].cursor)
    assert '"open_ids": [[2, 3], [5, 8]]' in second[-1].cursor
    write(engine, [outcome_row(rows[4], 1.0, outcome_id=6, received_at=SERVED_AT + timedelta(minutes=2))])
    third = read(engine, second[-1].cursor)
    assert ids(third) == ["p4"]
    assert '"open_ids": [[2, 3], [5, 5], [7, 8]]' in third[-1].cursor
    write(engine, [outcome_row(rows[5], 1.0, outcome_id=11, received_at=SERVED_AT + timedelta(hours=2))])
    assert '"open_ids": []' in read(engine, third[-1].cursor)[-1].cursor


def test_an_outcome_before_its_prediction_is_not_missed(engine: Engine) -> None:
    """Predictions are written in the background: the outcome of a quick client may be there first."""
    rows = [prediction_row(SPEC, "behind"), prediction_row(SPEC, "there")]
    write(engine, [rows[1], outcome_row(rows[0], 1.0), outcome_row(rows[1], 1.0)])
    first = read(engine)
    assert ids(first) == ["there"]
    write(engine, [rows[0]])
    assert ids(read(engine, first[-1].cursor)) == ["behind"]


def test_batches_are_bounded_and_episodes_never_cut(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A year of served decisions in one table takes the machine's memory."""
    monkeypatch.setattr(prediction_log, "_DECISIONS_A_BATCH", 10)
    monkeypatch.setattr(prediction_log, "_KEYS_A_QUERY", 4)
    monkeypatch.setattr(prediction_log, "_RANGES_A_QUERY", 1)
    lengths = [4, 4, 4, 15, 1, 10, 3]
    rows = [row for number, steps in enumerate(lengths) for row in episode_rows(SPEC, f"e{number}", steps)]
    write(sqlite_engine, rows)
    last = {f"e{number}": steps - 1 for number, steps in enumerate(lengths)}
    # All but the ends first, so that few outcomes complete everything.
    ends = [row for row in rows if row.step == last[row.episode_id]]
    write(sqlite_engine, [outcome_row(row, 1.0, done=False) for row in rows if row not in ends])
    write(sqlite_engine, [outcome_row(row, 1.0) for row in ends])
    batches = read(sqlite_engine)
    assert [batch.experiences.num_rows for batch in batches] == [8, 4, 15, 1, 10, 3]
    assert ids(batches) == [row.prediction_id for row in rows]
    resumed = [name for start in batches for name in ids(read(sqlite_engine, start.cursor))[:1]]
    assert resumed == ["e2-0", "e3-0", "e4-0", "e5-0", "e6-0"]


def test_the_present_is_now_or_the_newest_decision(engine: Engine) -> None:
    """On a clock of the data that is ahead, every served decision was quarantined as one of the future."""
    log = PredictionLog(engine)
    assert log.as_of(NOW) == NOW
    play(engine, "e", 2, at=NOW + timedelta(days=3), spec=AGENTS["requirements"])
    assert log.as_of(NOW) == NOW + timedelta(days=3, minutes=1)
    assert log.as_of(NOW + timedelta(days=9)) == NOW + timedelta(days=9)


def test_what_completes_after_the_present_waits(engine: Engine, tmp_path: Path) -> None:
    """A collection takes the time first and reads then: a decision served in between was quarantined as a future one."""
    play(engine, "before", 1)
    log = PredictionLog(engine)
    log.as_of(SERVED_AT)
    play(engine, "between", 1, at=SERVED_AT + timedelta(seconds=1))
    batches = list(log.batches(SPEC, None))
    assert ids(batches) == ["before-0"]
    assert ids(read(engine, batches[-1].cursor)) == ["between-0"]


def test_what_other_actions_would_have_brought_is_not_known(sqlite_engine: Engine) -> None:
    """An environment made of logged rewards pays any action what the logged one earned."""
    assert PredictionLog(sqlite_engine).environment(SPEC, ["e"]) is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize("cursor", ["", "7", "{}", '{"outcome_id": 1}', '{"started_at_us": 1, "cycle_id": "1"}', "[]"])
def test_a_foreign_cursor_is_refused(sqlite_engine: Engine, cursor: str) -> None:
    """Another source's cursor read as "from the beginning" delivers everything twice."""
    with pytest.raises(InputError, match="no cursor of the prediction log"):
        list(PredictionLog(sqlite_engine).batches(SPEC, cursor))


def test_a_snapshot_grows_with_the_outcomes_and_repeats_nothing(engine: Engine, tmp_path: Path) -> None:
    """The way through the real collection: cursor, store and window."""
    for number in range(5):
        play(engine, f"a{number}", 3)
    first = collect(engine, tmp_path)
    assert (first.source, first.rows, first.new_rows, first.live) == ("prediction-log", 15, 15, True)
    assert collect(engine, tmp_path).data_hash == first.data_hash
    for number in range(2):
        play(engine, f"b{number}", 4, at=SERVED_AT + timedelta(hours=1))
    second = collect(engine, tmp_path)
    assert (second.rows, second.new_rows) == (23, 8)
    assert second.data_hash != first.data_hash
    assert second.label_cutoff == NOW


def test_an_empty_log_says_what_is_missing(engine: Engine, tmp_path: Path) -> None:
    """A first retraining before anybody sent an outcome."""
    with pytest.raises(InputError, match="'prediction-log' gave no usable decision of agent 'execution'"):
        collect(engine, tmp_path)
    rows = episode_rows(SPEC, "half", 2)
    write(engine, [*rows, outcome_row(rows[0], 1.0, done=False)])
    with pytest.raises(InputError, match="0 new rows, 0 quarantined"):
        collect(engine, tmp_path)


def test_bad_rows_are_quarantined_with_their_reason(engine: Engine, tmp_path: Path) -> None:
    """One vector of an older catalogue, or one absurd reward, stops every later retraining."""
    width = len(SPEC.state_fields)
    rows = [
        prediction_row(SPEC, "good"),
        prediction_row(SPEC, "short", state=state_bytes(np.zeros(width - 1))),
        prediction_row(SPEC, "torn", state=b"\x00\x01\x02"),
        prediction_row(SPEC, "infinite", state=state_bytes([np.inf] * width)),
        prediction_row(SPEC, "sure", propensity=1.5),
        prediction_row(SPEC, "other-action", action=7),
        prediction_row(SPEC, "rich"),
        prediction_row(SPEC, "mislabelled"),
    ]
    write(engine, rows)
    labels = {"mislabelled": {"best_action": 1, "action_values": [1.0, 2.0]}}
    for row in rows:
        reward = np.inf if row.prediction_id == "rich" else 1.0
        write(engine, [outcome_row(row, reward, **labels.get(row.prediction_id, {}))])  # type: ignore[arg-type]
    snapshot = collect(engine, tmp_path)
    assert snapshot.experiences()["experience_id"].to_pylist() == ["good", "mislabelled"]
    assert snapshot.labels().num_rows == 0
    with read_transaction(engine) as session:
        reasons = sorted(session.scalars(select(QuarantinedRow.reason)))
    assert reasons == [
        "action outside 0..3",
        "action_values is null",
        "propensity outside (0, 1]",
        "reward is not finite",
        "state has an infinite entry",
        "state is null",
        "state is null",
    ]


def test_a_batch_of_nothing_but_vectors_of_another_length_is_quarantined(engine: Engine, tmp_path: Path) -> None:
    """After a change of the catalogue the whole log looks like a changed schema, which no collection gets past."""
    old = prediction_row(SPEC, "old", state=state_bytes(np.zeros(3)))
    write(engine, [old, outcome_row(old, 1.0)])
    with pytest.raises(InputError, match="1 quarantined"):
        collect(engine, tmp_path)
    play(engine, "new", 1)
    assert collect(engine, tmp_path).rows == 1


def test_reworded_requirements_and_decisions_without_any(engine: Engine) -> None:
    """An empty id as a requirement's name is refused by the store's checks."""
    rows = [
        prediction_row(SPEC, name, requirement_id=requirement, requirement_text=text)
        for name, requirement, text in (
            ("a", "R", "old"),
            ("b", "R", "new"),
            ("c", "", "x"),
            ("d", "S", ""),
            ("e", "R", "new"),
        )
    ]
    write(engine, [*rows, *(outcome_row(row, 1.0) for row in rows)])
    (batch,) = read(engine)
    assert batch.requirement_texts.select(["requirement_id", "text"]).to_pylist() == [
        {"requirement_id": "R", "text": "old"},
        {"requirement_id": "R", "text": "new"},
    ]
    assert batch.experiences["requirement_id"].to_pylist() == ["R", "R", "", "S", "R"]


def test_missing_numbers_of_a_context_stay_missing(sqlite_engine: Engine) -> None:
    """A NaN that becomes 0 is a value nobody measured."""
    state = np.full(len(SPEC.state_fields), 0.25)
    state[1] = np.nan
    row = prediction_row(SPEC, "p", state=state_bytes(state))
    write(sqlite_engine, [row, outcome_row(row, 1.0)])
    (batch,) = read(sqlite_engine)
    checked = check_experiences(batch.experiences, SPEC, as_of=NOW)
    values = pa.compute.list_flatten(checked.table["state"]).to_pylist()
    assert checked.bad == ()
    assert np.flatnonzero(np.isnan(values)).tolist() == [1]
