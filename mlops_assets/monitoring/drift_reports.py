"""The drift report of an agent: a check of every version that served in the window, kept, told and published."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Engine

from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import NotReadyError
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.profiles import PolicyProfile
from mlops_assets.monitoring.drift_checks import DriftCheck, check_version, checks_of, keep
from mlops_assets.monitoring.drift_pages import publish_check
from mlops_assets.monitoring.findings import Alert, Routing
from mlops_assets.monitoring.page import Page, Published
from mlops_assets.monitoring.window import served_versions

_MOMENT: Final = timedelta(microseconds=1)


@dataclass(frozen=True)
class DriftReport:
    """The champion's check and page; `others`: verdicts of further versions, `unchecked`: why one could not be checked."""

    check: DriftCheck
    page: Page
    pictures: Mapping[str, bytes]
    published: Published
    alerts: tuple[Alert, ...]
    others: Mapping[str, str]
    unchecked: Mapping[str, str]

    def facts(self) -> dict[str, Any]:
        """What later assets and people need of it; None is unknown."""
        check = self.check
        return {
            "version": check.reference.model_version,
            "verdict": check.verdict,
            "decisions": len(check.window),
            "psi": check.largest("psi"),
            "combined": check.combined(),
            "accuracy_drop_rel": check.accuracy.certain_drop_rel,
            "drifted": [one.name for one in check.drifted],
            "recommendation": check.drift.recommendation,
            "window_end": check.window.end.isoformat(),
        }


def drift_report(
    engine: Engine,
    spec: AgentSpec,
    champion: str,
    profile: PolicyProfile,
    paths: ArtifactPaths,
    routing: Routing,
    *,
    newest: datetime,
    as_of: datetime | None,
    now: datetime,
) -> DriftReport:
    """Check the champion, and whatever else served in the window that ends just after `newest`.

    People are told of the champion alone: a rollout watches its candidate by itself.

    Args:
        engine: operational database.
        spec: the agent.
        champion: semantic version that users have.
        profile: limits.
        paths: where references and reports lie.
        routing: what is told where.
        newest: on the clock of the decisions.
        as_of: outcomes that were received later do not count; None for all.
        now: time of the check.

    Raises:
        NotReadyError: the champion has no reference, and what it was trained on does not lie here.
        StorageError: the report cannot be written, or the database does not answer.
    """
    end = newest + _MOMENT
    check = check_version(engine, spec, champion, profile, paths, end=end, as_of=as_of, now=now)
    others, unchecked = {}, {}
    for version in served_versions(engine, spec, check.window.start, end):
        if version == champion:
            continue
        try:
            other = check_version(engine, spec, version, profile, paths, end=end, as_of=as_of, now=now)
        except NotReadyError as error:
            unchecked[version] = str(error)
            continue
        keep(engine, spec, other, profile, None, now)
        others[version] = other.verdict
    alerts = keep(engine, spec, check, profile, routing, now)
    history = checks_of(engine, spec, champion, end - timedelta(days=profile.monitoring.trend_days))
    page, pictures, published = publish_check(engine, spec, check, history, profile, paths)
    return DriftReport(check, page, pictures, published, tuple(alerts), others, unchecked)
