"""E-values as people read them."""

import math

# Words, pictures and tables end where nobody needs more: one to a million, as a power of ten.
MOST_EVIDENCE = 6.0
# From here on, digits after the point are noise.
_ROUNDED = 100.0


def odds_in_words(log_e: float) -> str:
    """Say an e-value, given as its natural logarithm, as odds that people read: `71.3 to 1`, `1 to 280`."""
    if abs(log_e) > MOST_EVIDENCE * math.log(10.0):
        most = f"{10**MOST_EVIDENCE:,.0f}"
        return f"over {most} to 1" if log_e > 0.0 else f"1 to over {most}"
    odds = math.exp(abs(log_e))
    rounded = f"{odds:,.0f}" if odds >= _ROUNDED else f"{odds:.3g}"
    return f"{rounded} to 1" if log_e >= 0.0 else f"1 to {rounded}"
