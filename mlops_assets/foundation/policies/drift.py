"""When served traffic counts as drifted from what a version was released on."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mlops_assets.foundation.policies.base import Count, OpenShare, Positive, Section, Share


class DriftPolicy(Section):
    """How a version's traffic is compared with its frozen reference, and from where on a difference counts.

    A value above a limit (never at it) is in that band: `_monitor` is looked at more often, `_warning` is retrained within
    `retrain_within_hours`, `_critical` at once. `psi`: population stability index of a column, on `psi_bins` bins by the
    reference's quantiles or of equal width, with open ends. `ks`: Kolmogorov-Smirnov's D. `wasserstein_..._sigmas`: first
    Wasserstein distance in standard deviations of the reference. `cramers_v`: of a table of two equal sides. `combined`:
    the score of the predictions, 0..1. `accuracy_drop_..._rel`: share of the version's own accuracy. Each is a metric of
    its own.

    With fewer than `min_rows` rows or `min_effective_rows` independent ones on a side the verdict is
    `insufficient_data`. `alpha`: chance that one check of unchanged traffic calls any column changed (Benjamini-Hochberg
    over the columns); `margin_confidence`: of the one-sided bound of an effect that has to be above its limit.
    `max_categories`: commonest ones that are cells of their own. `max_missing_rate_increase_points`: percentage points.
    `max_unseen_share`: of rows with a category that the reference has not. `min_unit_factor`: by which the median
    magnitude has to change to look like another unit. `newest_min_hours`: of the newest hours of a window, which are looked
    at by themselves as well, as soon as they have `min_rows`; None: they are not.
    """

    psi_monitor: Positive
    psi_warning: Positive
    psi_critical: Positive
    ks_monitor: OpenShare
    ks_warning: OpenShare
    ks_critical: OpenShare
    wasserstein_monitor_sigmas: Positive
    wasserstein_warning_sigmas: Positive
    wasserstein_critical_sigmas: Positive
    cramers_v_monitor: OpenShare
    cramers_v_warning: OpenShare
    cramers_v_critical: OpenShare
    combined_monitor: OpenShare
    combined_warning: OpenShare
    combined_critical: OpenShare
    accuracy_drop_monitor_rel: OpenShare
    accuracy_drop_warning_rel: OpenShare
    accuracy_drop_critical_rel: OpenShare
    min_rows: Annotated[int, Field(ge=2)]
    min_effective_rows: Annotated[int, Field(ge=2)]
    alpha: OpenShare
    margin_confidence: Annotated[float, Field(ge=0.5, lt=1.0)]
    psi_bins: Annotated[int, Field(ge=2, le=100)]
    psi_binning: Literal["quantile", "equal_width"]
    max_categories: Annotated[int, Field(ge=2, le=1000)]
    max_missing_rate_increase_points: Annotated[float, Field(ge=0.0, le=100.0)]
    max_unseen_share: Share
    min_unit_factor: Annotated[float, Field(gt=1.0, allow_inf_nan=False)]
    newest_min_hours: Positive | None
    retrain_within_hours: Annotated[Count, Field(ge=1)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for metric, unit in (
            ("psi", ""), ("ks", ""), ("wasserstein", "_sigmas"), ("cramers_v", ""), ("combined", ""),
            ("accuracy_drop", "_rel"),
        ):  # fmt: skip
            names = [f"{metric}_{band}{unit}" for band in ("monitor", "warning", "critical")]
            limits = [getattr(self, name) for name in names]
            # Equal ones leave a band out: some sources know two only.
            if limits != sorted(limits):
                raise ValueError(f"{', '.join(names)} are {limits}; each has to be at least the one before")
        return self
