"""Served models watched: drift, performance, health, alerts and metrics. What is done about it is `retraining/`'s business."""
