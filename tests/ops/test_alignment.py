from __future__ import annotations

import cv2
import numpy as np
import pytest

from mnvision.errors import UserError
from mnvision.ops.alignment import TEMPLATE_112, align, similarity_transform, template


def transform_points(points, matrix):
    return points @ matrix[:, :2].T + matrix[:, 2]


def known(angle, scale, shift):
    cos, sin = scale * np.cos(np.deg2rad(angle)), scale * np.sin(np.deg2rad(angle))
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])


@pytest.mark.parametrize(("angle", "scale", "shift"), [(0, 1, (0, 0)), (30, 0.4, (5, -3)), (-170, 3, (100, 20))])
def test_a_known_transform_is_found(angle, scale, shift):
    matrix = known(angle, scale, shift)
    source = TEMPLATE_112 * 2 + 7
    np.testing.assert_allclose(similarity_transform(source, transform_points(source, matrix)), matrix, atol=1e-9)


def slow_error(parameters, source, target):
    matrix = known(parameters[0], parameters[1], parameters[2:])
    return np.square(transform_points(source, matrix) - target).sum()


@pytest.mark.parametrize("seed", range(3))
def test_nothing_near_is_better(seed):
    """Least squares of five points that no similarity brings together: every small change makes it worse."""
    rng = np.random.default_rng(seed)
    source = TEMPLATE_112 + rng.normal(0, 8, (5, 2))
    matrix = similarity_transform(source, TEMPLATE_112)
    angle, scale = np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0])), np.hypot(matrix[0, 0], matrix[1, 0])
    np.testing.assert_allclose(known(angle, scale, matrix[:, 2]), matrix)
    best = np.array([angle, scale, *matrix[:, 2]])
    error = slow_error(best, source, TEMPLATE_112)
    for change in (*np.eye(4), *-np.eye(4), *rng.normal(size=(50, 4))):
        assert slow_error(best + 1e-3 * change, source, TEMPLATE_112) > error


def test_two_points_suffice_and_a_mirror_image_is_turned():
    matrix = similarity_transform([[0, 0], [1, 0]], [[2, 3], [2, 5]])
    np.testing.assert_allclose(matrix, [[0, -2, 2], [2, 0, 3]], atol=1e-12)
    mirrored = TEMPLATE_112 * [-1, 1]
    assert np.linalg.det(similarity_transform(mirrored, TEMPLATE_112)[:, :2]) > 0


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((5, 2)), "are all the same"),
        (np.full((5, 2), np.nan), "not finite"),
        (np.zeros((4, 2)), r"shapes \[4, 2\] and \[5, 2\]"),
    ],
)
def test_what_cannot_be_aligned(points, message):
    with pytest.raises(UserError, match=message):
        similarity_transform(points, TEMPLATE_112)


def dots(size, points, *, radius):
    """White discs in a black picture."""
    image = np.zeros((size, size, 3), np.uint8)
    for x, y in points:
        cv2.circle(image, (round(16 * x), round(16 * y)), round(16 * radius), (255, 255, 255), -1, cv2.LINE_AA, 4)
    return image


def centre(image):
    """Of the light of a picture: (x, y)."""
    light = image[..., 0].astype(float)
    y, x = np.mgrid[: len(image), : image.shape[1]]
    return np.array([(light * x).sum(), (light * y).sum()]) / light.sum()


@pytest.mark.parametrize("scale", [0.8, 1.5, 3.0, 6.0])
@pytest.mark.parametrize("size", [112, 96])
def test_landmarks_land_on_the_template(scale, size):
    """Each alone, so that its centre can be measured; large faces, which are averaged first, as well as small ones."""
    points = transform_points(TEMPLATE_112, known(20, scale, (60 * scale, 10 * scale)))
    for place in range(5):
        image = dots(round(200 * scale), points[place : place + 1], radius=4 * scale)
        aligned = align(image, points, size=size)
        assert aligned.shape == (size, size, 3)
        assert aligned.dtype == np.uint8
        np.testing.assert_allclose(centre(aligned), template(size)[place], atol=0.15)


def test_what_is_in_place_stays():
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    np.testing.assert_array_equal(align(image, TEMPLATE_112), image)


def test_beyond_the_picture_is_black():
    aligned = align(np.full((50, 50, 3), 200, np.uint8), TEMPLATE_112)
    assert (aligned[:48, :48] == 200).all()
    assert (aligned[52:] == 0).all()
