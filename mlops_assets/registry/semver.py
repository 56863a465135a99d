"""Semantic versions of models: parse, order, bump. Who owns which version is `model_registry.py`'s business.

MAJOR is a new architecture, MINOR an improved training (every automated retraining), PATCH a fix; the first version
is 1.0.0.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mlops_assets.foundation.errors import InputError

Bump = Literal["major", "minor", "patch"]

_PATTERN = re.compile(r"v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", re.ASCII)


@dataclass(frozen=True, order=True)
class SemVer:
    """MAJOR.MINOR.PATCH, ordered by number (1.10.0 after 1.9.0); the canonical text has no `v`."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @classmethod
    def parse(cls, text: str) -> "SemVer":
        """Read `2.1.0` or `v2.1.0`.

        Raises:
            InputError: anything else, such as a registry's running number `3`.
        """
        match = _PATTERN.fullmatch(text.strip())
        if match is None:
            raise InputError(f"{text!r} is not a semantic version; write MAJOR.MINOR.PATCH, such as 2.1.0 or v2.1.0")
        major, minor, patch = (int(part) for part in match.groups())
        return cls(major, minor, patch)

    def bumped(self, bump: Bump) -> "SemVer":
        """Return the next version of the given kind; the numbers behind the bumped one start again at 0.

        Raises:
            InputError: `bump` is not major, minor or patch.
        """
        if bump == "major":
            return SemVer(self.major + 1, 0, 0)
        if bump == "minor":
            return SemVer(self.major, self.minor + 1, 0)
        if bump == "patch":
            return SemVer(self.major, self.minor, self.patch + 1)
        raise InputError(f"unknown version bump {bump!r}; choose major, minor or patch")


FIRST_VERSION = SemVer(1, 0, 0)


def next_version(taken: Iterable[SemVer], bump: Bump) -> SemVer:
    """Bump the highest version ever taken, whatever its stage, so that no two candidates share one; 1.0.0 when none is.

    Raises:
        InputError: `bump` is not major, minor or patch.
    """
    highest = max(taken, default=None)
    return FIRST_VERSION if highest is None else highest.bumped(bump)
