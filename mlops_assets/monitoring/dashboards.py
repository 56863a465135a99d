"""Grafana's dashboards of the platform: `python -m mlops_assets.monitoring.dashboards` writes them as JSON.

Exit codes: 0 done, 2 refused (the reason goes to standard error).
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlops_assets.foundation.errors import MlopsError
from mlops_assets.foundation.files import atomic_write
from mlops_assets.foundation.profiles import PolicyProfile, load_profile
from mlops_assets.foundation.settings import load_settings
from mlops_assets.monitoring.state_dashboards import drift_and_performance, retraining_and_alerts
from mlops_assets.monitoring.traffic_dashboards import experiments_and_rollouts, model_monitoring

DONE, REFUSED = 0, 2
FOLDER = Path("deploy/monitoring/dashboards")


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Write the dashboards with the limits of the deployment's profile and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mlops_assets.monitoring.dashboards", description=__doc__)
    parser.add_argument("--profile", help="another policy profile than the deployment's (MLOPS_POLICY_PROFILE)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where <uid>.json are written")
    arguments = parser.parse_args(argv)
    try:
        profile = load_profile(arguments.profile or load_settings(environ).policy_profile)
        for document in all_dashboards(profile):
            path = arguments.folder / f"{document['uid']}.json"
            with atomic_write(path) as temporary:
                temporary.write_text(dashboard_text(document), encoding="utf-8")
            sys.stdout.write(f"{path}\n")
    except MlopsError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    return DONE


def all_dashboards(profile: PolicyProfile) -> list[dict[str, Any]]:
    """Return every dashboard; lines show the limits of the profile."""
    return [
        model_monitoring(profile),
        experiments_and_rollouts(profile),
        drift_and_performance(profile),
        retraining_and_alerts(profile),
    ]


def dashboard_text(document: dict[str, Any]) -> str:
    """Return a dashboard as the JSON that is stored: the same document, the same bytes."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main())
