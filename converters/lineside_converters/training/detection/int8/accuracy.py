"""INT8 model of a detector during training: accuracy and latency."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lineside_converters.gates.checks import Run, time_together
from lineside_converters.gates.loaded_models import execution_place
from lineside_converters.graph.cleanup import clean_graph, load_graph
from lineside_converters.levels import FLOAT_CONVS, LEVELS
from lineside_converters.quantization.static import Feed, first_convs, quantize
from lineside_converters.targets import find_target
from lineside_converters.training.data.augmentation import TrainingPicture
from lineside_converters.training.detection.accuracy import find_with, map50
from lineside_converters.training.detection.bundle_facts import OUTPUTS
from lineside_converters.training.detection.data import DetectionData
from lineside_models.datasets.base import evenly_spread
from lineside_models.networks.detector import INPUT
from lineside_models.preprocess import prepare
from lineside_runtime import registry
from lineside_runtime.backend import LoadOptions

TIMED_FRAMES = 4
_CLEAN, _INT8 = "clean.onnx", "int8.onnx"


def quantise(source: Path, folder: Path, data: DetectionData) -> Path:
    """Makes the INT8 model that level 1 tries first, calibrated on pictures to train on.

    Args:
        source: The float ONNX file.
        folder: For ``clean.onnx`` and ``int8.onnx``.

    Returns:
        The INT8 file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clean, int8 = folder / _CLEAN, folder / _INT8
    clean_graph(source, clean)
    frames = _spread(data, LEVELS[1].calibration_frames)
    exclude = first_convs(load_graph(clean), FLOAT_CONVS["detection"])
    feeds = [_feed(each, data) for each in frames]
    quantize(clean, int8, feeds=feeds, activation=find_target("cpu").activation, exclude=exclude)
    return int8


def held_map50(model: Path, data: DetectionData) -> dict[str, float]:
    """Returns mAP@0.5 by data set of an ONNX file, float or INT8, on the held-out share."""
    run = _loaded(model)

    def answer(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        found = run({INPUT: images})
        return [np.asarray(found[name], np.float32) for name in OUTPUTS]

    how, labels = data.preprocess, data.labels
    return {each.name: map50(each.held, find_with(answer, each.held, how), labels) for each in data.domains}


def latencies_ms(models: Mapping[str, Path], data: DetectionData) -> dict[str, float]:
    """Returns the median milliseconds a frame of each model: ONNX Runtime, one thread, interleaved.

    Args:
        models: ONNX files by name.
        data: Frames are some of its held pictures, as they reach the network at the line.
    """
    held = [picture for domain in data.domains for picture in domain.held]
    feeds = [_feed(held[number * len(held) // TIMED_FRAMES], data) for number in range(TIMED_FRAMES)]
    times = time_together({name: _loaded(path) for name, path in models.items()}, feeds)
    return {name: each.mean_of_medians_ms for name, each in times.items()}


def _loaded(model: Path) -> Run:
    """Loads as a device does: 7-bit weights get the kernels that are fast with them."""
    return registry.backend("ort").load(model, execution_place("ort", "cpu").device, LoadOptions(threads=1)).run


def _feed(picture: TrainingPicture, data: DetectionData) -> Feed:
    return {INPUT: prepare(picture.image, data.preprocess)[0]}


def _spread(data: DetectionData, most: int) -> list[TrainingPicture]:
    found: list[TrainingPicture] = []
    for domain in data.domains:
        found += evenly_spread(domain.train, -(-most // len(data.domains)))
    return found
