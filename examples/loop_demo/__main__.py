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
from collections.abc import Sequence
from pathlib import Path

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
    done = _side_by_side(names, home, arguments.seed)
    print()
    for _, words in done:
        print(words)
    print(f"{time.monotonic() - begun:.0f} s in all")
    return 0 if all(good for good, _ in done) else 1


def _side_by_side(names: Sequence[str], home: Path, seed: int) -> list[tuple[bool, str]]:
    """Run each deployment in a process of its own, which ends with this one however that ends."""
    context = multiprocessing.get_context("spawn")
    receivers = []
    for name in names:
        receiver, sender = context.Pipe(duplex=False)
        context.Process(target=run, args=(name, home, seed, sender), daemon=True).start()
        # The other end is the process's alone, so that its death is seen here.
        sender.close()
        receivers.append((name, receiver))
    done = []
    for name, receiver in receivers:
        try:
            done.append(receiver.recv())
        except EOFError:
            done.append((False, f"{name}: its process ended by itself; what it said is above"))
    return done


if __name__ == "__main__":
    sys.exit(main())
