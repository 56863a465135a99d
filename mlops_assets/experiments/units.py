"""What an experiment is judged by: users, each once at every traffic share, with the outcomes of their first window.

A user's arm is drawn when he first comes, so he is one observation, however many requests he sends. When the share
grows, users of the control are drawn again: of those below the old share none, of the others (new - old) / (1 - old).
So a user who comes back is a fresh observation in the next stage of a ramp, with that share; one who was treated
before is none.

Units are stored at the look at which their window and the outcomes' delay are over, and never changed: evidence that
was found stays what it was, however late outcomes come.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

import pandas as pd
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from mlops_assets.experiments.assignment import CONTROL, TREATMENT, chances
from mlops_assets.experiments.versions import Versions, pin
from mlops_assets.foundation.database import insert_missing, read_transaction, transaction
from mlops_assets.foundation.profiles import AbTestDesign
from mlops_assets.foundation.tables import ExperimentLook, ExperimentUnit, OutcomeRecord, PredictionRecord

_KEYS_A_QUERY = 5_000


@dataclass(frozen=True)
class MetricScale:
    """What metrics are measured by: the reward's bounds, and from which latency on a request is slow, by metric.

    `slices`: columns of the prediction log for each of whose values there is a metric of wrong decisions, such as
    `wrong[browser=webkit]`.
    """

    reward_low: float
    reward_high: float
    slow_ms: Mapping[str, float]
    slices: tuple[str, ...] = ()


class LookDesign(Protocol):
    """When a user's outcomes are complete; a look is stored with the design by which it was taken."""

    @property
    def user_window_minutes(self) -> float:
        """How long a user's decisions are counted from the first one on."""
        ...

    @property
    def outcome_delay_minutes(self) -> float:
        """How long outcomes are waited for after that."""
        ...

    @property
    def pre_period_days(self) -> float:
        """How long before the experiment users' metrics are of interest; 0: not at all."""
        ...

    def model_dump(self, *, mode: Literal["json"]) -> dict[str, Any]:
        """Return it as JSON values."""
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
    """One look, and the users that it added."""

    number: int
    cutoff: datetime
    units: tuple[Unit, ...]


def take_look(engine: Engine, experiment: str, design: LookDesign, scale: MetricScale, *, now: datetime) -> int:
    """Store the users whose first window and outcomes are over at `now`; return how many there are new.

    Two that look at the same moment store the same look once.
    """
    window = timedelta(minutes=design.user_window_minutes)
    cutoff = now - window - timedelta(minutes=design.outcome_delay_minutes)
    # Read first: a writer that reads for seconds keeps the prediction log waiting.
    with read_transaction(engine) as session:
        number, begin, versions = _next_look(session, experiment)
        if begin is not None and cutoff <= begin:
            return 0
        decisions = _decisions(session, experiment, begin, cutoff + window, scale.slices)
        found, versions = pin(decisions, versions, cutoff)
        rows = list(_units(session, experiment, found, cutoff, window, scale, number)) if len(found) else []
        before = _before(session, experiment, [row["user_hash"] for row in rows], design, scale)
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
            select(ExperimentLook.look, ExperimentLook.cutoff)
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
    return [Look(one.look, one.cutoff, tuple(units.get(one.look, ()))) for one in looks]


def _decisions(
    session: Session, experiment: str, begin: datetime | None, end: datetime, slices: Sequence[str]
) -> pd.DataFrame:
    prediction, outcome = PredictionRecord, OutcomeRecord
    query = (
        select(
            prediction.user_hash,
            prediction.event_time,
            prediction.variant,
            prediction.treatment_share,
            prediction.action,
            prediction.fallback,
            prediction.latency_ms,
            prediction.arms,
            outcome.reward,
            outcome.best_action,
            *(getattr(prediction, column) for column in slices),
        )
        .outerjoin(outcome, outcome.prediction_id == prediction.prediction_id)
        .where(prediction.experiment == experiment, prediction.event_time <= end, prediction.user_hash.is_not(None))
        .order_by(prediction.event_time, prediction.prediction_id)
    )
    if begin is not None:
        query = query.where(prediction.event_time > begin)
    rows = session.execute(query).all()
    frame = pd.DataFrame(rows, columns=[column["name"] for column in query.column_descriptions])
    return frame[frame["treatment_share"].notna()] if len(frame) else frame


def _units(
    session: Session,
    experiment: str,
    found: pd.DataFrame,
    cutoff: datetime,
    window: timedelta,
    scale: MetricScale,
    number: int,
) -> Iterator[dict[str, Any]]:
    known = _known(session, experiment, list(dict.fromkeys(found["user_hash"])))
    for user, variant, shares, outcomes in _first_windows(found, cutoff, window, scale):
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


