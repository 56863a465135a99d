"""What the shadow has found, against the same figures from the values that the rows were made of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap
from sqlalchemy import Engine

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.tables import Base, ShadowPredictionRecord
from mlops_assets.rollout.advance import ShadowFindings
from mlops_assets.rollout.shadow import shadow_findings
from mlops_assets_tests.experiences.served import outcome_row, prediction_row, write
from mlops_assets_tests.rollout.rollouts import BEGIN, rollout

SPEC = AGENTS["execution"]
ACTIONS = len(SPEC.actions)
REWARD_RANGE = SPEC.reward_high - SPEC.reward_low
STATE = rollout()
LATER = BEGIN + timedelta(days=1)


@dataclass(frozen=True)
class Asked:
    """One request: what the champion would do and did, what the candidate would do (None: no answer), what was best.

    The champion takes 1 ms for evaluation and 5 for the request, the candidate 2.
    """

    id: str
    at: datetime = BEGIN
    user: str | None = None
    greedy: int = 1
    taken: int | None = None
    candidate: int | None = 1
    best: int | None = None
    values: tuple[float, ...] | None = None
    request_ms: float = 5.0
    champion_ms: float | None = 1.0
    candidate_ms: float = 2.0

    def rows(self, **changes: object) -> Iterator[Base]:
        """As serving writes them while the rollout is in the shadow; `changes` by column of the prediction."""
        taken = self.greedy if self.taken is None else self.taken
        prediction = prediction_row(
            SPEC,
            self.id,
            **{
                "event_time": self.at,
                "user_hash": self.user,
                "experiment": STATE.name,
                "variant": "control",
                "treatment_share": 0.0,
                "action": taken,
                "explored": taken != self.greedy,
                "q_values": [float(action == self.greedy) for action in range(ACTIONS)],
                "latency_ms": self.request_ms,
                **changes,
            },
        )
        yield prediction
        if self.candidate is not None:
            yield self.shadow(STATE.candidate, self.candidate, self.candidate_ms)
        if self.champion_ms is not None:
            yield self.shadow(STATE.champion, self.greedy, self.champion_ms)
        if self.best is not None:
            yield outcome_row(prediction, 0.0, best_action=self.best, action_values=self.values)

    def shadow(self, version: str, action: int, ms: float, model: str = STATE.model_name) -> ShadowPredictionRecord:
        return ShadowPredictionRecord(
            prediction_id=self.id,
            model_name=model,
            model_version=version,
            q_values=[0.0] * ACTIONS,
            action=action,
            latency_ms=ms,
            event_time=self.at,
        )


def serve(engine: Engine, asked: Sequence[Asked], **changes: object) -> None:
    write(engine, (row for one in asked for row in one.rows(**changes)))


def found(engine: Engine, until: datetime = LATER) -> ShadowFindings:
    return shadow_findings(engine, STATE, SPEC, until)


def crowd(requests: int, users: int, seed: int = 5) -> list[Asked]:
    """Requests of a few users each; everything that may differ does, and two in five have no outcome."""
    random = np.random.default_rng(seed)

    def one(number: int) -> Asked:
        greedy, best = (int(action) for action in random.integers(ACTIONS, size=2))
        user = int(random.integers(users))
        # Users differ in how often the candidate is wrong, as those of a real application do.
        candidate = greedy if random.random() < 0.5 + 0.4 * user / users else int(random.integers(ACTIONS))
        labelled = random.random() < 0.6
        return Asked(
            f"p{number}",
            BEGIN + timedelta(seconds=number),
            user=None if number % 97 == 0 else f"user-{user}",
            greedy=greedy,
            taken=int(random.integers(ACTIONS)) if random.random() < 0.2 else greedy,
            candidate=None if random.random() < 0.04 else candidate,
            best=(greedy if random.random() < 0.7 else best) if labelled else None,
            values=tuple(random.normal(0.0, 40.0, ACTIONS).tolist()) if labelled and number % 5 else None,
            request_ms=float(random.gamma(5.0)),
            champion_ms=None if number % 50 == 0 else float(random.gamma(2.0)),
            candidate_ms=float(random.gamma(3.0)),
        )

    return [one(number) for number in range(requests)]


def bounds(gains: "pd.Series[float]", users: "pd.Series[Any]") -> tuple[float, float]:
    """One-sided bounds at 95 % of the mean gain, users resampled, by SciPy."""
    by_user = gains.groupby(users).agg(["sum", "count"])
    low, high = bootstrap(
        (by_user["sum"].to_numpy(), by_user["count"].to_numpy()),
        lambda gain, count, axis: gain.sum(axis=axis) / count.sum(axis=axis),
        paired=True,
        vectorized=True,
        axis=-1,
        confidence_level=0.9,
        n_resamples=4000,
        method="BCa",
        rng=np.random.default_rng(1),
    ).confidence_interval
    return float(low), float(high)


def test_every_figure_is_that_of_the_rollouts_own_requests(engine: Engine) -> None:
    """Explored actions count as the champion's, other requests as the rollout's, or two models' latencies of two kinds."""
    asked = crowd(900, 120)
    serve(engine, asked)
    other = [replace(one, id=f"other-{one.id}", candidate=0, request_ms=900.0) for one in asked[:50]]
    serve(engine, other[:10], experiment="rollout-execution-1.1.0-7")
    serve(engine, other[10:20], experiment=None, treatment_share=None)
    serve(engine, other[20:30], treatment_share=None)
    serve(engine, other[30:40], model_version="1.0.1")
    write(engine, [one.shadow("1.2.0", 7, 900.0) for one in asked])
    write(engine, [one.shadow("1.1.0", 7, 900.0, "generation-agent-dqn") for one in asked])

    frame = pd.DataFrame([vars(one) for one in asked])
    frame["user"] = frame["user"].fillna(frame["id"])
    answered = frame[frame["candidate"].notna()]
    both = answered[answered["champion_ms"].notna()]
    labelled = answered[answered["best"].notna()]
    valued = labelled[labelled["values"].notna()]
    assert 0 < len(valued) < len(labelled) < len(answered) < len(frame)
    assert (frame["taken"] != frame["greedy"]).sum() > 100
    candidate_right, champion_right = (
        (labelled[who] == labelled["best"]).astype(float) for who in ("candidate", "greedy")
    )
    reward = pd.Series(
        [row["values"][int(row["candidate"])] - row["values"][row["greedy"]] for _, row in valued.iterrows()],
        index=valued.index,
    )
    seen = found(engine)
    assert (seen.requests, seen.answered, seen.labelled, seen.illegal) == (900, len(answered), len(labelled), 0)
    assert seen.agreement == pytest.approx((answered["candidate"] == answered["greedy"]).mean())
    assert seen.request_ms == pytest.approx(np.percentile(frame["request_ms"], 95))
    assert seen.champion_ms == pytest.approx(np.percentile(both["champion_ms"], 95))
    assert seen.candidate_ms == pytest.approx(np.percentile(both["candidate_ms"], 95))
    assert seen.champion_accuracy == pytest.approx(champion_right.mean())
    assert seen.candidate_accuracy == pytest.approx(candidate_right.mean())
    # Two bootstraps differ by their draws: by a tenth of the interval at most.
    accuracy = bounds(candidate_right - champion_right, labelled["user"])
    near = (accuracy[1] - accuracy[0]) / 10
    assert (seen.accuracy_gain_lower, seen.accuracy_gain_upper) == pytest.approx(accuracy, abs=near)
    value = bounds(reward / REWARD_RANGE, valued["user"])
    near = (value[1] - value[0]) / 10
    assert (seen.value_gain_lower, seen.value_gain_upper) == pytest.approx(value, abs=near)


