"""What a snapshot of experiences is validated against."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mlops_assets.foundation.policies.base import Count, Finite, NotNegative, Positive, Section


class DataPolicy(Section):
    """Bounds that a snapshot of experiences is validated against.

    `window_rows`: newest rows kept, of the last `window_days` (None: no limit). `max_age_hours`: age of the newest row,
    None for no limit. `max_mean_shift_sigmas`, `min_std_ratio`, `max_std_ratio`, `max_missing_rate_increase_points`
    (percentage points) compare with the previous snapshot; with fewer than `min_shift_rows` rows on a side the verdict
    is `insufficient_data`.
    """

    min_rows: Count
    max_rows: Count
    window_rows: Annotated[int, Field(ge=1)]
    window_days: Annotated[int, Field(ge=1)] | None
    reward_low: Finite
    reward_high: Finite
    max_age_hours: Annotated[int, Field(ge=1)] | None
    max_mean_shift_sigmas: Positive
    min_std_ratio: NotNegative
    max_std_ratio: Positive
    max_missing_rate_increase_points: Annotated[float, Field(ge=0.0, le=100.0)]
    min_shift_rows: Count

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for low, high in (
            ("min_rows", "max_rows"),
            ("min_rows", "window_rows"),
            ("reward_low", "reward_high"),
            ("min_std_ratio", "max_std_ratio"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} {getattr(self, low)} is greater than {high} {getattr(self, high)}")
        return self


class DataPolicies(Section):
    """`standard`: a system in operation. `bootstrap`: a cold start or a small history, chosen by name."""

    standard: DataPolicy
    bootstrap: DataPolicy

    def named(self, name: Literal["standard", "bootstrap"]) -> DataPolicy:
        """Return one of the two by its name."""
        return self.standard if name == "standard" else self.bootstrap
