"""CI histories: RETECS-like files and lists of end-to-end runs."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_assets.experiences.ci_history import CiHistoryFile
from mlops_assets.experiences.execution_source import SourceBatch
from mlops_assets.experiences.identity import IdentityRules
from mlops_assets.foundation.errors import InputError

NOW = datetime(2026, 11, 1, tzinfo=UTC)
HEADER = "Id;Name;Duration;CalcPrio;LastRun;LastResults;Verdict;Cycle"


def read(path: Path, **options: Any) -> SourceBatch:
    (batch,) = CiHistoryFile(path, IdentityRules(), **options).batches(frozenset())
    return batch


def write(tmp_path: Path, *lines: str, header: str = HEADER, end: str = "\n", name: str = "hist.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(("\n".join((header, *lines)) + end).encode())
    return path


def reasons(batch: SourceBatch) -> list[tuple[int | None, str]]:
    return [(problem.line, problem.reason) for problem in batch.quarantined]


def test_rows_keep_their_order_and_repeats(tmp_path: Path) -> None:
    """A test that ran twice in a cycle is two executions, and the row order is part of the benchmark."""
    batch = read(
        write(
            tmp_path,
            "1;t9;1000;0;2015-02-13 16:13:00;[];1;2",
            "2;t1;2000;0;2015-02-13 16:13:00;[1, 0];0;2",
            "3;t9;1000;0;2015-02-13 16:17:00;[1];0;2",
            "4;t9;1000;0;2015-02-14 09:00:00;[0, 1];0;10",
        )
    )
    rows = sorted(batch.executions.to_pylist(), key=lambda r: (r["cycle_id"], r["execution_id"]))
    assert [(r["test_id"], r["status"], r["cycle_id"], r["duration_ms"]) for r in rows] == [
        ("hist › t9", "failed", "hist-0000000002", 1_000.0),
        ("hist › t1", "passed", "hist-0000000002", 2_000.0),
        ("hist › t9", "passed", "hist-0000000002", 1_000.0),
        ("hist › t9", "passed", "hist-0000000010", 1_000.0),
    ]
    assert rows[2]["started_at"].astimezone(UTC) == datetime(2015, 2, 13, 16, 17, tzinfo=UTC)
    assert rows[2]["cycle_started_at"].astimezone(UTC) == datetime(2015, 2, 13, 16, 13, tzinfo=UTC)
    assert batch.quarantined == ()


def test_seconds_with_thousands_commas_are_told_from_milliseconds(tmp_path: Path) -> None:
    """One file counts in milliseconds, another in seconds with `1,002.934`."""
    lines = ("1;a;0.235;0;2014-02-22 08:20:05;[];0;1", "2;b;1,002.934;0;2014-02-22 08:20:05;[];0;1")
    path = write(tmp_path, *lines)
    assert read(path).executions["duration_ms"].to_pylist() == [235.0, 1_002_934.0]
    assert read(path, duration_unit="ms").executions["duration_ms"].to_pylist() == [0.235, 1_002.934]
    whole = write(tmp_path, "1;a;5;0;2014-02-22 08:20:05;[];0;1", name="whole.csv")
    assert read(whole).executions["duration_ms"].to_pylist() == [5.0]
    assert read(whole, duration_unit="s").executions["duration_ms"].to_pylist() == [5_000.0]


def test_a_cut_file_loses_its_last_cycle_and_the_whole_file_brings_it(tmp_path: Path) -> None:
    """The rest of the last cycle is unknown: half a cycle would be scored as a whole one."""
    lines = [f'{i},t{i},5,0,2016-01-1{c} 09:00:00,"[0, 1]",0,{c}' for i, c in enumerate((1, 1, 2, 2, 2))]
    header = HEADER.replace(";", ",")
    cut = read(write(tmp_path, *lines[:4], lines[4][:35], header=header, end=""))
    assert reasons(cut) == [(6, "truncated"), (4, "incomplete_cycle"), (5, "incomplete_cycle")]
    assert set(cut.executions["cycle_id"].to_pylist()) == {"hist-0000000001"}
    whole = read(write(tmp_path, *lines, header=header))
    assert reasons(whole) == []
    assert whole.executions["execution_id"].to_pylist()[:2] == cut.executions["execution_id"].to_pylist()


def test_bad_rows_are_put_aside_with_their_line(tmp_path: Path) -> None:
    """One bad row of a hundred thousand must cost one row."""
    good = "1;t;5;0;2015-02-13 16:13:00;[];0;1"
    batch = read(
        write(
            tmp_path,
            good,
            "2;t;-5;0;2015-02-13 16:13:00;[];0;1",
            "3;t;5;0;2015-02-13 16:13:00;[];2;1",
            "4;t;5;0;some day;[];0;1",
            "5;t;5;0;;[];0;1",
            "6;;5;0;2015-02-13 16:13:00;[];0;1",
            "7;t;5;0;2015-02-13 16:13:00;[];0;",
            "8;t;99999999999;0;2015-02-13 16:13:00;[];0;1",
            "9;t;5;0",
            "",
            good,
        )
    )
    assert sorted(reasons(batch), key=str) == sorted(
        [(3, "negative_duration"), (4, "unknown_status"), (5, "bad_timestamp"), (6, "no_timestamp"), (7, "no_test"),
         (8, "no_cycle"), (9, "absurd_duration"), (10, "truncated")], key=str,
    )  # fmt: skip
    assert batch.executions.num_rows == 2


def test_bytes_that_are_no_utf8_cost_their_line_only(tmp_path: Path) -> None:
    """A single Latin-1 name must not make the whole history unreadable."""
    path = write(tmp_path, "1;tést;5;0;2015-02-13 16:13:00;[];0;1", "2;ok;5;0;2015-02-13 16:13:00;[];0;1")
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xe9"))
    batch = read(path)
    assert reasons(batch) == [(2, "bad_encoding")]
    assert batch.executions["test_name"].to_pylist() == ["ok"]


def test_end_to_end_runs_are_read_with_normalised_titles(tmp_path: Path) -> None:
    """Random data in titles would make every run's tests new ones."""
    header = "run,commit,committed,suite,test,status,start_ms,stop_ms,duration_ms,retries,flaky,params"
    line = "{run},a5,2022-05-25T08:23:42+00:00,suites > C27,{test},{status},{start},0,7540,{retries},0,{params}"
    batch = read(
        write(
            tmp_path,
            line.format(
                run=9,
                test="delete project7xc2p",
                status="broken",
                start=1_653_466_663_345,
                retries=2,
                params="chrome-101.0",
            ),
            line.format(
                run=10,
                test="delete projectr5gia.",
                status="passed",
                start=1_653_566_663_345,
                retries=0,
                params="chrome-102.0",
            ),
            line.format(run=10, test="x", status="skipped", start=1_653_566_663_345, retries="few", params=""),
            header=header,
        )
    )
    rows = batch.executions.to_pylist()
    assert [(r["test_id"], r["status"], r["retries"], r["cycle_id"]) for r in rows] == [
        ("suites > C27 › delete <random> [chrome]", "failed", 2, "hist-0000000009"),
        ("suites > C27 › delete <random> [chrome]", "passed", 0, "hist-0000000010"),
    ]
    assert rows[0]["test_name"] == "delete project7xc2p"
    assert reasons(batch) == [(4, "bad_count")]


