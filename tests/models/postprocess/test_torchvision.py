"""torchvision's own detectors as the oracle: our decoding of their heads against their own post-processing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

pytest.importorskip("torchvision")

import torch
from torchvision.models import detection as models
from torchvision.models.detection.image_list import ImageList

from lineside_models.metrics import box_iou
from lineside_models.postprocess import decode
from lineside_models.postprocess.decoders.ssd import SSDLITE320
from lineside_models.preprocess import Letterbox
from lineside_runtime.bundle import Postprocess

pytestmark = pytest.mark.torch

SCORE_MIN = 0.05
CLASSES = 5


def _heads(net: Any, side: int, *, rare: Any = -6.0) -> tuple[dict[str, Any], list[Any], Any]:
    """Runs backbone and head, then puts noise into the head's outputs: an untrained head gives ties only."""
    torch.manual_seed(0)
    net.detections_per_img = 1000
    images = torch.randn(1, 3, side, side)
    with torch.no_grad():
        features = list(net.backbone(images).values())
        head = {name: torch.randn_like(value) for name, value in net.head(features).items()}
        anchors = net.anchor_generator(ImageList(images, [(side, side)]), features)
    head["cls_logits"] = head["cls_logits"] * 2 + rare
    if "bbox_ctrness" in head:
        head["bbox_regression"] = head["bbox_regression"].abs()  # distances, which the head's ReLU keeps from below 0
    return head, features, anchors


def _assert_same(found: Any, theirs: dict[str, Any], *, first_class: int) -> None:
    real = ((theirs["boxes"][:, 2:] - theirs["boxes"][:, :2]) > 0).all(1)  # ours leaves out what lies outside
    boxes, scores = theirs["boxes"][real].numpy(), theirs["scores"][real].numpy()
    labels = theirs["labels"][real].numpy() - first_class
    assert len(scores) > 10
    assert len(found) == len(scores)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4)
    for box, score, label in zip(boxes, scores, labels, strict=True):
        near = (found.labels == label) & (np.abs(found.scores - score) < 1e-4)
        assert near.any()
        assert box_iou(box[None], found.boxes[near]).max() > 0.999


def _theirs(net: Any, head: Any, features: list[Any], anchors: list[Any], side: int) -> dict[str, Any]:
    per_level = [
        feature.shape[2] * feature.shape[3] * net.anchor_generator.num_anchors_per_location()[0] for feature in features
    ]
    split_head = {name: list(value.split(per_level, dim=1)) for name, value in head.items()}
    split_anchors = [list(one.split(per_level)) for one in anchors]
    result: dict[str, Any] = net.postprocess_detections(split_head, split_anchors, [(side, side)])[0]
    return result


def _how(name: str, net: Any, **params: Any) -> Postprocess:
    shared = {"score_min": SCORE_MIN, "nms_iou": net.nms_thresh, "max_detections": net.detections_per_img}
    return Postprocess(name=name, params={**shared, **params})


def test_fcos_is_decoded_as_torchvision_does() -> None:
    side = 96
    net = models.fcos_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES, score_thresh=SCORE_MIN
    ).eval()
    head, features, anchors = _heads(net, side)
    names = {"scores": "cls_logits", "boxes": "bbox_regression", "centerness": "bbox_ctrness"}
    outputs = {name: head[name].numpy() for name in names.values()}
    (found,) = decode(outputs, _how("fcos", net, **names), [Letterbox(1.0, 1.0, side, side)])
    _assert_same(found, _theirs(net, head, features, anchors, side), first_class=0)
    (unnamed,) = decode(outputs, _how("fcos", net), [Letterbox(1.0, 1.0, side, side)])
    np.testing.assert_array_equal(unnamed.boxes, found.boxes)


@pytest.mark.parametrize("side", [96, 104])  # 104 isn't a multiple of the larger strides
def test_retinanet_is_decoded_as_torchvision_does(side: int) -> None:
    net = models.retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES, score_thresh=SCORE_MIN
    ).eval()
    head, features, anchors = _heads(net, side)
    outputs = {name: value.numpy() for name, value in head.items()}
    few = _how("retinanet", net)
    (found,) = decode(outputs, few, [Letterbox(1.0, 1.0, side, side)])
    theirs = _theirs(net, head, features, anchors, side)
    _assert_same(found, theirs, first_class=0)


def test_ssd_is_decoded_as_torchvision_does() -> None:
    side = 320
    net = models.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=1 + CLASSES, score_thresh=SCORE_MIN
    ).eval()
    head, _, anchors = _heads(net, side, rare=torch.tensor([9.0, *[0.0] * CLASSES]))  # mostly background
    outputs = {name: head[name].numpy() for name in ("cls_logits", "bbox_regression")}
    (found,) = decode(outputs, _how("ssd", net, **SSDLITE320), [Letterbox(1.0, 1.0, side, side)])
    theirs = net.postprocess_detections(head, anchors, [(side, side)])[0]
    _assert_same(found, theirs, first_class=1)
