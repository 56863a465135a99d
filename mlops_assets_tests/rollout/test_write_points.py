"""A daemon killed at every write of every look at a rollout, with two going on at once: each stage once, nothing half done."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine.default import DefaultDialect

from mlops_assets.foundation.errors import TransientError
from mlops_assets.foundation.policies import STAGE_SHARES
from mlops_assets.rollout.state import STAGES
from mlops_assets_tests.rollout.conftest import MODEL, Tower
from mlops_assets_tests.rollout.scenes import unique
from mlops_assets_tests.rollout.write_points import LAST, LOOKS, Deployment, Look, Reaper, let_users_come, tick

ROOT = Path(__file__).resolve().parents[2]
# Each of them has to be among what they died at, or the test looks at something else than it says.
WRITTEN = {
    "lease",
    "experiment_look",
    "experiment_unit",
    "rollout_event",
    "rollout_effect",
    "audit_event",
    "model_version",
    "registered_model_aliases",
    "model_version_tags",
    "message",
}


@pytest.mark.slow
def test_killed_at_every_write_of_every_look(small_tower: Tower, tmp_path: Path) -> None:
    """The one write after which a stage is passed twice or never, an alias stays behind, or the trail tells another story."""
    small_tower.engine.dispose()
    found = kill_at_every_write(small_tower, tmp_path / "points")
    assert {one["status"] for one in found} == {-signal.SIGKILL}
    for look in LOOKS:
        of_look = [one for one in found if one["look"] == look.name]
        points = sorted(one["survived"] for one in of_look)
        assert points == list(range(len(points)))
        assert [one["survived"] for one in of_look if one["write"] == LAST] == [points[-1]]
        # The look, its evidence, the step, leases and renewals, the message and its marks: fewer and it dies of nothing.
        assert len(points) >= 12
        for one in of_look:
            where = f"{look.name}, at {one['survived']}: {one['write']}"
            assert told_once(one, "then") == ended(look), where
            assert told_once(one, "end") == ended(look if look.harm else LOOKS[-2]), where
    assert names(found) >= WRITTEN


class Deaf(Reaper):
    """Loses the answer to one commit, and no more."""

    lost = False

    def point(self, name: str) -> None:
        self.names.append(name)

    def done(self, dialect: DefaultDialect) -> None:
        if len(self.names) - 1 == self.survived:
            self.lost = True
            raise dialect.loaded_dbapi.OperationalError("server closed the connection unexpectedly")


@pytest.fixture
def before(small_tower: Tower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Deployment]:
    """The deployment before each look of a rollout that goes well."""
    monkeypatch.setenv("MLOPS_HOME", str(small_tower.office.settings.home))
    small_tower.engine.dispose()
    found = [Deployment(tmp_path / "before 0", small_tower.office.clock.instant)]
    for name, store in (("operations", small_tower.engine.url.database), ("mlflow", small_tower.office.runs.database)):
        shutil.copyfile(str(store), found[0].folder / f"{name}.db")
    for number in range(len(STAGES)):
        found.append(copied(found[number], tmp_path / f"before {number + 1}"))
        tick(found[-1], "daemon 1", Look(number), 0)
        let_users_come(found[-1], number)
        found[-1].engine.dispose()
    return found


def copied(deployment: Deployment, folder: Path) -> Deployment:
    copy = Deployment(folder, deployment.begin)
    copy.put(deployment.folder)
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("look", [Look(0), Look(1), Look(5), Look(5, harm=True)], ids=lambda look: look.name)
def test_a_commit_whose_answer_is_lost(before: list[Deployment], tmp_path: Path, look: Look) -> None:
    """What failed for all anybody knows is done a second time, or taken for somebody else's: a step, a mark, an alias.

    The stages between the first and the last write what the shadow writes.
    """
    whole, none = copied(before[look.number], tmp_path / "whole"), Deaf()
    with none.watching():
        whole.daemon("daemon 1", look, 0, none).tick(MODEL)
    whole.engine.dispose()
    for survived, write in enumerate(none.names):
        one, deaf = copied(before[look.number], tmp_path / str(survived)), Deaf(survived)
        with deaf.watching(), suppress(TransientError):
            one.daemon("daemon 1", look, 0, deaf).tick(MODEL)
        assert deaf.lost == (write != "message")
        one.daemon("daemon 1", look, 0, Reaper()).tick(MODEL)
        assert told_once({"then": one.facts()}, "then") == ended(look), f"{survived}: {write}"
        one.engine.dispose()
    assert len(none.names) >= 12


def kill_at_every_write(tower: Tower, folder: Path) -> list[dict[str, Any]]:
    """What came of each: `then`, at the time of the look, and in the `end`."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mlops_assets_tests.rollout.write_points",
            str(folder),
            tower.office.clock.instant.isoformat(),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "MLOPS_HOME": str(tower.office.settings.home),
            "MLOPS_DATABASE_URL": tower.engine.url.render_as_string(hide_password=False),
            "MLFLOW_TRACKING_URI": tower.office.runs.tracking_uri,
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def names(found: Iterable[Mapping[str, Any]]) -> set[str]:
    """Every table that was written, and the messages."""
    return {name for one in found for name in one["write"].removeprefix("commit of ").split(", ")}


def told_once(one: Mapping[str, Any], when: str) -> dict[str, Any]:
    """What came of a crash; the message whose mark was lost may have come twice, and no other."""
    facts: dict[str, Any] = one[when]
    assert len(facts["told"]) <= len(unique(facts["told"])) + 1
    return {**facts, "told": unique(facts["told"])}


def ended(look: Look) -> dict[str, Any]:
    """What a look has to leave, whatever died in it."""
    passed = STAGES[: look.number] if look.harm else STAGES[: look.number + 1]
    completed = look.number == len(STAGES) and not look.harm
    advanced = ["advanced"] * (len(passed) - 1)
    last = ["rolled_back"] if look.harm else ["promoting", "completed"] if completed else []
    share = 0.0 if look.harm else STAGE_SHARES[passed[-1]]
    stages = {"1.0.0": "Production", "1.1.0": "Archived" if look.harm else "Staging"}
    aliases = {"champion": "1.0.0", "candidate": "1.1.0", "challenger": "1.1.0"}
    if completed:
        stages = {"1.0.0": "Archived", "1.1.0": "Production"}
        aliases = {"champion": "1.1.0", "previous": "1.0.0"}
    told = [
        "INFO: Gradual rollout initiated (5% → 20% → 50% → 100%)",
        *(f"INFO: Rollout at {STAGE_SHARES[stage]:.0%}" for stage in passed[1:]),
        *(["CRITICAL: Model Rollback"] if look.harm else []),
        *(["INFO: Rollout completed: 1.1.0 is champion"] if completed else []),
    ]
    return {
        "kinds": ["started", *advanced, *last],
        "stages": list(passed),
        "share": share,
        "routed": None if look.harm else share,
        "replayed": True,
        "intact": True,
        "registry": stages,
        "tags": stages,
        "aliases": {"champion": "1.0.0"} if look.harm else aliases,
        "trail": (["model_archived 1.1.0"] if look.harm else []) + (["model_promoted_to_production 1.1.0"] * completed),
        "told": [f"{title} ({MODEL})" for title in told],
        "left": [],
    }
