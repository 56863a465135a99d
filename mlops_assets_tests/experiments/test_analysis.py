"""From looks to a verdict, in words: every verdict, and why it is none of the others."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine
from statsmodels.stats.multitest import multipletests

from mlops_assets.experiments.analysis import _proven, analyse, judge, planned_users
from mlops_assets.experiments.assignment import assign
from mlops_assets.experiments.batches import batches
from mlops_assets.experiments.evidence import MetricEvidence, replay
from mlops_assets.experiments.experiments import Treatment, change_experiment, create_experiment
from mlops_assets.experiments.frequentist import required_sample_size
from mlops_assets.experiments.report import report_experiment, summary
from mlops_assets.experiments.units import Look, Unit
from mlops_assets.foundation.policies import MetricLimit
from mlops_assets.foundation.profiles import load_profile
from mlops_assets_tests.experiences.served import SERVED_AT, prediction_row, write
from mlops_assets_tests.experiments.served_users import NAME, SALT, SPEC, serve

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
        return Unit(number, treated, share, outcomes, share)

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
    assert found.deciding.control_users + found.deciding.treatment_users == 8000
    assert found.deciding.log_e_harm < 0.0
    primary = found.deciding.metrics["wrong"]
    assert primary.bayes is not None
    assert primary.bayes.prob_treatment_better > 0.99  # a higher rate of wrong decisions is not better
    assert primary.bayes.expected_loss_treatment < primary.bayes.expected_loss_control
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
    assert found.deciding.metrics["wrong"].means is None


def test_the_order_of_looks_is_the_evidence_and_equal_looks_are_equal() -> None:
    """The same log gives another verdict tomorrow."""
    some = looks(10, 100, GOOD)
    first, second = analyse(some, DESIGN, started=SERVED_AT), analyse(some, DESIGN, started=SERVED_AT)
    assert first == second
    assert (
        analyse(some[:5], DESIGN, started=SERVED_AT).deciding.metrics["wrong"].harm_over_time
        == (first.deciding.metrics["wrong"].harm_over_time[:5])
    )


def test_the_plan_follows_the_design() -> None:
    """A test is started that cannot find what it is for."""
    few = DESIGN.model_copy(update={"min_samples_per_arm": 10})
    control, treatment = planned_users(few, 0.1)
    assert control == pytest.approx(9 * treatment, rel=1e-2)  # a tenth of the traffic
    # 12 % are allowed, 16 % are to be found.
    assert (control, treatment) == required_sample_size(0.12, 0.04 / 0.12, treatment_share=few.traffic_share)
    assert planned_users(few.model_copy(update={"power": 0.9}), 0.1) > (control, treatment)
    many = planned_users(few.model_copy(update={"min_samples_per_arm": 10 * treatment}), 0.1)
    assert many == (pytest.approx(10 * control, abs=10), 10 * treatment)


def test_a_ramp_inside_one_look_is_bet_on_in_its_order() -> None:
    """That a user comes back at 60 % says he was in the control at 50 %: known before, the bet at 50 % is not fair."""
    random = np.random.default_rng(0)
    limit = MetricLimit(ratio=1.0, delta=0.0, effect=0.04)
    design = DESIGN.model_copy(update={"limits": {"wrong": limit}})
    wealth = []
    for number in range(4000):
        first, again = [], []
        for _user in range(25):
            outcome = {"wrong": float(random.random() < 0.02)}
            treated = bool(random.random() < 0.5)
            first.append(Unit(0, treated, 0.5, outcome, 0.5))
            if not treated:
                again.append(Unit(0, bool(random.random() < 0.2), 0.2, outcome, 0.6))
        harm = MetricEvidence.begin(limit).harm
        for _, batch in batches([*first, *again], "wrong"):
            harm = harm.updated(batch)
        wealth.append(np.exp(harm.log_e))
        # Of the first ones, that it is what the analysis finds, which takes too long for all.
        if number < 5:
            found = analyse([Look(0, SERVED_AT, (*first, *again))], design, started=SERVED_AT)
            assert found.deciding.log_e_harm == harm.log_e
    assert np.mean(wealth) <= 1.0 + 3 * np.std(wealth) / np.sqrt(len(wealth))


def test_better_is_proven_of_rare_failures_too() -> None:
    """Where rates are below the effect, one failure of the treatment loses everything."""
    ambitious = DESIGN.model_copy(update={"must_be_better": True})
    rare = {"wrong": (0.02, 0.004), "failed": (0.0, 0.0), "slow": (0.0, 0.0), "loss": (0.4, 0.4)}
    assert analyse(looks(40, 300, rare), ambitious, started=SERVED_AT).verdict == "promote"


def test_the_design_of_the_first_look_stays(engine: Engine, tmp_path: Path) -> None:
    """A limit that is moved after the fact promotes what was not proven."""
    create_experiment(engine, NAME, "execution", treatment_share=0.5, user="tests", now=SERVED_AT, salt=SALT)
    serve(engine, range(60), share=0.5, seconds_apart=1.0)
    first = report_experiment(engine, NAME, PROFILE, tmp_path, now=SERVED_AT + timedelta(hours=3))
    lax = PROFILE.model_copy(update={"ab_test": DESIGN.model_copy(update={"min_samples_per_arm": 1, "alpha": 0.9})})
    again = report_experiment(engine, NAME, lax, tmp_path, now=SERVED_AT + timedelta(hours=4))
    assert (again.analysis.verdict, again.analysis.reasons) == ("continue", first.analysis.reasons)


def test_of_an_experiment_that_has_ended_the_last_users_count(engine: Engine, tmp_path: Path) -> None:
    """On the data's clock, time stands still with the last decision, and so do its users' windows."""
    create_experiment(engine, NAME, "execution", treatment_share=0.5, user="tests", now=SERVED_AT, salt=SALT)
    serve(engine, range(30), share=0.5, seconds_apart=1.0)
    running = report_experiment(engine, NAME, PROFILE, tmp_path, now=SERVED_AT, data_clock=True)
    assert running.new_users == 0
    change_experiment(engine, NAME, user="tests", now=SERVED_AT, status="stopped")
    assert report_experiment(engine, NAME, PROFILE, tmp_path, now=SERVED_AT, data_clock=True).new_users == 30


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
    # Nobody was there before.
    assert "CUPED" not in words
    assert words.endswith(
        "Evidence of 20 to 1 decides; harm is that of all metrics together. 1 to 1 says nothing, and less speaks against it."
    )
    document = json.loads(report.json.read_text())
    assert (document["verdict"], document["experiment"], document["looks"]) == ("rollback", NAME, 1)
    assert report.picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    again = report_experiment(engine, NAME, PROFILE, tmp_path / "out", now=SERVED_AT + timedelta(hours=4))
    assert again.new_users == 0
    assert replace(again.analysis.deciding, metrics={}) == replace(report.analysis.deciding, metrics={})


def arm_looks(count: int, users: int, rates: dict[str, float], *, seed: int = 0, lost: float = 0.0) -> list[Look]:
    """Looks at the control and two treatments of a quarter each; `rates` of wrong decisions. `lost`: users of shadow."""
    random = np.random.default_rng(seed)
    draws = {"challenger": 0.25 / 0.75, "shadow": 0.25 / 0.75}

    def units(number: int) -> Iterator[Unit]:
        for arm in random.choice(["control", "challenger", "shadow"], users, p=[0.5, 0.25, 0.25]):
            outcomes = {"wrong": float(random.random() < rates[arm]), "failed": 0.0, "slow": 0.0, "loss": 0.4}
            own = draws if arm == "control" else {str(arm): draws[arm]}
            if arm != "shadow" or random.random() >= lost:
                yield Unit(number, arm != "control", max(own.values()), outcomes, 0.5, str(arm), own)

    return [Look(number, SERVED_AT + timedelta(hours=number), tuple(units(number))) for number in range(count)]


def test_the_verdict_names_the_treatment() -> None:
    """The good one is rolled back with the bad one, or the bad one promoted with the good one."""
    mixed = arm_looks(40, 300, {"control": 0.1, "challenger": 0.06, "shadow": 0.25})
    found = analyse(mixed, DESIGN, started=SERVED_AT)
    assert (found.verdict, found.arm) == ("rollback", "shadow")
    assert found.reasons[0].startswith("shadow: wrong 2")
    assert found.reasons[-1] == "challenger: promote"
    assert {arm: one.verdict for arm, one in found.arms.items()} == {"challenger": "promote", "shadow": "rollback"}
    # Once it is taken out, what is left is to be acted on.
    left = judge(replay(mixed, DESIGN), DESIGN, started=SERVED_AT, without_users=["shadow"])
    assert (left.verdict, left.arm) == ("promote", "challenger")
    both = arm_looks(40, 300, {"control": 0.1, "challenger": 0.08, "shadow": 0.03})
    assert analyse(both, DESIGN, started=SERVED_AT).arm == "shadow"
    broken = analyse(
        arm_looks(40, 300, {"control": 0.1, "challenger": 0.06, "shadow": 0.1}, lost=0.3), DESIGN, started=SERVED_AT
    )
    assert (broken.verdict, broken.arm) == ("broken_split", "shadow")
    assert broken.arms["challenger"].verdict == "promote"


def test_each_treatment_is_compared_with_the_control_alone() -> None:
    """One treatment's evidence depends on what the other one's users get."""
    beside = arm_looks(20, 300, {"control": 0.1, "challenger": 0.1, "shadow": 0.1})
    users = [
        Look(look.number, look.cutoff, tuple(one.of("shadow") for one in look.units if "shadow" in one.arms))
        for look in beside
    ]
    alone = analyse(users, DESIGN, started=SERVED_AT).deciding.metrics["wrong"]
    found = analyse(beside, DESIGN, started=SERVED_AT).arms["shadow"].metrics["wrong"]
    assert replace(found, p_adjusted=None) == replace(alone, p_adjusted=None)


def test_several_treatments_share_the_error_rates() -> None:
    """With every treatment more, one is rolled back or promoted by chance more often (B-24)."""
    found = analyse(arm_looks(10, 300, {"control": 0.1, "challenger": 0.14, "shadow": 0.13}), DESIGN, started=SERVED_AT)
    means = [one.metrics["wrong"].means for one in found.arms.values()]
    expected = multipletests([one.p_value for one in means if one is not None], method="holm")[1]
    assert [one.metrics["wrong"].p_adjusted for one in found.arms.values()] == pytest.approx(expected)
    # Evidence of 30 to 1 decides of one treatment, of two only beside one of 40 to 1.
    evidence = {"challenger": np.log(30.0), "shadow": np.log(1.0)}
    assert _proven({"challenger": np.log(30.0)}, 0.05) == {"challenger"}
    assert _proven(evidence, 0.05) == frozenset()
    assert _proven({**evidence, "shadow": np.log(41.0)}, 0.05) == {"challenger", "shadow"}
    assert _proven({**evidence, "challenger": np.log(41.0)}, 0.05) == {"challenger"}
    assert _proven({"treatment": -np.log(0.05)}, 0.05) == {"treatment"}


def test_two_harmless_treatments_are_seldom_rolled_back() -> None:
    """At the limit, looked at every hour, one of both is taken back more often than alpha says."""
    strict = DESIGN.model_copy(update={"limits": {"wrong": MetricLimit(ratio=1.0, delta=0.02, effect=0.04)}})
    same = {"control": 0.1, "challenger": 0.12, "shadow": 0.12}
    wrong = 0
    for seed in range(60):
        history = replay(arm_looks(10, 200, same, seed=seed), strict)
        harm = {arm: history.over_looks(arm, "wrong")[0] for arm in history.arms}
        wrong += any(_proven({arm: over[look] for arm, over in harm.items()}, 0.05) for look in range(10))
    # 5 % of 60 are 3; more than 9 come of it in one of 1000 such tests.
    assert wrong <= 9


def test_a_report_has_a_table_for_each_treatment(engine: Engine, tmp_path: Path) -> None:
    """The report shows the first treatment only, and its picture the other one's evidence."""
    shares = {"challenger": 0.3, "shadow": 0.3}
    create_experiment(
        engine, NAME, "execution", treatment_share=0.3, more=[Treatment("shadow", 0.3)], user="tests", now=SERVED_AT, salt=SALT
    )  # fmt: skip
    serve(
        engine, range(600), share=shares, seconds_apart=1.0,
        failed=lambda user, _: assign(SALT, f"user-{user}", shares) == "shadow" and user % 3 == 0,
    )  # fmt: skip
    report = report_experiment(engine, NAME, PROFILE, tmp_path, now=SERVED_AT + timedelta(hours=3))
    assert (report.analysis.verdict, report.analysis.arm, report.new_users) == ("rollback", "shadow", 600)
    words = summary(report)
    assert words.startswith("**rollback**: shadow: failed ")
    assert words.count("| p, Holm |") == 2
    assert "Evidence of 40 to 1 decides on one treatment, and then of 20 to 1 on the last (Holm)" in words
    assert "of the treatment challenger, 1 look;" in words
    document = json.loads(report.json.read_text())
    assert document["arms"]["challenger"]["verdict"] == "continue"
    assert document["treatments"]["shadow"] == {"alias": "shadow", "share": 0.3}
    change_experiment(engine, NAME, shares={"shadow": 0.0}, user="tests", now=SERVED_AT)
    later = report_experiment(engine, NAME, PROFILE, tmp_path, now=SERVED_AT + timedelta(hours=4))
    assert (later.analysis.verdict, later.analysis.arm) == ("continue", "challenger")


