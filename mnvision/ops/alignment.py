"""Faces brought to one place: a similarity that maps five landmarks of a picture onto those of a template."""

from __future__ import annotations

import cv2
import numpy as np

from mnvision.errors import UserError

# Eyes, tip of the nose and corners of the mouth, left to right as seen, in a picture of 112 x 112 pixels: (x, y). The
# template that ArcFace's training pictures are aligned to (J. Deng et al., arXiv:1801.07698, and its implementation).
TEMPLATE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def template(size: int) -> np.ndarray:
    """The five points in a picture of size x size pixels: float64 [5, 2]."""
    return TEMPLATE_112 * (size / 112)


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation, scale and shift that bring points nearest to others, by least squares; never a mirror image.

    S. Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 13(4), 1991,
    equations 38 to 43.

    Args:
        source: float [N, 2] (x, y), two different points at least.
        target: float [N, 2].

    Returns:
        float64 [2, 3], so that ``matrix @ (x, y, 1)`` is where a point goes.

    Raises:
        UserError: The points are not N pairs of finite numbers, or those of one side are all the same.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 2 or len(source) < 2:
        raise UserError(
            f"alignment: got points of shapes {list(source.shape)} and {list(target.shape)}; expected [N, 2] of both, "
            "two points at least"
        )
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise UserError(f"alignment: the points {source.tolist()} hold a number that is not finite; correct them")
    middle, goal = source.mean(axis=0), target.mean(axis=0)
    spread = np.square(source - middle).sum()
    if spread < 1e-12 or np.square(target - goal).sum() < 1e-12:
        raise UserError(f"alignment: the points {source.tolist()} are all the same; expected five places of a face")
    u, singular, v = np.linalg.svd((target - goal).T @ (source - middle))
    mirror = np.ones(2)
    if np.linalg.det(u) * np.linalg.det(v) < 0:
        mirror[1] = -1
    scale = (singular * mirror).sum() / spread
    turn = scale * (u * mirror) @ v
    return np.column_stack([turn, goal - turn @ middle])


def align(image: np.ndarray, landmarks: np.ndarray, *, size: int = 112) -> np.ndarray:
    """Cut a face out so that its landmarks lie on the template's; what is beyond the picture is black.

    A face that shrinks to less than half is averaged first, so that no fine detail turns into noise.

    Args:
        image: uint8 [H, W, 3].
        landmarks: float [5, 2] (x, y) in pixels of the picture, in the template's order.
        size: Side of the result in pixels.

    Returns:
        uint8 [size, size, 3].

    Raises:
        UserError: As of ``similarity_transform``.
    """
    matrix = similarity_transform(landmarks, template(size))
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 0.5:
        # Each pixel of the smaller picture stands for a square of the larger one, which begins at its corner.
        factor = 1 << int(np.floor(np.log2(1 / scale)))
        width, height = (max(1, round(side / factor)) for side in image.shape[1::-1])
        stretch = np.array([image.shape[1] / width, image.shape[0] / height])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        shift = matrix[:, :2] @ (stretch / 2 - 0.5) + matrix[:, 2]
        matrix = np.column_stack([matrix[:, :2] * stretch, shift])
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR)
