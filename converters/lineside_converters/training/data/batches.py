"""Mixed batches: in every one all data sets, so that batch-norm statistics are those of one mixture."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from lineside_converters.training.data.augmentation import TrainingPicture, flip, mosaic, place, relight
from lineside_converters.training.data.reference_pairs import compare
from lineside_converters.training.data.sampler import EpochSampler, repeat_factors
from lineside_converters.training.data.samples import Domain
from lineside_converters.training.detection.config import DetectorConfig
from lineside_converters.training.strategy import BatchPart, Parts, rng_of, whole
from lineside_models.networks.detector import MEAN, STD

MOSAIC_SHARE = 0.3
CLEAN_SHARE = 0.12  # of the canvases, where there are pictures without defects
MOSAIC_ZOOM = (0.6, 1.1)  # of pictures that are scaled
ANYWHERE_SHARE = 0.18  # of the canvases that are cut: at no defect in particular
_SIZES, _NUMBERS = 7, 1 << 30
B_co = TypeVar("B_co", covariant=True)
_AHEAD = 3  # batches made ahead of the step that trains


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """One step's input.

    Attributes:
        images: ``(B, C, S, S) float32``, ``(grey - 127) / 128``, channels last; C is 1, or 3 with references.
        boxes: ``(B, M, 4) float32`` in pixels, padded with 0.
        labels: ``(B, M) int64``, padded with -1.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor


def collate(pictures: list[TrainingPicture]) -> TrainingBatch:
    """Stacks canvases of one size and pads their boxes."""
    most = max(1, max(len(p.boxes) for p in pictures))
    boxes = np.zeros((len(pictures), most, 4), np.float32)
    labels = np.full((len(pictures), most), -1, np.int64)
    for row, picture in enumerate(pictures):
        boxes[row, : len(picture.boxes)] = picture.boxes
        labels[row, : len(picture.labels)] = picture.labels
    size = pictures[0].image.shape[0]
    images = (np.stack([p.image.reshape(size, size, -1) for p in pictures]).astype(np.float32) - MEAN) / STD
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    return TrainingBatch(tensor, torch.from_numpy(boxes), torch.from_numpy(labels))


class BatchMaker(Protocol[B_co]):
    """Makes the batch of a step."""

    def __call__(self, step: int, *, strong: bool) -> B_co:
        """Makes the batch of a step; ``strong`` allows all augmentations."""


def ahead(make: BatchMaker[B_co], first_step: int, strong_at: Callable[[int], bool]) -> Generator[B_co, None, None]:
    """Yields batches from ``first_step`` on, made in a thread a few steps ahead."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        waiting: deque[Future[B_co]] = deque()
        step = first_step
        while True:
            while len(waiting) < _AHEAD:
                waiting.append(pool.submit(make, step, strong=strong_at(step)))
                step += 1
            yield waiting.popleft().result()


class Mixer:
    """Makes the batch of any step from the seed and the step's number alone, so that a resumed run sees the same."""

    def __init__(
        self, domains: tuple[Domain, ...], counts: tuple[int, ...], *, config: DetectorConfig, part: Parts = whole
    ) -> None:
        """Takes the domains, the number of canvases of each in a batch, and this worker's part of a batch."""
        self._domains = domains
        self.counts, self._part = counts, part
        self._sizes = config.canvas_sizes or (config.canvas_px,)
        self._seed = config.seed
        self._simulated_share = config.simulated_share
        self._samplers = {
            domain.name: EpochSampler(repeat_factors([p.labels for p in domain.train], config.balance), config.seed)
            for domain in domains
        }

    def batch(self, step: int, *, mosaics: bool) -> TrainingBatch:
        """Makes the batch of one step."""
        part = self._part(step)
        rng = rng_of(self._seed, step, part)
        size = self.size_at(step)
        cutters = [_Cutter(domain, size, rng, self._pick) for domain in self._domains]
        return collate(
            [
                cutters[which].canvas(step * self.counts[which] + number, mosaics=mosaics)
                for which, number in self._rows(part)
            ]
        )

    def _rows(self, part: BatchPart | None) -> list[tuple[int, int]]:
        """Returns domain and number of each canvas; all domains are mixed in every part, as they are in the batch."""
        rows = [(which, number) for which, count in enumerate(self.counts) for number in range(count)]
        if part is None:
            return rows
        rows.sort(key=lambda row: (row[1] + 0.5) / self.counts[row[0]])
        return rows[part.rows(len(rows))]

    def size_at(self, step: int) -> int:
        """Returns the side of the canvases of a step in pixels: one of the sizes, drawn anew for each."""
        rng = np.random.default_rng((self._seed, step, _SIZES))
        return self._sizes[int(rng.integers(len(self._sizes)))]

    def stream(self, first_step: int, *, mosaics_at: Callable[[int], bool]) -> Generator[TrainingBatch, None, None]:
        """Yields batches from ``first_step`` on, made in a thread a few steps ahead."""
        return ahead(lambda step, *, strong: self.batch(step, mosaics=strong), first_step, mosaics_at)

    def _pick(self, domain: Domain, rng: np.random.Generator, number: int) -> TrainingPicture:
        if domain.simulated and rng.random() < self._simulated_share:
            return _any(domain.simulated, rng)
        return domain.train[self._samplers[domain.name](number)]


