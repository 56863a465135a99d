"""Collections in processes of their own, forked from one that has imported everything: killed, concurrent, measured.

Run as a module: `python -m mlops_assets_tests.experiences.collecting <home> <every> <processes> <rows> <width>` kills at
every so many effects, collects in so many processes at once, measures with so many rows and numbers; it prints one JSON
document.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd  # noqa: F401 - imported before the fork, once instead of in every child
import sklearn.feature_extraction.text
import sklearn.utils.extmath  # noqa: F401

from mlops_assets.experiences import collection
from mlops_assets.experiences.snapshot_files import is_whole
from mlops_assets.experiences.snapshots import Snapshot, collect_snapshot
from mlops_assets.foundation.agents import ContextField
from mlops_assets.foundation.database import create_operational_engine, read_transaction, upgrade
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.tables import ExperienceCursor, QuarantinedRow, SnapshotRecord
from mlops_assets_tests.experiences.synthetic import AGENT, NOW, SyntheticSource, policy, replaced

# What a collection does to the outside: a kill just before any of these is a different half-done state.
_EFFECTS = {"os.rename", "os.link", "os.mkdir", "sqlite3.connect"}


def small_source() -> SyntheticSource:
    """Three days, one bad row a day; a window that cuts the first day and labels that are not all known."""
    return SyntheticSource(
        days=3,
        alter=lambda _, batch: replace(batch, experiences=replaced(batch.experiences, "reward", {3: float("nan")})),
    )


def collect(home: Path, source: SyntheticSource, **changes: object) -> Snapshot:
    """Collect with an operational database below `home`."""
    engine = create_operational_engine(f"sqlite:///{home / 'operations.db'}")
    upgrade(engine)
    return collect_snapshot(
        source,
        source.spec,
        paths=ArtifactPaths(home),
        engine=engine,
        policy=policy(**changes),
        now=NOW,
        versions=None,
    )


def in_child(action: Callable[[], object]) -> tuple[int, int]:
    """Run `action` in a forked process; return its wait status and its peak resident memory in MiB."""
    child = os.fork()
    if not child:
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - a child must never return into the parent's code
            print(repr(error), file=sys.stderr)  # noqa: T201
            os._exit(1)
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    return status, usage.ru_maxrss // 1024


def kill_at(effect: int) -> None:
    """SIGKILL this process just before its `effect`-th effect on the outside (counted from 0)."""
    seen = -1

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in _EFFECTS or writes:
            seen += 1
            if seen == effect:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def state_of(home: Path) -> dict[str, Any]:
    """Everything that a collection leaves behind, without wall times: files by content, rows of the database."""
    engine = create_operational_engine(f"sqlite:///{home / 'operations.db'}")
    upgrade(engine)
    folder = home / "experiences"
    files = {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
    with read_transaction(engine) as session:
        snapshots = [
            (row.agent, row.data_hash, row.rows, row.new_rows, row.status) for row in session.query(SnapshotRecord)
        ]
        quarantined = sorted((row.source_hash, row.line, row.reason) for row in session.query(QuarantinedRow))
        cursors = [(row.agent, row.source, row.position) for row in session.query(ExperienceCursor)]
    return {"files": files, "snapshots": snapshots, "quarantined": quarantined, "cursors": cursors}


def half_published(home: Path) -> list[str]:
    """Names of published folders that are not whole, and of recorded snapshots without a folder."""
    folder = ArtifactPaths(home).snapshots(AGENT.name)
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.exists() else set()
    if (home / "operations.db").exists():
        names |= {row[1] for row in state_of(home)["snapshots"]}
    return sorted(name for name in names if not is_whole(folder / name))


def kill_everywhere(home: Path, every: int) -> dict[str, Any]:
    """Kill a collection at every `every`-th effect, look at what is left, run it again; until one comes to its end."""
    clean = home / "clean"
    in_child(lambda: collect(clean, small_source(), window_rows=50))
    kills = []
    for number in range(1, 1_000):
        effect = number * every
        victim = home / f"killed-{effect}"

        def killed(effect: int = effect, victim: Path = victim) -> None:
            kill_at(effect)
            collect(victim, small_source(), window_rows=50)

        status, _ = in_child(killed)
        torn = half_published(victim)
        again, _ = in_child(lambda victim=victim: collect(victim, small_source(), window_rows=50))  # type: ignore[misc]
        kills.append({"status": status, "again": again, "torn": torn, "same": state_of(victim) == state_of(clean)})
        if not os.WIFSIGNALED(status):
            break
    return {"kills": kills, "clean": state_of(clean)}


def together(home: Path, processes: int) -> dict[str, Any]:
    """Collect in several processes at once."""
    children = []
    for _ in range(processes):
        child = os.fork()
        if not child:
            status = 1
            try:
                collect(home, small_source())
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    return {"statuses": [os.waitpid(child, 0)[1] for child in children], "state": state_of(home)}


def peak(home: Path, rows: int, width: int) -> dict[str, Any]:
    """Collect `rows` decisions with `width` numbers of state, over 50 days; peak memory with and without the work."""
    spec = replace(AGENT, context=tuple(ContextField(f"field_{i}", "A number.") for i in range(width)))
    source = SyntheticSource(days=50, episodes=rows // 50 // 20, steps=20, spec=spec)
    home.mkdir(parents=True)
    found: dict[str, Any] = {}
    _, found["before_mib"] = in_child(lambda: None)

    def work() -> None:
        (home / "snapshot.json").write_text(json.dumps(asdict(collect(home, source)), default=str))

    found["status"], found["peak_mib"] = in_child(work)
    found["rows"] = json.loads((home / "snapshot.json").read_text())["rows"]
    return found


if __name__ == "__main__":
    _home = Path(sys.argv[1])
    _every, _processes, _rows, _width = (int(number) for number in sys.argv[2:])
    # First, while this process is small: a fork inherits its peak.
    _found = {"peak": peak(_home / "peak", _rows, _width)}
    # Small groups, so that kills fall between the commits of several.
    collection._GROUP_ROWS = 25
    _found["kill"] = kill_everywhere(_home / "kill", _every)
    _found["together"] = together(_home / "together", _processes)
    print(json.dumps(_found))  # noqa: T201
