"""Tolerances and the threshold of a reference, from frames of good parts.

::

    good frames ─► registered to the best reference ─► darkest and brightest value a pixel ─► tolerance
                                        └─► each frame by the tolerance of all others ─► threshold

Nothing is trained by gradients: it takes seconds, and neither torch nor the onnx package.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from lineside_models.anomaly.threshold import gumbel_quantile
from lineside_models.frame import Frame, UInt8Array
from lineside_models.preprocess import to_grey
from lineside_models.reference.composition import Tolerance, compose, match_brightness
from lineside_models.reference.network import DifferenceNetwork
from lineside_models.reference.reference_set import best_match
from lineside_models.reference.registration import ReferenceTemplate, Registration, RegistrationLimits
from lineside_runtime.errors import ConfigError, InputError, RegistrationError

FRAMES_MIN = 5
"""With fewer, nothing can be said of how good parts differ."""

FRAMES_FEW = 20
"""Below it the envelope of good parts is still growing with each of them."""

QUANTILE = 0.99
EDGE_PX = 1
GROW_PX = 4
CONTRAST_MIN = 32.0
"""Grey levels. Most good frames differ nowhere from the others, so that the distribution of their scores is a guess
below what a camera's noise and light change."""


@dataclasses.dataclass(frozen=True, slots=True)
class ReferenceOptions:
    """Settings of learning a reference.

    Attributes:
        quantile: Share of good parts that are to stay below the threshold; above 0.5, below 1.
        edge_px: By how many pixels edges may move beyond what the good frames show; 0 to 16.
        grow_px: By how much a defect's box is larger than what differs, to each side, in pixels; 0 to 64.
    """

    quantile: float = QUANTILE
    edge_px: int = EDGE_PX
    grow_px: int = GROW_PX
    limits: RegistrationLimits = dataclasses.field(default_factory=RegistrationLimits)

    def check(self) -> None:
        """Checks every value.

        Raises:
            ConfigError: One is out of range.
        """
        if not 0.5 < self.quantile < 1:
            raise ConfigError("quantile", expected="above 0.5 and below 1", actual=self.quantile)
        if not 0 <= self.edge_px <= 16:
            raise ConfigError("edge_px", expected="0 to 16", actual=self.edge_px)
        if not 0 <= self.grow_px <= 64:
            raise ConfigError("grow_px", expected="0 to 64", actual=self.grow_px)


@dataclasses.dataclass(frozen=True, slots=True)
class LearnedReference:
    """References with what good parts show.

    Attributes:
        images: The references, ``(H, W) uint8``.
        tolerances: One each.
        frames: How many good frames each was matched by.
        unregistered: Names of good frames that match no reference; they count for nothing.
        scores: Grey levels of the strongest difference in each good frame, by the tolerance of all others.
        quality: Least correlation of a good frame with its reference.
        value: Threshold in grey levels: what a share of ``quantile`` of good parts stays below.
    """

    images: tuple[UInt8Array, ...]
    tolerances: tuple[Tolerance, ...]
    frames: tuple[int, ...]
    unregistered: tuple[str, ...]
    scores: tuple[float, ...]
    quality: float
    value: float
    options: ReferenceOptions

    @property
    def warning(self) -> str:
        """Warnings if there were few frames, or if some could not be registered; else empty."""
        warnings = []
        if len(self.scores) + 1 < FRAMES_FEW:  # the reference shows a good part too
            warnings.append(
                f"{len(self.scores)} good frames: more good parts will be rejected than the quantile says; learn from "
                f"{FRAMES_FEW} or more"
            )
        if self.unregistered:
            warnings.append(f"{len(self.unregistered)} good frames could not be registered and would be faults")
        return "; ".join(warnings)


@dataclasses.dataclass(frozen=True, slots=True)
class _Aligned:
    """A good frame: itself, where the reference lies in it, and its grey values in the reference's pixels."""

    image: UInt8Array
    registration: Registration
    grey: UInt8Array


def learn_reference(
    frames: Iterable[Frame],
    references: Sequence[UInt8Array] = (),
    options: ReferenceOptions | None = None,
    *,
    on_progress: Callable[[str], None] = lambda text: None,
) -> LearnedReference:
    """Learns what good parts show around one or more references.

    Args:
        frames: Of good parts, in the reference's size. 20 are a good number. They are all held in memory.
        references: Images of good parts; if none is given, the frame whose part lies nearest to the middle of all.
        options: Settings; the default ones if not given.
        on_progress: Told in words what is done.

    Raises:
        InputError: There are too few frames, or too few of them can be registered.
        ConfigError: An option is out of range.
        RegistrationError: A reference shows nothing to register by, or the frames have another size.
        BadInputFormatError: A frame or a reference holds no image.
    """
    options = options or ReferenceOptions()
    options.check()
    given = list(frames)
    if len(given) < FRAMES_MIN:
        raise InputError(
            "too few good frames to learn a reference's tolerance from",
            expected=f"{FRAMES_MIN} at least, better {FRAMES_FEW}",
            actual=len(given),
            action="Give more frames of good parts.",
        )
    if not references:
        central = _most_central(given, options, on_progress)
        references = [given.pop(central).image]
    templates = [ReferenceTemplate(image, options.limits) for image in references]
    groups, unregistered = _aligned(given, templates, on_progress)
    if len(given) - len(unregistered) < FRAMES_MIN:
        raise InputError(
            "too few good frames can be registered to the reference",
            expected=f"{FRAMES_MIN} at least",
            actual=f"{len(given) - len(unregistered)} of {len(given)}",
            action="Give frames of this product, taken as the reference was, or another --reference.",
        )
    scores: list[float] = []
    with DifferenceNetwork(options.grow_px) as network:
        for template, group in zip(templates, groups, strict=True):
            scores += _left_out(template, group, options.edge_px, network)
    on_progress(f"tolerance of {len(scores)} frames")
    return LearnedReference(
        images=tuple(template.grey for template in templates),
        tolerances=tuple(
            _tolerance(template, group, options.edge_px) for template, group in zip(templates, groups, strict=True)
        ),
        frames=tuple(len(group) for group in groups),
        unregistered=tuple(unregistered),
        scores=tuple(scores),
        quality=min(each.registration.quality for group in groups for each in group),
        value=max(CONTRAST_MIN, _threshold(np.array(scores), options.quantile)),
        options=options,
    )


