"""``report.html``: what a run measured, drew and was asked for, on one page that needs no other file and no network."""

from __future__ import annotations

import base64
import csv
import logging
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from mnvision.charts import Line, line_chart
from mnvision.files import write_text
from mnvision.page import PAGE, STYLE
from mnvision.report_parts import ReportPlan, Sheet
from mnvision.report_plans import DETECTION
from mnvision.wording import counted

logger = logging.getLogger(__name__)

History = dict[str, dict[int, float]]  # a column of metrics.csv -> epoch (from 1) -> value

PICTURE_SIDE = 480  # pixels
MAX_PICTURES = 60
SHEET_SIDE = 2000  # pixels of a sheet or a diagram

_UNDEFINED = -1.0
_SPEED, _MEMORY = "images_per_second", "peak_memory_mb"


def write_report(
    folder: Path,
    *,
    title: str,
    facts: Mapping[str, str],
    numbers: Mapping[str, float],
    bars: Mapping[str, float],
    ticks: Mapping[str, float] | None = None,
    remarks: Mapping[str, str] | None = None,
    commands: Sequence[Sequence[str]] = (),
    plan: ReportPlan = DETECTION,
) -> Path:
    """Write ``report.html`` into the folder of a run, in one step: readers see the old page or the new one.

    Shown as well, where the folder holds them: the curves of ``metrics.csv``, the pictures in ``pictures/`` (scaled to
    at most 480 pixels, the first 60), the sheets of the plan and ``config.yaml``.

    Args:
        folder: The folder of the run.
        title: The headline.
        facts: What to say under it, by name, such as the model, the data and the date.
        numbers: The final numbers, as in ``metrics.json``, where ``val/``, ``test/`` or ``train/`` names their split;
            ``images_per_second`` and ``peak_memory_mb`` may be among them, else those of the training are shown. A
            number of -1 is undefined and shows as a dash.
        bars: The bars by class name: average precision, or accuracy; -1 where the class does not occur.
        ticks: The ticks on them: average precision at an IoU of 0.50, or what else the plan calls ``tick``.
        remarks: What to say beside a number, by its name without the split.
        commands: Commands that reproduce the numbers, each as its arguments.
        plan: What is shown of this kind of task.

    Returns:
        The path of the page.

    Raises:
        UserError: If the page cannot be written.
    """
    history = read_history(folder / "metrics.csv")
    plain = {name.split("/", 1)[-1]: value for name, value in numbers.items()}
    config = folder / "config.yaml"
    sections = [
        _header(title, facts),
        _figures(plain, history, plan, remarks or {}),
        _curves(history, plan),
        _pictures(sorted((folder / "pictures").glob("*.jpg")), note=plan.pictures_note),
        *(_sheet(folder / sheet.file, sheet) for sheet in plan.sheets),
        _tables(plain, plan, remarks or {}),
        _classes(bars, ticks or {}, plan),
        _commands(commands),
        _details("Configuration", f"<pre>{escape(config.read_text(encoding='utf-8'))}</pre>")
        if config.exists()
        else "",
    ]
    page = PAGE.format(title=escape(title), style=STYLE, body="\n".join(filter(None, sections)))
    path = folder / "report.html"
    write_text(path, page, what="the report", errors="replace")  # names of files may be any bytes
    return path


def read_history(path: Path) -> History:
    """The values by epoch in the file of Lightning's CSVLogger, whose rows are sparse; empty if there is no file.

    Only epochs with a training loss count: the evaluation of the best checkpoint after the last epoch is logged under
    an epoch of its own. Of several values of an epoch the first counts; values that are not finite are left out.
    """
    history: History = {}
    if not path.exists():
        return history
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            epoch = _finite(row.get("epoch"))
            for column, text in row.items():
                value = _finite(text)
                if epoch is not None and value is not None and column not in ("epoch", "step"):
                    history.setdefault(column, {}).setdefault(int(epoch) + 1, value)
    trained = history.get("train/loss", {})
    return {
        column: {epoch: value for epoch, value in sorted(values.items()) if epoch in trained}
        for column, values in history.items()
    }


