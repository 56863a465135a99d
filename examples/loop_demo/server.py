"""The decision server without HTTP and threads: its decision, routing, features, log rows and shadows, an hour at a time."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from random import Random
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from examples.loop_demo.town import Asked
from mlops_assets.experiments.experiments import Experiment
from mlops_assets.features.store import open_feature_store
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.database import transaction
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import Settings
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets.rollout.ledger import splits
from mlops_assets.serving.cache import AnswerCache
from mlops_assets.serving.decide import Decider, Decision
from mlops_assets.serving.models import SERVED_ALIASES, ServedModel, ServedModels, load_served_model
from mlops_assets.serving.prediction_rows import SHADOW, insert_entries, insert_predictions
from mlops_assets.serving.pseudonyms import pseudonymiser
from mlops_assets.serving.requests import OutcomeRequest
from mlops_assets.serving.shadows import ShadowRequest, ShadowScorer, versions_to_ask


class HourlyServer:
    """Answers the requests of an hour by the versions that stand behind the aliases at its begin.

    Args:
        settings: of the deployment; `exploration_epsilon` has to be above 0 for the agent to learn from what it served.
        engine: operational database.
        spec: the agent.
        seed: of the exploration.
    """

    def __init__(self, settings: Settings, engine: Engine, spec: AgentSpec, *, seed: int) -> None:
        policy = load_profile(settings.policy_profile).serving
        self._engine, self._spec = engine, spec
        self._queue_rows = policy.log_queue_rows
        self._store = MlflowStore(settings.tracking_uri)
        self._features = open_feature_store(settings, engine)
        self._loaded: dict[str, ServedModel] = {}
        self._decider = Decider(
            epsilon=settings.exploration_epsilon,
            cache=AnswerCache(policy.cache_entries, policy.cache_ttl_seconds),
            pseudonym=pseudonymiser(settings),
            uniform=Random(seed).random,  # noqa: S311 - a simulation
        )

    def answer(self, asked: Asked) -> tuple[list[OutcomeRequest], float]:
        """Decide and log an hour's requests; return what came of them, and the share whose greedy action was the best."""
        models = self._models()
        experiment = splits(self._engine).get(self._spec.name)
        found = self._features.online_features(
            self._spec,
            [one.test_id for one in asked.requests],
            [one.agent_id for one in asked.requests],
            list(asked.at),
        )
        decided: dict[int, Decision] = {}
        with self._shadows() as shadows:
            for row in _by_arm(asked, experiment):
                decided[row] = self._decider.decide(
                    asked.requests[row],
                    models=models,
                    experiment=experiment,
                    features={name: values[row : row + 1] for name, values in found.items()},
                    now=asked.at[row],
                    started=time.perf_counter(),
                    channel="http",
                )
                shadows.ask(_shadow_requests(models, decided[row]))
        decisions = [decided[row] for row in range(len(asked.requests))]
        with transaction(self._engine) as session:
            insert_predictions(session, [one.row for one in decisions])
        greedy = np.array([one.row["q_values"] for one in decisions]).argmax(axis=1)
        return _outcomes(asked, decisions, self._spec), float((greedy == asked.best).mean())

    def _models(self) -> ServedModels:
        by_alias: dict[tuple[str, str], ServedModel] = {}
        for alias in SERVED_ALIASES:
            number = self._store.alias_target(self._spec.registered_model, alias)
            if number is None:
                continue
            if number not in self._loaded:
                self._loaded[number] = load_served_model(self._store, self._spec, number)
            by_alias[self._spec.name, alias] = self._loaded[number]
        return ServedModels(MappingProxyType(by_alias))

    @contextmanager
    def _shadows(self) -> Iterator[ShadowScorer]:
        """Ask the shadows in a thread beside the answers, as the server does, and log what they said."""
        failures: list[str] = []
        rows: list[Mapping[str, Any]] = []
        scorer = ShadowScorer(rows.extend, self._queue_rows, failures.append)
        scorer.start()
        yield scorer
        scorer.stop()
        if failures or scorer.dropped:
            raise RuntimeError(f"{scorer.dropped} shadow requests were dropped, and failures were {failures}")
        with transaction(self._engine) as session:
            insert_entries(session, [(SHADOW, row) for row in rows])


def _shadow_requests(models: ServedModels, one: Decision) -> list[ShadowRequest]:
    row = one.row
    return [
        ShadowRequest(
            row["prediction_id"], row["event_time"], one.context, row["requirement_text"], one.features, model
        )
        for model in versions_to_ask(models, one)
    ]


def _by_arm(asked: Asked, experiment: Experiment | None) -> list[int]:
    """Row numbers, one arm after the other: a network that is asked once in twenty finds the machine's caches cold.

    Requests of an hour follow each other here without a pause, which those of users do not.
    """
    rows = range(len(asked.requests))
    if experiment is None:
        return list(rows)
    return sorted(rows, key=lambda row: experiment.variant(asked.requests[row].user_id or ""))


def _outcomes(asked: Asked, decisions: Sequence[Decision], spec: AgentSpec) -> list[OutcomeRequest]:
    """The value of the action that was taken, with its noise, and the label."""
    rows = np.arange(len(decisions))
    actions: NDArray[np.int64] = np.array([one.row["action"] for one in decisions])
    rewards = np.clip(asked.values[rows, actions] * asked.noise, spec.reward_low, spec.reward_high)
    return [
        OutcomeRequest(
            prediction_id=one.row["prediction_id"],
            reward=float(rewards[row]),
            done=True,
            best_action=int(asked.best[row]),
            action_values=asked.values[row].tolist(),
        )
        for row, one in enumerate(decisions)
    ]
