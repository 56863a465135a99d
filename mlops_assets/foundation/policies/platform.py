"""How the platform itself behaves: retries."""

from mlops_assets.foundation.policies.base import Count, NotNegative, Section


class RetryPolicySettings(Section):
    """Retries of a step after a transient failure."""

    max_retries: Count
    delay_seconds: NotNegative
