from __future__ import annotations

import io
import logging
import time

import lightning as L  # noqa: N812
import pytest
import torch
from rich.console import Console
from torch.utils.data import DataLoader, Dataset

from mnvision import callbacks
from mnvision.callbacks import EpochLines, TerminalBar, Throughput, peak_memory_mb, progress_callbacks
from mnvision.detection import COLUMNS
from mnvision.types import Batch, Target, pad_targets

PICTURES, BATCH = 12, 4
VALIDATION_SECONDS = 0.5


class Pictures(Dataset):
    def __len__(self):
        return PICTURES

    def __getitem__(self, index):
        image = torch.full((3, 4, 4), index, dtype=torch.uint8)
        return image, Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0) > 0, index, (4, 4))


def collate(items):
    images, targets = zip(*items, strict=True)
    return Batch(torch.stack(images), pad_targets(targets))


class Module(L.LightningModule):
    """Loss i in step i of an epoch, known metrics in validation; can fail in a step."""

    def __init__(self, *, fail_in_epoch=None, validation_seconds=0.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.fail_in_epoch = fail_in_epoch
        self.validation_seconds = validation_seconds

    def training_step(self, batch, batch_idx):
        if self.current_epoch == self.fail_in_epoch:
            raise ValueError("no more")
        loss = self.weight.sum() * 0 + batch_idx
        self.log("train/loss", loss.detach(), on_step=True, on_epoch=True, prog_bar=True, batch_size=len(batch.images))
        return loss

    def validation_step(self, batch, batch_idx):
        time.sleep(self.validation_seconds / 3)
        self.log("val/loss", 2.5, on_epoch=True, batch_size=len(batch.images))

    def on_validation_epoch_end(self):
        self.log_dict({"val/map": 0.25, "val/map_50": 0.5})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.125)


@pytest.fixture
def fit(tmp_path):
    def run(module, callbacks, *, validate_only=False, **options):
        trainer = L.Trainer(
            default_root_dir=tmp_path,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=callbacks,
            **{"max_epochs": 2, "num_sanity_val_steps": 0, **options},
        )
        loader = DataLoader(Pictures(), batch_size=BATCH, collate_fn=collate)
        if validate_only:
            trainer.validate(module, loader, verbose=False)
        else:
            trainer.fit(module, loader, loader)
        return trainer

    return run


def lines(caplog):
    return [record.getMessage().split() for record in caplog.records if record.name == callbacks.__name__]


def test_a_line_after_every_epoch(fit, caplog):
    with caplog.at_level(logging.INFO):
        trainer = fit(Module(), progress_callbacks(bar=False, columns=COLUMNS))
    titles, first, second = lines(caplog)
    assert titles == ["epoch", "loss", "val", "loss", "AP", "AP50", "img/s", "lr", "s"]
    # The mean loss of the three steps 0, 1, 2 is 1; the rest is what the module logs.
    assert first[:5] == ["1/2", "1.0000", "2.5000", "0.2500", "0.5000"]
    assert second[:5] == ["2/2", *first[1:5]]
    assert first[6] == "1.25e-01"
    assert float(second[5]) == pytest.approx(trainer.callback_metrics["train/images_per_second"].item(), abs=0.06)


def test_without_validation_no_old_numbers_are_shown(fit, caplog):
    with caplog.at_level(logging.INFO):
        fit(Module(), [EpochLines(COLUMNS)], max_epochs=3, check_val_every_n_epoch=2)
    assert [line[2:5] for line in lines(caplog)[1:]] == [
        ["-", "-", "-"],
        ["2.5000", "0.2500", "0.5000"],
        ["-", "-", "-"],
    ]


def test_long_titles_stand_apart(fit, caplog):
    with caplog.at_level(logging.INFO):
        fit(Module(), [EpochLines({"mean AP": "val/map", "balanced": "val/map"})], max_epochs=1)
    titles, line = (" ".join(words) for words in lines(caplog))
    assert "val loss mean AP balanced img/s" in titles
    assert len(line.split()) == 8