def test_parquet_is_read_like_csv(tmp_path: Path) -> None:
    """The same history as parquet, with typed columns, gives the same executions."""
    csv = read(write(tmp_path, "1;7;5;0;2015-02-13 16:13:00;[];1;1", "2;8;6;0;2015-02-13 16:14:00;[1];0;1"))
    path = tmp_path / "hist.parquet"
    pq.write_table(
        pa.table(
            {
                "Name": [7, 8],
                "Duration": [5.0, 6.0],
                "LastRun": [datetime(2015, 2, 13, 16, minute, tzinfo=UTC) for minute in (13, 14)],
                "Verdict": [1, 0],
                "Cycle": [1.0, 1.0],
                "LastResults": [[], [1]],
            }
        ),
        path,
    )
    columns = [name for name in csv.executions.column_names if name not in {"source_file", "source_hash"}]
    assert read(path).executions.select(columns).equals(csv.executions.select(columns))


def test_a_known_file_is_not_read_and_a_grown_one_keeps_its_ids(tmp_path: Path) -> None:
    """A nightly export of the whole history must not double it."""
    lines = [f"{i};t{i};5;0;2016-01-1{c} 09:00:00;[];0;{c}" for i, c in enumerate((1, 1, 2))]
    before = read(write(tmp_path, *lines[:2]))
    path = write(tmp_path, *lines)
    assert list(CiHistoryFile(path, IdentityRules()).batches({read(path).source_hash})) == []
    assert read(path).executions["execution_id"].to_pylist()[:2] == before.executions["execution_id"].to_pylist()


