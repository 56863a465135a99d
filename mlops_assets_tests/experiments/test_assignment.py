"""Sticky assignment: uniform, salted, monotone in the share, the same everywhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest

from mlops_assets.experiments.assignment import (
    CONTROL,
    TREATMENT,
    assign,
    assignment_fraction,
    chances,
    intervals,
)
from mlops_assets.foundation.errors import InputError

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


@st.composite
def splits(draw: st.DrawFn) -> dict[str, float]:
    """Shares of two treatments, of 1 together at most."""
    first = draw(st.floats(0, 1))
    return {"challenger": first, "shadow": draw(st.floats(0, 1.0 - first))}


@given(st.text(max_size=20), st.text(max_size=100), splits(), splits())
def test_growth_of_one_treatment_moves_no_user_of_another(
    salt: str, user: str, one: dict[str, float], other: dict[str, float]
) -> None:
    """A user of the second treatment comes into the first while that is ramped, and belongs to neither."""
    before, after = assign(salt, user, one), assign(salt, user, other)
    for arm, share in one.items():
        # As long as its own share does not shrink, whatever the other's does.
        if before == arm and other[arm] >= share:
            assert after == arm
    if all(other[arm] <= one[arm] for arm in one) and before == CONTROL:
        assert after == CONTROL


@given(st.text(max_size=20), st.text(max_size=100), splits())
def test_each_treatment_is_where_it_would_be_alone(salt: str, user: str, shares: dict[str, float]) -> None:
    """Two implementations of one split; or a treatment that depends on what is tested beside it."""
    found = assign(salt, user, shares)
    assert assign(salt, user, {TREATMENT: shares["challenger"]}) == assign(salt, user, shares["challenger"])
    assert (found == "challenger") == (assign(salt, user, shares["challenger"]) == TREATMENT)
    low, high = intervals(shares)["shadow"]
    assert (found == "shadow") == (low <= assignment_fraction(salt, user) < high)


def test_shares_are_what_was_set_and_a_third_treatment_is_refused() -> None:
    """Two treatments of a tenth each take a tenth together; or a third takes its users from the others."""
    shares = {"challenger": 0.1, "shadow": 0.25}
    found = [assign("salt", user, shares) for user in USERS]
    for arm, share in {**shares, CONTROL: 0.65}.items():
        assert binomtest(found.count(arm), len(USERS), share).pvalue > 1e-3
    fraction = assignment_fraction("salt", "user-1")
    assert [assign("salt", "user-1", {"a": 0.0, "b": 1.0 - fraction + more}) for more in (-1e-9, 1e-9)] == [
        CONTROL,
        "b",
    ]
    with pytest.raises(InputError, match="a, b, c are 3 treatments; 2 at most"):
        assign("salt", "user-1", {"a": 0.1, "b": 0.1, "c": 0.1})


@given(st.lists(splits(), min_size=1, max_size=4))
def test_chances_are_those_of_the_assignment(stages: list[dict[str, float]]) -> None:
    """The bets' odds are not those with which users were drawn: after a ramp a fair split looks broken, or harm is made up."""
    fractions = (np.arange(20_000) + 0.5) / 20_000
    *earlier, now = stages

    def within(shares: dict[str, float], arm: str) -> np.ndarray:
        low, high = intervals(shares)[arm]
        return (low <= fractions) & (fractions < high)

    free = ~np.any([within(shares, arm) for shares in earlier for arm in shares] or [np.zeros(20_000, bool)], axis=0)
    before = {arm: max(shares[arm] for shares in earlier) for arm in now} if earlier else {}
    if sum(before.values()) > 0.99:
        return
    found = chances(now, before)
    control = (free & ~within(now, "challenger") & ~within(now, "shadow")).sum()
    for arm in now:
        treated = (free & within(now, arm)).sum()
        if treated + control > 50:
            assert found.get(arm, 0.0) == pytest.approx(treated / (treated + control), abs=3 / (treated + control))


@given(st.floats(0, 0.999), st.floats(0.001, 1))
def test_with_one_treatment_the_chance_is_the_known_one(before: float, more: float) -> None:
    """Users of experiments under way are counted with other odds than before."""
    share = min(1.0, before + more)
    assert chances({TREATMENT: share}, {TREATMENT: before}) == {TREATMENT: (share - before) / (1.0 - before)}
    assert chances({TREATMENT: share}, {}) == {TREATMENT: share}
    assert chances({TREATMENT: before}, {TREATMENT: share}) == {}
