"""Runs in an environment that has other projects' detectors: exports them with random weights, and says what their own
post-processing finds in the outputs.

Usage: python detector_exports.py IMAGE FOLDER [NAME …]. IMAGE has the side of every network's input, so that nothing is
resized. For each detector FOLDER gets ``NAME.onnx``, ``NAME.npy`` (the input as the project prepares it) and
``NAME.json``: boxes, scores, labels and the threshold.

NanoDet is on no package index: its head is built here as it is published
(https://github.com/RangiLyu/nanodet, ``nanodet/model/head/nanodet_plus_head.py``) on three convolutions.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import torch
import torchvision

CLASSES, SIDE = 3, 256
LEAST_FOUND, MOST_FOUND = 20, 100
SEEDS = 20
IMAGENET = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])

Post = Callable[[list[torch.Tensor], float], tuple[Any, Any, Any]]


class Tuples(torch.nn.Module):
    """Gives chosen parts of a network's output."""

    def __init__(self, network: torch.nn.Module, parts: Callable[[Any], Any]) -> None:
        super().__init__()
        self.network, self.parts = network, parts

    def forward(self, image: torch.Tensor) -> Any:
        return self.parts(self.network(image))


class AlikeError(Exception):
    """A network scores nearly all places alike, as some random PicoDets do: decoders differ in which they keep."""


def enlivened(network: torch.nn.Module, tensor: torch.Tensor, heads: tuple[str, ...]) -> torch.nn.Module:
    """Gives an untrained network scores that differ from place to place."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.5
            module.train()
    with torch.no_grad():
        for _ in range(4):
            network(tensor)
    network.eval()
    for name, module in network.named_modules():
        if any(head in name for head in heads) and isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.normal_(module.weight, std=0.3)
            fill(module, -2.0)
        elif "rtm_reg" in name and isinstance(module, torch.nn.Conv2d):
            fill(module, 2.0)  # distances; without an exponent they must be learned to be positive
    return network


def fill(layer: torch.nn.Module, value: float) -> None:
    """Sets the bias of a layer, if it has one."""
    if isinstance(layer.bias, torch.Tensor):
        torch.nn.init.constant_(layer.bias, value)


def rgb(image: np.ndarray, mean: Any = 0.0, std: Any = 255.0) -> torch.Tensor:
    """Returns the image as RGB, normalised."""
    scaled = (image[..., ::-1].astype(np.float32) - mean) / std
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], np.float32))


def save(
    folder: Path,
    name: str,
    network: torch.nn.Module,
    tensor: torch.Tensor,
    names: tuple[list[str], list[str]],
    post: Post,
) -> None:
    """Exports a network, and writes its input and what its project finds."""
    path = folder / f"{name}.onnx"
    torch.onnx.export(
        network, (tensor,), str(path), input_names=names[0], output_names=names[1], opset_version=16, dynamo=False
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = [torch.from_numpy(array) for array in session.run(None, {names[0][0]: tensor.numpy()})]
    write(folder, name, tensor, outputs, post)


def write(folder: Path, name: str, tensor: torch.Tensor, outputs: list[torch.Tensor], post: Post) -> None:
    """Writes the input, and what is found at the highest threshold that leaves some boxes."""
    for threshold in np.geomspace(0.95, 0.005, 80):
        boxes, scores, labels = post([output.clone() for output in outputs], float(threshold))
        if len(scores) >= LEAST_FOUND:
            break
    if len(scores) > MOST_FOUND:
        raise AlikeError
    np.save(folder / f"{name}.npy", tensor.numpy())
    found = {"boxes": boxes, "scores": scores, "labels": labels}
    plain = {key: np.asarray(value, np.float64).tolist() for key, value in found.items()}
    (folder / f"{name}.json").write_text(json.dumps({**plain, "threshold": float(threshold)}))


def yolox(folder: Path, image: np.ndarray, *, decoded: bool) -> None:
    """YOLOX-Nano of `pixeltable-yolox`, a maintained package of Megvii's code; frames are BGR, as in its demos."""
    from yolox.config import YoloxConfig
    from yolox.data import ValTransform
    from yolox.utils import postprocess

    network = YoloxConfig("nano", num_classes=CLASSES, depth=0.33, width=0.25, depthwise=True).get_model().eval()
    tensor = torch.from_numpy(ValTransform(legacy=False)(image, None, (SIDE, SIDE))[0][None])
    network.head.decode_in_inference = decoded
    enlivened(network, tensor, ("cls_preds", "obj_preds"))

    def post(outputs: list[torch.Tensor], threshold: float) -> tuple[Any, Any, Any]:
        rows = outputs[0] if decoded else network.head.decode_outputs(outputs[0], dtype="torch.FloatTensor")
        found = postprocess(rows, CLASSES, threshold, 0.65)[0]
        return (found[:, :4], found[:, 4] * found[:, 5], found[:, 6]) if found is not None else ([], [], [])

    save(folder, "yolox-decoded" if decoded else "yolox", network, tensor, (["images"], ["output"]), post)


