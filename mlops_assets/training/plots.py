"""Pictures of a training."""

from collections.abc import Sequence
from pathlib import Path

from mlops_assets.foundation.files import atomic_write
from mlops_assets.training.episodes import WINDOW, EpisodeCurve
from mlops_assets.training.learner import CurvePoint


def training_curves_png(path: Path, curve: Sequence[CurvePoint], episodes: EpisodeCurve, *, title: str) -> None:
    """Draw loss, mean Q-value, agreement with labels and log over updates, and the logged returns over episodes."""
    # The object-oriented interface leaves pyplot's global figures and backend alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    (loss, value), (agreement, reward) = figure.subplots(2, 2)
    updates = [point.update for point in curve]
    loss.plot(updates, [point.loss for point in curve], color="tab:red")
    loss.set(title="TD loss", xlabel="update", ylabel="loss (reward variances)", yscale="log")
    value.plot(updates, [point.q_value_mean for point in curve], color="tab:blue")
    value.set(title="mean of max Q", xlabel="update", ylabel="reward")
    agreement.plot(updates, [point.train_accuracy for point in curve], color="tab:green", label="label = greedy action")
    agreement.plot(
        updates, [1 - point.exploration_rate for point in curve], color="tab:grey", label="logged = greedy action"
    )
    agreement.set(title="agreement on training decisions", xlabel="update", ylabel="share", ylim=(0, 1))
    agreement.legend(loc="lower right")
    reward.plot(episodes.avg_reward_100, color="tab:purple")
    reward.set(title=f"logged return, mean of {WINDOW} episodes", xlabel="logged episode", ylabel="reward")
    for axes in (loss, value, agreement, reward):
        axes.grid(visible=True, alpha=0.3)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
