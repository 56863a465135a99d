"""Evidence belongs to the versions that were compared first, not to whatever stands behind an alias later."""

import json
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Engine

from mlops_assets.experiments.experiments import create_experiment
from mlops_assets.experiments.report import ExperimentReport, report_experiment, summary
from mlops_assets.foundation.profiles import load_profile
from mlops_assets_tests.experiences.served import SERVED_AT
from mlops_assets_tests.experiments.served_users import NAME, SALT, serve

PROFILE = load_profile("aiwebtest")
FIRST = {"control": "1.0.0", "treatment": "2.0.0"}


def serve_hour(engine: Engine, hour: int, versions: dict[str, str] | None, *, bad: bool = False) -> int:
    """Serve 300 new users in an hour; with `bad`, the treatment fails. Return how many were treated."""
    arms = serve(
        engine, range(300 * hour, 300 * hour + 300), share=0.5, seconds_apart=10.0, versions=versions,
        at=SERVED_AT + timedelta(hours=hour), failed=lambda user, treated: bad and treated and user % 2 == 0,
    )  # fmt: skip
    return sum(arms)


def report(engine: Engine, folder: Path, hours: float) -> ExperimentReport:
    """Look so long after the first request."""
    return report_experiment(engine, NAME, PROFILE, folder, now=SERVED_AT + timedelta(hours=hours))


def test_another_version_behind_the_alias_inherits_nothing(engine: Engine, tmp_path: Path) -> None:
    """A new challenger is promoted on the evidence of the one before, or that one is rolled back for the new one's harm."""
    create_experiment(engine, NAME, "execution", treatment_share=0.5, user="tests", now=SERVED_AT, salt=SALT)
    treated = serve_hour(engine, 0, FIRST)
    before = report(engine, tmp_path, 2.9)
    assert "not counted" not in summary(before)
    assert ", 1 look; " in summary(before)
    serve_hour(engine, 1, {**FIRST, "treatment": "2.1.0"}, bad=True)
    serve_hour(engine, 2, {"control": "1.1.0", "treatment": "2.1.0"}, bad=True)
    treated += serve_hour(engine, 3, FIRST)
    found = report(engine, tmp_path, 6)
    assert (found.analysis.deciding.treatment_users, found.analysis.deciding.control_users) == (treated, 600 - treated)
    assert found.analysis.verdict == "continue"
    assert not found.analysis.deciding.split.alarm
    assert found.versions.pinned == FIRST
    assert found.versions.others == {"treatment": {"2.1.0": 600}, "control": {"1.1.0": 300}}
    assert ", 2 looks; " in summary(found)
    assert (
        "treatment: version 2.0.0 is compared; 600 decisions while 2.1.0 stood there are not counted: for another "
        "version, create another experiment." in summary(found)
    )
    document = json.loads(found.json.read_text())
    assert (document["versions"], document["not_counted"]["control"]) == (FIRST, {"1.1.0": 300})


def test_a_decision_is_another_versions_once_and_looks_agree(engine: Engine, tmp_path: Path) -> None:
    """Decisions that two looks read are counted by both, or the second look pins another version."""
    create_experiment(engine, NAME, "execution", treatment_share=0.5, user="tests", now=SERVED_AT, salt=SALT)
    serve_hour(engine, 0, FIRST)
    serve_hour(engine, 1, {**FIRST, "treatment": "2.1.0"})
    # The outcomes' hour and the window's: the first look ends within the second hour's decisions.
    for hours in (2.5, 3.5, 4.5, 5.0):
        found = report(engine, tmp_path, hours)
    assert found.versions.others == {"treatment": {"2.1.0": 300}}
    assert found.analysis.deciding.control_users + found.analysis.deciding.treatment_users == 300


def test_decisions_without_versions_count(engine: Engine, tmp_path: Path) -> None:
    """An experiment that runs while the project is upgraded loses its users."""
    create_experiment(engine, NAME, "execution", treatment_share=0.5, user="tests", now=SERVED_AT, salt=SALT)
    serve_hour(engine, 0, None)
    serve_hour(engine, 1, FIRST)
    serve_hour(engine, 2, {**FIRST, "treatment": "2.1.0"})
    found = report(engine, tmp_path, 6)
    assert found.analysis.deciding.control_users + found.analysis.deciding.treatment_users == 600
    assert found.versions.pinned == FIRST