def test_wide_numbers_stand_apart(fit, caplog, monkeypatch):
    monkeypatch.setattr(Module, "on_validation_epoch_end", lambda self: self.log_dict({"val/median_km": 10895.6895}))
    with caplog.at_level(logging.INFO):
        fit(Module(), [EpochLines({"val": "val/median_km", "median km": "val/median_km"})], max_epochs=1)
    assert lines(caplog)[1][2:5] == ["2.5000", "10895.7", "10895.7"]


def test_evaluation_alone_prints_no_lines(fit, caplog):
    with caplog.at_level(logging.INFO):
        fit(Module(), progress_callbacks(bar=False, columns=COLUMNS), validate_only=True)
    assert lines(caplog) == []


def test_throughput_counts_training_only(fit):
    trainer = fit(Module(validation_seconds=VALIDATION_SECONDS), [Throughput()], max_epochs=1)
    rate = trainer.callback_metrics["train/images_per_second"].item()
    assert rate > PICTURES / VALIDATION_SECONDS  # what it could be at most if validation counted
    assert trainer.callback_metrics["train/peak_memory_mb"].item() > 50  # torch alone takes more


def test_throughput_counts_pictures_over_time(fit, monkeypatch):
    clock = iter([100.0, 103.0, 200.0, 201.0])  # epoch starts, validation starts and ends, epoch ends
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: next(clock))
    trainer = fit(Module(), [Throughput()], max_epochs=1)
    assert trainer.callback_metrics["train/images_per_second"].item() == pytest.approx(PICTURES / (3 + 1))


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory_mb(torch.device("cpu"))
    held = torch.ones(25_000_000)  # 100 MB
    assert peak_memory_mb(torch.device("cpu")) >= before
    assert peak_memory_mb(torch.device("cpu")) > held.nbytes / 1e6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_peak_memory_of_a_gpu():
    device = torch.device("cuda")
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.ones(25_000_000, device=device)
    assert peak_memory_mb(device) >= held.nbytes / 1e6


@pytest.fixture
def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=120)


def test_bar_shows_epochs_and_leaves_nothing_running(fit, terminal):
    bar = TerminalBar(console=terminal)
    fit(Module(), [bar])
    shown = terminal.file.getvalue()
    assert "epoch 1/2" in shown
    assert "epoch 2/2" in shown
    assert "measuring" in shown
    assert "3/3" in shown
    assert bar._progress is None


def test_bar_says_loss_and_speed(fit, terminal):
    fit(Module(), [TerminalBar(console=terminal)], max_epochs=1)
    assert "loss 0.0000" in terminal.file.getvalue()  # of the first step; the next ones follow within a second
    assert "img/s" in terminal.file.getvalue()


def test_bar_is_gone_after_an_error(fit, terminal):
    bar = TerminalBar(console=terminal)
    with pytest.raises(ValueError, match="no more"):
        fit(Module(fail_in_epoch=1), [bar])
    assert bar._progress is None
    assert terminal.file.getvalue().endswith("\x1b[2K")  # the line of the bar is erased


def test_bar_only_on_a_terminal(monkeypatch):
    def bars(*, bar):
        return [
            callback for callback in progress_callbacks(bar=bar, columns=COLUMNS) if isinstance(callback, TerminalBar)
        ]

    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert len(bars(bar=True)) == 1
    assert bars(bar=False) == []
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    assert bars(bar=True) == []


def test_a_long_epoch_without_a_bar_says_how_far_it_is(fit, caplog, monkeypatch):
    monkeypatch.setattr(callbacks, "QUIET_SECONDS", 0)
    with caplog.at_level(logging.INFO):
        fit(Module(), [EpochLines(COLUMNS)], max_epochs=1)
    assert "epoch 1: step 1 of" in caplog.text
