"""What a page about a run is made of, as plain data: numbers, charts, tables, sheets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class BigNumber(NamedTuple):
    """A number in large digits: its name, title, what stands beside the title, and its digits."""

    name: str
    title: str
    note: str
    digits: int = 3


class Curve(NamedTuple):
    """A line of a chart: what stands at its end, its CSS class, its column of ``metrics.csv``, its head in a table."""

    name: str
    style: str
    column: str
    head: str


class Chart(NamedTuple):
    """Curves by epoch; the scale reaches at least ``least``, and of the line ``best`` the highest point is marked."""

    title: str
    curves: tuple[Curve, ...]
    least: float
    best: str = ""


class NumberTable(NamedTuple):
    """A table of numbers: its heads, and rows of a number's name and the cells before its value."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Sheet(NamedTuple):
    """A picture of its own: its file in the run's folder, its title, and one line on what it shows."""

    file: str
    title: str
    note: str


@dataclass(frozen=True)
class ReportPlan:
    """What a report shows beside what all of them do.

    Attributes:
        figures: The numbers that people ask for first.
        charts: What is drawn by epoch.
        tables: The numbers with what they are; any others follow them in small print.
        bars: Title of the bars by class.
        bar_of: What has a bar, in the singular.
        bar: What a bar shows.
        tick: What the tick on it shows.
        pictures_note: What to know about the sample pictures.
        sheets: Pictures that are shown where the folder holds them.
        intended_use: What such a model is for, and what not; where it concerns people.
    """

    figures: tuple[BigNumber, ...]
    charts: tuple[Chart, ...]
    tables: tuple[NumberTable, ...]
    bars: str
    bar: str
    tick: str
    bar_of: str = "class"
    pictures_note: str = ""
    sheets: tuple[Sheet, ...] = ()
    intended_use: str = ""
