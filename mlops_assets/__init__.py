"""The model lifecycle of reinforcement-learning agents that test web applications, as assets on Dagster."""
