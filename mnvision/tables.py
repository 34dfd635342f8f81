"""The command ``tables``: each table of the MobileNet paper beside ours."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mnvision.counts import Value, count, rounds_to
from mnvision.paper import TABLES, Note, Quantity, Row, Table

Config = Mapping[str, Any]
MADE = "mnvision tables output=docs"


class Cell(NamedTuple):
    """A figure of the paper and ours.

    Attributes:
        quantity: What it is a figure of.
        printed: The paper's, with its digits; empty where there is none.
        ours: Exact; None where there is none.
        matches: Whether ours rounds to the printed digits; None where that cannot be said, or was measured.
    """

    quantity: Quantity
    printed: str
    ours: Value | None
    matches: bool | None


def tables(cfg: Config) -> str:
    """Print the tables.

    Args:
        cfg: A valid configuration of the command ``tables``.

    Returns:
        What was printed.
    """
    text = as_csv(TABLES) if cfg["format"] == "csv" else as_markdown(TABLES)
    _print(text)
    return text


def compare(table: Table, row: Row) -> list[Cell]:
    """A row's figures beside ours."""
    counted = count(row.model) if row.model else {}
    cells = []
    for quantity, printed in zip(table.quantities, row.printed, strict=True):
        ours = counted.get(quantity.key)
        known = bool(printed) and ours is not None and not quantity.measured
        matches = rounds_to(ours, printed, unit=quantity.unit) if known and ours is not None else None
        cells.append(Cell(quantity, printed, ours, matches))
    return cells


def as_markdown(shown: Sequence[Table]) -> str:
    """Tables as Markdown, aligned for the eye as well."""
    return "\n\n".join(_markdown_table(table) for table in shown) + "\n"


def as_csv(shown: Sequence[Table]) -> str:
    """Tables as CSV, a line for each figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("table", "row", "model", "quantity", "paper", "ours", "matches", "notes"))
    for table in shown:
        for row in table.rows:
            notes = " ".join(note_text(table, note) for note in table.notes if row.key in note.rows)
            for cell in compare(table, row):
                ours = "" if cell.ours is None else cell.ours
                matches = {None: "", True: "yes", False: "no"}[cell.matches]
                line = (table.key, f"{table.key}/{row.key}", row.label, cell.quantity.title, cell.printed, ours)
                writer.writerow((*line, matches, notes))
    return text.getvalue()


def note_text(table: Table, note: Note) -> str:
    """A note with its exact counts."""
    model = note.model or next(row.model for row in table.rows if row.key == note.rows[0])
    return note.text.format_map(count(model)) if model else note.text


def _markdown_table(table: Table) -> str:
    rows = {row: compare(table, row) for row in table.rows}
    # A column that is empty from top to bottom says nothing.
    printed = [any(cells[i].printed for cells in rows.values()) for i in range(len(table.quantities))]
    ours = [any(cells[i].ours is not None for cells in rows.values()) for i in range(len(table.quantities))]
    header = ["row", "model"]
    for quantity, has_printed, has_ours in zip(table.quantities, printed, ours, strict=True):
        header += [f"{quantity.title}: {table.source}"] * has_printed + [_ours_title(quantity)] * has_ours
    lines = [[*header, "matches", "notes"]]
    for row, cells in rows.items():
        line = [f"`{table.key}/{row.key}`", row.label]
        for cell, has_printed, has_ours in zip(cells, printed, ours, strict=True):
            line += [cell.printed] * has_printed + [_show(cell)] * has_ours
        numbers = [str(number) for number, note in enumerate(table.notes, start=1) if row.key in note.rows]
        lines.append([*line, _verdict(cells), ", ".join(numbers)])
    notes = [f"{number}. {note_text(table, note)}" for number, note in enumerate(table.notes, start=1)]
    return "\n\n".join([f"## {table.title}", _aligned(lines), *(["\n".join(notes)] if notes else [])])


def _ours_title(quantity: Quantity) -> str:
    name, _, unit = quantity.title.partition(", ")
    return f"{quantity.title if quantity.measured or unit == '%' else name}: ours"


def _show(cell: Cell) -> str:
    if cell.ours is None:
        return ""
    if isinstance(cell.ours, float) and cell.quantity.unit:
        return f"{cell.ours / cell.quantity.unit:.2f}" if cell.quantity.measured else f"{cell.ours / 0.01:.3f}"
    return f"{cell.ours:,}" if isinstance(cell.ours, int) else str(cell.ours)


def _verdict(cells: Iterable[Cell]) -> str:
    verdicts = {cell.quantity.title.partition(",")[0]: cell.matches for cell in cells if cell.matches is not None}
    wrong = [title for title, matches in verdicts.items() if not matches]
    return f"no: {', '.join(wrong)}" if wrong else "yes" if verdicts else ""


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = ["-" * width for width in widths]
    padded = [
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in (lines[0], rule, *lines[1:])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _print(text: str) -> None:
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; what Python flushes at its end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
