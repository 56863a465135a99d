"""What drift checks ask for: the bands of the sources, their borders, and what is not known."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.policies import RetrainingPolicy
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.tables import DriftCheckRecord
from mlops_assets.retraining.decide import Loss
from mlops_assets.retraining.drift_signals import Check, checks_since, newest_loss, signals_of
from mlops_assets_tests.retraining.triggers import NOW, POLICY, hours, policy

MODEL = "execution-agent-dqn"
CALM = Check("execution", MODEL, "1.2.0", NOW - hours(1), NOW, 1000, 0.05, 0.0, 0.0)


def found(policy: RetrainingPolicy = POLICY, **changes: Any) -> list[tuple[str, str, float | None]]:
    """Kind, first part of the key, and hours until the deadline."""
    asked = signals_of(replace(CALM, **changes), policy)
    return [
        (
            one.kind,
            one.dedupe_key.split(":")[0],
            None if one.deadline is None else (one.deadline - NOW) / timedelta(hours=1),
        )
        for one in asked
    ]


DRIFT, WARNED = ("drift", "drift", None), ("drift", "drift_warning", 48.0)
DROP, DROPPING = ("accuracy_drop", "accuracy_drop", None), ("accuracy_drop", "accuracy_warning", 24.0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"psi": 0.2}, []),
        ({"psi": 0.2001}, [WARNED]),
        # Exactly .3 is a warning.
        ({"psi": 0.3}, [WARNED]),
        ({"psi": 0.3001}, [DRIFT]),
        ({"psi": 0.15, "accuracy_drop_rel": 0.05}, []),
        ({"psi": 0.15, "accuracy_drop_rel": 0.0501}, [DROPPING]),
        ({"psi": 0.15, "accuracy_drop_rel": 0.1}, [DROPPING]),
        ({"psi": 0.15, "accuracy_drop_rel": 0.1001}, [DROP]),
        # The inputs did not move, so what is right has changed: that waits for nothing.
        ({"psi": 0.1, "accuracy_drop_rel": 0.06}, [DROP]),
        ({"psi": None, "accuracy_drop_rel": 0.06}, [DROPPING]),
        ({"psi": 0.4, "accuracy_drop_rel": 0.2}, [DROP, DRIFT]),
        ({"psi": 0.25, "accuracy_drop_rel": 0.07}, [DROPPING, WARNED]),
        ({"psi": None, "combined": None, "accuracy_drop_rel": None}, []),
        # A training on a broken column would learn what is broken; a loss of accuracy is one all the same.
        ({"psi": 0.9, "broken": ("a",)}, []),
        ({"psi": 0.9, "broken": ("a",), "accuracy_drop_rel": 0.2}, [DROP]),
        # Limits that this source does not have.
        ({"combined": 0.9, "ks": 0.9}, []),
    ],
)
def test_bands(changes: dict[str, Any], expected: list[tuple[str, str, float | None]]) -> None:
    """A band that is read the wrong way trains at every wobble, or never."""
    assert found(**changes) == expected


def test_other_sources_have_other_limits() -> None:
    """One `drift threshold` for three different numbers."""
    assert found(load_profile("diagnosis").retraining, combined=0.51) == [DRIFT]
    assert found(load_profile("diagnosis").retraining, combined=0.5) == []
    assert found(load_profile("agent27").retraining, ks=0.11) == [DRIFT]
    assert found(load_profile("agent27").retraining, ks=0.1) == []
    assert found(load_profile("duetmind").retraining, accuracy_drop_rel=0.051) == [DROP]


@pytest.mark.parametrize(
    ("changes", "alone"),
    [
        ({"psi": 0.4, "accuracy_drop_rel": 0.02}, True),
        ({"psi": 0.4, "accuracy_drop_rel": -0.1}, True),
        ({"psi": 0.4, "accuracy_drop_rel": 0.021}, False),
        ({"psi": 0.4, "accuracy_drop_rel": None}, False),
        ({"psi": 0.4, "accuracy_drop_rel": 0.0, "labelled": 199}, False),
    ],
)
def test_moved_inputs_at_stable_accuracy_are_said(changes: dict[str, Any], alone: bool) -> None:
    """Too few labels are taken for a stable accuracy, and a person is waited for while users are hurt."""
    (asked,) = signals_of(replace(CALM, **changes), POLICY)
    assert ("psi_only" in asked.evidence) is alone
    assert ("accuracy is stable" in asked.reason) is alone


def test_the_signal_carries_its_numbers_and_asks_once_a_day() -> None:
    """Which feature, by how much, of which version: only the log knows; or every hourly check asks again."""
    check = replace(CALM, psi=0.41, accuracy_drop_rel=0.03)
    (asked,) = signals_of(check, POLICY)
    assert asked.reason == "inputs of version 1.2.0 drifted: PSI 0.41 > 0.3"
    assert dict(asked.evidence) == {
        "model_version": "1.2.0",
        "drift_score": 0.41,
        "combined_drift": 0.0,
        "accuracy_drop": 0.03,
    }
    assert asked.dedupe_key == f"drift:{MODEL}:1.2.0:2026-11-25"
    later = replace(check, window_end=check.window_end + hours(1))
    assert signals_of(later, POLICY)[0].dedupe_key == asked.dedupe_key
    tomorrow = replace(check, window_end=check.window_end + hours(24))
    assert signals_of(tomorrow, POLICY)[0].dedupe_key != asked.dedupe_key


def test_what_hurts_asks_also_below_every_limit() -> None:
    """Users lose reward for a month by a drift that no limit names."""
    hurts = policy(retrain_when="hurts")
    assert found(hurts, loss=Loss(500.1, 600.0, 700.0, NOW)) == [("drift", "loss", None)]
    assert found(hurts, loss=Loss(500.0, 600.0, 700.0, NOW)) == []
    assert found(policy(retrain_when="hurts", payback_days=7.0), loss=Loss(72.0, 80.0, 90.0, NOW)) == [
        ("drift", "loss", None)
    ]
    assert found(POLICY, loss=Loss(1e6, 1e6, 1e6, NOW)) == []


def _record(number: int, **changes: Any) -> DriftCheckRecord:
    values = {
        "agent": "execution",
        "model_name": MODEL,
        "model_version": "1.2.0",
        "window_start": NOW + hours(number - 1),
        "window_end": NOW + hours(number),
        "checked_at": NOW + hours(number),
        "rows": 5000,
        "labelled": 900,
        "verdict": "warning",
        "psi": 0.25,
        "combined": None,
        "accuracy_drop_rel": 0.01,
        "document": {},
    }
    return DriftCheckRecord(**{**values, **changes})


def test_checks_are_read_of_one_version_since_a_time(engine: Engine) -> None:
    """Checks of a candidate or of another agent ask for a training of the champion."""
    document = {
        "loss_per_day": {"low": -5, "estimate": 20.5, "high": 40.0},
        "ks": 0.12,
        "columns": {"a": {"psi": 0.25}},
    }
    with transaction(engine) as session:
        session.add_all(
            [
                _record(0),
                _record(1, document=document),
                _record(2, document={"loss_per_day": {"low": None, "estimate": 1.0, "high": 2.0}, "ks": "high"}),
                _record(3, psi=None, accuracy_drop_rel=None, verdict="insufficient_data"),
                _record(3, model_version="1.3.0"),
                _record(3, agent="generation", model_name="generation-agent-dqn"),
            ]
        )
    with read_transaction(engine) as session:
        checks = checks_since(session, "execution", "1.2.0", NOW)
        assert checks_since(session, "execution", None, NOW) == []
    assert [check.window_end for check in checks] == [NOW + hours(n) for n in (1, 2, 3)]
    first, second, third = checks
    assert (first.psi, first.ks, first.labelled, first.accuracy_drop_rel) == (0.25, 0.12, 900, 0.01)
    assert first.loss == Loss(-5.0, 20.5, 40.0, NOW + hours(1))
    # An estimate that is not whole is none, and what is no number is not known.
    assert (second.loss, second.ks, third.loss, third.psi) == (None, None, None, None)
    assert newest_loss(checks) == first.loss
    assert newest_loss([]) is None
