"""Which version a request goes to while a rollout has a split: only its candidate, for who was drawn, and nobody back."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from mlops_assets.experiments.experiments import Experiment
from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.serving.models import ServedModel, ServedModels
from mlops_assets.serving.requests import DecisionRequest, request_model
from mlops_assets.serving.routing import Route, route
from mlops_assets_tests.serving.served import request_of, served_model

SPEC = AGENTS["execution"]
NOW = datetime(2026, 3, 6, 12, tzinfo=UTC)
OLD, NEW, OTHER = (served_model(SPEC, semver, seed=int(semver[0])) for semver in ("1.0.0", "2.0.0", "3.0.0"))
FIVE, HALF = 0.05, 0.5


def split(share: float, **changes: Any) -> Experiment:
    """The split of a rollout of 2.0.0."""
    made = Experiment(
        "rollout-execution-2.0.0-1",
        "execution",
        "salt",
        "candidate",
        share,
        "running",
        NOW,
        treatment_version="2.0.0",
        splits_anonymous=True,
    )
    return replace(made, **changes)


def picture(**behind: ServedModel) -> ServedModels:
    """What stands behind the aliases."""
    return ServedModels({(model.spec.name, alias): model for alias, model in behind.items()})


def asked(spec: AgentSpec = SPEC, **changes: Any) -> DecisionRequest:
    return request_model(spec.name).model_validate(request_of(spec, **changes))


def routed(
    experiment: Experiment | None,
    models: ServedModels,
    request: DecisionRequest | None = None,
    prediction_id: str = "decision-1",
    *,
    aa_share: float = 0.0,
) -> Route:
    request = request or asked(user_id="ann")
    champion = models.get(request.agent, "champion")
    assert champion is not None
    return route(request, models, champion, experiment, prediction_id, aa_share=aa_share)


@pytest.mark.parametrize("share", [None, HALF])
def test_the_champions_users_are_in_the_aa_test(share: float | None) -> None:
    """It tests nothing while there is a rollout, or tells a candidate's users from the champion's."""
    models = picture(champion=OLD, candidate=NEW)
    experiment = None if share is None else split(share)
    found = [routed(experiment, models, asked(user_id=f"u{i}"), aa_share=0.1) for i in range(4000)]
    champions = [one for one in found if one.model is OLD]
    for arm in ("treatment", "control"):
        assert sum(one.aa_arm == arm for one in champions) / len(champions) == pytest.approx(0.1, abs=0.02)
    assert {one.aa_arm for one in found if one.model is NEW} <= {None}
    # The way of the treatment is that of a candidate, and of nobody else.
    assert {one.on_trial for one in champions if one.aa_arm == "treatment"} == {True}
    assert {one.on_trial for one in champions if one.aa_arm != "treatment"} == {False}
    plain = [routed(experiment, models, asked(user_id=f"u{i}")) for i in range(4000)]
    assert [replace(one, aa_arm=None) for one in found] == plain
    assert routed(None, models, asked(), aa_share=0.5).aa_arm is None


def test_who_gets_the_champion_for_want_of_the_candidate_is_in_no_aa_test() -> None:
    """Users who were drawn for a version that is away are a choice of their own."""
    found = [routed(split(1.0), picture(champion=OLD), asked(user_id=f"u{i}"), aa_share=0.5) for i in range(50)]
    assert {(one.fallback, one.aa_arm) for one in found} == {("absent", None)}


def test_the_candidate_has_its_share_of_the_users() -> None:
    """A stage of 5 % in which nobody, or everybody, gets the candidate proves nothing, or hurts everybody."""
    models = picture(champion=OLD, candidate=NEW)
    found = [routed(split(FIVE), models, asked(user_id=f"u{i}")) for i in range(4000)]
    treated = [one for one in found if one.variant == "treatment"]
    assert len(treated) / 4000 == pytest.approx(FIVE, abs=0.015)
    assert {(one.alias, one.model.semver) for one in treated} == {("candidate", "2.0.0")}
    assert {one.model.semver for one in found if one.variant == "control"} == {"1.0.0"}
    assert {(one.experiment, one.treatment_share) for one in found} == {("rollout-execution-2.0.0-1", FIVE)}
    assert found[0].arms == {
        "versions": {"control": "1.0.0", "treatment": "2.0.0"},
        "shares": {"treatment": FIVE},
    }


@pytest.mark.parametrize("behind", [{}, {"candidate": OTHER}, {"challenger": NEW}])
def test_no_other_version_answers_for_the_candidate(behind: dict[str, ServedModel]) -> None:
    """An alias that was moved by hand gives the candidate's users to a version that nobody rolls out."""
    found = routed(split(1.0), picture(champion=OLD, **behind))
    assert (found.model.semver, found.alias, found.fallback) == ("1.0.0", "champion", "absent")
    assert (found.variant, found.experiment) == ("treatment", "rollout-execution-2.0.0-1")
    # Both arms get the champion, so neither says anything of the candidate.
    assert (found.treatment_share, found.arms) == (None, None)


