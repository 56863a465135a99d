"""From looks to a verdict, in words: every verdict, and why it is none of the others."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from mlops_assets.experiments.analysis import analyse, planned_users
from mlops_assets.experiments.experiments import create_experiment
from mlops_assets.experiments.report import report_experiment, summary
from mlops_assets.experiments.units import Look, Unit
from mlops_assets.foundation.profiles import load_profile
from mlops_assets_tests.experiences.served import SERVED_AT
from mlops_assets_tests.experiments.served_users import NAME, SALT, serve

PROFILE = load_profile("aiwebtest")
DESIGN = PROFILE.ab_test


def looks(
    count: int,
    users: int,
    rates: dict[str, tuple[float, float]],
    *,
    share: float = 0.5,
    true: float | None = None,
    seed: int = 0,
) -> list[Look]:
    """Looks an hour apart, with users whose metrics are 0 or 1 at the rates of (control, treatment)."""
    random = np.random.default_rng(seed)

    def unit(number: int) -> Unit:
        treated = bool(random.random() < (share if true is None else true))
        outcomes = {name: float(random.random() < pair[treated]) for name, pair in rates.items()}
        return Unit(number, treated, share, outcomes)

    return [
        Look(number, SERVED_AT + timedelta(hours=number), tuple(unit(number) for _ in range(users)))
        for number in range(count)
    ]


GOOD = {"wrong": (0.10, 0.07), "failed": (0.001, 0.001), "slow": (0.01, 0.01), "loss": (0.4, 0.38)}


def test_a_good_treatment_is_promoted_with_its_figures() -> None:
    """The better model waits for ever, or is promoted without a number."""
    found = analyse(looks(40, 200, GOOD), DESIGN, started=SERVED_AT)
    assert found.verdict == "promote"
    assert "wrong 7." in found.reasons[0]
    assert "keeps its limit" in found.reasons[0]
    assert found.control_users + found.treatment_users == 8000
    assert found.log_e_harm < 0.0
    primary = found.metrics["wrong"]
    assert primary.bayes is not None
    assert primary.bayes.prob_treatment_better < 0.01  # a higher rate of wrong decisions is not better
    assert primary.means is not None
    assert primary.means.high is not None
    assert primary.means.high < 0.0
    assert primary.kept_over_time[-1] == primary.log_e_kept


@pytest.mark.parametrize(
    ("metric", "rates"), [("failed", (0.001, 0.05)), ("slow", (0.01, 0.2)), ("wrong", (0.1, 0.25))]
)
def test_harm_on_any_metric_rolls_back(metric: str, rates: tuple[float, float]) -> None:
    """A guardrail is drawn and watched by nobody."""
    found = analyse(looks(20, 200, {**GOOD, metric: rates}), DESIGN, started=SERVED_AT)
    assert found.verdict == "rollback"
    assert found.reasons[0].startswith(f"{metric} ")


def test_without_enough_users_or_proof_it_goes_on_and_ends_with_the_control() -> None:
    """What is not proven is shipped when the time is over."""
    few = analyse(looks(3, 200, GOOD), DESIGN, started=SERVED_AT)
    assert (few.verdict, "each needs 1,000" in few.reasons[0]) == ("continue", True)
    equal = {**GOOD, "wrong": (0.10, 0.12)}  # at the limit of 2 points
    unproven = looks(20, 200, equal)
    assert analyse(unproven, DESIGN, started=SERVED_AT).verdict == "continue"
    over = analyse(unproven, DESIGN, started=SERVED_AT - timedelta(days=DESIGN.max_days))
    assert over.verdict == "keep_control"
    assert "what is not proven is not promoted" in over.reasons[1]


def test_must_be_better_asks_for_better() -> None:
    """An equal model is promoted although the goal was a better one."""
    ambitious = DESIGN.model_copy(update={"must_be_better": True})
    equal = looks(60, 200, {**GOOD, "wrong": (0.10, 0.10)}, seed=1)
    assert analyse(equal, DESIGN, started=SERVED_AT).verdict == "promote"
    refused = analyse(equal, ambitious, started=SERVED_AT)
    assert (refused.verdict, "no proof yet that the treatment is better" in refused.reasons[0]) == ("continue", True)
    assert analyse(looks(60, 200, {**GOOD, "wrong": (0.2, 0.1)}), ambitious, started=SERVED_AT).verdict == "promote"


def test_a_broken_split_comes_before_everything() -> None:
    """Users who leave because of the treatment make it look good."""
    found = analyse(looks(40, 200, GOOD, share=0.5, true=0.4), DESIGN, started=SERVED_AT)
    assert found.verdict == "broken_split"
    assert "the treatment loses users on the way" in found.reasons[0]


def test_nothing_yet_is_no_verdict() -> None:
    """An experiment of a minute ago divides by zero."""
    found = analyse([], DESIGN, started=SERVED_AT)
    assert (found.verdict, found.looks, found.cutoff) == ("continue", 0, None)
    assert found.metrics["wrong"].means is None


def test_the_order_of_looks_is_the_evidence_and_equal_looks_are_equal() -> None:
    """The same log gives another verdict tomorrow."""
    some = looks(10, 100, GOOD)
    first, second = analyse(some, DESIGN, started=SERVED_AT), analyse(some, DESIGN, started=SERVED_AT)
    assert first == second
    assert (
        analyse(some[:5], DESIGN, started=SERVED_AT).metrics["wrong"].harm_over_time
        == (first.metrics["wrong"].harm_over_time[:5])
    )


def test_the_plan_follows_the_design() -> None:
    """A test is started that cannot find what it is for."""
    control, treatment = planned_users(DESIGN, 0.1)
    assert control == pytest.approx(9 * treatment, rel=1e-2)  # a tenth of the traffic
    assert treatment == DESIGN.min_samples_per_arm
    few = DESIGN.model_copy(update={"min_samples_per_arm": 10})
    assert planned_users(few, 0.1)[1] < treatment
    assert planned_users(few.model_copy(update={"power": 0.9}), 0.1) > planned_users(few, 0.1)


def test_a_report_is_made_of_what_was_served(engine: Engine, tmp_path: Path) -> None:
    """The report is another experiment's, or its picture and numbers disagree."""
    create_experiment(engine, NAME, "execution", treatment_share=0.5, user="tests", now=SERVED_AT, salt=SALT)
    serve(engine, range(400), share=0.5, seconds_apart=1.0, failed=lambda user, treated: treated and user % 4 == 0)
    report = report_experiment(engine, NAME, PROFILE, tmp_path / "out", now=SERVED_AT + timedelta(hours=3))
    assert report.new_users == 400
    assert report.analysis.verdict == "rollback"
    words = summary(report)
    assert words.startswith("**rollback**: failed ")
    assert "| failed | 0.00% | " in words
    document = json.loads(report.json.read_text())
    assert (document["verdict"], document["experiment"], document["looks"]) == ("rollback", NAME, 1)
    assert report.picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    again = report_experiment(engine, NAME, PROFILE, tmp_path / "out", now=SERVED_AT + timedelta(hours=4))
    assert again.new_users == 0
    assert replace(again.analysis, looks=1, cutoff=report.analysis.cutoff, metrics={}) == replace(
        report.analysis, metrics={}
    )
