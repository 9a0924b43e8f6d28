"""Features of good frames, computed once: banks and thresholds are then fitted to them, or to a part of them."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from lineside_models import zoo
from lineside_models.anomaly.coreset import Floats, Ints
from lineside_models.anomaly.names import FEATURES_BUNDLE
from lineside_models.frame import Frame
from lineside_models.preprocess import prepare
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import InputError
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array

JUDGED = 2
"""Looks at a frame that is judged: as it is, and upside down. A cell is as far from good parts as in the nearer one."""


@dataclasses.dataclass(frozen=True, slots=True)
class FrameFeatures:
    """Features of good frames.

    Attributes:
        scales: ``(looks, frames, cells, C) float32`` a scale: the frame as it is, upside down, and if mirrored frames
            count as good left to right.
        parts: ``(frames,)``: the part that each frame shows, from 0.
        pictures: Number of different pictures among them.
    """

    source: Bundle
    scales: tuple[Floats, ...]
    parts: Ints
    names: tuple[str, ...]
    pictures: int

    @property
    def learned(self) -> tuple[Floats, ...]:
        """Those of the looks that count as good: of the frame as it is, or of all."""
        return tuple(cells[: 1 if len(cells) == JUDGED else None] for cells in self.scales)

    def of(self, frames: Ints) -> FrameFeatures:
        """Returns the features of some of the frames, by their indices."""
        return FrameFeatures(
            self.source,
            tuple(cells[:, frames] for cells in self.scales),
            np.unique(self.parts[frames], return_inverse=True)[1],
            tuple(self.names[number] for number in frames),
            min(self.pictures, len(frames)),
        )


def collect_features(
    frames: Iterable[Frame],
    *,
    mirror: bool = False,
    threads: int = 1,
    pictures_min: int = 1,
    on_progress: Callable[[str], None] = lambda text: None,
) -> FrameFeatures:
    """Computes the features of good frames.

    Args:
        frames: Of good parts. Frames of one ``part_id`` show one part; a frame without one is a part of its own.
        mirror: Whether mirrored frames count as good as well.
        on_progress: Told in words what is done.

    Raises:
        InputError: There are too few different pictures.
        BadInputFormatError: A frame holds no image.
        DeviceError: The features can't be computed here.
    """
    source = features_bundle()
    how = source.manifest.preprocess
    names = [spec.name for spec in source.manifest.outputs]
    looks: list[list[list[Floats]]] = [[[] for _ in names] for _ in range(JUDGED + mirror)]
    parts: list[str] = []
    shown: list[str] = []
    pictures = set()
    with Session(source, Config(threads=threads)) as session:
        for frame in frames:
            tensor = prepare(frame.image, how)[0]
            for look, mirrored in zip(looks, (tensor, tensor[:, :, ::-1], tensor[..., ::-1]), strict=False):
                outputs = session.predict({how.input: np.ascontiguousarray(mirrored)})
                for place, name in zip(look, names, strict=True):
                    place.append(cells_of(outputs[name]))
            parts.append(frame.part_id or f"frame {len(parts)}")
            shown.append(frame.source or parts[-1])
            pictures.add(zlib.crc32(frame.image.tobytes()))
            if len(parts) % 10 == 0:
                on_progress(f"{len(parts)} frames")
    if len(pictures) < pictures_min:
        raise InputError(
            "too few different pictures to learn from",
            expected=f"{pictures_min} at least" + (", better 50" if pictures_min > 1 else ""),
            actual=len(pictures),
            action="Give more frames of good parts, each of another part.",
        )
    scales = tuple(np.stack([np.stack(look[scale]) for look in looks]) for scale in range(len(names)))
    return FrameFeatures(source, scales, np.unique(parts, return_inverse=True)[1], tuple(shown), len(pictures))


def features_bundle() -> Bundle:
    """Opens the shipped bundle of features."""
    return open_bundle(zoo.path(FEATURES_BUNDLE))


def cells_of(features: Array) -> npt.NDArray[np.float32]:
    """Returns the network's output ``(1, C, h, w)`` as ``(cells, C)``."""
    return np.ascontiguousarray(features[0].reshape(features.shape[1], -1).T, np.float32)


def lower_of(values: Floats) -> Floats:
    """Returns the lower value of each cell in the frame and in its mirror image, turned back.

    Args:
        values: ``(looks, ..., cells)``, of which the first two are taken.
    """
    side = round(values.shape[-1] ** 0.5)
    turned = values[1].reshape(*values.shape[1:-1], side, side)[..., ::-1, :]
    return np.asarray(np.minimum(values[0], turned.reshape(values.shape[1:])), np.float32)
