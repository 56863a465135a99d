"""A training that a person asks for: one function behind the job, the command line and the HTTP way in."""

from sqlalchemy import Engine

from mlops_assets.foundation.access import access_control
from mlops_assets.foundation.clock import Clock
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import Settings
from mlops_assets.retraining.evaluate import Evaluated, evaluate
from mlops_assets.retraining.signals import manual


def request_retraining(
    settings: Settings, engine: Engine, clock: Clock, *, agent: str, reason: str, user: str, override: bool, key: str
) -> Evaluated:
    """Ask for a training by hand, and decide at once; what has to wait is decided again by the sensors.

    Args:
        settings: of the deployment; its policy profile holds the limits.
        engine: operational database.
        clock: time.
        agent: which.
        reason: travels to run, MLflow run and model card.
        user: who answers for it; takes the permission to deploy to staging, which is where a training ends.
        override: also within the shortest time between two trainings; a training or rollout under way always comes first.
        key: of this request; a second try with the same changes nothing.

    Raises:
        AccessDeniedError: `user` has no role for it.
        InputError: nobody is named, it is a service's name, or there is no reason.
        SettingsError: no such agent.
        StorageError: the database cannot be written.
    """
    signal = manual(agent, reason=reason, user=user, override=override, key=key)
    access = access_control(settings)
    access.require_person(user)
    access.require(user, "deploy_staging")
    policy = load_profile(settings.policy_profile).retraining
    return evaluate(engine, agent, policy, clock.now(), signals=[signal])
