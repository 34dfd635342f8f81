"""Tables as text: the paper's figures beside ours, and the runs of a sweep beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mnvision.counts import Value, count, rounds_to
from mnvision.files import csv_text
from mnvision.printed import Note, Quantity, Row, Table
from mnvision.results import Result, results_of
from mnvision.sweep import Run, main_metric, varied_keys


class Cell(NamedTuple):
    """A printed figure and ours.

    Attributes:
        quantity: What it is a figure of.
        printed: With its digits; empty where there is none.
        ours: Exact; None where there is none.
        matches: Whether ours rounds to the printed digits; None where that cannot be said, or was measured.
    """

    quantity: Quantity
    printed: str
    ours: Value | None
    matches: bool | None


def compare(table: Table, row: Row, *, results: Sequence[Result] = ()) -> list[Cell]:
    """A row's figures beside ours: counted here, or measured in a recorded run."""
    ours = {**(count(row.model) if row.model else {}), **results_of(row, results)}
    cells = []
    for quantity, printed in zip(table.quantities, row.printed, strict=True):
        value = ours.get(quantity.key)
        compared = printed and value is not None and not quantity.measured
        matches = rounds_to(value, printed, unit=quantity.unit) if compared and value is not None else None
        cells.append(Cell(quantity, printed, value, matches))
    return cells


def note_text(table: Table, note: Note) -> str:
    """A note with its exact counts."""
    model = note.model or next((row.model for row in table.rows if row.key in note.rows), None)
    return note.text.format_map(count(model)) if model else note.text


def table_markdown(table: Table, *, results: Sequence[Result] = ()) -> str:
    """A table as Markdown, with its heading and its numbered notes."""
    rows = {row: compare(table, row, results=results) for row in table.rows}
    # A column that is empty from top to bottom says nothing.
    printed = [any(cells[i].printed for cells in rows.values()) for i in range(len(table.quantities))]
    header = ["row", "model"]
    for quantity, has_printed in zip(table.quantities, printed, strict=True):
        header += [f"{quantity.title}: {table.source}"] * has_printed + [_ours_title(quantity)]
    lines = [[*header, "matches", "notes"]]
    for row, cells in rows.items():
        line = [f"`{table.row_key(row)}`", row.label]
        for cell, has_printed in zip(cells, printed, strict=True):
            line += [cell.printed] * has_printed + [_show(cell)]
        numbers = [str(number) for number, note in enumerate(table.notes, start=1) if row.key in note.rows]
        lines.append([*line, _verdict(cells), ", ".join(numbers)])
    notes = [f"{number}. {note_text(table, note)}" for number, note in enumerate(table.notes, start=1)]
    return "\n\n".join([f"## {table.title}", _aligned(lines), *(["\n".join(notes)] if notes else [])])


def tables_csv(shown: Iterable[Table], *, results: Sequence[Result] = ()) -> str:
    """Tables as CSV: a line for each figure, ours exact and in single units (a share is 0..1)."""
    lines: list[Sequence[object]] = [("row", "model", "quantity", "printed", "source", "ours", "matches", "notes")]
    for table in shown:
        for row in table.rows:
            notes = " ".join(note_text(table, note) for note in table.notes if row.key in note.rows)
            for cell in compare(table, row, results=results):
                matches = {None: "", True: "yes", False: "no"}[cell.matches]
                ours = "" if cell.ours is None else cell.ours
                figure = (cell.printed, table.source if cell.printed else "", ours, matches)
                lines.append((table.row_key(row), row.label, cell.quantity.title, *figure, notes))
    return csv_text(lines)


def sweep_markdown(runs: Sequence[Run]) -> str:
    """The runs of a sweep as Markdown: what varied, what the models cost, and the metric that they are judged by."""
    keys, main = varied_keys(runs), main_metric(runs)
    # Of COCO's twelve numbers the average precisions; where a size of objects is absent they are -1.
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    metrics = [
        name
        for name in names
        if (name.startswith(main) if main else True) and any(run.metrics.get(name, -1) >= 0 for run in runs)
    ]
    lines = [["run", *keys, "input", "mult-adds", "parameters", *metrics, "status"]]
    for run in runs:
        values = [_value(run.config.get(key)) if run.config else "" for key in keys]
        costs = [_value(run.image_size), _value(run.mult_adds), _value(run.parameters)]
        numbers = [f"{run.metrics[name]:.4f}" if name in run.metrics else "" for name in metrics]
        lines.append([run.name, *values, *costs, *numbers, run.problem or "finished"])
    return _aligned(lines)


def sweep_csv(runs: Sequence[Run]) -> str:
    """The runs of a sweep as CSV, with every metric."""
    keys = varied_keys(runs)
    metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
    lines: list[Sequence[object]] = [("run", *keys, "input", "mult_adds", "parameters", *metrics, "status")]
    for run in runs:
        costs = ["" if value is None else value for value in (run.image_size, run.mult_adds, run.parameters)]
        values = ["" if run.config.get(key) is None else run.config[key] for key in keys]
        numbers = [run.metrics.get(name, "") for name in metrics]
        lines.append((run.name, *values, *costs, *numbers, run.problem or "finished"))
    return csv_text(lines)


def _ours_title(quantity: Quantity) -> str:
    """Ours are exact: their heading says no millions."""
    name, _, unit = quantity.title.rpartition(", ")
    return f"{name if unit in ('M', 'B') else quantity.title}: ours"


def _show(cell: Cell) -> str:
    if cell.ours is None:
        return ""
    if cell.quantity.measured or isinstance(cell.ours, float):
        return f"{float(cell.ours) / (cell.quantity.unit or 1):.{2 if cell.quantity.measured else 3}f}"
    return _value(cell.ours)


def _value(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _verdict(cells: Iterable[Cell]) -> str:
    verdicts = {cell.quantity.title.partition(",")[0]: cell.matches for cell in cells if cell.matches is not None}
    wrong = [title for title, matches in verdicts.items() if not matches]
    return f"no: {', '.join(wrong)}" if wrong else "yes" if verdicts else ""


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is readable as plain text."""
    lines = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(lines[0]))]
    rows = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in rows
    )
