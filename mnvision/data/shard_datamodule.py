"""The data of a classification run on tar shards: training pictures are streamed, the others listed once."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from mnvision.annotations import LabelledPictures
from mnvision.cache import cache_dir
from mnvision.data.class_datamodule import ClassDataModule
from mnvision.data.class_dataset import ClassCollate, ClassDataset
from mnvision.data.classification_transforms import ClassTransform
from mnvision.data.loaders import Loader, auto_workers, start_worker
from mnvision.data.shard_dataset import ShardDataset, list_samples
from mnvision.data.shard_files import expand_shards, is_url, refuse_cut, with_index
from mnvision.data.shard_labels import BadSampleError, LabelReader, SampleReader
from mnvision.data.shards import ShardStream
from mnvision.data.splits import Split
from mnvision.errors import UserError
from mnvision.ops.picture import Picture
from mnvision.ops.processes import rank_and_size
from mnvision.types import Batch
from mnvision.wording import counted

log = logging.getLogger(__name__)


class ShardDataModule(ClassDataModule):
    """Pictures in tar shards of WebDataset's layout, see `ClassDataModule`.

    Its ``options``:

    - ``train``, ``val``, ``test``: where the shards of each split are, see `expand_shards`; relative to the root. Of
      these, ``val`` and ``test`` may be None.
    - ``shuffle``, ``resample``, ``epoch_length``, ``label_from``: see `ShardStream`.
    - ``keep_shards``: keep the shards of URLs in the cache folder.
    """

    _instead_of_balanced = "task.class_weights=balanced"  # words for messages

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes: those that were asked for, else those of the shards' index."""
        own = self._own_classes()
        if own is not None:
            return own
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
        try:
            return len(stream) * stream.world_size
        except TypeError:
            raise UserError(
                f"{self.root}: without an index.json nobody knows how many pictures the shards hold; give "
                "data.epoch_length=COUNT"
            ) from None

    def prepare_data(self) -> None:
        """Nothing to make."""

    def setup(self, stage: str | None = None) -> None:
        """List the validation pictures; training pictures are not listed, there may be millions.

        Raises:
            UserError: If something is asked for that a stream cannot do.
        """
        if self.balanced:
            raise UserError(f"data.balanced=true: a stream shows what it holds; give {self._instead_of_balanced}")
        # It is right: workers get whole batches each, see `ShardStream`.
        warnings.filterwarnings("ignore", message="Your `IterableDataset` has `__len__` defined")
        shards, _ = with_index(self._shards("train"))
        counts = [shard.samples for shard in shards]
        known = "an unknown number of" if None in counts else f"{sum(filter(None, counts)):,}"
        if self.bad_images == "error":
            for shard in shards:
                refuse_cut(shard)
        found = counted(len(shards), "shard"), counted(len(self.classes), self.noun)
        log.info("train: %s pictures in %s, %s", known, *found)
        self.load_split("val")

    def load_split(self, split: Split) -> LabelledPictures:
        """The pictures of a split; reads all its shards once."""
        if split not in self._splits:
            (shards, known), names = with_index(self._shards(split)), self.classes
            if known is not None and known != names:
                raise UserError(
                    f"the index of {shards[0].location} has the {len(known)} classes {', '.join(known[:5])}, ..., "
                    f"expected {', '.join(names[:5])}, ... in this order; write the shards with data.classes=[...]"
                )
            listed = list_samples(shards, label_of=self.label_of, cache=self._cache())
            labels = [-1 if isinstance(label, BadSampleError) else label for label in listed.labels]
            self._places[split] = listed.places
            self._keep(split, LabelledPictures(listed.names, np.array(labels, dtype=np.int64), names))
        return self._splits[split]

    @property
    def label_of(self) -> SampleReader:
        """What reads the label of a sample."""
        return LabelReader(classes=self.classes, label_from=self._options["label_from"])

    def image_folder(self, split: Split) -> Path:
        """The root."""
        return self._folder()

    def picture_folders(self, split: Split) -> set[Path]:
        """None: the pictures are in the shards."""
        return set()

    def dataset(self, split: Split, *, training: bool) -> ClassDataset:
        """The pictures of a split, in the order of its shards."""
        pictures = self.load_split(split)
        return ShardDataset(
            pictures,
            shards=with_index(self._shards(split))[0],
            places=self._places[split],
            cache=self._cache(),
            transform=self.view(training=training),
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
            collate_fn=self._stream_collate(),
            drop_last=len(stream) > self.batch_size,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            worker_init_fn=start_worker,
        )

    def _stream_collate(self) -> StreamCollate:
        """What makes batches of the stream."""
        return StreamCollate(self.mixing)

    def _stream(self) -> TrainingStream:
        options, (rank, ranks) = self._options, rank_and_size()
        return TrainingStream(
            self._shards("train"),
            decode=StreamDecode(self.view(training=True)),
            classes=self._own_classes(),
            label_of=self.label_of,
            shuffle=options["shuffle"],
            resample=options["resample"],
            epoch_length=options["epoch_length"],
            batch_size=self.batch_size,
            rank=rank,
            world_size=ranks,
            seed=self.seed,
            bad_samples=self.bad_images,
            cache=self._cache(),
        )

    def _cache(self) -> Path | None:
        return cache_dir() / "shards" if self._options["keep_shards"] else None

    def _own_classes(self) -> tuple[str, ...] | None:
        """The names that the labels have to count: a checkpoint's, or those that were asked for; None: the index's."""
        return self._classes if self._class_table is None else tuple(self._class_table[0])

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


class StreamDecode:
    """From the bytes of a picture to pixels uint8 [S, S, 3], and a number from which a batch draws what it mixes.

    Args:
        view: From a picture to the input.
    """

    def __init__(self, view: ClassTransform) -> None:
        self.view = view

    def __call__(self, data: bytes, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """Decode and transform."""
        return self.view(Picture.from_bytes(data), rng), int(rng.integers(2**31))


class StreamCollate(ClassCollate):
    """`ClassCollate` for samples of a stream, which have no place in a split."""

    def __call__(self, samples: Sequence[Any]) -> Batch:
        """The batch of some samples ``((pixels, number), label, key)``."""
        return super().__call__([(pixels, label, -1, number) for (pixels, number), label, _ in samples])