def test_the_time_before_informs_and_does_not_decide() -> None:
    """The adjusted comparison is shown under another metric's name, or changes a verdict."""
    random = np.random.default_rng(0)
    plain = looks(20, 200, {**GOOD, "loss": (0.4, 0.4)})

    def known(unit: Unit) -> Unit:
        own = float(random.random())
        return replace(
            unit, outcomes={**unit.outcomes, "loss": 0.5 * own + 0.2 * float(random.random())}, before={"loss": own}
        )

    with_before = [replace(one, units=tuple(map(known, one.units))) for one in plain]
    without = [replace(one, units=tuple(replace(unit, before=None) for unit in one.units)) for one in with_before]
    found, bare = (analyse(one, DESIGN, started=SERVED_AT) for one in (with_before, without))
    adjusted = found.deciding.metrics["loss"].adjusted
    assert adjusted is not None
    assert adjusted.variance_reduction > 0.7
    assert adjusted.slope == pytest.approx(0.5, abs=0.02)
    assert found.deciding.metrics["wrong"].adjusted is None
    assert [(one.verdict, one.reasons, one.log_e_harm) for one in (found.deciding, bare.deciding)] == [
        (bare.verdict, bare.reasons, bare.deciding.log_e_harm)
    ] * 2
    assert bare.deciding.metrics["loss"].adjusted is None


