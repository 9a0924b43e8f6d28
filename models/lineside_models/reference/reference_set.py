"""`ReferenceSet`: the references of one product. A frame is compared with the one that it matches best."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lineside_models.frame import UInt8Array
from lineside_models.image_file import decode_image, decode_png
from lineside_models.reference.composition import Tolerance, compose
from lineside_models.reference.registration import ReferenceTemplate, Registration, RegistrationLimits
from lineside_runtime.bundle import Bundle, Preprocess, Reference
from lineside_runtime.errors import BundleFormatError, ConfigError, InputNotFoundError, RegistrationError


@dataclasses.dataclass(frozen=True, slots=True)
class ComposedFrame:
    """A frame with its reference.

    Attributes:
        image: ``(H, W, 3) uint8``: frame, reference, difference; see `lineside_models.reference.composition`.
        registration: Where the reference lies in the frame.
        number: Of the reference, from 0.
    """

    image: UInt8Array
    registration: Registration
    number: int


class ReferenceSet:
    """References of one product, prepared; thread-safe.

    Args:
        images: One or more, ``(H, W, 3) uint8`` BGR or ``(H, W) uint8`` grey.
        tolerances: One each, or ``None``; empty for none.

    Raises:
        ConfigError: There is no image, or the number of tolerances is another.
        BadInputFormatError: One is no image, or a tolerance has another size than its reference.
        RegistrationError: One shows nothing to register by.
    """

    def __init__(
        self,
        images: Sequence[UInt8Array],
        tolerances: Sequence[Tolerance | None] = (),
        limits: RegistrationLimits | None = None,
    ) -> None:
        if not images:
            raise ConfigError(
                "the bundle compares frames with a reference and has none",
                expected="an image of a good part",
                action="Give reference=, `lineside inspect --reference`, or make a bundle with it by "
                "`lineside learn-reference`.",
            )
        self.tolerances = tuple(tolerances) or (None,) * len(images)
        if len(self.tolerances) != len(images):
            raise ConfigError("tolerances", expected=f"{len(images)}, one a reference", actual=len(self.tolerances))
        self.templates = tuple(ReferenceTemplate(image, limits) for image in images)
        for template, tolerance in zip(self.templates, self.tolerances, strict=True):
            if tolerance is not None and tolerance.darkest.shape != template.grey.shape:
                raise ConfigError("tolerance", expected=f"the reference's size {template.size}", actual="another")

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> ReferenceSet:
        """Returns the references that travel in a bundle.

        Raises:
            ConfigError: There is none: it has to be given where frames are inspected.
            BundleFormatError: A file is no PNG.
            RegistrationError: One shows nothing to register by.
        """
        own = bundle.manifest.preprocess.reference
        if not isinstance(own, Reference):
            raise ConfigError(f"{bundle.manifest.identity} compares with no reference")
        tolerances = [
            Tolerance(_grey_png(bundle, each.darkest), _grey_png(bundle, each.brightest)) if each.darkest else None
            for each in own.images
        ]
        return cls([_grey_png(bundle, each.image) for each in own.images], tolerances, limits_of(own))

    def compose(self, frame: UInt8Array) -> ComposedFrame:
        """Registers a frame to each reference and composes it with the best.

        Args:
            frame: ``(H, W, 3) uint8`` BGR or ``(H, W) uint8`` grey.

        Raises:
            BadInputFormatError: It is no image.
            RegistrationError: It matches no reference; the reason is that of the last one.
        """
        number, registration = best_match(self.templates, frame)
        image = compose(frame, self.templates[number], registration, self.tolerances[number])
        return ComposedFrame(image, registration, number)


def best_match(templates: Sequence[ReferenceTemplate], frame: UInt8Array) -> tuple[int, Registration]:
    """Registers a frame to each reference.

    Returns:
        The number of the reference that it matches best, and where that lies in it.

    Raises:
        BadInputFormatError: It is no image.
        RegistrationError: It matches no reference; the reason is that of the last one.
    """
    matches: list[tuple[int, Registration]] = []
    refused = RegistrationError("there is no reference")
    for number, template in enumerate(templates):
        try:
            matches.append((number, template.register(frame)))
        except RegistrationError as error:  # noqa: PERF203  each is a frame's registration, of milliseconds
            refused = error
    if not matches:
        raise refused
    return max(matches, key=lambda each: each[1].quality)


def references_for(bundle: Bundle, given: Sequence[UInt8Array] = ()) -> ReferenceSet | None:
    """Returns the references of a bundle; ``None`` if its frames are not compared.

    Args:
        bundle: Says whether, and within which limits.
        given: References in place of those that travel in it.

    Raises:
        ConfigError: There are no references, or the bundle compares with none and some are given.
        BundleFormatError: A file is no PNG.
        RegistrationError: A reference shows nothing to register by.
    """
    own = bundle.manifest.preprocess.reference
    if isinstance(own, Reference):
        return ReferenceSet(given, limits=limits_of(own)) if given else ReferenceSet.of_bundle(bundle)
    if given:
        raise ConfigError(
            f"{bundle.manifest.identity} takes frames alone, and a reference is given",
            expected="a bundle that compares with references",
            action="`lineside learn-reference` makes one.",
        )
    return None


def is_composed_elsewhere(how: Preprocess) -> bool:
    """Returns whether frames are compared with references that do not travel in the bundle.

    Its golden input is an image that is composed already.
    """
    return isinstance(how.reference, Reference) and not how.reference.images


def composed(image: UInt8Array, bundle: Bundle) -> UInt8Array:
    """Returns an image as the bundle's pre-processing takes it: composed with the references in it, if it has some.

    A bundle whose references are given elsewhere gets its image as it is: it must be composed already.

    Raises:
        BundleFormatError: A reference is no PNG.
        RegistrationError: The image can't be compared with the references.
    """
    how = bundle.manifest.preprocess
    if not isinstance(how.reference, Reference) or is_composed_elsewhere(how):
        return image
    return _kept_ready(bundle).compose(image).image


@functools.lru_cache(maxsize=4)
def _kept_ready(bundle: Bundle) -> ReferenceSet:
    return ReferenceSet.of_bundle(bundle)


def limits_of(reference: Reference) -> RegistrationLimits:
    """Returns the limits that a manifest states."""
    return RegistrationLimits(
        shift=reference.max_shift, rotation_deg=reference.max_rotation_deg, quality=reference.min_quality
    )


def read_reference(path: Path) -> UInt8Array:
    """Reads a reference from an image file.

    Raises:
        InputNotFoundError: There is no such file.
        ConfigError: It is no image.
    """
    try:
        return np.asarray(decode_image(path.read_bytes()), np.uint8)
    except OSError as error:
        raise InputNotFoundError(f"reference {path}: {error.strerror}", action="Give an image file.") from error
    except ValueError as error:
        raise ConfigError(f"reference {path}: {error}", action="Give an image of a good part.") from error


def _grey_png(bundle: Bundle, relative: str) -> UInt8Array:
    try:
        return decode_png(bundle.file(relative).read_bytes(), grey=True)
    except ValueError as error:
        raise BundleFormatError(f"{bundle.manifest.identity}: {relative}: {error}") from error
