"""Line charts as SVG: values by epoch, for a page that styles them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

_GAP = 12  # from the end of a line to its name
_LETTER = 7.8  # width of a bold letter or a digit in a wide font, of 12.5


class Line(NamedTuple):
    """A line of a chart.

    Attributes:
        name: What stands at its end.
        style: The CSS class that gives its colour.
        points: Values by epoch, in the order of the epochs; finite.
    """

    name: str
    style: str
    points: Mapping[int, float]


def line_chart(title: str, lines: Sequence[Line], *, least: float, best: str = "") -> str:
    """Lines by epoch as SVG inside ``<figure class=chart>``, each with its name and its last value at its end.

    Args:
        title: What is shown.
        lines: Those without points are left out.
        least: The scale reaches at least so high.
        best: The name of a line whose highest point is marked.

    Returns:
        The HTML, without colours, which the page's style sheet gives; empty if no line has points.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    title = escape(title)
    values = [_value(line.points[max(line.points)]) for line in lines]
    longest = max(len(f"{line.name} {value}") for line, value in zip(lines, values, strict=True))
    plane = _Plane(lines, least=least, right=max(200, min(388, round(_Plane.width - _GAP - _LETTER * longest))))
    parts = [_axes(plane)]
    ends = []
    note = ""
    for line in lines:
        places = {epoch: (plane.x(epoch), plane.y(value)) for epoch, value in line.points.items()}
        path = "L".join(f"{x} {y}" for x, y in places.values())
        x, y = places[max(places)]
        ends.append((x, y))
        parts.append(f'<path class="line {line.style}" d="M{path}"/>')
        parts.append(f'<circle class="dot {line.style}" cx="{x}" cy="{y}" r="4"/>')
        if line.name == best:
            top = max(line.points, key=lambda epoch: line.points[epoch])
            x, y = places[top]
            parts.append(f'<circle class="ring {line.style}" cx="{x}" cy="{y}" r="6.5"/>')
            note = f"best {escape(best)} {line.points[top]:.4f} in epoch {top}"
    heights = _spread([y for _, y in ends], gap=17, low=plane.top + 4, high=plane.bottom - 6)
    for line, value, (x, _), y in zip(lines, values, ends, heights, strict=True):
        name = f"{escape(line.name)} <tspan class=tick>{value}</tspan>"
        parts.append(f'<text class="label {line.style}" x="{x + _GAP:.1f}" y="{y + 4:.1f}">{name}</text>')
    parts.append(_strips(plane, lines))
    return (
        f"<figure class=chart><figcaption>{title} <span>{note}</span></figcaption>"
        f'<svg viewBox="0 0 {plane.width} {plane.height}" role="img" aria-label="{title} by epoch">'
        f"{''.join(parts)}</svg></figure>"
    )


class _Plane:
    """Where epochs and values lie in the picture of a chart."""

    width, height = 480, 280
    left, top, bottom = 52, 14, 240  # of the area of the lines; their names stand to the right of it

    def __init__(self, lines: Sequence[Line], *, least: float, right: int) -> None:
        self.right = right
        values = [value for line in lines for value in line.points.values()]
        self.epochs = sorted({epoch for line in lines for epoch in line.points})
        self.ticks = _ticks(min(0.0, *values), max(least, *values))

    def x(self, epoch: int) -> float:
        span = self.epochs[-1] - self.epochs[0]
        share = (epoch - self.epochs[0]) / span if span else 0.5
        return round(self.left + share * (self.right - self.left), 1)

    def y(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        return round(self.bottom - (value - low) / (high - low) * (self.bottom - self.top), 1)


def _value(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:#.3g}".rstrip(".")


def _axes(plane: _Plane) -> str:
    parts = []
    for tick in plane.ticks:
        y = plane.y(tick)
        style = "axis" if tick == plane.ticks[0] else "grid"
        parts.append(f'<path class={style} d="M{plane.left} {y}H{plane.right}"/>')
        parts.append(f'<text class=tick x="{plane.left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    labels = [(plane.x(epoch), plane.bottom + 18, str(epoch)) for epoch in _epoch_ticks(plane.epochs)]
    labels.append(((plane.left + plane.right) / 2, plane.height - 4, "epoch"))
    parts += [f'<text class=tick x="{x}" y="{y}" text-anchor="middle">{text}</text>' for x, y, text in labels]
    return "".join(parts)


def _strips(plane: _Plane, lines: Sequence[Line]) -> str:
    """A strip an epoch to point at: it shows a rule, and the values as a tooltip."""
    width = (plane.right - plane.left) / max(1, len(plane.epochs) - 1)
    parts = []
    for epoch in plane.epochs:
        x = plane.x(epoch)
        told = [f"{line.name} {line.points[epoch]:.4g}" for line in lines if epoch in line.points]
        text = escape("\n".join([f"epoch {epoch}", *told]))
        parts.append(
            f'<g class=hit><rect x="{x - width / 2:.1f}" y="{plane.top}" width="{width:.1f}" '
            f'height="{plane.bottom - plane.top}"/><path d="M{x} {plane.top}V{plane.bottom}"/><title>{text}</title></g>'
        )
    return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, about five, that reach from below ``low`` to above ``high``."""
    span = high - low or 1.0
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if span / (factor * power) <= 5.5)
    first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _epoch_ticks(epochs: Sequence[int]) -> list[int]:
    """Some of the epochs: at most eight, at round numbers."""
    span = epochs[-1] - epochs[0]
    steps = (factor * 10**power for power in range(9) for factor in (1, 2, 5))
    step = next(step for step in steps if span / step < 8)
    return [epoch for epoch in range(epochs[0], epochs[-1] + 1) if epoch % step == 0] or [epochs[-1]]


def _spread(places: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move labels apart, in their order, so that none covers another."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    spread = list(places)
    limit = low
    for index in order:
        spread[index] = limit = max(places[index], limit)
        limit += gap
    limit = high
    for index in reversed(order):
        spread[index] = limit = min(spread[index], limit)
        limit -= gap
    return spread
