"""Two programs measured against each other, each in a process of its own, in turns."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from statistics import median

import torch
from torch import Tensor, nn

from mnvision.hardware import keep_freed_memory

Action = Callable[[], object]


class Side:
    """A process that does one side's work on demand and says how long it took."""

    def __init__(self, make: Callable[[], dict[str, Action]], *, keep_memory: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, far = context.Pipe()
        self.process = context.Process(target=serve, args=(make, far, keep_memory), daemon=True)
        self.process.start()

    def run(self, name: str) -> float:
        """Seconds of one run of a test, right after one that is not counted."""
        self.connection.send(name)
        return self.connection.recv()

    def close(self) -> None:
        """End the process."""
        self.connection.send(None)
        self.process.join()


def serve(make: Callable[[], dict[str, Action]], connection: Connection, keep_memory: bool) -> None:
    """The loop of a side's process."""
    if keep_memory:
        keep_freed_memory()
    torch.manual_seed(0)
    actions = make()
    while (name := connection.recv()) is not None:
        actions[name]()  # caches and threads are warm for the run that counts
        started = time.perf_counter()
        actions[name]()
        connection.send(time.perf_counter() - started)


def compare(
    sides: Sequence[Side], tests: Mapping[str, tuple[str, int]], *, quick: bool, them: str = "torchvision"
) -> None:
    """Run every test (title and turns by name) on their side and on ours, and print a line each."""
    print(f"{'':48}{them:>13}{'ours':>11}{'ratio':>8}")
    for name, (title, turns) in tests.items():
        times: list[list[float]] = [[], []]
        for turn in range((turns // 3 if quick else turns) + 3):
            for side, kept in zip(sides, times, strict=True):
                time.sleep(0.05)  # the other process has stopped spinning by then
                seconds = side.run(name)
                if turn >= 3:  # warm by then
                    kept.append(seconds)
        slow, fast = map(median, times)
        print(f"{title:48}{1e3 * slow:10.1f} ms{1e3 * fast:8.1f} ms{slow / fast:7.1f}x", flush=True)
    for side in sides:
        side.close()


def torchvision_mult_adds(theirs: nn.Module, *, side: int) -> int:
    """Counted by our profiler's rule, over the layers that run for one square picture."""
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        total += output.numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in theirs.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    theirs.eval()
    with torch.no_grad():
        theirs([torch.zeros(3, side, side)])
    for hook in hooks:
        hook.remove()
    return total
