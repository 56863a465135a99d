"""The asset `ab_test_report` as the UI and the command line make it."""

from datetime import timedelta
from pathlib import Path

import pytest

from mlops_assets.experiments.experiments import create_experiment
from mlops_assets.foundation.database import upgrade
from mlops_assets_tests.experiences.served import SERVED_AT
from mlops_assets_tests.experiments.served_users import NAME, SALT, serve
from mlops_assets_tests.lifecycle.worlds import SMALL, World


@pytest.mark.slow
def test_the_newest_experiment_is_judged_and_none_is_said(tmp_path: Path) -> None:
    """The asset judges another agent's experiment, fails where there is none, or shows no picture."""
    world = World.create(tmp_path, SMALL)
    with world.database() as engine:
        upgrade(engine)
        create_experiment(engine, NAME, "execution", treatment_share=0.5, user="tests", now=SERVED_AT, salt=SALT)
        serve(engine, range(600), share=0.5, seconds_apart=1.0, failed=lambda user, treated: treated and user % 3 == 0)
        # The clock of a simulated home is its newest decision's: the windows of those before are over by then.
        serve(engine, range(600, 601), share=0.5, at=SERVED_AT + timedelta(hours=5))
    run = world.materialize(["ab_test_report"], "execution")
    assert run.success, run.failures
    facts = run.facts("ab_test_report", "execution")
    assert (facts["experiment"], facts["verdict"], facts["new_users"]) == (NAME, "rollback", 600)
    assert str(facts["summary"]).startswith("**rollback**: failed ")
    assert "data:image/png;base64," in str(facts["picture"])
    record = world.record("ab_test_report", "execution")
    assert record["verdict"] == "rollback"
    assert Path(str(facts["report"])).is_file()
    none = world.materialize(["ab_test_report"], "generation")
    assert none.success, none.failures
    assert "generation has no experiment" in str(none.facts("ab_test_report", "generation")["summary"])