def test_as_of_is_the_end_of_the_history(tmp_path: Path) -> None:
    """A closed history is not stale because it is old; a clock gone wrong must not move its end into the future."""
    path = write(
        tmp_path, "1;t;5;0;2015-02-13 16:13:00;[];0;1", "2;t;5;0;2015-02-12 16:13:00;[];0;1", "3;t;5;0;x;[];0;1"
    )
    assert CiHistoryFile(path, IdentityRules()).as_of(NOW) == datetime(2015, 2, 13, 16, 13, tzinfo=UTC)
    late = write(tmp_path, "1;t;5;0;2190-01-01 00:00:00;[];0;1", name="late.csv")
    assert CiHistoryFile(late, IdentityRules()).as_of(NOW) == NOW


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b,c\n1,2,3\n", "columns a, b, c.*needed are name, duration"),
        (b"", r"columns \(none\)"),
        (b"PAR1 and nothing else", "parquet"),
    ],
)
def test_files_of_another_kind_are_refused_with_what_is_needed(tmp_path: Path, content: bytes, message: str) -> None:
    """A schema change must name the columns."""
    path = tmp_path / "hist.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(path)


def test_missing_and_too_large_files_are_refused_with_advice(tmp_path: Path) -> None:
    """A limit that is not stated is a crash."""
    with pytest.raises(InputError, match=r"does not exist.*MLOPS_SOURCE_PATH"):
        read(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match="split it by cycle"):
        read(write(tmp_path), max_bytes=10)


def test_a_history_without_rows_says_so(tmp_path: Path) -> None:
    """No rows at all must not look like success."""
    assert reasons(read(write(tmp_path))) == [(None, "no_rows")]


@pytest.mark.parametrize(
    ("name", "rows", "cycles", "tests", "failing"),
    [
        ("iofrol", 32_260, 320, 1_941, 9_289),
        ("paintcontrol_partial", 8_826, 139, 78, None),
        ("deeplearning4j", 10_206, 341, 117, 549),
        ("agm_web_e2e", 4_100, 57, None, 136),
    ],
)
def test_real_histories(
    shared_data: Path, name: str, rows: int, cycles: int, tests: int | None, failing: int | None
) -> None:
    """The published sizes of the real histories come out."""
    table = read(shared_data / "ci_histories" / f"{name}.csv").executions
    assert (table.num_rows, len(set(table["cycle_id"].to_pylist()))) == (rows, cycles)
    assert len(set(table["execution_id"].to_pylist())) == rows
    assert tests is None or len(set(table["test_id"].to_pylist())) == tests
    assert failing is None or Counter(table["status"].to_pylist())["failed"] == failing


def test_random_titles_of_the_real_end_to_end_runs_are_mostly_normalised(shared_data: Path) -> None:
    """724 raw identities, 514 of them seen once, would leave nothing to learn from."""
    table = read(shared_data / "ci_histories" / "agm_web_e2e.csv").executions
    seen = Counter(table["test_id"].to_pylist())
    assert len(seen) < 350
    assert sum(count == 1 for count in seen.values()) < 120


def test_a_cell_without_end_costs_its_line_only(tmp_path: Path) -> None:
    """A cell beyond the CSV reader's limit must not hide the lines after it."""
    huge = "x" * 200_000
    batch = read(write(tmp_path, f"1;{huge};5;0;2015-02-13 16:13:00;[];0;1", "2;ok;5;0;2015-02-13 16:13:00;[];0;1"))
    assert reasons(batch) == [(2, "malformed")]
    assert batch.executions["test_name"].to_pylist() == ["ok"]
