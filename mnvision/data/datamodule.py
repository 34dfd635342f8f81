"""The data of a detection run: finds or makes the files, reads the annotations, builds the loaders."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mnvision.annotations import Annotations
from mnvision.cache import cache_dir
from mnvision.data.base_datamodule import PictureDataModule
from mnvision.data.classes import adopt_classes, describe
from mnvision.data.coco import read_coco
from mnvision.data.dataset import BadImages, DetectionDataset
from mnvision.data.loaders import make_loader
from mnvision.data.shapes import make_shapes, shapes_folder_name
from mnvision.data.splits import Split
from mnvision.data.transforms import Augment
from mnvision.data.voc import VocFolders, read_voc, voc_classes
from mnvision.errors import UserError
from mnvision.types import Batch, Preprocessing, Target, pad_targets

log = logging.getLogger(__name__)


class DetectionDataModule(PictureDataModule):
    """Training, validation and test pictures in COCO's format or Pascal VOC's, or the generated shapes.

    Batches are `mnvision.types.Batch`: images uint8 [B, 3, S, S] in channels-last memory, targets padded. After
    ``setup``, ``classes`` and ``category_ids`` hold the table of classes, ``train_annotations`` and
    ``val_annotations`` the splits that were asked for.

    Paths other than ``root`` are relative to it unless they are absolute.

    Args:
        name: ``shapes`` makes the generated data set where it is missing; ``voc`` reads Pascal VOC's layout; any other
            name reads COCO files that are there.
        root: Folder of the data set. For shapes it is where generated sets are kept, one folder for each choice of
            parameters, by default in the cache (see `mnvision.cache`).
        train_images: Folder of the training pictures.
        train_annotations: Their COCO instances file.
        val_images: Folder of the validation pictures.
        val_annotations: Their COCO instances file.
        test_images: Folder of the test pictures, which only an evaluation that names them reads; None for none.
        test_annotations: Their COCO instances file.
        preprocessing: The side of the input and the mean colour.
        batch_size: Pictures in a batch, on each process.
        num_workers: Processes that load data; None picks one less than there are processors, at least 1 and at most 4,
            and none for a tiny data set.
        augment: Policy for training, see `mnvision.data.transforms.Transform`; validation only resizes.
        vertical_flip: Turn every second training picture upside down as well.
        bad_images: ``error`` or ``skip``, see `DetectionDataset`.
        classes: Names of the classes to use; None uses all.
        class_table: Class names and category ids to renumber the annotations to, such as a checkpoint holds; they may
            lack some of these classes and may have no others. None takes the table of the training annotations.
        seed: Of order and augmentation.
        shapes_seed: Of the generated scenes.
        train_count: Number of generated training pictures.
        val_count: Number of generated validation pictures.
        canvas: Side of the generated pictures in pixels.
        train_split: For ``voc``, in place of the four paths of COCO: the name of the training list.
        val_split: For ``voc``: the name of the validation list.
        test_split: For ``voc``: the name of the test list.
        images: For ``voc``: folder of the pictures.
        annotations: For ``voc``: folder of the XML files.
        lists: For ``voc``: folder of the lists.
        ignore_difficult: For ``voc``: difficult objects are neither trained on nor counted, see `read_voc`.
    """

    train_annotations: Annotations
    val_annotations: Annotations

    def __init__(
        self,
        *,
        name: str,
        root: str | Path | None,
        preprocessing: Preprocessing,
        batch_size: int,
        train_images: str = "train",
        train_annotations: str = "annotations/train.json",
        val_images: str = "val",
        val_annotations: str = "annotations/val.json",
        test_images: str | None = None,
        test_annotations: str | None = None,
        num_workers: int | None = None,
        augment: Augment = "ssd",
        vertical_flip: bool = False,
        bad_images: BadImages = "error",
        classes: Sequence[str] | None = None,
        class_table: tuple[Sequence[str], Sequence[int]] | None = None,
        seed: int = 0,
        shapes_seed: int = 0,
        train_count: int = 1200,
        val_count: int = 200,
        canvas: int = 320,
        train_split: str = "train",
        val_split: str = "val",
        test_split: str = "test",
        images: str = VocFolders.images,
        annotations: str = VocFolders.annotations,
        lists: str = VocFolders.lists,
        ignore_difficult: bool = True,
    ):
        super().__init__(preprocessing=preprocessing)
        self._voc = VocFolders(images=images, annotations=annotations, lists=lists)
        self._voc_splits: dict[Split, str] = {"train": train_split, "val": val_split, "test": test_split}
        self._ignore_difficult = ignore_difficult
        if name == "voc":
            train_images = val_images = test_images = images
            train_annotations, val_annotations, test_annotations = map(self._voc.list_file, self._voc_splits.values())
        if root is None and name != "shapes":
            raise UserError(
                f"data.root is not set. Expected the folder of the data set {name!r}, which holds"
                f" {train_images}/ and {train_annotations}; give data.root=FOLDER"
            )
        self.name = name
        self.root = None if root is None else Path(root).expanduser()
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.augment, self.vertical_flip = augment, vertical_flip
        self.bad_images = bad_images
        self.seed = seed
        self._classes = None if classes is None else tuple(classes)
        self._class_table = class_table
        self._files: dict[Split, tuple[str, str]] = {
            "train": (train_images, train_annotations),
            "val": (val_images, val_annotations),
        }
        if test_images is not None and test_annotations is not None:
            self._files["test"] = test_images, test_annotations
        self._shapes = {
            "seed": shapes_seed,
            "train_images": train_count,
            "val_images": val_count,
            "image_size": canvas,
        }

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes, known after ``setup``."""
        return self._any_split().classes

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Their ids in the annotation files, known after ``setup``."""
        return self._any_split().category_ids

    def prepare_data(self) -> None:
        """Make the generated data set if it is the one asked for and is not there yet; runs on one process."""
        if self.name == "shapes":
            make_shapes(self._folder(), **self._shapes)

    def load_split(self, split: Split) -> Annotations:
        """The annotations of a split, read when first asked for.

        Raises:
            UserError: A file or folder is missing or wrong, there is nothing to learn from, the classes of the splits
                disagree, or there is no such split.
        """
        known: Annotations | None = getattr(self, f"{split}_annotations", None)
        if known is not None:
            return known
        self.prepare_data()  # for use without a trainer; at once where the data exist
        folder = self._folder()
        images, file = (folder / part for part in self._paths(split))
        if self.name == "voc":
            annotations = self._read_voc(split)
        else:
            annotations = read_coco(file, image_folder=images, classes=self._classes)
        if not len(annotations):
            raise UserError(f"{file} lists no images. Expected the pictures of the {split} split; check data.root")
        if split == "train" and not (annotations.usable & ~annotations.crowd).any():
            raise UserError(f"{file} holds no box to learn from. Expected annotations; check data.classes and the file")
        table = self._table(split)
        if table is not None:
            annotations = adopt_classes(annotations, classes=table[0], category_ids=table[1], name=str(file))
        log.info("%s: %s", file, describe(annotations))
        setattr(self, f"{split}_annotations", annotations)
        return annotations

    def image_folder(self, split: Split) -> Path:
        """The folder that the file names of a split are relative to."""
        return self._folder() / self._paths(split)[0]

    def _folder(self) -> Path:
        if self.name != "shapes":
            assert self.root is not None  # checked in __init__
            return self.root
        return (self.root or cache_dir() / "shapes") / shapes_folder_name(**self._shapes)

    def _paths(self, split: Split) -> tuple[str, str]:
        """Folder and annotations of a split, relative to the data set's folder."""
        if split not in self._files:
            words = f"data={self.name} data.root={self.root} data.{split}_images=FOLDER data.{split}_annotations=FILE"
            raise UserError(
                f"split={split}: the data set {self.name!r} has the splits {', '.join(self._files)}"
                + ("" if self.name == "shapes" else f"; give {words}")
            )
        return self._files[split]

    def _read_voc(self, split: Split) -> Annotations:
        """A split under the fixed class names, else those of the training split; VOC has no category ids of its own."""
        folder, train = self._folder(), self._voc_splits["train"]
        known: Sequence[str] | None = None
        if self._class_table is not None:
            known = self._class_table[0]
        elif split != "train":
            known = voc_classes(folder, train, folders=self._voc)
        annotations = read_voc(
            folder,
            self._voc_splits[split],
            known=known,
            classes=self._classes,
            ignore_difficult=self._ignore_difficult,
            folders=self._voc,
        )
        if self._class_table is None:
            return annotations
        ids = dict(zip(*self._class_table, strict=True))
        return replace(annotations, category_ids=tuple(ids[name] for name in annotations.classes))

    def _any_split(self) -> Annotations:
        for split in ("train", "val", "test"):
            annotations: Annotations | None = getattr(self, f"{split}_annotations", None)
            if annotations is not None:
                return annotations
        raise RuntimeError("the classes are known after setup()")

    def _table(self, split: Split) -> tuple[Sequence[str], Sequence[int]] | None:
        """The classes and category ids that a split has to adopt: the fixed ones, else those of the training split."""
        if self._class_table is not None:
            return self._class_table
        train: Annotations | None = getattr(self, "train_annotations", None)
        return (train.classes, train.category_ids) if split != "train" and train is not None else None

    def _loader(self, split: Split, *, training: bool) -> DataLoader:
        annotations = self.load_split(split)
        dataset = DetectionDataset(
            annotations,
            image_folder=self.image_folder(split),
            preprocessing=self.preprocessing,
            augment=self.augment if training else "none",
            vertical_flip=self.vertical_flip and training,
            bad_images=self.bad_images,
            substitute=training,
            seed=self.seed,
        )
        self._datasets.append(dataset)
        return make_loader(
            dataset,
            training=training,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            seed=self.seed,
            collate=collate,
        )


def collate(items: Sequence[tuple[Tensor, Target]]) -> Batch:
    """Stack items into a batch; the images stay in channels-last memory."""
    images, targets = zip(*items, strict=True)
    stacked = torch.stack([image.permute(1, 2, 0) for image in images])  # [B, S, S, 3]
    return Batch(images=stacked.permute(0, 3, 1, 2), targets=pad_targets(targets))