def _threshold(scores: npt.NDArray[np.float64], quantile: float) -> float:
    """Returns the quantile of Gumbel's distribution for the next score, given that ``(N,)`` scores estimate it.

    Mean and deviation of few scores are uncertain; the factors are those of a normal prediction interval, with the
    first term of Student's quantile.
    """
    count = len(scores)
    normal = statistics.NormalDist().inv_cdf(quantile)
    wider = math.sqrt((count + 1) / (count - 1)) * (1 + (normal**2 + 1) / (4 * (count - 1)))
    mean = float(scores.mean())
    return mean + (gumbel_quantile(scores, quantile) - mean) * wider


def _most_central(frames: Sequence[Frame], options: ReferenceOptions, on_progress: Callable[[str], None]) -> int:
    """Returns the number of the frame whose part lies nearest to the median place of all parts."""
    first = ReferenceTemplate(frames[0].image, options.limits)
    places, numbers = [], []
    for number, frame in enumerate(frames):
        try:
            found = first.register(frame.image)
        except RegistrationError:
            continue
        corners = found.matrix @ np.array([[0, 0, 1], [first.size[1], first.size[0], 1]], np.float64).T
        places.append(corners.ravel())
        numbers.append(number)
        if number % 10 == 9:
            on_progress(f"reference: {number + 1} of {len(frames)} frames")
    if not places:
        raise RegistrationError(
            "the good frames do not show the same", expected="frames of one product", action="Give a --reference."
        )
    off = np.abs(np.array(places) - np.median(places, axis=0)).max(axis=1)
    return numbers[int(off.argmin())]


def _aligned(
    frames: Sequence[Frame], templates: Sequence[ReferenceTemplate], on_progress: Callable[[str], None]
) -> tuple[list[list[_Aligned]], list[str]]:
    """Returns the frames of each reference, and the names of those that match none."""
    groups: list[list[_Aligned]] = [[] for _ in templates]
    unregistered: list[str] = []
    for number, frame in enumerate(frames, 1):
        try:
            place, found = best_match(templates, frame.image)
        except RegistrationError as error:
            unregistered.append(f"{frame.part_id or frame.sequence}: {error.message}")
        else:
            groups[place].append(_Aligned(frame.image, found, _in_reference(frame.image, templates[place], found)))
        if number % 10 == 0:
            on_progress(f"registered {number} of {len(frames)} frames")
    return groups, unregistered


def _in_reference(image: UInt8Array, template: ReferenceTemplate, found: Registration) -> UInt8Array:
    """Returns a frame's grey values in the reference's pixels; what the frame does not show is the reference's."""
    grey = match_brightness(to_grey(image), found.place(template.grey), found.covered(template.size))
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (template.size[1], template.size[0])
    back = np.asarray(cv2.warpAffine(grey, found.matrix, size, flags=how), np.uint8)
    shown = cv2.warpAffine(np.full_like(grey, 255), found.matrix, size, flags=how)
    return np.asarray(np.where(shown == 255, back, template.grey), np.uint8)


def _tolerance(template: ReferenceTemplate, group: Sequence[_Aligned], edge_px: int) -> Tolerance:
    greys = [template.grey, *(each.grey for each in group)]
    return Tolerance.around(
        np.asarray(functools.reduce(cv2.min, greys), np.uint8),
        np.asarray(functools.reduce(cv2.max, greys), np.uint8),
        edge_px,
    )


def _left_out(
    template: ReferenceTemplate, group: Sequence[_Aligned], edge_px: int, network: DifferenceNetwork
) -> list[float]:
    """Returns the score of each good frame by the tolerance of the reference and all other good frames."""
    if not group:
        return []
    greys = np.stack([template.grey, *(each.grey for each in group)])
    count = min(2, len(greys) - 1)
    low = np.partition(greys, count - 1, axis=0)[:count]
    high = 255 - np.partition(255 - greys, count - 1, axis=0)[:count]
    scores = []
    for each in group:
        darkest = np.where(each.grey == low[0], low[-1], low[0])
        brightest = np.where(each.grey == high[0], high[-1], high[0])
        tolerance = Tolerance.around(darkest, brightest, edge_px)
        scores.append(network.strongest(compose(each.image, template, each.registration, tolerance)))
    return scores
