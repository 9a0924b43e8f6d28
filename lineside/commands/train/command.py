"""``lineside train detector|classifier|segmenter|document|recommender|quantum-head|compare``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lineside.commands.train import compare, quantum_head, recommender
from lineside.commands.train.folds import add_folds, check_folds, validate_by_folds
from lineside.commands.train.follow_up import add_then, check_then, go_on, with_then
from lineside.commands.train.training import Options, progress_of, resumable, settings_of
from lineside.commands.train.workers import add_together, cluster_of, learn_together
from lineside.console import inform, print_json, show
from lineside.extras import needs
from lineside.options import add_good_class, bundle_path, integers, numbers, words

if TYPE_CHECKING:
    from lineside_converters.training.classification.trainer import ClassifierResult
    from lineside_converters.training.detection.trainer import DetectorResult
    from lineside_converters.training.documents.trainer import DocumentResult
    from lineside_converters.training.progress import OnProgress
    from lineside_converters.training.segmentation.trainer import SegmenterResult
    from lineside_converters.training.settings import TrainingSettings

    S = TypeVar("S", bound=TrainingSettings)

R = TypeVar("R")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(metavar="KIND", required=True)
    _add_detector(kinds)
    _add_classifier(kinds)
    _add_segmenter(kinds)
    _add_document(kinds)
    recommender.add_arguments(kinds)
    quantum_head.add_arguments(kinds)
    compare.add_arguments(
        kinds.add_parser(
            "compare",
            help="compare several runs",
            description="Compares runs of `lineside train`, also unfinished ones: results and differing settings.",
        )
    )


def _add_detector(kinds: Any) -> None:
    with needs("convert"):
        from lineside_converters.training.detection.config import DetectorConfig
    detector = kinds.add_parser(
        "detector",
        help="types and places: boxes",
        description="Trains a detector on folders of annotated images (Pascal VOC, COCO, YOLO, boxes.csv) with the "
        "types that they annotate; on neu-det and deeppcb, with simulator frames, the surface detector of 12 types.",
    )
    options = Options(detector, DetectorConfig)
    options.add_common()
    options.add("--canvas", "side of a training canvas", field="canvas_px", type=int, metavar="PX")
    options.add(
        "--canvas-sizes", "sides of which each step draws one, such as 192,224,256", type=integers, metavar="PX,PX"
    )
    options.add(
        "--framing", "bring whole pictures to the canvas, or cut it out of them", choices=["auto", "scale", "cut"]
    )
    options.add(
        "--balance", "show types more often that fewer than this share of the pictures show", type=float, metavar="S"
    )
    options.add(
        "--reference",
        "compare each image with that of a good part: references/NAME or golden.png in DIR, or DeepPCB's templates",
        action="store_true",
    )
    options.add("--pcb-share", "share of circuit boards in a step, beside neu-det", type=float, metavar="S")
    options.add("--simulated-share", "share of drawn frames, of the 12 types", type=float, metavar="S")
    _add_start(options, "surface-12 where no architecture is chosen")
    options.add(
        "--architecture",
        "lite0@N, such as lite0@96: begin with a trunk that knows ImageNet, and a pyramid and heads of N channels; "
        "lite0-short@N: with a quarter of the trunk",
        metavar="A",
    )
    options.add(
        "--random-weights",
        "begin the trunk with random weights instead: the terms of DIR alone hold for the network, not ImageNet's",
        action="store_true",
    )
    options.add(
        "--architectures",
        "the best of these is taken: each trained shortly, timed as INT8 and judged, such as lite0@64,lite0@96",
        type=words,
        metavar="A,A",
    )
    options.add("--trial-epochs", "length of each of those trainings", type=int, metavar="N")
    options.add("--max-ms", "longest time a frame that an architecture may take here", type=float, metavar="MS")
    _add_widths(options)
    options.add("--qat", "fine-tune for INT8 if that costs more than half a point of mAP", action="store_true")
    options.add("--qat-epochs", "length of that", type=int, metavar="N")
    add_folds(detector)
    add_together(detector)
    add_then(detector)
    detector.set_defaults(run=resumable("detector", _train_detector))


def _add_classifier(kinds: Any) -> None:
    with needs("convert"):
        from lineside_converters.training.classification.config import ClassifierConfig
    classifier = kinds.add_parser(
        "classifier",
        help="one type for a whole picture",
        description="Trains a classifier on folders of classes; of images with boxes, on what is in the largest box. "
        "It begins with ImageNet's weights unless another architecture or start is chosen.",
    )
    options = Options(classifier, ClassifierConfig)
    options.add_common()
    options.add("--side", "of the input", field="side_px", type=int, metavar="PX")
    options.add("--colour", "what the network sees", choices=["grey", "rgb"])
    _add_start(options, "ImageNet's weights")
    options.add(
        "--architecture",
        "lite0: EfficientNet-Lite0 with ImageNet's weights; resnet18: random weights (default: lite0)",
        choices=["lite0", "resnet18"],
    )
    options.add("--width", "factor on the channels of a resnet18", type=float, metavar="W")
    _add_widths(options)
    options.add("--bf16", "multiply in bfloat16, where the processor does", action="store_true")
    add_good_class(classifier, default=argparse.SUPPRESS)
    add_folds(classifier)
    add_together(classifier)
    add_then(classifier)
    classifier.set_defaults(run=resumable("classifier", _train_classifier))


def _add_segmenter(kinds: Any) -> None:
    with needs("convert"):
        from lineside_converters.training.segmentation.config import SegmenterConfig
    segmenter = kinds.add_parser(
        "segmenter",
        help="types and shapes: masks",
        description="Trains a segmenter on images with masks: images/x.jpg by masks/x.png, or folders of a type each "
        "with x.jpg beside x.png.",
    )
    options = Options(segmenter, SegmenterConfig)
    options.add_common()
    options.add("--side", "long side of the input", field="side_px", type=int, metavar="PX")
    options.add("--channels", "width of the head", type=int, metavar="N")
    _add_start(options, "a trunk that knows ImageNet")
    options.add(
        "--balance", "show types more often that fewer than this share of the pictures show", type=float, metavar="S"
    )
    add_folds(segmenter)
    add_together(segmenter)
    add_then(segmenter)
    segmenter.set_defaults(run=resumable("segmenter", _train_segmenter))


def _add_document(kinds: Any) -> None:
    with needs("convert"):
        from lineside_converters.training.documents.config import DocumentConfig
    document = kinds.add_parser(
        "document",
        help="fields of documents and how they belong together",
        description="Trains a token classifier on folders of annotated documents (annotations.jsonl beside text files; "
        "CUAD as it is published). It begins with the weights of a small text encoder. Scores are calibrated on the "
        "documents that are held out.",
    )
    options = Options(document, DocumentConfig)
    options.add_common(documents=True)
    options.add("--schema", "a shipped schema's name, or a TOML file with a table [model]", metavar="NAME|FILE")
    options.add(
        "--encoder",
        "folder of a BERT encoder: config.json, model.safetensors, tokenizer.json (default: all-MiniLM-L6-v2 of the "
        "extra documents-train)",
        type=Path,
        metavar="DIR",
    )
    options.add("--frozen-layers", "lowest layers of the encoder that stay as they are", type=int, metavar="N")
    options.add(
        "--cross-fit",
        "for few documents: fit the scores on all of them, read by N further networks that were trained on the other "
        "documents, and train the last one on all (default: fit them on the held share)",
        type=int,
        metavar="N",
    )
    options.add("--bf16", "multiply in bfloat16, where the processor does", action="store_true")
    add_then(document)
    document.set_defaults(folds=None, workers=None)
    document.set_defaults(run=resumable("document", _train_document))


def _add_start(options: Options, otherwise: str) -> None:
    options.add(
        "--start",
        "go on from a bundle (also an INT8 one, or a shipped one's name), an .onnx file or a finished run's folder; "
        f"what it knows of the types stays (default: {otherwise})",
        type=bundle_path,
        metavar="MODEL",
    )


def _add_widths(options: Options) -> None:
    options.add(
        "--widths",
        "train networks with these shares of the channels at once, such as 1.0,0.75,0.5,0.35: one file of weights, and "
        "one bundle with a variant of each",
        type=numbers,
        metavar="W,W",
    )


def _train_detector(options: argparse.Namespace) -> int:
    with needs("train"):
        from lineside_converters.training.detection.architecture_selection import train_best
        from lineside_converters.training.detection.config import DetectorConfig

    def lines(result: DetectorResult) -> list[str]:
        figures = ", ".join(f"{name} {value:.3f}" for name, value in result.held_map50.items())
        return [f"mAP@0.5 on the held-out share: {figures}"]

    return _train(options, "detector", DetectorConfig, lambda config, report: train_best(config, report, inform), lines)


def _train_classifier(options: argparse.Namespace) -> int:
    with needs("train"):
        from lineside_converters.training.classification.config import ClassifierConfig
        from lineside_converters.training.classification.trainer import train_classifier

    def lines(result: ClassifierResult) -> list[str]:
        return [f"top-1 of {len(result.labels)} classes on the held-out share: {result.held_top1:.3f}", result.rule]

    return _train(options, "classifier", ClassifierConfig, train_classifier, lines)


def _train_segmenter(options: argparse.Namespace) -> int:
    with needs("train"):
        from lineside_converters.training.segmentation.config import SegmenterConfig
        from lineside_converters.training.segmentation.trainer import train_segmenter

    def lines(result: SegmenterResult) -> list[str]:
        by_type = ", ".join(f"{name} {value:.3f}" for name, value in result.held_iou.items())
        return [f"mean IoU on the held-out share: {result.held_mean_iou:.3f} ({by_type})"]

    return _train(options, "segmenter", SegmenterConfig, train_segmenter, lines)


def _train_document(options: argparse.Namespace) -> int:
    with needs("train"):
        from lineside_converters.training.documents.config import DocumentConfig
        from lineside_converters.training.documents.trainer import train_document

    def lines(result: DocumentResult) -> list[str]:
        return [
            f"F1 of values of {len(result.labels)} types on documents that the network was not trained on: "
            f"{result.held_f1:.3f}, with calibrated scores {result.scored_f1:.3f}"
            f"{'' if result.uses_network else ', which use no network'}"
        ]

    return _train(options, "document", DocumentConfig, train_document, lines)


def _train(
    options: argparse.Namespace,
    kind: str,
    settings: type[S],
    train: Callable[[S, OnProgress], R],
    lines: Callable[[R], list[str]],
) -> int:
    """Trains alone or on several workers, runs the steps of ``--then``, and prints the result."""
    check_then(options)
    check_folds(options)
    config = settings_of(options, settings)
    if options.folds is not None:
        return validate_by_folds(kind, config, options)
    if (cluster := cluster_of(options)) is not None:
        return learn_together(kind, config, cluster, options)
    with progress_of(options, config.out) as report:
        result = train(config, report)
    then = go_on(options, config)
    if options.json:
        print_json(with_then(result, then))
    else:
        for line in lines(result):
            show(line)
        show(f"wrote {config.out}: best.pt, float.onnx, training.json, curves.html, config.toml")
    return 0
