"""Gates of a trained model."""

from typing import Annotated

from pydantic import Field

from mlops_assets.foundation.policies.base import Count, NotNegative, OpenShare, Positive, Section, Share


class EvaluationPolicy(Section):
    """Smoke gates of a trained model, and how they are measured.

    `holdout_share`: newest share of the episodes. `max_latency_ms`: of the 95th percentile. `max_slice_gap_points`:
    largest gap of accuracy between slices, percentage points. None: the profile's source names no such gate.
    """

    holdout_share: OpenShare
    min_holdout_rows: Count
    min_accuracy: Share
    max_latency_ms: Positive
    min_f1: Share | None
    min_roc_auc: Share | None
    max_model_size_mb: Positive | None
    max_slice_gap_points: Annotated[float, Field(ge=0.0, le=100.0)]
    min_slice_rows: Count
    confidence: OpenShare
    bootstrap_samples: Annotated[int, Field(ge=100)]
    min_effective_sample_size: NotNegative
