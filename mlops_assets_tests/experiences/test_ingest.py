"""Ingest: exactly once, every bad row on the books, and a crash heals."""

import signal
import subprocess
import sys
import textwrap
from collections.abc import Container, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from mlops_assets.experiences import ingest as ingest_module
from mlops_assets.experiences.ci_history import CiHistoryFile
from mlops_assets.experiences.execution_rows import Row, executions_table
from mlops_assets.experiences.execution_source import ExecutionSource, Quarantine, SourceBatch
from mlops_assets.experiences.executions import read_executions
from mlops_assets.experiences.identity import IdentityRules
from mlops_assets.experiences.ingest import ingest
from mlops_assets.experiences.reports.folder import ReportFolder
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.errors import InputError, StorageError
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.tables import IngestedSource, QuarantinedRow

NOW = datetime(2026, 2, 1, tzinfo=UTC)
RULES = IdentityRules()
JUNIT = "<testsuite timestamp='{time}'>\n<testcase classname='c' name='{name}' time='1'/>{more}</testsuite>"
BAD_CASE = "\n<testcase name='bad' time='-1'/>"


@pytest.fixture
def paths(tmp_path: Path) -> ArtifactPaths:
    return ArtifactPaths(tmp_path / "home")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "reports"
    path.mkdir()
    return path


