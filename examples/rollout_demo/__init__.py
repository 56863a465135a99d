"""Rollouts as users live through them: real servers, simulated users, a fast clock; `python -m examples.rollout_demo`."""