@pytest.mark.parametrize("completed", [False, True])
@pytest.mark.parametrize(
    "behind", [{"champion": OLD, "candidate": NEW}, {"champion": NEW, "candidate": NEW}, {"champion": NEW}]
)
def test_nobody_goes_back_while_the_candidate_becomes_champion(
    behind: dict[str, ServedModel], *, completed: bool
) -> None:
    """Ledger and aliases change one after the other: in between, all users fall back to the old champion for a moment."""
    found = routed(split(1.0, completed=completed), picture(**behind))
    assert (found.model.semver, found.fallback) == ("2.0.0", None)


@pytest.mark.parametrize("behind", [{}, {"candidate": OTHER}])
def test_a_completed_rollout_is_over_once_its_alias_is_gone(behind: dict[str, ServedModel]) -> None:
    """Production that is rolled back later is counted as the failure of a rollout that ended weeks ago."""
    found = routed(split(1.0, completed=True), picture(champion=OLD, **behind))
    assert (found.model.semver, found.fallback, found.experiment, found.variant) == ("1.0.0", None, None, "control")


def test_who_names_no_user_is_drawn_by_the_test() -> None:
    """CI jobs name no user: with them left out, a rollout never sees the traffic that it is for."""
    models = picture(champion=OLD, candidate=NEW)
    found = [routed(split(HALF), models, asked(test_id=f"t{i}"), f"decision-{i}") for i in range(2000)]
    assert sum(one.variant == "treatment" for one in found) / 2000 == pytest.approx(HALF, abs=0.05)
    assert found[7].user == "test\0t7"
    again = [routed(split(HALF), models, asked(test_id=f"t{i}"), "another") for i in range(2000)]
    assert [one.variant for one in again] == [one.variant for one in found]
    # A user of that name is somebody else, and none can be called like a test's key.
    assert routed(split(HALF), models, asked(user_id="t7")).user == "t7"
    with pytest.raises(ValidationError, match="user_id"):
        asked(user_id="test\0t7")


def test_what_names_neither_user_nor_test_is_drawn_by_itself() -> None:
    """One key for all of it: at 5 % the candidate has either none of this traffic, or all."""
    spec = AGENTS["requirements"]
    models = picture(champion=served_model(spec, "1.0.0"), candidate=served_model(spec, "2.0.0"))
    assert asked(spec, test_id="unknown").test_id == request_model(spec.name).model_fields["test_id"].default
    silent = request_model(spec.name).model_validate(
        {name: value for name, value in request_of(spec).items() if name != "test_id"}
    )
    wanted = split(FIVE, agent="requirements")
    found = [routed(wanted, models, silent, f"decision-{i}") for i in range(4000)]
    assert sum(one.variant == "treatment" for one in found) / 4000 == pytest.approx(FIVE, abs=0.015)
    assert len({one.user for one in found}) == 4000
    # A message of a stream that comes twice is the same decision.
    assert routed(wanted, models, silent, "decision-9") == found[9]


def test_paused_is_as_if_there_were_none() -> None:
    """Paused for an incident, and the candidate still answers; or a test's pseudonym is taken for a user."""
    models = picture(champion=OLD, candidate=NEW)
    paused = split(1.0, status="paused")
    assert routed(paused, models) == Route("champion", OLD, "ann")
    assert routed(paused, models, asked()) == Route("champion", OLD, None)
    assert routed(None, models, asked()) == Route("champion", OLD, None)


def test_in_the_shadow_every_request_counts_and_nobody_is_treated() -> None:
    """Requests of the shadow stage that are not counted are not among those that the candidate has to answer."""
    models = picture(champion=OLD, candidate=NEW)
    for request in (asked(user_id="ann"), asked()):
        found = routed(split(0.0), models, request)
        assert (found.model.semver, found.variant, found.treatment_share) == ("1.0.0", "control", 0.0)
        assert found.experiment == "rollout-execution-2.0.0-1"
        assert found.arms == {"versions": {"control": "1.0.0"}, "shares": {"treatment": 0.0}}
    without = routed(split(0.0), picture(champion=OLD))
    assert (without.experiment, without.treatment_share) == ("rollout-execution-2.0.0-1", None)
