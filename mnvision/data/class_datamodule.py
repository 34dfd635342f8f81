"""The data of a classification run: finds, fetches or makes the files, reads their classes, builds the loaders."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, DistributedSampler

from mnvision.annotations import LabelledPictures
from mnvision.data.base_datamodule import PictureDataModule
from mnvision.data.class_dataset import ClassCollate, ClassDataset
from mnvision.data.class_formats import GENERATED, find_root, picture_folder, read_labelled
from mnvision.data.classification_transforms import ClassAugment, ClassTransform
from mnvision.data.dataset import BadImages
from mnvision.data.labelled import adopt_labels, class_counts, describe_labelled, forget_strange
from mnvision.data.loaders import make_loader
from mnvision.data.mixing import Mixing
from mnvision.data.splits import VAL_SHARE, Split
from mnvision.errors import UserError
from mnvision.types import Preprocessing
from mnvision.wording import noun_of

log = logging.getLogger(__name__)

SHAPE_MARGIN = 0.1  # of shape_crops


class ClassDataModule(PictureDataModule):
    """Training, validation and test pictures with one class each.

    Batches are `mnvision.types.Batch`: images uint8 [B, 3, S, S] in channels-last memory, targets `Labels`.

    Args:
        name: A key of `mnvision.data.class_formats.READERS`.
        root: Folder of the data set, or an archive of it.
        preprocessing: How pictures are fitted to the input.
        batch_size: Pictures in a batch, on each process.
        num_workers: Processes that load data; None picks by the machine, see `make_loader`.
        augment: Policy for training, see `ClassTransform`; validation sees pictures as they are.
        min_area: See `ClassTransform`.
        color: See `ClassTransform`.
        randaugment: See `ClassTransform`.
        erasing: See `ClassTransform`.
        mixup: See `mnvision.data.mixing.Mixing`.
        cutmix: Likewise.
        balanced: Draw training pictures so that classes come equally often.
        bad_images: ``error`` or ``skip``, see `PictureDataset`.
        classes: Names of the classes to use; None uses all.
        class_table: Class names and ids to renumber the labels to, such as a checkpoint holds.
        crop_to_box: Show only the objects' boxes, where the data have them.
        box_margin: What is shown around a box, as a share of its size.
        val_share: Share of the training pictures that is held out where there is no validation split.
        split_seed: Of that split.
        seed: Of order and augmentation.
        views: So many views of each training picture are shown in turn; None: another one in every epoch.
        labels_needed: False: training pictures may have no class, and classes that ``class_table`` lacks are not known.
        options: What the format alone knows, see `read_labelled`.
    """

    noun = noun_of("classify")  # of a class

    def __init__(
        self,
        *,
        name: str,
        root: str | Path | None,
        preprocessing: Preprocessing,
        batch_size: int,
        num_workers: int | None = None,
        augment: ClassAugment = "light",
        min_area: float | None = None,
        color: float | None = None,
        randaugment: int | None = None,
        erasing: float | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        balanced: bool = False,
        bad_images: BadImages = "error",
        classes: Sequence[str] | None = None,
        class_table: tuple[Sequence[str], Sequence[int]] | None = None,
        crop_to_box: bool = False,
        box_margin: float = 0.1,
        val_share: float = VAL_SHARE,
        split_seed: int = 0,
        seed: int = 0,
        views: int | None = None,
        labels_needed: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(preprocessing=preprocessing)
        if root is None and name not in GENERATED:
            raise UserError(
                f"data.root is not set. Expected the folder of the data set {name!r}; give data.root=FOLDER"
            )
        self.format = name
        self.root = None if root is None else Path(root).expanduser()
        self.batch_size, self.num_workers = batch_size, num_workers
        self._policy = functools.partial(
            ClassTransform, augment, min_area=min_area, color=color, randaugment=randaugment, erasing=erasing
        )
        self._policy(preprocessing=preprocessing)  # wrong values show before anything is read
        self.mixing = Mixing(mixup=mixup, cutmix=cutmix) if mixup or cutmix else None
        self.balanced = balanced
        self.bad_images = bad_images
        # A picture of shape_crops is nothing but a box.
        boxed = crop_to_box or name == "shape_crops"
        self.margin = SHAPE_MARGIN if name == "shape_crops" else box_margin if crop_to_box else None
        self._classes = None if classes is None else tuple(classes)
        self._class_table = class_table
        self._val_share, self._split_seed = val_share, split_seed
        self.seed, self.views = seed, views
        self._labels_needed = labels_needed
        self._options = {**(options or {}), "boxes": boxed, "unlabelled": not labels_needed}
        self._splits: dict[Split, LabelledPictures] = {}
        self._places: dict[Split, np.ndarray] = {}  # of shards

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes, known after ``setup``."""
        return next(iter(self._splits.values())).classes

    @property
    def category_ids(self) -> tuple[int, ...]:
        """1..K, as no format has ids of its own."""
        return tuple(range(1, len(self.classes) + 1))

    @property
    def counts(self) -> np.ndarray:
        """Training pictures of each class, int64 [K]."""
        return class_counts(self.load_split("train"))

    def prepare_data(self) -> None:
        """Fetch, unpack or make the files where they are not there; runs on one process."""
        find_root(self.format, self.root, options=self._options)

    def load_split(self, split: Split) -> LabelledPictures:
        """The pictures of a split, read when first asked for.

        Raises:
            UserError: A file or folder is missing or wrong, there is nothing to learn from, the classes of the splits
                disagree, or there is no such split.
        """
        if split not in self._splits:
            pictures = read_labelled(
                self.format,
                self._folder(),
                split,
                classes=self._classes,
                val_share=self._val_share,
                seed=self._split_seed,
                options=self._options,
            )
            if self._class_table is not None:
                table, name = self._class_table[0], f"{self.root} ({split})"
                if not self._labels_needed:
                    pictures = forget_strange(pictures, classes=table)
                pictures = adopt_labels(pictures, classes=table, name=name)
            self._keep(split, pictures)
        return self._splits[split]

    def _keep(self, split: Split, pictures: LabelledPictures) -> None:
        """Log and remember a split.

        Raises:
            UserError: If none of its pictures has a class, where that is needed.
        """
        log.info("%s: %s", split, describe_labelled(pictures, noun=self.noun))
        if not (pictures.labels >= 0).any() and (split != "train" or self._labels_needed):
            raise UserError(
                f"{self.root} ({split}): no picture has a known class. Expected labels; check the data keys"
            )
        self._splits[split] = pictures

    def image_folder(self, split: Split) -> Path:
        """The folder that the file names of a split are relative to."""
        return picture_folder(self.format, self._folder(), options=self._options)

    def picture_folders(self, split: Split) -> set[Path]:
        """All folders in which the pictures of a split are."""
        folder = self.image_folder(split)
        return {folder / name.decode("utf-8").rpartition("/")[0] for name in self.load_split(split).file_names.tolist()}

    def dataset(self, split: Split, *, training: bool) -> ClassDataset:
        """The pictures of a split, augmented in training."""
        dataset = ClassDataset(
            self.load_split(split),
            folder=self.image_folder(split),
            transform=self.view(training=training),
            crop_to_box=self.margin,
            bad_images=self.bad_images,
            substitute=training,
            seed=self.seed,
        )
        dataset.views = self.views if training else None
        return dataset

    def view(self, *, training: bool) -> ClassTransform:
        """From a picture to the input; made when it is asked for, as ``preprocessing`` may be settled late."""
        if training:
            return self._policy(preprocessing=self.preprocessing)
        return ClassTransform("none", preprocessing=self.preprocessing)

    def _folder(self) -> Path:
        return find_root(self.format, self.root, options=self._options)

    def _collate(self, split: Split, *, training: bool) -> ClassCollate:
        """What makes batches of a split."""
        return ClassCollate(self.mixing if training else None)

    def _sampler(self) -> DistributedSampler | None:
        """What deals out the training pictures; None for any order."""
        return None

    def _loader(self, split: Split, *, training: bool) -> DataLoader:
        dataset = self.dataset(split, training=training)
        self._datasets.append(dataset)
        weights = None
        if self.balanced and training:
            labels = dataset.pictures.labels
            if not (labels >= 0).any():
                raise UserError("data.balanced=true: no training picture has a class; give data.balanced=false")
            weights = np.where(labels >= 0, (1 / np.maximum(self.counts, 1))[labels], 0.0)
        return make_loader(
            dataset,
            training=training,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            seed=self.seed,
            collate=self._collate(split, training=training),
            weights=weights,
            sampler=self._sampler() if training else None,
        )
