"""How this room's pictures are begun and ended; what is on them is in `pictures.py` and `heatmap.py`."""

from io import BytesIO
from typing import TYPE_CHECKING

from mlops_assets.experiments.report import PICTURE_DPI, PICTURE_INCHES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(height_inches: float) -> "Figure":
    """Return an empty figure that is as wide as Dagster's window."""
    # The object-oriented interface leaves pyplot's global figures and backend alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PICTURE_INCHES, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def as_png(figure: "Figure") -> bytes:
    """Return the figure as PNG."""
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=PICTURE_DPI)
    return picture.getvalue()
