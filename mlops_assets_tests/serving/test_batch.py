"""Batch scoring without a cluster: values, inputs, refused rows, resuming."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sqlalchemy import create_engine, text

from mlops_assets.features.views import AGENT_CONTEXT_FEATURES
from mlops_assets.foundation.agents import AGENTS, AgentSpec, agent_spec
from mlops_assets.foundation.errors import InputError, TransientError
from mlops_assets.serving import batch_features
from mlops_assets.serving.batch import Answers, Chunk, answer, confidences, crossed
from mlops_assets.serving.batch_features import BatchFeatures
from mlops_assets.serving.batch_input import BatchInput, parquet_input, query_input
from mlops_assets.serving.decide import confidence_of
from mlops_assets.serving.models import ServedModel
from mlops_assets_tests.conftest import NewPostgresDatabase
from mlops_assets_tests.serving import batches
from mlops_assets_tests.serving.batches import AS_OF, CHUNK_ROWS, Home, as_states, by_hand, read
from mlops_assets_tests.serving.served import served_model

ROOT = Path(__file__).resolve().parents[2]
GENERATION = agent_spec("generation")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home of the agent that reads texts, tests and agents."""
    return batches.home(tmp_path, GENERATION)


@pytest.fixture(scope="module")
def model() -> ServedModel:
    """A version of that agent."""
    return served_model(GENERATION)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("timed", [False, True], ids=["online", "point in time"])
def test_answers_are_those_of_the_policy_on_states_built_by_hand(tmp_path: Path, agent: str, *, timed: bool) -> None:
    """Batch and real time decide differently: other features, other defaults, texts of another row, another order."""
    spec = agent_spec(agent)
    home, model = batches.home(tmp_path, spec), served_model(spec)
    table = batches.rows(spec, 150, timed=timed)
    expected = by_hand(home, model, table)
    found = home.score_table(table, model)
    assert found.to_pylist() == expected
    assert {len(row["missing_features"]) for row in expected} >= {0, len(spec.features)}
    assert len({row["action"] for row in expected}) > 1


def test_a_point_in_time_batch_sees_nothing_of_later_days(home: Home, model: ServedModel) -> None:
    """A backtest that knows tomorrow's pass rates proves anything."""
    table = batches.rows(GENERATION, 20)
    early = table.append_column("event_time", pa.array([batches.MONDAY] * 20, pa.timestamp("us", "UTC")))
    seen = home.score_table(early, model).to_pylist()
    later = _feature_of(home, "agent-0", day=8)
    home.store.write_agent_features("generation", later, start=batches.MONDAY.replace(day=13))
    assert home.score_table(early, model).to_pylist() == seen


