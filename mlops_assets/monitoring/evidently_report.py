"""The report that people read of two sets of decisions, drawn by Evidently; the only module that speaks to it.

It draws and decides nothing: with Evidently's defaults, every second report without drift flags a column.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.files import atomic_write
from mlops_assets.monitoring.sampling import key_hashes, stratified_rows

if TYPE_CHECKING:
    import pandas as pd

REPORT_HTML, REPORT_JSON = "drift_report.html", "drift_report.json"
# Rows are in the order of time, and a sample holds every part of it alike.
_SLICES: Final = 24


@dataclass(frozen=True)
class DrawnReport:
    """Where a report was written, and from how many of the rows; `left_out`: columns without a value on one side."""

    html: Path
    json: Path
    reference_rows: int
    reference_drawn: int
    current_rows: int
    current_drawn: int
    left_out: tuple[str, ...]

    @property
    def note(self) -> str:
        """Say from what it is drawn."""
        return _note(self.reference_drawn, self.reference_rows, self.current_drawn, self.current_rows)


def draw_report(
    reference: "pd.DataFrame", current: "pd.DataFrame", folder: Path, *, sample_rows: int, title: str
) -> DrawnReport:
    """Draw drift and summary of all common columns as `drift_report.html` and `drift_report.json` below `folder`.

    The page is whole in itself and needs no network. Of more than `sample_rows` rows on a side, so many are drawn, of each
    24th part of them the same share.

    Args:
        reference: one row a decision, in the order of time; texts are categories, all else is numbers.
        current: the same columns.
        folder: where to write; each file is whole or absent.
        sample_rows: the most rows of a side.
        title: what stands above it.

    Raises:
        InputError: a side has no rows, or they have no column in common.
        StorageError: the folder cannot be written.
    """
    for name, rows in (("reference", len(reference)), ("current", len(current))):
        if not rows:
            raise InputError(f"the {name} side has no rows; a report compares two sets of decisions")
    # Evidently's spread of a column with an infinity is none.
    reference, current = (side.replace([np.inf, -np.inf], np.nan) for side in (reference, current))
    names = [name for name in reference.columns if name in current.columns]
    drawn = [name for name in names if _has_values(reference[name]) and _has_values(current[name])]
    if not drawn:
        raise InputError(f"no column has values on both sides: {', '.join(map(str, names)) or 'none is common'}")
    sides = [_sampled(side[drawn], sample_rows) for side in (reference, current)]
    note = _note(len(sides[0]), len(reference), len(sides[1]), len(current))
    page, document = _evidently(*sides)
    html, json_file = folder / REPORT_HTML, folder / REPORT_JSON
    with atomic_write(html) as temporary:
        temporary.write_text(_headed(page, title, note), encoding="utf-8")
    counts = {
        "reference_rows": len(reference), "reference_drawn": len(sides[0]), "current_rows": len(current),
        "current_drawn": len(sides[1]), "left_out": [str(name) for name in names if name not in drawn],
    }  # fmt: skip
    with atomic_write(json_file) as temporary:
        text = json.dumps(_finite({"title": title, "note": note, **counts, "evidently": document}), allow_nan=False)
        temporary.write_text(text, encoding="utf-8")
    left_out = tuple(str(name) for name in names if name not in drawn)
    return DrawnReport(html, json_file, len(reference), len(sides[0]), len(current), len(sides[1]), left_out)


def _evidently(reference: "pd.DataFrame", current: "pd.DataFrame") -> tuple[str, Mapping[str, Any]]:
    # Read at every event that would be sent, so that it holds also where Evidently was imported before.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset
    from pandas.api.types import is_numeric_dtype

    numbers = [name for name in current.columns if is_numeric_dtype(current[name])]
    definition = DataDefinition(
        numerical_columns=numbers, categorical_columns=[name for name in current.columns if name not in numbers]
    )
    sides = [Dataset.from_pandas(side, data_definition=definition) for side in (current, reference)]
    # Columns of equal values divide by a spread of 0 inside of numpy; what comes of it is shown as no value.
    with np.errstate(all="ignore"):
        done = Report([DataDriftPreset(), DataSummaryPreset()]).run(*sides)
    return done.get_html_str(as_iframe=False), json.loads(done.json())


def _sampled(side: "pd.DataFrame", size: int) -> "pd.DataFrame":
    positions = np.arange(len(side), dtype=np.int64)
    rows = stratified_rows(positions * _SLICES // max(1, len(side)), key_hashes(positions), size)
    return side.iloc[rows].reset_index(drop=True)


def _has_values(column: "pd.Series[Any]") -> bool:
    return bool(column.notna().any())


def _note(reference_drawn: int, reference_rows: int, current_drawn: int, current_rows: int) -> str:
    if (reference_drawn, current_drawn) == (reference_rows, current_rows):
        return f"Drawn from all {current_rows:,} decisions, against all {reference_rows:,} of the reference."
    return (
        f"Drawn from a sample of {current_drawn:,} of {current_rows:,} decisions, against {reference_drawn:,} of "
        f"{reference_rows:,} of the reference; the verdict rests on all of them."
    )


def _headed(page: str, title: str, note: str) -> str:
    """Put title and note above Evidently's page."""
    head = (
        '<div style="font: 15px/1.45 system-ui, sans-serif; margin: 1rem 2rem">'
        f"<h1 style='font-size: 1.4rem'>{escape(title)}</h1><p>{escape(note)}</p></div>"
    )
    begin = page.find(">", page.find("<body")) + 1
    return page[:begin] + head + page[begin:]


def _finite(value: Any) -> Any:
    """Return it without NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list) else value
