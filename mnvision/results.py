"""Measured accuracies of the paper's rows: a JSON file that only finished runs are recorded in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

from mnvision.counts import count, layer_names
from mnvision.errors import UserError, did_you_mean
from mnvision.files import write_text
from mnvision.paper_tasks import TABLES
from mnvision.printed import Model, Quantity, Row
from mnvision.profiler import read_costs, read_layer_names

DATA = {"table11": "place_list", "table13": "coco"}  # which data set the runs of a table must be of
SPLIT = "val"  # what is reported; a model's numbers on its own training pictures are none of the paper's


class Result(NamedTuple):
    """One measured number of a row.

    Attributes:
        row: Full key of the row, such as ``table6/1.0-224``.
        metric: Name in ``metrics.json`` without its split.
        value: As there: a share is 0..1.
        command: What was typed to measure it.
        data: The data set, its folder and what of it was measured on.
        date: Of the run, ISO 8601.
        commit: Of the code that ran, or the release.
        machine: What it ran on.
    """

    row: str
    metric: str
    value: float
    command: str
    data: str
    date: str
    commit: str
    machine: str


def find_row(key: str, *, where: str) -> Row:
    """The row of a full key.

    Raises:
        UserError: There is none; ``where`` says where the key was found.
    """
    rows = {table.row_key(row): row for table in TABLES for row in table.rows}
    if key not in rows:
        raise UserError(f"{where}: the tables have no row {key!r}{did_you_mean(key, rows)}; mnvision tables lists them")
    return rows[key]


def measured(key: str) -> dict[str, Quantity]:
    """The quantities of a row that only a run can tell, by the name of the metric."""
    table = next(table for table in TABLES if key in map(table.row_key, table.rows))
    return {quantity.key: quantity for quantity in table.quantities if quantity.measured}


def read_results(path: Path, *, key: str = "results") -> list[Result]:
    """Read the recorded results.

    Args:
        path: A file that ``record`` wrote.
        key: What the user gave it as, for the messages.

    Raises:
        UserError: The file is not there, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{key}: cannot read {path} ({error.strerror}); give the path of a results file") from error
    except ValueError as error:
        raise UserError(f"{key}: {path} is no JSON ({error})") from error
    if not isinstance(content, list):
        raise UserError(f"{key}: {path} holds no list of results, as mnvision tables record=RUN row=KEY writes it")
    return [_result(entry, where=f"{key}: {path}, entry {number}") for number, entry in enumerate(content, start=1)]


def record(run: Path, *, row: str, path: Path) -> list[Result]:
    """Add what a finished run measured of a row to a results file; an older number of the same row gives way.

    Args:
        run: Folder of ``mnvision train`` or ``mnvision eval``.
        row: Full key of the row.
        path: The results file; made if it is not there.

    Returns:
        What was added.

    Raises:
        UserError: The run is not finished, measured nothing of the row, or its model is not the row's.
    """
    chosen = find_row(row, where="row")
    metrics = measured(row)
    if not metrics or chosen.model is None or chosen.model.task == "torchvision":
        raise UserError(f"row: {row} holds nothing that a run of mnvision could measure")
    numbers = _read(run / "metrics.json", "a finished run has one")
    cfg = _read(run / "config.yaml", "a run of mnvision train or eval has one")
    origin = _read(run / "origin.json", "runs of older releases have none: measure the model again with mnvision eval")
    _check_data(run, cfg, row=row)
    _check_model(run, cfg, chosen.model, row=row)
    found = {metric: numbers.get(f"{SPLIT}/{metric}") for metric in metrics}
    values = {metric: value for metric, value in found.items() if isinstance(value, int | float) and value >= 0}
    if not values:
        wanted = " or ".join(f"{SPLIT}/{metric}" for metric in metrics)
        raise UserError(
            f"record: {run}/metrics.json has no {wanted}, which {row} is about; it has {', '.join(numbers)}"
        )
    facts = {name: str(origin.get(name, "")) for name in ("command", "date", "commit", "machine")}
    added = [
        Result(row=row, metric=metric, value=float(value), data=_data_line(cfg), **facts)
        for metric, value in values.items()
    ]
    replaced = {(result.row, result.metric) for result in added}
    kept = [old for old in read_results(path) if (old.row, old.metric) not in replaced] if path.exists() else []
    entries = [result._asdict() for result in sorted([*kept, *added])]
    write_text(path, json.dumps(entries, indent=1) + "\n", what="the results")
    return added


def results_of(row: Row, results: Sequence[Result]) -> dict[str, float]:
    """The measured numbers of a row by metric: a model that stands in several tables was measured for all of them."""
    if row.model is None:
        return {}
    return {one.metric: one.value for one in results if find_row(one.row, where="results").model == row.model}


def _result(entry: Any, *, where: str) -> Result:
    expected = Result.__annotations__
    if not isinstance(entry, dict) or set(entry) != set(expected):
        raise UserError(f"{where}: expected the keys {', '.join(expected)}, got {_shown(entry)}")
    for name, value in entry.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number if name == "value" else isinstance(value, str)):
            raise UserError(f"{where}: {name} must be a {'number' if name == 'value' else 'text'}, got {value!r}")
    find_row(entry["row"], where=where)
    if entry["metric"] not in measured(entry["row"]):
        known = ", ".join(measured(entry["row"]))
        raise UserError(f"{where}: {entry['row']} has no metric {entry['metric']!r}; it has {known or 'none'}")
    return Result(**entry)


def _shown(entry: Any) -> str:
    return ", ".join(map(str, entry)) if isinstance(entry, dict) else repr(entry)


def _read(path: Path, expected: str) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"record: there is no {path}; {expected}")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"record: {path} cannot be read ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise UserError(f"record: {path} does not hold what a run writes")
    return content


def _check_data(run: Path, cfg: Mapping[str, Any], *, row: str) -> None:
    wanted, found = DATA.get(row.partition("/")[0]), (cfg.get("data") or {}).get("name")
    if wanted not in (None, found):
        raise UserError(f"record: {row} is about data={wanted}, and {run} measured on data={found}")
    limit = (cfg.get("trainer") or {}).get("limit_val_batches")
    if limit is not None:
        raise UserError(f"record: {run} measured on a part of its pictures, trainer.limit_val_batches={limit}")


def _check_model(run: Path, cfg: Mapping[str, Any], model: Model, *, row: str) -> None:
    """Compare tasks of detectors, and the costs of the bodies: classes may be other ones, such as COCO's 80 of 90."""
    task = (cfg.get("task") or {}).get("name")
    if model.task != "classify" and task != model.task:
        raise UserError(f"record: {row} is of task {model.task}, and {run} of task {task}")
    body = count(model._replace(part=model.part or "backbone"))
    expected = body["mult_adds"], body["parameters"]
    costs = read_costs(run / "profile.csv", part="backbone.")
    if costs != expected:
        raise UserError(
            f"record: {run} is of another model than {row}: its body has {costs[0]:,} mult-adds and {costs[1]:,} "
            f"parameters, the row's {expected[0]:,} and {expected[1]:,}"
        )
    if not model.part and read_layer_names(run / "profile.csv") != layer_names(model):
        raise UserError(f"record: the head of {run} is of another form than that of {row} ({model.form})")


def _data_line(cfg: Mapping[str, Any]) -> str:
    data = cfg.get("data") or {}
    part = data.get("val_annotations") or data.get("val_split")
    words = [data.get("name"), Path(data["root"]).name if data.get("root") else None, Path(part).name if part else None]
    return " ".join(str(word) for word in words if word)
