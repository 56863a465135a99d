"""Ranking of replayed cycles by a policy beside the trivial rules: right states, right pairs, right verdicts."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from mlops_assets.evaluation.evaluate import ModelUnderTest, evaluate
from mlops_assets.evaluation.prioritisation import Prioritisation, measure_prioritisation
from mlops_assets.evaluation.report import ModelIdentity, render_html
from mlops_assets.experiences.replay.source import HistoryReplay, ReplayConfig
from mlops_assets.features.decision_table import DecisionTable, following_states, matrix
from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.profiles import load_profile
from mlops_assets_tests.experiences.histories import Run, executions, real_executions

SPEC = agent_spec("execution")
CONTEXT = [field.name for field in SPEC.context]
TEST_FEATURE = SPEC.state_fields.index("test_execution_features__execution_time_ms")


@dataclass
class ContextPolicy:
    """Values "high" at one field of the state and everything else at 0; keeps the states it was asked about."""

    column: int
    sign: float = 1.0
    seen: list[NDArray[np.float32]] = field(default_factory=list)

    def q_values(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        self.seen.append(states)
        values = np.zeros((len(states), len(SPEC.actions)), dtype=np.float32)
        values[:, 3] = self.sign * states[:, self.column]
        return values


def decisions(source: HistoryReplay, *, share: float = 0.8) -> tuple[DecisionTable, DecisionTable]:
    """Training and held-out decisions; one test feature holds the number in the test's name, the others are 0."""
    batches = list(source.batches(SPEC, None))
    logged = pa.concat_tables([batch.experiences for batch in batches])
    labels = pa.concat_tables([batch.labels for batch in batches])
    state = np.zeros((logged.num_rows, len(SPEC.state_fields)), dtype=np.float32)
    state[:, : len(CONTEXT)] = matrix(logged["state"])
    state[:, TEST_FEATURE] = [float("".join(filter(str.isdigit, name)) or 0) for name in logged["test_id"].to_pylist()]
    done = logged["done"].to_numpy()
    texts = ("experience_id", "episode_id", "ui_framework", "browser", "test_type")
    table = DecisionTable(
        state=state,
        next_state=following_states(state, done),
        action=logged["action"].to_numpy().astype(np.int64),
        reward=logged["reward"].to_numpy(),
        done=done,
        propensity=logged["propensity"].to_numpy(),
        best_action=labels["best_action"].to_numpy().astype(np.int64),
        action_values=matrix(labels["action_values"]),
        event_time=logged["event_time"].cast(pa.timestamp("us")).to_numpy().astype("datetime64[us]"),
        step=logged["step"].to_numpy().astype(np.int64),
        **{name: np.array(logged[name].to_pylist(), dtype=object) for name in texts},
    )
    starts = sorted(cycle.started_at for cycle in source.cycles)
    later = table.event_time >= starts[int(len(starts) * share)]
    return table.take(~later), table.take(later)


def stable_failures(cycles: int) -> pa.Table:
    """Every test fails always or never; all take one second, the failing ones stand last in each cycle."""
    runs: list[Run] = [(f"test-{number}", number >= 12, 1000.0) for number in range(16)]
    return executions([runs] * cycles)


def measure(
    source: HistoryReplay, policy: ContextPolicy, held_out: DecisionTable, training: DecisionTable | None = None
) -> Prioritisation | None:
    return measure_prioritisation(
        policy, source, SPEC, held_out=held_out, training=training, samples=500, confidence=0.95, seed=3
    )


