"""Runs in an environment that has PaddleDetection: exports PicoDet with random weights in the three forms that it has.

Usage: python paddle_exports.py FOLDER. Writes ``raw.onnx`` (scores and distributions of each level), ``boxes.onnx``
(decoded, without suppression) and ``nms.onnx``. The network is a narrow one of the configuration
``configs/picodet/_base_/picodet_v2.yml``; the parts of `ppdet` that training needs are not installed.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

for _name in ("motmetrics", "lap", "visualdl", "terminaltables", "pyclipper"):
    sys.modules[_name] = types.ModuleType(_name)
sys.modules["terminaltables"].AsciiTable = object  # type: ignore[attr-defined]

# `paddle` has a zlib of its own, and crashes those that load theirs behind it.
for _name in ("zlib", "cv2", "matplotlib.pyplot", "PIL.Image", "scipy"):
    importlib.import_module(_name)

import paddle  # noqa: E402
import paddle2onnx  # noqa: E402
from ppdet.modeling.backbones import LCNet  # noqa: E402
from ppdet.modeling.heads import PicoHeadV2  # noqa: E402
from ppdet.modeling.heads.pico_head import PicoFeat  # noqa: E402
from ppdet.modeling.layers import MultiClassNMS  # noqa: E402
from ppdet.modeling.necks import LCPAN  # noqa: E402

SIDE, CLASSES, WIDTH = 160, 3, 32
FORMS = ("raw", "boxes", "nms")


def build() -> tuple[Any, Any, Any]:
    """Returns backbone, neck and head."""
    paddle.seed(0)
    backbone = LCNet(scale=0.35, feature_maps=[3, 4, 5])
    channels = [shape.channels for shape in backbone.out_shape]
    neck = LCPAN(in_channels=channels, out_channels=WIDTH, use_depthwise=True, num_features=4)
    feature = PicoFeat(
        feat_in=WIDTH, feat_out=WIDTH, num_convs=2, num_fpn_stride=4, norm_type="bn", share_cls_reg=True, use_se=True
    )
    head = PicoHeadV2(
        conv_feat=feature,
        num_classes=CLASSES,
        fpn_stride=[8, 16, 32, 64],
        feat_in_chan=WIDTH,
        reg_max=7,
        cell_offset=0.5,
        loss_class=SimpleNamespace(use_sigmoid=True),
        loss_dfl=None,
        loss_bbox=None,
        static_assigner=None,
        assigner=None,
        nms=MultiClassNMS(nms_top_k=1000, keep_top_k=100, score_threshold=0.025, nms_threshold=0.6),
    )
    for layers in (head.head_cls_list, head.head_reg_list):
        for layer in layers:
            layer.weight.set_value(paddle.randn(layer.weight.shape) * 0.5)
    return backbone, neck, head


class Network(paddle.nn.Layer):  # type: ignore[misc]  # without stubs
    """The network in one of the forms."""

    def __init__(self, parts: tuple[Any, Any, Any], form: str) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = parts
        self.form = form

    def forward(self, image: Any, scale_factor: Any = None) -> Any:
        found = self.head(self.neck(self.backbone({"image": image})), self.form != "raw")
        if self.form == "raw":
            return found[0] + found[1]
        return self.head.post_process(found, scale_factor, export_nms=self.form == "nms")


def enliven(network: Any) -> None:
    """Sets the statistics of an untrained network's batch norms, so that its scores differ from place to place."""
    network.eval()
    for layer in network.sublayers():
        if isinstance(layer, (paddle.nn.BatchNorm, paddle.nn.BatchNorm2D)):
            layer._momentum = 0.5
            layer.train()
    for _ in range(6):
        network(paddle.randn([1, 3, SIDE, SIDE]))


def main(folder: Path) -> None:
    """Exports the forms, and checks that they were written."""
    parts = build()
    enliven(Network(parts, "raw"))
    image = paddle.static.InputSpec([1, 3, SIDE, SIDE], "float32", "image")
    scale = paddle.static.InputSpec([1, 2], "float32", "scale_factor")
    for form in FORMS:
        network = Network(parts, form)
        network.eval()
        path = str(folder / form)
        paddle.jit.save(network, path, input_spec=[image, scale] if form == "nms" else [image])
        paddle2onnx.export(f"{path}.pdmodel", f"{path}.pdiparams", f"{path}.onnx", 13)
        print("EXPORTED", form, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
