"""Reads Labeled Faces in the Wild: pictures by name, and the pairs of its protocol in ten folds.

G. Huang, M. Ramesh, T. Berg, E. Learned-Miller, "Labeled Faces in the Wild", 2007. ``pairs.txt`` is its view 2.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnvision.annotations import PairedPictures, Pairs
from mnvision.data.archives import extract_once, is_archive
from mnvision.data.classes import choose_classes
from mnvision.data.labelled import encode_names
from mnvision.data.pairs import make_pairs
from mnvision.data.pictures import SUFFIXES
from mnvision.data.splits import VAL_SHARE, Split, split_rows
from mnvision.errors import UserError, file_error, line_error

log = logging.getLogger(__name__)

FOLDS = tuple(range(1, 11))
VAL_PAIRS = 6000  # the most pairs that are made for validation, as many as the protocol has


class Face(NamedTuple):
    """A person's name and the number of the picture, from 1 on."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name}/{self.name}_{self.number:04d}"


@dataclass(frozen=True)
class Protocol:
    """The pairs of a file, in its order.

    Attributes:
        pairs: The two pictures of each.
        same: bool [P].
        folds: int64 [P], from 0 on.
        lines: int64 [P], the line of each in the file.
    """

    pairs: Sequence[tuple[Face, Face]]
    same: np.ndarray
    folds: np.ndarray
    lines: np.ndarray


