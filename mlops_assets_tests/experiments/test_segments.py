"""Segments: who is in, who is not, and what is no condition."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from mlops_assets.experiments.experiments import create_experiment, experiment_named
from mlops_assets.experiments.segments import EVERYBODY, Segment, parse_segment
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.errors import InputError

SPEC = AGENTS["execution"]
FIELD = SPEC.context[0]
MIDDLE = (FIELD.low + FIELD.high) / 2


def test_every_condition_has_to_hold() -> None:
    """A user outside is treated, or one at the bound is not."""
    segment = parse_segment([f"{FIELD.name}={MIDDLE}..", "browser=chromium,firefox"], SPEC)
    context = {field.name: field.low for field in SPEC.context}
    inside = {**context, FIELD.name: MIDDLE}
    assert segment.has({"browser": "firefox"}, inside)
    assert segment.has({"browser": "chromium"}, {**context, FIELD.name: FIELD.high})
    assert not segment.has({"browser": "webkit"}, inside)
    assert not segment.has({"browser": "firefox"}, context)
    assert not segment.has({}, inside)
    assert EVERYBODY.has({}, context)


def test_it_survives_the_database(engine: Engine) -> None:
    """After a restart everybody is in the experiment."""
    segment = parse_segment(["browser=chromium", f"{FIELD.name}={FIELD.low}..{MIDDLE}"], SPEC)
    now = datetime(2026, 3, 1, tzinfo=UTC)
    create_experiment(engine, "narrow", "execution", treatment_share=0.5, user="qa", now=now, segment=segment)
    assert experiment_named(engine, "narrow").segment == segment
    create_experiment(engine, "wide", "generation", treatment_share=0.5, user="qa", now=now)
    assert experiment_named(engine, "wide").segment is EVERYBODY
    assert Segment.from_document(segment.document()) == segment


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("age=1..2", "names no field of execution"),
        ("browser", "names no field of execution"),
        ("browser=", "names no field of execution"),
        (f"{FIELD.name}=0.5", "is no range"),
        (f"{FIELD.name}=b..a", "is no range"),
        (f"{FIELD.name}={FIELD.high}..{FIELD.low}", "is no range"),
        (f"{FIELD.name}={FIELD.high + 1}..{FIELD.high + 2}", "leaves nobody"),
    ],
)
def test_what_is_no_condition_is_refused(condition: str, message: str) -> None:
    """A typing error makes an experiment of nobody, or of everybody."""
    with pytest.raises(InputError, match=message):
        parse_segment([condition], SPEC)
