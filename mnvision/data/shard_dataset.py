"""The samples of shards as a list: what their shards say of each, and a data set that reads their pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnvision.annotations import LabelledPictures
from mnvision.data.class_dataset import ClassDataset
from mnvision.data.classification_transforms import ClassTransform
from mnvision.data.dataset import BadImages
from mnvision.data.shard_files import Shard, open_shard
from mnvision.data.shard_labels import BadSampleError, SampleReader, picture_of
from mnvision.data.tar import Sample, ShardError, read_samples
from mnvision.errors import UserError
from mnvision.ops.picture import Picture


class Listed(NamedTuple):
    """The samples of shards.

    Attributes:
        names: bytes [I], ``SHARD/KEY``.
        labels: The label of each, or what is wrong with it.
        places: int64 [I, 2]: the shard of each and its place in it.
    """

    names: np.ndarray
    labels: list[Any]
    places: np.ndarray


def list_samples(shards: Sequence[Shard], *, label_of: SampleReader, cache: Path | None = None) -> Listed:
    """Read shards once for the labels of their samples.

    Args:
        shards: Which.
        label_of: What reads a label.
        cache: See `open_shard`.

    Raises:
        UserError: A shard cannot be read, or there is no sample.
    """
    names, labels, places = [], [], []
    for number, shard in enumerate(shards):
        try:
            for sample, label in read_labels(shard, label_of=label_of, cache=cache):
                names.append(f"{Path(shard.location).name}/{sample.key}".encode("utf-8", "replace"))
                labels.append(label)
                places.append((number, sample.place))
        except ShardError as error:
            raise UserError(f"{shard.location}: {error}; measuring needs whole shards: write it again") from None
    if not names:
        raise UserError(f"{shards[0].location}: there is no sample in the shards")
    return Listed(np.array(names), labels, np.array(places, dtype=np.int64))


def read_labels(shard: Shard, *, label_of: SampleReader, cache: Path | None = None) -> Iterator[tuple[Sample, Any]]:
    """The samples of a shard, without the bytes of their pictures, and the label of each or what is wrong with it.

    Raises:
        ShardError: It cannot be had, or not to its end.
    """
    file = open_shard(shard, cache=cache)
    try:
        for sample in read_samples(file, only=label_of.members):
            try:
                label = label_of(sample)
            except BadSampleError as error:
                label = error.with_traceback(None)  # which would keep the sample in memory
            yield sample, label
    except OSError as error:
        raise ShardError("damaged", f"it cannot be read on: {error.strerror or error}") from None
    finally:
        file.close()


class ShardDataset(ClassDataset):
    """Listed samples of shards, read where they are; fast in the order of the shards, slow in any other.

    Args:
        pictures: The samples; their file names are ``SHARD/KEY``.
        shards: Where they are.
        places: int64 [I, 2]: the shard of each sample, and its place in it.
        cache: Folder in which shards of URLs are kept; None streams them anew.
        transform: As of `ClassDataset`, and so the others.
        bad_images: See there.
        seed: See there.
    """

    def __init__(
        self,
        pictures: LabelledPictures,
        *,
        shards: Sequence[Shard],
        places: np.ndarray,
        cache: Path | None,
        transform: ClassTransform,
        bad_images: BadImages,
        seed: int,
    ) -> None:
        super().__init__(pictures, folder=".", transform=transform, bad_images=bad_images, seed=seed)
        self.shards, self.places, self.cache = shards, places, cache
        self._open: tuple[int, Any] | None = None  # the shard that is being read, and its samples to come

    def picture(self, index: int) -> Picture:
        """A picture, not decoded yet."""
        shard, place = self.places[index].tolist()
        try:
            return Picture.from_bytes(picture_of(self._sample(shard, place)), name=self.name(index))
        except (BadSampleError, ShardError) as error:
            raise UserError(f"{self.name(index)}: {error}") from None

    def _sample(self, shard: int, place: int) -> Sample:
        if self._open is not None and self._open[0] == shard:
            for sample in self._open[1]:
                if sample.place == place:
                    return sample
                if sample.place > place:
                    break  # it lies behind
        samples = read_samples(open_shard(self.shards[shard], cache=self.cache), start=place)
        self._open = (shard, samples)
        found = next(samples, None)
        if found is None:
            raise ShardError("truncated", "the shard has become shorter since it was listed")
        return found