def rf_detr(folder: Path, image: np.ndarray) -> None:
    """RF-DETR-Nano by its own exporter."""
    from rfdetr import RFDETRNano
    from rfdetr.models.postprocess import PostProcess

    detector = RFDETRNano(pretrain_weights=None, num_classes=CLASSES, resolution=SIDE)
    tensor = rgb(image, *IMAGENET)
    network = detector.model.model
    enlivened(network.cpu(), tensor, ("class_embed",))
    Path(detector.export(output_dir=str(folder), verbose=False)).rename(folder / "rf-detr.onnx")
    session = onnxruntime.InferenceSession(folder / "rf-detr.onnx", providers=["CPUExecutionProvider"])
    outputs = [torch.from_numpy(array) for array in session.run(["dets", "labels"], {"input": tensor.numpy()})]

    def post(outputs: list[torch.Tensor], threshold: float) -> tuple[Any, Any, Any]:
        boxes, logits = outputs
        size = torch.tensor([[SIDE, SIDE]])
        found = PostProcess(num_select=logits.numel())({"pred_logits": logits, "pred_boxes": boxes}, size)[0]
        kept = (found["scores"] >= threshold) & (found["labels"] < CLASSES)  # the last column is no object
        return found["boxes"][kept], found["scores"][kept], found["labels"][kept]

    write(folder, "rf-detr", tensor, outputs, post)


