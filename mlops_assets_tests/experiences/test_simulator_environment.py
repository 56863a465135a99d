import numpy as np
import pytest

from mlops_assets.experiences.simulator.config import Drift, SimulatorConfig
from mlops_assets.experiences.simulator.environment import SimulatedEnvironment
from mlops_assets.experiences.simulator.simulate import Simulator
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.errors import InputError

CONFIG = SimulatorConfig(seed=11, rows=20_000, days=4)
KEY = Simulator(CONFIG).name.removeprefix("simulator-")


def environment(agent: str, config: SimulatorConfig = CONFIG) -> SimulatedEnvironment:
    simulator, spec = Simulator(config), AGENTS[agent]
    ids = [key for batch in simulator.batches(spec, None) for key in batch.experiences["episode_id"].to_pylist()]
    return simulator.environment(spec, list(dict.fromkeys(ids)))


def total_return(env: SimulatedEnvironment, *, optimal: bool, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    env.reset()
    total = np.zeros(len(env.episode_ids))
    actions = env.best_actions() if optimal else random.integers(0, 4, len(total))
    while env.active().any():
        actions = env.best_actions() if optimal else random.integers(0, 4, len(total))
        total += env.step(actions)
    return total


@pytest.mark.parametrize("agent", AGENTS)
def test_the_best_actions_earn_near_seventy_and_chance_nothing_like_it(agent: str) -> None:
    """Labels that are best on paper only: playing them has to pay."""
    env = environment(agent)

    best, chance = total_return(env, optimal=True), total_return(env, optimal=False)

    assert 65 <= best.mean() <= 75
    assert chance.mean() <= 0.5 * best.mean()


def test_a_reset_environment_plays_the_same_again() -> None:
    """Noise drawn anew at each replay: the paired comparison of two policies would not be one."""
    env = environment("generation")

    assert np.array_equal(total_return(env, optimal=True), total_return(env, optimal=True))


def test_episodes_keep_the_asked_order_and_mix_days() -> None:
    """Returns attributed to the wrong episode."""
    env = environment("execution")
    backwards = Simulator(CONFIG).environment(AGENTS["execution"], env.episode_ids[::-1])

    assert backwards.episode_ids == env.episode_ids[::-1]
    assert np.array_equal(total_return(backwards, optimal=True)[::-1], total_return(env, optimal=True))
    assert set(env.lengths.tolist()) == {7}


def test_a_finished_episode_gives_nothing() -> None:
    """A step after the end that pays again."""
    env = environment("requirements")
    total_return(env, optimal=True)
    zeros = np.zeros(len(env.episode_ids), dtype=np.int64)

    assert not env.active().any()
    assert not env.context().any()
    assert np.array_equal(env.best_actions(), zeros)
    assert not env.step(zeros).any()


def test_an_environment_of_no_episodes_works() -> None:
    """An empty held-out set that becomes a crash instead of a verdict."""
    env = Simulator(CONFIG).environment(AGENTS["execution"], [])

    assert env.context().shape == (0, len(AGENTS["execution"].context))
    assert env.step(np.zeros(0, dtype=np.int64)).shape == (0,)


@pytest.mark.parametrize(
    "name", ["", "execution-000000-d0000-000000", "{prefix}-d0004-000000", "{prefix}-d0000-999999", "{prefix}-d0000-0"]
)
def test_an_unknown_episode_is_refused(name: str) -> None:
    """A log of another seed replayed in this world: plausible numbers, all wrong."""
    prefix = f"execution-{KEY}"

    with pytest.raises(InputError, match="is not one of this simulation"):
        Simulator(CONFIG).environment(AGENTS["execution"], [name.format(prefix=prefix)])


@pytest.mark.parametrize("actions", [[4], [-1], [0, 1], [0.0]])
def test_an_illegal_action_is_refused(actions: list[float]) -> None:
    """Numpy's negative indexing taking action -1 for the last one."""
    env = Simulator(CONFIG).environment(AGENTS["execution"], [f"execution-{KEY}-d0001-000003"])

    with pytest.raises(InputError, match="actions"):
        env.step(np.array(actions))


def test_episodes_before_and_after_a_drift_live_in_their_own_worlds() -> None:
    """One regime for all days: replayed rewards would not be the logged ones after a drift."""
    config = SimulatorConfig(seed=11, rows=20_000, days=4, drifts=(Drift(start_day=2, reward_change=1.0),))
    env, plain = environment("requirements", config), environment("requirements")
    half = len(env.episode_ids) // 2

    changed, unchanged = total_return(env, optimal=True), total_return(plain, optimal=True)

    assert np.array_equal(changed[:half], unchanged[:half])
    assert not np.array_equal(changed[half:], unchanged[half:])
