"""How bad an alert is: one scale, and what other scales call the same."""

from collections.abc import Mapping
from enum import StrEnum

from mlops_assets.foundation.errors import InputError


class Severity(StrEnum):
    """INFO: somebody may want to know. WARNING: somebody has to look today. CRITICAL: now."""

    INFO = "INFO"
    WARNING = "WARNING"
    CRITICAL = "CRITICAL"

    @property
    def rank(self) -> int:
        """Greater is worse."""
        return list(Severity).index(self)


# What the sources, drift verdicts, Python's logging, PagerDuty and Sentry call them. None: there is nothing to tell.
ALIASES: Mapping[str, Severity | None] = {
    "ok": None,
    "none": None,
    "no_drift": None,
    "healthy": None,
    "normal": None,
    "pass": None,
    "debug": None,
    "info": Severity.INFO,
    "information": Severity.INFO,
    "notice": Severity.INFO,
    "low": Severity.INFO,
    "minor": Severity.INFO,
    "monitor": Severity.INFO,
    "warning": Severity.WARNING,
    "warn": Severity.WARNING,
    "medium": Severity.WARNING,
    "moderate": Severity.WARNING,
    "degraded": Severity.WARNING,
    "retrain": Severity.WARNING,
    "error": Severity.CRITICAL,
    "high": Severity.CRITICAL,
    "major": Severity.CRITICAL,
    "severe": Severity.CRITICAL,
    "critical": Severity.CRITICAL,
    "urgent": Severity.CRITICAL,
    "fatal": Severity.CRITICAL,
    "emergency": Severity.CRITICAL,
    "page": Severity.CRITICAL,
}


def severity_of(word: str) -> Severity | None:
    """Return the severity that a word of any scale stands for, None where it says that all is well.

    Raises:
        InputError: the word is of no known scale; the message lists those that are.
    """
    name = word.strip().casefold().replace(" ", "_").replace("-", "_")
    if name not in ALIASES:
        raise InputError(f"{word!r} is no severity; use INFO, WARNING or CRITICAL, or one of {', '.join(ALIASES)}")
    return ALIASES[name]
