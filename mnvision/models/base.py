"""What a task's model is: three verbs over a shared backbone, and a spec that rebuilds it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mnvision.backbones.base import Backbone
from mnvision.ops.picture import Picture
from mnvision.types import Preprocessing, UserError
from mnvision.wording import counted, noun_of

Pictures = Tensor | Sequence[np.ndarray]


@dataclass(frozen=True)
class ModelSpec:
    """Everything that rebuilds a model but its weights, in plain values: a checkpoint stores it.

    Attributes:
        task: A key of ``create.TASKS``.
        task_options: Arguments of the task's network.
        backbone_options: Arguments of ``create_backbone``, its name among them.
        preprocessing: Input size, mean and standard deviation.
        classes: Names of the classes, by label.
        category_ids: The data set's own ids, in the order of ``classes``.
    """

    task: str
    task_options: dict[str, Any]
    backbone_options: dict[str, Any]
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]

    @property
    def counted(self) -> str:
        """How much it tells apart, in words: ``8 classes``, or ``120 identities`` and so on."""
        return counted(len(self.classes), noun_of(self.task))


def check_finite(output: Tensor, *, what: str) -> None:
    """Refuse what a diverged model says: of NaN the best cell or the nearest picture looks like an answer.

    Args:
        output: Of any shape.
        what: What it is, such as ``probabilities``.

    Raises:
        UserError: A number is NaN or infinite.
    """
    if not torch.isfinite(output).all():
        raise UserError(f"ckpt: the model's {what} are not finite: it has diverged; take another checkpoint")


class TaskModel(nn.Module):
    """A backbone with a head. No verb changes its return type with ``self.training``.

    Args:
        backbone: Any backbone.
        preprocessing: Input size, mean and standard deviation; normalisation is part of the model.

    Attributes:
        spec: How the model was built; set by ``create.build_model``.
    """

    spec: ModelSpec
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, *, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.backbone = backbone
        self.preprocessing = preprocessing
        # Not persistent: they follow from the spec, and a state dict holds what was learnt.
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)

    @property
    def crop_share(self) -> float:
        """How much of a picture it sees, see ``Preprocessing``; may be set of a trained model."""
        return self.preprocessing.crop_share

    @crop_share.setter
    def crop_share(self, share: float) -> None:
        self.preprocessing = replace(self.preprocessing, crop_share=share)

    def normalise(self, images: Tensor) -> Tensor:
        """Turn pixels [B, 3, H, W], uint8 or float in 0..255, into what the backbone takes."""
        return (images - self.mean).div_(self.std)  # in place: one large map less

    def stack(self, pictures: Pictures) -> Tensor:
        """Fit pictures uint8 [H, W, 3] RGB of any sizes to the input, a batch [B, 3, S, S]; a batch stays as it is."""
        if isinstance(pictures, Tensor):
            return pictures
        if self.preprocessing.aligned:
            warnings.warn(
                "the model was trained on faces that were aligned by five landmarks (mnvision.ops.alignment.align); "
                "these pictures are taken as they are",
                stacklevel=2,
            )
        stacked = np.stack(
            [Picture.from_array(picture).fit(self.preprocessing) for picture in pictures]
        )  # [B, S, S, 3]
        return torch.from_numpy(stacked).to(self.mean.device).permute(0, 3, 1, 2)

    def forward(self, images: Tensor) -> Any:
        """Raw output for images [B, 3, H, W], uint8 or float in 0..255; tensors only: this is what is exported."""
        raise NotImplementedError

    def losses(self, images: Tensor, targets: Any, *, output: Any = None) -> dict[str, Tensor]:
        """Scalar losses whose sum is minimised; ``output`` is what ``forward`` gave, if that is known already."""
        raise NotImplementedError

    def predict(self, images: Any, *, original_sizes: Tensor | None = None, output: Any = None) -> Any:
        """Final results; places in the picture are scaled to ``original_sizes`` [B, 2] (height, width) if given."""
        raise NotImplementedError
