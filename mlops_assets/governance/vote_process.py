"""One vote in a process of its own: `python -m mlops_assets.governance.vote_process`, for servers that hold no MLflow.

Reads a JSON object (model_name, version, approver, decision, comment) from standard input, and answers with one JSON
object on the last line of standard output: `refused` and `message`, or `failed` (one of `FAILURES`, or `transient`) and
`message`, or `status`.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

from mlops_assets.foundation.access import access_control
from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.database import create_operational_engine
from mlops_assets.foundation.errors import AccessDeniedError, InputError, PermanentError, SettingsError, TransientError
from mlops_assets.foundation.settings import load_settings
from mlops_assets.governance.approval_state import ApprovalRefusedError
from mlops_assets.governance.approvals import open_approvals
from mlops_assets.registry.mlflow_store import be_impatient
from mlops_assets.registry.model_registry import ModelRegistry

# Errors that a second try would meet again, the first kind that fits.
FAILURES: Mapping[str, type[PermanentError]] = {
    "denied": AccessDeniedError,
    "input": InputError,
    "settings": SettingsError,
    "conflict": PermanentError,
}


def count(vote: Mapping[str, Any]) -> dict[str, str]:
    """Count the vote and say what came of it."""
    be_impatient()
    try:
        settings = load_settings()
        engine = create_operational_engine(settings.database)
        try:
            registry = ModelRegistry(settings.tracking_uri, engine, SystemClock(), access_control(settings))
            approvals = open_approvals(settings, engine, SystemClock(), registry)
            return {"status": approvals.vote(**vote, channel="http").status}
        finally:
            engine.dispose()
    except ApprovalRefusedError as refusal:
        return {"refused": refusal.reason, "message": str(refusal)}
    except PermanentError as error:
        kind = next(kind for kind, raised in FAILURES.items() if isinstance(error, raised))
        return {"failed": kind, "message": str(error)}
    except TransientError as error:
        return {"failed": "transient", "message": str(error)}


def main() -> int:
    """Count the vote of standard input."""
    answer = count(json.load(sys.stdin))
    sys.stdout.write(f"{json.dumps(answer)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
