"""The resolution multiplier of MobileNet."""

from __future__ import annotations

from mnvision.errors import UserError

STRIDE = 32  # a MobileNet halves its input five times


def input_size(image_size: int, rho: float) -> int:
    """The side of the network's square input at resolution multiplier ``rho`` (paper, section 3.4).

    At ``rho`` 1 it is ``image_size`` itself; otherwise the product is rounded to a whole number of strides, which
    turns the ``rho`` of the paper's table 7 into the sizes printed there.

    Args:
        image_size: Side of the picture that the task asks for, in pixels.
        rho: Resolution multiplier, above 0.

    Returns:
        Side of the input in pixels.

    Raises:
        UserError: Not even one stride is left.

    >>> [input_size(224, rho) for rho in (1.0, 0.857, 0.714, 0.571)]
    [224, 192, 160, 128]
    >>> input_size(300, 1)
    300
    """
    if rho == 1:
        return image_size
    size = round(image_size * rho / STRIDE) * STRIDE
    if size < STRIDE:
        raise UserError(
            f"rho {rho} of {image_size} pixels is {image_size * rho:g} pixels, less than the stride of {STRIDE}: "
            "use a larger rho or image_size"
        )
    return size
