"""Assignment of true boxes to cells: task-aligned assignment (TOOD, arXiv:2108.07755).

Written here because torchvision has none, and the packages that do are AGPL or bring their own trainers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TOP_K = 10
ALPHA = 1.0
BETA = 6.0
_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Targets:
    """Targets of every cell.

    Attributes:
        scores: ``(B, A, C)``, 0 to 1; not 0 for one class at most.
        boxes: ``(B, A, 4)`` x1, y1, x2, y2 in pixels; meaningless where ``positive`` is false.
        positive: ``(B, A) bool``.
    """

    scores: Tensor
    boxes: Tensor
    positive: Tensor


def pair_iou(first: Tensor, second: Tensor) -> Tensor:
    """Returns the IoU ``(..., M, A)`` of all pairs of ``first (..., M, 4)`` and ``second (..., A, 4)``."""
    low = torch.maximum(first[..., :, None, :2], second[..., None, :, :2])
    high = torch.minimum(first[..., :, None, 2:], second[..., None, :, 2:])
    common = (high - low).clamp_(min=0).prod(-1)
    area_first = (first[..., 2:] - first[..., :2]).clamp(min=0).prod(-1)
    area_second = (second[..., 2:] - second[..., :2]).clamp(min=0).prod(-1)
    return common / (area_first[..., :, None] + area_second[..., None, :] - common + _TINY)


@torch.no_grad()
def assign(scores: Tensor, boxes: Tensor, *, centres: Tensor, true_boxes: Tensor, true_labels: Tensor) -> Targets:
    """Assigns each true box the ten cells inside it that predict it best.

    Args:
        scores: ``(B, A, C)`` predicted scores, 0 to 1.
        boxes: ``(B, A, 4)`` predicted boxes in pixels.
        centres: ``(A, 2)`` cell centres in pixels.
        true_boxes: ``(B, M, 4)`` in pixels, padded.
        true_labels: ``(B, M) int64``; -1 is padding.

    Returns:
        The targets; a positive cell's score is its IoU-like quality, best cell of a box = that box's best IoU.
    """
    real = true_labels >= 0
    inside = _inside(centres, true_boxes) & real[..., None]
    overlap = pair_iou(true_boxes, boxes) * inside
    labels = true_labels.clamp(min=0)
    class_scores = scores.gather(2, labels[:, None, :].expand(-1, scores.shape[1], -1)).transpose(1, 2)
    quality = class_scores.pow(ALPHA) * overlap.pow(BETA) * inside
    chosen = _top(quality, inside) & inside
    owner, positive = _one_owner(chosen, overlap)
    chosen &= torch.nn.functional.one_hot(owner, labels.shape[1]).transpose(1, 2).bool()
    scaled = _normalised(quality * chosen, overlap * chosen)
    soft = scaled.amax(1)
    target_labels = labels.gather(1, owner)
    target_scores = torch.zeros_like(scores).scatter_(2, target_labels[..., None], (soft * positive)[..., None])
    return Targets(target_scores, true_boxes.gather(1, owner[..., None].expand(-1, -1, 4)), positive)


def _inside(centres: Tensor, boxes: Tensor) -> Tensor:
    low = centres[None, None] - boxes[:, :, None, :2]
    high = boxes[:, :, None, 2:] - centres[None, None]
    return torch.cat((low, high), -1).amin(-1) > 0


def _top(quality: Tensor, inside: Tensor) -> Tensor:
    # Cells inside a box with no overlap yet still come before those outside, else a fresh network gets no positives.
    ranked = quality + inside * _TINY
    best = ranked.topk(min(TOP_K, ranked.shape[-1]), dim=-1).indices
    return torch.zeros_like(inside).scatter_(2, best, True)


def _one_owner(chosen: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
    """Returns for each cell the box that has it ``(B, A)`` — the one it overlaps most — and whether any has it."""
    owner = torch.where(chosen, overlap, torch.full_like(overlap, -1.0)).argmax(1)
    return owner, chosen.any(1)


def _normalised(quality: Tensor, overlap: Tensor) -> Tensor:
    """Scales each box's qualities so that its best cell has that box's best overlap."""
    peak = quality.amax(-1, keepdim=True)
    return quality / (peak + _TINY) * overlap.amax(-1, keepdim=True)
