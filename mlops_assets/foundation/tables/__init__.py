"""Tables of the operational database as typed ORM classes, by room; migrations create them, queries live with their rooms."""

from mlops_assets.foundation.tables.base import ROW_ID, Base, LineNumber, UtcDateTime
from mlops_assets.foundation.tables.data import (
    ExperienceCursor,
    FeatureViewRecord,
    IngestedSource,
    QuarantinedRow,
    SnapshotRecord,
    ValidationRecord,
)
from mlops_assets.foundation.tables.experiments import ExperimentLook, ExperimentRecord, ExperimentUnit
from mlops_assets.foundation.tables.governance import (
    ApprovalRequestRecord,
    ApprovalVoteRecord,
    AuditEvent,
    DecisionRecord,
    WaiverRecord,
)
from mlops_assets.foundation.tables.models import AssetRecord, ModelVersionRecord
from mlops_assets.foundation.tables.monitoring import (
    AlertChannelRecord,
    AlertDelivery,
    AlertRecord,
    DriftCheckRecord,
    DriftReferenceRecord,
    LearnerReferenceRecord,
)
from mlops_assets.foundation.tables.platform import Lease
from mlops_assets.foundation.tables.retraining import (
    RetrainingEvaluationRecord,
    RetrainingRunRecord,
    TriggerSignalRecord,
    WatchedFileRecord,
)
from mlops_assets.foundation.tables.rollout import RolloutEffect, RolloutEvent, RolloutWatch
from mlops_assets.foundation.tables.serving import (
    ApiTokenRecord,
    OutcomeRecord,
    PredictionRecord,
    ShadowPredictionRecord,
)

__all__ = [
    "ROW_ID", "AlertChannelRecord", "AlertDelivery", "AlertRecord", "ApiTokenRecord", "ApprovalRequestRecord",
    "ApprovalVoteRecord", "AssetRecord", "AuditEvent", "Base", "DecisionRecord", "DriftCheckRecord",
    "DriftReferenceRecord", "ExperienceCursor", "ExperimentLook", "ExperimentRecord", "ExperimentUnit",
    "FeatureViewRecord", "IngestedSource", "LearnerReferenceRecord", "Lease", "LineNumber", "ModelVersionRecord", "OutcomeRecord",
    "PredictionRecord", "QuarantinedRow", "RetrainingEvaluationRecord", "RetrainingRunRecord", "RolloutEffect",
    "RolloutEvent", "RolloutWatch", "ShadowPredictionRecord", "SnapshotRecord", "TriggerSignalRecord",
    "UtcDateTime", "ValidationRecord", "WaiverRecord", "WatchedFileRecord",
]  # fmt: skip
