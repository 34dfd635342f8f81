"""The data of a classification run on tar shards: training pictures are streamed, the others listed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.utils.data import DataLoader

from mnvision.cache import cache_dir
from mnvision.data.class_datamodule import ClassDataModule
from mnvision.data.class_dataset import ClassDataset, class_collate
from mnvision.data.labelled import adopt_labels
from mnvision.data.loaders import Loader, auto_workers, start_worker
from mnvision.data.shard_files import expand_shards, is_url, open_shard, with_index
from mnvision.data.shard_labels import BadSampleError, LabelReader, picture_of
from mnvision.data.shards import ShardStream
from mnvision.data.splits import Split
from mnvision.data.tar import Sample, ShardError, read_samples
from mnvision.errors import UserError
from mnvision.ops.picture import Picture
from mnvision.types import Batch, LabelledPictures


class ShardDataModule(ClassDataModule):
    """Pictures in tar shards of WebDataset's layout, see `ClassDataModule`.

    Its ``options``:

    - ``train``, ``val``, ``test``: where the shards of each split are, see `expand_shards`; relative to the root. Of
      these, ``val`` and ``test`` may be None.
    - ``shuffle``, ``resample``, ``epoch_length``, ``label_from``: see `ShardStream`.
    - ``keep_shards``: keep the shards of URLs in the cache folder.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes: those that were asked for, else those of the shards' index."""
        if self._class_table is not None:
            return tuple(self._class_table[0])
        if self._classes is not None:
            return self._classes
        known = with_index(self._shards("train"))[1]
        if known is None:
            raise UserError(
                f"{self.root}: nothing says how the classes of the shards are called; write them with"
                " `mnvision shards`, which adds an index.json, or give data.classes=[...]"
            )
        return known

    @property
    def train_size(self) -> int:
        """Training pictures in an epoch, of all processes together."""
        stream = self._stream()
        return len(stream) * stream.world_size

    def prepare_data(self) -> None:
        """Nothing to make."""

    def setup(self, stage: str | None = None) -> None:
        """List the validation pictures; training pictures are not listed, there may be millions."""
        self._shards("train")
        self.load_split("val")

    def load_split(self, split: Split) -> LabelledPictures:
        """The pictures of a split; reads all its shards once."""
        if split not in self._splits:
            pictures, self._places[split] = list_samples(
                self._shards(split), classes=self._own_classes(), label_from=self._options["label_from"]
            )
            if self._class_table is not None and self._classes is None:
                pictures = adopt_labels(pictures, classes=self._class_table[0], name=f"{self.root} ({split})")
            self._splits[split] = pictures
        return self._splits[split]

    def image_folder(self, split: Split) -> Path:
        """The root."""
        return self._folder()

    def dataset(self, split: Split, *, training: bool) -> ClassDataset:
        """The pictures of a split, in the order of its shards."""
        pictures = self.load_split(split)
        return ShardDataset(
            pictures,
            shards=self._shards(split),
            places=self._places[split],
            transform=self.training_view if training else self.evaluation_view,
            bad_images=self.bad_images,
            seed=self.seed,
        )

    def train_dataloader(self) -> DataLoader:
        """Streamed, shuffled and augmented."""
        stream = self._stream()
        workers = auto_workers(len(stream)) if self.num_workers is None else self.num_workers
        return Loader(
            stream,
            batch_size=self.batch_size,
            num_workers=workers,
            collate_fn=self._collate(),
            drop_last=len(stream) > self.batch_size,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            worker_init_fn=start_worker,
        )

    def _stream(self) -> TrainingStream:
        ready = distributed.is_available() and distributed.is_initialized()
        options = self._options

        def decode(data: bytes, rng: np.random.Generator) -> tuple[np.ndarray, int]:
            return self.training_view(Picture.from_bytes(data), rng), int(rng.integers(2**31))

        return TrainingStream(
            self._shards("train"),
            decode=decode,
            classes=self._own_classes(),
            label_from=options["label_from"],
            shuffle=options["shuffle"],
            resample=options["resample"],
            epoch_length=options["epoch_length"],
            batch_size=self.batch_size,
            rank=distributed.get_rank() if ready else 0,
            world_size=distributed.get_world_size() if ready else 1,
            seed=self.seed,
            bad_samples=self.bad_images,
            cache=cache_dir() / "shards" if options["keep_shards"] else None,
        )

    def _collate(self) -> Callable[[Sequence[tuple[tuple[np.ndarray, int], int, str]]], Batch]:
        plain = class_collate(self.mixing)

        def collate(samples: Sequence[tuple[tuple[np.ndarray, int], int, str]]) -> Batch:
            return plain([(pixels, label, -1, number) for (pixels, number), label, _ in samples])

        return collate

    def _own_classes(self) -> tuple[str, ...] | None:
        """The names that the shards' labels count, where they are not in the index."""
        return self._classes

    def _shards(self, split: Split) -> tuple[str, ...]:
        asked = self._options[split]
        if asked is None:
            raise UserError(
                f"split={split}: data.{split} is not set. Expected a pattern of shards, such as 'val-*.tar'"
            )
        each = [asked] if isinstance(asked, str) else list(asked)
        return expand_shards([one if is_url(one) else str(self._folder() / one) for one in each])

    def _folder(self) -> Path:
        assert self.root is not None  # checked in __init__
        return self.root


