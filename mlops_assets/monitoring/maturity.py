"""How mature the operation of models is, from 0 (by hand) to 4 (fully automatic), each item with its evidence.

An item is there when the operational database shows its work, or when somebody told so (`declared.py`). The level is the
highest whose items, and those of every level below it, are all there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from sqlalchemy import Engine, Select, func, select
from sqlalchemy.orm import Session

from mlops_assets.foundation.audit import PROMOTED_TO_PRODUCTION
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.tables import (
    AssetRecord,
    AuditEvent,
    DecisionRecord,
    DriftCheckRecord,
    ExperimentRecord,
    FeatureViewRecord,
    ModelVersionRecord,
    RolloutEvent,
)
from mlops_assets.monitoring.declared import Fact, declared
from mlops_assets.rollout.ledger import SERVICE

LEVELS: Final = (
    "Manual",
    "DevOps, no MLOps",
    "Automated training",
    "Automated deployment",
    "Full automation",
)
Standing = Literal["there", "absent", "unknown"]
_SEVERAL: Final = 2
# Told items, by level.
_TOLD: Final[Mapping[int, tuple[str, ...]]] = {
    1: ("version_control", "continuous_integration"),
    2: ("ci_cd_success", "dashboards"),
    4: ("hyperparameter_search", "automated_feature_engineering"),
}


@dataclass(frozen=True)
class Item:
    """One thing that a level asks for."""

    level: int
    name: str
    standing: Standing
    evidence: str


@dataclass(frozen=True)
class Maturity:
    """The level, and every item."""

    items: tuple[Item, ...]

    @property
    def level(self) -> int:
        """Highest level that is complete, with all below it."""
        missing = [item.level for item in self.items if item.standing != "there"]
        return min(missing, default=len(LEVELS)) - 1

    @property
    def score(self) -> float:
        """Level plus the share of the next level's items that are there."""
        following = [item.standing == "there" for item in self.items if item.level == self.level + 1]
        return self.level + (sum(following) / len(following) if following else 0.0)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "level": self.level,
            "name": LEVELS[self.level],
            "score": self.score,
            "items": [asdict(item) for item in self.items],
        }


def maturity(engine: Engine, triggers: Mapping[str, str]) -> Maturity:
    """Score the deployment.

    Args:
        engine: operational database.
        triggers: Dagster run of a training to the type of what started it, `manual` for people.

    Raises:
        StorageError: the database does not answer.
    """
    told = declared(engine)
    automatic = sorted({kind for kind in triggers.values() if kind != "manual"})
    with read_transaction(engine) as session:
        items = [*_measured(session), *(_told(level, name, told) for level, names in _TOLD.items() for name in names)]
    evidence = f"trainings started by {', '.join(automatic)}" if automatic else "no training was started by a trigger"
    items.append(Item(3, "retraining_triggers", "there" if automatic else "absent", evidence))
    return Maturity(tuple(sorted(items, key=lambda item: item.level)))


def _measured(session: Session) -> Iterator[Item]:
    trained = select(func.count()).where(AssetRecord.asset == "dqn_model")
    yield _counted(session, 2, "experiment_tracking", trained, "trainings with their MLflow run")
    yield _counted(session, 2, "model_registry", _rows(ModelVersionRecord), "versions registered")
    yield _counted(session, 3, "ab_testing", _rows(ExperimentRecord), "A/B tests")
    yield _counted(session, 3, "drift_detection", _rows(DriftCheckRecord), "drift checks")
    yield _counted(session, 3, "governance", _rows(DecisionRecord), "approval decisions")
    views = select(func.count()).where(FeatureViewRecord.last_materialized_at.is_not(None))
    yield _counted(session, 3, "feature_store", views, "feature views materialised")
    healed = select(func.count()).where(RolloutEvent.kind == "rolled_back", RolloutEvent.user == SERVICE)
    yield _counted(session, 4, "self_healing", healed, "candidates taken back without people")
    models = select(func.count(AuditEvent.model_name.distinct())).where(AuditEvent.event_type == PROMOTED_TO_PRODUCTION)
    yield _counted(session, 4, "multi_model_orchestration", models, "models with a champion", least=_SEVERAL)


def _rows(table: Any) -> Select[tuple[int]]:
    return select(func.count()).select_from(table)


def _counted(session: Session, level: int, name: str, query: Select[tuple[int]], words: str, *, least: int = 1) -> Item:
    count = int(session.scalar(query) or 0)
    return Item(level, name, "there" if count >= least else "absent", f"{count:,} {words}")


def _told(level: int, name: str, told: Mapping[str, Fact]) -> Item:
    fact = told.get(name)
    if fact is None:
        return Item(level, name, "unknown", f"not told; python -m mlops_assets.monitoring.declared {name} ...")
    return Item(level, name, "there" if fact.value > 0.0 else "absent", f"{fact.value:g}: {fact.words}")
