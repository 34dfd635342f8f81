"""What a teacher said of each view of each picture, in memory: asked when a view is first seen, and never again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class TeacherMemory:
    """Answers of a teacher, of a few views of each picture that a training shows in turn.

    A teacher is several times as large as its student, and is what most of a distillation's time goes to.

    Args:
        pictures: I; image ids count them from 0 on.
        views: V of each picture; the view of an epoch is its number modulo V.
    """

    def __init__(self, *, pictures: int, views: int) -> None:
        self.known = torch.zeros(views, pictures, dtype=torch.bool)
        self.answers: Tensor | None = None  # float32 [V, I, C], made when C is known
        self.view = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> TeacherMemory:
        """Itself: a running mean of a model copies what the model holds, and this may be large."""
        return self

    def begin_epoch(self, epoch: int) -> None:
        """Turn to the view of an epoch."""
        self.view = epoch % len(self.known)

    @torch.no_grad()
    def __call__(self, images: Tensor, image_ids: Tensor, *, ask: Callable[[Tensor], Tensor]) -> Tensor:
        """Answers float32 [B, C] of a batch.

        Args:
            images: [B, 3, S, S], in the view of this epoch.
            image_ids: int64 [B].
            ask: From images [N, 3, S, S] to answers [N, C].
        """
        ids = image_ids.cpu()
        new = ~self.known[self.view, ids]
        if new.any():
            found = ask(images[new.to(images.device)]).float().cpu()
            if self.answers is None:
                self.answers = found.new_zeros(*self.known.shape, found.shape[1])
            self.answers[self.view, ids[new]] = found
            self.known[self.view, ids[new]] = True
        assert self.answers is not None  # an empty batch is never drawn
        return self.answers[self.view, ids].to(images.device)
