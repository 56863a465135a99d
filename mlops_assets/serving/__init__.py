"""A request becomes a decision, in real time, in batches and from a stream; every decision is logged."""
