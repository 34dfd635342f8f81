"""The command ``tables``: the MobileNet paper's tables beside ours, or the runs of a sweep beside each other."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnvision.console import print_result
from mnvision.counts import count
from mnvision.errors import UserError
from mnvision.figures import Plot, Point, draw, save
from mnvision.files import write_text
from mnvision.paper_tasks import SIXTEEN, TABLES
from mnvision.results import Result, read_results, record, results_of
from mnvision.side_by_side import sweep_csv, sweep_markdown, table_markdown, tables_csv
from mnvision.sweep import Run, main_metric, read_sweep

logger = logging.getLogger(__name__)
Config = Mapping[str, Any]

RESULTS = "docs/results.json"
INTRODUCTION = """\
# The MobileNet paper's tables beside ours

Made by `mnvision tables output=docs`. The printed figures are those of the paper
([arXiv:1704.04861](https://arxiv.org/abs/1704.04861)) with its own digits, in percent, millions (M) and billions (B).

- **ours**: exact mult-adds and parameters of our own models for one picture, counted when the command runs; without
  biases and BatchNorm, as in the paper.
- **matches**: whether ours round to the printed digits, half up; zeros at the end of 1000 and more hold no digits.
- Accuracies of ours come from finished runs alone, which `mnvision tables record=RUN row=ROW` writes into
  `docs/results.json`. An empty cell was not measured.
"""


def tables(cfg: Config) -> str:
    """Print the tables, or those of a sweep; write them with their pictures if ``output`` says where.

    Args:
        cfg: A valid configuration of the command ``tables``.

    Returns:
        What was printed.

    Raises:
        UserError: Keys do not go together, or a file that they name cannot be read or written.
    """
    if (cfg["record"] is None) != (cfg["row"] is None):
        raise UserError("record and row go together: record=RUN_FOLDER row=ROW, such as row=table6/1.0-224")
    if cfg["record"] and cfg["runs"]:
        raise UserError("record and runs are two things: give one of them")
    results = Path(cfg["results"] or RESULTS)
    if cfg["record"]:
        return _record(Path(cfg["record"]), row=cfg["row"], results=results)
    known = read_results(results) if cfg["results"] or results.exists() else []
    if cfg["runs"]:
        runs = read_sweep(Path(cfg["runs"]))
        name, plots = "runs", sweep_plots(runs)
        texts = {"markdown": sweep_markdown(runs) + "\n", "csv": sweep_csv(runs)}
    else:
        name, plots = "tables", paper_plots(known)
        texts = {"markdown": paper_markdown(known), "csv": tables_csv(TABLES, results=known)}
    if cfg["output"]:
        _write(Path(cfg["output"]), name=name, texts=texts, plots=plots)
    print_result(texts[cfg["format"]])
    return texts[cfg["format"]]


def paper_markdown(results: Sequence[Result]) -> str:
    """The page of all tables."""
    return "\n\n".join([INTRODUCTION.strip(), *(table_markdown(table, results=results) for table in TABLES)]) + "\n"


def paper_plots(results: Sequence[Result]) -> dict[str, Plot]:
    """Figures 4 and 5, by file name: exact costs, and every accuracy that is known of the sixteen models."""
    models = {row.model: row for row in SIXTEEN.rows}
    slim = [(row, float(row.printed[0]), "TF-slim, 2018") for row in SIXTEEN.rows]
    # In a table of the same quantities, so that Stanford Dogs stays out; a model that stands in several has one value.
    alike = [
        row for table in TABLES if table is not SIXTEEN and table.quantities == SIXTEEN.quantities for row in table.rows
    ]
    paper = [
        (row, float(row.printed[0]), "the paper")
        for row in {row.model: row for row in alike if row.model in models}.values()
    ]
    ours = [(row, 100 * results_of(row, results)["top1"], "ours") for row in SIXTEEN.rows if results_of(row, results)]
    plots = {}
    for name, key, x_title in (
        ("figure4", "mult_adds", "mult-adds for one picture"),
        ("figure5", "parameters", "parameters"),
    ):
        points = [
            Point(float(count(row.model)[key]), top1, f"{row.model.alpha:g}", str(row.model.size), source)
            for row, top1, source in (*slim, *paper, *ours)
            if row.model
        ]
        title = f"Figure {name[-1]}: the sixteen models of the MobileNet paper"
        plots[name] = Plot(title, x_title, "ImageNet top-1, %", points)
    return plots


def sweep_plots(runs: Sequence[Run]) -> dict[str, Plot]:
    """The metric that the runs are judged by against what their models cost, by file name; none without numbers."""
    metric = main_metric(runs)
    measured = [run for run in runs if metric in run.metrics and run.mult_adds and run.parameters]
    if not measured:
        return {}
    groups = [(_alpha(run), "unknown" if run.image_size is None else str(run.image_size)) for run in measured]
    values = [run.metrics[metric] for run in measured]
    return {
        f"runs_{name}": Plot(
            f"{metric} against {title}",
            f"{title} for one picture" if name == "mult_adds" else title,
            metric,
            [Point(float(cost), value, *group) for cost, value, group in zip(costs, values, groups, strict=True)],
        )
        for name, title, costs in (
            ("mult_adds", "mult-adds", [run.mult_adds or 0 for run in measured]),
            ("parameters", "parameters", [run.parameters or 0 for run in measured]),
        )
    }


def _alpha(run: Run) -> str:
    alpha = run.config.get("backbone.alpha")
    return f"{alpha:g}" if isinstance(alpha, int | float) else "unknown"


def _record(run: Path, *, row: str, results: Path) -> str:
    added = record(run, row=row, path=results)
    text = "".join(f"{one.row} {one.metric} = {one.value:g}, {one.data}, {one.date}, {one.commit}\n" for one in added)
    logger.info("recorded in %s", results)
    print_result(text)
    return text


def _write(folder: Path, *, name: str, texts: Mapping[str, str], plots: Mapping[str, Plot]) -> None:
    """Write a page, its figures as CSV, and its pictures, which the page shows at its end."""
    pictures = [f"![{plot.title}](images/{stem}.svg)" for stem, plot in plots.items()]
    write_text(folder / f"{name}.md", "\n\n".join([texts["markdown"].rstrip(), *pictures]) + "\n", what="the tables")
    write_text(folder / f"{name}.csv", texts["csv"], what="the tables")
    for stem, plot in plots.items():
        save(draw(plot), folder / "images" / stem)
    logger.info("written: %s", folder / f"{name}.md")
