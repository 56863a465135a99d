"""Every model in a line: its newest drift check, its accuracy and its open alerts. `python -m mlops_assets.monitoring.overview`."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Engine, func, or_, select
from sqlalchemy.orm import Session

from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.foundation.clock import deployment_clock
from mlops_assets.foundation.database import create_operational_engine, read_transaction, upgrade
from mlops_assets.foundation.errors import MlopsError
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import load_settings
from mlops_assets.foundation.tables import AlertRecord, DriftCheckRecord
from mlops_assets.monitoring.figures import in_words
from mlops_assets.monitoring.summary import SEVERITIES
from mlops_assets.monitoring.window import newest_moment
from mlops_assets.serving.status import monitoring_status

DONE, REFUSED = 0, 2


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Print the lines and return the exit code: 0 done, 2 refused."""
    argparse.ArgumentParser(prog="python -m mlops_assets.monitoring.overview", description=__doc__).parse_args(argv)
    try:
        settings = load_settings(environ)
        hours = load_profile(settings.policy_profile).monitoring.window_hours
        clock = deployment_clock(settings.clock)
        engine = create_operational_engine(settings.database)
        try:
            upgrade(engine)
            for spec in AGENTS.values():
                newest = newest_moment(engine, spec, clock, data_clock=settings.data_clock)
                sys.stdout.write(f"{overview_line(engine, spec, hours, newest + timedelta(microseconds=1))}\n")
        finally:
            engine.dispose()
    except MlopsError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    return DONE


def overview_line(engine: Engine, spec: AgentSpec, hours: float, end: datetime) -> str:
    """Say in a line how one model does in the hours before `end`; what is not known is said so."""
    groups = monitoring_status(engine, end - timedelta(hours=hours), end, by=["agent"], agent=spec.name)
    accuracy = groups[0]["accuracy"] if groups else None
    decisions = groups[0]["predictions"] if groups else 0
    with read_transaction(engine) as session:
        drift = _drift(session, spec)
        alerts = _alerts(session, spec)
    served = f"accuracy {in_words(accuracy, 'share')} of {decisions:,} decisions in {hours:g} h"
    return f"{spec.registered_model}: {drift}; {served}; {alerts}"


def _drift(session: Session, spec: AgentSpec) -> str:
    query = select(DriftCheckRecord).where(DriftCheckRecord.agent == spec.name)
    check = session.scalars(
        query.order_by(DriftCheckRecord.window_end.desc(), DriftCheckRecord.id.desc()).limit(1)
    ).one_or_none()
    if check is None:
        return "never checked for drift"
    score, psi = in_words(check.combined, ""), in_words(check.psi, "")
    when = f"{check.window_end:%Y-%m-%d %H:%M} UTC"
    return f"{check.model_version} {check.verdict.replace('_', ' ')} at {when}, drift score {score}, PSI {psi}"


def _alerts(session: Session, spec: AgentSpec) -> str:
    query = (
        select(AlertRecord.severity, func.count())
        .where(
            or_(AlertRecord.agent == spec.name, AlertRecord.model_name == spec.registered_model),
            AlertRecord.recovered_at.is_(None),
        )
        .group_by(AlertRecord.severity)
    )
    counts = {str(severity): int(count) for severity, count in session.execute(query)}
    found = [f"{counts[severity]} {severity.lower()}" for severity in SEVERITIES if severity in counts]
    return f"open alerts: {', '.join(found) or 'none'}"


if __name__ == "__main__":
    sys.exit(main())
