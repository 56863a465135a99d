"""Pictures of drift checks: PSI over time and columns, and the columns of one check."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from mlops_assets.foundation.errors import InputError
from mlops_assets.monitoring.drawing import as_png, new_figure

if TYPE_CHECKING:
    from mlops_assets.foundation.tables import DriftCheckRecord

_HEAD_INCHES: Final = 2.0
_INCHES_A_ROW: Final = 0.26
# What does not fit under the picture's width is left out between.
_MOST_TIMES: Final = 12
_NOT_CHECKED: Final = "0.9"


def psi_table(checks: Sequence["DriftCheckRecord"]) -> tuple[list[str], NDArray[np.float64]]:
    """Return the columns that were ever checked, the most drifted first, and their PSI (columns, checks) by time.

    NaN where a column was not checked, or had too few values. `checks` may be in any order.
    """
    ordered = sorted(checks, key=lambda check: check.window_end)
    documents = [check.document.get("columns", {}) for check in ordered]
    names = sorted({name for document in documents for name in document})
    table = np.full((len(names), len(ordered)), np.nan)
    for column, document in enumerate(documents):
        for row, name in enumerate(names):
            psi = document.get(name, {}).get("psi")
            if psi is not None:
                table[row, column] = psi
    largest = np.max(table, axis=1, initial=-1.0, where=np.isfinite(table))
    order = sorted(range(len(names)), key=lambda row: (-largest[row], names[row]))
    return [names[row] for row in order], table[order]


def drift_heatmap(checks: Sequence["DriftCheckRecord"], *, critical: float, title: str) -> bytes:
    """Draw PSI by column over the checks of one version as PNG; the darkest is `critical` and beyond.

    Raises:
        InputError: no check holds a column.
    """
    names, table = psi_table(checks)
    if not names:
        raise InputError("no drift check holds a column; a picture needs one: run the drift check first")
    times = [check.window_end for check in sorted(checks, key=lambda check: check.window_end)]
    figure = new_figure(_HEAD_INCHES + _INCHES_A_ROW * len(names))
    axes = figure.add_subplot()
    axes.set_facecolor(_NOT_CHECKED)
    image = axes.imshow(
        np.ma.masked_invalid(table), aspect="auto", cmap="OrRd", vmin=0.0, vmax=critical, interpolation="nearest"
    )
    axes.set_yticks(range(len(names)), names, fontsize="small")
    shown = np.unique(np.linspace(0, len(times) - 1, min(len(times), _MOST_TIMES)).astype(int))
    axes.set_xticks(
        shown, [f"{times[index]:%m-%d %H:%M}" for index in shown], rotation=45, ha="right", fontsize="small"
    )
    axes.set_xlabel("end of the checked window, UTC; grey: too little to say")
    axes.set_title(title)
    figure.colorbar(image, ax=axes, label="PSI", extend="max", shrink=0.8)
    return as_png(figure)


def psi_chart(document: Mapping[str, Any], *, bands: Mapping[str, float], title: str) -> bytes:
    """Draw the PSI of each column of one check as PNG, the largest on top.

    Args:
        document: of a drift check.
        bands: name to the PSI where it begins, drawn as lines.
        title: above the picture.

    Raises:
        InputError: no column has a PSI.
    """
    found = {name: one["psi"] for name, one in document.get("columns", {}).items() if one.get("psi") is not None}
    if not found:
        raise InputError("no column of the drift check has a PSI: there were too few decisions")
    names = sorted(found, key=lambda name: (found[name], name))
    figure = new_figure(_HEAD_INCHES + _INCHES_A_ROW * len(names))
    axes = figure.add_subplot()
    axes.barh(range(len(names)), [found[name] for name in names], color="C0")
    axes.set_yticks(range(len(names)), names, fontsize="small")
    for number, (name, begins) in enumerate(sorted(bands.items(), key=lambda band: band[1])):
        axes.axvline(begins, color=f"C{number + 1}", linestyle="--", linewidth=1.0, label=f"{name}: from {begins:g}")
    axes.set_xlabel("PSI")
    axes.set_title(title)
    if bands:
        axes.legend(fontsize="small", loc="lower right")
    return as_png(figure)
