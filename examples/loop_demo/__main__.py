"""The loop closes by itself: served, drifted, found, trained, approved, rolled out, recovered, without a hand.

    python -m examples.loop_demo [--only drift|control] [--seed 1]

Two deployments of their own, side by side: in one the world changes after some hours, in the other it stays as it is. Each
has the agent `execution`, trained by the real lifecycle; the clock is set from hour to hour, so that a week takes minutes.
The exit code says whether all went as it should.
"""

import argparse
import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from examples.loop_demo.runs import RUNS, run
from mlops_assets.foundation.settings import load_settings, variable_names


def main() -> int:
    """Run it and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.loop_demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=RUNS, help="one of the two deployments")
    parser.add_argument("--seed", type=int, default=1, help="of the simulated users")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    home = load_settings({name: os.environ.get(name, "") for name in ("MLOPS_HOME",)}).home
    # The demo has deployments of its own: the user's settings are left out of account.
    for name in variable_names():
        os.environ.pop(name, None)
    names = [name for name in RUNS if arguments.only in {None, name}]
    begun = time.monotonic()
    with ProcessPoolExecutor(len(names), mp_context=multiprocessing.get_context("spawn")) as pool:
        done = list(pool.map(run, names, [home] * len(names), [arguments.seed] * len(names)))
    print()
    for _, words in done:
        print(words)
    print(f"{time.monotonic() - begun:.0f} s in all")
    return 0 if all(good for good, _ in done) else 1


if __name__ == "__main__":
    sys.exit(main())
