"""What a training shows of itself: speed, peak memory, one line an epoch, a bar."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import lightning as L  # noqa: N812
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mnvision.types import Batch

logger = logging.getLogger(__name__)

QUIET_SECONDS = 120  # a log that nobody watches says at least so often how far an epoch is


def progress_callbacks(*, bar: bool, columns: Mapping[str, str]) -> list[Callback]:
    """The callbacks of a run.

    Args:
        bar: Show a progress bar where the output is a terminal.
        columns: What the line of an epoch tells of the evaluation: title and name of the number.
    """
    callbacks: list[Callback] = [Throughput(), EpochLines(columns)]
    return [*callbacks, TerminalBar()] if bar and sys.stderr.isatty() else callbacks


class Throughput(Callback):
    """Logs ``train/images_per_second`` (of all devices together) and ``train/peak_memory_mb`` of every epoch.

    The clock stands still during validation. It includes the wait for data, and in the first epoch the start of the
    data workers.
    """

    def __init__(self) -> None:
        self._images = 0
        self._seconds = 0.0
        self._since: float | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the peak of what the process did before."""
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._images, self._seconds, self._since = 0, 0.0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the pictures."""
        self._images += len(batch.images)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self._stop(pl_module.device)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the clock go on."""
        self._since = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log both numbers."""
        self._stop(pl_module.device)
        rate = self._images / max(self._seconds, 1e-9)
        pl_module.log("train/images_per_second", rate, reduce_fx="sum", sync_dist=True)
        memory = peak_memory_mb(pl_module.device)
        if memory is not None:
            pl_module.log("train/peak_memory_mb", memory, reduce_fx="max", sync_dist=True)

    def _stop(self, device: torch.device) -> None:
        if self._since is None:
            return
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # the last steps may still be under way
        self._seconds += time.perf_counter() - self._since
        self._since = None


def peak_memory_mb(device: torch.device) -> float | None:
    """The most memory held at once, in 10^6 bytes; None where the system does not tell.

    On CUDA: by tensors on the device, since the last reset. Elsewhere: by the main process since it started.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource  # Unix only
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


class EpochLines(Callback):
    """Logs a line of numbers after every epoch of a training, under a line of titles.

    Args:
        columns: Title and name of the numbers beside losses and speed.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        # Title, width, name of the logged metric, format. "val/" ones are new only after validation.
        self._columns = (
            ("loss", 8, "train/loss", ".4f"),
            ("val loss", 9, "val/loss", ".4f"),
            # Kilometres are no shares: thousands of them, and no need of a metre.
            *((t, max(7, len(t) + 1), name, ".1f" if name.endswith("_km") else ".4f") for t, name in columns.items()),
            ("img/s", 8, "train/images_per_second", ".1f"),
        )
        self._started = self._spoken = 0.0
        self._validated = False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Log a sign of life in long epochs, where no bar is shown."""
        if sys.stderr.isatty() or not trainer.is_global_zero or time.perf_counter() - self._spoken < QUIET_SECONDS:
            return
        self._spoken = time.perf_counter()
        logger.info("epoch %d: step %d of %s", trainer.current_epoch + 1, batch_idx + 1, trainer.num_training_batches)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the titles."""
        if trainer.is_global_zero:
            titles = "".join(f"{title:>{width}}" for title, width, *_ in self._columns)
            logger.info("%s", f"{'epoch':>9}{titles}{'lr':>10}{'s':>7}")

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, which includes validation."""
        self._started = self._spoken = time.perf_counter()
        self._validated = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember that the metrics of this epoch are there."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the line."""
        metrics = trainer.callback_metrics  # on every process: reading it may gather
        if not trainer.is_global_zero:
            return
        cells = [f"{trainer.current_epoch + 1}/{trainer.max_epochs}".rjust(9)]
        for _, width, name, form in self._columns:
            known = name in metrics and (self._validated or not name.startswith("val/"))
            cells.append(" " + (f"{metrics[name].item():{form}}" if known else "-").rjust(width - 1))
        rate = max(group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups)
        cells.append(f"{rate:>10.2e}{time.perf_counter() - self._started:>7.1f}")
        logger.info("%s", "".join(cells))


class TerminalBar(Callback):
    """A bar at the foot of the terminal that goes away when its epoch or evaluation is over."""

    def __init__(self, *, console: Console | None = None) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._images = 0
        self._started = 0.0
        self._noted = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the bar of an epoch."""
        self._images, self._started = 0, time.perf_counter()
        name = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._show(name, trainer, total=trainer.num_training_batches)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Move on, and say the loss and the speed."""
        self._images += len(batch.images)
        self._advance(batch_idx, note=self._note(trainer) if self._progress else None)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the bar of an evaluation."""
        self._show("measuring", trainer, total=sum(trainer.num_val_batches))

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Move on."""
        self._advance(batch_idx)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the bar away, before lines are printed."""
        self._hide()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the bar away."""
        self._hide()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Take the bar away, before the message is printed."""
        self._hide()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Take the bar away."""
        self._hide()

    def _show(self, name: str, trainer: L.Trainer, *, total: float) -> None:
        self._hide()
        if not trainer.is_global_zero:
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}"),
            console=self._console or Console(stderr=True),
            transient=True,
            refresh_per_second=4,
        )
        self._progress.start()
        self._task = self._progress.add_task(name, total=total if math.isfinite(total) else None, note="")

    def _advance(self, batch_idx: int, *, note: str | None = None) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=batch_idx + 1)
            if note is not None:
                self._progress.update(self._task, note=note)

    def _note(self, trainer: L.Trainer) -> str | None:
        now = time.perf_counter()
        if now - self._noted < 1:  # reading the loss makes the host wait for the device
            return None
        self._noted = now
        loss = trainer.progress_bar_metrics.get("train/loss_step", math.nan)
        return f"loss {float(loss):.4f}  {self._images / (now - self._started):.0f} img/s"

    def _hide(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
