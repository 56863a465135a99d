"""Facts that this platform cannot measure by itself, such as CI's success rate: told with their source, the newest counts.

`python -m mlops_assets.monitoring.declared ci_cd_success 0.98 --source https://ci.company.com/stats --user mlops@company.com`
"""

import argparse
import math
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Engine

from mlops_assets.foundation.clock import deployment_clock
from mlops_assets.foundation.database import create_operational_engine, upgrade
from mlops_assets.foundation.errors import InputError, MlopsError, NotReadyError
from mlops_assets.foundation.policies import real_address
from mlops_assets.foundation.records import read_record, write_record
from mlops_assets.foundation.settings import load_settings

DONE, REFUSED = 0, 2
# What may be told, and what it means; those of the maturity levels are 1 (it is there) or 0.
DECLARABLE: Final[Mapping[str, str]] = {
    "ci_cd_success": "successful runs of CI / all of them",
    "drift_detection_accuracy": "labelled drift scenarios told rightly / all of them (benchmarks)",
    "feature_read_ms": "95th percentile of an online feature read (benchmarks)",
    "version_control": "1 when all code is under version control",
    "continuous_integration": "1 when every change is built and tested",
    "dashboards": "1 when people have dashboards of the models",
    "hyperparameter_search": "1 when hyper-parameters are searched automatically",
    "automated_feature_engineering": "1 when features are made automatically",
}
_ASSET: Final = "declared_fact"


@dataclass(frozen=True)
class Fact:
    """What was told, by whom, and where it comes from."""

    name: str
    value: float
    source: str
    user: str
    told_at: datetime

    @property
    def words(self) -> str:
        """Say where it comes from."""
        return f"{self.source} (told by {self.user}, {self.told_at:%Y-%m-%d})"


def declare(engine: Engine, name: str, value: float, *, source: str, user: str, now: datetime) -> Fact:
    """Store a fact; an earlier one of the name stays in the database, and no longer counts.

    Raises:
        InputError: the name is none of `DECLARABLE`, the value no number of its kind, no source, or no e-mail address.
    """
    if name not in DECLARABLE:
        raise InputError(f"{name!r} cannot be told; facts that can: {', '.join(DECLARABLE)}")
    most = math.inf if name.endswith("_ms") else 1.0
    if not (math.isfinite(value) and 0.0 <= value <= most):
        raise InputError(f"{name} is {value}; expected {'0 or more' if most == math.inf else 'a share, from 0 to 1'}")
    if not source.strip():
        raise InputError(f"{name} has no source; say where the number comes from, such as a link to CI's statistics")
    try:
        real_address(user)
    except ValueError as error:
        raise InputError(f"{error}; who tells a fact answers for it: give yours") from None
    fact = Fact(name, float(value), source.strip(), user, now)
    payload = {"value": fact.value, "source": fact.source, "user": user, "told_at": now.isoformat()}
    write_record(engine, asset=_ASSET, partition=name, run_id=uuid.uuid4().hex, payload=payload, now=now)
    return fact


def declared(engine: Engine) -> dict[str, Fact]:
    """Return the newest fact of each name that was told."""
    found = {}
    for name in DECLARABLE:
        try:
            told = read_record(engine, asset=_ASSET, partition=name)
        except NotReadyError:
            continue
        found[name] = Fact(name, told["value"], told["source"], told["user"], datetime.fromisoformat(told["told_at"]))
    return found


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Store one fact and return the exit code: 0 done, 2 refused."""
    parser = argparse.ArgumentParser(prog="python -m mlops_assets.monitoring.declared", description=__doc__)
    parser.add_argument("name", help="; ".join(f"{name}: {words}" for name, words in DECLARABLE.items()))
    parser.add_argument("value", type=float)
    parser.add_argument("--source", required=True, help="where the number comes from")
    parser.add_argument("--user", required=True, help="your e-mail address")
    arguments = parser.parse_args(argv)
    try:
        settings = load_settings(environ)
        engine = create_operational_engine(settings.database)
        try:
            upgrade(engine)
            now = deployment_clock(settings.clock).now()
            fact = declare(
                engine, arguments.name, arguments.value, source=arguments.source, user=arguments.user, now=now
            )
        finally:
            engine.dispose()
    except MlopsError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    sys.stdout.write(f"{fact.name} is {fact.value:g}: {fact.words}\n")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
