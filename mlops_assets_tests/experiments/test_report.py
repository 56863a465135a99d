"""What people read of an experiment: odds, the table's last line, and a picture that fits and shows every look."""

import math
import struct
from pathlib import Path

import pytest

from mlops_assets.experiments.analysis import analyse
from mlops_assets.experiments.odds import odds_in_words
from mlops_assets.experiments.report import evidence_png
from mlops_assets.experiments.units import Look
from mlops_assets_tests.experiences.served import SERVED_AT
from mlops_assets_tests.experiments.test_analysis import DESIGN, arm_looks

# In a window of 1500 points, Dagster's dialog leaves a picture so many; what is wider loses its right edge.
DIALOG_WIDTH = 1150
RATES = {"control": 0.1, "challenger": 0.06, "shadow": 0.25}


@pytest.mark.parametrize(
    ("e_value", "words"),
    [
        (6060.4, "6,060 to 1"),
        (71.3, "71.3 to 1"),
        (1.0, "1 to 1"),
        (0.361, "1 to 2.77"),
        (0.000973, "1 to 1,028"),
        (1e58, "over 1,000,000 to 1"),
        (2.4e-11, "1 to over 1,000,000"),
        (math.inf, "over 1,000,000 to 1"),
    ],
)
def test_odds_are_read_without_powers_of_ten(e_value: float, words: str) -> None:
    """`3.51e-09 to 1` beside `6.06e+03 to 1`: nobody sees which is the proof."""
    assert odds_in_words(math.log(e_value)) == words


@pytest.mark.parametrize("looks", [[], arm_looks(1, 100, RATES), arm_looks(40, 100, RATES)])
def test_the_picture_fits_into_the_window_at_any_number_of_looks(tmp_path: Path, looks: list[Look]) -> None:
    """The right half of the posteriors is cut off, or an experiment before its first look has no report."""
    evidence_png(tmp_path / "evidence.png", analyse(looks, DESIGN, started=SERVED_AT), DESIGN.alpha, title="x")
    width, height = struct.unpack(">II", (tmp_path / "evidence.png").read_bytes()[16:24])
    assert 800 < width <= DIALOG_WIDTH
    assert height > 400