_Pick = Callable[[Domain, np.random.Generator, int], TrainingPicture]


@dataclass(frozen=True, slots=True)
class _Cutter:
    """Makes the canvases of one data set in one batch."""

    domain: Domain
    size: int
    rng: np.random.Generator
    pick: _Pick

    def canvas(self, number: int, *, mosaics: bool) -> TrainingPicture:
        """Returns a canvas of the picture of this number, or a mosaic of four, flipped and relit at random."""
        rng, framing = self.rng, self.domain.framing
        cut = self._scaled if framing.kind == "scale" else self._cut
        if mosaics and rng.random() < MOSAIC_SHARE:
            parts = [cut(number, small=True)]
            parts += [cut(int(rng.integers(_NUMBERS)), small=True) for _ in range(3)]
            picture = mosaic(parts, rng, kept_share=framing.kept_share)
        else:
            picture = cut(number, small=False)
        picture = flip(picture, rng, turn=framing.turn)
        look = relight if picture.image.ndim == 2 else compare  # with its reference
        return TrainingPicture(look(picture.image, rng), picture.boxes, picture.labels)

    def _scaled(self, number: int, *, small: bool) -> TrainingPicture:
        clean = self.domain.clean and self.rng.random() < CLEAN_SHARE
        picture = _any(self.domain.clean, self.rng) if clean else self.pick(self.domain, self.rng, number)
        low, high = MOSAIC_ZOOM if small else self.domain.framing.zoom
        return self._lay(picture, self.size / max(picture.image.shape[:2]) * self.rng.uniform(low, high))

    def _cut(self, number: int, *, small: bool) -> TrainingPicture:
        del small  # the scale of the pixels is the camera's and stays
        roll = self.rng.random()
        scale = self._zoom()
        if roll < CLEAN_SHARE and self.domain.clean:
            return self._lay(_any(self.domain.clean, self.rng), scale)
        picture = self.pick(self.domain, self.rng, number)
        if roll < CLEAN_SHARE + ANYWHERE_SHARE or not len(picture.boxes):
            return self._lay(picture, scale)
        box = picture.boxes[self.rng.integers(len(picture.boxes))] * scale
        centre = (box[:2] + box[2:]) / 2
        offset = self.rng.uniform(0.15, 0.85, 2) * self.size
        limit = np.array(picture.image.shape[1::-1]) * scale - self.size
        corner = np.round(np.clip(centre - offset, 0, np.maximum(limit, 0)))
        kept = self.domain.framing.kept_share
        return place(picture, scale=scale, x=-corner[0], y=-corner[1], size=self.size, kept_share=kept)

    def _zoom(self) -> float:
        low, high = self.domain.framing.zoom
        return low if low == high else float(self.rng.uniform(low, high))

    def _lay(self, picture: TrainingPicture, scale: float) -> TrainingPicture:
        height, width = picture.image.shape[:2]
        x, y = (float(np.round(self.rng.uniform(0, 1) * (self.size - scale * side))) for side in (width, height))
        return place(picture, scale=scale, x=x, y=y, size=self.size, kept_share=self.domain.framing.kept_share)


def _any(pictures: tuple[TrainingPicture, ...], rng: np.random.Generator) -> TrainingPicture:
    return pictures[int(rng.integers(len(pictures)))]
