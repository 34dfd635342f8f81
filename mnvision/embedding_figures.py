"""Diagrams of embeddings: how well distances tell same pairs from different ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _RED, _GREY = "#0072B2", "#D55E00", "#555555"


def roc_picture(
    far: NDArray[np.float64],
    val: NDArray[np.float64],
    *,
    auc: float,
    different: int,
    marks: Mapping[float, float] | None = None,
) -> Figure:
    """VAL, the share of same pairs accepted, by FAR, that of different ones, whose axis is logarithmic.

    Args:
        far: float64 [N], rising, as ``metrics.verification.roc_curve`` gives it.
        val: float64 [N].
        auc: Area under the curve, for the title.
        different: Number of different pairs: below one of them the curve says nothing.
        marks: VAL by the FAR at which it was measured, fold by fold; it need not lie on the curve, which is that of
            all pairs.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    marks = {rate: value for rate, value in (marks or {}).items() if value >= 0}
    one = 1 / max(1, different)
    low = 10 ** np.floor(np.log10(min([one, *marks]) / 1.5))
    figure = Figure(figsize=(6.4, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    # A curve with no different pair accepted yet has no place on a logarithmic axis but its left edge.
    axes.step(np.maximum(far, low), val, where="post", color=_BLUE, linewidth=1.6, label="all pairs", zorder=3)
    chance = np.geomspace(low, 1, 200)
    axes.plot(chance, chance, linestyle="--", color=_GREY, linewidth=1, label="chance")
    axes.axvspan(
        low,
        one,
        facecolor="#eeeeee",
        edgecolor="#bbbbbb",
        zorder=0,
        label=f"less than one of {different:,} different pairs",
    )
    for (rate, value), marker in zip(marks.items(), "osD^v", strict=False):
        label = f"VAL {value:.1%} at FAR {rate:g}, mean over the folds"
        axes.plot(rate, value, marker=marker, color=_RED, markersize=7, linestyle="", label=label, zorder=4)
    axes.set_xscale("log")
    axes.set(xlim=(low, 1), ylim=(0, 1.02), xlabel="FAR: different pairs accepted", ylabel="VAL: same pairs accepted")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_title(f"area under the curve {auc:.4f} (on linear axes)", fontsize=11)
    # where the curve is not
    place: Literal["upper left", "lower right"] = "upper left" if np.interp(0.02, far, val) < 0.55 else "lower right"
    axes.legend(edgecolor="none", framealpha=0.85, fontsize=9, loc=place)
    _tidy(axes)
    return figure


def distance_picture(
    distances: NDArray[np.float64], same: NDArray[np.bool_], *, threshold: float | None = None, bins: int = 60
) -> Figure:
    """Histograms of the distances of same and of different pairs, and the threshold between them.

    Args:
        distances: float64 [P], squared L2 of unit vectors; those that are not in 0..4 are left out.
        same: bool [P].
        threshold: Below it a pair counts as the same.
        bins: Between the least and the greatest distance.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    shown = (distances >= 0) & (distances <= 4.001)
    high = float(distances[shown].max()) if shown.any() else 4.0
    low = float(distances[shown].min()) if shown.any() else 0.0
    edges = np.linspace(low, max(high, low + 1e-6), bins + 1)
    for kind, color, name in ((same, _BLUE, "same"), (~same, _RED, "different")):
        some = distances[shown & kind]
        label = f"{int(kind.sum()):,} {name} pairs"
        axes.hist(some, bins=edges.tolist(), color=color, alpha=0.35, linewidth=0)
        axes.hist(some, bins=edges.tolist(), color=color, histtype="step", linewidth=1.4, label=label)
    if threshold is not None and threshold >= 0:
        axes.axvline(
            threshold, color=_GREY, ymax=0.86, linestyle="--", linewidth=1.4, label=f"threshold {threshold:.3f}"
        )
    axes.set(xlabel="squared distance", ylabel="pairs", xlim=(edges[0], edges[-1]))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylim(0, axes.get_ylim()[1] * 1.18)  # room for the legend
    axes.legend(frameon=False, fontsize=9, loc="upper center", ncols=3)
    _tidy(axes)
    return figure


def _tidy(axes: Axes) -> None:
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
