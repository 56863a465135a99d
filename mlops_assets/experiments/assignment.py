"""The ONE function that puts a user into an arm: used by the router, the analysis and generated proxy configurations.

Stateless and salted, so that every server gives the same answer and two experiments split independently; monotone in
the shares, so that a ramp from 5 to 20 % only adds users and a rollback returns each one to where it was.

The first treatment takes users from the lower end of [0, 1), the second from the upper one, the control has what is
between. So each is where it is whatever the other's share, and up to 100 % together neither takes users of the other. A
third has no such place: it would have to be the rest of the first and, at the same time, that of the second.
"""

import hashlib
from collections.abc import Mapping

from mlops_assets.foundation.errors import InputError

CONTROL, TREATMENT = "control", "treatment"
MOST_TREATMENTS = 2
_UNIT = 2.0**-64


def assignment_fraction(salt: str, user_id: str) -> float:
    """Map a user to [0, 1), uniformly: the first 64 bits of sha256(salt, NUL, user), big-endian, over 2^64.

    The NUL keeps ("a", "bc") and ("ab", "c") apart.
    """
    digest = hashlib.sha256(f"{salt}\0{user_id}".encode()).digest()
    # A float has 53 bits: without the cut, fractions next to 1 would be rounded to it.
    return (int.from_bytes(digest[:8], "big") >> 11 << 11) * _UNIT


def intervals(shares: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Return the fractions [low, high) of each treatment, in the order of `shares`, which has two at most.

    Where shares such as 0.1 and 0.9 add up to 1 only by rounding, one of 2^53 fractions is in both; it is the first's.

    Raises:
        InputError: there are more than two.
    """
    if len(shares) > MOST_TREATMENTS:
        raise InputError(
            f"{', '.join(shares)} are {len(shares)} treatments; {MOST_TREATMENTS} at most keep their users while shares grow: "
            "test the others in a next experiment"
        )
    ends = ((0.0, share) if number == 0 else (1.0 - share, 1.0) for number, share in enumerate(shares.values()))
    return dict(zip(shares, ends, strict=True))


def assign(salt: str, user_id: str, shares: float | Mapping[str, float]) -> str:
    """Return the user's arm: a treatment by its share of the users, else `control`; a number is the share of `treatment`."""
    fraction = assignment_fraction(salt, user_id)
    if not isinstance(shares, Mapping):
        return TREATMENT if fraction < shares else CONTROL
    return next((name for name, (low, high) in intervals(shares).items() if low <= fraction < high), CONTROL)


def aa_arm(agent: str, champion: str, user: str, share: float) -> str | None:
    """Return the arm of one of the champion's users; None: of none, as all but two shares of them are."""
    if not share:
        return None
    fraction = assignment_fraction(f"aa-{agent}-{champion}", user)
    if fraction < share:
        return TREATMENT
    return CONTROL if fraction >= 1.0 - share else None


def chances(shares: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """Return with which probability a user, now in that treatment or in the control, is in the treatment.

    The user was in the control while the shares were up to `before` (empty for a new user). Treatments that this leaves no
    chance are left out.
    """
    taken = list(intervals(before).values())
    low, high = taken[0][1] if taken else 0.0, taken[1][0] if len(taken) == MOST_TREATMENTS else 1.0
    new = {name: min(end, high) - max(begin, low) for name, (begin, end) in intervals(shares).items()}
    widths = {name: max(0.0, width) for name, width in new.items()}
    return {
        name: width / (high - low - sum(one for other, one in widths.items() if other != name))
        for name, width in widths.items()
        if width > 0.0
    }
