"""Replay of CI histories: honest history, exact counterfactual rewards, and the experience source made of both."""
