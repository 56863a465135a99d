"""The prediction log: every answer once, through kills, a database that is away, and a disk that is full."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, select
from sqlalchemy.exc import OperationalError

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import InputError, StorageError
from mlops_assets.foundation.tables import PredictionRecord, ShadowPredictionRecord
from mlops_assets.serving.journal import JournalFolder
from mlops_assets.serving.prediction_log import LogFull, PredictionLog
from mlops_assets.serving.prediction_rows import PREDICTION, SHADOW, decode_entry, encode_entry
from mlops_assets_tests.experiences.served import prediction_row
from mlops_assets_tests.programs import wait_for

SPEC = AGENTS["execution"]
NOW = datetime(2026, 3, 6, 12, tzinfo=UTC)


def row(number: int, **changes: Any) -> dict[str, Any]:
    """A log row."""
    record = prediction_row(SPEC, f"p{number:06d}", event_time=NOW + timedelta(seconds=number), **changes)
    return {c.name: getattr(record, c.name) for c in PredictionRecord.__table__.columns}


@pytest.fixture
def new_log(engine: Engine, tmp_path: Path) -> Iterator[Callable[..., PredictionLog]]:
    """Make started logs; those that a test did not stop are stopped."""
    made: list[PredictionLog] = []

    def create(*, start: bool = True, **options: Any) -> PredictionLog:
        log = PredictionLog(engine, tmp_path / "journal", **{"flush_ms": 5.0, "queue_rows": 1000, **options})
        made.append(log)
        if start:
            log.start()
        return log

    yield create
    for log in made:
        log.stop()


def stored(engine: Engine) -> list[str]:
    """Ids in the database."""
    with read_transaction(engine) as session:
        return list(session.scalars(select(PredictionRecord.prediction_id).order_by(PredictionRecord.prediction_id)))


def shadow_row(number: int) -> dict[str, Any]:
    """What a shadow would have answered."""
    return {
        "prediction_id": f"p{number:06d}",
        "model_name": "m",
        "model_version": "2.0.0",
        "q_values": [0.0, 1.0],
        "action": 1,
        "latency_ms": 0.5,
        "event_time": NOW,
    }


def stored_shadows(engine: Engine) -> list[str]:
    """Ids of what shadows said, in the database."""
    key = ShadowPredictionRecord.prediction_id
    with read_transaction(engine) as session:
        return list(session.scalars(select(key).order_by(key)))


def test_every_answer_is_stored_once_as_it_was(engine: Engine, new_log: Callable[..., PredictionLog]) -> None:
    """A column is lost or changed on the way through the journal."""
    log = new_log()
    rows = [
        row(i, missing_features=["a"], q_values=[0.1, -1e-9, 3.0, 1e30], user_hash="é" if i else None)
        for i in range(50)
    ]
    for one in rows:
        log.append([one])
    wait_for(lambda: log.unshipped == 0)
    with read_transaction(engine) as session:
        found = session.scalars(select(PredictionRecord).order_by(PredictionRecord.prediction_id)).all()
    assert [{name: getattr(record, name) for name in rows[0]} for record in found] == rows
    assert log.find("p000000") is None


def test_an_answer_is_found_before_it_is_stored(new_log: Callable[..., PredictionLog]) -> None:
    """Who asks for the explanation right after the answer is told that there is no such decision."""
    log = new_log(start=False)
    log.append([row(1)])
    assert (log.find("p000001") or {})["agent"] == "execution"
    assert (log.unshipped, log.in_memory) == (1, 1)


def test_a_database_that_is_away_loses_nothing(engine: Engine, new_log: Callable[..., PredictionLog]) -> None:
    """A restart of the database costs the answers of its minute, or the server stops answering."""
    away = [True]

    def refuse(*_: Any) -> None:
        if away[0]:
            raise OperationalError("INSERT", {}, Exception("server closed the connection unexpectedly"))

    event.listen(engine, "before_cursor_execute", refuse)
    try:
        failures: list[str] = []
        log = new_log(on_failure=failures.append)
        for i in range(30):
            log.append([row(i)])
        wait_for(lambda: "database" in failures)
        wait_for(lambda: log.in_memory == 0)
        assert log.unshipped == 30
        away[0] = False
        wait_for(lambda: log.unshipped == 0)
    finally:
        event.remove(engine, "before_cursor_execute", refuse)
    assert stored(engine) == [f"p{i:06d}" for i in range(30)]


@pytest.mark.parametrize("error", [StorageError("the disk is full"), OSError(5, "Input/output error")])
def test_a_full_disk_refuses_further_answers(
    new_log: Callable[..., PredictionLog], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Answers go out that nobody can ever account for, and memory grows without end."""
    full = [True]
    real = JournalFolder.append

    def append(self: JournalFolder, lines: str) -> None:
        if full[0]:
            raise error
        real(self, lines)

    monkeypatch.setattr(JournalFolder, "append", append)
    log = new_log(queue_rows=10)
    # Slower than the flush: what could not be written counts as well as what was not tried yet.
    for i in range(10):
        log.append([row(i)])
        time.sleep(0.01)
    with pytest.raises(LogFull, match="10 answers wait for the disk"):
        log.append([row(10)])
    assert log.problem == str(error)
    full[0] = False
    wait_for(lambda: log.unshipped == 0)
    log.append([row(11)])
    wait_for(lambda: log.unshipped == 0)
    wait_for(lambda: log.problem is None)