def _first_windows(
    found: pd.DataFrame, cutoff: datetime, window: timedelta, scale: MetricScale
) -> Iterator[tuple[str, str, dict[str, float], dict[str, float]]]:
    """(user, arm, traffic shares, metrics) of the windows that began up to the cutoff, in the order of their begin.

    A metric without an observation is left out, not zero.
    """
    by = [found["user_hash"], found["treatment_share"]]
    first = found.groupby(by, sort=False)[["event_time", "variant"]].transform("first")
    inside = (first["event_time"] <= cutoff) & (found["event_time"] < first["event_time"] + window)
    rows = found[inside & (found["variant"] == first["variant"])]
    observed = _observed(rows, scale)
    groups = [rows["user_hash"], rows["treatment_share"]]
    means = observed.groupby(groups, sort=False).mean()
    firsts = rows.groupby(groups, sort=False)[["variant", "arms"]].first()
    for (user, share), variant, arms, values in zip(
        means.index, firsts["variant"], firsts["arms"], means.to_dict("records"), strict=True
    ):
        metrics = {str(name): float(value) for name, value in values.items() if not math.isnan(value)}
        shares = arms["shares"] if isinstance(arms, dict) else {TREATMENT: float(share)}
        yield str(user), str(variant), shares, metrics


def _observed(rows: pd.DataFrame, scale: MetricScale) -> pd.DataFrame:
    """The metrics of each decision; NaN without an observation."""
    lost = (scale.reward_high - rows["reward"]) / (scale.reward_high - scale.reward_low)
    wrong = (rows["best_action"] != rows["action"]).astype(float).where(rows["best_action"].notna())
    return pd.DataFrame(
        {
            "failed": (rows["fallback"] == "failed").astype(float),
            **{metric: (rows["latency_ms"] > ms).astype(float) for metric, ms in scale.slow_ms.items()},
            "wrong": wrong,
            "loss": lost.astype(float).clip(0.0, 1.0),
            **{
                f"wrong[{column}={value}]": wrong.where(rows[column] == value)
                for column in scale.slices
                for value in sorted(rows[column].unique())
            },
        }
    )


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
    for begin in range(0, len(users), _KEYS_A_QUERY):
        query = select(unit.user_hash, unit.treatment_share, unit.treatment, unit.arms).where(
            unit.experiment == experiment, unit.user_hash.in_(users[begin : begin + _KEYS_A_QUERY])
        )
        for user, share, treated, arms in session.execute(query):
            shares, variant = ({TREATMENT: share}, TREATMENT) if arms is None else (arms["shares"], arms["variant"])
            known.setdefault(user, _Earlier()).was_in(variant if treated else CONTROL, shares)
    return known


def _before(
    session: Session, experiment: str, users: Sequence[str], design: LookDesign, scale: MetricScale
) -> dict[str, dict[str, float]]:
    """Metrics of users in the days before the experiment's first decision, of those who were there."""
    if not (users and design.pre_period_days):
        return {}
    prediction, outcome = PredictionRecord, OutcomeRecord
    first = session.execute(
        select(prediction.agent, prediction.event_time)
        .where(prediction.experiment == experiment)
        .order_by(prediction.event_time)
        .limit(1)
    ).one()
    begin = first.event_time - timedelta(days=design.pre_period_days)
    columns = (
        prediction.user_hash, prediction.agent, prediction.action, prediction.fallback, prediction.latency_ms,
        outcome.reward, outcome.best_action,
    )  # fmt: skip
    found: dict[str, dict[str, float]] = {}
    for start in range(0, len(users), _KEYS_A_QUERY):
        query = (
            select(*columns)
            .outerjoin(outcome, outcome.prediction_id == prediction.prediction_id)
            .where(
                prediction.user_hash.in_(users[start : start + _KEYS_A_QUERY]),
                prediction.event_time >= begin,
                prediction.event_time < first.event_time,
            )
        )
        frame = pd.DataFrame(session.execute(query).all(), columns=[column.key for column in columns])
        # Here and not in the query: SQLite would read the agent's whole days for it, and not by user.
        rows = frame[frame["agent"] == first.agent]
        means = _observed(rows, replace(scale, slices=())).groupby(rows["user_hash"]).mean()
        for user, values in zip(means.index, means.to_dict("records"), strict=True):
            found[str(user)] = {str(name): float(value) for name, value in values.items() if not math.isnan(value)}
    return found
