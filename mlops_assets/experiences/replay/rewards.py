"""Exact counterfactual rewards of a CI cycle whose verdicts are known.

The potential of a prefix of decisions is 100 x NAPFD of the schedule made of the tests decided so far, with the number
of tests, the failures and the budget of the whole cycle. A decision's reward is the potential's growth, so the rewards
of a cycle add up to 100 x its NAPFD. Not here: what the agent sees, and what behaviour was logged.
"""

from bisect import insort
from enum import IntEnum
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from mlops_assets.experiences.napfd import detection, order_by, time_budget

_LANES_TIMES_TESTS: Final = 1 << 22
"""Largest class matrix evaluated at once (one byte an entry); longer cycles are evaluated in pieces."""


class PriorityClass(IntEnum):
    """The execution agent's actions: the schedule runs class HIGH first, LOW last; SKIP does not run."""

    SKIP = 0
    LOW = 1
    NORMAL = 2
    HIGH = 3


RUN_ORDER: Final = (PriorityClass.HIGH, PriorityClass.NORMAL, PriorityClass.LOW)
_LANES_A_STEP: Final = len(PriorityClass) + 1
_PREFERENCE: Final = np.array([PriorityClass.LOW, PriorityClass.SKIP, PriorityClass.NORMAL, PriorityClass.HIGH])
"""Which of equally good classes is the label: run last what costs nothing, else not at all, early only if it pays."""


