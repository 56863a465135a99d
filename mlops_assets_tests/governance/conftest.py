"""Fixtures of the governance room's tests."""

from mlops_assets_tests.mlflow_runs import clock, mlflow_runs, mlflow_template, registry

__all__ = ["clock", "mlflow_runs", "mlflow_template", "registry"]
