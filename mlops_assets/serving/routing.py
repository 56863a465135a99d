"""Which version a request goes to: the champion, or a treatment of the agent's experiment or rollout. No evaluation here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mlops_assets.experiments.assignment import CONTROL, TREATMENT, aa_arm
from mlops_assets.experiments.experiments import Experiment
from mlops_assets.experiments.segments import EVERYBODY
from mlops_assets.registry.catalogue import CHAMPION
from mlops_assets.serving.models import ServedModel, ServedModels
from mlops_assets.serving.requests import DecisionRequest

Fallback = Literal["failed", "absent"]
# What a request asks about that names no test.
_NO_TEST: str = DecisionRequest.model_fields["test_id"].default


@dataclass(frozen=True)
class Route:
    """The version that is to answer, and what the log says of the split.

    `user`: who was drawn, None when nobody is known. `experiment` is None where the request is not counted, `treatment_share`
    and `arms` where it says nothing of the treatment. `fallback`: why not the treatment's model answers its user. `aa_arm`:
    that of the A/A test, of the champion's users.
    """

    alias: str
    model: ServedModel
    user: str | None
    variant: str = CONTROL
    experiment: str | None = None
    treatment_share: float | None = None
    arms: Mapping[str, Any] | None = None
    fallback: Fallback | None = None
    aa_arm: str | None = None

    @property
    def on_trial(self) -> bool:
        """Whether its model's answer is waited for only so long, and may be given up."""
        return self.alias != CHAMPION or self.aa_arm == TREATMENT


def route(
    request: DecisionRequest,
    models: ServedModels,
    champion: ServedModel,
    experiment: Experiment | None,
    prediction_id: str,
    *,
    aa_share: float = 0.0,
) -> Route:
    """Return where a request goes.

    Args:
        request: validated for its agent.
        models: the versions in service.
        champion: the agent's.
        experiment: the agent's unfinished experiment or rollout; it counts for requests that name a user, a rollout for all.
        prediction_id: id of the decision.
        aa_share: of the champion's users in each arm of the A/A test.
    """
    way = _split(request, models, champion, experiment, prediction_id)
    if way.user is None or way.alias != CHAMPION or way.fallback is not None:
        return way
    return replace(way, aa_arm=aa_arm(request.agent, champion.semver, way.user, aa_share))


def _split(
    request: DecisionRequest,
    models: ServedModels,
    champion: ServedModel,
    experiment: Experiment | None,
    prediction_id: str,
) -> Route:
    split = _in_force(models, champion, experiment)
    user = request.user_id
    if split is not None and split.splits_anonymous and user is None:
        user = _anonymous(request, prediction_id)
    if split is None or user is None or not _inside(split, request):
        return Route(CHAMPION, champion, user)
    variant = split.variant(user)
    # Without a treatment's model both arms get the champion: such decisions say nothing of it.
    compared = _compared(models, split)
    alias, model, fallback = _answering(models, champion, split, variant)
    return Route(
        alias=alias,
        model=model,
        user=user,
        variant=variant,
        experiment=split.name,
        treatment_share=sum(split.shares.values()) if compared else None,
        arms=_arms(models, champion, split) if compared else None,
        fallback=fallback,
    )


def _in_force(models: ServedModels, champion: ServedModel, experiment: Experiment | None) -> Experiment | None:
    """The split, unless it is paused, or the rollout that it is of has ended in this very picture of the registry.

    Between the ledger's last step and the aliases' there is no moment in which users go back to the champion before.
    """
    if experiment is None or experiment.status != "running":
        return None
    if experiment.treatment_version is None:
        return experiment
    if champion.semver == experiment.treatment_version:
        return None
    gone = _treatment(models, experiment, experiment.treatment_alias) is None
    return None if experiment.completed and gone else experiment


def _anonymous(request: DecisionRequest, prediction_id: str) -> str:
    """Whom a rollout goes by where no user is named: the test that is asked about, else the decision itself.

    One name for all that name no test would send the whole of them into one arm. No user is called like either: ids have
    no control characters.
    """
    return f"decision\0{prediction_id}" if request.test_id == _NO_TEST else f"test\0{request.test_id}"


def _inside(split: Experiment, request: DecisionRequest) -> bool:
    return split.segment is EVERYBODY or split.segment.has(vars(request), vars(request.context))


def _answering(
    models: ServedModels, champion: ServedModel, split: Experiment, variant: str
) -> tuple[str, ServedModel, Fallback | None]:
    if variant == CONTROL:
        return CHAMPION, champion, None
    alias = split.treatments[variant].alias
    treatment = _treatment(models, split, alias)
    # In the treatment's arm, but not by its model: analyses have to tell these apart.
    return (CHAMPION, champion, "absent") if treatment is None else (alias, treatment, None)


def _treatment(models: ServedModels, split: Experiment, alias: str) -> ServedModel | None:
    """The version behind a treatment's alias; a rollout's is no other than its candidate."""
    found = models.get(split.agent, alias)
    expected = split.treatment_version
    return None if found is not None and expected is not None and found.semver != expected else found


def _compared(models: ServedModels, split: Experiment) -> bool:
    """Whether a treatment is there, and each that has users."""
    there = {one: _treatment(models, split, one.alias) is not None for one in split.treatments.values()}
    return any(there.values()) and all(found or one.share == 0.0 for one, found in there.items())


def _arms(models: ServedModels, champion: ServedModel, split: Experiment) -> dict[str, Any]:
    """What stood behind each arm at this decision, and at which shares: an alias may move while the experiment runs."""
    served = {arm: _treatment(models, split, one.alias) for arm, one in split.treatments.items() if one.share > 0.0}
    versions = {arm: model.semver for arm, model in served.items() if model is not None}
    return {"versions": {CONTROL: champion.semver, **versions}, "shares": split.shares}
