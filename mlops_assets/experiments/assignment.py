"""The ONE function that puts a user into an arm: used by the router, the analysis and generated proxy configurations.

Stateless and salted, so that every server gives the same answer and two experiments split independently; monotone in
the share, so that a ramp from 5 to 20 % only adds users and a rollback returns each one to where it was.
"""

import hashlib

CONTROL, TREATMENT = "control", "treatment"
_UNIT = 2.0**-64


def assignment_fraction(salt: str, user_id: str) -> float:
    """Map a user to [0, 1), uniformly: the first 64 bits of sha256(salt, NUL, user), big-endian, over 2^64.

    The NUL keeps ("a", "bc") and ("ab", "c") apart.
    """
    digest = hashlib.sha256(f"{salt}\0{user_id}".encode()).digest()
    # A float has 53 bits: without the cut, fractions next to 1 would be rounded to it.
    return (int.from_bytes(digest[:8], "big") >> 11 << 11) * _UNIT


def assign(salt: str, user_id: str, treatment_share: float) -> str:
    """Return `treatment` for the share of users whose fraction is below it, else `control`."""
    return TREATMENT if assignment_fraction(salt, user_id) < treatment_share else CONTROL
