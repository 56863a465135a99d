"""Row checks: a bad row must neither enter the store nor keep the good ones out; a changed schema must stop all."""

import json
from datetime import timedelta

import pyarrow as pa
import pytest

from mlops_assets.experiences.row_checks import check_experiences, check_labels, check_requirement_texts
from mlops_assets.experiences.schema import REQUIREMENT_TEXTS, experience_schema, label_schema
from mlops_assets.foundation.errors import InputError
from mlops_assets_tests.experiences.synthetic import AGENT, NOW, START, SyntheticSource, replaced

BATCH = next(SyntheticSource().batches(AGENT, None))
NAN, INFINITY = float("nan"), float("inf")


def test_good_rows_pass_unchanged() -> None:
    """Prevents: a check that rejects or alters sound data."""
    checked = check_experiences(BATCH.experiences, AGENT, as_of=NOW)
    assert checked.bad == ()
    assert checked.table.equals(BATCH.experiences)
    assert check_labels(BATCH.labels, AGENT).table.equals(BATCH.labels)
    assert check_requirement_texts(BATCH.requirement_texts).bad == ()


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("reward", NAN, "reward is not finite"),
        ("reward", INFINITY, "reward is not finite"),
        ("reward", None, "reward is null"),
        ("action", -1, "action outside 0..3"),
        ("action", 4, "action outside 0..3"),
        ("action", None, "action is null"),
        ("step", -1, "step outside 0..2147483647"),
        ("propensity", 0.0, "propensity outside (0, 1]"),
        ("propensity", 1.5, "propensity outside (0, 1]"),
        ("propensity", NAN, "propensity outside (0, 1]"),
        ("state", [1.0, 2.0], "state has not 3 numbers"),
        ("state", [1.0, INFINITY, 2.0], "state has an infinite entry"),
        ("state", None, "state is null"),
        ("event_time", NOW + timedelta(microseconds=1), "event_time in the future"),
        ("event_time", None, "event_time is null"),
        ("experience_id", "0000-00000-0", "experience_id repeated"),
        ("experience_id", None, "experience_id is null"),
        ("browser", None, "browser is null"),
    ],
)
def test_a_bad_decision_is_listed_and_the_others_go_on(column: str, value: object, reason: str) -> None:
    """Prevents: each of the issue's bad rows passing, crashing, or taking its neighbours with it."""
    broken = replaced(BATCH.experiences, column, {7: value})
    checked = check_experiences(broken, AGENT, as_of=NOW)
    assert [(row.line, row.reason) for row in checked.bad] == [(7, reason)]
    assert "0000-00001-3" in checked.bad[0].excerpt or column == "experience_id"
    assert checked.table.schema == experience_schema(AGENT)
    expected = [name for i, name in enumerate(BATCH.experiences["experience_id"].to_pylist()) if i != 7]
    assert checked.table["experience_id"].to_pylist() == expected


def test_a_repeated_step_of_an_episode_is_bad() -> None:
    """Prevents: two decisions with one place in an episode, so that the next state is a matter of luck."""
    checked = check_experiences(replaced(BATCH.experiences, "step", {1: 0}), AGENT, as_of=NOW)
    assert [(row.line, row.reason) for row in checked.bad] == [(1, "episode_id and step repeated")]


def test_the_first_reason_counts_and_a_bad_row_does_not_shadow_a_good_one() -> None:
    """Prevents: a row listed twice, or the good row of a repeated id thrown out because a bad one came first."""
    broken = replaced(BATCH.experiences, "reward", {0: NAN})
    broken = replaced(broken, "action", {0: 99})
    broken = replaced(broken, "experience_id", {1: "0000-00000-0"})
    checked = check_experiences(broken, AGENT, as_of=NOW)
    assert [(row.line, row.reason) for row in checked.bad] == [(0, "action outside 0..3")]
    assert checked.table.num_rows == BATCH.experiences.num_rows - 1


def test_nan_in_a_state_is_a_missing_value() -> None:
    """Prevents: a sensor that fails now and then costing whole decisions instead of one value."""
    checked = check_experiences(replaced(BATCH.experiences, "state", {2: [0.5, NAN, None]}), AGENT, as_of=NOW)
    assert checked.bad == ()
    assert str(checked.table["state"].to_pylist()[2]) == "[0.5, nan, nan]"


