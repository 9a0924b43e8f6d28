"""Frames of the simulator as a camera on a line would give them, with their descriptors."""

from __future__ import annotations

import functools

import cv2
import numpy as np

from lineside_agent.health.drift.descriptors import Descriptors, describe
from lineside_agent.health.drift.reference import DriftVerdict
from lineside_models.simulator import render

RENDERED = 200
TYPES = ("crazing", "scratches", "pitted")


@functools.cache
def images() -> tuple[np.ndarray, ...]:
    """Frames of one product: both kinds of parts with and without defects, at half size as they are many."""
    return tuple(render("pcb", seed, size=(160, 160)).image for seed in range(RENDERED))


@functools.cache
def clean() -> tuple[Descriptors, ...]:
    return tuple(describe(image) for image in images())


def drawn(count: int, seed: int) -> list[Descriptors]:
    """Descriptors of ``count`` frames, drawn at random from the rendered ones."""
    return [clean()[number] for number in np.random.default_rng(seed).integers(0, RENDERED, count)]


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma)) if sigma > 0 else image


def darker(image: np.ndarray, factor: float) -> np.ndarray:
    return (image * factor).astype(np.uint8)


def judgement(rng: np.random.Generator, *, bad: float, kind: str = "scratches", bundle: str = "b") -> DriftVerdict:
    """A verdict on a line with a share of ``bad`` parts."""
    is_bad = bool(rng.random() < bad)
    return DriftVerdict(
        bundle=bundle,
        passed=not is_bad,
        unsure=False,
        types=(kind,) if is_bad else (),
        near_miss=float(rng.beta(1.0, 4.0)),
    )