def test_what_is_remembered_of_the_online_store_is_bounded(
    home: Home, model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row gets the features of another test, or memory grows with the number of tests."""
    table = batches.rows(GENERATION, 300)
    expected = by_hand(home, model, table)
    monkeypatch.setattr(batch_features, "_REMEMBERED_KEYS", 5)
    few = [table.filter(pc.equal(table["test_id"], f"test-{number}")) for number in range(9)]
    assert home.score_table(table, model).to_pylist() == expected
    join = home.features.join(timed=False)
    by_id = {row["request_id"]: row["missing_features"] for row in expected}
    for part in few:
        pass_rate = join(part)["test_execution_features__pass_rate_7d"]
        absent = ["test_execution_features__pass_rate_7d" in by_id[name] for name in part["request_id"].to_pylist()]
        assert np.isnan(pass_rate).tolist() == absent


def test_a_state_column_gives_what_its_fields_give(home: Home, model: ServedModel) -> None:
    """The two forms of a batch differ by an order of fields that nobody sees."""
    table = batches.rows(GENERATION, 100)
    found = home.score_table(table, model)
    assert home.score_table(as_states(table, GENERATION), model) == found
    fixed = as_states(table, GENERATION)
    kind = pa.list_(pa.float64(), len(GENERATION.context))
    fixed = fixed.set_column(fixed.column_names.index("state"), "state", fixed["state"].cast(kind))
    assert home.score_table(fixed, model) == found


def test_without_request_ids_rows_are_numbered(home: Home, model: ServedModel) -> None:
    """Answers that nobody can put beside their questions."""
    found = home.score_table(batches.rows(GENERATION, 100, ids=False), model)
    assert found["request_id"].to_pylist() == [str(number) for number in range(100)]
    assert found["row"].to_pylist() == list(range(100))


def test_a_folder_is_one_batch_in_order_of_its_paths(home: Home, model: ServedModel, tmp_path: Path) -> None:
    """Rows at a border of files or row groups get lost, doubled, or another row's id."""
    table = batches.rows(GENERATION, 300)
    folder = tmp_path / "batch"
    (folder / "b").mkdir(parents=True)
    pq.write_table(table.slice(0, 10), folder / "a.parquet")
    pq.write_table(table.slice(10, 190), folder / "b" / "1.parquet", row_group_size=50)
    pq.write_table(table.slice(200, 0), folder / "b" / "2.parquet")
    pq.write_table(table.slice(200), folder / "c.parquet", row_group_size=7)
    (folder / "notes.txt").write_text("no parquet")
    assert read(home.score(parquet_input(folder, GENERATION), model)) == home.score_table(table, model)


def test_one_folder_serves_all_agents(home: Home, tmp_path: Path) -> None:
    """A run of all agents with one MLOPS_BATCH_INPUT would give each agent the others' rows."""
    folder = tmp_path / "batch"
    (folder / "generation").mkdir(parents=True)
    pq.write_table(batches.rows(GENERATION, 5), folder / "generation" / "rows.parquet")
    pq.write_table(batches.rows(agent_spec("execution"), 7), folder / "execution.parquet")
    assert parquet_input(folder, GENERATION).rows == 5
    assert parquet_input(folder, agent_spec("execution")).rows == 7


@given(
    sizes=st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=4),
    chunk_rows=st.integers(1, 12),
    data=st.data(),
)
def test_any_chunks_of_any_files_are_those_rows(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[list[int]], chunk_rows: int, data: st.DataObject
) -> None:
    """A resumed batch reads from the middle: off by one, and every later row has its neighbour's answer."""
    folder = tmp_path_factory.mktemp("files")
    spec = agent_spec("execution")
    table = as_states(batches.rows(spec, sum(map(sum, sizes))), spec)
    begin = 0
    for number, groups in enumerate(sizes):
        with pq.ParquetWriter(folder / f"{number}.parquet", table.schema) as writer:
            for rows in groups:
                writer.write_table(table.slice(begin, rows))
                begin += rows
    batch = parquet_input(folder, spec)
    chunks = range(-(-table.num_rows // chunk_rows))
    numbers = sorted(data.draw(st.sets(st.sampled_from(chunks)))) if chunks else []
    found = {number: chunk["request_id"].to_pylist() for number, chunk in batch.chunks(chunk_rows, numbers)}
    ids = table["request_id"].to_pylist()
    assert found == {number: ids[number * chunk_rows : (number + 1) * chunk_rows] for number in numbers}


def _sql_rows(table: pa.Table) -> list[dict[str, Any]]:
    return [{**row, "event_time": row["event_time"].isoformat()} for row in table.to_pylist()]


def _fill(url: str, table: pa.Table, types: dict[str, str]) -> None:
    engine = create_engine(url)
    columns = ", ".join(f"{name} {types.get(name, 'double precision')}" for name in table.column_names)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE TABLE asked (number integer, {columns})"))
        places = ", ".join(f":{name}" for name in table.column_names)
        insert = text(f"INSERT INTO asked VALUES (:number, {places})")
        connection.execute(insert, [{"number": i, **row} for i, row in enumerate(_sql_rows(table))])
    engine.dispose()


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_table_is_answered_as_the_same_parquet_file(
    home: Home, model: ServedModel, tmp_path: Path, database: str, request: pytest.FixtureRequest
) -> None:
    """Numbers and times lose something on their way through a database driver."""
    table = batches.rows(GENERATION, 150, timed=True)
    texts = dict.fromkeys(("request_id", "agent_id", "test_id", "requirement_text"), "text")
    if database == "sqlite":
        url, types = f"sqlite:///{tmp_path / 'asked.db'}", {**texts, "event_time": "text"}
    else:
        create: NewPostgresDatabase = request.getfixturevalue("new_postgres_database")
        # As people write it; and without the driver, since that is how it stands in their settings.
        url, types = create(), {**texts, "event_time": "timestamptz", "form_density": "numeric"}
    _fill(url, table, types)
    query = f"SELECT {', '.join(table.column_names)} FROM asked ORDER BY number"
    url = url.replace("postgresql+psycopg2://", "postgresql://")
    found = []
    for _ in range(2):
        with query_input(url, query, GENERATION, scratch=tmp_path / "scratch") as batch:
            assert (batch.rows, batch.timed) == (150, True)
            found.append(home.score(batch, model))
    assert read(found[0]) == home.score_table(table, model)
    assert (found[1].key, found[1].reused) == (found[0].key, True)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_postgresql_arrays_are_states(
    home: Home, model: ServedModel, tmp_path: Path, new_postgres_database: NewPostgresDatabase
) -> None:
    """A column of type real[] is how a state is stored there."""
    url, table = new_postgres_database(), batches.rows(GENERATION, 10)
    context = [[row[field.name] for field in GENERATION.context] for row in table.to_pylist()]
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE asked (number serial, request_id text, agent_id text, test_id text, "
                                "requirement_text text, state real[])"))  # fmt: skip
        insert = text("INSERT INTO asked (request_id, agent_id, test_id, requirement_text, state) VALUES (:request_id, "
                      ":agent_id, :test_id, :requirement_text, :state)")  # fmt: skip
        asked = [{**row, "state": state} for row, state in zip(table.to_pylist(), context, strict=True)]
        connection.execute(insert, asked)
    engine.dispose()
    query = "SELECT request_id, agent_id, test_id, requirement_text, state FROM asked ORDER BY number"
    with query_input(url, query, GENERATION, scratch=tmp_path) as batch:
        found = read(home.score(batch, model))
    assert found["action"] == home.score_table(table, model)["action"]


def _sqlite(tmp_path: Path, **changes: Any) -> tuple[str, str]:
    """A table of one row, and a query of all of it."""
    row = {"agent_id": "a", "test_id": "t", **{field.name: 0.5 for field in GENERATION.context}, **changes}
    path = tmp_path / "asked.db"
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE asked ({', '.join(row)})")
        connection.execute(f"INSERT INTO asked VALUES ({', '.join('?' * len(row))})", list(row.values()))
    connection.close()
    return f"sqlite:///{path}", "SELECT * FROM asked"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"form_density": "much"}, "row 1: form_density: 'much' is a str, expected a number"),
        ({"agent_id": 7}, "row 1: agent_id: 7 is a int, expected a text"),
        ({"event_time": "soon"}, "row 1: event_time: .*soon"),
        ({"colour": "red"}, "unknown colour"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """SQLite gives whatever is in a cell; it must not become a zero, and its row must be found."""
    url, query = _sqlite(tmp_path, **changes)
    with pytest.raises(InputError, match=message), query_input(url, query, GENERATION, scratch=tmp_path / "scratch"):
        pass
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("url", "query", "error", "message"),
    [
        ("nonsense", "SELECT 1", InputError, "URL is not a URL"),
        ("sqlite:////nowhere/at.db", "SELECT 1", InputError, "no such SQLite file"),
        ("oracle://u:secret@h/d", "SELECT 1", InputError, "install its driver"),
        ("postgresql://u:secret@127.0.0.1:1/d", "SELECT 1", TransientError, "make the database answer"),
        ("sqlite:///{file}", "SELECT * FROM absent", InputError, "no such table: absent"),
        ("sqlite:///{file}", "CREATE TABLE other (x)", InputError, "readonly database; correct the query"),
    ],
)
def test_a_database_that_cannot_be_read_says_why(
    tmp_path: Path, url: str, query: str, error: type[Exception], message: str
) -> None:
    """A traceback of a driver, with the password in it."""
    file, _ = _sqlite(tmp_path)
    shown = url.format(file=file.removeprefix("sqlite:///"))
    with pytest.raises(error, match=message) as caught, query_input(shown, query, GENERATION, scratch=tmp_path):
        pass
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("change", ["DELETE FROM asked", "DROP TABLE asked", "CREATE TABLE other (x)"])
def test_a_query_cannot_change_the_database(tmp_path: Path, change: str) -> None:
    """Whoever may score a batch must not be able to delete its table by it."""
    url, query = _sqlite(tmp_path)
    before = (tmp_path / "asked.db").read_bytes()
    with pytest.raises(InputError, match="readonly"), query_input(url, change, GENERATION, scratch=tmp_path):
        pass
    assert (tmp_path / "asked.db").read_bytes() == before
    with query_input(url, query, GENERATION, scratch=tmp_path) as batch:
        assert batch.rows == 1