def _finite(text: object) -> float | None:
    try:
        value = float(text) if isinstance(text, str) else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _number(value: float, digits: int = 4) -> str:
    return "\u2013" if value == _UNDEFINED or math.isnan(value) else f"{value:.{digits}f}"


def _section(title: str, body: str, *, note: str = "") -> str:
    small = f"<p class=note>{note}</p>" if note else ""
    return f"<section><h2>{escape(title)}</h2>{small}{body}</section>"


def _details(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def _header(title: str, facts: Mapping[str, str]) -> str:
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(fact)}</dd></div>" for name, fact in facts.items())
    return f"<header><h1>{escape(title)}</h1><dl>{rows}</dl></header>"


def _figures(numbers: Mapping[str, float], history: History, plan: ReportPlan, remarks: Mapping[str, str]) -> str:
    """The few numbers that people ask for first, in large digits."""
    figures = [
        (_number(numbers[big.name], big.digits), big.title, _remarked(big.note, remarks.get(big.name)))
        for big in plan.figures
        if big.name in numbers
    ]
    rates, peaks = (list(history.get(f"train/{name}", {}).values()) for name in (_SPEED, _MEMORY))
    rate = numbers.get(_SPEED, median(rates) if rates else None)
    peak = numbers.get(_MEMORY, max(peaks) if peaks else None)
    notes = {name: "" if name in numbers else "in training" for name in (_SPEED, _MEMORY)}
    if rate is not None:
        figures.append((f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}", "images/s", notes[_SPEED]))
    if peak is not None:
        text = f"{peak / 1000:.2f}<small> GB</small>" if peak >= 1000 else f"{peak:.0f}<small> MB</small>"
        figures.append((text, "peak memory", notes[_MEMORY]))
    tile = "<div><b>{}</b><span>{} <i>{}</i></span></div>"
    tiles = "".join(tile.format(value, name, escape(note)) for value, name, note in figures)
    return f"<section class=figures>{tiles}</section>" if tiles else ""


def _curves(history: History, plan: ReportPlan) -> str:
    def line(name: str, style: str, column: str) -> Line:
        points = history.get(column, {})
        return Line(name, style, {epoch: value for epoch, value in points.items() if value != _UNDEFINED})

    drawn = [[line(*curve[:3]) for curve in chart.curves] for chart in plan.charts]
    charts = [
        line_chart(chart.title, lines, least=chart.least, best=chart.best)
        for chart, lines in zip(plan.charts, drawn, strict=True)
    ]
    lines = [one for some in drawn for one in some]
    epochs = sorted({epoch for line in lines for epoch in line.points})
    if not epochs:
        return ""
    cells = ([str(epoch), *(_number(line.points.get(epoch, _UNDEFINED)) for line in lines)] for epoch in epochs)
    table = _table(("epoch", *(curve.head for chart in plan.charts for curve in chart.curves)), cells)
    return _section("Training", f"<div class=charts>{''.join(charts)}</div>{_details('The same as a table', table)}")


def _pictures(paths: Sequence[Path], *, note: str) -> str:
    figures = []
    for path in paths[:MAX_PICTURES]:
        small = _thumbnail(path)
        if small is None:
            logger.warning("report: %s could not be read and is left out", path)
            continue
        height, width = small.shape[:2]
        data = _encoded(small)
        name, size = escape(path.stem), f'width="{width}" height="{height}"'
        # Rows of equal height: every picture grows in proportion to its aspect.
        figures.append(
            f'<figure style="flex:{100 * width / height:.0f} 1 {210 * width / height:.0f}px">'
            f'<img {size} alt="{name}" src="data:image/jpeg;base64,{data}"><figcaption>{name}</figcaption></figure>'
        )
    if len(paths) > MAX_PICTURES:
        note += f" These are the first {MAX_PICTURES} pictures of {len(paths)}."
    return _section("Pictures", f"<div class=pictures>{''.join(figures)}</div>", note=note) if figures else ""


def _sheet(path: Path, sheet: Sheet) -> str:
    """A picture as wide as the page, with its title; empty if there is no such file."""
    if not path.exists():
        return ""
    image = _thumbnail(path, side=SHEET_SIDE)
    if image is None:
        logger.warning("report: %s could not be read and is left out", path)
        return ""
    height, width = image.shape[:2]
    # Diagrams have 150 pixels to an inch, for sharp screens; an inch of a page has 96.
    shown = width if path.suffix == ".jpg" else round(width * 96 / 150)
    kind = path.suffix.lstrip(".").replace("jpg", "jpeg")
    body = (
        f'<img width="{width}" height="{height}" '
        f'style="display:block;width:auto;height:auto;max-width:min(100%,{shown}px);border-radius:8px" '
        f'alt="{escape(sheet.title)}" src="data:image/{kind};base64,{_encoded(image, path.suffix)}">'
    )
    return _section(sheet.title, body, note=escape(sheet.note))


def _encoded(image: np.ndarray, suffix: str = ".jpg") -> str:
    """A picture as a file in base64."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 85] if suffix == ".jpg" else []
    return base64.b64encode(cv2.imencode(suffix, image, options)[1].tobytes()).decode()


def _thumbnail(path: Path, *, side: int = PICTURE_SIDE) -> np.ndarray | None:
    """uint8 [h, w, 3] BGR of at most so many pixels a side; None if the file is no picture."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError:
        return None
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        return None
    scale = min(1.0, side / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _remarked(text: str, remark: str | None) -> str:
    return f"{text}; {remark}" if remark else text


def _tables(numbers: Mapping[str, float], plan: ReportPlan, remarks: Mapping[str, str]) -> str:
    tables = []
    shown = {_SPEED, _MEMORY}
    for heads, rows in plan.tables:
        known = [row for row in rows if row[0] in numbers]
        shown.update(name for name, *_ in known)
        if known:
            cells = ([*row[1:-1], _remarked(row[-1], remarks.get(row[0])), _number(numbers[row[0]])] for row in known)
            tables.append(_table(heads, cells))
    shown.update(name for name in numbers if name.startswith(("top1/", "ap/")))  # the bars show them
    others = {name: _number(value) for name, value in numbers.items() if name not in shown}
    if not tables:
        return _section("Numbers", _table(("Number", "value"), others.items())) if others else ""
    note = ", ".join(f"{escape(name)} {value}" for name, value in others.items())
    body = f"<div class=tables>{''.join(tables)}</div>"
    return _section("Numbers", body + (f"<p class=also>{note}</p>" if note else ""))


def _classes(bars: Mapping[str, float], ticks: Mapping[str, float], plan: ReportPlan) -> str:
    """Bars, best class first; classes that do not occur come last, with a dash."""
    if not bars:
        return ""
    defined = [value for value in (*bars.values(), *ticks.values()) if value >= 0]
    full = max(math.ceil(max(defined, default=1.0) * 10 - 1e-9) / 10, 0.1)  # the value of a bar of full width
    rows = []
    for name in sorted(bars, key=lambda name: (-max(bars[name], -1.0), name)):
        value, value_50 = bars[name], ticks.get(name, -1.0)
        bar = f'<s style="width:{value / full:.1%}"></s>' if value >= 0 else ""
        tick = f'<u style="left:{value_50 / full:.1%}"></u>' if value_50 >= 0 else ""
        told = escape(f"{name}: {plan.bar} {_number(value)}" + (f", {plan.tick} {_number(value_50)}" if ticks else ""))
        rows.append(f'<li title="{told}"><span>{escape(name)}</span><i>{bar}{tick}</i><b>{_number(value, 3)}</b></li>')
    found = sum(value >= 0 for value in bars.values())
    key = f"<s></s> {plan.bar}" + (f" <u></u> {plan.tick}" if ticks else "")
    absent = f", {len(bars) - found} absent" if found < len(bars) else ""
    few = " few" if len(bars) <= 12 else ""
    note = f"<span class=key>{key}</span> {counted(len(bars), plan.bar_of)}{absent}; a full bar is {full:g}"
    return _section(plan.bars, f'<ol class="classes{few}">{"".join(rows)}</ol>', note=note)


def _commands(commands: Sequence[Sequence[str]]) -> str:
    lines = "\n".join(escape(shlex.join(command)) for command in commands)
    return _section("Reproduce", f"<pre>{lines}</pre>") if lines else ""
