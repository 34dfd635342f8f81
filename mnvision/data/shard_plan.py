"""Who reads which samples of which shard in an epoch: pure functions of the seed, the epoch and the consumers.

A consumer is one loading process of one rank. A lap is once through all shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from mnvision.errors import UserError

T = TypeVar("T")
Order = Callable[[int], np.ndarray]  # lap -> the shards in the order in which this lap reads them


class Part(NamedTuple):
    """The samples ``start:stop:step`` of one shard; ``lap`` tells its repetitions in an epoch apart."""

    shard: int
    start: int = 0
    stop: int | None = None
    step: int = 1
    lap: int = 0


def share_of_worker(samples: int, *, batch_size: int, worker: int, workers: int) -> tuple[int, int]:
    """First and last + 1 of a rank's samples that a worker yields.

    The workers share whole batches, since each forms its own: a rank then has as many batches as one worker would
    have made of all its samples.
    """
    batches = -(-samples // batch_size)
    first, last = (batches * part // workers * batch_size for part in (worker, worker + 1))
    return min(first, samples), min(last, samples)


def parts_between(counts: Sequence[int], *, order: np.ndarray, first: int, last: int) -> Iterator[Part]:
    """The parts that hold the samples ``first:last`` of the shards put one after the other, round and round.

    Args:
        counts: Samples in each shard; at least one in all.
        order: The order of the shards, the same in every lap: a run of samples no longer than all then has none twice.
        first: The first sample.
        last: The one after the last.
    """
    total = sum(counts)
    lap = first // total
    at = lap * total  # the position of the shard's first sample
    while at < last:
        for shard in order.tolist():
            start, stop = max(first - at, 0), min(last - at, counts[shard])
            if start < stop:
                yield Part(shard, start, stop, lap=lap)
            at += counts[shard]
        lap += 1


def parts_dealt(shards: int, *, order: Order, lap: int, consumer: int, consumers: int) -> list[Part]:
    """A consumer's part of a lap where nobody knows how many samples the shards hold.

    Shards are dealt out one by one. Where there are fewer than consumers, those that meet at a shard take its samples
    in turn.
    """
    dealt = order(lap).tolist()
    if shards >= consumers:
        return [Part(shard, lap=lap) for shard in dealt[consumer::consumers]]
    place = consumer % shards
    return [Part(dealt[place], start=consumer // shards, step=len(range(place, consumers, shards)), lap=lap)]


def shuffled(samples: Iterable[T], *, size: int, rng: np.random.Generator) -> Iterator[T]:
    """Keep ``size`` samples and yield one of them, drawn at random, for each new one."""
    kept: list[T] = []
    for sample in samples:
        if len(kept) < size:
            kept.append(sample)
        elif size:
            place = int(rng.integers(size))
            kept[place], sample = sample, kept[place]
            yield sample
        else:
            yield sample
    for place in rng.permutation(len(kept)).tolist():
        yield kept[place]


def epoch_length_of(
    asked: int | None, *, counts: Sequence[int] | None, resample: bool, even: bool, ranks: int
) -> int | None:
    """Samples in an epoch over all ranks; None where an epoch is whatever the shards hold.

    Args:
        asked: What the user wants; None for all there are.
        counts: Samples in each shard; None where that is not known.
        resample: Whether shards are drawn with replacement.
        even: Whether all ranks get equally many.
        ranks: Number of processes.

    Raises:
        UserError: The number has to be known and is not, or there are too few.
    """
    if counts is not None and not sum(counts):
        raise UserError("the shards are empty: their index counts 0 samples. Expected some")
    if not even and (resample or asked is not None):
        raise UserError("resample and epoch_length are for training. Expected neither where even=False sees all once")
    total = asked if asked is not None or counts is None else sum(counts)
    if total is None and (resample or (even and ranks > 1)):
        raise UserError(
            "the shards have no index.json, so nobody knows how many samples they hold, but all ranks need equally"
            " many, and drawing needs an end. Give epoch_length, the number of samples in an epoch over all ranks"
        )
    if total is not None and total < (ranks if even else 1):
        raise UserError(f"an epoch has {total} samples for {ranks} ranks. Expected at least one for each: epoch_length")
    return total
