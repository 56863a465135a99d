"""What drift checks of the champion ask for. How drift is measured is the room of monitoring's business.

High PSI at stable accuracy is evidence of moved inputs alone, and said to be; accuracy that fell though the inputs did not
move is a changed world, and waits for nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping, select
from sqlalchemy.orm import Session

from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.policies import RetrainingPolicy
from mlops_assets.foundation.tables import DriftCheckRecord
from mlops_assets.retraining.decide import Loss, loss_pays
from mlops_assets.retraining.signals import NewSignal


@dataclass(frozen=True)
class Check:
    """One drift check, as far as it matters here; None is what there was too little data to say.

    `broken`: columns that are broken upstream. Inputs that drift beside them ask for no training, which would learn the fault.
    """

    agent: str
    model_name: str
    model_version: str
    window_end: datetime
    checked_at: datetime
    labelled: int
    psi: float | None
    combined: float | None
    accuracy_drop_rel: float | None
    ks: float | None = None
    loss: Loss | None = None
    broken: tuple[str, ...] = ()

    def key(self, what: str) -> str:
        """Dedupe key: a drift that goes on asks once a day, of each version and each thing that is found."""
        return f"{what}:{self.model_name}:{self.model_version}:{self.window_end:%Y-%m-%d}"

    def evidence(self) -> dict[str, Any]:
        """Return the numbers by `EvidenceName`, and the version that they are about."""
        numbers = {
            "drift_score": self.psi,
            "combined_drift": self.combined,
            "ks_statistic": self.ks,
            "accuracy_drop": self.accuracy_drop_rel,
            "loss_per_day_low": None if self.loss is None else self.loss.low,
        }
        known = {name: value for name, value in numbers.items() if value is not None}
        return {"model_version": self.model_version, **known}


def signals_of(check: Check, policy: RetrainingPolicy) -> list[NewSignal]:
    """Return what a check asks for: nothing, a training at once, or one before a deadline."""
    found = [*_of_accuracy(check, policy), *_of_inputs(check, policy)]
    if policy.retrain_when == "hurts" and check.loss is not None and loss_pays(check.loss, policy):
        reason = (
            f"version {check.model_version} loses at least {check.loss.low:,.4g} of reward a day "
            f"(estimate {check.loss.estimate:,.4g}), more than the {policy.training_cost:,.4g} that a training costs"
        )
        found.append(NewSignal(check.agent, "drift", check.key("loss"), reason, check.evidence()))
    return found


def checks_since(session: Session, agent: str, version: str | None, since: datetime) -> list[Check]:
    """Return the checks of an agent's version made after `since`, the oldest first; none without a version."""
    if version is None:
        return []
    record = DriftCheckRecord
    query = select(
        record.agent,
        record.model_name,
        record.model_version,
        record.window_end,
        record.checked_at,
        record.labelled,
        record.psi,
        record.combined,
        record.accuracy_drop_rel,
        # Not the whole document: it holds every column's statistics.
        record.document["ks"].label("ks"),
        record.document["loss_per_day"].label("loss_per_day"),
        record.document["broken"].label("broken"),
    ).where(
        record.agent == agent,
        record.model_name == agent_spec(agent).registered_model,
        record.model_version == version,
        record.checked_at > since,
    )
    rows = session.execute(query.order_by(record.window_end, record.id)).mappings()
    return [_check(row) for row in rows]


def newest_loss(checks: Sequence[Check]) -> Loss | None:
    """Return the newest estimate of what is lost a day."""
    return next((check.loss for check in reversed(checks) if check.loss is not None), None)


def _of_accuracy(check: Check, policy: RetrainingPolicy) -> list[NewSignal]:
    drop, limits = check.accuracy_drop_rel, policy.limits
    if drop is None or drop <= limits.accuracy_warning_rel:
        return []
    fell = f"accuracy of version {check.model_version} fell by {drop:.1%} of what it was"
    evidence = check.evidence()
    if drop > limits.accuracy_critical_rel:
        reason = f"{fell}, more than {limits.accuracy_critical_rel:.0%}"
        return [NewSignal(check.agent, "accuracy_drop", check.key("accuracy_drop"), reason, evidence)]
    if check.psi is not None and check.psi <= limits.psi_monitor:
        reason = f"{fell}, though its inputs did not move (PSI {check.psi:.2f}): what is right has changed"
        return [NewSignal(check.agent, "accuracy_drop", check.key("accuracy_drop"), reason, evidence)]
    reason = f"{fell}, more than {limits.accuracy_warning_rel:.0%}: within {policy.accuracy_deadline_hours:g} h"
    deadline = check.checked_at + timedelta(hours=policy.accuracy_deadline_hours)
    key = check.key("accuracy_warning")
    return [NewSignal(check.agent, "accuracy_drop", key, reason, evidence, deadline)]


def _of_inputs(check: Check, policy: RetrainingPolicy) -> list[NewSignal]:
    limits = policy.limits
    if check.broken:
        return []
    beyond = [
        f"{name} {value:.2f} > {limit:g}"
        for name, value, limit in (
            ("PSI", check.psi, limits.psi_critical),
            ("combined drift score", check.combined, limits.combined),
            ("Kolmogorov-Smirnov statistic", check.ks, limits.ks),
        )
        if value is not None and limit is not None and value > limit
    ]
    inputs = f"inputs of version {check.model_version} drifted"
    if beyond:
        evidence, alone = check.evidence(), ""
        if _accuracy_is_stable(check, policy):
            evidence["psi_only"] = 1.0
            alone = f"; accuracy is stable on {check.labelled:,} labels"
        reason = f"{inputs}: {', '.join(beyond)}{alone}"
        return [NewSignal(check.agent, "drift", check.key("drift"), reason, evidence)]
    if check.psi is not None and check.psi > limits.psi_warning:
        reason = f"{inputs}: PSI {check.psi:.2f} > {limits.psi_warning:g}: within {policy.psi_deadline_hours:g} h"
        deadline = check.checked_at + timedelta(hours=policy.psi_deadline_hours)
        return [NewSignal(check.agent, "drift", check.key("drift_warning"), reason, check.evidence(), deadline)]
    return []


def _accuracy_is_stable(check: Check, policy: RetrainingPolicy) -> bool:
    drop, limits = check.accuracy_drop_rel, policy.limits
    return drop is not None and drop <= limits.accuracy_stable_rel and check.labelled >= limits.min_labelled


def _check(row: RowMapping) -> Check:
    values = dict(row)
    loss = _loss(values.pop("loss_per_day"), values["checked_at"])
    broken = tuple(values.pop("broken") or ())
    return Check(**{**values, "ks": _number(values["ks"]), "loss": loss, "broken": broken})


def _loss(document: Any, at: datetime) -> Loss | None:
    """Read an estimate; one that is not whole is none."""
    if not isinstance(document, Mapping):
        return None
    low, estimate, high = (_number(document.get(name)) for name in ("low", "estimate", "high"))
    return None if low is None or estimate is None or high is None else Loss(low, estimate, high, at)


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None
