"""The simulated users' own process: requests at a rate, and what came of the answers some clock minutes later.

    python -m examples.rollout_demo.traffic --url http://127.0.0.1:8000 --rate 400 --seed 1

Prints a line once the first is answered. On its standard input, `later` makes it later in the users' world, and `calm` lets
fewer of them ask; where the input ends, it does, and prints how many answers of each status there were.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

import aiohttp

from examples.rollout_demo.users import Crowd, Question
from mlops_assets.experiences.sources import simulator_config
from mlops_assets.foundation.clock import Clock, deployment_clock
from mlops_assets.foundation.settings import load_settings

# Outcomes are known so many clock minutes after the answer.
_DELAY_MINUTES = (15.0, 45.0)
# Requests that wait for their answers. Where the machine stops for a moment, that is some minutes of the fast clock, in which
# hundreds would meet a server that is slow through no fault of its version.
_MOST_WAITING, _MOST_WAITING_CALM = 6, 2
_POST_SECONDS = 0.2
_POSTED_AT_ONCE = 250
# Until an answer is in the log, nobody can tell its outcome.
_LOGGED_SECONDS = 0.4
_MOST_WORDS = 300


@dataclass
class Traffic:
    """One run of it.

    Args:
        url: of the server.
        clock: of the deployment.
        crowd: who asks.
        rate: requests a second.
    """

    url: str
    clock: Clock
    crowd: Crowd
    rate: float
    later: bool = False
    most_waiting: int = _MOST_WAITING
    answers: Counter[str] = field(default_factory=Counter)
    _outcomes: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)
    _asked: int = 0

    def calm_down(self) -> None:
        """Let half as many ask, and fewer at a time."""
        self.rate /= 2
        self.most_waiting = _MOST_WAITING_CALM

    async def run(self, ended: asyncio.Event) -> None:
        """Ask until `ended`."""
        connector = aiohttp.TCPConnector(limit=_MOST_WAITING)
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(self.url, connector=connector, timeout=timeout) as session:
            telling = asyncio.create_task(self._tell(session, ended))
            waiting: set[asyncio.Task[None]] = set()
            due = time.monotonic()
            while not ended.is_set():
                if len(waiting) < self.most_waiting:
                    task = asyncio.create_task(self._ask(session))
                    waiting.add(task)
                    task.add_done_callback(waiting.discard)
                # What a busy machine could not ask in time is not asked at all.
                due = max(due + 1.0 / self.rate, time.monotonic() - 0.1)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            await asyncio.gather(*waiting, telling)

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        question = self.crowd.ask(later=self.later)
        try:
            async with session.post("/predict", json=question.request) as answer:
                document = await answer.json()
        except aiohttp.ClientError as error:
            self.answers[type(error).__name__] += 1
            return
        if not self.answers:
            print("asking", flush=True)
        self.answers[str(answer.status)] += 1
        if answer.status == 200:  # noqa: PLR2004 - as HTTP says it
            self._note(question, document)

    def _note(self, question: Question, document: dict[str, Any]) -> None:
        minutes = random.uniform(*_DELAY_MINUTES)  # noqa: S311 - a simulation
        due = time.monotonic() + max(_LOGGED_SECONDS, 60.0 * minutes / self.clock.speed)
        outcome = {
            "prediction_id": document["prediction_id"],
            "reward": question.rewards[document["action"]],
            "done": True,
            "best_action": question.best_action,
            "action_values": question.action_values,
        }
        self._asked += 1
        heappush(self._outcomes, (due, self._asked, outcome))

    async def _tell(self, session: aiohttp.ClientSession, ended: asyncio.Event) -> None:
        while not ended.is_set():
            told: list[dict[str, Any]] = []
            while self._outcomes and self._outcomes[0][0] <= time.monotonic() and len(told) < _POSTED_AT_ONCE:
                told.append(heappop(self._outcomes)[2])
            if not told:
                await asyncio.sleep(_POST_SECONDS)
                continue
            async with session.post("/outcomes", json={"outcomes": told}) as answer:
                self.answers[f"outcomes {answer.status}"] += 1
                if answer.status >= 400:  # noqa: PLR2004 - as HTTP says it
                    print((await answer.text())[:_MOST_WORDS], file=sys.stderr)
                    await self._again(told)

    async def _again(self, told: list[dict[str, Any]]) -> None:
        """One of them is not in the log yet: all are told once more in a moment."""
        due = time.monotonic() + _LOGGED_SECONDS
        for outcome in told:
            self._asked += 1
            heappush(self._outcomes, (due, self._asked, outcome))
        await asyncio.sleep(_POST_SECONDS)


async def _until_input_ends(traffic: Traffic) -> None:
    ended = asyncio.Event()
    running = asyncio.create_task(traffic.run(ended))
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if line == "later":
            traffic.later = True
        elif line == "calm":
            traffic.calm_down()
    ended.set()
    await running


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    settings = load_settings()
    clock = deployment_clock(settings.clock)
    crowd = Crowd(simulator_config(settings), seed=arguments.seed)
    traffic = Traffic(arguments.url, clock, crowd, arguments.rate)
    asyncio.run(_until_input_ends(traffic))
    print(json.dumps(traffic.answers))


if __name__ == "__main__":
    main()
