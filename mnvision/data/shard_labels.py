"""What a sample of a shard means: its picture and its label; and the count of those that mean nothing."""

from __future__ import annotations

import logging
import re
from collections.abc import Container, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import get_worker_info

from mnvision.data.pictures import SUFFIXES
from mnvision.data.tar import Sample
from mnvision.errors import UserError

log = logging.getLogger(__name__)

# What may become of a sample. Without an index, nobody knows how many a lost shard held: it then counts as one.
KINDS = {
    "missing": "in shards that cannot be had",
    "truncated": "in shards that end too early",
    "damaged": "behind damage in a shard",
    "no_picture": "without a picture",
    "no_label": "without a label",
    "bad_label": "with a label that cannot be used",
    "unreadable": "with a picture that cannot be decoded",
}
_REPEATED = len(KINDS)
_ROWS = 256  # workers that count without meeting in a number


class BadSampleError(Exception):
    """A sample that cannot be used, and which of `KINDS` it is."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def picture_of(sample: Sample) -> bytes:
    """The bytes of a sample's picture: the member ``jpg``, ``png``, ..., else the first that ends so.

    Raises:
        BadSampleError: There is none.
    """
    named = sorted(sample.members, key=lambda suffix: "." in suffix)
    for suffix in named:
        if f".{suffix.rpartition('.')[2].lower()}" in SUFFIXES:
            return sample.members[suffix]
    raise BadSampleError("no_picture", f"it holds {', '.join(sample.members)} and no picture")


class SampleReader(Protocol):
    """Reads what is known of a sample beside its picture."""

    @property
    def members(self) -> Container[str]:
        """The members that say it, by what their names end in."""

    @property
    def expected(self) -> str:
        """What to look for in shards without it, for a message."""

    def __call__(self, sample: Sample) -> Any:
        """The label.

        Raises:
            BadSampleError: There is none, or it cannot be used.
        """


def bad_shard(location: str, reason: object) -> UserError:
    """What is wrong with a shard or a sample of it where nothing may be lost, to be raised."""
    return UserError(f"{location}: {reason}. Repair it, or data.bad_images=skip goes on without it")


class LabelReader:
    """The class of a sample: its member ``cls``, or what its key says.

    Args:
        classes: Class names; None where only their number is known.
        num_classes: K, where there are no names; None takes any label from 0 on.
        label_from: A regular expression that is searched for in the key; its first group is a class name or, where no
            class is called so, the label. None reads the member ``cls``.
    """

    members = ("cls",)
    expected = "KEY.cls, or data.label_from"

    def __init__(self, *, classes: Sequence[str] | None, num_classes: int | None = None, label_from: str | None = None):
        self._label_of = {name: label for label, name in enumerate(classes or ())}
        self._count = len(classes) if classes is not None else num_classes
        self._pattern: re.Pattern[str] | None = None
        if label_from is not None:
            try:
                self._pattern = re.compile(label_from)
            except re.error as error:
                raise UserError(f"data.label_from={label_from!r} is no regular expression: {error}") from None
            if self._pattern.groups < 1:
                raise UserError(
                    f"data.label_from={label_from!r} has no group. Expected one around the label: '^([0-9]+)_'"
                )

    def __call__(self, sample: Sample) -> int:
        """The label, 0..K-1.

        Raises:
            BadSampleError: There is none, or it is no class.
        """
        text = self._text(sample)
        label = self._label_of.get(text) if self._pattern is not None else None
        if label is None:
            if not re.fullmatch(r"[0-9]{1,9}", text):
                raise BadSampleError("bad_label", f"its label is {text[:40]!r}, expected a number from 0 on")
            label = int(text)
        if self._count is not None and label >= self._count:
            raise BadSampleError("bad_label", f"its label is {label}, but there are {self._count} classes, from 0 on")
        return label

    def _text(self, sample: Sample) -> str:
        if self._pattern is None:
            if "cls" not in sample.members:
                raise BadSampleError("no_label", "it has no member cls")
            return sample.members["cls"].decode("utf-8", "replace").strip()
        match = self._pattern.search(sample.key)
        if match is None or match[1] is None:
            raise BadSampleError("no_label", f"label_from {self._pattern.pattern!r} finds nothing in its key")
        return match[1]


class Losses:
    """How many samples were lost to what, in memory that the loading processes share.

    Args:
        shards: Number of shards; the first loss in each is logged.
    """

    def __init__(self, shards: int):
        self._counts = torch.zeros(_ROWS, len(KINDS) + 1, dtype=torch.int64).share_memory_()
        self._warned = torch.zeros(shards, dtype=torch.bool).share_memory_()
        self._reported = torch.zeros(len(KINDS) + 1, dtype=torch.int64)

    def add(self, kind: str, *, shard: int, name: str, reason: str, samples: int = 1) -> None:
        """Count lost samples, and warn if they are the first of their shard."""
        self._counts[_row(), list(KINDS).index(kind)] += samples
        if not self._warned[shard]:
            self._warned[shard] = True
            log.warning("%s: %s; what cannot be used of this shard is skipped and counted", name, reason)

    def add_repeated(self) -> None:
        """Count a sample that is shown in place of a lost one."""
        self._counts[_row(), _REPEATED] += 1

    def report(self) -> dict[str, int]:
        """Log what was lost since the last report, and return the number of each kind."""
        counts = self._counts.sum(dim=0)
        new = (counts - self._reported).tolist()
        self._reported = counts
        found = {kind: number for kind, number in zip(KINDS, new, strict=False) if number}
        if found:
            text = ", ".join(f"{number:,} {KINDS[kind]}" for kind, number in found.items())
            again = f"; {new[_REPEATED]:,} others were shown again in their place" if new[_REPEATED] else ""
            log.warning("%d samples of shards skipped: %s%s", sum(found.values()), text, again)
        return {kind: found.get(kind, 0) for kind in KINDS}


def _row() -> int:
    worker = get_worker_info()
    return 0 if worker is None else (worker.id + 1) % _ROWS
