"""PlaNet: where on earth a picture was taken, as a choice among cells (arXiv:1602.05314)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mnvision.backbones.base import Backbone
from mnvision.models.base import Pictures
from mnvision.models.classifier import Classifier
from mnvision.ops.s2 import are_tokens, cell_centers, group_cells, read_tokens
from mnvision.types import Preprocessing, UserError


class Located(NamedTuple):
    """Where pictures seem to have been taken.

    Attributes:
        probabilities: float32 [B, K], of the cells.
        cells: int64 [B], the cell that is answered for each picture.
        places: float32 [B, 2], the latitude and longitude that stand for that cell, in degrees.
    """

    probabilities: Tensor
    cells: Tensor
    places: Tensor


class Geolocator(Classifier):
    """A classifier whose classes are cells of the earth, each with a place that stands for it.

    Args:
        backbone: Any backbone; its last level is used.
        num_classes: Cells.
        preprocessing: Input size, mean and standard deviation.
        classes: The cells' S2 tokens. Names that are no tokens give a network that can be trained and counted, but
            cannot tell places.
        places: [K, 2], latitude and longitude in degrees of the place that is answered for each cell; None: the
            middle of the cell.
        parent_level: Answer from the best parent of this level first, by the sum of its cells' probabilities, then by
            the best cell in it; None: by the best cell.
        dropout: Share of the features before the last layer that training zeroes; None for the backbone's own.

    Raises:
        UserError: If ``places`` are not one for each cell.
    """

    places: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int,
        preprocessing: Preprocessing,
        classes: Sequence[str] = (),
        places: Sequence[Sequence[float]] | None = None,
        parent_level: int | None = None,
        dropout: float | None = None,
    ) -> None:
        super().__init__(backbone, num_classes=num_classes, preprocessing=preprocessing, dropout=dropout)
        self.tokens = tuple(classes) if classes and are_tokens(classes) else None
        self.parent_level = parent_level
        if places is None and self.tokens is not None:
            places = cell_centers(read_tokens(self.tokens)).tolist()
        if places is not None and np.shape(places) != (num_classes, 2):
            raise UserError(
                f"a geolocator of {num_classes} cells got places of shape {list(np.shape(places))}; expected "
                f"{[num_classes, 2]}: a latitude and a longitude for each cell"
            )
        # Not persistent: they follow from the spec. In float32 the last digit of 180 degrees is 1.7 m.
        answers = torch.full((num_classes, 2), torch.nan) if places is None else torch.tensor(places)
        self.register_buffer("places", answers.float(), persistent=False)
        self._groups: dict[int, Tensor] = {}

    @torch.no_grad()
    def predict(  # type: ignore[override]
        self, images: Pictures, *, original_sizes: Tensor | None = None, output: Tensor | None = None
    ) -> Located:
        """Cells, their probabilities, and places; see ``Classifier.predict``.

        Raises:
            UserError: If the classes are no cells of the earth.
        """
        if self.tokens is None:
            raise UserError(
                "this geolocator cannot tell places: its classes are no S2 cells; make it with classes=TOKENS, such as "
                "those of data/place_datamodule.py"
            )
        probabilities = super().predict(images, original_sizes=original_sizes, output=output)
        cells = self._best(probabilities)
        return Located(probabilities, cells, self.places[cells])

    def _best(self, probabilities: Tensor) -> Tensor:
        """The cell that is answered: int64 [B]."""
        if self.parent_level is None:
            return probabilities.argmax(dim=1)
        groups = self._parents(self.parent_level).to(probabilities.device)  # [K]
        sums = probabilities.new_zeros(len(probabilities), int(groups.max()) + 1).index_add_(1, groups, probabilities)
        best = sums.argmax(dim=1, keepdim=True)  # [B, 1]
        return probabilities.masked_fill(groups != best, -1.0).argmax(dim=1)

    def _parents(self, level: int) -> Tensor:
        """The group of each cell at a level: int64 [K]."""
        if level not in self._groups:
            self._groups[level] = torch.from_numpy(group_cells(read_tokens(self.tokens or ()), level)[0])
        return self._groups[level]
