"""The faces that mnvision draws for itself: people told apart by their features, and attributes of each picture.

They need no download, so that embeddings and attributes can be learnt in minutes before real data are at hand.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from mnvision.data.face_parts import Identity, Shot, draw_face
from mnvision.data.generated import make_once, write_jpeg
from mnvision.errors import UserError
from mnvision.files import csv_text

# The first of them belong to a person, the others to a picture.
ATTRIBUTES = (
    *("bald", "beard", "blond_hair", "freckles", "fringe", "long_hair", "moustache", "thick_brows"),
    *("closed_eyes", "earrings", "glasses", "hat", "open_mouth", "smiling"),
)
STAMP, TABLE = "drawn_faces.json", "attributes.csv"

_FORMAT = 1  # raise it when the same parameters give other pictures
_SPLITS = {"train": 1, "val": 2}
_UNKNOWN = 0.03  # of the values are left out of the table


def faces_folder_name(*, seed: int, train_identities: int, val_identities: int, pictures: int) -> str:
    """A folder name that tells sets of different parameters apart, such as ``v1-seed0-120+40x20``."""
    return f"v{_FORMAT}-seed{seed}-{train_identities}+{val_identities}x{pictures}"


def make_faces(folder: str | Path, *, seed: int, train_identities: int, val_identities: int, pictures: int) -> Path:
    """Make the data set in a folder, unless it is there already.

    The same parameters give the same bytes; see `mnvision.data.generated.make_once`. A person depends on the seed, the
    split and the number alone, so that no person of the validation occurs in training.

    Of the attributes, 3 % at random are not known, and whether somebody in a hat is bald or has a fringe is not either.

    Args:
        folder: Gets ``train/PERSON/NN.jpg`` and ``val/PERSON/NN.jpg``, pictures of 112 x 112 pixels;
            ``attributes.csv`` with the column ``file`` and one for each of ``ATTRIBUTES``: 1, 0, or empty where it is
            not known; and ``drawn_faces.json``, which records the parameters.
        seed: Of people and pictures.
        train_identities: Number of people in training.
        val_identities: Number of other people, in validation.
        pictures: Of each person in training; in validation half as many, rounded up.

    Returns:
        ``folder``.

    Raises:
        UserError: A number is too small; or as ``make_once``.
    """
    if min(train_identities, val_identities) < 1 or pictures < 2:
        raise UserError(
            f"cannot draw {pictures} faces of each of {train_identities} + {val_identities} people: expected at least"
            " one person in each split (data.train_identities, data.val_identities) and two pictures (data.pictures)"
        )
    counts = {"train": (train_identities, pictures), "val": (val_identities, (pictures + 1) // 2)}
    return make_once(
        Path(folder),
        name="drawn_faces",
        parameters={
            "format": _FORMAT,
            "seed": seed,
            "train_identities": train_identities,
            "val_identities": val_identities,
            "pictures": pictures,
        },
        stamp=STAMP,
        count=" + ".join(f"{people * each}" for people, each in counts.values()),
        fill=functools.partial(_fill, counts=counts, seed=seed),
    )


def _fill(folder: Path, *, counts: dict[str, tuple[int, int]], seed: int) -> None:
    """Draw all pictures and write their table."""
    rows: list[list[str]] = [["file", *ATTRIBUTES]]
    for split, (people, pictures) in counts.items():
        for number in range(people):
            key = (seed, _SPLITS[split], number)
            person = Identity.draw(np.random.default_rng(key))
            name = f"{split}/{split}{number:04d}"
            (folder / name).mkdir(parents=True)
            for picture in range(pictures):
                rng = np.random.default_rng((*key, picture + 1))
                shot = Shot.draw(rng, person)
                file = f"{name}/{picture:02d}.jpg"
                write_jpeg(folder / file, draw_face(person, shot, rng))
                known = rng.random(len(ATTRIBUTES)) >= _UNKNOWN
                values = _values(person, shot)
                rows.append(
                    [file, *(_cell(values[one], is_known) for one, is_known in zip(ATTRIBUTES, known, strict=True))]
                )
    (folder / TABLE).write_text(csv_text(rows))


def _values(person: Identity, shot: Shot) -> dict[str, bool | None]:
    """The attributes of a picture; None where they cannot be seen."""
    return {
        "bald": None if shot.hat else person.bald,
        "beard": person.beard,
        "blond_hair": person.blond and not person.bald,
        "freckles": len(person.freckles) > 0,
        "fringe": None if shot.hat else person.fringe and not person.bald,
        "long_hair": person.long and not person.bald,
        "moustache": person.moustache,
        "thick_brows": person.thick_brows,
        "closed_eyes": shot.closed_eyes,
        "earrings": shot.earrings,
        "glasses": shot.glasses,
        "hat": shot.hat,
        "open_mouth": shot.open_mouth,
        "smiling": shot.smiling,
    }


def _cell(value: bool | None, known: bool) -> str:
    return "" if value is None or not known else str(int(value))
