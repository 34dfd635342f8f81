from __future__ import annotations

import pytest

from mnvision.errors import UserError
from mnvision.ops.resolution import input_size, stride_of


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
    with pytest.raises(UserError, match="28 pixels are less than the stride of 32: use a larger image_size"):
        input_size(28, 1)


@pytest.mark.parametrize(
    ("backbone", "size", "rho", "expected"),
    [
        ("mobilenet_cifar", 28, 1, 28),
        ("mobilenet_cifar", 30, 1, 30),
        ("mobilenet_cifar", 28, 0.857, 24),
        ("mobilenet_cifar", 4, 1, 4),
        ("squeezenet", 227, 1, 227),
        ("squeezenet", 224, 0.5, 112),
        ("mobilenet_v1", 224, 0.5, 128),  # 112 is three and a half strides
        ("unknown", 224, 0.5, 128),
    ],
)
def test_the_stride_of_the_network_decides(backbone, size, rho, expected):
    assert input_size(size, rho, stride=stride_of(backbone)) == expected


def test_less_than_a_small_stride_is_refused():
    with pytest.raises(
        UserError, match=r"rho 0\.05 of 28 pixels is 1\.4 pixels, less than the stride of 4: use a larger"
    ):
        input_size(28, 0.05, stride=4)
