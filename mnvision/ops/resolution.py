"""The resolution multiplier of MobileNet."""

from __future__ import annotations

from mnvision.errors import UserError

STRIDE = 32  # a MobileNet halves its input five times
# The largest stride of the backbones that have another one, by name. Here rather than in the registry, since whoever
# checks a configuration has not loaded any network.
STRIDES = {"mobilenet_cifar": 4, "squeezenet": 16}


def stride_of(backbone: str) -> int:
    """The largest stride of a backbone, by its name; 32 where it is not known to have another one."""
    return STRIDES.get(backbone, STRIDE)


def input_size(image_size: int, rho: float, *, stride: int = STRIDE) -> int:
    """The side of the network's square input at resolution multiplier ``rho`` (paper, section 3.4).

    At ``rho`` 1 it is ``image_size`` itself; otherwise the product is rounded to a whole number of strides, which
    turns the ``rho`` of the paper's table 7 into the sizes printed there.

    Args:
        image_size: Side of the picture that the task asks for, in pixels.
        rho: Resolution multiplier, above 0.
        stride: The network's largest one, see ``stride_of``.

    Returns:
        Side of the input in pixels.

    Raises:
        UserError: There is not even one stride.

    >>> [input_size(224, rho) for rho in (1.0, 0.857, 0.714, 0.571)]
    [224, 192, 160, 128]
    >>> input_size(300, 1)
    300
    >>> input_size(28, 1, stride=4), input_size(28, 0.857, stride=4)
    (28, 24)
    """
    size = image_size if rho == 1 else round(image_size * rho / stride) * stride
    if size < stride:
        asked, larger = f"{image_size} pixels are", "image_size"
        if rho != 1:
            asked, larger = f"rho {rho} of {image_size} pixels is {image_size * rho:g} pixels,", "rho or image_size"
        raise UserError(f"{asked} less than the stride of {stride}: use a larger {larger}")
    return size
