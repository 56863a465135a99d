"""What a simulation is made of: seed, size, time, and the ways in which its world may change. No drawing here."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlops_assets.foundation.errors import SettingsError

EPOCH = datetime(2026, 1, 5, tzinfo=UTC)


@dataclass(frozen=True)
class Drift:
    """How the world differs from `start_day` on; each knob alone, 0 (or None) is off.

    Attributes:
        covariate_shift: items with a high risk or fault level become exp(shift) times likelier per standard deviation;
            the rewards of an item stay as they are.
        reward_change: share, 0..1, of the gains that follows the problem's second relation; items stay as they are.
        behaviour_shift: share, below 1, of the decisions in which the logging policy takes `behaviour_action` whatever it
            sees; the world stays as it is.
        behaviour_action: the preferred action, an index into the agent's actions.
        unit_field: a context field that arrives in another unit, `unit_factor` times as large.
        renamed_column: a column of the experience table that arrives as `<name>_v2`.
        new_framework_share: share of the episodes that run on a UI framework nobody has seen before.
    """

    start_day: int
    covariate_shift: float = 0.0
    reward_change: float = 0.0
    behaviour_shift: float = 0.0
    behaviour_action: int = 0
    unit_field: str | None = None
    unit_factor: float = 1000.0
    renamed_column: str | None = None
    new_framework_share: float = 0.0

    def __post_init__(self) -> None:
        _require("drift.start_day", self.start_day, at_least=0)
        _require("drift.reward_change", self.reward_change, at_least=0, at_most=1)
        _require("drift.behaviour_shift", self.behaviour_shift, at_least=0, at_most=0.95)
        _require("drift.new_framework_share", self.new_framework_share, at_least=0, at_most=1)


@dataclass(frozen=True)
class SimulatorConfig:
    """One simulated world; equal configs give byte-identical tables.

    The first `days` days bring at least `rows` decisions per agent. `extra_days` follow at the same pace and leave the
    days before them as they are, byte for byte; so does a drift that starts later.

    Attributes:
        label_share: share of the decisions that get a label, 1 to 3 days after the decision.
        user_stories: file of requirement texts; None takes the built-in ones.
        exploration: share of the logged decisions that are uniformly random.
        reward_noise: standard deviation of a gain as a share of the gain; bounded at sqrt(3) of it.

    Raises:
        SettingsError: a number is out of its range.
    """

    seed: int = 20251027
    rows: int = 120_000
    days: int = 60
    extra_days: int = 0
    label_share: float = 0.8
    exploration: float = 0.2
    reward_noise: float = 0.1
    cycles_per_day: int = 2
    user_stories: Path | None = None
    drifts: tuple[Drift, ...] = field(default=())

    def __post_init__(self) -> None:
        _require("simulator.seed", self.seed, at_least=0)
        _require("simulator.rows", self.rows, at_least=1)
        _require("simulator.days", self.days, at_least=1)
        _require("simulator.extra_days", self.extra_days, at_least=0)
        _require("simulator.label_share", self.label_share, at_least=0, at_most=1)
        # Without exploration some actions would have no propensity, and no off-policy estimate would exist.
        _require("simulator.exploration", self.exploration, at_least=0.01, at_most=1)
        _require("simulator.reward_noise", self.reward_noise, at_least=0, at_most=0.5)
        _require("simulator.cycles_per_day", self.cycles_per_day, at_least=1, at_most=24)

    @property
    def total_days(self) -> int:
        """Days in all."""
        return self.days + self.extra_days

    @property
    def end(self) -> datetime:
        """End of simulated time."""
        return EPOCH + timedelta(days=self.total_days)

    def episodes_per_day(self, horizon: int) -> int:
        """Episodes of `horizon` decisions a day, so that the first `days` bring at least `rows` decisions."""
        return -(-self.rows // (self.days * horizon))

    def drift_on(self, day: int) -> Drift | None:
        """Return the drift in force on `day`: the one that started last."""
        started = [drift for drift in self.drifts if drift.start_day <= day]
        return max(started, key=lambda drift: drift.start_day) if started else None


def _require(name: str, value: float, *, at_least: float, at_most: float | None = None) -> None:
    if value < at_least or (at_most is not None and value > at_most):
        limits = f"at least {at_least:g}" if at_most is None else f"{at_least:g} to {at_most:g}"
        raise SettingsError(f"{name} is {value!r}; it has to be {limits}")
