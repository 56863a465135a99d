"""What an experiment is judged by: users, each once at every traffic share, with the outcomes of their first window.

A user's arm is drawn when he first comes, so he is one observation, however many requests he sends. When the share
grows, users of the control are drawn again: of those below the old share none, of the others (new - old) / (1 - old).
So a user who comes back is a fresh observation in the next stage of a ramp, with that share; one who was treated
before is none.

Units are stored at the look at which their window and the outcomes' delay are over, and never changed: evidence that
was found stays what it was, however late outcomes come.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from mlops_assets.experiments.assignment import CONTROL, TREATMENT, chances
from mlops_assets.experiments.decisions import KEYS_A_QUERY, Drawn, decisions, drawn_by, metrics_before
from mlops_assets.experiments.metrics import MetricScale, first_windows
from mlops_assets.experiments.versions import Versions, pin
from mlops_assets.foundation.database import insert_missing, read_transaction, transaction
from mlops_assets.foundation.policies import AbTestDesign
from mlops_assets.foundation.tables import ExperimentLook, ExperimentUnit

if TYPE_CHECKING:
    import pandas as pd


class LookDesign(Protocol):
    """How users are looked at: an experiment's design, or a rollout's; `model_dump` is kept with each look."""

    @property
    def user_window_minutes(self) -> float:
        """How long a user's first window is."""
        ...

    @property
    def outcome_delay_minutes(self) -> float:
        """How long outcomes are waited for after it."""
        ...

    @property
    def pre_period_days(self) -> float:
        """How far back before the experiment a user's metrics are taken, 0 for not at all."""
        ...

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Return it as JSON values, in the mode `json`."""
        ...


@dataclass(frozen=True)
class Unit:
    """One observation: arm, the probability of the treatment for this user, metrics from 0 (good) to 1, traffic share.

    With several treatments, `variant` is the user's arm, and `draws` are the treatments that this user is an observation of,
    with their probabilities against the control; `of` gives it as one of a single treatment. `before`: the same metrics
    before the experiment, None of a user who was not there.
    """

    look: int
    treatment: bool
    share: float
    outcomes: Mapping[str, float]
    treatment_share: float
    variant: str | None = None
    draws: Mapping[str, float] | None = None
    before: Mapping[str, float] | None = None

    @property
    def arms(self) -> tuple[str, ...]:
        """The treatments that it is an observation of."""
        return (TREATMENT,) if self.draws is None else tuple(self.draws)

    def of(self, arm: str) -> "Unit":
        """Return it as an observation of one of its treatments and the control."""
        if self.draws is None:
            return self
        return replace(self, treatment=self.variant == arm, share=self.draws[arm], variant=None, draws=None)


@dataclass(frozen=True)
class Look:
    """One look, the users that it added, and what was kept of its design."""

    number: int
    cutoff: datetime
    units: tuple[Unit, ...]
    design: Mapping[str, Any] = field(default_factory=dict)


def take_look(
    engine: Engine,
    experiment: str,
    design: LookDesign,
    scale: MetricScale,
    *,
    now: datetime,
    drawn: Drawn | None = None,
) -> int:
    """Store the users whose first window and outcomes are over at `now`; return how many there are new.

    Two that look at the same moment store the same look once. `drawn`: whose decisions count, by default the experiment's.
    """
    drawn = drawn or drawn_by(experiment)
    window = timedelta(minutes=design.user_window_minutes)
    cutoff = now - window - timedelta(minutes=design.outcome_delay_minutes)
    # Read first: a writer that reads for seconds keeps the prediction log waiting.
    with read_transaction(engine) as session:
        number, begin, versions = _next_look(session, experiment)
        if begin is not None and cutoff <= begin:
            return 0
        found, versions = pin(decisions(session, drawn, begin, cutoff + window, scale), versions, cutoff)
        # While nobody has the treatment, nobody is an observation.
        found = found[found["treatment_share"] > 0.0]
        rows = list(_units(session, experiment, found, cutoff, window, scale, number)) if len(found) else []
        before = metrics_before(session, experiment, [row["user_hash"] for row in rows], design.pre_period_days, scale)
        rows = [{**row, "before": before.get(row["user_hash"])} for row in rows]
    try:
        with transaction(engine) as session:
            session.add(
                ExperimentLook(
                    experiment=experiment,
                    look=number,
                    cutoff=cutoff,
                    looked_at=now,
                    design=design.model_dump(mode="json"),
                    versions=vars(versions),
                )
            )
            session.flush()
            insert_missing(session, ExperimentUnit, rows)
    except IntegrityError:
        # Somebody else took this look; what it did not see, the next one will.
        return 0
    return len(rows)


def first_design(engine: Engine, experiment: str) -> AbTestDesign | None:
    """Return the design that the experiment was first looked at with, None before."""
    with read_transaction(engine) as session:
        first = session.get(ExperimentLook, (experiment, 0))
    return None if first is None else AbTestDesign.model_validate(first.design)


def newest_look(engine: Engine, experiment: str) -> datetime | None:
    """Return when the newest look at the experiment was taken, None before the first."""
    with read_transaction(engine) as session:
        return session.scalar(select(func.max(ExperimentLook.looked_at)).where(ExperimentLook.experiment == experiment))


def served_versions(engine: Engine, experiment: str) -> Versions:
    """Return which versions the experiment's newest look compares, and which others it met."""
    with read_transaction(engine) as session:
        return _next_look(session, experiment)[2]