def test_users_are_drawn_whole(sqlite_engine: Engine) -> None:
    """Forty users who ask twenty-five times count as a thousand: bounds five times too close."""
    asked = [
        Asked(f"p{user}-{i}", user=f"user-{user}", candidate=2 if user % 4 else 1, best=1 + user % 2)
        for user in range(40)
        for i in range(25)
    ]
    serve(sqlite_engine, asked)
    seen = found(sqlite_engine)
    gain = [0 if user % 4 == 0 else 1 if user % 2 else -1 for user in range(40)]
    assert (seen.champion_accuracy, seen.candidate_accuracy) == (0.5, 0.75)
    error = np.std(gain, ddof=1) / np.sqrt(40)
    assert seen.accuracy_gain_lower == pytest.approx(np.mean(gain) - 1.645 * error, abs=0.2 * error)


def test_a_rollout_that_is_back_in_the_shadow_begins_anew(engine: Engine) -> None:
    """A candidate that somebody sent back passes at once, on what it showed before it had users."""
    before = [Asked(f"before-{i}", BEGIN + timedelta(minutes=i), candidate=2) for i in range(10)]
    between = [Asked(f"between-{i}", BEGIN + timedelta(minutes=10 + i), candidate=3) for i in range(10)]
    again = [Asked(f"again-{i}", BEGIN + timedelta(minutes=20 + i)) for i in range(7)]
    serve(engine, before)
    assert (found(engine).requests, found(engine).agreement) == (10, 0.0)
    serve(engine, between[:9], treatment_share=0.05)
    serve(engine, between[9:], treatment_share=0.05, variant="treatment", model_version="1.1.0")
    assert found(engine) == ShadowFindings()
    serve(engine, again)
    assert (found(engine).requests, found(engine).agreement) == (7, 1.0)


