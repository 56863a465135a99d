"""Replay of CI histories: honest history features, exact counterfactual rewards, and the experience source made of both."""
