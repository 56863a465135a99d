"""A trained model becomes metrics with intervals, slices, latency and gates: the validation report."""
