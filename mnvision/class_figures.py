"""Diagrams of a classifier: which classes it takes for which, and how far its probabilities can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CLASSES = 40  # with more, no label could be read
_LONGEST = 28  # letters of a class name
_BLUE, _RED, _GREY = "#0072B2", "#D55E00", "#555555"


class CalibrationBin(Protocol):
    """What the diagram asks of a bin: see ``metrics.classification.Bin``."""

    @property
    def low(self) -> float:
        """Least confidence."""

    @property
    def high(self) -> float:
        """Greatest confidence."""

    @property
    def pictures(self) -> int:
        """How many there are."""

    @property
    def confidence(self) -> float:
        """Their mean confidence."""

    @property
    def accuracy(self) -> float:
        """Their share of right predictions."""


def confusion_picture(matrix: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """A heat map of the shares of each class's pictures by predicted class; counts where there is room for them.

    Of more than 40 classes, those that take part in the most mistakes are shown.

    Args:
        matrix: int64 [K, K], rows truth, columns prediction.
        classes: K names.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    totals = matrix.sum(axis=1)
    shown = _most_confused(matrix)
    part = matrix[np.ix_(shown, shown)]
    shares = part / np.maximum(totals[shown], 1)[:, None]
    count = len(shown)
    names = [_short(classes[index]) for index in shown]
    side = 2.2 + 0.24 * count if count > 8 else 2.2 + 0.55 * count
    figure = Figure(figsize=(side + 1.2, side), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap=ListedColormap(_blues()), vmin=0, vmax=1, aspect="equal")
    size = 9 if count <= 12 else 7.5
    axes.set_xticks(range(count), names, rotation=0 if _room(names, count) else 90, fontsize=size, parse_math=False)
    axes.set_yticks(range(count), names, fontsize=size, parse_math=False)
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2 if count <= 12 else 0.6)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted", ylabel="truth")
    if len(matrix) > count:
        axes.set_title(f"the {count} most confused of {len(matrix)} classes", fontsize=10)
    for row, column in np.argwhere(part > 0):
        ink = "white" if shares[row, column] > 0.55 else "#222222"
        text = str(part[row, column])
        letters = (10 if count <= 8 else 8 if count <= 12 else 6.5) - (0 if len(text) <= 2 else len(text) - 2)
        if letters >= 4.5:
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=letters)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=25, format=lambda value, _: f"{value:.0%}")
    bar.outline.set_visible(False)
    bar.set_label("share of the class's pictures", fontsize=size)
    bar.ax.tick_params(labelsize=size, length=0)
    return figure


def reliability_picture(bins: Sequence[CalibrationBin]) -> Figure:
    """Accuracy by confidence, beside the diagonal on which both are the same, over the number of pictures.

    Where a bar ends below the diagonal, the network is surer than it should be.

    Args:
        bins: As :meth:`ClassificationMetric.calibration` gives them.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure = Figure(figsize=(5.6, 6.2), dpi=150, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [one for one in bins if one.pictures]
    total = max(1, sum(one.pictures for one in filled))
    gaps = [one.accuracy - one.confidence for one in filled]
    middles, widths = [(one.low + one.high) / 2 for one in filled], [0.94 * (one.high - one.low) for one in filled]
    accuracies, confidences = [one.accuracy for one in filled], [one.confidence for one in filled]
    upper.bar(middles, accuracies, width=widths, color=_BLUE, label="accuracy")
    style: dict[str, Any] = {"facecolor": "none", "edgecolor": _RED, "hatch": "////", "linewidth": 0.8}
    upper.bar(middles, [-gap for gap in gaps], width=widths, bottom=accuracies, label="gap to the confidence", **style)
    upper.plot([0, 1], [0, 1], linestyle="--", color=_GREY, linewidth=1.2, label="perfectly calibrated")
    upper.plot(confidences, confidences, linestyle="", marker=".", color=_GREY)
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    upper.set_title(
        f"expected calibration error {_error(gaps, [one.pictures for one in filled]):.3f}, {total:,} pictures"
        if filled
        else "no labelled pictures",
        fontsize=11,
    )
    upper.legend(frameon=False, fontsize=9, loc="upper left")
    lower.bar(middles, [one.pictures for one in filled], width=widths, color=_BLUE)
    lower.set(xlabel="confidence: probability of the predicted class", ylabel="pictures")
    lower.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    lower.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    for axes in (upper, lower):
        axes.grid(color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _error(gaps: Sequence[float], pictures: Sequence[int]) -> float:
    """Expected calibration error of the bins."""
    return sum(abs(gap) * count for gap, count in zip(gaps, pictures, strict=True)) / max(1, sum(pictures))


def _most_confused(matrix: NDArray[np.int64]) -> NDArray[np.int64]:
    """The labels to show, in their order: those with the most mistakes from or into them."""
    if len(matrix) <= MOST_CLASSES:
        return np.arange(len(matrix))
    wrong = matrix - np.diag(np.diag(matrix))
    mistakes = wrong.sum(axis=0) + wrong.sum(axis=1)
    return np.sort(np.argsort(-mistakes, kind="stable")[:MOST_CLASSES])


def _blues() -> NDArray[np.float64]:
    """256 colours from a pale grey, for nothing, to dark blue; even small shares differ from nothing."""
    stops = np.array([[244, 244, 242], [205, 223, 242], [122, 172, 220], [37, 111, 184], [10, 52, 110]]) / 255
    places = np.linspace(0, 1, 256) ** 0.7
    return np.stack([np.interp(places, np.linspace(0, 1, 5), stops[:, channel]) for channel in range(3)], axis=1)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 10].rstrip()}\u2026{name[-9:].lstrip()}"


def _room(names: Sequence[str], count: int) -> bool:
    """Whether the names fit beside each other under their columns."""
    return count <= 8 and max(map(len, names), default=0) <= 7
