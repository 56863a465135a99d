"""The Python block of docs/health.md runs and says what the page says."""

import re
from pathlib import Path

import pytest

from mlops_assets.foundation.profiles import load_profile
from mlops_assets_tests.monitoring.simulated import agent, play, world_of

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "health.md").read_text(encoding="utf-8")


def test_the_documented_code(capsys: pytest.CaptureFixture[str]) -> None:
    """A name of the page does not exist, or ends in something else than it says."""
    (block,) = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    own = agent("requirements")
    world = world_of(own.spec)
    names = {
        "spec": own.spec,
        "reference": play(world, range(10, 16), own.policy),
        "labelled": play(world, range(18, 19), own.policy),
        "window": play(world, range(20, 21), own.policy, label_share=0.0),
    }
    exec(compile(block, "docs/health.md", "exec"), names)  # noqa: S102 - the page is ours
    first, second, third, *alarms = capsys.readouterr().out.splitlines()
    assert first.startswith("estimated accuracy is estimated at 0.")
    assert second.endswith("- does not hurt")
    assert third == "ok"
    assert len(alarms) == 5


def test_every_limit_of_the_page_is_a_field() -> None:
    """The page names a threshold that no profile has."""
    profile = load_profile("aiwebtest")
    fields = {
        *type(profile.health).model_fields,
        *type(profile.estimate).model_fields,
        *type(profile.retraining).model_fields,
    }
    named = re.findall(r"`((?:max|min)_\w+|coverage_alpha|payback_days|training_cost|\w+_quantile)`", DOCUMENT)
    assert len(named) > 10
    assert set(named) <= fields