def write(path: Path, name: str = "x", time: str = "2026-01-20T02:00:00Z", more: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(JUNIT.format(name=name, time=time, more=more))


def books(engine: Engine) -> tuple[list[IngestedSource], list[QuarantinedRow]]:
    with read_transaction(engine) as session:
        order = (QuarantinedRow.source_file, QuarantinedRow.line)
        return (
            list(session.scalars(select(IngestedSource).order_by(IngestedSource.source_file))),
            list(session.scalars(select(QuarantinedRow).order_by(*order))),
        )


class Batches:
    """A source of given batches."""

    kind = "given"

    def __init__(self, *batches: SourceBatch) -> None:
        self._batches = batches

    def as_of(self, now: datetime) -> datetime:
        return now

    def batches(self, known: Container[str]) -> Iterator[SourceBatch]:
        return (batch for batch in self._batches if batch.source_hash not in known)


def batch(name: str, *rows: Row, quarantined: tuple[Quarantine, ...] = ()) -> SourceBatch:
    return SourceBatch(name, name, executions_table(rows, source_file=name, source_hash=name), quarantined)


def row(name: str, *, status: str = "passed", duration_ms: float = 5.0, at: datetime | None = None) -> Row:
    return Row(
        identity=RULES.identity("", name, ""),
        test_name=name,
        framework="junit",
        status=status,
        started_at=at or datetime(2026, 1, 20, tzinfo=UTC),
        duration_ms=duration_ms,
        retries=0,
        flaky=False,
        cycle_id="c1",
        ordinal=0,
    )


def test_everything_is_stored_once_and_on_the_books(engine: Engine, paths: ArtifactPaths, folder: Path) -> None:
    """A second ingest of the same folder must do nothing, on both databases."""
    write(folder / "a.xml", "x", more=BAD_CASE)
    write(folder / "b" / "b.xml", "y", time="2026-01-21T02:00:00Z")
    (folder / "cut.xml").write_text("<testsuite>")
    source = ReportFolder(folder, RULES)
    report = ingest(source, paths=paths, engine=engine, now=NOW)
    assert (report.rows, report.files_read, report.files_skipped, report.quarantined) == (2, 3, 0, 2)
    assert report.reasons == {"negative_duration": 1, "truncated": 1}
    assert report.first == datetime(2026, 1, 20, 2, tzinfo=UTC)
    assert report.last == datetime(2026, 1, 21, 2, tzinfo=UTC)
    sources, quarantined = books(engine)
    assert [(s.source_file, s.kind, s.rows, s.quarantined) for s in sources] == [
        ("a.xml", "reports", 1, 1), ("b/b.xml", "reports", 1, 0), ("cut.xml", "reports", 0, 1),
    ]  # fmt: skip
    assert [(q.source_file, q.line, q.reason) for q in quarantined] == [
        ("a.xml", 3, "negative_duration"),
        ("cut.xml", 1, "truncated"),
    ]
    again = ingest(source, paths=paths, engine=engine, now=NOW)
    assert (again.rows, again.files_read, again.files_skipped, again.quarantined) == (0, 0, 3, 0)
    assert again.first is None
    write(folder / "new.xml", "z")
    more = ingest(source, paths=paths, engine=engine, now=NOW)
    assert (more.rows, more.files_read, more.files_skipped) == (1, 1, 3)
    assert read_executions(paths)["test_name"].to_pylist().count("z") == 1


def test_the_same_content_twice_in_one_folder_counts_once(
    sqlite_engine: Engine, paths: ArtifactPaths, folder: Path
) -> None:
    """A copied artifact folder must not double the history."""
    write(folder / "a.xml")
    write(folder / "copy" / "a.xml")
    report = ingest(ReportFolder(folder, RULES), paths=paths, engine=sqlite_engine, now=NOW)
    assert (report.rows, report.files_read, report.files_skipped) == (1, 1, 1)


def test_a_grown_history_brings_only_its_new_rows(sqlite_engine: Engine, paths: ArtifactPaths, tmp_path: Path) -> None:
    """A nightly export of the whole history must not double it, nor fill the quarantine."""
    path = tmp_path / "h.csv"
    header = "Name;Duration;LastRun;Verdict;Cycle\n"
    path.write_text(header + "t;5;2016-01-11 09:00:00;0;1\n")
    first = ingest(CiHistoryFile(path, RULES), paths=paths, engine=sqlite_engine, now=NOW)
    path.write_text(path.read_text() + "t;5;2016-01-12 09:00:00;1;2\n")
    second = ingest(CiHistoryFile(path, RULES), paths=paths, engine=sqlite_engine, now=NOW)
    assert (first.rows, second.rows, second.repeated, second.quarantined) == (1, 1, 1, 0)
    assert read_executions(paths, columns=["status"])["status"].to_pylist() == ["passed", "failed"]


def test_reports_that_contradict_a_stored_run_are_put_aside(engine: Engine, paths: ArtifactPaths) -> None:
    """Two runs with one run id: the first is kept, the second is listed and not silently lost."""
    stored = batch("first", row("a"), row("b"))
    ingest(Batches(stored), paths=paths, engine=engine, now=NOW)
    other = batch("second", row("a", status="failed"), row("b", duration_ms=5.4), row("c"))
    report = ingest(Batches(other), paths=paths, engine=engine, now=NOW)
    assert (report.rows, report.repeated, report.reasons) == (1, 1, {"duplicate_run": 1})
    (quarantined,) = books(engine)[1]
    assert (quarantined.source_file, quarantined.line, quarantined.reason) == ("second", None, "duplicate_run")
    assert "first (passed, 5 ms)" in quarantined.excerpt
    kept = dict(zip(*(read_executions(paths)[c].to_pylist() for c in ("test_name", "status")), strict=True))
    assert kept == {"a": "passed", "b": "passed", "c": "passed"}


def test_contradictions_inside_one_ingest_are_found_too(sqlite_engine: Engine, paths: ArtifactPaths) -> None:
    """Both files may be new at the same time."""
    report = ingest(
        Batches(batch("1", row("a")), batch("2", row("a", status="failed"))), paths=paths, engine=sqlite_engine, now=NOW
    )
    assert (report.rows, report.repeated, report.reasons) == (1, 0, {"duplicate_run": 1})
    assert read_executions(paths)["status"].to_pylist() == ["passed"]


def test_the_future_is_put_aside_and_a_time_zone_is_not_the_future(sqlite_engine: Engine, paths: ArtifactPaths) -> None:
    """A wrong clock would make every later value old; a missing zone is off by hours only."""
    late = row("late", at=NOW + timedelta(days=2))
    zone = row("zone", at=NOW + timedelta(hours=13))
    report = ingest(Batches(batch("f", late, zone)), paths=paths, engine=sqlite_engine, now=NOW)
    assert (report.rows, report.reasons) == (1, {"future_timestamp": 1})
    assert read_executions(paths)["test_name"].to_pylist() == ["zone"]
    assert "late" in books(sqlite_engine)[1][0].excerpt


def test_many_bad_rows_are_all_counted_and_the_first_ones_listed(engine: Engine, paths: ArtifactPaths) -> None:
    """A broken export of a million lines must not become a million rows of the database, nor a crash on its keys."""
    same_line = tuple(Quarantine(1, "bad", f"case {i}") for i in range(3))
    many = tuple(Quarantine(i, "worse", "x") for i in range(1_000))
    report = ingest(Batches(batch("f", quarantined=same_line + many)), paths=paths, engine=engine, now=NOW)
    assert report.reasons == {"bad": 3, "worse": 1_000}
    listed = books(engine)[1]
    assert {q.excerpt for q in listed if q.reason == "bad"} == {"case 0 (and 2 more)"}
    worse = [q for q in listed if q.reason == "worse"]
    assert len(worse) == 201
    assert [q.excerpt for q in worse if q.line is None] == ["x (and 799 more)"]


def test_a_source_that_cannot_be_read_leaves_no_trace(sqlite_engine: Engine, paths: ArtifactPaths) -> None:
    """A missing folder must not look like an empty one."""
    with pytest.raises(InputError, match="does not exist"):
        ingest(ReportFolder(Path("nowhere"), RULES), paths=paths, engine=sqlite_engine, now=NOW)
    assert books(sqlite_engine) == ([], [])
    assert not paths.executions.exists()


def test_a_refused_write_leaves_the_books_alone_and_a_rerun_completes(
    sqlite_engine: Engine, paths: ArtifactPaths, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file on the books that is not in the store would be lost for ever."""
    write(folder / "a.xml")

    def full(*_arguments: object) -> int:
        raise StorageError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(ingest_module, "append_executions", full)
        with pytest.raises(StorageError):
            ingest(ReportFolder(folder, RULES), paths=paths, engine=sqlite_engine, now=NOW)
    assert books(sqlite_engine) == ([], [])
    assert ingest(ReportFolder(folder, RULES), paths=paths, engine=sqlite_engine, now=NOW).rows == 1


def test_a_kill_between_parquet_and_books_heals(sqlite_engine: Engine, paths: ArtifactPaths, folder: Path) -> None:
    """After `kill -9` the parts are there and the books are not: the rerun must end as if nothing had happened."""
    write(folder / "a.xml", more=BAD_CASE)
    script = f"""
        import os
        from datetime import UTC, datetime
        from pathlib import Path
        from mlops_assets.experiences import ingest as module
        from mlops_assets.experiences.identity import IdentityRules
        from mlops_assets.experiences.reports.folder import ReportFolder
        from mlops_assets.foundation.database import create_operational_engine
        from mlops_assets.foundation.paths import ArtifactPaths
        module.transaction = lambda engine: os.kill(os.getpid(), 9)
        engine = create_operational_engine({str(sqlite_engine.url)!r})
        source = ReportFolder(Path({str(folder)!r}), IdentityRules())
        paths = ArtifactPaths(Path({str(paths.home)!r}))
        module.ingest(source, paths=paths, engine=engine, now=datetime(2026, 2, 1, tzinfo=UTC))
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert read_executions(paths).num_rows == 1
    assert books(sqlite_engine) == ([], [])
    parts = sorted(paths.executions.rglob("*.parquet"))
    report = ingest(ReportFolder(folder, RULES), paths=paths, engine=sqlite_engine, now=NOW)
    assert (report.rows, report.repeated, report.quarantined) == (0, 1, 1)
    assert sorted(paths.executions.rglob("*.parquet")) == parts
    sources, quarantined = books(sqlite_engine)
    assert (len(sources), len(quarantined)) == (1, 1)


def test_two_ingests_at_the_same_time_store_everything_once(engine: Engine, paths: ArtifactPaths, folder: Path) -> None:
    """The second one finds parts and books of the first between its own reading and writing."""
    write(folder / "a.xml", more=BAD_CASE)

    class Overtaken(ReportFolder):
        """Another ingest of the folder finishes after this one has looked at the books."""

        def batches(self, known: Container[str]) -> Iterator[SourceBatch]:
            yield from list(super().batches(known))
            ingest(ReportFolder(folder, RULES), paths=paths, engine=engine, now=NOW)

    report = ingest(Overtaken(folder, RULES), paths=paths, engine=engine, now=NOW)
    assert (report.rows, report.repeated) == (0, 1)
    assert read_executions(paths).num_rows == 1
    sources, quarantined = books(engine)
    assert (len(sources), len(quarantined)) == (1, 1)


def test_flushes_do_not_change_the_result(
    sqlite_engine: Engine, paths: ArtifactPaths, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large sources are stored in pieces."""
    monkeypatch.setattr(ingest_module, "_FLUSH_BATCHES", 2)
    for number in range(5):
        write(folder / f"{number}.xml", f"test {number}")
    report = ingest(ReportFolder(folder, RULES), paths=paths, engine=sqlite_engine, now=NOW)
    assert (report.rows, report.files_read) == (5, 5)
    assert read_executions(paths).num_rows == 5


def test_sources_satisfy_the_protocol(tmp_path: Path) -> None:
    """Every source is chosen by setting and must be exchangeable."""
    sources: list[ExecutionSource] = [
        ReportFolder(tmp_path, RULES),
        CiHistoryFile(tmp_path / "x.csv", RULES),
        Batches(),
    ]
    assert [source.kind for source in sources] == ["reports", "ci_history", "given"]
