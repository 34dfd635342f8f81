"""Splitting pictures for training and validation where their data set does not."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from mnvision.annotations import LabelledPictures
from mnvision.errors import UserError, did_you_mean, file_error

log = logging.getLogger(__name__)

VAL_SHARE = 0.1
Split = Literal["train", "val", "test"]


def split_rows(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which pictures to hold out, class by class, the same on every machine.

    Of a class with n pictures, ``share * n`` are held out, rounded (halves up), but at least one, and never the last
    one: of a single picture none is. Which ones depends on n and the seed alone (those with the smallest of n numbers
    drawn by ``numpy.random.default_rng(seed)``), so that leaving a class out or numbering the classes otherwise leaves
    the others as they are. Pictures without a class (-1) are split like a class.

    Args:
        labels: int [I].
        share: Part to hold out, above 0 and below 1.
        seed: An integer from 0 on.

    Returns:
        bool [I], True for the pictures to hold out.

    Raises:
        UserError: Share or seed is out of range.
    """
    if not 0 < share < 1:
        raise UserError(f"data.val_share is {share}. Expected the part to hold out, above 0 and below 1, such as 0.1")
    if seed < 0:
        raise UserError(f"the seed of the split is {seed}. Expected 0 or more")
    held = np.zeros(len(labels), dtype=bool)
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=np.nan)) if len(labels) else np.zeros(0, dtype=np.int64)
    for rows in np.split(order, starts[1:]):
        count = min(len(rows) - 1, max(1, int(share * len(rows) + 0.5)))
        drawn = np.random.default_rng(seed).random(len(rows))
        held[rows[np.argsort(drawn, kind="stable")[: max(0, count)]]] = True
    return held


def part_of(pictures: LabelledPictures, split: Split, *, share: float, seed: int, name: str) -> LabelledPictures:
    """The training or validation part of pictures that come without a split, see `split_rows`.

    The split does not depend on the order of the pictures: they are counted in the order of their names.

    Args:
        pictures: All of them.
        split: Which part.
        share: Part of the pictures that is for validation.
        seed: Of the split.
        name: What to call the pictures in an error.

    Raises:
        UserError: The test split is asked for: nothing is held out for it. Share or seed is out of range.
    """
    if split == "test":
        raise UserError(
            f"{name}: there is no test split. Expected pictures set apart for it; without them only train and val are"
            " made, so use split=val, or give pictures of their own as data.test (a folder or a list)"
        )
    order = np.argsort(pictures.file_names, kind="stable")
    held = np.zeros(len(pictures), dtype=bool)
    held[order] = split_rows(pictures.labels[order], share, seed)
    if split == "val":
        log.info("held out for validation: %d of %d (data.val_share=%g)", held.sum(), len(pictures), share)
    return pictures.take(held if split == "val" else ~held)


class HoldOut(Protocol):
    """Parts pictures that come without a split, as `part_of` does."""

    def __call__(
        self, pictures: LabelledPictures, split: Split, *, share: float, seed: int, name: str
    ) -> LabelledPictures:
        """The training or the validation part."""


def warn_of_words(said: Iterable[str], *, words: Sequence[str], file: Path) -> None:
    """Say which rows of a list are of no split, since its column for that says none of the words."""
    strange = Counter(said)
    rows = strange.total()
    for word in words:
        strange.pop(word, None)
    if strange:
        [(word, _)] = strange.most_common(1)
        log.warning(
            "%s: of no split and left out: %d of %d rows, most of which say %r%s Expected one of %s",
            *(file, strange.total(), rows, word, did_you_mean(word, words) or ".", ", ".join(words)),
        )


def take_split(
    pictures: LabelledPictures,
    split: Split,
    *,
    said: list[str] | None,
    words: tuple[str, str, str],
    share: float,
    seed: int,
    file: Path,
    hold_out: HoldOut = part_of,
) -> LabelledPictures:
    """The pictures of one split of a list.

    Args:
        pictures: All of the list.
        split: Which part.
        said: What its column for the split says of each; None: it has none, and a share is held out.
        words: What that column says for train, val and test.
        share: Part to hold out.
        seed: Of what is held out.
        file: The list, for the messages.
        hold_out: What holds a share out.

    Raises:
        UserError: There is no picture of that split.
    """
    if said is None:
        return hold_out(pictures, split, share=share, seed=seed, name=str(file))
    warn_of_words(said, words=words, file=file)
    train, val, test = words
    held_out = val not in said and split != "test"
    word = {"train": train, "val": train if held_out else val, "test": test}[split]
    if word not in said:
        raise file_error(file, f"has no picture of the split {word!r}. Its splits: {', '.join(sorted(set(said)))}")
    pictures = pictures.take(np.array(said) == word)
    return hold_out(pictures, split, share=share, seed=seed, name=str(file)) if held_out else pictures
