"""Which keys the data section of a configuration has, by the data set's name; see ``schema``."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from mnvision.value_types import (
    Count,
    FilePath,
    Fraction,
    Limits,
    Natural,
    NotNegative,
    Pixels,
    Positive,
    Share,
    SmallPixels,
)


@dataclasses.dataclass
class Data:
    """Keys of ``data`` that every format has."""

    name: str
    root: FilePath
    batch_size: Count
    num_workers: Natural | None
    bad_images: Literal["error", "skip"]
    classes: list[str] | None
    image_size: SmallPixels | None


@dataclasses.dataclass
class Boxes(Data):
    """Keys of ``data`` where pictures have boxes to be found."""

    augment: Literal["none", "flip", "light", "ssd"]
    vertical_flip: bool
    image_size: Pixels | None


@dataclasses.dataclass
class CocoFiles(Boxes):
    """Keys of ``data`` where its files are in COCO's format."""

    train_images: FilePath
    train_annotations: FilePath
    val_images: FilePath
    val_annotations: FilePath


@dataclasses.dataclass
class Coco(CocoFiles):
    """Keys of ``data`` where its name is ``coco``."""

    test_images: FilePath | None
    test_annotations: FilePath | None


@dataclasses.dataclass
class Voc(Boxes):
    """Keys of ``data`` where its name is ``voc``."""

    train_split: Annotated[str, "the name of a list"]
    val_split: Annotated[str, "the name of a list"]
    test_split: Annotated[str, "the name of a list"]
    images: FilePath
    annotations: FilePath
    lists: FilePath
    ignore_difficult: bool


@dataclasses.dataclass
class Scenes:
    """Keys of ``data`` where mnvision makes the pictures."""

    root: FilePath | None
    seed: Natural
    train_count: Count
    val_count: Count
    canvas: Pixels


@dataclasses.dataclass
class Shapes(Scenes, CocoFiles):  # type: ignore[misc]
    """Keys of ``data`` where its name is ``shapes``."""


@dataclasses.dataclass
class Pictures(Data):
    """Keys of ``data`` where something is known of a picture as a whole."""

    augment: Literal["none", "flip", "crop", "jitter", "light", "strong"]
    crop_share: Share | None
    min_area: Share | None
    color: Annotated[float, Limits(low=0, high=2)] | None
    randaugment: Annotated[int, Limits(low=0, high=10)] | None
    erasing: Fraction | None
    mean: list[NotNegative] | None
    std: list[Positive] | None
    val_share: Share
    split_seed: Natural


@dataclasses.dataclass
class Labelled(Pictures):
    """Keys of ``data`` where every picture has a class."""

    mixup: NotNegative
    cutmix: NotNegative
    balanced: bool


@dataclasses.dataclass
class ShapeCrops(Scenes, Labelled):  # type: ignore[misc]
    """Keys of ``data`` where its name is ``shape_crops`` or ``drawn_places``."""


@dataclasses.dataclass
class ImageFolder(Labelled):
    """Keys of ``data`` where its name is ``image_folder``."""

    train: FilePath
    val: FilePath
    test: FilePath


@dataclasses.dataclass
class Lists:
    """Keys of ``data`` where lists name the pictures."""

    images: FilePath
    train: FilePath
    val: FilePath | None
    test: FilePath | None
    file_column: Annotated[str, "the name of a column"]
    split_column: Annotated[str, "the name of a column"] | None


@dataclasses.dataclass
class PictureList(Lists, Labelled):
    """Keys of ``data`` where its name is ``picture_list``."""

    label_column: Annotated[str, "the name of a column"]


@dataclasses.dataclass
class StanfordDogs(Labelled):
    """Keys of ``data`` where its name is ``stanford_dogs`` or ``oxford_pets``."""

    download: bool
    crop_to_box: bool
    box_margin: NotNegative


@dataclasses.dataclass
class Cifar(Labelled):
    """Keys of ``data`` where its name is ``cifar10`` or ``cifar100``."""

    download: bool


