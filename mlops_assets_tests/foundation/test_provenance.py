"""Git SHA and lock hash of a run."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from mlops_assets.foundation.provenance import git_sha, lock_hash, project_root


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with one commit and a tag on it."""
    root = tmp_path / "repository"
    root.mkdir()
    (root / "file").write_text("1")
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for command in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "one"), ("tag", "v1")):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def test_sha_of_a_clean_and_of_a_changed_checkout(repository: Path) -> None:
    """A model trained on uncommitted code must not claim to come from the commit."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, check=True, capture_output=True, text=True)
    sha = head.stdout.strip()
    assert git_sha(repository) == sha
    (repository / "file").write_text("2")
    assert git_sha(repository) == f"{sha}-dirty"


def test_outside_git_it_is_unknown(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image without git must still train; and a folder inside somebody else's repository is not that repository."""
    inside = repository / "venv" / "package"
    inside.mkdir(parents=True)
    assert git_sha(tmp_path) == git_sha(inside) == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_sha(repository) == "unknown"


def test_a_repository_without_commit_is_unknown_and_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A refusal of git (no commit, foreign owner) must not stop a training, nor vanish."""
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert git_sha(tmp_path) == "unknown"
    assert "recorded as unknown" in caplog.text


def test_lock_hash_is_that_of_the_lock(tmp_path: Path) -> None:
    """Other packages, other weights: the hash has to change with the lock."""
    assert lock_hash(tmp_path) == "unknown"
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "runtime.lock").write_bytes(b"torch==2.13.0\n")
    assert lock_hash(tmp_path) == hashlib.sha256(b"torch==2.13.0\n").hexdigest()


def test_project_root_holds_the_package() -> None:
    """A moved module would look for git and lock in the wrong folder, and record `unknown`."""
    assert (project_root() / "mlops_assets" / "foundation" / "provenance.py").is_file()
    assert lock_hash(project_root()) != "unknown"
