"""One server process: everything that answering takes, made from the settings, started and stopped together. No HTTP."""

import asyncio
import gc
import logging
import random
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import Engine, func, select

from mlops_assets.experiments.assignment import CONTROL
from mlops_assets.experiments.experiments import Experiment, unfinished_experiments
from mlops_assets.features.store import open_feature_store
from mlops_assets.foundation.agents import AGENTS, agent_spec
from mlops_assets.foundation.clock import Clock, ShiftedClock, SystemClock, deployment_clock
from mlops_assets.foundation.database import create_operational_engine, read_transaction, upgrade
from mlops_assets.foundation.policies import ServingPolicy
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import Settings
from mlops_assets.foundation.tables import FeatureViewRecord, PredictionRecord
from mlops_assets.registry.catalogue import CHAMPION
from mlops_assets.rollout.guard import RolloutGuard
from mlops_assets.rollout.ledger import splits
from mlops_assets.serving.cache import AnswerCache
from mlops_assets.serving.decide import Decider, Decision, Features
from mlops_assets.serving.deliveries import DeliveryProcess
from mlops_assets.serving.forged_votes import ForgedVotes
from mlops_assets.serving.metrics import ServingMetrics
from mlops_assets.serving.models import ServedModels
from mlops_assets.serving.online_features import OnlineFeatures
from mlops_assets.serving.poll import Poll
from mlops_assets.serving.prediction_log import PredictionLog
from mlops_assets.serving.pseudonyms import pseudonymiser
from mlops_assets.serving.registry_watch import RegistryWatch
from mlops_assets.serving.requests import DecisionRequest
from mlops_assets.serving.shadows import ShadowRequest, ShadowScorer, versions_to_ask
from mlops_assets.serving.status import experiment_status
from mlops_assets.serving.tokens import ApiToken, active_tokens
from mlops_assets.serving.treatments import BoundedCalls

# Threads that hold the interpreter for its default 5 ms would show in every tenth answer.
_SWITCH_SECONDS = 0.0005
# Requests before the first look at the operational database are refused; as a rule there are none.
_DATABASE_SECONDS = 2.0
# A feature store that does not answer at all is not waited for longer: answers go out without it, flagged.
_FEATURES_WARM_SECONDS = 30.0
# Experiment gauges take a query over the log; the split itself is followed by a poll of its own.
_FIGURES_MS = 10_000.0
# A batch of a thousand decisions takes a fifth of a second, in which single requests would wait.
_YIELD_DECISIONS = 64
_log = logging.getLogger(__name__)


