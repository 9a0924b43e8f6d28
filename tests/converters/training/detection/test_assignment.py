"""Which cells answer for which box, and what a wrong answer costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

import torch
from torch import Tensor

from lineside_converters.training.detection.assignment import TOP_K, Targets, assign, pair_iou
from lineside_converters.training.detection.loss import (
    DetectionLoss,
    cell_centres,
    decode,
    detection_loss,
    flatten,
    varifocal,
)
from lineside_models.networks.detector import PRIOR, REG_BINS

pytestmark = pytest.mark.torch
SIZE = 96
SHAPES = [(12, 12), (6, 6), (3, 3)]
Box = tuple[float, float, float, float]
Scores = Callable[[Tensor, Tensor], Tensor]
Sides = Callable[[Tensor, Tensor, int], Tensor]


def one_image(*boxes: Box, label: int = 0) -> tuple[Tensor, Tensor]:
    return torch.tensor([boxes], dtype=torch.float32), torch.full((1, len(boxes)), label)


def assigned(true_boxes: Tensor, true_labels: Tensor, *, predicted: Tensor | None = None) -> tuple[Targets, Tensor]:
    centres, strides = cell_centres(SHAPES)
    if predicted is None:
        predicted = torch.cat((centres - strides, centres + strides), 1)[None]
    scores = torch.full((1, len(centres), 3), PRIOR)
    targets = assign(scores, predicted, centres=centres, true_boxes=true_boxes, true_labels=true_labels)
    return targets, centres


def test_cells_lie_in_the_middle_of_their_squares_in_the_order_of_the_maps_and_distances_are_in_strides() -> None:
    centres, strides = cell_centres(SHAPES)
    assert centres[0].tolist() == [4, 4] and strides[0].item() == 8
    assert centres[12].tolist() == [4, 12]
    assert centres[-1].tolist() == [80, 80] and strides[-1].item() == 32
    assert len(centres) == sum(h * w for h, w in SHAPES)
    maps = tuple(
        torch.arange(h * w, dtype=torch.float32).reshape(1, 1, h, w) + 1000 * i for i, (h, w) in enumerate(SHAPES)
    )
    assert flatten(maps)[0, :, 0].tolist() == [*range(144), *range(1000, 1036), *range(2000, 2009)]
    logits = torch.full((1, len(centres), 4 * REG_BINS), -50.0)
    for side, bins in enumerate((1, 2, 3, 4)):
        logits[..., side * REG_BINS + bins] = 50.0
    boxes = decode(logits, centres=centres, strides=strides)
    assert boxes[0, 0].tolist() == pytest.approx([4 - 8, 4 - 16, 4 + 24, 4 + 32], abs=1e-3)
    assert boxes[0, -1].tolist() == pytest.approx([80 - 32, 80 - 64, 80 + 96, 80 + 128], abs=1e-3)


def test_only_cells_inside_a_box_answer_for_it_and_no_more_than_ten() -> None:
    targets, centres = assigned(*one_image((10, 20, 60, 70), label=2))
    cells = centres[targets.positive[0]]
    assert 0 < len(cells) <= TOP_K
    assert ((cells > torch.tensor([10, 20])) & (cells < torch.tensor([60, 70]))).all()
    assert targets.scores[..., :2].abs().sum() == 0
    assert (targets.scores[..., 2] > 0).sum() > 0
    assert (targets.boxes[targets.positive] == torch.tensor([10.0, 20.0, 60.0, 70.0])).all()


def test_tiny_defects_and_boxes_that_miss_still_get_cells_and_padding_none() -> None:
    assert assigned(*one_image((41, 41, 48, 48)))[0].positive.sum() >= 1
    nowhere = torch.zeros(1, len(cell_centres(SHAPES)[0]), 4)  # as of a fresh network
    assert assigned(*one_image((10, 10, 50, 50)), predicted=nowhere)[0].positive.sum() > 0
    targets, _ = assigned(torch.tensor([[[10.0, 10, 50, 50]]]), torch.tensor([[-1]]))
    assert not targets.positive.any()
    assert targets.scores.sum() == 0


def test_the_best_cell_of_a_box_is_asked_for_its_best_overlap() -> None:
    true_boxes, labels = one_image((8, 8, 40, 40))
    targets, centres = assigned(true_boxes, labels)
    _, strides = cell_centres(SHAPES)
    boxes = torch.cat((centres - strides, centres + strides), 1)[targets.positive[0]]
    assert targets.scores.max() == pytest.approx(float(pair_iou(true_boxes[0], boxes).max()), abs=1e-5)


def test_a_cell_in_two_boxes_answers_for_one_of_them() -> None:
    targets, centres = assigned(*one_image((0, 0, 48, 48), (16, 16, 64, 64)))
    assert ((targets.scores > 0).sum(-1) <= 1).all()
    shared = (centres > 16).all(1) & (centres < 48).all(1) & targets.positive[0]
    assert shared.any()


def test_iou_of_known_pairs() -> None:
    first = torch.tensor([[0.0, 0, 10, 10]])
    second = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]])
    assert pair_iou(first, second)[0].tolist() == pytest.approx([1, 1 / 3, 0])


def test_easy_negatives_cost_almost_nothing_and_positives_their_full_target() -> None:
    logits = torch.tensor([-4.6, 0.0], requires_grad=True)
    varifocal(logits, torch.zeros(2)).backward()
    assert logits.grad is not None
    easy, hard = logits.grad.tolist()
    assert 0 < easy < 1e-5 < hard
    positive = torch.tensor([-4.6], requires_grad=True)
    varifocal(positive, torch.tensor([0.8])).backward()
    assert positive.grad is not None and float(positive.grad) == pytest.approx(0.8 * (0.00995 - 0.8), abs=1e-3)


def answers(score_of: Scores, sides_of: Sides) -> tuple[Tensor, ...]:
    """Makes six maps from functions of cell centre and stride."""
    scores, boxes = [], []
    for (h, w), stride in zip(SHAPES, (8, 16, 32), strict=True):
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        cx, cy = (x + 0.5) * stride, (y + 0.5) * stride
        scores.append(score_of(cx, cy)[None])
        boxes.append(sides_of(cx, cy, stride)[None])
    return (*scores, *boxes)


def sides_to(box: Box) -> Sides:
    def sides(cx: Tensor, cy: Tensor, stride: int) -> Tensor:
        wanted = torch.stack((cx - box[0], cy - box[1], box[2] - cx, box[3] - cy)) / stride
        wanted = wanted.clamp(0, REG_BINS - 1.01)
        low = wanted.floor().long()
        share = (wanted - low).clamp(1e-6, 1 - 1e-6)
        maps = torch.full((4, REG_BINS, *cx.shape), -20.0)
        maps.scatter_(1, low[:, None], (1 - share).log()[:, None]).scatter_(1, low[:, None] + 1, share.log()[:, None])
        return maps.flatten(0, 1)

    return sides


def inside(box: Box, *, label: int, right: float = 6.0, wrong: float = -12.0) -> Scores:
    def scores(cx: Tensor, cy: Tensor) -> Tensor:
        maps = torch.full((3, *cx.shape), wrong)
        maps[label][(cx > box[0]) & (cx < box[2]) & (cy > box[1]) & (cy < box[3])] = right
        return maps

    return scores


def test_the_right_answer_costs_less_than_a_wrong_box_or_a_wrong_type() -> None:
    box = (20.0, 24.0, 68.0, 72.0)
    true_boxes, labels = one_image(box, label=1)

    def cost(answer: tuple[Tensor, ...]) -> DetectionLoss:
        return detection_loss(answer, true_boxes=true_boxes, true_labels=labels)

    right = cost(answers(inside(box, label=1), sides_to(box)))
    moved = cost(answers(inside(box, label=1), sides_to((28.0, 32.0, 76.0, 80.0))))
    other = cost(answers(inside(box, label=2), sides_to(box)))
    assert float(right.box) < 1e-3
    assert float(moved.box) > 0.2
    assert float(right.total) < float(moved.total)
    assert float(right.score) < float(other.score)


def test_a_batch_without_any_defect_has_a_finite_loss_and_pushes_scores_down() -> None:
    outputs = tuple(
        m.requires_grad_() for m in answers(inside((0, 0, 96, 96), label=0, right=0.0), sides_to((0, 0, 9, 9)))
    )
    loss = detection_loss(outputs, true_boxes=torch.zeros(1, 1, 4), true_labels=torch.full((1, 1), -1))
    loss.total.backward()
    assert torch.isfinite(loss.total) and float(loss.box) == 0
    assert outputs[0].grad is not None and float(outputs[0].grad[:, 0].min()) > 0