def test_a_batch_is_logged_as_a_whole_or_not_at_all(new_log: Callable[..., PredictionLog]) -> None:
    """Half of a refused batch is in the log, and once more when the client tries again."""
    log = new_log(start=False, queue_rows=10)
    log.append([row(i) for i in range(6)])
    with pytest.raises(LogFull):
        log.append([row(i) for i in range(6, 11)])
    assert log.in_memory == 6
    log.append([row(i) for i in range(6, 10)])
    assert log.find("p000009") is not None


def test_what_the_journal_never_took_goes_to_the_database_at_the_end(
    engine: Engine, new_log: Callable[..., PredictionLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is stopped with a full disk drops what it answered."""

    def refuse(_self: JournalFolder, _lines: str) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(JournalFolder, "append", refuse)
    log = new_log()
    for i in range(5):
        log.append([row(i)])
    log.append_shadows([shadow_row(0)])
    log.stop()
    assert len(stored(engine)) == 5
    assert stored_shadows(engine) == ["p000000"]


def test_memory_is_bounded_while_the_database_is_away(new_log: Callable[..., PredictionLog]) -> None:
    """An hour without database is gigabytes of answers in memory."""
    log = new_log(start=False, queue_rows=50)
    for i in range(50):
        log.append([row(i)])
    log._rows.clear()  # as if they were in the journal
    for i in range(50, 80):
        log.append([row(i)])
    assert log.unshipped == 80
    assert log.find("p000079") is not None
    assert log.find("p000000") is None
    assert len(log._recent) == 50


def test_a_journal_of_another_user_does_not_stop_the_others(
    engine: Engine, new_log: Callable[..., PredictionLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One folder that cannot be opened ends the shipping of all others, and nobody says so."""
    (tmp_path / "journal" / "1-foreign").mkdir(parents=True)
    (tmp_path / "journal" / "1-foreign" / ".lock").touch()
    real = os.open

    def guarded(path: Any, *arguments: Any, **options: Any) -> int:
        if "1-foreign" in str(path):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", guarded)
    log = new_log()
    log.append([row(1)])
    wait_for(lambda: log.unshipped == 0)
    assert stored(engine) == ["p000001"]


def test_one_bad_row_does_not_hold_up_the_others(
    engine: Engine, new_log: Callable[..., PredictionLog], tmp_path: Path
) -> None:
    """A row that the database never takes blocks the log for ever."""
    failures: list[str] = []
    log = new_log(on_failure=failures.append)
    log.append([row(1)])
    log.append([row(2, agent_id=None)])
    log.append([row(3)])
    wait_for(lambda: log.unshipped == 0)
    assert stored(engine) == ["p000001", "p000003"]
    assert failures == ["rejected"]
    kind, kept = decode_entry((tmp_path / "journal" / "rejected.jsonl").read_text())
    assert (kind, kept["prediction_id"]) == (PREDICTION, "p000002")


def test_rows_of_shadows_go_the_same_way(engine: Engine, new_log: Callable[..., PredictionLog]) -> None:
    """What a shadow said is lost, also when nothing else is left to be shipped at the end."""
    log = new_log(flush_ms=100.0)
    log.append_shadows([shadow_row(1), shadow_row(2)])
    log.stop()
    assert stored_shadows(engine) == ["p000001", "p000002"]


def test_a_full_disk_keeps_shadows_and_counts_those_it_has_no_room_for(
    engine: Engine, new_log: Callable[..., PredictionLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a shadow said before the disk was full is lost, and nobody knows; or it fills the memory."""
    refused = [PREDICTION, SHADOW]
    real = JournalFolder.append

    def append(self: JournalFolder, lines: str) -> None:
        if any(f'["{kind}"' in lines for kind in refused):
            raise StorageError("the disk is full")
        real(self, lines)

    monkeypatch.setattr(JournalFolder, "append", append)
    failures: list[str] = []
    log = new_log(queue_rows=3, on_failure=failures.append)
    log.append([row(1)])
    log.append_shadows([shadow_row(1), shadow_row(2)])
    wait_for(lambda: "journal" in failures)
    assert "shadow_row" not in failures
    log.append_shadows([shadow_row(3), shadow_row(4)])
    assert failures.count("shadow_row") == 2
    # The disk has room for an answer, but not for what shadows said as well.
    refused.remove(PREDICTION)
    wait_for(lambda: stored(engine) == ["p000001"])
    refused.clear()
    wait_for(lambda: stored_shadows(engine) == ["p000001", "p000002"])
    log.append_shadows([shadow_row(5)])
    wait_for(lambda: len(stored_shadows(engine)) == 3)
    assert failures.count("shadow_row") == 2


def test_a_stop_writes_everything_down(engine: Engine, new_log: Callable[..., PredictionLog], tmp_path: Path) -> None:
    """The last answers before a deployment are lost."""
    log = new_log(flush_ms=100.0)
    for i in range(500):
        log.append([row(i)])
    log.stop()
    assert len(stored(engine)) == 500
    assert list((tmp_path / "journal").glob("*-*")) == []


_SERVER = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, ".")
from mlops_assets.foundation.database import create_operational_engine
from mlops_assets.serving.prediction_log import PredictionLog
from mlops_assets_tests.serving.test_prediction_log import row
log = PredictionLog(create_operational_engine(sys.argv[1]), Path(sys.argv[2]), flush_ms=50.0, queue_rows=100000)
log.start()
for i in range(1000000):
    log.append([row(i)])
    print(i, time.time(), flush=True)
    time.sleep(0.002)
"""


def test_a_kill_loses_no_more_than_a_tenth_of_a_second_and_doubles_nothing(
    engine: Engine, new_log: Callable[..., PredictionLog], tmp_path: Path
) -> None:
    """`kill -9` costs more than the stated bound, or its rows are logged twice."""
    url = engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", _SERVER, url, str(tmp_path / "journal")]
    answered: list[tuple[int, float]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        for line in process.stdout:
            number, moment = line.split()
            answered.append((int(number), float(moment)))
            if len(answered) == 700:
                os.kill(process.pid, signal.SIGKILL)
                break
        killed_at = time.time()
        answered += [
            (int(line.split()[0]), float(line.split()[1])) for line in process.stdout if len(line.split()) == 2
        ]
    log = new_log()
    # The dead process's journal is taken over at once; 50 ms of flushing and as much of writing are the bound.
    durable = {f"p{number:06d}" for number, moment in answered if moment < killed_at - 0.1}
    assert len(durable) > 400
    wait_for(lambda: durable <= set(stored(engine)))
    wait_for(lambda: [path.name for path in (tmp_path / "journal").glob("*-*")] == [log._journal.folder.name])
    ids = stored(engine)
    assert len(ids) == len(set(ids))


def test_a_journal_that_is_read_twice_changes_nothing(engine: Engine) -> None:
    """A crash between insert and bookkeeping logs an answer twice."""
    from mlops_assets.serving.prediction_rows import insert_entries

    lines = [encode_entry(PREDICTION, row(i)) for i in range(3)]
    for _ in range(2):
        with transaction(engine) as session:
            insert_entries(session, [decode_entry(line) for line in lines])
    assert len(stored(engine)) == 3


def test_a_journal_of_before_an_upgrade_is_read_with_the_new_one(engine: Engine) -> None:
    """Rows of both in one insert are refused, or lose the columns that the first does not have."""
    from mlops_assets.serving.prediction_rows import insert_entries

    old, new = row(1), row(2, arms={"versions": {"control": "1.0.0"}, "shares": {}})
    del old["arms"]
    lines = [encode_entry(PREDICTION, one) for one in (old, new)]
    with transaction(engine) as session:
        insert_entries(session, [decode_entry(line) for line in lines])
    with read_transaction(engine) as session:
        assert [session.get_one(PredictionRecord, one["prediction_id"]).arms for one in (old, new)] == [
            None,
            new["arms"],
        ]


@pytest.mark.parametrize(
    "line", ["", "{}", "[]", '["prediction"]', '["other", {"event_time": "2026-01-01T00:00:00+00:00"}]', "null\n"]
)
def test_foreign_lines_are_refused(line: str) -> None:
    """A damaged line stops the log instead of being set aside."""
    with pytest.raises(InputError, match="no entry of the prediction journal"):
        decode_entry(line)
    assert json.loads(encode_entry(PREDICTION, row(1)))[0] == PREDICTION