def test_the_report_shows_what_the_time_before_explains(engine: Engine, tmp_path: Path) -> None:
    """The adjustment is computed and nobody sees it."""
    create_experiment(engine, NAME, "execution", treatment_share=0.5, user="tests", now=SERVED_AT, salt=SALT)
    earlier = [
        prediction_row(
            SPEC, f"before-{user}", event_time=SERVED_AT - timedelta(days=3), user_hash=f"user-{user}",
            latency_ms=500.0 if user % 5 == 0 else 1.0,
        )
        for user in range(300)
    ]  # fmt: skip
    write(engine, earlier)
    serve(engine, range(400), share=0.5, seconds_apart=1.0, slow=lambda user, _: user % 5 == 0 or user % 31 == 0)
    report = report_experiment(engine, NAME, PROFILE, tmp_path, now=SERVED_AT + timedelta(hours=3))
    adjusted = json.loads(report.json.read_text())["arms"]["treatment"]["metrics"]["slow"]["adjusted"]
    assert adjusted["users_before"] == 300
    assert 0.3 < adjusted["variance_reduction"] < 0.9
    (line,) = [line for line in summary(report).splitlines() if line.startswith("| slow |")]
    assert f"({adjusted['variance_reduction']:.0%} less variance)" in line
    assert len({row.count("|") for row in summary(report).splitlines() if row.startswith("|")}) == 1
    again = report_experiment(engine, NAME, PROFILE, tmp_path, now=SERVED_AT + timedelta(hours=4))
    assert again.analysis.deciding.metrics["slow"].adjusted == report.analysis.deciding.metrics["slow"].adjusted
