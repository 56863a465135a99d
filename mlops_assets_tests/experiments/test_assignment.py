"""Sticky assignment: uniform, salted, monotone in the share, the same everywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest

from mlops_assets.experiments.assignment import CONTROL, TREATMENT, assign, assignment_fraction

USERS = [f"user-{i}" for i in range(20_000)]


# n=$(printf '%s\0%s' SALT USER | sha256sum | cut -c1-16 | tr a-f A-F); echo "scale=18; ibase=16; x=$n; ibase=A; x/2^64" | bc
VECTORS = [
    ("salt", "user-1", 0.204310167462937730),
    ("checkout", "user-17", 0.384133639820836836),
    ("a", "bc", 0.252858429582757576),
    ("ab", "c", 0.421923541257660979),
    ("salt", "ünï", 0.878679149266291009),
    ("", "", 0.430481649236481725),
]


@pytest.mark.parametrize(("salt", "user", "fraction"), VECTORS)
def test_vectors(salt: str, user: str, fraction: float) -> None:
    """A proxy that implements the formula puts a user into another arm than the server."""
    assert assignment_fraction(salt, user) == pytest.approx(fraction, rel=0, abs=2**-52)
    assert assign(salt, user, fraction + 1e-9) == TREATMENT
    assert assign(salt, user, fraction - 1e-9) == CONTROL


def test_fractions_are_uniform_and_salts_independent() -> None:
    """A share of 5 % takes 7 %, or two experiments share their users."""
    fractions = [assignment_fraction("a", user) for user in USERS]
    assert kstest(fractions, "uniform").pvalue > 1e-3
    both = sum(assign("a", user, 0.5) == assign("b", user, 0.5) for user in USERS)
    assert binomtest(both, len(USERS), 0.5).pvalue > 1e-3
    for share in (0.001, 0.05, 0.5):
        treated = sum(assign("a", user, share) == TREATMENT for user in USERS)
        assert binomtest(treated, len(USERS), share).pvalue > 1e-3


@given(st.text(max_size=20), st.text(max_size=100), st.floats(0, 1), st.floats(0, 1))
def test_a_ramp_only_adds_and_a_rollback_returns(salt: str, user: str, low: float, high: float) -> None:
    """A user flips between models while the share grows (B-37)."""
    low, high = min(low, high), max(low, high)
    if assign(salt, user, low) == TREATMENT:
        assert assign(salt, user, high) == TREATMENT
    assert assign(salt, user, low) == assign(salt, user, low)
    assert assign(salt, user, 0.0) == CONTROL
    assert assign(salt, user, 1.0) == TREATMENT
    assert 0.0 <= assignment_fraction(salt, user) < 1.0


def test_salt_and_user_are_kept_apart() -> None:
    """("a", "bc") and ("ab", "c") are one user."""
    assert assignment_fraction("a", "bc") != assignment_fraction("ab", "c")