@dataclasses.dataclass
class Streamed(Labelled):
    """Keys of ``data`` where its pictures are in tar shards."""

    train: FilePath | list[str]
    val: FilePath | list[str]
    test: FilePath | list[str] | None
    shuffle: Natural
    resample: bool
    epoch_length: Count | None
    keep_shards: bool


@dataclasses.dataclass
class Shards(Streamed):
    """Keys of ``data`` where its name is ``shards``."""

    label_from: Annotated[str, "a regular expression"] | None


@dataclasses.dataclass
class Identities(Pictures):
    """Keys of ``data`` where pictures are of identities, and measured by pairs."""

    per_identity: Annotated[int, Limits(low=2)] | None
    pair_count: Count
    allow_overlap: bool
    landmarks: FilePath | None


@dataclasses.dataclass
class Faces(Identities):
    """Keys of ``data`` where its name is ``faces``."""

    val_pairs: FilePath | None
    test_pairs: FilePath | None
    train: FilePath
    val: FilePath
    test: FilePath


@dataclasses.dataclass
class People:
    """Keys of ``data`` where mnvision draws faces."""

    root: FilePath | None
    seed: Natural
    train_identities: Count
    val_identities: Count
    pictures: Annotated[int, Limits(low=2)]


@dataclasses.dataclass
class DrawnFaces(People, Identities):  # type: ignore[misc]
    """Keys of ``data`` where its name is ``drawn_faces``."""


@dataclasses.dataclass
class IdentityList(Lists, Identities):
    """Keys of ``data`` where its name is ``identity_list``."""

    val_pairs: FilePath | None
    test_pairs: FilePath | None
    label_column: Annotated[str, "the name of a column"]
    crop_to_box: bool
    box_margin: NotNegative


@dataclasses.dataclass
class LFW(Identities):
    """Keys of ``data`` where its name is ``lfw``."""

    pairs: FilePath
    test_folds: list[Annotated[int, Limits(low=1, high=10)]] | None


@dataclasses.dataclass
class DrawnAttributes(People, Pictures):  # type: ignore[misc]
    """Keys of ``data`` where its name is ``drawn_attributes``."""


@dataclasses.dataclass
class AttributeList(Lists, Pictures):
    """Keys of ``data`` where its name is ``attribute_list``."""

    group_column: Annotated[str, "the name of a column"] | None
    minus_one: Literal["no", "unknown"] | None


@dataclasses.dataclass
class PlaceList(Lists, Labelled):
    """Keys of ``data`` where its name is ``place_list``."""

    latitude_column: Annotated[str, "the name of a column"]
    longitude_column: Annotated[str, "the name of a column"]


@dataclasses.dataclass
class PlaceShards(Streamed):
    """Keys of ``data`` where its name is ``place_shards``."""

    latitude_key: Annotated[str, "the name of a field"]
    longitude_key: Annotated[str, "the name of a field"]


BOXES: dict[str, type] = {"shapes": Shapes, "coco": Coco, "voc": Voc}
LABELLED: dict[str, type] = {
    "shape_crops": ShapeCrops,
    "image_folder": ImageFolder,
    "picture_list": PictureList,
    "stanford_dogs": StanfordDogs,
    "oxford_pets": StanfordDogs,
    "cifar10": Cifar,
    "cifar100": Cifar,
    "shards": Shards,
}
IDENTITIES: dict[str, type] = {"faces": Faces, "drawn_faces": DrawnFaces, "identity_list": IdentityList, "lfw": LFW}
ATTRIBUTES: dict[str, type] = {
    "drawn_attributes": DrawnAttributes,
    "celeba": Pictures,
    "attribute_list": AttributeList,
    "utkface": Pictures,
}
PLACED: dict[str, type] = {"drawn_places": ShapeCrops, "place_list": PlaceList, "place_shards": PlaceShards}
DATA = {**BOXES, **LABELLED, **IDENTITIES, **ATTRIBUTES, **PLACED}
# What the data have to be for each task.
DATA_OF_TASK = {
    "ssd": BOXES,
    "faster_rcnn": BOXES,
    "classify": LABELLED,
    "distill": LABELLED,
    "embed": IDENTITIES,
    "attributes": ATTRIBUTES,
    "geolocate": PLACED,
}
