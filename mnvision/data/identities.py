"""Splits by identity: whoever is measured on was never trained on."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from mnvision.annotations import LabelledPictures
from mnvision.data.splits import Split
from mnvision.errors import UserError
from mnvision.wording import counted

log = logging.getLogger(__name__)


def hold_out_identities(
    pictures: LabelledPictures, split: Split, *, share: float, seed: int, name: str
) -> LabelledPictures:
    """The training or validation part of pictures that come without a split: each identity is wholly in one.

    ``share`` of the identities is held out, rounded (halves up), at least two, so that there are different ones to tell
    apart, and at most all but two. Of those with several pictures, which pairs need, as large a share is held out as of
    those with one. Which ones depends on the sorted names, on who has several pictures, and on the seed.

    Args:
        pictures: All of them.
        split: Which part.
        share: Part of the identities that is for validation.
        seed: Of the split.
        name: What to call the pictures in an error.

    Raises:
        UserError: The test split is asked for, the share is out of range, or there are fewer than four identities.
    """
    if split == "test":
        raise UserError(
            f"{name}: there is no test split. Expected identities set apart for it, in a folder or list of their own;"
            " without them only train and val are made, so use split=val"
        )
    if not 0 < share < 1:
        raise UserError(f"data.val_share is {share}. Expected the part to hold out, above 0 and below 1, such as 0.1")
    count = len(pictures.classes)
    if count < 4:
        raise UserError(
            f"{name}: {counted(count, 'identity')}. Expected four or more, of which some are held out for measuring; "
            "give pictures of other identities as data.val"
        )
    ranks = np.argsort(np.array(pictures.classes), kind="stable")
    several = np.bincount(pictures.labels[pictures.labels >= 0], minlength=count)[ranks] > 1
    order = np.random.default_rng(seed).permutation(count)
    kinds = [order[several[order]], order[~several[order]]]
    places = np.concatenate([np.arange(len(kind)) / max(1, len(kind)) for kind in kinds])
    order = np.concatenate(kinds)[np.argsort(places, kind="stable")]  # both kinds evenly spread, in their random order
    drawn = order[: min(count - 2, max(2, int(share * count + 0.5)))]
    held = np.isin(pictures.labels, ranks[drawn])
    if split == "val":
        log.info("held out for validation: %d of %d identities (data.val_share=%g)", len(drawn), count, share)
    return present_alone(pictures.take(held if split == "val" else ~held))


def present_alone(pictures: LabelledPictures) -> LabelledPictures:
    """The same pictures under a table of the identities that they have, in its order."""
    present = np.unique(pictures.labels[pictures.labels >= 0])
    table = np.full(len(pictures.classes) + 1, -1, dtype=np.int64)  # the last place is that of label -1
    table[present] = np.arange(len(present))
    return replace(
        pictures, labels=table[pictures.labels], classes=tuple(pictures.classes[label] for label in present.tolist())
    )
