"""A trained model made fast for prediction on this machine: same results, nothing to compile, not trainable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from mnvision.backbones.folding import fold_batchnorm
from mnvision.backbones.layers import ConvNormAct, SameConv2d
from mnvision.models.base import TaskModel

Model = TypeVar("Model", bound=TaskModel)

# What oneDNN computes in the same pass as a convolution: name and constants of its operation.
FUSED: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
}
LARGE = 1 << 20  # weights of a fully connected layer; packing a smaller one gains less than its call costs


def for_inference(model: Model, *, device: torch.device | str = "cpu", batch_size: int = 1) -> Model:
    """Return a copy for prediction: BatchNorm folded, channels last, and on a CPU the weights packed.

    PyTorch's convolutions on a CPU bring the weights into oneDNN's blocked layout at every call, which at batch 1 takes
    a good part of the time; here that is done once, and the activation joins the convolution.

    Args:
        model: A model in any mode; it is not changed.
        device: Where the copy shall run.
        batch_size: Pictures in the batches that it shall be fastest for.

    Returns:
        A copy in evaluation mode on ``device``. It computes what the model computes (to float32 rounding) for batches
        of every size. It cannot be trained or exported: keep the model for that.
    """
    # One kernel fewer over every map: BatchNorm goes into the convolutions.
    fast = fold_batchnorm(model).requires_grad_(False).to(device)
    fast = fast.to(memory_format=torch.channels_last)
    if torch.device(device).type == "cpu" and can_pack():
        size = model.preprocessing.size
        _pack(fast, _input_shapes(fast, torch.zeros(batch_size, 3, size, size, dtype=torch.uint8)))
    return fast


def can_pack() -> bool:
    """Whether this PyTorch has oneDNN and its fused layers, which are no part of the public interface."""
    names = (
        *("_convolution_pointwise", "_reorder_convolution_weight"),
        *("_linear_pointwise", "_reorder_linear_weight"),
    )
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


class PackedConv(nn.Module):
    """A convolution with bias and its activation in one oneDNN operation, its weights in oneDNN's own layout.

    Args:
        conv: A float32 convolution on the CPU.
        activation: A key of ``FUSED``.
        shape: [B, C, H, W] of the input for which the layout is chosen; others are right too, but may be slower.
    """

    def __init__(self, conv: nn.Conv2d, activation: type[nn.Module], *, shape: Sequence[int]) -> None:
        super().__init__()
        self.conv = conv
        self.activation, self.constants = FUSED[activation]
        padding = (0, 0) if isinstance(conv, SameConv2d) else conv.padding
        self.settings = (padding, conv.stride, conv.dilation, conv.groups)
        shape = self._padded(torch.empty(*shape, device="meta")).shape
        # A plain attribute: a packed tensor is opaque, and neither moves between devices nor belongs in a state dict.
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(conv.weight, *self.settings, shape)

    def forward(self, input: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, O, H/stride, W/stride]."""
        return torch.ops.mkldnn._convolution_pointwise(
            self._padded(input), self.packed, self.conv.bias, *self.settings, self.activation, self.constants, ""
        )

    def _padded(self, input: Tensor) -> Tensor:
        return self.conv.pad(input) if isinstance(self.conv, SameConv2d) else input


class PackedLinear(nn.Module):
    """A fully connected layer, its weights in oneDNN's own layout.

    Args:
        linear: A float32 layer on the CPU.
        rows: Of the input for which the layout is chosen; others are right too, but may be slower.
    """

    def __init__(self, linear: nn.Linear, *, rows: int) -> None:
        super().__init__()
        self.bias = linear.bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight, rows)  # as in PackedConv

    def forward(self, input: Tensor) -> Tensor:
        """Map [R, F] to [R, O]."""
        return torch.ops.mkldnn._linear_pointwise(input, self.packed, self.bias, "none", [], "")


@torch.no_grad()
def _input_shapes(model: nn.Module, images: Tensor) -> dict[nn.Module, Sequence[int]]:
    """The shape of the input of every convolution and every fully connected layer for such images."""
    shapes: dict[nn.Module, Sequence[int]] = {}

    def note(part: nn.Module, inputs: tuple[Tensor]) -> None:
        rows, *rest = inputs[0].shape
        # Of one that levels share the first counts, which is the largest; the picture may have had no proposals.
        shapes.setdefault(part, (max(rows, 1), *rest))

    parts = [part for part in model.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    hooks = [part.register_forward_pre_hook(note) for part in parts]
    model(images)
    for hook in hooks:
        hook.remove()
    return shapes


def _pack(module: nn.Module, shapes: Mapping[nn.Module, Sequence[int]]) -> None:
    """Replace the convolutions and the large fully connected layers in a folded network."""
    for name, part in list(module.named_children()):
        if getattr(part, "opaque", False):
            continue  # other kinds of convolutions, and modules that use their weights in ways of their own
        if isinstance(part, ConvNormAct) and isinstance(part.norm, nn.Identity) and type(part.activation) in FUSED:
            # In place: what keeps a list of such modules, as a backbone's stages, has the packed convolution too.
            part.add_module("conv", PackedConv(part.conv, type(part.activation), shape=shapes[part.conv]))
            part.activation = nn.Identity()
        elif isinstance(part, nn.Conv2d):
            setattr(module, name, PackedConv(part, nn.Identity, shape=shapes[part]))
        elif isinstance(part, nn.Linear) and part.weight.numel() >= LARGE and len(shapes.get(part, ())) == 2:
            setattr(module, name, PackedLinear(part, rows=shapes[part][0]))
        else:
            _pack(part, shapes)