def test_a_number_too_large_for_the_stored_type_is_not_finite() -> None:
    """Prevents: 1e300 read as float64 and stored as infinity."""
    wide = BATCH.experiences.set_column(9, "reward", pa.array([1e300] + [0.0] * 19, pa.float64()))
    assert [row.line for row in check_experiences(wide, AGENT, as_of=NOW).bad] == [0]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.drop_columns(["reward"]), "missing: reward"),
        (lambda t: t.append_column("reward_v2", t["reward"]), "unknown: reward_v2"),
        (lambda t: t.append_column("reward", t["reward"]), "duplicated: reward"),
        (lambda t: t.set_column(8, "action", t["action"].cast(pa.string())), "action (expected int32, got string)"),
        (lambda t: t.set_column(7, "state", t["reward"]), "of another type: state (expected fixed_size_list"),
        (lambda t: t.set_column(7, "state", t["browser"]), "got string"),
        (lambda t: t.set_column(6, "event_time", t["event_time"].cast(pa.timestamp("us"))), "event_time"),
        (
            lambda t: t.set_column(7, "state", pa.array([[1.0, 2.0]] * t.num_rows, pa.list_(pa.float32()))),
            "state (expected 3 numbers a row, got 2)",
        ),
        (
            lambda t: t.set_column(7, "state", pa.array([[1.0, 2.0]] * t.num_rows, pa.list_(pa.float32(), 2))),
            "state (expected 3 numbers a row, got 2)",
        ),
    ],
)
def test_a_changed_schema_is_refused_by_column(change: object, named: str) -> None:
    """Prevents: an upstream change filed as a million bad rows, or read into the wrong column."""
    with pytest.raises(InputError, match="schema of the experiences of requirements changed") as caught:
        check_experiences(change(BATCH.experiences), AGENT, as_of=NOW)  # type: ignore[operator]
    assert named in str(caught.value)


def test_other_widths_and_column_orders_are_let_through() -> None:
    """Prevents: a table from a database (int64, float64, nanoseconds, large strings) refused for its widths."""
    table = BATCH.experiences
    for name, type_ in (
        ("action", pa.int64()),
        ("reward", pa.float64()),
        ("event_time", pa.timestamp("ms", tz="UTC")),
        ("browser", pa.large_string()),
        ("ui_framework", pa.dictionary(pa.int32(), pa.string())),
        ("state", pa.list_(pa.float64())),
    ):
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(type_))
    shuffled = table.select(table.column_names[::-1])
    assert check_experiences(shuffled, AGENT, as_of=NOW).table.equals(BATCH.experiences)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("best_action", 4, "best_action outside 0..3"),
        ("action_values", [0.0, NAN, 0.0, 0.0], "action_values has an entry that is not finite"),
        ("action_values", [0.0], "action_values has not 4 numbers"),
        ("label_time", START - timedelta(days=1), "label known before its decision"),
        ("experience_id", None, "experience_id is null"),
    ],
)
def test_a_bad_label_is_listed(column: str, value: object, reason: str) -> None:
    """Prevents: a label that would be taken as truth, or would be known before what it labels."""
    checked = check_labels(replaced(BATCH.labels, column, {3: value}), AGENT)
    assert [(row.line, row.reason) for row in checked.bad] == [(3, reason)]
    assert checked.table.schema == label_schema(AGENT)
    assert checked.table.num_rows == BATCH.labels.num_rows - 1


def test_requirement_texts_need_an_id() -> None:
    """Prevents: texts that no decision can refer to."""
    checked = check_requirement_texts(replaced(BATCH.requirement_texts, "requirement_id", {0: "", 1: None}))
    assert [row.reason for row in checked.bad] == ["requirement_id is empty", "requirement_id is null"]
    assert checked.table.num_rows == 5


def test_empty_tables_are_good() -> None:
    """Prevents: a batch without labels or texts failing."""
    assert check_experiences(experience_schema(AGENT).empty_table(), AGENT, as_of=NOW).table.num_rows == 0
    assert check_labels(label_schema(AGENT).empty_table(), AGENT).bad == ()
    assert check_requirement_texts(REQUIREMENT_TEXTS.empty_table()).bad == ()


def test_the_excerpt_is_short_and_readable() -> None:
    """Prevents: a quarantine list that fills the database or that nobody can read."""
    checked = check_experiences(replaced(BATCH.experiences, "test_id", {0: "x" * 5_000, 1: None}), AGENT, as_of=NOW)
    excerpt = checked.bad[0].excerpt
    assert json.loads(excerpt)["experience_id"] == "0000-00000-1"
    long = check_experiences(
        replaced(replaced(BATCH.experiences, "test_id", {0: "x" * 5_000}), "action", {0: 9}), AGENT, as_of=NOW
    )
    assert len(long.bad[0].excerpt) <= 1_000
    assert json.loads(long.bad[0].excerpt)["action"] == 9
