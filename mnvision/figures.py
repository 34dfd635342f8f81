"""Accuracy against cost as pictures: the paper's Figures 4 and 5, and those of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mnvision.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
COLOUR_TITLE, MARKER_TITLE, SOURCE_TITLE = "width multiplier", "input", "accuracy of"  # headings of the legend
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


class Point(NamedTuple):
    """A model in a picture.

    Attributes:
        x: Its cost.
        y: Its accuracy.
        colour: The group that its colour stands for, as the legend words it.
        marker: The group that its shape stands for.
        source: Where the accuracy comes from.
    """

    x: float
    y: float
    colour: str
    marker: str
    source: str = ""


class Plot(NamedTuple):
    """Accuracy against cost.

    Attributes:
        title: Over the picture.
        x_title: What costs are counted; their axis is logarithmic.
        y_title: What accuracy is measured.
        points: At least one. Groups get their colours and shapes in the order in which they first appear.
    """

    title: str
    x_title: str
    y_title: str
    points: Sequence[Point]


def draw(plot: Plot) -> Figure:
    """The points of a plot, with a legend beside them.

    The first source is drawn filled, the second hollow, the third filled with a black rim.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    points = plot.points
    colours = _styles([point.colour for point in points], COLOURS)
    markers = _styles([point.marker for point in points], MARKERS)
    sources = list(dict.fromkeys(point.source for point in points))
    figure = Figure(figsize=(8, 5.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for point in points:
        rank = sources.index(point.source)
        style = _face(colours[point.colour], rank)
        axes.plot(point.x, point.y, linestyle="", marker=markers[point.marker], zorder=3 + rank, **style)
    axes.set_xscale("log")
    low, high = min(point.x for point in points), max(point.x for point in points)
    margin = 1.3 if high > 2 * low else 1.6  # wide enough for a tick, 1, 2 or 5, where all cost the same
    axes.set_xlim(low / margin, high * margin)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _si(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(title=plot.title, xlabel=plot.x_title, ylabel=plot.y_title)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)

    def entry(label: str, **style: Any) -> Line2D:
        return Line2D([], [], linestyle="", label=label, **{"markersize": 7, "marker": "", **style})

    handles = [entry(COLOUR_TITLE)]
    handles += [entry(name, marker="o", color=colour) for name, colour in colours.items()]
    handles += [entry(""), entry(MARKER_TITLE)]
    handles += [entry(name, marker=marker, color="#555555") for name, marker in markers.items()]
    if len(sources) > 1:
        handles += [entry(""), entry(SOURCE_TITLE)]
        handles += [entry(name, marker="o", **_face("#555555", rank)) for rank, name in enumerate(sources)]
    legend = figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9, handletextpad=0.3)
    for text in legend.get_texts():
        if text.get_text() in (COLOUR_TITLE, MARKER_TITLE, SOURCE_TITLE):
            text.set_fontweight("bold")
    return figure


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a picture as SVG and PNG, the same bytes for the same points.

    Args:
        figure: What ``draw`` gave.
        stem: The path without suffix; its folder is made if need be.

    Returns:
        The files.

    Raises:
        UserError: They cannot be written.
    """
    import matplotlib

    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("svg", "png")]
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context({"svg.hashsalt": stem.name, "svg.fonttype": "none"}):
            figure.savefig(paths[0], metadata={"Date": None, "Creator": None})
            figure.savefig(paths[1], metadata={"Software": None})
    except OSError as error:
        raise UserError(f"output: cannot write {stem}.svg and .png ({error.strerror}); give another folder") from error
    return paths


def _styles(groups: Sequence[str], styles: Sequence[str]) -> dict[str, str]:
    return {name: styles[index % len(styles)] for index, name in enumerate(dict.fromkeys(groups))}


def _face(colour: str, rank: int) -> dict[str, Any]:
    """How the points of a source look."""
    if rank == 0:
        return {"color": colour, "markersize": 6}
    if rank == 1:
        return {"color": colour, "markersize": 10.5, "markerfacecolor": "none", "markeredgewidth": 1.2}
    return {"color": colour, "markersize": 10, "markeredgecolor": "black", "markeredgewidth": 1.2}


def _si(value: float) -> str:
    """A round number in words: 200 M, 1.5 B."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g} {name}"
    return f"{value:g}"
