"""Take a better candidate to all users, and three bad ones back: with real servers, and users that come in minutes.

    python -m examples.rollout_demo [--only errors] [--seed 1]

Everything is below <MLOPS_HOME or .mlops>/demo-rollout, which is made anew: models of one's own are never touched. A
champion and a better network are trained, and the latter is given defects for the bad candidates; each is evaluated,
approved and rolled out by the product itself. Exit codes: 0 every rollout ended as it should, 1 one did not.
"""

import argparse
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.rollout_demo import lifecycle
from examples.rollout_demo.candidates import with_defect
from examples.rollout_demo.deployment import Deployment
from examples.rollout_demo.processes import Users, free_port, server
from examples.rollout_demo.scenario import Finished, Scenario, drive
from mlops_assets.foundation.errors import MlopsError
from mlops_assets.foundation.settings import load_settings, variable_names

SCENARIOS = (
    Scenario("errors", "a candidate that fails on some requests", "rolled_back", "failed requests", 120.0),
    Scenario("slow", "a candidate that gets slow", "rolled_back", "requests slower than", 120.0),
    Scenario("slice", "a candidate that is worse in one browser only", "rolled_back", "browser is webkit", 180.0),
    Scenario("better", "a better candidate", "completed", "", 420.0),
)
# What a server, its users and the ticks manage on two cores.
_RATE = 550.0
# An hour in 2.1 s: all four together are over before the clock's Friday, on which nothing advances.
_SPEED = 1700.0
_NICENESS = 10


def main() -> int:
    """Run the scenarios and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.rollout_demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=[one.name for one in SCENARIOS], help="one scenario instead of all")
    parser.add_argument("--seed", type=int, default=1, help="of the simulated users")
    arguments = parser.parse_args()
    # So that what runs is ended in the same way whoever ends this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    warnings.simplefilter("ignore")
    deployment = Deployment.create(_own_home(), variables={"MLOPS_SERVING_PORT": str(free_port())})
    logging.basicConfig(filename=deployment.settings.home / "demo.log", level=logging.WARNING)
    begun = time.monotonic()
    try:
        finished = _run(deployment, arguments.only, arguments.seed)
    except MlopsError as error:
        print(error, file=sys.stderr)
        return 1
    print()
    for one in finished:
        print(one)
    print(f"{time.monotonic() - begun:.0f} s in all")
    return 1 if any(one.problems for one in finished) else 0


def _own_home() -> Path:
    """The home of the user's settings, which are then left out of account: the demo has its own."""
    home = load_settings({name: os.environ.get(name, "") for name in ("MLOPS_HOME",)}).home
    for name in variable_names():
        os.environ.pop(name, None)
    return home


def _run(deployment: Deployment, only: str | None, seed: int) -> list[Finished]:
    """Train in the machine's time, and roll out in a faster one."""
    print(f"home: {deployment.settings.home}", flush=True)
    print(f"{lifecycle.make_champion(deployment)}: trained for a short time, approved, champion", flush=True)
    better = lifecycle.train_better(deployment)
    print("a better network is trained on the same data", flush=True)
    return roll_out(deployment.hurried(_SPEED), better, [one for one in SCENARIOS if only in {None, one.name}], seed)


def roll_out(
    deployment: Deployment, better: Mapping[str, Any], scenarios: Sequence[Scenario], seed: int
) -> list[Finished]:
    """Serve the champion, and let each candidate be made, judged and rolled out, one after another."""
    finished = []
    with server(deployment) as url:
        # The server is to be as fast as on a machine of its own, and not as its users and the ticks leave it.
        os.nice(_NICENESS)
        for number, scenario in enumerate(scenarios):
            model = better if scenario.name == "better" else with_defect(deployment, better, scenario.name)
            version = lifecycle.judge(deployment, model)
            print(f"\n{scenario.title}: {version}, evaluated and approved like every other", flush=True)
            with Users(deployment, url, seed=100 * seed + number, rate=_RATE) as users:
                finished.append(drive(deployment, scenario, version, users))
            print(f"  answers: {users.answers}", flush=True)
    return finished


if __name__ == "__main__":
    sys.exit(main())