def read_pairs(file: str | Path) -> Protocol:
    """Read ``pairs.txt``, or ``pairsDevTrain.txt`` and ``pairsDevTest.txt``, which are one fold.

    The first line says how many folds there are, and how many pairs of each kind a fold has; of one fold the latter
    alone. Then each fold has its same pairs (``name 1 4``) and after them its different ones (``name 1 other 2``).

    Args:
        file: UTF-8; words set apart by tabs (or blanks).

    Raises:
        UserError: The file is missing, or a line (given by its number) is not what has to be there.
    """
    file = Path(file)
    if not file.is_file():
        raise UserError(f"LFW's pairs not found: {file}. Expected the protocol's pairs.txt; check the path")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise file_error(file, f"is not UTF-8 text ({error}). Get the protocol's file again") from error
    while lines and not lines[-1].strip():
        lines.pop()
    header = lines[0].split() if lines else []
    if not (1 <= len(header) <= 2 and all(re.fullmatch("[1-9][0-9]{0,5}", word) for word in header)):
        raise line_error(
            file,
            1,
            f"is {lines[0] if lines else ''!r}. Expected the number of folds and of the pairs of each kind in a fold,"
            " such as 10 and 300; or, of one fold, of its pairs of each kind",
        )
    folds, each = (1, int(header[0])) if len(header) == 1 else (int(header[0]), int(header[1]))
    total = 2 * folds * each
    got = len(lines) - 1
    count = min(got, total)
    same = np.arange(count) % (2 * each) < each
    pairs = [_pair(lines[i + 1], same=bool(same[i]), file=file, number=i + 2, each=each) for i in range(count)]
    if got != total:
        raise file_error(
            file,
            f"has {got} pairs, its first line promises {total} ({folds} folds of {each} same and {each} different"
            f" ones). {'Was it copied in full?' if got < total else 'Take out what was added, or correct that line'}",
        )
    return Protocol(pairs, same, np.arange(count) // (2 * each), np.arange(count) + 2)


def read_lfw(
    root: str | Path,
    pairs_file: str | Path,
    split: Split,
    *,
    test_folds: Sequence[int] = FOLDS,
    classes: Sequence[str] | None = None,
    val_share: float = VAL_SHARE,
    val_pairs: int = VAL_PAIRS,
    seed: int = 0,
) -> PairedPictures:
    """Read LFW so that nobody who is tested on is trained on.

    ``test`` has the pictures and pairs of some folds. ``train`` and ``val`` have all pictures of those people who are
    in no pair of these folds; a share of the people is held out for ``val``, with pairs made of them. No person is in
    two splits. Labels count the people of a split, by their names.

    Args:
        root: Folder with ``NAME/NAME_0001.jpg``, or an archive of it, which is unpacked once.
        pairs_file: See ``read_pairs``.
        split: Which part.
        test_folds: Numbers of the folds that are tested on, from 1 on; all ten are the whole protocol.
        classes: Names of the people to train on, of whom those for validation are held out; None: all others.
        val_share: Part of the other people that is for validation.
        val_pairs: The most pairs that are made of them.
        seed: Of which people, and of their pairs.

    Returns:
        Pictures by name, and their pairs, whose folds keep their place in the file; ``train`` has no pairs.

    Raises:
        UserError: The file or the pictures are missing or wrong, or nobody is left to train on; of ``classes``,
            somebody is not there (the nearest names are given), or is tested on.
    """
    protocol = read_pairs(pairs_file)
    folder, pictures = list_faces(root)
    there = int(protocol.folds.max()) + 1
    chosen = sorted(set(test_folds))
    if not chosen or not all(1 <= fold <= there for fold in chosen):
        raise UserError(f"LFW: the test folds are {list(test_folds)}. Expected numbers from 1 to {there}, one at least")
    rows = np.flatnonzero(np.isin(protocol.folds + 1, chosen))
    if split == "test":
        return _test_split(pictures, protocol, rows, folder=folder, file=Path(pairs_file))
    tested = {face.name for row in rows.tolist() for face in protocol.pairs[row]}
    free = np.array([name not in tested for name in pictures.classes])
    if free.sum() < 2:
        raise UserError(
            f"LFW: {free.sum()} of the {len(free)} people in {folder} are in no pair of the test folds"
            f" {', '.join(map(str, chosen))}, so that there is nobody to train on. Test on fewer folds, such as 10, or"
            " train on other faces"
        )
    if classes is not None:
        if both := [name for name in classes if name in tested]:
            raise UserError(
                f"data.classes: {', '.join(both[:5])} {'is' if len(both) == 1 else 'are'} in pairs of the test folds "
                f"{', '.join(map(str, chosen))}. Expected people who are not tested on: leave them out, or test on "
                "fewer folds"
            )
        learnt = choose_classes(pictures.classes, classes=classes, file=folder)
        free &= np.isin(np.arange(len(free)), learnt)
    # The people are held out like pictures of two classes, so that both splits have some with several pictures.
    several = np.bincount(pictures.labels, minlength=len(free)) > 1
    people = np.flatnonzero(free)
    held = people[split_rows(several[people].astype(np.int64), val_share, seed)]
    wanted = np.isin(np.arange(len(free)), held) if split == "val" else free & ~np.isin(np.arange(len(free)), held)
    chosen_pictures = _of_people(pictures, wanted)
    pairs = None
    if split == "val":
        pairs = make_pairs(chosen_pictures.labels, count=val_pairs, seed=seed, name=f"{folder}, validation")
    return replace(chosen_pictures, pairs=pairs)


def list_faces(root: str | Path) -> tuple[Path, PairedPictures]:
    """The folder of the pictures, and all of them by person: ``NAME/NAME_0001.jpg``, or of another kind of picture.

    Args:
        root: The folder, or an archive of it, which is unpacked once.

    Raises:
        UserError: There is no such folder, or no such picture in it.
    """
    root = Path(root).expanduser()
    folder = extract_once(root) if is_archive(root) else root
    if not folder.is_dir():
        raise UserError(f"folder not found: {folder}. Expected LFW's pictures, NAME/NAME_0001.jpg; check data.root")
    found = sorted(
        f"{person.name}/{file.name}"
        for person in folder.iterdir()
        if person.is_dir()
        for file in person.iterdir()
        if file.suffix.lower() in SUFFIXES and re.fullmatch(re.escape(person.name) + r"_\d{4,}", file.stem)
    )
    if not found:
        raise UserError(f"{folder}: there is no picture NAME/NAME_0001.jpg. Is it LFW's folder? Check data.root")
    people, labels = np.unique([name.split("/")[0] for name in found], return_inverse=True)
    names = encode_names(found, source=folder)
    return folder, PairedPictures(names, labels.astype(np.int64), tuple(people.tolist()))


def _pair(line: str, *, same: bool, file: Path, number: int, each: int) -> tuple[Face, Face]:
    """The pair in a line, which has to be of a kind: that is what the line's place says."""
    words = line.split("\t") if "\t" in line else line.split()
    words = [word.strip() for word in words]
    place = f"fold {(number - 2) // (2 * each) + 1}, the {'same' if same else 'different'} pairs"
    form = "NAME NUMBER NUMBER" if same else "NAME NUMBER OTHER_NAME NUMBER"
    if len(words) == (4 if same else 3) and all(word.isdecimal() for word in words[1::2] or words[1:]):
        kinds = ("a different pair", "same ones") if same else ("a same pair", "different ones")
        raise line_error(
            file,
            number,
            f"is {kinds[0]} where {kinds[1]} are due ({place}): {line!r}. Expected {form}: in each fold {each} pairs of"
            f" the same person come first, then {each} of different ones, as the first line says",
        )
    if len(words) != (3 if same else 4):
        raise line_error(file, number, f"has {len(words)} words, expected {form} ({place}): {line!r}. Correct the line")
    name, other, numbers = (words[0], words[0], words[1:]) if same else (words[0], words[2], words[1::2])
    if not all(re.fullmatch("[0-9]{1,6}", word) and int(word) for word in numbers):
        raise line_error(file, number, f"is {line!r}, expected {form}, numbers from 1 on ({place}). Correct the line")
    pair = Face(name, int(numbers[0])), Face(other, int(numbers[1]))
    if (same and pair[0] == pair[1]) or (not same and name == other):
        what = "a picture with itself" if same else "two pictures of one person as different"
        raise line_error(file, number, f"pairs {what} ({place}): {line!r}. Correct the line")
    return pair


def _test_split(
    pictures: PairedPictures, protocol: Protocol, rows: np.ndarray, *, folder: Path, file: Path
) -> PairedPictures:
    """The pictures of some pairs of the protocol, and these pairs."""
    place_of = {pictures.file_name(i).rsplit(".", 1)[0]: i for i in range(len(pictures))}
    faces = [face for row in rows.tolist() for face in protocol.pairs[row]]
    missing = [i for i, face in enumerate(faces) if str(face) not in place_of]
    if missing:
        face = faces[missing[0]]
        others = len({str(faces[i]) for i in missing}) - 1
        raise line_error(
            file,
            int(protocol.lines[rows[missing[0] // 2]]),
            f"names {face}.jpg, which is not in {folder}"
            + (f"; {others} more pictures of the pairs are missing" if others else "")
            + ". Expected every picture that a pair names: is the folder complete?",
        )
    places = np.array([place_of[str(face)] for face in faces], dtype=np.int64).reshape(-1, 2)
    pairs = Pairs(places[:, 0], places[:, 1], protocol.same[rows], protocol.folds[rows])
    taken = replace(pictures, pairs=pairs).take(np.unique(places))
    return _renumbered(taken)


def _of_people(pictures: PairedPictures, people: np.ndarray) -> PairedPictures:
    """All pictures of some people, bool [K]."""
    return _renumbered(pictures.take(people[pictures.labels]))


def _renumbered(pictures: PairedPictures) -> PairedPictures:
    """The same pictures, their labels counting only the people that there are."""
    there, labels = np.unique(pictures.labels, return_inverse=True)
    names = tuple(pictures.classes[label] for label in there.tolist())
    return replace(pictures, labels=labels.astype(np.int64), classes=names)