def test_a_policy_that_reads_the_failure_rate_ranks_like_the_rule_and_above_random() -> None:
    """A score taken from the wrong row, step or action would not reproduce the rule it imitates."""
    source = HistoryReplay(stable_failures(20), ReplayConfig(passes=2))
    training, held_out = decisions(source)
    result = measure(source, ContextPolicy(CONTEXT.index("failure_rate_recent")), held_out, training)
    assert result is not None
    assert result.held_out.cycles == 4
    for cycle in result.cycles:
        assert cycle.napfd["agent"] == pytest.approx(cycle.napfd["recency_rate"])
    # Eight of sixteen tests run; the four failing ones take ranks 1 to 4.
    assert result.held_out.mean_napfd["agent"] == pytest.approx(1 - 10 / 64 + 1 / 32)
    assert result.held_out.mean_napfd["agent"] == pytest.approx(result.held_out.mean_napfd["oracle"])
    assert result.held_out.above("random") is True
    assert result.held_out.above("recency_rate") is False
    assert result.held_out.agent_above["sorting"].estimate == pytest.approx(0.0)


def test_a_policy_that_ranks_backwards_fails() -> None:
    """The verdict must be able to say no."""
    source = HistoryReplay(stable_failures(20), ReplayConfig(passes=1))
    _, held_out = decisions(source)
    result = measure(source, ContextPolicy(CONTEXT.index("failure_rate_recent"), sign=-1.0), held_out)
    assert result is not None
    assert result.held_out.mean_napfd["agent"] == 0.0
    assert result.held_out.above("random") is False
    assert result.to_json()["held_out"]["verdict_above_random"] == "fail"  # type: ignore[index,call-overload]


def test_every_test_is_scored_as_if_decided_first_with_its_own_features() -> None:
    """Scores taken at logged steps depend on the random order; features of another test's row would be nonsense."""
    source = HistoryReplay(stable_failures(10), ReplayConfig(passes=3))
    _, held_out = decisions(source)
    policy = ContextPolicy(TEST_FEATURE)
    result = measure(source, policy, held_out)
    assert result is not None
    asked = np.concatenate(policy.seen)
    assert len(asked) == 2 * 16
    assert set(asked[:, CONTEXT.index("budget_left")].tolist()) == {1.0}
    assert set(asked[:, CONTEXT.index("steps_left")].tolist()) == {1.0}
    assert set(asked[:, CONTEXT.index("queued_ahead")].tolist()) == {0.0}
    # The feature is the test's number, and the failing tests have the highest ones: ranked by it, they come first.
    assert result.held_out.mean_napfd["agent"] == pytest.approx(1 - 10 / 64 + 1 / 32)


def test_the_whole_stream_says_which_cycles_were_held_out() -> None:
    """Cycles that the policy was trained on must not pass as evidence."""
    source = HistoryReplay(stable_failures(10), ReplayConfig(passes=2))
    training, held_out = decisions(source)
    policy = ContextPolicy(CONTEXT.index("failure_rate_recent"))
    result = measure(source, policy, held_out, training)
    assert result is not None
    assert [cycle.held_out for cycle in result.cycles] == [False] * 8 + [True] * 2
    assert [cycle.cycle_id for cycle in result.cycles] == [f"{number:06d}" for number in range(1, 11)]
    assert result.whole_stream.cycles == 10
    # In the first cycle nothing is known, so the failing tests, last in row order, are not among the eight that run.
    assert result.cycles[0].napfd["agent"] == 0.0
    assert result.whole_stream.mean_napfd["agent"] == pytest.approx(0.9 * (1 - 10 / 64 + 1 / 32))
    alone = measure(source, policy, held_out)
    assert alone is not None
    assert alone.whole_stream == alone.held_out == result.held_out


def test_one_cycle_gives_no_verdict() -> None:
    """An interval over one cycle would be made up: unknown is not a pass."""
    source = HistoryReplay(stable_failures(5), ReplayConfig(passes=4))
    _, held_out = decisions(source)
    result = measure(source, ContextPolicy(CONTEXT.index("failure_rate_recent")), held_out)
    assert result is not None
    assert result.held_out.cycles == 1
    assert result.held_out.above("random") is None
    assert result.to_json()["held_out"]["verdict_above_random"] == "insufficient_data"  # type: ignore[index,call-overload]


