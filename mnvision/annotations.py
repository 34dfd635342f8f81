"""What is known of the pictures of a split, as flat arrays: boxes, classes, attributes, identities, places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Annotations:
    """All pictures and boxes of a detection split as flat arrays.

    A list of Python objects would be copied page by page into every data worker as its reference counts change;
    a few arrays stay shared. The boxes of picture ``i`` are rows ``offsets[i]:offsets[i + 1]``.

    Attributes:
        image_ids: int64 [I].
        file_names: bytes [I], UTF-8, relative to the picture folder.
        sizes: int32 [I, 2] (height, width) in pixels, as the file states them.
        offsets: int64 [I + 1].
        boxes: float64 [N, 4] xyxy in original pixels, as the file states them.
        labels: int64 [N], 1..K.
        areas: float64 [N], square pixels, as the file states them (a segment's area where it has one).
        crowd: bool [N].
        usable: bool [N]; False for a degenerate box: kept for evaluation, never trained on.
        classes: K class names.
        category_ids: K ids as in the file, in the order of ``classes``.
    """

    image_ids: np.ndarray
    file_names: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    usable: np.ndarray
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.image_ids)

    def rows(self, index: int) -> slice:
        """The rows of picture ``index`` in the per-box arrays."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def file_name(self, index: int) -> str:
        """The file name of picture ``index``, relative to the picture folder."""
        return bytes(self.file_names[index]).decode("utf-8")


@dataclass(frozen=True, eq=False)
class LabelledPictures:
    """All pictures of a split with one class each, or with attributes, as flat arrays: see ``Annotations`` for why.

    Attributes:
        file_names: bytes [I], UTF-8, relative to the picture folder; or the names of the pictures in ``pixels``.
        labels: int64 [I], 0..K-1; -1 where the class is not known. Of attributes float32 [I, A], 0 or 1; NaN likewise.
        classes: K class names, or A names of attributes.
        boxes: float64 [I, 4] xyxy in original pixels, around the object of each picture; None where there are none.
        pixels: uint8 [I, H, W, 3] RGB, where the pictures are no files of their own (CIFAR's binary files).
    """

    file_names: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    boxes: np.ndarray | None = None
    pixels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def file_name(self, index: int) -> str:
        """The file name of picture ``index``, relative to the picture folder."""
        return bytes(self.file_names[index]).decode("utf-8")

    def take(self, rows: np.ndarray) -> LabelledPictures:
        """Some of the pictures, by index or by a mask [I]; the classes stay."""
        arrays = (None if array is None else array[rows] for array in (self.boxes, self.pixels))
        return LabelledPictures(self.file_names[rows], self.labels[rows], self.classes, *arrays)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of pictures of a split, each of which shows the same thing twice or two different ones.

    Attributes:
        first: int64 [P], the place in the split of the one picture of each pair.
        second: int64 [P], that of the other one.
        same: bool [P], whether both show the same.
        folds: int64 [P], 0..F-1: the parts of which each is tested with the threshold that the others choose. A number
            may be left out: the pairs of LFW's fold 10 alone are those of fold 9.
    """

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    folds: np.ndarray

    def __len__(self) -> int:
        return len(self.same)

    def take(self, rows: np.ndarray) -> Pairs:
        """Some of the pairs, by index or by a mask [P]; their pictures and folds stay."""
        return Pairs(self.first[rows], self.second[rows], self.same[rows], self.folds[rows])


@dataclass(frozen=True, eq=False)
class PairedPictures(LabelledPictures):
    """Pictures of a split whose labels are identities, and the pairs of them that verification is measured on.

    Attributes:
        pairs: None where there are none, as in a training split.
    """

    pairs: Pairs | None = None

    def take(self, rows: np.ndarray) -> PairedPictures:
        """Some of the pictures, by index or by a mask [I]; a pair stays where both of its pictures do.

        A picture that is taken twice stands in the pairs with its first place.
        """
        chosen = np.arange(len(self))[rows]
        taken = super().take(chosen)
        pairs = None
        if self.pairs is not None:
            places = np.full(len(self), -1, dtype=np.int64)
            places[chosen[::-1]] = np.arange(len(chosen))[::-1]
            first, second = places[self.pairs.first], places[self.pairs.second]
            moved = Pairs(first, second, self.pairs.same, self.pairs.folds)
            pairs = moved.take((first >= 0) & (second >= 0))
        return PairedPictures(taken.file_names, taken.labels, taken.classes, taken.boxes, taken.pixels, pairs)


@dataclass(frozen=True, eq=False, kw_only=True)
class PlacedPictures(LabelledPictures):
    """All pictures of a split with the places where they were taken; their classes are cells of the earth.

    Attributes:
        coordinates: float64 [I, 2], latitude and longitude in degrees; those of a label of -1 lie in no cell.
        constants: float64 [D, 2], the constant answers to beat, see ``ops.geo.best_constants``; None: not known.
    """

    coordinates: np.ndarray
    constants: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> PlacedPictures:
        """Some of the pictures, by index or by a mask [I]; the classes stay."""
        arrays = (None if array is None else array[rows] for array in (self.boxes, self.pixels))
        return PlacedPictures(
            self.file_names[rows],
            self.labels[rows],
            self.classes,
            *arrays,
            coordinates=self.coordinates[rows],
            constants=self.constants,
        )
