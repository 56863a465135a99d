"""Units that are taken for each other, by how many times as large the numbers become. Pure."""

import math
from typing import Final

# Minutes, percent, kilo (or kibi), hours, mega, nano.
_FACTORS: Final = (60.0, 100.0, 1000.0, 3600.0, 1e6, 1e9)
# How near a ratio of magnitudes has to be to one of them, as a share of it.
_TOLERANCE: Final = 0.25


def unit_factor(ratio: float) -> float | None:
    """Return the factor, or one over it, that a positive ratio of magnitudes is near to; None where it is near none."""
    if not (math.isfinite(ratio) and ratio > 0.0):
        return None
    larger = max(ratio, 1.0 / ratio)
    nearest = min(_FACTORS, key=lambda factor: abs(math.log(larger / factor)))
    if abs(larger / nearest - 1.0) > _TOLERANCE:
        return None
    return nearest if ratio > 1.0 else 1.0 / nearest
