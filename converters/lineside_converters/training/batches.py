"""Mixed batches: in every one both domains, so that batch-norm statistics are those of one mixture."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from lineside_converters.training.augment import Picture, flip, mosaic, place, relight
from lineside_converters.training.config import TrainConfig
from lineside_converters.training.facts import MEAN, STD
from lineside_converters.training.samples import Domain

MOSAIC_SHARE = 0.3
# Steel defects are textures that stay themselves when cut; a circuit defect that has lost half of itself does not.
KEPT_SHARE = {"steel": 0.25, "pcb": 0.5}
B_co = TypeVar("B_co", covariant=True)
_AHEAD = 3  # batches made ahead of the step that trains


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's input.

    Attributes:
        images: ``(B, 1, S, S) float32``, ``(grey - 127) / 128``, channels last.
        boxes: ``(B, M, 4) float32`` in pixels, padded with 0.
        labels: ``(B, M) int64``, padded with -1.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor


def collate(pictures: list[Picture]) -> Batch:
    """Stacks canvases of one size and pads their boxes."""
    most = max(1, max(len(p.boxes) for p in pictures))
    boxes = np.zeros((len(pictures), most, 4), np.float32)
    labels = np.full((len(pictures), most), -1, np.int64)
    for row, picture in enumerate(pictures):
        boxes[row, : len(picture.boxes)] = picture.boxes
        labels[row, : len(picture.labels)] = picture.labels
    images = (np.stack([p.image for p in pictures])[:, None].astype(np.float32) - MEAN) / STD
    tensor = torch.from_numpy(images).to(memory_format=torch.channels_last)
    return Batch(tensor, torch.from_numpy(boxes), torch.from_numpy(labels))


class Maker(Protocol[B_co]):
    """Makes the batch of a step."""

    def __call__(self, step: int, *, strong: bool) -> B_co:
        """Makes it; ``strong`` is whether much may be done to its pictures."""


def ahead(make: Maker[B_co], first_step: int, strong_at: Callable[[int], bool]) -> Generator[B_co, None, None]:
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

    def __init__(self, domains: tuple[Domain, ...], counts: tuple[int, ...], *, config: TrainConfig) -> None:
        """Takes the domains and how many canvases of each a batch holds."""
        self._domains = domains
        self.counts = counts
        self._size = config.canvas_px
        self._seed = config.seed
        self._simulated_share = config.simulated_share

    def batch(self, step: int, *, mosaics: bool) -> Batch:
        """Makes the batch of one step."""
        rng = np.random.default_rng((self._seed, step))
        pictures: list[Picture] = []
        for domain, count in zip(self._domains, self.counts, strict=True):
            first = step * count
            pictures += [self._canvas(domain, rng, first + i, mosaics=mosaics) for i in range(count)]
        return collate(pictures)

    def stream(self, first_step: int, *, mosaics_at: Callable[[int], bool]) -> Generator[Batch, None, None]:
        """Yields batches from ``first_step`` on, made in a thread a few steps ahead.

        Args:
            first_step: Number of the first batch.
            mosaics_at: Says of a step whether mosaics are still wanted then.
        """
        return ahead(lambda step, *, strong: self.batch(step, mosaics=strong), first_step, mosaics_at)

    def _canvas(self, domain: Domain, rng: np.random.Generator, number: int, *, mosaics: bool) -> Picture:
        cut = self._steel if domain.name == "steel" else self._pcb
        if mosaics and rng.random() < MOSAIC_SHARE:
            parts = [cut(domain, rng, number, small=True)]
            parts += [cut(domain, rng, int(rng.integers(1 << 30)), small=True) for _ in range(3)]
            picture = mosaic(parts, rng, kept_share=KEPT_SHARE[domain.name])
        else:
            picture = cut(domain, rng, number, small=False)
        picture = flip(picture, rng, turn=domain.name == "pcb")
        return Picture(relight(picture.image, rng), picture.boxes, picture.labels)

    def _steel(self, domain: Domain, rng: np.random.Generator, number: int, *, small: bool) -> Picture:
        picture = self._pick(domain, rng, number)
        low, high = (0.6, 1.1) if small else (0.8, 1.5)
        scale = self._size / max(picture.image.shape) * rng.uniform(low, high)
        return self._lay(picture, rng, scale, kept_share=KEPT_SHARE["steel"])

    def _pcb(self, domain: Domain, rng: np.random.Generator, number: int, *, small: bool) -> Picture:
        del small  # the scale of the pixels is the camera's and stays
        roll = rng.random()
        if roll < 0.12 and domain.clean:
            return self._lay(_any(domain.clean, rng), rng, 1.0, kept_share=KEPT_SHARE["pcb"])
        picture = self._pick(domain, rng, number)
        if roll < 0.3 or not len(picture.boxes):
            return self._lay(picture, rng, 1.0, kept_share=KEPT_SHARE["pcb"])
        box = picture.boxes[rng.integers(len(picture.boxes))]
        centre = (box[:2] + box[2:]) / 2
        offset = rng.uniform(0.15, 0.85, 2) * self._size
        limit = np.array(picture.image.shape[::-1]) - self._size
        corner = np.round(np.clip(centre - offset, 0, np.maximum(limit, 0)))
        return place(picture, scale=1.0, x=-corner[0], y=-corner[1], size=self._size, kept_share=KEPT_SHARE["pcb"])

    def _pick(self, domain: Domain, rng: np.random.Generator, number: int) -> Picture:
        if domain.simulated and rng.random() < self._simulated_share:
            return _any(domain.simulated, rng)
        lap, place_in_lap = divmod(number, len(domain.train))
        order = np.random.default_rng((self._seed, lap, len(domain.train))).permutation(len(domain.train))
        return domain.train[int(order[place_in_lap])]

    def _lay(self, picture: Picture, rng: np.random.Generator, scale: float, *, kept_share: float) -> Picture:
        height, width = picture.image.shape
        x, y = (float(np.round(rng.uniform(0, 1) * (self._size - scale * side))) for side in (width, height))
        return place(picture, scale=scale, x=x, y=y, size=self._size, kept_share=kept_share)


def _any(pictures: tuple[Picture, ...], rng: np.random.Generator) -> Picture:
    return pictures[int(rng.integers(len(pictures)))]
