"""One deployment of the demo from nothing to its story. A process of its own runs it, so that two take two cores."""

import logging
import signal
import sys
import time
import warnings
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from examples.loop_demo.loop import Loop
from examples.rollout_demo import lifecycle
from examples.rollout_demo.deployment import Deployment
from mlops_assets.experiences.sources import simulator_config
from mlops_assets.foundation.errors import MlopsError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

RUNS = ("drift", "control")
FOLDER = "demo-loop"
_SWITCH_SECONDS = 0.0005
# The newest hours are compared with the same hours of the day before, which have to be there.
_CHANGE_AFTER_HOURS = 25
_MOST_HOURS = {"drift": 190, "control": 54}
# Without exploration nothing is learnt of other actions than those that are taken.
_SETTINGS = {"MLOPS_EXPLORATION_EPSILON": "0.2", "MLOPS_SERVING_CLOCK": "system"}
# Weekly trainings are on Sundays at two: the control run has one in the end, and the other begins when it is over, since no
# drift is answered while the rollout of a scheduled training is under way.
_BEGINS = {"drift": (6, 3), "control": (4, 0)}


def run(name: str, home: Path, seed: int, sender: "Connection") -> None:
    """Run one of `RUNS`, and send whether all was as it should be, and in words."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sender.send(_story_of(name, home, seed))


def _story_of(name: str, home: Path, seed: int) -> tuple[bool, str]:
    """Make a champion and let the hours go by."""
    begun = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        deployment = Deployment.create(home / FOLDER, folder=name, variables=_SETTINGS)
        logging.basicConfig(filename=deployment.settings.home / "demo.log", level=logging.WARNING)
        # As the server has it: shadows in a thread of their own must not keep answers waiting.
        sys.setswitchinterval(_SWITCH_SECONDS)
        try:
            champion = lifecycle.make_champion(deployment)
            print(f"{name:8}  {champion}: trained for a short time, approved, champion", flush=True)
            change = _CHANGE_AFTER_HOURS if name == "drift" else None
            begin = _begin(simulator_config(deployment.settings).end, name)
            story = Loop(deployment, begin, change, _MOST_HOURS[name], seed).run()
        except MlopsError as error:
            return False, f"{name}: {error}"
        picture = deployment.settings.home / "accuracy.png"
        story.draw(picture)
    return not story.problems(), story.summary(time.monotonic() - begun, picture)


def _begin(end_of_data: datetime, name: str) -> datetime:
    weekday, hour = _BEGINS[name]
    return end_of_data + timedelta(days=(weekday - end_of_data.weekday()) % 7, hours=hour)
