"""Which versions an experiment compares: in each arm, the one that was served first.

A champion or challenger that moves is another model, and says nothing of the one before. Decisions of such a time count in
no arm, since to leave out one arm's alone would break the split.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Versions:
    """`pinned`: arm to the version that is compared. `others`: arm to version to decisions while that one stood there."""

    pinned: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @classmethod
    def from_document(cls, document: Mapping[str, Any] | None) -> "Versions":
        """Return what `vars` gave; of None, that nothing is known."""
        return cls() if document is None else cls(document["pinned"], document["others"])

    def words(self) -> list[str]:
        """Say what was not counted, and what to do, a sentence for each arm whose version moved."""
        return [
            f"{arm}: version {self.pinned[arm]} is compared; {sum(counts.values()):,} decisions while {', '.join(counts)} "
            "stood there are not counted: for another version, create another experiment"
            for arm, counts in self.others.items()
        ]


def pin(found: "pd.DataFrame", known: Versions, cutoff: datetime) -> "tuple[pd.DataFrame, Versions]":
    """Return the decisions that count, and the versions, of which those that nobody had seen are pinned.

    Decisions after the cutoff are looked at again by the next look, and counted as another version's only there. One that
    does not say which versions stood there (`arms` is None, as before this was logged) counts.

    Args:
        found: decisions in their order of time, with `event_time` and `arms`.
        known: of the looks before.
        cutoff: of this look.
    """
    import pandas as pd

    pinned = dict(known.pinned)
    others = {arm: dict(counts) for arm, counts in known.others.items()}
    counts = []
    for moment, arms in zip(found["event_time"], found["arms"], strict=True):
        versions: Mapping[str, str] = {} if arms is None else arms["versions"]
        moved = [arm for arm, version in versions.items() if pinned.setdefault(arm, version) != version]
        counts.append(not moved)
        for arm in moved:
            if moment <= cutoff:
                of_arm = others.setdefault(arm, {})
                of_arm[versions[arm]] = of_arm.get(versions[arm], 0) + 1
    return found[pd.Series(counts, index=found.index, dtype=bool)], Versions(pinned, others)