class TrainingStream(ShardStream):
    """A stream that a `Loader` can ask for what was lost."""

    def report_bad_images(self) -> int:
        """Log the samples that were lost since the last report, and return their number."""
        return sum(self.report().values())


class ShardDataset(ClassDataset):
    """Listed samples of shards, read where they are; fast in the order of the shards, slow in any other.

    Args:
        pictures: The samples; their file names are ``SHARD/KEY``.
        shards: Paths or URLs.
        places: int64 [I, 2]: the shard of each sample, and its place in it.
        transform: As of `ClassDataset`, and so the others.
        bad_images: See there.
        seed: See there.
    """

    def __init__(
        self, pictures: LabelledPictures, *, shards: Sequence[str], places: np.ndarray, transform: Any, **options: Any
    ) -> None:
        super().__init__(pictures, folder=".", transform=transform, **options)
        self.shards, self.places = with_index(shards)[0], places
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
        samples = read_samples(open_shard(self.shards[shard]), start=place)
        self._open = (shard, samples)
        return next(samples)


def list_samples(
    shards: Sequence[str], *, classes: Sequence[str] | None, label_from: str | None
) -> tuple[LabelledPictures, np.ndarray]:
    """Read shards once for the labels of their samples; those without a right label get -1.

    Returns:
        The samples, and int64 [I, 2]: the shard of each and its place in it.

    Raises:
        UserError: Nothing names the classes, a shard cannot be read, or there is no sample.
    """
    opened, known = with_index(shards)
    names = tuple(classes) if classes is not None else known
    if names is None:
        raise UserError(f"{shards[0]}: nothing says how the classes are called; give data.classes=[...]")
    label_of = LabelReader(classes=names, label_from=label_from)
    keys, labels, places = [], [], []
    for number, shard in enumerate(opened):
        try:
            for sample in read_samples(open_shard(shard)):
                try:
                    labels.append(label_of(sample))
                except BadSampleError:
                    labels.append(-1)
                keys.append(f"{Path(shard.location).name}/{sample.key}".encode())
                places.append((number, sample.place))
        except ShardError as error:
            raise UserError(f"{shard.location}: {error}; measuring needs whole shards: write it again") from None
    if not keys:
        raise UserError(f"{shards[0]}: there is no sample in the shards")
    pictures = LabelledPictures(np.array(keys), np.array(labels, dtype=np.int64), names)
    return pictures, np.array(places, dtype=np.int64)
