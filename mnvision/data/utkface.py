"""Reads UTKFace: pictures of faces whose names say age, gender and race.

Zhang, Song, Qi, "Age Progression/Regression by Conditional Adversarial Autoencoder", CVPR 2017. The codes of its names:
gender 0 male, 1 female; race 0 White, 1 Black, 2 Asian, 3 Indian, 4 others.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from mnvision.annotations import LabelledPictures
from mnvision.data.attribute_values import check_attributes, part_of_groups
from mnvision.data.folders import read_unlabelled
from mnvision.data.splits import Split
from mnvision.errors import UserError

log = logging.getLogger(__name__)

DECADES = tuple(f"age_{age}_{age + 9}" for age in range(0, 80, 10)) + ("age_80_up",)
RACES = ("white", "black", "asian", "indian", "other_race")
ATTRIBUTES = ("female", *DECADES, *RACES)

_NAME = re.compile(r"([0-9]{1,3})_((?:[0-9]*_)*)([0-9]{8,})(?: *(?:\.|jpg).*)?")
_SHOWN = 10  # names in a message


class Person(NamedTuple):
    """What a name says; None where it does not. ``date`` tells when the picture was taken from the web."""

    age: int
    gender: int | None
    race: int | None
    date: str

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.gender is not None and self.race is not None


def read_utkface(root: str | Path, split: Split, *, val_share: float, seed: int) -> LabelledPictures:
    """Read UTKFace; its pictures lie in a folder, at any depth.

    The attributes are ``female``, one for each decade of age and one for each race. Of a name that lacks gender or
    race, what is missing is not known; a file whose name has no age and date is left out. Both are reported.

    Pictures of one date (to the millisecond) stay together, in training or in validation: some of them are of one
    photograph.

    Args:
        root: The folder; file names are relative to it.
        split: ``val`` is a share of the pictures, ``train`` the rest.
        val_share: That share.
        seed: Of the split.

    Raises:
        UserError: There is no picture with such a name, or the test split is asked for.
    """
    root = Path(root)
    found = read_unlabelled(root)
    people = [parse_name(PurePosixPath(found.file_name(row)).name) for row in range(len(found))]
    _report(found, [row for row, one in enumerate(people) if one is None], what="left out, no age and date in the name")
    rows = [row for row, one in enumerate(people) if one is not None]
    _report(
        found,
        [row for row, one in enumerate(people) if one is not None and not one.complete],
        what="kept, with gender or race unknown, which the name lacks",
    )
    if not rows:
        raise UserError(
            f"{root}: no picture is called AGE_GENDER_RACE_DATE, such as 26_1_0_20170116174525125.jpg.chip.jpg."
            " Expected UTKFace; check data.root"
        )
    known = [one for one in people if one is not None]
    pictures = LabelledPictures(found.file_names[rows], np.stack([labels_of(one) for one in known]), ATTRIBUTES)
    pictures = part_of_groups(
        pictures, split, groups=np.array([one.date for one in known]), share=val_share, seed=seed, name=str(root)
    )
    return check_attributes(pictures, folder=root, source=root)


def parse_name(name: str) -> Person | None:
    """What the name of a picture says; None where it is of another kind.

    Of a single number between age and date, 0 and 1 may be gender or race, so that neither is known; 2, 3 and 4 can
    only be a race. A field that is there and empty is not known. Some names of the whole set have a blank after the
    date, or lack the point there.

    >>> parse_name("26_1_0_20170116174525125.jpg.chip.jpg")
    Person(age=26, gender=1, race=0, date='20170116174525125')
    >>> parse_name("61_3_20170109150557335.jpg.chip.jpg")
    Person(age=61, gender=None, race=3, date='20170109150557335')
    >>> parse_name("53__0_20170116184028385.jpg")
    Person(age=53, gender=None, race=0, date='20170116184028385')
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    age, date = int(match[1]), match[3]
    numbers = [int(word) if word else None for word in match[2].split("_")[:-1]]
    genders, races = range(2), range(len(RACES))
    if len(numbers) == 1:
        numbers, races = [None, *numbers], range(2, len(RACES))
    if len(numbers) != 2:
        return Person(age, None, None, date)
    gender, race = numbers
    return Person(age, gender if gender in genders else None, race if race in races else None, date)


def labels_of(person: Person) -> np.ndarray:
    """``ATTRIBUTES`` of a person, float32 [15]: 0, 1, NaN."""
    gender = np.array([np.nan if person.gender is None else person.gender])
    age = np.eye(len(DECADES))[min(person.age // 10, len(DECADES) - 1)]
    race = np.full(len(RACES), np.nan) if person.race is None else np.eye(len(RACES))[person.race]
    return np.concatenate([gender, age, race]).astype(np.float32)


def _report(found: LabelledPictures, rows: list[int], *, what: str) -> None:
    if rows:
        names = ", ".join(PurePosixPath(found.file_name(row)).name for row in rows[:_SHOWN])
        log.warning("%d malformed names (%s): %s%s", len(rows), what, names, ", ..." if len(rows) > _SHOWN else "")
