"""The decision itself: from a validated request, features and models to an action and its log row. No input or output.

Real time, stream and tests call this one function; what differs between them is where features come from and where the
row goes. Exploration is epsilon-greedy: with probability epsilon a uniformly drawn action, so that the logged propensity
of the action taken is exact.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlops_assets.experiments.assignment import CONTROL
from mlops_assets.experiments.experiments import Experiment
from mlops_assets.experiments.segments import EVERYBODY
from mlops_assets.features.vector import column_name
from mlops_assets.foundation.agents import AgentSpec, agent_spec
from mlops_assets.foundation.errors import NotReadyError
from mlops_assets.registry.catalogue import CHAMPION
from mlops_assets.serving.cache import AnswerCache
from mlops_assets.serving.models import ServedModel, ServedModels
from mlops_assets.serving.requests import DecisionRequest
from mlops_assets.serving.treatments import BoundedCalls

Channel = Literal["http", "stream"]
Fallback = Literal["failed", "absent"]
Features = Mapping[str, NDArray[Any]]
_RANDOM_BYTES = 10


@dataclass(frozen=True)
class Decision:
    """An answered request: the log row (columns of the table `prediction`), and what answers need besides."""

    row: dict[str, Any]
    model: ServedModel
    action_name: str
    context: NDArray[np.float32]
    features: Features
    vector: NDArray[np.float32]
    failure: str | None


def new_prediction_id(now: datetime) -> str:
    """Return a unique id, 32 hex digits: milliseconds since 1970 first, so that indexes grow at their end."""
    return f"{int(now.timestamp() * 1000):012x}{os.urandom(_RANDOM_BYTES).hex()}"


def absent_features(spec: AgentSpec, rows: int) -> Features:
    """Return features that are all missing, for answers without the online store: defaults, flagged."""
    return {column_name(field): np.full(rows, np.nan) for field in spec.features}


def confidence_of(q_values: NDArray[np.float32]) -> float:
    """Softmax margin: probability of the best action less that of the second best, under softmax(Q); 0..1."""
    ordered = np.sort(q_values.astype(np.float64))
    weights = np.exp(ordered - ordered[-1])
    return float((weights[-1] - weights[-2]) / weights.sum()) if len(ordered) > 1 else 1.0


class Decider:
    """Takes decisions for one process.

    Args:
        epsilon: share of the decisions that are drawn uniformly.
        cache: remembers Q-values.
        pseudonym: makes a pseudonym of a user id.
        uniform: draws from [0, 1).
        treatments: bounds the time of versions on trial; without it they are waited for.
    """

    def __init__(
        self,
        *,
        epsilon: float,
        cache: AnswerCache[NDArray[np.float32]],
        pseudonym: Callable[[str], str],
        uniform: Callable[[], float],
        treatments: BoundedCalls | None = None,
    ) -> None:
        self.epsilon = epsilon
        self.cache = cache
        self._pseudonym = pseudonym
        self._uniform = uniform
        self._treatments = treatments

    def decide(
        self,
        request: DecisionRequest,
        *,
        models: ServedModels,
        experiment: Experiment | None,
        features: Features | None,
        now: datetime,
        started: float,
        channel: Channel,
        prediction_id: str | None = None,
    ) -> Decision:
        """Decide one request.

        Args:
            request: validated for its agent.
            models: the versions in service.
            experiment: the agent's unfinished experiment or rollout; it counts for requests that name a user, a rollout for
                all.
            features: the request's online features, arrays of length 1; None when they could not be had.
            now: time of the decision.
            started: when the request came in, `time.perf_counter` seconds.
            channel: how it came in.
            prediction_id: id of the decision where it is fixed beforehand, as for a stream's message.

        Raises:
            NotReadyError: the agent has no champion in service.
        """
        spec = agent_spec(request.agent)
        champion = models.get(spec.name, CHAMPION)
        if champion is None:
            raise NotReadyError(f"{spec.registered_model} has no champion yet; run the job model_lifecycle first")
        experiment = _in_force(models, champion, experiment)
        user = _user_of(request, experiment)
        counted = (
            experiment is not None
            and experiment.status == "running"
            and user is not None
            and (experiment.segment is EVERYBODY or experiment.segment.has(vars(request), vars(request.context)))
        )
        variant = experiment.variant(user) if counted and experiment and user else CONTROL
        # Without a treatment's model both arms get the champion: such decisions say nothing of it.
        compared = experiment is not None and _compared(models, experiment)
        alias, model = CHAMPION, champion
        fallback: Fallback | None = None
        failure = None
        if variant != CONTROL and experiment is not None:
            wanted = experiment.treatments[variant].alias
            treatment = _treatment(models, experiment, wanted)
            if treatment is not None:
                alias, model = wanted, treatment
            else:
                # In the treatment's arm, but not by its model: analyses have to tell these apart.
                fallback = "absent"
        context = np.array([request.context_values], dtype=np.float32)
        given = absent_features(spec, 1) if features is None else features
        try:
            vector, missing, q_values, cached = self._answer(model, champion, context, request.text, given)
        except Exception as error:
            if model is champion:
                raise
            # Whatever a candidate does, its users get the champion's answer, and the failure counts against it.
            failure = f"{model.spec.registered_model} {model.semver}: {type(error).__name__}: {error}"
            fallback, alias, model = "failed", CHAMPION, champion
            vector, missing, q_values, cached = self._evaluate(model, context, request.text, given)
        action, propensity, explored = self._act(q_values)
        row = {
            "prediction_id": prediction_id or new_prediction_id(now),
            "event_time": now,
            "agent": spec.name,
            "agent_id": request.agent_id,
            "test_id": request.test_id,
            "requirement_id": request.requirement_id,
            "requirement_text": request.text,
            "episode_id": request.episode_id,
            "step": request.step,
            "ui_framework": request.ui_framework,
            "browser": request.browser,
            "test_type": request.test_type,
            "model_name": spec.registered_model,
            "model_version": model.semver,
            "model_alias": alias,
            "experiment": experiment.name if counted and experiment else None,
            "variant": variant,
            "treatment_share": sum(experiment.shares.values()) if counted and compared and experiment else None,
            "arms": _arms(models, champion, experiment) if counted and compared and experiment else None,
            "user_hash": None if user is None else self._pseudonym(user),
            "state": vector.tobytes(),
            "missing_features": missing,
            "q_values": q_values.tolist(),
            "action": action,
            "propensity": propensity,
            "explored": explored,
            "confidence": confidence_of(q_values),
            "cached": cached,
            "status": "ok" if features is not None else "degraded",
            "fallback": fallback,
            "channel": channel,
        }
        row["episode_id"] = row["episode_id"] or row["prediction_id"]
        row["latency_ms"] = (time.perf_counter() - started) * 1000.0
        return Decision(
            row=row,
            model=model,
            action_name=spec.actions[action],
            context=context[0],
            features=given,
            vector=vector,
            failure=failure,
        )

    def _answer(
        self, model: ServedModel, champion: ServedModel, context: NDArray[np.float32], text: str, features: Features
    ) -> tuple[NDArray[np.float32], list[str], NDArray[np.float32], bool]:
        if model is champion or self._treatments is None:
            return self._evaluate(model, context, text, features)
        return self._treatments.call(model.key, lambda: self._evaluate(model, context, text, features))

    def _evaluate(
        self, model: ServedModel, context: NDArray[np.float32], text: str, features: Features
    ) -> tuple[NDArray[np.float32], list[str], NDArray[np.float32], bool]:
        states = model.states(context, [text], features)
        vector = states.values[0]
        missing = [column_name(model.spec.features[i]) for i in np.flatnonzero(states.missing[0])]
        key, now = (model.key, vector.tobytes()), time.monotonic()
        known = self.cache.get(key, now)
        if known is not None:
            return vector, missing, known, True
        q_values = model.policy.q_values(states.values)[0]
        if not np.isfinite(q_values).all():
            raise ArithmeticError(f"{model.spec.registered_model} {model.semver} gave Q-values that are not finite")
        self.cache.put(key, q_values, now)
        return vector, missing, q_values, False

    def _act(self, q_values: NDArray[np.float32]) -> tuple[int, float, bool]:
        actions = len(q_values)
        greedy = int(q_values.argmax())
        chosen = greedy
        if self.epsilon and self._uniform() < self.epsilon:
            chosen = min(int(self._uniform() * actions), actions - 1)
        propensity = self.epsilon / actions + (1.0 - self.epsilon if chosen == greedy else 0.0)
        return chosen, propensity, chosen != greedy


def _in_force(models: ServedModels, champion: ServedModel, experiment: Experiment | None) -> Experiment | None:
    """The split, unless the rollout that it is of has ended in this very picture of the registry.

    Between the ledger's last step and the aliases' there is no moment in which users go back to the champion before.
    """
    if experiment is None or experiment.treatment_version is None:
        return experiment
    if champion.semver == experiment.treatment_version:
        return None
    gone = models.get(experiment.agent, experiment.treatment_alias) is None
    return None if experiment.completed and gone else experiment


def _user_of(request: DecisionRequest, experiment: Experiment | None) -> str | None:
    """Whom a split goes by: the user; in a rollout, who names none is taken for the test that is asked about."""
    if request.user_id is not None or experiment is None or not experiment.splits_anonymous:
        return request.user_id
    # No user is called so: ids have no control characters.
    return f"test\0{request.test_id}"


def _treatment(models: ServedModels, experiment: Experiment, alias: str) -> ServedModel | None:
    """The version behind a treatment's alias; a rollout's is no other than its candidate."""
    found = models.get(experiment.agent, alias)
    expected = experiment.treatment_version
    return None if found is not None and expected is not None and found.semver != expected else found


def _compared(models: ServedModels, experiment: Experiment) -> bool:
    """Whether a treatment is there, and each that has users."""
    there = {one: _treatment(models, experiment, one.alias) is not None for one in experiment.treatments.values()}
    return any(there.values()) and all(found or one.share == 0.0 for one, found in there.items())


def _arms(models: ServedModels, champion: ServedModel, experiment: Experiment) -> dict[str, Any]:
    """What stood behind each arm at this decision, and at which shares: an alias may move while the experiment runs."""
    served = {
        arm: _treatment(models, experiment, one.alias) for arm, one in experiment.treatments.items() if one.share > 0.0
    }
    versions = {arm: model.semver for arm, model in served.items() if model is not None}
    return {"versions": {CONTROL: champion.semver, **versions}, "shares": experiment.shares}
