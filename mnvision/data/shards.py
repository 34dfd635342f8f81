"""Labelled pictures streamed from tar shards in WebDataset's layout, shared out among ranks and loading processes.

Every random choice is drawn from (seed, epoch) and the place of the process among the others, so an epoch can be had
again without those before it.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from mnvision.data.dataset import BadImages
from mnvision.data.shard_files import expand_shards, open_shard, with_index
from mnvision.data.shard_labels import BadSampleError, LabelReader, Losses, SampleReader, bad_shard, picture_of
from mnvision.data.shard_plan import Part, epoch_length_of, parts_between, parts_dealt, share_of_worker, shuffled
from mnvision.data.tar import Sample, ShardError, read_samples
from mnvision.errors import UserError

Decode = Callable[[bytes, np.random.Generator], Any]

# Keeps the random numbers of different purposes apart.
_LAPS, _ROTATION, _BUFFER, _DRAWS, _FILL = range(5)
_MORE_DRAWS = 20


class _Raw(NamedTuple):
    """A sample on its way: its picture still encoded."""

    picture: bytes
    label: Any
    key: str
    part: Part
    place: int


class ShardStream(IterableDataset):
    """Items ``(decode(picture, rng), label, key)`` from tar shards.

    The shards are put one after the other, in an order drawn anew every epoch, and cut into equal runs of samples:
    first for the ranks, then for each rank's loading processes. That needs the number of samples in each shard, from
    the ``index.json`` beside them. Without it whole shards are dealt out, and where they are fewer than the processes,
    those that meet at a shard take its samples in turn.

    For distributed training (``even``), every rank yields ``epoch_length // world_size`` samples, whatever is lost on
    the way: other samples are shown again in place of bad ones, since ranks with unequal numbers of batches would wait
    for each other forever. The few samples that cannot be dealt out evenly wait for another epoch.

    Args:
        shards: Paths, URLs or patterns, see `expand_shards`.
        decode: Makes the item of a picture's bytes with the given generator, which is drawn from (seed, epoch, sample).
            It raises UserError (as `decode_image` does) or OSError where the picture cannot be read.
        classes: Names of the classes; None takes those of the index. An index with others is an error.
        num_classes: Their number, where there are no names.
        label_from: Where the samples have no member ``cls``: a regular expression on the key, see `LabelReader`.
        label_of: What else reads a sample's label; it then needs neither names nor number of classes.
        shuffle: Encoded samples that a loading process keeps and draws the next one from. 0, for evaluation: the order
            of the shards and their samples.
        resample: Draw shards with replacement, each process for itself, instead of reading each once.
        epoch_length: Samples in an epoch, over all ranks; None takes all that the index counts.
        even: All ranks get equally many. False, for evaluation: every sample once, none twice, bad ones missing.
        batch_size: The loader's, so that only one of its processes ends on a smaller batch, and ``len(loader)`` is
            right.
        rank: This process.
        world_size: Number of processes that share the samples.
        seed: Of everything random.
        bad_samples: ``skip`` counts and logs what cannot be used, see `report`; ``error`` raises.
        cache: Folder to keep the shards of URLs in; None streams them in every epoch.

    Raises:
        UserError: An argument is wrong, the shards are empty, or their number of samples has to be known and is not.
            While reading: a bad sample under ``error``, or no usable sample anywhere.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str | Path],
        *,
        decode: Decode,
        classes: Sequence[str] | None = None,
        num_classes: int | None = None,
        label_from: str | None = None,
        label_of: SampleReader | None = None,
        shuffle: int = 1000,
        resample: bool = False,
        epoch_length: int | None = None,
        even: bool = True,
        batch_size: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        bad_samples: BadImages = "skip",
        cache: Path | None = None,
    ):
        if not (0 <= rank < world_size and batch_size > 0 and shuffle >= 0 and bad_samples in ("skip", "error")):
            raise UserError(
                f"rank={rank} of world_size={world_size}, batch_size={batch_size}, shuffle={shuffle},"
                f" bad_samples={bad_samples!r}: expected 0 <= rank < world_size, at least 1, at least 0, skip or error"
            )
        self.shards, found = with_index(expand_shards(shards))
        if classes is not None and found is not None and tuple(classes) != found:
            raise UserError(
                f"the shards' index has the {len(found)} classes {', '.join(found[:5])}, ..., expected the"
                f" {len(classes)} classes {', '.join(classes[:5])}, ... Labels would mean something else"
            )
        self.classes = tuple(classes) if classes is not None else found
        self.decode, self.seed, self.shuffle, self.resample = decode, seed, shuffle, resample
        self.even, self.batch_size, self.rank, self.world_size = even, batch_size, rank, world_size
        self.bad_samples, self.cache = bad_samples, cache
        own = LabelReader(classes=self.classes, num_classes=num_classes, label_from=label_from)
        self._label = label_of or own
        counts = [shard.samples for shard in self.shards if shard.samples is not None]
        self._counts = counts if len(counts) == len(self.shards) else None
        self._total = epoch_length_of(epoch_length, counts=self._counts, resample=resample, even=even, ranks=world_size)
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # persistent workers read it too
        self._losses = Losses(len(self.shards))

    def __len__(self) -> int:
        """Samples of this rank in an epoch.

        Raises:
            TypeError: There is no index and no ``epoch_length``.
        """
        if self._total is None:
            raise TypeError("without index.json and epoch_length nobody knows how many samples the shards hold")
        first, last = self._share_of_rank()
        return last - first

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the iterators that are made from now on, also in persistent workers."""
        self._epoch[0] = epoch

    def report(self) -> dict[str, int]:
        """Log the samples that were lost since the last report, and return their number by kind (`KINDS`)."""
        return self._losses.report()

    def __iter__(self) -> Iterator[tuple[Any, Any, str]]:
        return _Reading(self, epoch=int(self._epoch[0])).items()

    def _share_of_rank(self) -> tuple[int, int]:
        assert self._total is not None
        total = self._total // self.world_size * self.world_size if self.even else self._total
        return total * self.rank // self.world_size, total * (self.rank + 1) // self.world_size


class _Reading:
    """One process's reading of one epoch."""

    def __init__(self, stream: ShardStream, *, epoch: int):
        info = get_worker_info()
        self.stream, self.epoch = stream, epoch
        self.worker, self.workers = (0, 1) if info is None else (info.id, info.num_workers)
        self.consumer = stream.rank + stream.world_size * self.worker
        self.consumers = stream.world_size * self.workers
        self.first = self.last = 0
        self.quota: int | None = None
        if stream._total is not None:
            start, end = stream._share_of_rank()
            share = share_of_worker(end - start, batch_size=stream.batch_size, worker=self.worker, workers=self.workers)
            self.first, self.last = start + share[0], start + share[1]
            self.quota = self.last - self.first
        self.taken = 0  # samples with a picture and a label that were read
        self.good = 0  # samples yielded
        self.failed = 0  # samples since the last one that could be decoded

    def items(self) -> Iterator[tuple[Any, Any, str]]:
        if self.quota == 0:
            return
        raw = (sample for part in self._parts() for sample in self._read(part))
        yield from self._decoded(shuffled(raw, size=self.stream.shuffle, rng=self._rng(_BUFFER, self.consumer)))
        if self.stream.even and self.quota is not None:
            while self.good < self.quota:
                yield from self._substitutes()
        elif not self.good:
            next(self._substitutes())  # raises if there is nothing to be had anywhere

    def _decoded(self, samples: Iterable[_Raw], *, counting: bool = True) -> Iterator[tuple[Any, Any, str]]:
        """Decode samples until the process has yielded as many as it should."""
        for sample in samples:
            name = zlib.crc32(self.stream.shards[sample.part.shard].name.encode("utf-8", "surrogateescape"))
            rng = np.random.default_rng((self.stream.seed, self.epoch, sample.part.lap, name, sample.place))
            try:
                item = self.stream.decode(sample.picture, rng)
            except (UserError, OSError) as error:
                self.failed += 1
                self._lose("unreadable", f"sample {sample.key}: {error}", sample.part, counting=counting)
                continue
            self.good, self.failed = self.good + 1, 0
            yield item, sample.label, sample.key
            if self.good == self.quota:
                return

    def _substitutes(self) -> Iterator[tuple[Any, Any, str]]:
        """Samples of any shard in place of those that were lost: one lap at a time, not counted as lost once more."""
        before, shards = self.good, len(self.stream.shards)
        lap = 1_000 + before  # apart from the laps of the epoch, so that a picture is not shown in the same way again
        order = self._rng(_FILL, self.consumer, before).permutation(shards).tolist()
        raw = (sample for shard in order for sample in self._read(Part(shard, lap=lap), counting=False))
        for item in self._decoded(raw, counting=False):
            if self.stream.even:
                self.stream._losses.add_repeated()
            yield item
        if self.good == before:
            raise UserError(
                f"none of the {shards} shards ({self.stream.shards[0].location}, ...) holds a sample that can be used:"
                " see the warnings above. Are the shards right, and do they have labels"
                f" ({self.stream._label.expected})?"
            )

    def _parts(self) -> Iterator[Part]:
        """The parts of shards that this process reads, in order."""
        stream = self.stream
        if stream._counts is not None and not stream.resample:
            total, taken = sum(stream._counts), (stream._total or 0) // stream.world_size * stream.world_size
            # Where an epoch leaves samples out, they are not those at the ends of shards every time.
            rotate = stream.shuffle > 0 and stream.even and taken % total > 0
            shift = int(self._rng(_ROTATION).integers(total)) if rotate else 0
            yield from parts_between(
                stream._counts, order=self._order(0), first=self.first + shift, last=self.last + shift
            )
            return
        for lap in itertools.count():
            before = self.taken
            if stream.resample:
                yield from self._drawn(lap)
            else:
                yield from parts_dealt(
                    len(stream.shards), order=self._order, lap=lap, consumer=self.consumer, consumers=self.consumers
                )
            size = self.taken - before
            # Nothing came of this lap, or nothing that can be decoded of the last two and all that was kept back.
            if self.quota is None or size == 0 or self.failed > stream.shuffle + 2 * size:
                return

    def _drawn(self, lap: int) -> Iterator[Part]:
        """Shards drawn with replacement; enough of them that some are good where some of all are."""
        counts, shards = self.stream._counts, len(self.stream.shards)
        rng = self._rng(_DRAWS, self.consumer, lap)
        for number, shard in enumerate(rng.integers(shards, size=shards + _MORE_DRAWS).tolist()):
            count = None if counts is None else counts[shard]
            # Short epochs that all began with the first sample of a shard would not see the last ones.
            start = int(rng.integers(count)) if count and lap == number == 0 else 0
            yield Part(shard, start, count, lap=lap * (shards + _MORE_DRAWS) + number)

    def _read(self, part: Part, *, counting: bool = True) -> Iterator[_Raw]:
        """The usable samples of a part of a shard."""
        shard = self.stream.shards[part.shard]
        met = 0  # samples that are there, usable or not
        failure: ShardError | None = None
        try:
            for sample in self._samples(part):
                try:
                    raw = _Raw(picture_of(sample), self.stream._label(sample), sample.key, part, sample.place)
                except BadSampleError as error:
                    if sample.whole:  # else it is lost with the rest of its shard
                        met += 1
                        self._lose(error.kind, f"sample {sample.key}: {error}", part, counting=counting)
                    continue
                met += 1
                self.taken += 1
                yield raw
        except ShardError as error:
            failure = error
        planned = None if part.stop is None else len(range(part.start, part.stop, part.step))
        if failure is None and planned is not None and met < planned:
            failure = ShardError("truncated", f"it holds fewer samples than the {shard.samples:,} of its index")
        if failure is not None:
            # Of processes that share a shard of unknown size, one counts its loss.
            lost = int(part.start == 0) if planned is None else planned - met
            self._lose(failure.kind, str(failure), part, counting=counting, samples=lost)

    def _samples(self, part: Part) -> Iterator[Sample]:
        file = open_shard(self.stream.shards[part.shard], cache=self.stream.cache)
        try:
            yield from read_samples(file, start=part.start, stop=part.stop, step=part.step)
        except OSError as error:
            raise ShardError("damaged", f"it cannot be read on: {error.strerror or error}") from None
        finally:
            file.close()

    def _lose(self, kind: str, reason: str, part: Part, *, counting: bool, samples: int = 1) -> None:
        shard = self.stream.shards[part.shard]
        if self.stream.bad_samples == "error":
            raise bad_shard(shard.location, reason)
        if counting:
            self.stream._losses.add(kind, shard=part.shard, name=shard.location, reason=reason, samples=samples)

    def _order(self, lap: int) -> np.ndarray:
        count = len(self.stream.shards)
        return self._rng(_LAPS, lap).permutation(count) if self.stream.shuffle else np.arange(count)

    def _rng(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng((self.stream.seed, self.epoch, *purpose))
