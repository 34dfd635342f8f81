"""The numbers of attributes as text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mnvision.metrics.attributes import ATTRIBUTE_NUMBERS, AttributeRow

_MEANINGS = {
    "mean_ap": "average precision, mean over the attributes",
    "balanced_accuracy": "mean of the right shares of present and absent, at 0.5",
    "cross_entropy": "binary cross-entropy, mean over the attributes",
}


def number_table(numbers: Mapping[str, float]) -> str:
    """The few numbers, each with what it is; a dash where one is undefined."""
    wide, told = max(map(len, ATTRIBUTE_NUMBERS)), max(map(len, _MEANINGS.values()))
    return "\n".join(
        f"{name:<{wide}} {_MEANINGS[name]:<{told}} {_text(numbers[name]):>8}"
        for name in ATTRIBUTE_NUMBERS
        if name in numbers
    )


def attribute_table(rows: Sequence[AttributeRow], *, ends: int | None = None) -> str:
    """Each attribute's numbers, best average precision first; those that nobody has come last, with dashes.

    Args:
        rows: As :meth:`AttributeMetric.per_attribute` gives them.
        ends: Show only so many of the best and of the worst; all by default.
    """
    width = max((len(row.name) for row in rows), default=0)
    lines = [
        f"{row.name:<{width}} {_text(row.ap):>8} {_text(row.share):>8} {_text(row.balanced_accuracy):>8}"
        f" {_text(row.cross_entropy):>8} {row.pictures:>8}"
        for row in sorted(rows, key=lambda row: -row.ap)
    ]
    if ends is not None and (hidden := len(lines) - 2 * ends) > 0:
        lines[ends : ends + hidden] = [f"... {hidden} more"]
    head = f"{'':<{width}} {'ap':>8} {'chance':>8} {'balanced':>8} {'entropy':>8} {'pictures':>8}"
    return "\n".join([head, *lines])


def _text(value: float) -> str:
    return f"{value:.4f}" if value >= 0 else "-"
