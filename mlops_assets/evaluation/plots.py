"""Pictures of an evaluation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlops_assets.foundation.files import atomic_write

_DARK = 0.5


def confusion_matrix_png(confusion: NDArray[np.int64], actions: Sequence[str], path: Path, *, title: str) -> None:
    """Draw labelled best action (rows) against greedy action (columns): counts, coloured by share of the row.

    Raises:
        StorageError: the file cannot be written.
    """
    # The object-oriented interface leaves pyplot's global figures and backend alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 + 0.95 * len(actions), 1.2 + 0.85 * len(actions)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set_xticks(range(len(actions)), actions, rotation=30, ha="right")
    axes.set_yticks(range(len(actions)), actions)
    axes.set_xlabel("greedy action")
    axes.set_ylabel("labelled best action")
    axes.set_title(title)
    for (row, column), count in np.ndenumerate(confusion):
        colour = "white" if shares[row, column] > _DARK else "black"
        axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour)
    figure.colorbar(image, ax=axes, label="share of the row", shrink=0.8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