class ServingRuntime:
    """A decision server without its HTTP.

    Args:
        settings: of the deployment.
        clock: time of decisions; by default the machine's, or that of the data (see `Settings.data_clock`).
        mirror: run the mirror of the registry; without it, somebody else has to.
    """

    def __init__(self, settings: Settings, *, clock: Clock | None = None, mirror: bool = True) -> None:
        self.settings = settings
        profile = load_profile(settings.policy_profile)
        self.policy: ServingPolicy = profile.serving
        self.engine: Engine = create_operational_engine(settings.database)
        self.metrics = ServingMetrics()
        # Of their own: readers of a slow database must not take the connections of those that write to it.
        self.readers: Engine = create_operational_engine(settings.database)
        self.store = open_feature_store(settings, self.engine)
        self.features = OnlineFeatures(self.store, self.policy, self.metrics.feature_wait)
        self.registry = RegistryWatch(settings.paths.served_models, mirror=mirror)
        self.database_poll = Poll("operational database", self._refresh, self.policy.registry_poll_ms)
        self._guard_poll = Poll("guard of rollouts", self._guard_rollouts, self.policy.registry_poll_ms)
        self.forged_votes = ForgedVotes(self.engine)
        self._figures_poll = Poll("experiment figures", self._show_figures, _FIGURES_MS)
        self.log = PredictionLog(
            self.engine,
            settings.paths.prediction_journal,
            flush_ms=self.policy.log_flush_ms,
            queue_rows=self.policy.log_queue_rows,
            on_failure=self.metrics.log_failed,
        )
        self.shadows = ShadowScorer(self.log.append_shadows, self.policy.log_queue_rows, self.metrics.log_failed)
        self.treatments = BoundedCalls(
            timeout_ms=self.policy.treatment_timeout_ms,
            failures=self.policy.breaker_failures,
            open_seconds=self.policy.breaker_open_seconds,
        )
        self.decider = Decider(
            epsilon=settings.exploration_epsilon,
            cache=AnswerCache(self.policy.cache_entries, self.policy.cache_ttl_seconds),
            pseudonym=pseudonymiser(settings),
            uniform=random.SystemRandom().random,
            treatments=self.treatments,
            aa_share=profile.ab_test.aa_share,
        )
        self.experiments: Mapping[str, Experiment] = MappingProxyType({})
        # None until the operational database has said it; set after the splits, so that with it both are known.
        self.tokens: Mapping[str, ApiToken] | None = None
        self.answers = 0
        self.failures = 0
        self._guard: RolloutGuard | None = None
        self._deliveries = DeliveryProcess()
        self._clock = clock
        self._started = time.monotonic()

    def start(self) -> None:
        """Migrate the database, import the vendors, and start all threads; `ready` tells when decisions can be asked for.

        Raises:
            StorageError: the operational database does not answer.
        """
        self.registry.start_mirror()
        # Vendors are imported here, one after the other: two threads that compile at a time upset CPython 3.11 (its
        # "AST constructor recursion depth mismatch"), and the first request would wait for them.
        upgrade(self.engine)
        self.store.import_feast()
        self._clock = self._clock or self._chosen_clock()
        self._add_gauges()
        self.log.start()
        self.shadows.start()
        self.database_poll.start()
        self._guard_poll.start()
        self.forged_votes.start()
        self._figures_poll.start()
        self.features.start()
        self.registry.start()
        self.database_poll.wait_first(_DATABASE_SECONDS)
        sys.setswitchinterval(_SWITCH_SECONDS)

    @property
    def clock(self) -> Clock:
        """Time of decisions."""
        return self._clock or SystemClock()

    @property
    def uptime_seconds(self) -> float:
        """Seconds since the process began to serve."""
        return time.monotonic() - self._started

    @property
    def ready(self) -> bool:
        """Whether an agent can be asked: a champion is in service, tokens and splits are known, features there or given up on."""
        waiting = [name for name in AGENTS if self.registry.models.get(name, CHAMPION) is None]
        # A server is not ready for one agent while the next one's champion is on its way.
        coming = any(f"{name} {CHAMPION}" in self.registry.pending for name in waiting)
        served = len(waiting) < len(AGENTS) and not coming
        return (
            served
            and self.database_poll.age_seconds is not None
            and (self.features.warm or self.uptime_seconds > _FEATURES_WARM_SECONDS)
        )

    def settle(self) -> None:
        """Once ready: take everything that is loaded out of the garbage collector's sight.

        A full collection over the vendors' modules stops the process for 100 ms.
        """
        gc.collect()
        gc.freeze()

    async def decide(self, requests: Sequence[DecisionRequest], started: float) -> list[Decision]:
        """Decide and log; the order is that of the requests, features are read once for each agent.

        Raises:
            NotReadyError: an agent has no champion.
            LogFull: the answers could not be logged.
        """
        self.log.require_room(len(requests))
        now = self.clock.now()
        features = await self._features(requests, now)
        models = self.registry.models
        decisions: list[Decision] = []
        for request, found in zip(requests, features, strict=True):
            if decisions and len(decisions) % _YIELD_DECISIONS == 0:
                await asyncio.sleep(0)
            decisions.append(
                self.decider.decide(
                    request,
                    models=models,
                    experiment=self.experiments.get(request.agent),
                    features=found,
                    now=now,
                    started=started,
                    channel="http",
                )
            )
        self.log.append([decision.row for decision in decisions])
        for decision in decisions:
            self.account(decision, models)
        return decisions

    def account(self, decision: Decision, models: ServedModels) -> None:
        """Count an answer that is logged, and ask the shadows what was asked."""
        row = decision.row
        self.metrics.answered(row, decision.vector)
        self.answers += 1
        if decision.failure is not None:
            self.failures += 1
            what = "the A/A test's call of the champion" if row["variant"] == CONTROL else "a candidate"
            _log.error("%s was answered without %s, which failed: %s", row["prediction_id"], what, decision.failure)
        self.shadows.ask(
            [
                ShadowRequest(
                    row["prediction_id"],
                    row["event_time"],
                    decision.context,
                    row["requirement_text"],
                    decision.features,
                    model,
                )
                for model in versions_to_ask(models, decision)
            ]
        )

    def stop(self) -> None:
        """Stop all threads; every answer that was given is in the journal or the database afterwards."""
        # The log before all that may have to be waited for: a supervisor's patience ends with SIGKILL.
        self.shadows.stop()
        self.log.stop()
        self.treatments.stop()
        self.features.stop()
        self.registry.stop()
        self.database_poll.stop()
        self._guard_poll.stop()
        self._deliveries.stop()
        self._figures_poll.stop()
        self.forged_votes.stop()
        self.engine.dispose()
        self.readers.dispose()

    async def _features(self, requests: Sequence[DecisionRequest], now: datetime) -> list[Features | None]:
        if len(requests) == 1:
            return [await self.features.lookup(agent_spec(requests[0].agent), *_keys(requests), now)]
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(request.agent, []).append(i)
        found = await asyncio.gather(
            *(
                self.features.lookup(agent_spec(agent), *_keys([requests[i] for i in rows]), now)
                for agent, rows in groups.items()
            )
        )
        answers: list[Features | None] = [None] * len(requests)
        for rows, block in zip(groups.values(), found, strict=True):
            for position, i in enumerate(rows):
                answers[i] = None if block is None else {n: v[position : position + 1] for n, v in block.items()}
        return answers

    def _refresh(self) -> None:
        """Look what the operational database says about experiments, rollouts and tokens."""
        self.experiments = MappingProxyType({**unfinished_experiments(self.engine), **splits(self.engine)})
        self.tokens = MappingProxyType(dict(active_tokens(self.engine, datetime.now(UTC))))

    def _guard_rollouts(self) -> None:
        """Take back what harms its users; the split follows as for every other step of the ledger."""
        if self._guard is None:
            policy = load_profile(self.settings.policy_profile).rollout
            clock = deployment_clock(self.settings.clock)
            self._guard = RolloutGuard(
                self.readers, policy, served=self.clock, clock=clock, taken_back=self._deliveries.ask
            )
        try:
            self._guard.refresh()
        finally:
            self._deliveries.follow()

    def _show_figures(self) -> None:
        for experiment in self.experiments.values():
            for variant, figures in experiment_status(self.readers, experiment)["variants"].items():
                self.metrics.arm(experiment.name, variant, accuracy=figures["accuracy"], reward=figures["mean_reward"])

    def _chosen_clock(self) -> Clock:
        if not self.settings.data_clock:
            return deployment_clock(self.settings.clock)
        with read_transaction(self.engine) as session:
            newest: datetime | None = session.execute(select(func.max(FeatureViewRecord.last_event_time))).scalar_one()
            # Not back in time after a restart: what was served before has to lie before.
            served: datetime | None = session.execute(select(func.max(PredictionRecord.event_time))).scalar_one()
        if newest is None:
            return SystemClock()
        newest = max(newest, served or newest)
        offset = newest - datetime.now(UTC)
        _log.info("decisions take place in the time of the data, which goes on from %s", newest)
        return ShiftedClock(offset)

    def _add_gauges(self) -> None:
        gauge, cache, breaker = self.metrics.gauge, self.decider.cache, self.features.breaker
        gauge("ml_prediction_log_unshipped", "Answers not in the database yet.", lambda: {(): self.log.unshipped})
        gauge("ml_prediction_log_in_memory", "Answers that a kill would lose.", lambda: {(): self.log.in_memory})
        gauge("ml_shadow_requests_dropped", "Requests no shadow was asked.", lambda: {(): self.shadows.dropped})
        gauge("ml_answer_cache_hits", "Answers from the cache.", lambda: {(): cache.hits})
        gauge("ml_answer_cache_misses", "Answers computed.", lambda: {(): cache.misses})
        gauge(
            "ml_online_features_breaker_open",
            "1 while answers go out without online features.",
            lambda: {(): float(breaker.state(time.monotonic()) != "closed")},
        )
        gauge(
            "ml_treatment_breaker_open",
            "1 while a version on trial is not asked, since it was late.",
            lambda: {key: float(state != "closed") for key, state in self.treatments.states().items()},
            "model",
            "model_version",
        )
        gauge("ml_model_served", "Versions in service.", self._served, "agent", "alias", "model_version")

    def _served(self) -> Mapping[tuple[str, ...], float]:
        by_alias: Mapping[tuple[str, str], Any] = self.registry.models.by_alias
        return {(agent, alias, model.semver): 1.0 for (agent, alias), model in by_alias.items()}


def _keys(requests: Sequence[DecisionRequest]) -> tuple[list[str], list[str]]:
    return [request.test_id for request in requests], [request.agent_id for request in requests]
