"""Who reads which samples of which shard in an epoch: pure functions of the seed, the epoch and the consumers.

A consumer is one loading process of one rank. A lap is once through all shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

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
