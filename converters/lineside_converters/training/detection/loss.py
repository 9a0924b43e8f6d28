"""The detector's loss: varifocal scores, GIoU boxes and distribution focal distances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from lineside_converters.training.detection.assignment import Targets, assign
from lineside_models.networks.detector import REG_BINS, STRIDES

GIOU_WEIGHT = 2.5
DFL_WEIGHT = 0.5
# Negatives weigh 0.75 p², as in VarifocalNet (arXiv:2008.13367): plain cross-entropy against soft targets stayed at
# the prior on small defects, because the many easy negatives outweighed the few positives.
NEGATIVE_WEIGHT = 0.75
FOCUS = 2.0


@dataclass(frozen=True, slots=True)
class DetectionLoss:
    """The parts and the sum, each a scalar tensor."""

    total: Tensor
    score: Tensor
    box: Tensor
    distance: Tensor


def cell_centres(shapes: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Returns the centres ``(A, 2)`` in pixels and the strides ``(A, 1)`` of all cells.

    Args:
        shapes: Height and width of the maps at strides 8, 16 and 32.
    """
    centres, strides = [], []
    for (height, width), stride in zip(shapes, STRIDES, strict=True):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres.append((torch.stack((x, y), -1).reshape(-1, 2) + 0.5) * stride)
        strides.append(torch.full((height * width, 1), float(stride)))
    return torch.cat(centres), torch.cat(strides)


def flatten(maps: tuple[Tensor, ...]) -> Tensor:
    """Returns maps ``(B, K, h, w)`` of several strides as one ``(B, A, K)``."""
    return torch.cat([m.flatten(2) for m in maps], 2).transpose(1, 2)


def decode(distances: Tensor, *, centres: Tensor, strides: Tensor) -> Tensor:
    """Returns boxes ``(B, A, 4)`` in pixels from distance logits ``(B, A, 64)``."""
    bins = torch.arange(REG_BINS, dtype=distances.dtype)
    sides = distances.reshape(*distances.shape[:2], 4, REG_BINS).softmax(-1) @ bins * strides
    return torch.cat((centres - sides[..., :2], centres + sides[..., 2:]), -1)


def detection_loss(outputs: tuple[Tensor, ...], *, true_boxes: Tensor, true_labels: Tensor) -> DetectionLoss:
    """Computes the loss of one batch.

    Args:
        outputs: The network's six maps.
        true_boxes: ``(B, M, 4)`` in pixels, padded.
        true_labels: ``(B, M) int64``; -1 is padding.

    Returns:
        The loss, divided by the sum of the target scores over the whole batch.
    """
    levels = len(STRIDES)
    centres, strides = cell_centres([(m.shape[2], m.shape[3]) for m in outputs[:levels]])
    logits, distances = flatten(outputs[:levels]), flatten(outputs[levels:])
    boxes = decode(distances, centres=centres, strides=strides)
    targets = assign(
        logits.detach().sigmoid(), boxes.detach(), centres=centres, true_boxes=true_boxes, true_labels=true_labels
    )
    scale = targets.scores.sum().clamp(min=1.0)
    score = varifocal(logits, targets.scores) / scale
    box, distance = _box_losses(boxes, distances, targets, centres=centres, strides=strides)
    box, distance = box / scale, distance / scale
    return DetectionLoss(
        score + GIOU_WEIGHT * box + DFL_WEIGHT * distance, score.detach(), box.detach(), distance.detach()
    )


def varifocal(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the summed varifocal loss of ``logits`` against soft ``targets`` of the same shape."""
    scores = logits.detach().sigmoid()
    weight = torch.where(targets > 0, targets, NEGATIVE_WEIGHT * scores.pow(FOCUS))
    return F.binary_cross_entropy_with_logits(logits, targets, weight=weight, reduction="sum")


def _box_losses(
    boxes: Tensor, distances: Tensor, targets: Targets, *, centres: Tensor, strides: Tensor
) -> tuple[Tensor, Tensor]:
    positive = targets.positive
    weight = targets.scores.sum(-1)[positive]
    wanted = targets.boxes[positive]
    giou = (generalized_box_iou_loss(boxes[positive], wanted) * weight).sum()
    where = centres.expand(len(boxes), -1, -1)[positive]
    stride = strides.expand(len(boxes), -1, -1)[positive]
    sides = torch.cat((where - wanted[:, :2], wanted[:, 2:] - where), -1) / stride
    bins = distances[positive].reshape(-1, 4, REG_BINS)
    return giou, (_distribution_focal(bins, sides).mean(-1) * weight).sum()


def _distribution_focal(bins: Tensor, sides: Tensor) -> Tensor:
    """Returns the loss ``(P, 4)`` of bins ``(P, 4, 16)`` against distances ``(P, 4)`` (arXiv:2006.04388)."""
    sides = sides.clamp(0, REG_BINS - 1.01)
    left = sides.floor()
    share = sides - left
    logs = bins.log_softmax(-1)
    low = logs.gather(-1, left.long()[..., None]).squeeze(-1)
    high = logs.gather(-1, left.long()[..., None] + 1).squeeze(-1)
    return -(low * (1 - share) + high * share)