@pytest.mark.parametrize(
    "change",
    [
        "SELECT 1; DROP TABLE asked",
        "SELECT 1; COMMIT; DROP TABLE asked",
        "SELECT dropped()",
        "SELECT nextval('numbers') AS agent_id",
    ],
)
def test_a_query_cannot_change_postgresql(
    tmp_path: Path, new_postgres_database: NewPostgresDatabase, change: str
) -> None:
    """There a statement may be several, or hide in a function, and a sequence is not rolled back."""
    engine = create_engine(new_postgres_database())
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE asked (x integer)")
        connection.exec_driver_sql("CREATE SEQUENCE numbers")
        connection.exec_driver_sql(
            "CREATE FUNCTION dropped() RETURNS text LANGUAGE plpgsql AS $$ BEGIN DROP TABLE asked; RETURN ''; END $$"
        )
    url = engine.url.render_as_string(hide_password=False)
    with (
        pytest.raises(InputError, match="read-only transaction"),
        query_input(url, change, GENERATION, scratch=tmp_path),
    ):
        pass
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM asked").scalar_one() == 0
        assert connection.exec_driver_sql("SELECT is_called FROM numbers").scalar_one() is False
    engine.dispose()


def _without(name: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.drop_columns([name])


def _as(name: str, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = pa.array([None] * table.num_rows, kind)
        return table.set_column(table.column_names.index(name), name, values)

    return change


def _with(name: str, value: Any) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.append_column(name, pa.array([value] * table.num_rows))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("agent_id"), "without agent_id"),
        (_without("test_id"), "without test_id"),
        (_without("form_density"), "without form_density"),
        (lambda table: table.select(["agent_id", "test_id"]), r"without state \(or ui_complexity_score"),
        (_with("colour", "red"), "unknown colour"),
        (_with("state", [0.5] * 13), "both state and ui_complexity_score"),
        (_as("form_density", pa.string()), "mistyped form_density: string, expected a number"),
        (_as("agent_id", pa.int64()), "mistyped agent_id: int64, expected a text"),
        (_as("request_id", pa.float64()), "mistyped request_id: double, expected a text or a whole number"),
        (_with("event_time", "today"), "mistyped event_time: string, expected a timestamp"),
        (
            lambda table: _as("state", pa.list_(pa.float32(), 12))(as_states(table, GENERATION)),
            "mistyped state: .*expected a list of 13 numbers",
        ),
        (lambda table: table.select([*table.column_names, "agent_id"]), "twice agent_id"),
    ],
)
def test_wrong_columns_are_named_before_anything_is_written(
    home: Home, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    """A batch of a million rows fails in its last file, or is scored without the column that was misspelt."""
    with pytest.raises(InputError, match=message):
        home.input(change(batches.rows(GENERATION, 3)))
    assert not home.paths.batch_predictions("generation").exists()


def test_texts_for_an_agent_that_reads_none_are_refused(tmp_path: Path) -> None:
    """The file of another agent."""
    spec = agent_spec("execution")
    table = batches.rows(spec, 3).append_column("requirement_text", pa.array(["x"] * 3))
    pq.write_table(table, tmp_path / "batch.parquet")
    with pytest.raises(InputError, match="no batch of agent 'execution': unknown requirement_text"):
        parquet_input(tmp_path / "batch.parquet", spec)


def test_files_that_do_not_fit_together_or_are_none_are_refused(tmp_path: Path) -> None:
    """Half of the rows would get the features of their time, the other half those of now."""
    with pytest.raises(InputError, match="does not exist; point MLOPS_BATCH_INPUT"):
        parquet_input(tmp_path / "nowhere", GENERATION)
    folder = tmp_path / "batch"
    folder.mkdir()
    with pytest.raises(InputError, match=r"has no \*.parquet file"):
        parquet_input(folder, GENERATION)
    pq.write_table(batches.rows(GENERATION, 3), folder / "1.parquet")
    pq.write_table(batches.rows(GENERATION, 3, timed=True), folder / "2.parquet")
    with pytest.raises(InputError, match=r"2.parquet differs from .*1.parquet in the columns event_time"):
        parquet_input(folder, GENERATION)
    (folder / "2.parquet").write_text("agent_id,test_id\na,t\n")
    with pytest.raises(InputError, match=r"2.parquet is no readable parquet file"):
        parquet_input(folder, GENERATION)


def _changed(table: pa.Table, name: str, values: dict[int, Any]) -> pa.Table:
    column = table[name].to_pylist()
    for row, value in values.items():
        column[row] = value
    return table.set_column(table.column_names.index(name), name, pa.array(column, table[name].type))


def test_bad_rows_are_handed_back_with_the_reason_and_the_rest_goes_on(home: Home, model: ServedModel) -> None:
    """A NaN becomes a default, and its user a decision on nothing; or one such row costs the other million."""
    good = batches.rows(GENERATION, 150, timed=True)
    table = good.set_column(
        good.column_names.index("form_density"), "form_density", good["form_density"].cast(pa.float64())
    )
    table = _changed(table, "form_density", {3: float("nan"), 4: None, 5: 1.5, 6: float("inf"), 70: -0.1})
    table = _changed(table, "budget_left", {5: 2.0})
    table = _changed(table, "agent_id", {7: None, 8: " "})
    table = _changed(table, "test_id", {8: None})
    table = _changed(table, "request_id", {9: None})
    table = _changed(table, "event_time", {10: None, 11: datetime(1969, 12, 31, tzinfo=UTC)})
    result = home.score(home.input(table), model)
    found, expected = read(result).to_pylist(), by_hand(home, model, good)
    reasons = {
        3: "form_density is missing",
        4: "form_density is missing",
        5: "budget_left=2.0 is not within 0..1; form_density=1.5 is not within 0..1",
        6: "form_density=inf is not within 0..1",
        7: "agent_id is missing",
        8: "agent_id is missing; test_id is missing",
        9: "request_id is missing",
        10: "event_time is missing",
        11: "event_time is not within 1970..2199",
        70: "form_density=-0.1 is not within 0..1",
    }
    assert {row["row"]: row["reason"] for row in found if row["reason"]} == reasons
    assert result.tally.refused == len(reasons)
    empty = ("action", "action_name", "q_values", "confidence", "missing_features")
    for row, wanted in zip(found, expected, strict=True):
        if row["row"] in reasons:
            assert [row[name] for name in empty] == [None] * len(empty)
            assert row["request_id"] == (None if row["row"] == 9 else wanted["request_id"])
        else:
            assert (row["action"], row["missing_features"]) == (wanted["action"], wanted["missing_features"])
            assert row["q_values"] == pytest.approx(wanted["q_values"], rel=1e-5)


def test_states_of_another_length_are_bad_rows(home: Home, model: ServedModel) -> None:
    """Lists of any length are one parquet type, so only the row tells."""
    good = as_states(batches.rows(GENERATION, 5), GENERATION)
    table = _changed(good, "state", {1: [0.5] * 12, 3: None, 4: [0.5] * 12 + [None]})
    found = home.score_table(table, model)
    assert found["reason"].to_pylist() == [
        None, "state has 12 numbers, expected 13", None, "state is missing", "coverage_accessibility is missing",
    ]  # fmt: skip
    assert found["action"].to_pylist()[::2][:2] == home.score_table(good, model)["action"].to_pylist()[::2][:2]


def test_a_batch_of_bad_rows_only_and_one_of_no_rows_are_batches(home: Home, model: ServedModel) -> None:
    """An empty night must not turn the pipeline red, nor lose what came in."""
    table = batches.rows(GENERATION, 3)
    bad = home.score(home.input(_changed(table, "agent_id", dict.fromkeys(range(3)))), model)
    assert (bad.tally.rows, bad.tally.refused, bad.tally.actions) == (3, 3, {})
    none = home.score(home.input(table.slice(0, 0)), model)
    assert (none.tally.rows, none.parts, none.reused) == (0, 0, False)
    assert home.score(home.input(table.slice(0, 0)), model).reused


def test_values_that_are_not_finite_are_no_decision(home: Home) -> None:
    """Argmax of NaN is action 0, for everybody."""
    model = served_model(GENERATION, values=[1.0, float("nan"), 0.0, 0.0, 0.0])
    result = home.score(home.input(batches.rows(GENERATION, 3)), model)
    assert result.tally.refused == 3
    assert read(result)["reason"].to_pylist() == ["the model gives no finite action values"] * 3


def test_a_whole_number_and_a_flag_are_numbers(home: Home, model: ServedModel) -> None:
    """Users' columns are of the type that their tool chose."""
    table = batches.rows(GENERATION, 4)
    ones = {"form_density": pa.array([1, 0, 1, 0]), "state_density": pa.array([True, False, True, False]),
            "budget_left": pa.array([Decimal("1.0"), Decimal("0.0"), Decimal("1.0"), Decimal("0.0")])}  # fmt: skip
    for name, values in ones.items():
        table = table.set_column(table.column_names.index(name), name, values)
    plain = pa.table({n: table[n].cast(pa.float32()) if n in ones else table[n] for n in table.column_names})
    encoded = table.set_column(1, "agent_id", table["agent_id"].dictionary_encode())
    assert home.score_table(encoded, model) == home.score_table(plain, model)


_CHILD = """
import signal, sys
from pathlib import Path
from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.serving.batch import answer
from mlops_assets.serving.batch_input import parquet_input
from mlops_assets_tests.serving.batches import Home
from mlops_assets_tests.serving.served import served_model

spec = agent_spec("generation")
model = served_model(spec)

def stopping(chunks):
    for chunk in chunks:
        if chunk.number == 3:
            print("three parts are written", flush=True)
            signal.pause()
        yield answer(model, chunk)

home = Home(ArtifactPaths(Path(sys.argv[1])), spec)
home.score(parquet_input(Path(sys.argv[2]), spec), model, scorer=stopping)
"""


@pytest.mark.slow
def test_after_kill_nine_the_rest_is_scored_and_every_byte_is_the_same(
    home: Home, model: ServedModel, tmp_path: Path
) -> None:
    """A killed batch starts from scratch, or what it left is taken for whole."""
    batch = home.input(batches.rows(GENERATION, 6 * CHUNK_ROWS - 5))
    file = tmp_path / "batch.parquet"
    command = [sys.executable, "-c", _CHILD, str(home.paths.home), str(file)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "three parts are written\n"
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    (folder,) = home.paths.batch_predictions("generation").iterdir()
    assert not (folder / "manifest.json").exists()
    whole = {path.name: path.stat().st_mtime_ns for path in sorted((folder / "predictions").iterdir())}
    assert list(whole) == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    # What a kill in the middle of a write leaves behind, and a part that the disk has damaged since.
    half = folder / "predictions" / ".part-00003.parquet.0123.tmp"
    half.write_bytes(b"PAR1 half a part")
    damaged = folder / "predictions" / "part-00001.parquet"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 4] ^= 0xFF
    damaged.write_bytes(content)

    lines: list[str] = []
    resumed = home.score(batch, model, log=lines.append)
    assert (resumed.folder, resumed.parts, resumed.kept_parts, resumed.reused) == (folder, 6, 2, False)
    assert lines[0] == "2 of 6 parts are there already and are kept"
    assert not half.exists()
    after = {path.name: path.stat().st_mtime_ns for path in resumed.predictions.iterdir()}
    assert {name: after[name] for name in ("part-00000.parquet", "part-00002.parquet")} == {
        name: whole[name] for name in ("part-00000.parquet", "part-00002.parquet")
    }
    undisturbed = batches.home(tmp_path / "undisturbed", GENERATION)
    reference = undisturbed.score(batch, model)
    assert batches.parts(resumed) == batches.parts(reference)
    assert (resumed.folder / "manifest.json").read_bytes() == (reference.folder / "manifest.json").read_bytes()
    assert resumed.tally == reference.tally
    assert reference.tally.rows == 6 * CHUNK_ROWS - 5


def test_a_finished_batch_is_reused_and_a_damaged_one_is_mended(home: Home, model: ServedModel) -> None:
    """A second start doubles the work, or hands out a part that somebody has cut off."""
    batch = home.input(batches.rows(GENERATION, 3 * CHUNK_ROWS))
    first = home.score(batch, model)
    before = batches.parts(first)
    asked: list[int] = []

    def scorer(chunks: Iterator[Chunk]) -> Iterator[Answers]:
        for chunk in chunks:
            asked.append(chunk.number)
            yield answer(model, chunk)

    second = home.score(batch, model, scorer=scorer)
    assert (second.reused, second.key, second.tally, asked) == (True, first.key, first.tally, [])
    assert second.network_rows_per_second is None
    (first.predictions / "part-00001.parquet").write_bytes(before["part-00001.parquet"][:-100])
    third = home.score(batch, model, scorer=scorer)
    assert (third.reused, third.kept_parts, asked) == (False, 2, [1])
    assert batches.parts(third) == before
    assert third.tally == first.tally


def test_other_rows_models_and_features_have_other_folders(home: Home, model: ServedModel) -> None:
    """Yesterday's answers for today's question."""
    table = batches.rows(GENERATION, 10)
    keys = [home.score(home.input(table), model).key]
    keys.append(home.score(home.input(table.slice(1)), model).key)
    keys.append(home.score(home.input(table), served_model(GENERATION, "1.1.0")).key)
    tomorrow = BatchFeatures(GENERATION, home.store, home.paths, AS_OF.replace(day=AS_OF.day + 1))
    assert tomorrow.identity(timed=True) == home.features.identity(timed=True)
    assert tomorrow.identity(timed=False) != home.features.identity(timed=False)
    later = BatchFeatures(GENERATION, home.store, home.paths, AS_OF.replace(hour=AS_OF.hour + 5))
    assert later.identity(timed=False) == home.features.identity(timed=False)
    home.store.write_agent_features("generation", _feature_of(home, "agent-0", day=9), start=AS_OF.replace(hour=0))
    keys.append(home.score(home.input(table), model).key)
    assert len(set(keys)) == 4


def _feature_of(home: Home, agent_id: str, *, day: int) -> pa.Table:
    view = AGENT_CONTEXT_FEATURES
    time = batches.MONDAY.replace(day=batches.MONDAY.day + day)
    values = {view.key: agent_id, "event_timestamp": time, "created": time}
    columns = {n: pa.array([values.get(n, 1)], view.schema.field(n).type) for n in view.schema.names}
    return pa.table(columns)


def test_an_input_that_changes_meanwhile_is_not_published(home: Home, model: ServedModel, tmp_path: Path) -> None:
    """Half of the answers belong to rows that are not there any more, under the name of the old ones."""
    batch = home.input(batches.rows(GENERATION, 3 * CHUNK_ROWS))

    def scorer(chunks: Iterator[Chunk]) -> Iterator[Answers]:
        for chunk in chunks:
            if chunk.number == 2:
                pq.write_table(batches.rows(GENERATION, 3 * CHUNK_ROWS, seed=1), tmp_path / "batch.parquet")
            yield answer(model, chunk)

    with pytest.raises(InputError, match="changed while it was scored, so nothing was published"):
        home.score(batch, model, scorer=scorer)
    (folder,) = home.paths.batch_predictions("generation").iterdir()
    assert [path.name for path in folder.iterdir()] == [".lock"]


@pytest.mark.parametrize("timed", [False, True], ids=["online", "point in time"])
def test_features_that_change_meanwhile_are_not_published(home: Home, model: ServedModel, *, timed: bool) -> None:
    """Answers from two states of the features are published, and reused, under the name of the first."""
    batch = home.input(batches.rows(GENERATION, 3 * CHUNK_ROWS, timed=timed))

    def scorer(chunks: Iterator[Chunk]) -> Iterator[Answers]:
        for chunk in chunks:
            if chunk.number == 2:
                rows = _feature_of(home, "agent-0", day=9)
                home.store.write_agent_features("generation", rows, start=AS_OF.replace(hour=0))
            yield answer(model, chunk)

    with pytest.raises(TransientError, match=r"features changed while .* was scored, so nothing was published"):
        home.score(batch, model, scorer=scorer)
    (folder,) = home.paths.batch_predictions("generation").iterdir()
    assert [path.name for path in folder.iterdir()] == [".lock"]
    again = home.score(batch, model)
    assert (again.reused, again.kept_parts, again.key != folder.name) == (False, 0, True)


def test_a_failing_scorer_leaves_no_manifest(home: Home, model: ServedModel) -> None:
    """A batch whose cluster died in the middle looks finished."""

    def scorer(chunks: Iterator[Chunk]) -> Iterator[Answers]:
        yield answer(model, next(chunks))
        raise TransientError("the cluster is gone")

    batch = home.input(batches.rows(GENERATION, 3 * CHUNK_ROWS))
    with pytest.raises(TransientError):
        home.score(batch, model, scorer=scorer)
    assert list(home.paths.batch_predictions("generation").rglob("manifest.json")) == []
    assert home.score(batch, model).kept_parts == 1


@pytest.mark.parametrize(
    ("before", "after", "total", "expected"),
    [
        (0, 100, 10_000, False),
        (900, 1000, 10_000, True),
        (950, 1050, 10_000, True),
        (0, 65_536, 10_000_000, True),
        (1000, 1050, 1050, True),
        (0, 50, 50, True),
        (1050, 1050, 1050, False),
        (1000, 1999, 10_000, False),
    ],
)
def test_progress_is_told_when_a_thousand_is_crossed(before: int, after: int, total: int, *, expected: bool) -> None:
    """Asked with `% 1000 == 0`, a chunk that is no divisor of 1000 is never told, nor the last partial one."""
    assert crossed(before, after, 1000, total) == expected


def test_the_log_tells_rows_refusals_and_missing_features_to_the_last(home: Home, model: ServedModel) -> None:
    """A batch of hours that says nothing, or stops saying something before it ends."""
    table = _changed(batches.rows(GENERATION, 150), "agent_id", {149: None})
    lines: list[str] = []
    result = home.score(home.input(table), model, log=lines.append, progress_rows=100)
    shown = [re.sub(r"[\d,]+ with", "some with", line) for line in lines]
    assert shown == [
        "128 of 150 rows (85%), 0 refused, some with a missing feature",
        "150 of 150 rows (100%), 1 refused, some with a missing feature",
    ]
    assert lines[-1].endswith(f"{result.tally.incomplete} with a missing feature")
    assert sum(bool(row) for row in read(result)["missing_features"].to_pylist()) == result.tally.incomplete


@given(arrays(np.float32, st.tuples(st.integers(0, 20), st.integers(1, 7)), elements=st.floats(-50, 50, width=32)))
def test_confidences_are_those_of_real_time(q_values: np.ndarray) -> None:
    """The same decision has two confidences."""
    assert confidences(q_values).tolist() == [confidence_of(row) for row in q_values]


def test_a_version_of_another_agent_cannot_be_given_this_batch(home: Home) -> None:
    """The rows of one agent are no states of another."""
    batch: BatchInput = home.input(batches.rows(GENERATION, 3))
    spec: AgentSpec = agent_spec("execution")
    with pytest.raises(InputError, match=r"rows of agent 'generation', .* for agent 'execution'"):
        home.score(batch, served_model(spec))