def test_what_the_candidate_is_just_being_asked_does_not_count(sqlite_engine: Engine) -> None:
    """A thousand decisions in one request, a look between them and the shadow's answers: "it answered 50 %"."""
    serve(sqlite_engine, [Asked(f"old-{i}", BEGIN) for i in range(5)])
    now = BEGIN + timedelta(seconds=10)
    serve(sqlite_engine, [Asked(f"new-{i}", now, candidate=None, champion_ms=None) for i in range(5)])
    assert (found(sqlite_engine, BEGIN).requests, found(sqlite_engine, BEGIN).answered) == (5, 5)
    assert (found(sqlite_engine, now).requests, found(sqlite_engine, now).answered) == (10, 5)


def test_actions_that_are_none_are_counted_and_judged_no_further(sqlite_engine: Engine) -> None:
    """An action out of range reads the reward of another one, or ends the look with an error."""
    asked = [
        Asked(f"p{i}", user=f"user-{i}", candidate=action, best=1, values=(0.0, 1.0, 0.0, 0.0))
        for i, action in enumerate([-1, ACTIONS, 7, *[1] * 40])
    ]
    serve(sqlite_engine, asked)
    seen = found(sqlite_engine)
    assert (seen.requests, seen.answered, seen.illegal, seen.labelled) == (43, 43, 3, 40)
    assert seen.agreement == pytest.approx(40 / 43)
    assert (seen.candidate_accuracy, seen.value_gain_lower) == (1.0, 0.0)


@pytest.mark.parametrize(("users", "bounded"), [(1, False), (29, False), (30, True)])
def test_few_users_have_no_bounds(sqlite_engine: Engine, users: int, bounded: bool) -> None:
    """Three users who ask a hundred times each prove that nobody is worse off."""
    asked = [
        Asked(f"p{i}", user=f"user-{i % users}", candidate=1 + i % 7 // 6, best=1, values=(0.0, 10.0, 2.0, 0.0))
        for i in range(300)
    ]
    serve(sqlite_engine, asked)
    seen = found(sqlite_engine)
    assert (seen.labelled, seen.champion_accuracy) == (300, 1.0)
    known = [one is not None for one in (seen.accuracy_gain_lower, seen.value_gain_lower, seen.value_gain_upper)]
    assert known == [bounded] * 3
    if bounded:
        assert seen.accuracy_gain_lower is not None
        assert seen.value_gain_upper is not None
        assert seen.accuracy_gain_lower < -42 / 300 < 0
        assert seen.value_gain_upper > -42 / 300 * 8.0 / REWARD_RANGE


def test_rewards_that_nobody_knows_have_no_bounds(sqlite_engine: Engine) -> None:
    """An unknown reward counts as none, and hides a worse candidate."""
    serve(sqlite_engine, [Asked(f"p{i}", user=f"user-{i}", candidate=i % 2, best=1) for i in range(50)])
    seen = found(sqlite_engine)
    assert (seen.labelled, seen.candidate_accuracy, seen.value_gain_lower, seen.value_gain_upper) == (
        50,
        0.5,
        None,
        None,
    )
    assert seen.accuracy_gain_upper is not None
    assert seen.accuracy_gain_upper < -0.3


def test_a_candidate_that_answers_nothing_has_only_requests(sqlite_engine: Engine) -> None:
    """A mean of nothing is NaN, and NaN is no JSON for the ledger."""
    assert found(sqlite_engine) == ShadowFindings()
    serve(sqlite_engine, [Asked(f"p{i}", candidate=None, best=1) for i in range(3)])
    assert found(sqlite_engine) == ShadowFindings(requests=3, request_ms=5.0)
