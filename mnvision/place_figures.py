"""Maps of a geolocator: the cells that the earth is divided into, and where pictures were placed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mnvision.ops.geo import DISTANCES
from mnvision.ops.s2 import cell_levels, cell_outlines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LAND, _INK = "#8a8f98", "#222222"
# From near to far: Okabe and Ito's colours, which colour-blind readers can tell apart.
_BY_DISTANCE = ("#009E73", "#56B4E9", "#0072B2", "#E69F00", "#D55E00", "#CC79A7")
_MOST_POINTS = 50_000


def partition_map(cells: np.ndarray, *, counts: np.ndarray | None = None, places: np.ndarray | None = None) -> Figure:
    """The borders of cells on a map whose degrees are squares.

    Args:
        cells: uint64 [K].
        counts: int [K], the pictures in each, which colour it; None: its level does.
        places: float [N, 2], drawn as points: where there are many, they show the land.
    """
    from matplotlib.colors import LogNorm, Normalize

    figure, axes = _world()
    if places is not None:
        _points(axes, places, color=_LAND, size=0.6 if len(places) > 5_000 else 3)
    values = cell_levels(cells) if counts is None else counts
    least, most = float(values.min()), float(max(values.max(), values.min() + 1))
    norm = Normalize(least, most) if counts is None else LogNorm(max(1.0, least), most)
    faces = _draw_cells(axes, cells, values=values, norm=norm)
    bar = figure.colorbar(faces, ax=axes, shrink=0.75, pad=0.01)
    bar.set_label("level of the cell" if counts is None else "pictures in the cell")
    if counts is not None:
        ticks = [
            tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000) if least <= tick <= most
        ]
        bar.set_ticks(ticks, labels=[f"{tick:,}" for tick in ticks], minor=False)
        bar.ax.minorticks_off()
    levels = cell_levels(cells)
    axes.set_title(f"{len(cells):,} cells of levels {levels.min()} to {levels.max()}")
    return figure


def predictions_map(truth: np.ndarray, answers: np.ndarray, distances: np.ndarray) -> Figure:
    """The true places of pictures, coloured by how far away they were placed, and lines to the answers.

    Args:
        truth: float [N, 2].
        answers: float [N, 2]; NaN where there is none.
        distances: float [N] in km.
    """
    from matplotlib.collections import LineCollection

    figure, axes = _world()
    ends = ("0", *(f"{distance:,}" for distance in DISTANCES))
    names = [f"{low} to {high} km" for low, high in zip(ends, ends[1:], strict=False)] + [f"beyond {ends[-1]} km"]
    ranks = np.searchsorted(DISTANCES, distances, side="left")
    # No lines across the map's own edge.
    drawn = np.isfinite(answers).all(axis=1) & (np.abs(answers[:, 1] - truth[:, 1]) < 180)
    segments = np.stack((truth[drawn], answers[drawn]), axis=1)[:, :, ::-1]  # [n, 2, 2] as x, y
    colours = np.array(_BY_DISTANCE)[ranks[drawn]].tolist()
    axes.add_collection(LineCollection(list(segments), colors=colours, linewidths=0.5, alpha=0.35, zorder=2))
    for rank in reversed(range(len(names))):
        chosen = ranks == rank
        label = f"{names[rank]}: {int(chosen.sum()):,}"
        _points(axes, truth[chosen], color=_BY_DISTANCE[rank], size=9, label=label, zorder=3)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="lower left", fontsize=8, framealpha=0.9)
    axes.set_title(f"{len(truth):,} pictures where they were taken; lines lead to the answers")
    return figure


def _world() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-180, 180), ylim=(-90, 90), aspect="equal")
    axes.set_xticks(range(-180, 181, 60), [f"{abs(one)}° {'W' if one < 0 else 'E'}" for one in range(-180, 181, 60)])
    axes.set_yticks(range(-90, 91, 30), [f"{abs(one)}° {'S' if one < 0 else 'N'}" for one in range(-90, 91, 30)])
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_color("#bbbbbb")
    return figure, axes


def _points(axes: Axes, places: np.ndarray, *, color: str, size: float, label: str = "", zorder: int = 1) -> None:
    step = max(1, len(places) // _MOST_POINTS)
    shown = places[::step]
    style: dict[str, Any] = {"s": size, "color": color, "linewidths": 0, "zorder": zorder, "rasterized": True}
    axes.scatter(shown[:, 1], shown[:, 0], label=label or None, **style)


def _draw_cells(axes: Axes, cells: np.ndarray, *, values: np.ndarray, norm: Any) -> Any:
    """Filled outlines, large cells first, so that no small one is hidden."""
    from matplotlib.collections import PolyCollection

    shapes, owners = _flat_outlines(cell_outlines(cells))
    order = np.argsort(cell_levels(cells)[owners], kind="stable")
    style: dict[str, Any] = {"cmap": "viridis", "norm": norm, "alpha": 0.45, "edgecolors": _INK, "linewidths": 0.35}
    faces = PolyCollection([shapes[place] for place in order], array=values[owners[order]], zorder=2, **style)
    axes.add_collection(faces)
    return faces


def _flat_outlines(outlines: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Outlines [K, P, 2] as polygons of (longitude, latitude) on the map, and the cell of each.

    A cell across the 180th meridian is drawn at both ends of the map. One with a pole in it reaches from its outline
    to the edge of the map.
    """
    shapes: list[np.ndarray] = []
    owners: list[int] = []
    for owner, outline in enumerate(map(_with_edge_of_pole, outlines)):
        steps = np.diff(outline[:, 1], append=outline[0, 1])
        turns = (steps + 180) % 360 - 180  # the shorter way around
        x = outline[0, 1] + np.concatenate(([0.0], np.cumsum(turns)[:-1]))
        y = outline[:, 0]
        if abs(turns.sum()) > 180:  # once around the earth: a pole is inside
            pole = 90.0 if y.mean() > 0 else -90.0
            x = np.append(x, x[0] + turns.sum())
            y = np.append(y, y[0])
            x, y = np.concatenate((x, x[[-1, 0]])), np.concatenate((y, [pole, pole]))
        polygon = np.stack((x, y), axis=-1)
        for shift in (-360.0, 0.0, 360.0):
            if (x + shift).max() > -180 and (x + shift).min() < 180:
                shapes.append(polygon + [shift, 0.0])
                owners.append(owner)
    return shapes, np.array(owners)


def _with_edge_of_pole(outline: np.ndarray) -> np.ndarray:
    """An outline [P, 2] with a corner at a pole: on the map the pole is a line, between its neighbours' longitudes."""
    at_pole = np.flatnonzero(np.abs(outline[:, 0]) > 90 - 1e-6)
    if len(at_pole) != 1:
        return outline
    corner = int(at_pole[0])
    before, after = outline[corner - 1, 1], outline[(corner + 1) % len(outline), 1]
    edge = np.array([[outline[corner, 0], before], [outline[corner, 0], after]])
    return np.concatenate((outline[:corner], edge, outline[corner + 1 :]))
