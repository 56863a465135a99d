"""A version and its report become a risk and a recorded decision."""
