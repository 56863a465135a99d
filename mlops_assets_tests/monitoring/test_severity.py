"""One scale: what every source calls bad is as bad everywhere."""

from typing import get_args

import pytest

from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.policies import SeverityName
from mlops_assets.monitoring.severity import ALIASES, Severity, severity_of


@pytest.mark.parametrize(
    ("word", "severity"),
    [
        ("high", "CRITICAL"),
        ("medium", "WARNING"),
        ("warning", "WARNING"),
        ("MONITOR", "INFO"),
        (" Critical ", "CRITICAL"),
        ("minor", "INFO"),
        ("OK", None),
        ("no drift", None),
        ("No-Drift", None),
    ],
)
def test_words_of_the_sources(word: str, severity: str | None) -> None:
    """A "high" that is nobody's CRITICAL pages nobody."""
    assert severity_of(word) == severity


def test_an_unknown_word_is_refused() -> None:
    """A misspelt severity becomes INFO, and the night is quiet."""
    with pytest.raises(InputError, match=r"'critcal' is no severity; use INFO, WARNING or CRITICAL, or one of ok"):
        severity_of("critcal")


def test_the_scale_is_the_policies() -> None:
    """A severity that no profile routes is told to nobody."""
    assert tuple(Severity) == get_args(SeverityName)
    assert sorted(Severity, key=lambda one: one.rank) == ["INFO", "WARNING", "CRITICAL"]
    assert {severity_of(name) for name in Severity} == set(Severity)
    assert set(Severity) < set(ALIASES.values()) | {None}
