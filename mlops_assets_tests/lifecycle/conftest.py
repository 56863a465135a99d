"""One small lifecycle of all agents, run once for every test of this folder, over all worker processes of pytest."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlops_assets.foundation.file_lock import file_lock
from mlops_assets_tests.lifecycle.worlds import SMALL, Run, World, read_run


@dataclass(frozen=True)
class FirstLifecycle:
    """A home in which `model_lifecycle` ran once, that run, and the home's identity right after it.

    Tests go on in the world; `pristine` is a copy of its home as it was right after the run.
    """

    world: World
    run: Run
    identity: dict[str, Any]
    pristine: Path


@pytest.fixture(scope="session")
def first_lifecycle(tmp_path_factory: pytest.TempPathFactory) -> FirstLifecycle:
    """Run `model_lifecycle` on a fresh home."""
    base = tmp_path_factory.getbasetemp()
    # Each worker of pytest-xdist has a folder of its own below one that they share.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with file_lock(shared / "lifecycle.lock"):
        return _run_or_read(shared / "lifecycle")


def _run_or_read(root: Path) -> FirstLifecycle:
    done = root / "first.json"
    if not done.exists():
        created = World.create(root, SMALL)
        run = created.run("model_lifecycle")
        assert run.success, run.failures
        shutil.copytree(root / "home", root / "pristine")
        done.write_text(json.dumps({"run_id": run.run_id, "identity": created.identity()}))
    facts = json.loads(done.read_text())
    world = World(root, {"MLOPS_HOME": str(root / "home"), **SMALL})
    with world.instance() as instance:
        return FirstLifecycle(world, read_run(instance, facts["run_id"]), facts["identity"], root / "pristine")
