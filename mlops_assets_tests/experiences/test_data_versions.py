"""Data versions: a snapshot that DVC does not really hold cannot be brought back, and a model not be reproduced."""

import fcntl
import shutil
import subprocess
from dataclasses import replace
from hashlib import md5
from pathlib import Path

import pytest
import yaml
from sqlalchemy import Engine

from mlops_assets.experiences.data_versions import DataVersions, dvc_file, read_dvc_file
from mlops_assets.experiences.snapshots import Snapshot, collect_snapshot
from mlops_assets.foundation.errors import InputError, NotReadyError, TransientError
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets_tests.experiences.synthetic import AGENT, NOW, SyntheticSource, policy


@pytest.fixture(scope="module")
def executable() -> Path:
    """DVC of its own environment beside the checkout, else of the machine."""
    beside = Path(__file__).resolve().parents[2] / ".venv-dvc" / "bin" / "dvc"
    found = beside if beside.is_file() else shutil.which("dvc")
    if found is None:
        pytest.skip("no DVC: make its environment (.venv-dvc) first")
    return Path(found)


def _versions(executable: Path, home: Path) -> DataVersions:
    paths = ArtifactPaths(home)
    return DataVersions(executable, repo=paths.data_versions, remote=str(paths.data_remote))


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _collect(engine: Engine, home: Path, versions: DataVersions | None) -> Snapshot:
    return collect_snapshot(
        SyntheticSource(), AGENT, paths=ArtifactPaths(home), engine=engine, policy=policy(), now=NOW, versions=versions
    )


def test_a_snapshot_is_tracked_pushed_and_comes_back(executable: Path, sqlite_engine: Engine, tmp_path: Path) -> None:
    """Prevents: a data hash recorded for data that nobody can restore; a user's git touched; data tracked twice."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    home = tmp_path / "home"
    versions = _versions(executable, home)
    untracked = _collect(sqlite_engine, home, None)
    assert untracked.dvc_md5 is None
    snapshot = _collect(sqlite_engine, home, versions)
    assert snapshot == replace(untracked, new_rows=0, dvc_md5=snapshot.dvc_md5)

    output = read_dvc_file(dvc_file(snapshot.folder))["outs"][0]
    assert output["md5"] == snapshot.dvc_md5
    assert output["path"] == snapshot.data_hash
    assert output["labels"] == ["data-v1.0"]
    assert output["desc"] == "Initial training dataset of agent requirements: 60 decisions"
    before = _contents(snapshot.folder)
    assert output["nfiles"] == len(before)
    remote = ArtifactPaths(home).data_remote / "files" / "md5"
    stored = {path.parent.name + path.name for path in remote.rglob("*") if path.is_file()}
    assert stored == {md5(content, usedforsecurity=False).hexdigest() for content in before.values()} | {output["md5"]}

    stamp = dvc_file(snapshot.folder).stat().st_mtime_ns
    assert _collect(sqlite_engine, home, versions) == snapshot
    assert dvc_file(snapshot.folder).stat().st_mtime_ns == stamp

    shutil.rmtree(snapshot.folder)
    shutil.rmtree(versions.repo / ".dvc" / "cache")
    versions.restore(snapshot.folder)
    assert _contents(snapshot.folder) == before
    staged = subprocess.run(
        ["git", "-C", str(tmp_path), "diff", "--cached", "--name-only"], check=True, capture_output=True
    )
    assert staged.stdout == b""
    assert not (tmp_path / ".gitignore").exists()
    assert "secret" not in (versions.repo / ".dvc" / "config").read_text()


def test_a_repository_that_another_process_holds_is_tried_again_later(executable: Path, tmp_path: Path) -> None:
    """Prevents: two agents' snapshots at once ending in a permanent failure (DVC's own lock is held here)."""
    versions = _versions(executable, tmp_path)
    folder = versions.repo / "data"
    folder.mkdir(parents=True)
    (folder / "a").write_text("a")
    versions._initialise()
    lock = versions.repo / ".dvc" / "tmp" / "lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(TransientError, match=r"`dvc add data`.*another DVC process.*try again"):
            versions.track(folder)
    assert not dvc_file(folder).exists()


def _stand_in(folder: Path, script: str) -> Path:
    path = folder / "dvc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_failing_remote_is_transient_and_named(tmp_path: Path) -> None:
    """Prevents: a network error that ends the run for good, or a message that does not say which remote."""
    versions = replace(
        _versions(
            _stand_in(tmp_path, 'if [ "$1" = push ]; then echo "ERROR: no route to host" >&2; exit 255; fi'), tmp_path
        ),
        remote="s3://dvc-storage/aiwebtest",
    )
    folder = versions.repo / "data"
    folder.mkdir(parents=True)
    with pytest.raises(TransientError, match=r"check that the remote s3://dvc-storage/aiwebtest .*no route to host"):
        versions.track(folder)


def test_arguments_reach_dvc_as_they_are(tmp_path: Path) -> None:
    """Prevents: a folder name that a shell would take apart or execute."""
    script = 'printf "%s\\n" "$PWD" "$@" >> calls; [ "$1" = add ] && printf "outs:\\n- md5: m\\n" > "$2.dvc"; exit 0'
    versions = _versions(_stand_in(tmp_path, script), tmp_path / "ho me")
    folder = versions.repo / "a; touch hacked"
    folder.mkdir(parents=True)
    assert versions.track(folder, labels=["data-v1.0"], description="it's") == "m"
    calls = (versions.repo / "calls").read_text().splitlines()
    assert calls[-8:] == [
        str(versions.repo),
        "add",
        "a; touch hacked",
        str(versions.repo),
        "push",
        "--remote",
        "myremote",
        "a; touch hacked.dvc",
    ]
    assert not (versions.repo / "hacked").exists()
    assert yaml.safe_load(dvc_file(folder).read_text())["outs"] == [
        {"md5": "m", "labels": ["data-v1.0"], "desc": "it's"}
    ]


def test_wrong_input_is_said(tmp_path: Path) -> None:
    """Prevents: a traceback for a folder outside the repository, a missing DVC or a broken .dvc file."""
    versions = _versions(tmp_path / "absent" / "dvc", tmp_path)
    with pytest.raises(InputError, match="outside the DVC repository"):
        versions.track(tmp_path / "elsewhere")
    with pytest.raises(NotReadyError, match=r"no DVC at .*absent.dvc: install it"):
        versions.track(versions.repo / "data")
    with pytest.raises(NotReadyError, match="is not tracked"):
        versions.restore(versions.repo / "data")
    broken = tmp_path / "broken.dvc"
    for text in ("outs: []", "{", "- 1", "outs:\n- md5: ''"):
        broken.write_text(text)
        with pytest.raises(InputError, match=r"broken\.dvc.*delete"):
            read_dvc_file(broken)
