"""The numbers of a classifier as text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mnvision.metrics.classification import BINS, CLASSIFICATION_NUMBERS, ClassRow, Confusion

_MEANINGS = {
    "top1": "pictures whose class comes first",
    "top5": "pictures whose class is among the best five",
    "top1_per_class": "mean of the classes' own top1",
    "ece": f"calibration error, {BINS} bins",
    "nll": "negative logarithm of the right class's probability",
}


def classification_table(numbers: Mapping[str, float]) -> str:
    """The few numbers, each with what it is; a dash where one is undefined."""
    wide = max(map(len, CLASSIFICATION_NUMBERS))
    told = max(map(len, _MEANINGS.values()))
    return "\n".join(
        f"{name:<{wide}} {_MEANINGS[name]:<{told}} {_text(numbers[name]):>8}"
        for name in CLASSIFICATION_NUMBERS
        if name in numbers
    )


def accuracy_table(rows: Sequence[ClassRow], *, ends: int | None = None) -> str:
    """Each class's numbers, best first; classes that do not occur come last, with dashes.

    Args:
        rows: As :meth:`ClassificationMetric.per_class` gives them.
        ends: Show only so many of the best and of the worst classes that occur; all classes by default.
    """
    ordered = sorted(rows, key=lambda row: -row.accuracy)
    width = max((len(row.name) for row in rows), default=0)
    lines = [
        f"{row.name:<{width}} {_text(row.accuracy):>8} {_text(row.precision):>9} {_text(row.f1):>8} {row.pictures:>8}"
        for row in ordered
    ]
    if ends is not None:
        lines = lines[: sum(row.pictures > 0 for row in rows)]
        hidden = len(lines) - 2 * ends
        if hidden > 0:
            lines[ends : ends + hidden] = [f"... {hidden} more"]
    return "\n".join([f"{'':<{width}} {'top1':>8} {'precision':>9} {'f1':>8} {'pictures':>8}", *lines])


def confusion_table(confusions: Sequence[Confusion], names: Sequence[str]) -> str:
    """A line for each pair of classes, such as ``beagle -> basset  7 of 40``; empty if there are none."""
    width = max((len(names[one.truth]) for one in confusions), default=0)
    wide = max((len(names[one.prediction]) for one in confusions), default=0)
    digits = max((len(str(one.pictures)) for one in confusions), default=0)
    return "\n".join(
        f"{names[one.truth]:<{width}} -> {names[one.prediction]:<{wide}}  {one.pictures:>{digits}} of {one.total}"
        for one in confusions
    )


def _text(value: float) -> str:
    return f"{value:.4f}" if value >= 0 else "-"
