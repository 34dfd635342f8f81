"""Losses of unit embeddings: what brings pictures of one identity together and keeps those of others apart."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Margin = Literal["arcface", "cosface"]
Mining = Literal["semi_hard", "batch_hard"]


class Triplets(NamedTuple):
    """Rows of a batch, int64 [T] each: an anchor, another picture of its identity, and a picture of another one."""

    anchors: Tensor
    positives: Tensor
    negatives: Tensor


def squared_distances(one: Tensor, other: Tensor) -> Tensor:
    """Squared Euclidean distances of unit vectors [M, D] and [N, D]: float32 [M, N], 0..4, also in mixed precision."""
    with torch.autocast(one.device.type, enabled=False):
        return (2 - 2 * one.float() @ other.float().T).clamp(min=0)


@torch.no_grad()
def semi_hard_triplets(distances: Tensor, labels: Tensor, *, margin: float) -> Triplets:
    """Every pair of one identity, with the nearest picture of another identity that is farther than it.

    Semi-hard (F. Schroff et al., FaceNet, arXiv:1503.03832, section 3.2): ``d(a, p) < d(a, n) < d(a, p) + margin``.
    Such a negative gives a loss, and unlike the hardest ones does not pull all embeddings into one point. Pairs without
    one are left out, as their loss would be 0 or their negative too hard.

    Each anchor's negatives are sorted once, and the places of all its positives found among them: O(B^2 log B) for a
    batch instead of a look at every triplet.

    Args:
        distances: float [B, B], squared.
        labels: int64 [B]; -1 is an identity that nobody knows, which is left out.
        margin: In squared distance, above 0.
    """
    same, other = _relations(labels)
    anchors, positives = same.nonzero(as_tuple=True)
    if len(anchors) == 0:
        return Triplets(anchors, positives, anchors)
    near = distances[anchors, positives]
    negatives, order = distances.masked_fill(~other, math.inf).sort(dim=1, stable=True)
    # The pairs of each anchor side by side, [B, most], so that all rows are searched at once.
    counts = same.sum(dim=1)
    column = torch.arange(len(anchors), device=labels.device) - (counts.cumsum(0) - counts)[anchors]
    wanted = distances.new_zeros(len(labels), int(counts.max()))
    wanted[anchors, column] = near
    place = torch.searchsorted(negatives, wanted, right=True)[anchors, column]  # of the first that is farther
    place = place.clamp(max=len(labels) - 1)  # of NaN there is none
    kept = negatives[anchors, place] < near + margin
    return Triplets(anchors[kept], positives[kept], order[anchors, place][kept])


@torch.no_grad()
def batch_hard_triplets(distances: Tensor, labels: Tensor) -> Triplets:
    """Every picture with the farthest of its identity and the nearest of another (A. Hermans, arXiv:1703.07737).

    Pictures without either are left out.

    Args:
        distances: float [B, B], squared.
        labels: int64 [B]; -1 is an identity that nobody knows, which is left out.
    """
    same, other = _relations(labels)
    positives = distances.masked_fill(~same, -math.inf).argmax(dim=1)
    negatives = distances.masked_fill(~other, math.inf).argmin(dim=1)
    anchors = (same.any(dim=1) & other.any(dim=1)).nonzero()[:, 0]
    return Triplets(anchors, positives[anchors], negatives[anchors])


def triplet_loss(embeddings: Tensor, labels: Tensor, *, margin: float, mining: Mining = "semi_hard") -> Tensor:
    """Mean of ``max(0, d(a, p) - d(a, n) + margin)`` over the triplets that mining finds; 0 where it finds none.

    Args:
        embeddings: float32 [B, D] of unit length.
        labels: int64 [B]; -1 where the identity is not known.
        margin: In squared distance; FaceNet's is 0.2.
        mining: Which triplets, see the functions above.
    """
    distances = squared_distances(embeddings, embeddings)
    if mining == "semi_hard":
        found = semi_hard_triplets(distances, labels, margin=margin)
    else:
        found = batch_hard_triplets(distances, labels)
    near, far = distances[found.anchors, found.positives], distances[found.anchors, found.negatives]
    # Of embeddings that are not finite mining finds none; their loss shall not look like a perfect one.
    return F.relu(near - far + margin).sum() / max(1, len(found.anchors)) + 0 * distances.sum()


def contrastive_loss(embeddings: Tensor, labels: Tensor, *, margin: float) -> Tensor:
    """Half the mean of ``d^2`` over pairs of one identity, and of ``max(0, margin - d)^2`` over the others.

    R. Hadsell et al., "Dimensionality Reduction by Learning an Invariant Mapping", 2006. The two means are taken apart,
    since a batch has many more pairs of different identities than of the same.

    Args:
        embeddings: float32 [B, D] of unit length.
        labels: int64 [B]; -1 where the identity is not known.
        margin: In distance (not squared), 0..2.
    """
    squares = squared_distances(embeddings, embeddings)
    same, other = _relations(labels)
    # The root has no finite slope at 0.
    apart = F.relu(margin - squares.clamp(min=torch.finfo(squares.dtype).eps).sqrt()).square()
    near, far = (
        (values * pairs).sum() / pairs.sum().clamp(min=1) for values, pairs in ((squares, same), (apart, other))
    )
    return (near + far) / 2


def margin_logits(cosines: Tensor, labels: Tensor, *, kind: Margin, scale: float, margin: float) -> Tensor:
    """Class logits from cosines, those of the right class lowered by a margin: float [B, K].

    ``arcface``: ``scale * cos(angle + margin)`` (J. Deng et al., arXiv:1801.07698, equation 3); where the angle is
    above pi - margin, and this would rise again, ``scale * (cos(angle) - margin * sin(margin))``, which is below it.
    ``cosface``: ``scale * (cos(angle) - margin)`` (H. Wang et al., arXiv:1801.09414, equation 4).

    Args:
        cosines: float32 [B, K], of the embeddings with the classes' directions.
        labels: int64 [B]; rows of -1 keep their cosines.
        kind: Which margin.
        scale: ``s``, such as 64.
        margin: ``m``: an angle in radians, such as 0.5, or a cosine, such as 0.35.
    """
    known = labels >= 0
    own = cosines.gather(1, labels.clamp(min=0)[:, None])[:, 0]  # [B]
    if kind == "cosface":
        wanted = own - margin
    else:
        own = own.clamp(-1 + 1e-6, 1 - 1e-6)  # the arc cosine has no finite slope at 1
        angle = own.acos()
        wanted = torch.where(angle <= math.pi - margin, (angle + margin).cos(), own - margin * math.sin(margin))
    changed = torch.where(known, wanted, own)
    return scale * cosines.scatter(1, labels.clamp(min=0)[:, None], changed[:, None])


def relation_loss(embeddings: Tensor, wanted: Tensor) -> Tensor:
    """How far the distances and angles within a batch are from a teacher's: both by Huber's loss.

    W. Park et al., "Relational Knowledge Distillation", arXiv:1904.05068, equations 5 to 10, with its weights of 1 for
    distances (each relative to the batch's mean) and 2 for angles (between the directions from a picture to two
    others). The widths may differ: relations have none.

    Args:
        embeddings: float32 [B, D].
        wanted: float32 [B, D'] of the teacher.
    """
    if len(embeddings) < 2:
        return 0 * embeddings.sum()  # one picture is related to none
    distance = F.smooth_l1_loss(_relative_distances(embeddings), _relative_distances(wanted))
    return distance + 2 * F.smooth_l1_loss(_angles(embeddings), _angles(wanted))


def _relations(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Which pairs of a batch are of one identity (no picture with itself), and which of two: bool [B, B] each."""
    known = labels >= 0
    both = known[:, None] & known[None]
    alike = labels[:, None] == labels[None]
    same = alike & both
    return same.fill_diagonal_(False), ~alike & both


def _relative_distances(embeddings: Tensor) -> Tensor:
    distances = torch.pdist(embeddings.float())
    return distances / distances[distances > 0].mean().clamp(min=1e-12) if bool((distances > 0).any()) else distances


def _angles(embeddings: Tensor) -> Tensor:
    """Cosines at each picture between the directions to two others: [B, B, B]."""
    with torch.autocast(embeddings.device.type, enabled=False):
        directions = F.normalize(embeddings.float()[None] - embeddings.float()[:, None], dim=2)
        return directions @ directions.transpose(1, 2)
