"""Bets: fair whatever is expected, the known one for equal rates, the same for one as for many."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.experiments.bets import Limit, bet, bets

RATE = st.floats(0.0, 1.0)
SHARE = st.floats(0.001, 0.999)
LIMITS = st.builds(Limit, ratio=st.floats(0.5, 3.0), delta=st.floats(-0.2, 0.2), above=st.booleans())


def expectation(limit: Limit, share: float, expected: tuple[float, float], true: tuple[float, float]) -> float:
    """What a bet on the expected rates pays on average when the true ones hold."""
    a_c, b_c, a_t, b_t = bet(limit, share, *expected)
    return (1.0 - share) * (a_c + b_c * true[0]) + share * (a_t + b_t * true[1])


@given(limit=LIMITS, share=SHARE, expected=st.tuples(RATE, RATE), control=RATE, within=RATE)
def test_no_bet_wins_on_average_while_the_limit_is_kept(
    limit: Limit, share: float, expected: tuple[float, float], control: float, within: float
) -> None:
    """A bet that gains under the null makes false alarms of patience alone; no plan or estimate may change that."""
    bound = limit.ratio * control + limit.delta
    low, high = (max(0.0, bound), 1.0) if limit.above else (0.0, min(1.0, bound))
    if low > high:
        return
    treatment = low + within * (high - low)
    assert expectation(limit, share, expected, (control, treatment)) <= 1.0 + 1e-9


@given(limit=LIMITS, share=SHARE, expected=st.tuples(RATE, RATE))
def test_no_bet_can_lose_more_than_its_stake(limit: Limit, share: float, expected: tuple[float, float]) -> None:
    """Negative wealth is no evidence, and its logarithm is no number."""
    a_c, b_c, a_t, b_t = bet(limit, share, *expected)
    assert min(a_c, a_c + b_c, a_t, a_t + b_t) > 0.0


@given(share=SHARE, control=st.floats(0.001, 0.998), more=st.floats(0.001, 0.5))
def test_for_equal_rates_the_bet_is_the_known_one(share: float, control: float, more: float) -> None:
    """Turner, Ly and Grünwald have the nearest null of equal rates in closed form: the mean of both by their shares."""
    treatment = min(0.999, control + more)
    a_c, b_c, a_t, b_t = bet(Limit(), share, control, treatment)
    middle = (1.0 - share) * control + share * treatment
    known = ((1 - control) / (1 - middle), control / middle, (1 - treatment) / (1 - middle), treatment / middle)
    assert (a_c, a_c + b_c, a_t, a_t + b_t) == pytest.approx(known, rel=1e-4)


@given(
    limit=LIMITS | st.builds(Limit, st.just(0.0), st.floats(0.01, 0.9), st.booleans()),
    share=st.floats(0.01, 0.9),
    expected=st.tuples(st.floats(0.001, 0.95), st.floats(0.001, 0.95)),
)
def test_one_bet_is_as_many_at_once_are(limit: Limit, share: float, expected: tuple[float, float]) -> None:
    """Two roots of the same distance, Newton's and the bisection's; users are bet on with the one, simulated with the other."""
    one, many = bet(limit, share, *expected), tuple(float(side) for side in bets(limit, share, *expected))
    # With a side close to 0, and on the limit itself, the last bits say whether there is a bet.
    if min(one[0] + one[1], one[2] + one[3], many[0] + many[1], many[2] + many[3]) > 1e-4:
        assert one == pytest.approx(many, rel=1e-6, abs=1e-4)