def test_an_incomplete_pass_is_not_ranked() -> None:
    """Ranking a part of a cycle's tests against rules that rank all of them is no comparison."""
    source = HistoryReplay(stable_failures(10), ReplayConfig(passes=1))
    _, held_out = decisions(source)
    cut = held_out.take(np.arange(len(held_out)) != 3)
    result = measure(source, ContextPolicy(0), cut)
    assert result is not None
    assert (result.held_out.cycles, result.skipped_cycles) == (1, 1)
    assert measure(source, ContextPolicy(0), held_out.take(slice(0, 5))) is None
    assert measure(source, ContextPolicy(0), held_out.take(slice(0, 0))) is None


def test_decisions_of_another_source_are_refused() -> None:
    """Simulated episodes have no cycle behind them."""
    _, held_out = decisions(HistoryReplay(stable_failures(10), ReplayConfig(passes=1)))
    other = HistoryReplay(stable_failures(3), ReplayConfig(passes=1))
    with pytest.raises(InputError, match="000009"):
        measure(other, ContextPolicy(0), held_out)


def test_the_figures_are_json() -> None:
    """The report is written as JSON; a numpy number in it would fail at the very end of a lifecycle."""
    source = HistoryReplay(stable_failures(10), ReplayConfig(passes=1))
    training, held_out = decisions(source)
    result = measure(source, ContextPolicy(0), held_out, training)
    assert result is not None
    figures = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert figures["held_out"]["cycles"] == 2
    assert len(figures["cycles"]) == 10
    assert set(figures["held_out"]["agent_above"]) == {"random", "sorting", "recency_rate"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "passes"), [("deeplearning4j.csv", 2), ("iofrol.csv", 1)])
def test_a_trained_agent_ranks_real_held_out_cycles_above_random(name: str, passes: int, shared_data: Path) -> None:
    """Rewards, context and score may each be right and still not teach ranking; this is what they are for."""
    from mlops_assets.training.config import DqnConfig
    from mlops_assets.training.learner import train
    from mlops_assets.training.policy import GreedyPolicy

    source = HistoryReplay(real_executions(shared_data, name), ReplayConfig(passes=passes))
    training, held_out = decisions(source)
    agent = train(training, SPEC, DqnConfig(updates=2000, hidden_sizes=(128, 128)), device="cpu", seed=7)
    result = measure_prioritisation(
        GreedyPolicy.from_network(agent.network),
        source,
        SPEC,
        held_out=held_out,
        training=None,
        samples=1000,
        confidence=0.95,
        seed=3,
    )
    assert result is not None
    assert result.held_out.above("random") is True


def test_the_report_shows_every_cycle_beside_the_rules(tmp_path: Path) -> None:
    """The figures are asked for by people, who read the page: a template that cannot show them fails a lifecycle."""
    source = HistoryReplay(stable_failures(10), ReplayConfig(passes=1))
    training, held_out = decisions(source)
    policy = ContextPolicy(CONTEXT.index("failure_rate_recent"))
    result = measure(source, policy, held_out, training)
    assert result is not None
    file = tmp_path / "model.onnx"
    file.write_bytes(b"weights")
    report = evaluate(
        ModelUnderTest(
            identity=ModelIdentity(
                model_name=SPEC.registered_model,
                agent=SPEC.name,
                run_id="run",
                architecture="none",
                training_hash="t",
                data_hash="d",
                training_rows=len(training),
            ),
            policy=policy,
            runtime="test",
            served_file=file,
            files=(file,),
        ),
        held_out,
        SPEC,
        load_profile("aiwebtest"),
        champion=None,
        make_environment=None,
        seed=1,
        now=datetime(2026, 2, 1, tzinfo=UTC),
        prioritisation=result.to_json(),
    )
    page = render_html(report)
    assert page.count("<td>000009</td>") == 1
    assert "held out: 2 cycles" in page
    assert "recency rate" in page
    assert '<span class="pass">pass</span>' in page