def _next_look(session: Session, experiment: str) -> tuple[int, datetime | None, Versions]:
    """Number of the next look, where the last one ended, and the versions that it compared."""
    last = session.execute(
        select(ExperimentLook.look, ExperimentLook.cutoff, ExperimentLook.versions)
        .where(ExperimentLook.experiment == experiment)
        .order_by(ExperimentLook.look.desc())
        .limit(1)
    ).one_or_none()
    return (
        (0, None, Versions()) if last is None else (last.look + 1, last.cutoff, Versions.from_document(last.versions))
    )


def read_looks(engine: Engine, experiment: str, *, after: int | None = None) -> list[Look]:
    """Return every look, or those after one, in order, with their units."""
    first = 0 if after is None else after + 1
    with read_transaction(engine) as session:
        looks = session.execute(
            select(ExperimentLook.look, ExperimentLook.cutoff, ExperimentLook.design)
            .where(ExperimentLook.experiment == experiment, ExperimentLook.look >= first)
            .order_by(ExperimentLook.look)
        ).all()
        units: dict[int, list[Unit]] = {}
        query = select(ExperimentUnit).where(ExperimentUnit.experiment == experiment, ExperimentUnit.look >= first)
        # The traffic share before the user: it only grows for one who comes back, so this is each user's order of time.
        order = (ExperimentUnit.look, ExperimentUnit.treatment_share, ExperimentUnit.user_hash)
        for one in session.scalars(query.order_by(*order)):
            arms = one.arms or {}
            found = Unit(
                one.look,
                one.treatment,
                one.share,
                one.outcomes,
                one.treatment_share,
                arms.get("variant"),
                arms.get("draws"),
                one.before,
            )
            units.setdefault(one.look, []).append(found)
    return [Look(one.look, one.cutoff, tuple(units.get(one.look, ())), one.design) for one in looks]


def _units(
    session: Session,
    experiment: str,
    found: "pd.DataFrame",
    cutoff: datetime,
    window: timedelta,
    scale: MetricScale,
    number: int,
) -> Iterator[dict[str, Any]]:
    known = _known(session, experiment, list(dict.fromkeys(found["user_hash"])))
    for user, variant, shares, outcomes in first_windows(found, cutoff, window, scale):
        earlier = known.setdefault(user, _Earlier())
        possible = {} if earlier.treated else chances(shares, earlier.shares)
        draws = {arm: chance for arm, chance in possible.items() if variant in {CONTROL, arm}}
        earlier.was_in(variant, shares)
        if draws:
            yield {
                "experiment": experiment,
                "user_hash": user,
                "treatment_share": sum(earlier.shares.values()),
                "look": number,
                "treatment": variant != CONTROL,
                "share": max(draws.values()),
                "outcomes": outcomes,
                "arms": None if TREATMENT in shares else {"variant": variant, "shares": shares, "draws": draws},
            }


@dataclass
class _Earlier:
    """A user's arms before: whether one was a treatment, and the largest shares at which there was an observation."""

    treated: bool = False
    shares: dict[str, float] = field(default_factory=dict)

    def was_in(self, variant: str, shares: Mapping[str, float]) -> None:
        self.treated = self.treated or variant != CONTROL
        self.shares = {arm: max(share, self.shares.get(arm, 0.0)) for arm, share in shares.items()}


def _known(session: Session, experiment: str, users: Sequence[str]) -> dict[str, _Earlier]:
    unit = ExperimentUnit
    known: dict[str, _Earlier] = {}
    for begin in range(0, len(users), KEYS_A_QUERY):
        query = select(unit.user_hash, unit.treatment_share, unit.treatment, unit.arms).where(
            unit.experiment == experiment, unit.user_hash.in_(users[begin : begin + KEYS_A_QUERY])
        )
        for user, share, treated, arms in session.execute(query):
            shares, variant = ({TREATMENT: share}, TREATMENT) if arms is None else (arms["shares"], arms["variant"])
            known.setdefault(user, _Earlier()).was_in(variant if treated else CONTROL, shares)
    return known
