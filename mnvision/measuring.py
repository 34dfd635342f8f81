"""The measuring of a model on a split, at the end of a training and by itself: numbers, predictions, pictures, page."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812

from mnvision.data.base_datamodule import PictureDataModule
from mnvision.data.pairs import shared_identities
from mnvision.data.splits import Split
from mnvision.embedding import remarks
from mnvision.errors import UserError
from mnvision.files import write_text
from mnvision.kinds import kind_of
from mnvision.metrics.embeddings import EmbeddingMetric
from mnvision.metrics.verification import JudgedPairs
from mnvision.module import VisionModule
from mnvision.outputs import report_run

logger = logging.getLogger(__name__)


def measure(
    trainer: L.Trainer,
    module: VisionModule,
    data: PictureDataModule,
    split: Split,
    *,
    cfg: Mapping[str, Any],
    folder: Path,
    commands: Sequence[Sequence[str]],
) -> dict[str, float]:
    """Evaluate a model on a split, print the numbers, and write them with predictions, pictures and a page.

    Args:
        trainer: Runs the evaluation.
        module: Holds the model and the metric of the split.
        data: Has the split.
        split: ``train``, ``val`` or ``test``.
        cfg: The configuration of the run.
        folder: Of the run.
        commands: That repeat the run, for the page.

    Returns:
        The numbers, as in ``metrics.json``.
    """
    if split == "test" and isinstance(module.metric, EmbeddingMetric):
        module.metric.threshold_from = _after_validation(trainer, module, data, metric=module.metric)
    logged = trainer.validate(module, datamodule=_OneSplit(data, split), verbose=False)[0]
    plain = {name.removeprefix("val/"): round(float(value), 6) for name, value in logged.items()}
    numbers = {f"{split}/{name}": value for name, value in plain.items()}
    if not trainer.is_global_zero:
        return numbers
    model, metric = module.model, module.metric
    kind = kind_of(model, command="measuring")
    logger.info("\n%s", kind.summary(metric, plain))
    write_text(folder / "metrics.json", json.dumps(numbers, indent=1))
    kind.write_results(metric, folder)
    kind.write_pictures(model, data, split, metric=metric, folder=folder, count=cfg["trainer"]["pictures"])
    bars, ticks = kind.by_class(metric)
    report_run(
        model,
        remarks=remarks(metric, plain) if isinstance(metric, EmbeddingMetric) else {},
        bars=bars,
        ticks=ticks,
        plan=kind.PLAN,
        split=split,
        count=len(data.load_split(split)),
        cfg=cfg,
        folder=folder,
        numbers=numbers,
        commands=commands,
    )
    return numbers


def _after_validation(
    trainer: L.Trainer, module: VisionModule, data: PictureDataModule, *, metric: EmbeddingMetric
) -> JudgedPairs | None:
    """What the validation split says before a test of an embedder; warns where both have the same identities.

    Returns:
        Its pairs, which choose the threshold where those of the test are one fold; else, or without them, None.
    """
    try:
        pictures = data.load_split("val")
    except UserError as error:
        if metric.one_fold:
            logger.warning("no validation pairs to choose a threshold by: %s", error)
        return None
    if shared := shared_identities(pictures.classes, data.load_split("test").classes):
        chosen = "the best checkpoint and this threshold" if metric.one_fold else "the best checkpoint"
        logger.warning(
            "%d identities of the test are in the validation split, which chooses %s: the numbers are too good for it",
            *(len(shared), chosen),
        )
    if not metric.one_fold:
        return None
    validation = EmbeddingMetric(pictures)
    logger.info("one fold of pairs: the validation pairs are measured first, to choose the threshold by")
    module.metric = validation
    trainer.validate(module, datamodule=_OneSplit(data, "val"), verbose=False)
    module.metric = metric
    return validation.judged() if validation.roc() is not None else None


class _OneSplit(L.LightningDataModule):
    """One split as evaluation reads it. Its loader is made when each process of a run knows its part.

    Args:
        data: The data.
        split: ``train``, ``val`` or ``test``.
    """

    def __init__(self, data: PictureDataModule, split: Split) -> None:
        super().__init__()
        self.data, self.split = data, split

    def val_dataloader(self) -> Any:
        """The split's loader."""
        return self.data.evaluation_dataloader(self.split)

    def teardown(self, stage: str) -> None:
        """As of the data."""
        self.data.teardown(stage)
