"""`Inspector`: frames in, verdicts out, with whatever bundle a session has loaded."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence

import numpy as np

from lineside_models import preprocess
from lineside_models.frame import Frame
from lineside_models.inspection import Detection, Inspection, Timings
from lineside_models.postprocess import Candidates, decode, least_wanted, near_miss, select
from lineside_models.preprocess import Letterbox
from lineside_runtime.bundle import Manifest
from lineside_runtime.errors import ConfigError
from lineside_runtime.session import Pinned, Prediction, Session
from lineside_runtime.tensors import DYNAMIC, Array


@dataclasses.dataclass(frozen=True, slots=True)
class _Prepared:
    """A frame on its way: its place among those given, its tensor, how it lies in it, and the time that took."""

    index: int
    frame: Frame
    tensor: Array
    letterbox: Letterbox
    preprocess_ms: float


class Inspector:
    """Judges frames; several threads may use one at once.

    The session may be reloaded at any time: each frame is prepared, run and decoded by the manifest of the bundle
    that answers it.
    """

    def __init__(self, session: Session, *, batch_size: int = 16) -> None:
        """Makes an inspector.

        Args:
            session: Stays the caller's to close.
            batch_size: At most so many frames go through the model at once.

        Raises:
            ConfigError: ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise ConfigError("batch_size", expected="an integer of at least 1", actual=batch_size)
        self.session = session
        self._batch_size = batch_size

    def inspect(self, frame: Frame, *, confidence_threshold: float | None = None) -> Inspection:
        """Judges one frame.

        Args:
            frame: What a camera gave.
            confidence_threshold: Least score of a defect, 0 to 1; ``None`` for the bundle's own, by type.

        Raises:
            ConfigError: The bundle's post-processing is not known here.
            DeviceError: Every device failed.
        """
        return self.inspect_batch([frame], confidence_threshold=confidence_threshold)[0]

    def inspect_batch(self, frames: Sequence[Frame], *, confidence_threshold: float | None = None) -> list[Inspection]:
        """Judges frames; those that become tensors of one shape go through the model together.

        Args:
            frames: In any sizes.
            confidence_threshold: Least score of a defect, 0 to 1; ``None`` for the bundle's own, by type.

        Returns:
            One verdict a frame, in their order. A frame's share of its batch's time is its ``inference_ms``.

        Raises:
            ConfigError: The bundle's post-processing is not known here.
            DeviceError: Every device failed.
        """
        verdicts: dict[int, Inspection] = {}
        with self.session.pinned() as pinned:
            for batch in self._batches(frames, pinned.manifest):
                for prepared, verdict in zip(batch, _judge(batch, pinned, confidence_threshold), strict=True):
                    verdicts[prepared.index] = verdict
        return [verdicts[index] for index in range(len(frames))]

    def prepare(self, frame: Frame) -> Array:
        """Returns what the model takes for a frame: ``(1, C, H, W)``."""
        return prepare(frame, self.session.manifest)

    def _batches(self, frames: Sequence[Frame], manifest: Manifest) -> Iterator[list[_Prepared]]:
        size = self._batch_size if _free_batch(manifest) else 1
        waiting: dict[tuple[int, ...], list[_Prepared]] = {}
        for index, frame in enumerate(frames):
            started_ns = time.perf_counter_ns()
            tensor, letterbox = preprocess.prepare(frame.image, manifest.preprocess)
            prepared = _Prepared(index, frame, tensor, letterbox, (time.perf_counter_ns() - started_ns) / 1e6)
            batch = waiting.setdefault(tensor.shape, [])
            batch.append(prepared)
            if len(batch) == size:
                yield waiting.pop(tensor.shape)
        yield from waiting.values()


def prepare(frame: Frame, manifest: Manifest) -> Array:
    """Returns what the model of this manifest takes for a frame: ``(1, C, H, W)``."""
    return preprocess.prepare(frame.image, manifest.preprocess)[0]


def _free_batch(manifest: Manifest) -> bool:
    name = manifest.preprocess.input
    return any(spec.name == name and spec.shape and spec.shape[0] == DYNAMIC for spec in manifest.inputs)


def _judge(batch: list[_Prepared], pinned: Pinned, threshold: float | None) -> list[Inspection]:
    manifest = pinned.manifest
    tensor = batch[0].tensor if len(batch) == 1 else np.concatenate([prepared.tensor for prepared in batch])
    prediction = pinned.infer({manifest.preprocess.input: tensor})
    started_ns = time.perf_counter_ns()
    least = least_wanted(manifest.postprocess, len(manifest.labels), threshold=threshold)
    letterboxes = [prepared.letterbox for prepared in batch]
    found = decode(prediction.outputs, manifest.postprocess, letterboxes, least_score=least)
    detections = [select(one, manifest.postprocess, manifest.labels, threshold=threshold) for one in found]
    misses = [near_miss(one, manifest.postprocess, manifest.labels, threshold=threshold) for one in found]
    postprocess_ms = (time.perf_counter_ns() - started_ns) / 1e6 / len(batch)
    inference_ms = prediction.inference_ms / len(batch)
    return [
        _verdict(
            prepared.frame,
            defects,
            miss,
            _anomaly_score(one, manifest),
            prediction,
            Timings(preprocess_ms=prepared.preprocess_ms, inference_ms=inference_ms, postprocess_ms=postprocess_ms),
        )
        for prepared, one, defects, miss in zip(batch, found, detections, misses, strict=True)
    ]


def _anomaly_score(found: Candidates, manifest: Manifest) -> float | None:
    return float(found.scores[0]) if manifest.task == "anomaly" and len(found) else None


def _verdict(
    frame: Frame,
    defects: tuple[Detection, ...],
    miss: float,
    anomaly_score: float | None,
    prediction: Prediction,
    timings: Timings,
) -> Inspection:
    height, width = frame.size
    return Inspection(
        part_id=frame.part_id,
        source=frame.source,
        sequence=frame.sequence,
        captured_at_ns=frame.captured_at_ns,
        passed=not defects,
        detections=defects,
        timings=timings,
        bundle=prediction.bundle,
        requested_device=prediction.requested_device,
        used_device=prediction.used_device,
        width=width,
        height=height,
        near_miss=miss,
        anomaly_score=anomaly_score,
    )