def best_class(action_values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the labelled best action, (...,), of exact action values, (..., 4); ties go to LOW, SKIP, NORMAL, HIGH."""
    return _PREFERENCE[np.argmax(action_values[..., _PREFERENCE], axis=-1)].astype(np.int64)


class PricedCycle(Protocol):
    """What a cycle's price depends on, (n,) each in row order: its outcome, and what the order within a class needs."""

    @property
    def durations(self) -> NDArray[np.float64]:
        """What each test took, ms."""
        ...

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Whether each test failed."""
        ...

    @property
    def failure_rate_recent(self) -> NDArray[np.float64]:
        """Recency-weighted failure rate known before the cycle."""
        ...

    @property
    def expected_durations(self) -> NDArray[np.float64]:
        """Duration known before the cycle; only its order counts, so any unit will do."""
        ...


def seat_order(failure_rate_recent: NDArray[np.float64], expected_durations: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the rows of a cycle, (n,), as tests of one class run: failing often first, then short ones, then by row."""
    return order_by(failure_rate_recent, -expected_durations)


class CycleOutcome:
    """One cycle's verdicts, ready to price any assignment of its tests to classes.

    Within a class, tests run by recency-weighted failure rate (high first), then expected duration (short first), then
    row order: all known before the cycle, so a class is a schedule. "Seats" are positions in that order.

    The value of an action is the return when all later decisions are taken with the verdicts known: failing tests HIGH,
    passing ones not run. While the failures fit the budget no completion is better, as only passing tests before a
    failure cost rank. Where the remaining failures do not all fit beside what is already HIGH, two completions are
    priced and the better one counts: all of them, and the shortest that fit (the most that the free time can hold).
    """

    def __init__(self, cycle: PricedCycle) -> None:
        self.seat_order = seat_order(cycle.failure_rate_recent, cycle.expected_durations)
        self.seats = np.empty_like(self.seat_order)
        self.seats[self.seat_order] = np.arange(len(self.seats))
        self.durations = cycle.durations[self.seat_order]
        self.failed = cycle.failed[self.seat_order]
        self.budget = time_budget(cycle.durations)
        failures = int(cycle.failed.sum())
        self.scale = 100.0 / (len(self.seats) * failures) if failures else 0.0
        failing = np.flatnonzero(self.failed)
        self.failing_seats = failing[np.argsort(self.durations[failing], kind="stable")]

    def detections(self, classes: NDArray[np.int8]) -> NDArray[np.float64]:
        """Price many assignments at once.

        Args:
            classes: (n, L) class of the test on each seat, per assignment.

        Returns:
            (L,) `n m NAPFD`: the sum of `n - rank + 1/2` over scheduled failures.
        """
        tests, lanes = classes.shape
        left = np.full(lanes, self.budget)
        gain = np.full(lanes, tests + 0.5)
        total = np.zeros(lanes)
        for priority in RUN_ORDER:
            chosen = classes == priority
            # Prefixes are nested: a seat is chosen in one span of assignments, and only that span is worked on.
            first = chosen.argmax(axis=1).tolist()
            last = (lanes - chosen[:, ::-1].argmax(axis=1)).tolist()
            for seat in np.flatnonzero(chosen.any(axis=1)).tolist():
                span = slice(first[seat], last[seat])
                fits = chosen[seat, span]
                fits &= left[span] >= self.durations[seat]
                left[span] -= fits * self.durations[seat]
                gain[span] -= fits
                if self.failed[seat]:
                    total[span] += fits * gain[span]
        return total

    def replay(
        self, order: NDArray[np.int64], actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Price one logged pass through the cycle.

        Args:
            order: (n,) rows of the cycle in the order of presentation.
            actions: (n,) class logged at each step.

        Returns:
            rewards (n,) and exact action values (n, 4), per step, in points of NAPFD (0..100).
        """
        tests = len(order)
        if self.scale == 0.0:
            return np.zeros(tests), np.zeros((tests, len(PriorityClass)))
        seats = self.seats[order]
        step_of_seat = np.empty(tests, dtype=np.int64)
        step_of_seat[seats] = np.arange(tests)
        logged = actions[step_of_seat].astype(np.int8)
        before = np.empty(tests)
        values = np.empty((tests, len(PriorityClass)))
        piece = max(1, _LANES_TIMES_TESTS // (tests * _LANES_A_STEP))
        for start in range(0, tests, piece):
            steps = np.arange(start, min(start + piece, tests))
            lane_steps = np.repeat(steps, _LANES_A_STEP)
            classes = np.where(step_of_seat[:, None] < lane_steps, logged[:, None], np.int8(PriorityClass.SKIP))
            for action in PriorityClass:
                classes[seats[steps], np.arange(action, len(lane_steps), _LANES_A_STEP)] = action
            found = self._completed(classes, step_of_seat, lane_steps).reshape(-1, _LANES_A_STEP)
            before[steps] = found[:, -1]
            values[steps] = found[:, :-1] - found[:, -1:]
        complete = self.detections(logged[:, None])
        return np.diff(before, append=complete) * self.scale, values * self.scale

    def _completed(
        self, classes: NDArray[np.int8], step_of_seat: NDArray[np.int64], lane_steps: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the detections, (L,), of prefixes completed with the failing tests decided after `lane_steps`.

        The last lane of every step stays as it is: it prices the prefix before the step.
        """
        free = self.budget - self.durations @ (classes == PriorityClass.HIGH)
        later = step_of_seat[self.failing_seats][:, None] > lane_steps
        later[:, _LANES_A_STEP - 1 :: _LANES_A_STEP] = False
        load = np.cumsum(later * self.durations[self.failing_seats][:, None], axis=0)
        fitting = later & (load <= free)
        decided = classes[self.failing_seats]
        classes[self.failing_seats] = np.where(fitting, np.int8(PriorityClass.HIGH), decided)
        found = self.detections(classes)
        crowded = np.flatnonzero((later & ~fitting).any(axis=0))
        if len(crowded):
            classes = classes[:, crowded]
            classes[self.failing_seats] = np.where(later[:, crowded], np.int8(PriorityClass.HIGH), decided[:, crowded])
            found[crowded] = np.maximum(found[crowded], self.detections(classes))
        return found


class CycleSchedule:
    """The decisions taken so far in one replayed cycle; the step-by-step twin of `CycleOutcome.replay`."""

    def __init__(self, outcome: CycleOutcome) -> None:
        self._outcome = outcome
        self._durations: list[float] = outcome.durations.tolist()
        self._failed: list[bool] = outcome.failed.tolist()
        self._members: dict[int, list[int]] = {int(priority): [] for priority in RUN_ORDER}
        self._decided = [False] * len(self._durations)
        self._potential = 0.0

    def assign(self, seat: int, action: int) -> float:
        """Give the test on `seat` a class and return the reward, in points of NAPFD."""
        self._decided[seat] = True
        if action == PriorityClass.SKIP:
            return 0.0
        insort(self._members[action], seat)
        before, self._potential = self._potential, self._detection(self._members)
        return (self._potential - before) * self._outcome.scale

    def action_values(self, seat: int) -> NDArray[np.float64]:
        """Return the exact values, (4,), of the classes for the test on `seat`, in points of NAPFD."""
        later = [other for other in self._outcome.failing_seats.tolist() if not self._decided[other] and other != seat]
        return np.array([self._completed(seat, action, later) - self._potential for action in PriorityClass]) * (
            self._outcome.scale
        )

    def _completed(self, seat: int, action: int, later: list[int]) -> float:
        members = {
            priority: [*seats, seat] if priority == action else list(seats) for priority, seats in self._members.items()
        }
        free = self._outcome.budget - sum(self._durations[other] for other in members[PriorityClass.HIGH])
        fitting = 0
        for other in later:
            free -= self._durations[other]
            if free < 0.0:
                break
            fitting += 1
        found = self._detection(_with_high(members, later[:fitting]))
        return found if fitting == len(later) else max(found, self._detection(_with_high(members, later)))

    def _detection(self, members: dict[int, list[int]]) -> float:
        order = [seat for priority in RUN_ORDER for seat in members[priority]]
        return detection(order, self._durations, self._failed, self._outcome.budget)


def _with_high(members: dict[int, list[int]], more: list[int]) -> dict[int, list[int]]:
    high = members[PriorityClass.HIGH] + more
    return {priority: sorted(high if priority == PriorityClass.HIGH else seats) for priority, seats in members.items()}
