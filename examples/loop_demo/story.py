"""What happened in a run of the loop: its timeline, a picture of it, and whether it went as it should."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np

from mlops_assets.foundation.files import atomic_write
from mlops_assets.monitoring.drawing import as_png, new_figure

Kind = Literal["change", "drift", "alert", "training", "version", "rollout"]
_COLOURS: dict[Kind, str] = {"change": "C3", "drift": "C1", "training": "C4", "version": "C5", "rollout": "C2"}
# Hours after the end, and before the change, over which accuracy is taken.
SETTLED_HOURS = 6
# As the service levels have it: within 2 % of what it was.
_WITHIN = 0.02


@dataclass(frozen=True)
class Event:
    """One thing that happened."""

    at: datetime
    kind: Kind
    words: str

    def __str__(self) -> str:
        """Say it in a line."""
        return f"  {self.at:%a %d %b %H:%M}  {self.kind:8} {self.words}"


@dataclass
class Story:
    """A run of the loop from `begin` on; `accuracy` and `verdicts` by hour, `changed_at` None where the world stays as it is."""

    name: str
    begin: datetime
    changed_at: datetime | None
    events: list[Event] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    triggers: list[str] = field(default_factory=list)
    champions: list[str] = field(default_factory=list)

    def happened(self, at: datetime, kind: Kind, words: str) -> None:
        """Note and print it."""
        self.events.append(Event(at, kind, words))
        print(f"{self.name:8}{self.events[-1]}", flush=True)

    @property
    def baseline(self) -> float:
        """Accuracy before the world changed."""
        hours = len(self.accuracy) if self.changed_at is None else self._hour(self.changed_at)
        return float(np.mean(self.accuracy[:hours]))

    @property
    def last(self) -> float:
        """Accuracy of the last hours."""
        return float(np.mean(self.accuracy[-SETTLED_HOURS:]))

    def problems(self) -> list[str]:
        """What is not as it should be."""
        return self._of_control() if self.changed_at is None else self._of_drift(self.changed_at)

    def draw(self, path: Path) -> None:
        """Draw accuracy over time with the events on it."""
        from matplotlib.dates import date2num

        figure = new_figure(4.5)
        axes = figure.subplots()
        axes.step(np.array(self._times(), dtype="datetime64[s]"), self.accuracy, where="post", color="C0")
        axes.axhline(self.baseline * (1 - _WITHIN), color="black", linestyle=":", label="2 % below the baseline")
        shown: set[Kind] = set()
        for event in self.events:
            if event.kind in _COLOURS:
                label = None if event.kind in shown else event.kind
                axes.axvline(float(date2num(event.at)), color=_COLOURS[event.kind], linewidth=0.8, label=label)
                shown.add(event.kind)
        axes.set_ylabel("share of decisions that were the best")
        axes.set_xlabel("time of the simulation, UTC")
        axes.legend(loc="lower right", fontsize="small")
        figure.suptitle(f"{self.name}: from {self.champions[0]} to {self.champions[-1]}")
        with atomic_write(path) as temporary:
            temporary.write_bytes(as_png(figure))

    def summary(self, seconds: float, picture: Path) -> str:
        """Say in a line what came of it."""
        found = self.problems()
        verdict = "as it should" if not found else f"NOT as it should: {'; '.join(found)}"
        return (
            f"{self.name}: {len(self.accuracy)} h in {seconds:.0f} s, champion {self.champions[0]} -> {self.champions[-1]}, "
            f"accuracy {self.baseline:.3f} before, {min(self.accuracy):.3f} at worst, {self.last:.3f} in the end; trainings: "
            f"{', '.join(self.triggers) or 'none'}; {verdict}; {picture}"
        )

    def _of_drift(self, changed_at: datetime) -> list[str]:
        hour = self._hour(changed_at)
        false = [verdict for verdict in self.verdicts[:hour] if verdict in {"warning", "critical"}]
        found = [f"{len(false)} alarms before the change"] if false else []
        first = self.verdicts[hour] if len(self.verdicts) > hour else "none"
        found += [] if first == "critical" else [f"the next check said {first}"]
        found += [] if {"drift", "accuracy_drop"} & set(self.triggers) else ["no training was asked for by drift"]
        found += [] if self.champions[-1] != self.champions[hour] else ["the champion is still the same"]
        rolled_out = any(
            one.kind == "rollout" and "completed" in one.words for one in self.events if one.at > changed_at
        )
        found += [] if rolled_out else ["no rollout was completed"]
        lost = 1.0 - self.last / self.baseline
        return found + ([] if lost <= _WITHIN else [f"accuracy is {lost:.1%} below what it was"])

    def _of_control(self) -> list[str]:
        false = [verdict for verdict in self.verdicts if verdict in {"warning", "critical"}]
        found = [f"{len(false)} alarms without a change"] if false else []
        others = sorted(set(self.triggers) - {"schedule"})
        found += [f"trainings were asked for by {', '.join(others)}"] if others else []
        scheduled = self.triggers.count("schedule")
        return found + ([] if scheduled == 1 else [f"{scheduled} scheduled trainings, not the week's one"])

    def _hour(self, at: datetime) -> int:
        return round((at - self.begin) / timedelta(hours=1))

    def _times(self) -> Sequence[datetime]:
        return [(self.begin + timedelta(hours=hour)).replace(tzinfo=None) for hour in range(len(self.accuracy))]
