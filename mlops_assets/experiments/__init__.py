"""A/B tests of agents: who is in which arm, and the present traffic split."""