def d_fine(folder: Path, image: np.ndarray) -> None:
    """D-FINE-N of `pydfine` by a port of its ``tools/deployment/export_onnx.py``: sizes in, the best queries out."""
    from dfine import DFINE

    detector = DFINE("n", num_classes=CLASSES, imgsz=SIDE, backbone_pretrained=False)
    tensor = rgb(image)
    enlivened(detector.model, tensor, ("score_head",))
    path = detector.export(file=folder / "d-fine.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"images": tensor.numpy(), "orig_target_sizes": np.array([[SIDE, SIDE]])})

    def post(outputs: list[torch.Tensor], threshold: float) -> tuple[Any, Any, Any]:
        labels, boxes, scores = (output[0] for output in outputs)
        kept = scores >= threshold
        return boxes[kept], scores[kept], labels[kept]

    write(folder, "d-fine", tensor, [torch.from_numpy(array) for array in outputs], post)


def transformers_detr(folder: Path, image: np.ndarray, kind: str) -> None:
    """RT-DETR and D-FINE of `transformers`, whose raw answers are exported."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(num_labels=CLASSES, num_queries=50, decoder_layers=2)
    network = getattr(transformers, f"{kind}ForObjectDetection")(config).eval()
    processor = transformers.RTDetrImageProcessor(do_resize=False)
    tensor = processor(images=image[..., ::-1].copy(), return_tensors="pt")["pixel_values"]
    enlivened(network, tensor, ("class_embed", "score_head"))

    def post(outputs: list[torch.Tensor], threshold: float) -> tuple[Any, Any, Any]:
        raw = transformers.models.rt_detr.modeling_rt_detr.RTDetrObjectDetectionOutput(
            logits=outputs[0], pred_boxes=outputs[1]
        )
        found = processor.post_process_object_detection(raw, threshold=threshold, target_sizes=[(SIDE, SIDE)])[0]
        return found["boxes"], found["scores"], found["labels"]

    shown = Tuples(network, lambda found: (found.logits, found.pred_boxes))
    save(folder, f"transformers-{kind}", shown, tensor, (["pixel_values"], ["logits", "pred_boxes"]), post)


def libre(folder: Path, image: np.ndarray, family: str, kind: str, size: str) -> None:
    """A detector of LibreYOLO by its own exporter, which writes class names and family into the metadata."""
    import importlib

    module = importlib.import_module(f"libreyolo.models.{family}.model")
    detector = getattr(module, kind)(None, size=size, nb_classes=CLASSES, device="cpu")
    picture = np.ascontiguousarray(image[..., ::-1])
    tensor = prepared_by_libre(detector, picture)
    enlivened(detector.model, tensor, ("score_head", "cls_preds", "obj_preds", "rtm_cls", "gfl_cls"))
    path = folder / f"libre-{family}.onnx"
    detector.export(format="onnx", output_path=str(path), imgsz=SIDE, simplify=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = [torch.from_numpy(array) for array in session.run(None, {"images": tensor.numpy()})]

    def queries(outputs: list[torch.Tensor], threshold: float) -> tuple[Any, Any, Any]:
        from libreyolo.postprocess.dfine import postprocess

        raw = {"pred_logits": outputs[0], "pred_boxes": outputs[1]}
        found = postprocess(raw, conf_thres=threshold, original_size=(SIDE, SIDE), max_det=10_000)
        return found["boxes"], found["scores"], found["classes"]

    def cells(outputs: list[torch.Tensor], threshold: float) -> tuple[Any, Any, Any]:
        rows, first = outputs[0][0], 5 if family == "yolox" else 4
        scores = rows[:, first:] * rows[:, 4:5] if family == "yolox" else rows[:, first:]
        row, label = torch.nonzero(scores >= threshold, as_tuple=True)
        if family == "yolox":  # one class a box
            row, label = torch.nonzero(scores.max(1).values >= threshold)[:, 0], scores.max(1).indices
            label = label[row]
        boxes = rows[row, :4] if family != "yolox" else torchvision.ops.box_convert(rows[row, :4], "cxcywh", "xyxy")
        return suppressed(boxes, scores[row, label], label, 0.65 if family == "yolox" else 0.6)

    write(folder, f"libre-{family}", tensor, outputs, queries if len(outputs) == 2 else cells)
    if family in ("picodet", "rtmdet"):
        raw_head(folder, detector, tensor, family)


def prepared_by_libre(detector: Any, picture: np.ndarray) -> torch.Tensor:
    """Returns the tensor that LibreYOLO makes of an RGB picture."""
    from PIL import Image

    found = detector._preprocess(Image.fromarray(picture), "rgb", SIDE)
    tensor = found[0]
    return tensor.float() if tensor.ndim == 4 else tensor[None].float()


def raw_head(folder: Path, detector: Any, tensor: torch.Tensor, family: str) -> None:
    """PicoDet's and RTMDet's networks with the outputs that PaddleDetection's and mmdetection's heads have.

    Sources: ``ppdet/modeling/heads/pico_head.py``, `forward_eval` without post-processing;
    ``mmdet/models/dense_heads/rtmdet_head.py``, `RTMDetSepBNHead.forward`.
    """
    import importlib

    module = importlib.import_module(f"libreyolo.postprocess.{family}")
    levels = 4 if family == "picodet" else 3

    def flat(level: torch.Tensor) -> torch.Tensor:
        return level.reshape(1, level.shape[1], -1).transpose(1, 2)

    def paddle(found: Any) -> Any:
        return (*[flat(level.sigmoid()) for level in found[0]], *[flat(level) for level in found[1]])

    def maps(level: torch.Tensor, side: int) -> torch.Tensor:
        return level.transpose(1, 2).reshape(1, -1, side, side)

    def post(outputs: list[torch.Tensor], threshold: float) -> tuple[Any, Any, Any]:
        scores, boxes = outputs[:levels], outputs[levels:]
        if family == "picodet":
            sides = [round(len(level[0]) ** 0.5) for level in scores]
            scores = [maps(level.logit(eps=1e-7), side) for level, side in zip(scores, sides, strict=True)]
            boxes = [maps(level, side) for level, side in zip(boxes, sides, strict=True)]
        found = module.postprocess(
            (scores, boxes),
            conf_thres=threshold,
            iou_thres=0.6,
            input_size=SIDE,
            original_size=(SIDE, SIDE),
            max_det=10_000,
        )
        return found["boxes"], found["scores"], found["classes"]

    for part in detector.model.modules():
        if hasattr(part, "export") and isinstance(part.export, bool):
            part.export = False
    shown = Tuples(detector.model, paddle if family == "picodet" else lambda found: (*found[0], *found[1]))
    names = [f"{what}_{index}" for what in ("scores", "boxes") for index in range(levels)]
    save(folder, family, shown, tensor, (["image"], names), post)


def suppressed(boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, iou: float) -> tuple[Any, Any, Any]:
    """Returns what is left of boxes after they are cut at the image and suppressed type by type."""
    cut = boxes.clamp(0, SIDE)
    kept = torchvision.ops.batched_nms(cut, scores, labels, iou)
    return cut[kept], scores[kept], labels[kept]


class NanoDetPlus(torch.nn.Module):
    """Three convolutions and the published head: 3 scores with sigmoid, then 32 numbers of distributions, a cell."""

    STRIDES, BINS = (8, 16, 32, 64), 8

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Sequential(
            *[torch.nn.Sequential(torch.nn.Conv2d(a, 16, 3, 2, 1), torch.nn.LeakyReLU(0.1)) for a in (3, 16, 16)]
        )
        self.down = torch.nn.Conv2d(16, 16, 3, 2, 1)
        self.gfl_cls = torch.nn.ModuleList(torch.nn.Conv2d(16, CLASSES + 4 * self.BINS, 1) for _ in self.STRIDES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        feature, levels = self.stem(image), []
        for head in self.gfl_cls:
            score, sides = head(feature).split([CLASSES, 4 * self.BINS], dim=1)
            levels.append(torch.cat([score.sigmoid(), sides], dim=1).flatten(start_dim=2))
            feature = torch.nn.functional.leaky_relu(self.down(feature), 0.1)
        return torch.cat(levels, dim=2).permute(0, 2, 1)


def nanodet(folder: Path, image: np.ndarray) -> None:
    """NanoDet-Plus, decoded by its published formula."""
    mean, std = (part[::-1] for part in IMAGENET)
    tensor = rgb(image[..., ::-1], mean, std)  # BGR
    torch.manual_seed(0)
    network = enlivened(NanoDetPlus(), tensor, ("gfl_cls",))

    def post(outputs: list[torch.Tensor], threshold: float) -> tuple[Any, Any, Any]:
        priors = []
        for stride in NanoDetPlus.STRIDES:
            ranges = torch.arange(-(-SIDE // stride)) * stride
            y, x = torch.meshgrid(ranges, ranges, indexing="ij")
            priors.append(torch.stack([x.flatten(), y.flatten(), torch.full_like(x.flatten(), stride)], dim=1))
        centre = torch.cat(priors).float()
        scores, sides = outputs[0][0].split([CLASSES, 4 * NanoDetPlus.BINS], dim=-1)
        shares = sides.reshape(-1, 4, NanoDetPlus.BINS).softmax(-1)
        far = (shares * torch.arange(NanoDetPlus.BINS)).sum(-1) * centre[:, 2:]
        boxes = torch.cat([centre[:, :2] - far[:, :2], centre[:, :2] + far[:, 2:]], dim=1)
        row, label = torch.nonzero(scores >= threshold, as_tuple=True)
        return suppressed(boxes[row], scores[row, label], label, 0.6)

    save(folder, "nanodet", network, tensor, (["data"], ["output"]), post)


EXPORTS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "yolox": lambda folder, image: yolox(folder, image, decoded=False),
    "yolox-decoded": lambda folder, image: yolox(folder, image, decoded=True),
    "rf-detr": rf_detr,
    "d-fine": d_fine,
    "transformers-RTDetr": lambda folder, image: transformers_detr(folder, image, "RTDetr"),
    "transformers-DFine": lambda folder, image: transformers_detr(folder, image, "DFine"),
    "libre-deim": lambda folder, image: libre(folder, image, "deim", "LibreDEIM", "n"),
    "libre-deimv2": lambda folder, image: libre(folder, image, "deimv2", "LibreDEIMv2", "atto"),
    "libre-picodet": lambda folder, image: libre(folder, image, "picodet", "LibrePICODET", "s"),
    "libre-rtmdet": lambda folder, image: libre(folder, image, "rtmdet", "LibreRTMDet", "t"),
    "libre-yolox": lambda folder, image: libre(folder, image, "yolox", "LibreYOLOX", "n"),
    "nanodet": nanodet,
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    picture: Any = cv2.imread(sys.argv[1])
    for chosen in sys.argv[3:] or EXPORTS:
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            with contextlib.suppress(AlikeError):
                EXPORTS[chosen](Path(sys.argv[2]), picture)
                print("EXPORTED", chosen, flush=True)
                break
