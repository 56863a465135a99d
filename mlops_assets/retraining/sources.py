"""Every source of triggers, by who looks at it: what the sensors, the daily check and the command line collect."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Engine

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.clock import Clock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.policies import RetrainingPolicy
from mlops_assets.foundation.settings import Settings
from mlops_assets.retraining import drift_signals, files
from mlops_assets.retraining.data_signals import champion_of, error_rate, staleness, volume
from mlops_assets.retraining.signals import NewSignal, submit


def of_served(engine: Engine, policy: RetrainingPolicy, clock: Clock, settings: Settings) -> list[NewSignal]:
    """Collect what drift checks and errors of the champions ask for."""
    # It brings pandas and scipy, and the code location has to load without them.
    from mlops_assets.rollout.looks import served_now

    now, found = clock.now(), []
    decided = {agent: served_now(engine, settings.data_clock, agent, clock) for agent in AGENTS}
    # As far back as a trigger lives: its dedupe key makes the second look harmless, and one that was missed is found.
    since = now - timedelta(hours=policy.signal_expiry_hours)
    with read_transaction(engine) as session:
        for agent in AGENTS:
            champion = champion_of(session, agent)
            for check in drift_signals.checks_since(session, agent, champion, since):
                found += drift_signals.signals_of(check, policy)
            found += error_rate(session, agent, champion, policy, decided[agent])
    return found


def of_new_data(engine: Engine, policy: RetrainingPolicy, clock: Clock, settings: Settings) -> list[NewSignal]:
    """Collect what new files and the volume of new data ask for; files are stored as signals before this returns."""
    now = clock.now()
    arrived = files.arrivals(engine, policy.files, settings.home, now)
    if arrived:
        with transaction(engine) as session:
            submit(session, files.signals_of(session, arrived), now, policy.signal_expiry_hours)
            files.taken(session, arrived)
    with read_transaction(engine) as session:
        return [one for agent in AGENTS for one in volume(session, agent, policy, now)]


def of_age(engine: Engine, policy: RetrainingPolicy, clock: Clock) -> list[NewSignal]:
    """Collect what models that are too old ask for."""
    now = clock.now()
    with read_transaction(engine) as session:
        return [one for agent in AGENTS for one in staleness(session, agent, policy, now)]


def of_everything(engine: Engine, policy: RetrainingPolicy, clock: Clock, settings: Settings) -> Sequence[NewSignal]:
    """Collect from every source."""
    return [
        *of_served(engine, policy, clock, settings),
        *of_new_data(engine, policy, clock, settings),
        *of_age(engine, policy, clock),
    ]
