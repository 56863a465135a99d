"""Traffic of `rollout_drills.py`: users who come at random, draw an arm and keep it, and send requests that are alike."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
TICKS_AN_HOUR = 12


@dataclass(frozen=True)
class Traffic:
    """What comes, and how the champion does: rates are of requests, `alike` is the correlation of two requests of a user."""

    users_an_hour: float = 1000.0
    more_requests: float = 3.0
    errors: float = 0.005
    accuracy: float = 0.95
    alike: float = 0.2
    median_ms: float = 40.0
    users_spread: float = 0.3
    requests_spread: float = 0.5
    browsers: tuple[tuple[str, float], ...] = (("chromium", 0.6), ("firefox", 0.2), ("webkit", 0.2))


@dataclass(frozen=True)
class Candidate:
    """How a candidate differs from the champion: added errors, times the latency, times the accuracy, in one browser only.

    `machine`: by how much everything is slower once the candidate has all users.
    """

    name: str
    errors: float = 0.0
    latency: float = 1.0
    accuracy: float = 1.0
    browser: str | None = None
    machine: float = 1.0
    bad: bool = True


CANDIDATES = (
    Candidate("as good as the champion", bad=False),
    Candidate("as good, on a machine that is 1.5 times slower at 100 %", machine=1.5, bad=False),
    Candidate("errors +3 points", errors=0.03),
    Candidate("latency x 1.6", latency=1.6),
    Candidate("accuracy -6 %", accuracy=0.94),
    Candidate("accuracy -15 % in webkit alone", accuracy=0.85, browser="webkit"),
)


@dataclass(frozen=True)
class Arrivals:
    """Users of five minutes and their requests: (U,) by user, (R,) by request; `user` is a request's.

    `beside_*` are of the former champion's answer in the shadow, whose chances are its own.
    """

    draw: Float
    browser: NDArray[np.int64]
    first: NDArray[np.int64]
    user: NDArray[np.int64]
    failed: Float
    wrong: Float
    champion_ms: Float
    beside_wrong: Float
    beside_ms: Float


def arrivals(traffic: Traffic, random: np.random.Generator) -> Iterator[Arrivals]:
    """Everybody who comes, whatever is decided: the same seed brings the same users to every rule."""
    same = math.sqrt(traffic.alike)
    shares = np.cumsum([share for _, share in traffic.browsers])
    while True:
        users = int(random.poisson(traffic.users_an_hour / TICKS_AN_HOUR))
        requests = 1 + random.poisson(traffic.more_requests, users)
        user = np.repeat(np.arange(users), requests)

        def uniform(user: NDArray[np.int64] = user, users: int = users) -> Float:
            """One a request; two of a user are the same with the probability `alike`."""
            return np.where(random.random(len(user)) < same, random.random(users)[user], random.random(len(user)))

        by_user = traffic.users_spread * random.standard_normal(users)[user]
        spread = by_user + traffic.requests_spread * random.standard_normal(len(user))
        yield Arrivals(
            draw=random.random(users),
            browser=np.searchsorted(shares[:-1], random.random(users), side="right"),
            first=np.cumsum(requests) - requests,
            user=user,
            failed=uniform(),
            wrong=uniform(),
            champion_ms=traffic.median_ms * np.exp(spread),
            beside_wrong=uniform(),
            beside_ms=traffic.median_ms * np.exp(by_user + traffic.requests_spread * random.standard_normal(len(user))),
        )


@dataclass(frozen=True)
class Served:
    """Arrivals after they were served: by user, who had the candidate; by request, what came of it.

    `beside_*`: what came of the champion, asked beside it.
    """

    treated: NDArray[np.bool_]
    failed: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    ms: Float
    beside_wrong: NDArray[np.bool_]
    beside_ms: Float


def serve(come: Arrivals, share: float, traffic: Traffic, candidate: Candidate) -> Served:
    """Serve five minutes' users with a treatment share."""
    treated = come.draw < share
    names = [name for name, _ in traffic.browsers]
    here = np.array([candidate.browser in {None, name} for name in names])
    by_request = treated[come.user]
    worse = by_request & here[come.browser][come.user]
    accuracy = traffic.accuracy * np.where(worse, candidate.accuracy, 1.0)
    machine = candidate.machine if share == 1.0 else 1.0
    return Served(
        treated=treated,
        failed=come.failed < traffic.errors + np.where(worse, candidate.errors, 0.0),
        wrong=come.wrong < 1.0 - accuracy,
        ms=come.champion_ms * np.where(worse, candidate.latency, 1.0) * machine,
        beside_wrong=come.beside_wrong < 1.0 - traffic.accuracy,
        beside_ms=come.beside_ms * machine,
    )
