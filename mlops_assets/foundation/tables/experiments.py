"""Tables of A/B tests, their looks and their units."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from mlops_assets.foundation.tables.base import Base


class ExperimentRecord(Base):
    """One A/B test of an agent and its present traffic split; `status` is running, paused or stopped."""

    __tablename__ = "experiment"
    # One unfinished experiment of an agent, also for two that are created at once.
    __table_args__ = (
        Index(
            "uq_experiment_unfinished_agent",
            "agent",
            unique=True,
            sqlite_where=text("status <> 'stopped'"),
            postgresql_where=text("status <> 'stopped'"),
        ),
    )

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    agent: Mapped[str] = mapped_column(String(64))
    salt: Mapped[str] = mapped_column(String(64))
    treatment_alias: Mapped[str] = mapped_column(String(64))
    treatment_share: Mapped[float]
    # `treatments` beside the first, alias and share of each; NULL: none.
    more_treatments: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    # NULL: everybody.
    segment: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    status: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class ExperimentLook(Base):
    """One look at an experiment; users whose window ended between the cutoff before and this one are its units.

    `versions`: those that are compared, by arm, and how many decisions others took. `evidence` is what this look and those
    before it have found together; NULL until somebody asks for it.
    """

    __tablename__ = "experiment_look"

    experiment: Mapped[str] = mapped_column(String(100), primary_key=True)
    look: Mapped[int] = mapped_column(primary_key=True)
    cutoff: Mapped[datetime]
    looked_at: Mapped[datetime]
    design: Mapped[dict[str, Any]]
    versions: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    evidence: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class ExperimentUnit(Base):
    """One user's first window at one traffic share, as it was known at the look; never changed.

    `share` is the probability with which this user got the treatment, given what was known of him before. `outcomes`:
    metric to a mean in 0..1, only of what was observed. `arms`, where there are several treatments: the user's `variant`,
    the `shares` then, and the `draws`, treatment to its probability against the control; `treatment_share` is then the sum
    of the largest shares up to there. `before`: the same metrics before the experiment, NULL for who was not there.
    """

    __tablename__ = "experiment_unit"
    __table_args__ = (Index(None, "experiment", "look"),)

    experiment: Mapped[str] = mapped_column(String(100), primary_key=True)
    user_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    treatment_share: Mapped[float] = mapped_column(primary_key=True)
    look: Mapped[int]
    treatment: Mapped[bool]
    share: Mapped[float]
    outcomes: Mapped[dict[str, Any]]
    arms: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    before: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
