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

from mlops_assets.experiments.experiments import Experiment
from mlops_assets.features.vector import column_name
from mlops_assets.foundation.agents import AgentSpec, agent_spec
from mlops_assets.foundation.errors import NotReadyError
from mlops_assets.registry.catalogue import CHAMPION
from mlops_assets.serving.cache import AnswerCache
from mlops_assets.serving.models import ServedModel, ServedModels
from mlops_assets.serving.requests import DecisionRequest
from mlops_assets.serving.routing import Route, route
from mlops_assets.serving.treatments import BoundedCalls

Channel = Literal["http", "stream"]
Features = Mapping[str, NDArray[Any]]
_RANDOM_BYTES = 10


@dataclass(frozen=True)
class Decision:
    """An answered request: the log row (columns of the table `prediction`), and what answers need besides.

    `model` answered, `asked` was to: another one where it failed, as `failure` says.
    """

    row: dict[str, Any]
    model: ServedModel
    asked: ServedModel
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
        aa_share: of the champion's users in each arm of the A/A test.
    """

    def __init__(
        self,
        *,
        epsilon: float,
        cache: AnswerCache[NDArray[np.float32]],
        pseudonym: Callable[[str], str],
        uniform: Callable[[], float],
        treatments: BoundedCalls | None = None,
        aa_share: float = 0.0,
    ) -> None:
        self.epsilon = epsilon
        self.cache = cache
        self._pseudonym = pseudonym
        self._uniform = uniform
        self._treatments = treatments
        self._aa_share = aa_share

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
        prediction_id = prediction_id or new_prediction_id(now)
        way = route(request, models, champion, experiment, prediction_id, aa_share=self._aa_share)
        alias, model, fallback, failure = way.alias, way.model, way.fallback, None
        context = np.array([request.context_values], dtype=np.float32)
        given = absent_features(spec, 1) if features is None else features
        try:
            vector, missing, q_values, cached = self._answer(way, context, request.text, given)
        except Exception as error:
            if not way.on_trial:
                raise
            # Whatever a candidate does, its users get the champion's answer, and the failure counts against it.
            failure = f"{model.spec.registered_model} {model.semver}: {type(error).__name__}: {error}"
            fallback, alias, model = "failed", CHAMPION, champion
            vector, missing, q_values, cached = self._evaluate(model, context, request.text, given)
        action, propensity, explored = self._act(q_values)
        row = {
            "prediction_id": prediction_id,
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
            "experiment": way.experiment,
            "variant": way.variant,
            "treatment_share": way.treatment_share,
            "arms": way.arms,
            "aa_arm": way.aa_arm,
            "user_hash": None if way.user is None else self._pseudonym(way.user),
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
            asked=way.model,
            action_name=spec.actions[action],
            context=context[0],
            features=given,
            vector=vector,
            failure=failure,
        )

    def _answer(
        self, way: Route, context: NDArray[np.float32], text: str, features: Features
    ) -> tuple[NDArray[np.float32], list[str], NDArray[np.float32], bool]:
        model = way.model
        if not way.on_trial or self._treatments is None:
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
