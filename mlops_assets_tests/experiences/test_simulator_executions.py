from datetime import UTC, datetime
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from mlops_assets.experiences.execution_source import ExecutionSource, SourceBatch
from mlops_assets.experiences.schema import EXECUTIONS
from mlops_assets.experiences.simulator.config import EPOCH, SimulatorConfig
from mlops_assets.experiences.simulator.executions import SimulatedExecutions
from mlops_assets.experiences.simulator.fleet import FAULT_RATES, FLAKE_BETA, FLAKY_SHARE, build_fleet
from mlops_assets.experiences.simulator.simulate import Simulator
from mlops_assets.foundation.agents import AGENTS

CONFIG = SimulatorConfig(seed=5, rows=2_000, days=20, cycles_per_day=6)


@cache
def batches(config: SimulatorConfig = CONFIG) -> tuple[SourceBatch, ...]:
    source: ExecutionSource = SimulatedExecutions(config)
    return tuple(source.batches(()))


def executions() -> pa.Table:
    return pa.concat_tables([batch.executions for batch in batches()])


def per_test(values: np.ndarray) -> np.ndarray:
    """Mean per test in the fleet's order; every cycle runs every test once, in that order."""
    return values.reshape(-1, len(build_fleet(CONFIG).test_id)).mean(axis=0)


def test_the_batches_are_days_in_the_canonical_schema() -> None:
    """Executions that the store refuses."""
    table = executions()

    assert [batch.source_file for batch in batches()] == [f"simulator/day-{day:04d}" for day in range(20)]
    assert all(batch.executions.schema.equals(EXECUTIONS) for batch in batches())
    assert len(set(table["execution_id"].to_pylist())) == table.num_rows == 20 * 6 * 408
    assert all(table[name].null_count == 0 for name in table.column_names)
    assert len(set(table["cycle_id"].to_pylist())) == 20 * 6 * 12


def test_every_test_an_agent_decides_about_has_executions() -> None:
    """Test ids of decisions and of executions that do not meet: every Feast feature would be missing."""
    known = set(executions()["test_id"].to_pylist())

    for spec in AGENTS.values():
        decisions = next(Simulator(CONFIG).batches(spec, None)).experiences

        assert set(decisions["test_id"].to_pylist()) <= known


def test_failure_rates_show_the_latent_fault_rates() -> None:
    """Histories that tell nothing about the tests: informative features would be noise."""
    fleet, table = build_fleet(CONFIG), executions()
    failed = per_test(np.array(table["status"].to_pylist()) == "failed")
    skipped = per_test(np.array(table["status"].to_pylist()) == "skipped")
    steady = fleet.flake_rate == 0

    for rate in FAULT_RATES:
        group = steady & (fleet.fault_rate == rate)
        assert (failed / (1 - skipped))[group].mean() == pytest.approx(rate, rel=0.25, abs=0.004)
    assert stats.spearmanr(failed[steady], fleet.fault_rate[steady]).statistic > 0.85


def test_flaky_tests_pass_on_a_repetition_and_no_others_do() -> None:
    """Flakiness that cannot be told from faults."""
    fleet, table = build_fleet(CONFIG), executions()
    flaky, retries = table["flaky"].to_numpy(), table["retries"].to_numpy()
    status = np.array(table["status"].to_pylist())

    assert (per_test(flaky)[fleet.flake_rate == 0] == 0).all()
    assert per_test(flaky)[fleet.flake_rate > 0.1].min() > 0.02
    assert (retries[flaky] >= 1).all()
    assert (status[flaky] == "passed").all()
    assert (retries[status == "failed"] == 2).all()
    assert (retries[status == "skipped"] == 0).all()


def test_failures_come_in_runs() -> None:
    """Independent failures: the last verdict would not predict the next, unlike in every real history."""
    fleet = build_fleet(CONFIG)
    failed = (np.array(executions()["status"].to_pylist()) == "failed").reshape(-1, len(fleet.test_id))
    often = fleet.fault_rate == FAULT_RATES[2]

    again = failed[1:, often][failed[:-1, often]].mean()

    assert again > 3 * failed[:, often].mean()


def test_tests_of_a_cycle_run_one_after_another_within_the_day() -> None:
    """Overlapping starts or a cycle that ends tomorrow: order and daily windows would be wrong."""
    table = batches()[3].executions
    started = np.array(table["started_at"].cast(pa.int64())).reshape(-1, 34)
    cycle = np.array(table["cycle_started_at"].cast(pa.int64())).reshape(-1, 34)
    midnight = EPOCH.timestamp() * 1e6 + 3 * 86_400e6

    assert (np.diff(started, axis=1) >= 0).all()
    assert np.array_equal(started[:, 0], cycle[:, 0])
    assert (cycle == cycle[:, :1]).all()
    assert started.min() >= midnight
    assert started.max() < midnight + 86_400e6


def test_known_days_are_left_out_and_the_rest_stays_the_same() -> None:
    """A second ingest that starts the chain of faults anew, or a longer history with another past."""
    known = {batch.source_hash for batch in batches()[:7]}
    longer = SimulatorConfig(seed=5, rows=2_000, days=20, extra_days=1, cycles_per_day=6)

    after = list(SimulatedExecutions(longer).batches(known))

    assert len(after) == 14
    assert all(new.executions.equals(old.executions) for new, old in zip(after, batches()[7:], strict=False))


def test_simulated_time_ends_with_the_last_day() -> None:
    """A wall clock that makes every simulated execution look old."""
    source = SimulatedExecutions(CONFIG)

    assert source.as_of(datetime(2040, 1, 1, tzinfo=UTC)) == CONFIG.end
    assert max(executions()["started_at"].to_pylist()) < CONFIG.end


def test_the_flake_prior_follows_real_reruns(shared_data) -> None:  # type: ignore[no-untyped-def]
    """A flake prior out of thin air: real flake rates are rare, small and with a long tail."""
    import pandas as pd

    reruns = pd.read_csv(shared_data / "ci_histories" / "flake_rates.csv")
    rate = reruns["NumFailingRuns"] / (reruns["NumFailingRuns"] + reruns["NumPassingRuns"])
    sometimes = rate[(rate > 0) & (rate < 1)]

    assert len(sometimes) / len(rate) == pytest.approx(FLAKY_SHARE, abs=0.0005)
    assert stats.beta(*FLAKE_BETA).mean() == pytest.approx(sometimes.mean(), abs=0.01)
    assert stats.beta(*FLAKE_BETA).var() == pytest.approx(sometimes.var(), abs=0.015)


def test_the_fleet_draws_its_flake_rates_from_the_prior() -> None:
    """Constants that the fleet does not use."""
    rates = np.concatenate([build_fleet(SimulatorConfig(seed=seed)).flake_rate for seed in range(40)])

    assert (rates > 0).mean() == pytest.approx(FLAKY_SHARE, abs=0.006)
    assert stats.kstest(rates[rates > 0], stats.beta(*FLAKE_BETA).cdf).pvalue > 0.001
