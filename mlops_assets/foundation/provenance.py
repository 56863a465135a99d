"""Which code and which packages made something: the git SHA and the lock's hash that every training run carries."""

import logging
import os
import shutil
import subprocess
from pathlib import Path

from mlops_assets.foundation.files import sha256_file

_log = logging.getLogger(__name__)
_GIT_SECONDS = 30
_UNKNOWN = "unknown"


def project_root() -> Path:
    """Folder that holds the package: the checkout (or the image's source tree)."""
    return Path(__file__).resolve().parents[2]


def git_sha(root: Path) -> str:
    """Full SHA of the commit checked out at `root`, with `-dirty` when tracked files differ from it.

    "unknown" outside git: a source tree in an image, or no git installed. Only a repository whose top is `root` counts,
    since a virtualenv may lie in somebody else's.
    """
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return _UNKNOWN
    result = subprocess.run(  # noqa: S603 - fixed argv
        [git, "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        capture_output=True,
        text=True,
        timeout=_GIT_SECONDS,
        check=False,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
    )
    if result.returncode != 0:
        _log.warning("git does not tell the commit of %s, recorded as unknown: %s", root, result.stderr.strip())
        return _UNKNOWN
    return result.stdout.strip()


def lock_hash(root: Path) -> str:
    """Hex sha256 of `requirements/runtime.lock` below `root`; "unknown" where the package came without it."""
    lock = root / "requirements" / "runtime.lock"
    return sha256_file(lock) if lock.is_file() else _UNKNOWN
