"""Executions and experiences become Feast tables, and point-in-time training sets."""
