from __future__ import annotations

import pytest

from mnvision.errors import UserError
from mnvision.ops.resolution import input_size


@pytest.mark.parametrize(
    ("image_size", "rho", "expected"),
    [
        # Table 7 of the paper names its resolution multipliers by these sizes.
        (224, 1.0, 224),
        (224, 0.857, 192),
        (224, 0.714, 160),
        (224, 0.571, 128),
        # At rho 1 the size stays, although 300 is no multiple of 32.
        (300, 1, 300),
        (300, 1.0, 300),
        # 300 * 0.8 = 240 = 7.5 strides: the even neighbour.
        (300, 0.8, 256),
        (300, 2, 608),
    ],
)
def test_golden_sizes(image_size, rho, expected):
    assert input_size(image_size, rho) == expected
    assert isinstance(input_size(image_size, rho), int)


def test_too_small_is_refused():
    with pytest.raises(UserError, match="less than the stride of 32"):
        input_size(32, 0.3)
