"""BatchNorm into the convolution before it, for speed; and out of it again, for training.

Both work on every module with a convolution ``conv`` and a BatchNorm ``norm`` after it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


def is_folded(model: nn.Module) -> bool:
    """Whether a norm of the model is an exact identity but for its bias, as loading folded weights leaves it.

    A freshly initialised norm is not: it divides by ``sqrt(1 + eps)``.
    """
    return any(_is_identity(norm) for *_, norm in _pairs(model))


@torch.no_grad()
def unfold_batchnorm(model: nn.Module, batches: Iterable[Tensor], *, max_batches: int = 8) -> int:
    """Give norms that are identities the statistics that training needs, without changing what the model computes.

    Weights with BatchNorm folded in leave norms as identities: right in evaluation, but in training mode batch
    statistics would replace mean 0 and variance 1 and change the function at the first step. Here the mean m and the
    variance v of each such norm's input are measured over real pictures (biased, exactly, over all of them together),
    and then running mean = m, running variance = v, gamma = sqrt(v + eps) and beta = bias + m, which is the same
    function. In training mode the batch's own statistics are then close to the ones that gamma and beta undo.

    A dead channel, whose input never varies, gets gamma = sqrt(eps): training multiplies it by
    sqrt(v + eps) / sqrt(batch variance + eps), which is 1 for it, so neither the channel nor its gradient grows. The
    epsilon is the floor under v that this needs. A floor of our own above it would amplify such channels by
    sqrt(floor / eps), so there is none: v is only kept from rounding below 0. (A channel that is merely silent in the
    pictures taken is damped in training by the same rule: take pictures like those to train on.)

    Args:
        model: Any network; norms that are no identities are left alone.
        batches: What the model's ``forward`` takes: images [B, 3, S, S]. A few dozen pictures are enough for most
            maps; deep 1x1 maps have one sample a picture.
        max_batches: Batches to take at most.

    Returns:
        The number of norms unfolded.

    Raises:
        ValueError: If there are norms to unfold but no batches.
    """
    norms = [norm for *_, norm in _pairs(model) if _is_identity(norm)]
    if not norms:
        return 0
    totals = {norm: _Totals(norm) for norm in norms}
    modes = {module: module.training for module in model.modules()}
    device = norms[0].weight.device
    hooks = [norm.register_forward_pre_hook(totals[norm].add) for norm in norms]
    model.eval()
    try:
        for batch in islice(batches, max_batches):
            model(batch.to(device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    if any(total.count == 0 for total in totals.values()):
        raise ValueError("cannot unfold BatchNorm without pictures: no batch was given")
    for norm, total in totals.items():
        # Rounded to the norm's own precision first, so that gamma and beta undo exactly what it will apply.
        mean, variance = (value.to(norm.weight) for value in total.statistics())
        norm.bias.copy_(norm.bias.double() + mean)
        norm.weight.copy_((variance.double() + norm.eps).sqrt())
        norm.running_mean, norm.running_var = mean, variance
    return len(norms)


@torch.no_grad()
def fold_batchnorm(model: Model) -> Model:
    """Return a copy for inference with each BatchNorm merged into the convolution before it.

    Args:
        model: Any network; it is not changed. The copy is in evaluation mode and cannot be trained further as the
            original could.
    """
    model = copy.deepcopy(model).eval()
    for parent, conv, norm in list(_pairs(model)):
        mean, variance = norm.running_mean, norm.running_var
        if mean is None or variance is None:
            continue  # it always uses the batch's statistics: nothing constant to merge
        scale = norm.weight.double() / (variance.double() + norm.eps).sqrt()
        shift = -mean.double() if conv.bias is None else conv.bias.double() - mean.double()
        bias = norm.bias.double() + shift * scale
        conv.weight.copy_(conv.weight.double() * scale[:, None, None, None])
        conv.bias = nn.Parameter(bias.to(conv.weight), requires_grad=conv.weight.requires_grad)
        parent.norm = nn.Identity()
    return model


class _Totals:
    """Sums over a norm's inputs, per channel, in float64: exact whatever the batches' sizes."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        self.count = 0
        self.sum = torch.zeros_like(norm.weight, dtype=torch.float64)
        self.squares = torch.zeros_like(self.sum)

    def add(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        """Add one input [B, C, H, W]."""
        for picture in inputs[0].detach():  # one at a time: a whole batch in float64 would take hundreds of megabytes
            values = picture.flatten(1).double()  # [C, H*W]
            self.count += values.shape[1]
            self.sum += values.sum(1)
            self.squares += values.square().sum(1)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and biased variance [C], float64."""
        mean = self.sum / self.count
        return mean, (self.squares / self.count - mean.square()).clamp(min=0)


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Conv2d, nn.BatchNorm2d]]:
    """Modules of our kinds with a convolution ``conv`` and a BatchNorm ``norm`` after it, and these two."""
    opaque = {part for module in model.modules() if getattr(module, "opaque", False) for part in module.modules()}
    for module in (part for part in model.modules() if part not in opaque):
        conv, norm = getattr(module, "conv", None), getattr(module, "norm", None)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            yield module, conv, norm


def _is_identity(norm: nn.BatchNorm2d) -> bool:
    """Whether the norm adds its bias and does nothing else, to the last bit."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        return False
    return bool((mean == 0).all() and (norm.weight == 1).all() and ((variance + norm.eps).sqrt() == 1).all())
