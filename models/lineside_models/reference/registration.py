"""Registration of a frame to a reference: shift, rotation, and a small change of scale, coarse to fine.

::

    gradients at 192 px ─► phase correlation, one an angle ─► best of the peaks by correlation ─► ECC at 320 px (960 px)

ECC (Evangelidis and Psarakis 2008, doi:10.1109/TPAMI.2008.113; OpenCV's ``findTransformECC``) refines to a fraction of
a pixel. Its correlation is the quality: `benchmarks` (``reference``) has what pairs of one design and of two reach.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import cv2
import numpy as np
import numpy.typing as npt

from lineside_models.frame import UInt8Array
from lineside_models.preprocess import to_grey
from lineside_runtime.errors import RegistrationError

Floats = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]

COARSE_SIDE = 192
FINE_SIDES = (320, 960)
"""Long side of what ECC looks at, in pixels; the second only for frames that are larger than it."""

ROTATION_MAX_DEG = 6.0
SHIFT_MAX = 0.15
STRETCH_MAX = 0.02
"""Scale and shear beyond it are no motion of a part: where little texture is, ECC runs away."""

QUALITY_MIN = 0.6
"""Photographs of one place reach 0.88 or more, of two designs 0.40 at most (DeepPCB, benchmark ``reference``)."""

_STEP_DEG = 1.0
_PEAKS = 4
_ECC_ITERATIONS = (40, 8)
_ECC_PRECISION = 1e-4
_ECC_BLUR = 5
_AFFINE_ITERATIONS = 10
_AFFINE_GAIN = 1e-3
"""Correlation that scale and shear must add to be believed: rigid motions with noise gain less than 1e-4, pairs of
DeepPCB up to 0.06."""

_FLAT = 2.0
"""Standard deviation of grey values below which an image shows nothing to register by."""


@dataclasses.dataclass(frozen=True, slots=True)
class RegistrationLimits:
    """Largest displacement that is searched, and least quality.

    Attributes:
        shift: Of the centre, as a share of the long side.
        rotation_deg: To either side.
        quality: Least correlation of the frame and the registered reference, 0 to 1.
    """

    shift: float = SHIFT_MAX
    rotation_deg: float = ROTATION_MAX_DEG
    quality: float = QUALITY_MIN


@dataclasses.dataclass(frozen=True, slots=True)
class Registration:
    """Where the reference lies in a frame.

    Attributes:
        matrix: ``(2, 3) float64``: a pixel ``(x, y)`` of the reference is at ``matrix @ (x, y, 1)`` in the frame.
        quality: Correlation of the frame and the registered reference, -1 to 1.
        coverage: Share of the frame's pixels that the reference covers.
    """

    matrix: Matrix
    quality: float
    coverage: float

    @property
    def rotation_deg(self) -> float:
        """Rotation of the part in the frame, clockwise as seen."""
        return math.degrees(math.atan2(self.matrix[1, 0], self.matrix[0, 0]))

    @property
    def scale(self) -> float:
        """Size in the frame divided by size in the reference."""
        return math.sqrt(abs(float(np.linalg.det(self.matrix[:, :2]))))

    def shift_px(self, size: tuple[int, int]) -> tuple[float, float]:
        """Returns how far the centre of a reference of ``size`` (height, width) lies from its place, ``(x, y)``."""
        centre = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2, 1.0])
        x, y = self.matrix @ centre - centre[:2]
        return float(x), float(y)

    def place(self, image: UInt8Array) -> UInt8Array:
        """Returns an image of the reference's pixels as it lies in the frame; edges are continued beyond them."""
        return np.asarray(
            cv2.warpAffine(
                image,
                self.matrix,
                (image.shape[1], image.shape[0]),
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            ),
            np.uint8,
        )

    def covered(self, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Returns ``(H, W)`` of the frame's pixels that the reference covers, without those at its edge."""
        inside = np.zeros(size, np.uint8)
        inside[1:-1, 1:-1] = 255
        placed = cv2.warpAffine(inside, self.matrix, (size[1], size[0]), flags=cv2.INTER_NEAREST)
        return np.asarray(placed > 0, bool)


class ReferenceTemplate:
    """A reference image, prepared so that frames are registered to it; thread-safe.

    Args:
        image: ``(H, W, 3) uint8`` BGR or ``(H, W) uint8`` grey.

    Raises:
        BadInputFormatError: It is no image.
        RegistrationError: It shows nothing to register by.
    """

    def __init__(self, image: UInt8Array, limits: RegistrationLimits | None = None) -> None:
        self.grey = to_grey(image)
        self.limits = limits or RegistrationLimits()
        if self.grey.std() < _FLAT:
            raise RegistrationError("the reference shows nothing to register by", expected="an image with edges")
        size = self.size
        self._coarse_scale = min(1.0, COARSE_SIDE / max(size))
        height, width = (max(8, round(side * self._coarse_scale)) for side in size)
        self._coarse = _resized(self.grey, (height, width))
        self._window = cv2.createHanningWindow((width, height), cv2.CV_32F)
        limit = self.limits.rotation_deg
        steps = math.ceil(limit / _STEP_DEG)
        self._angles = np.linspace(-limit, limit, 2 * steps + 1) if steps else np.zeros(1)
        gradients = _gradients(self._coarse)
        self._spectra = [np.conj(_spectrum(_turned(gradients, float(angle)), self._window)) for angle in self._angles]
        self._reach = _reach(height, width, self.limits.shift * max(height, width))
        self._fine = tuple(
            _resized(self.grey, _fine_size(size, side))
            for side in FINE_SIDES
            if side < max(size) or side == FINE_SIDES[0]
        )

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels."""
        return int(self.grey.shape[0]), int(self.grey.shape[1])

    def register(self, frame: UInt8Array) -> Registration:
        """Finds the reference in a frame.

        Args:
            frame: ``(H, W, 3) uint8`` BGR or ``(H, W) uint8`` grey, in the reference's size.

        Raises:
            BadInputFormatError: It is no image.
            RegistrationError: It has another size, shows nothing, is displaced by more than the limits, or correlates
                too little; the message says which.
        """
        grey = to_grey(frame)
        if grey.shape != self.grey.shape:
            raise RegistrationError(
                "the frame has another size than the reference",
                expected=_size_text(self.grey),
                actual=_size_text(grey),
                action="Take the reference with the same camera settings as the frames.",
            )
        if grey.std() < _FLAT:
            raise RegistrationError("the frame shows nothing to register by", expected="an image with edges")
        matrix, quality = self._refined(grey, self._coarse_matrix(grey))
        found = Registration(matrix, quality, _coverage(matrix, self.size))
        self._check(found)
        return found

    def _coarse_matrix(self, grey: UInt8Array) -> Matrix:
        """Returns the best of the peaks of phase correlation at all angles, in pixels of the frame."""
        size = (self._coarse.shape[0], self._coarse.shape[1])
        coarse = _resized(grey, size)
        spectrum = _spectrum(_gradients(coarse), self._window)
        peaks = []
        for angle, reference in zip(self._angles.tolist(), self._spectra, strict=True):
            cross = spectrum * reference
            response = np.fft.irfft2(cross / (np.abs(cross) + 1e-9), s=size).astype(np.float32)
            smooth = cv2.GaussianBlur(response, (0, 0), 1.0) * self._reach
            row, column = np.unravel_index(int(smooth.argmax()), size)
            shift = tuple(
                int(at) - (side if at > side / 2 else 0) for at, side in zip((column, row), size[::-1], strict=True)
            )
            peaks.append((float(smooth[row, column]), angle, shift))
        best = [_rigid(size, angle, shift) for _, angle, shift in sorted(peaks, reverse=True)[:_PEAKS]]
        best.append(_rigid(size, 0.0, (0, 0)))
        matrix = max(best, key=lambda each: _correlation(coarse, self._coarse, each))
        return _scaled(matrix, 1 / self._coarse_scale)

    def _refined(self, grey: UInt8Array, matrix: Matrix) -> tuple[Matrix, float]:
        """Returns the matrix after ECC, rigid first, with scale and shear where these are real."""
        quality, scale = -1.0, 1.0
        template, image = self._fine[0], grey
        try:
            for template, iterations in zip(self._fine, _ECC_ITERATIONS, strict=False):
                scale = template.shape[1] / grey.shape[1]
                image = _resized(grey, (template.shape[0], template.shape[1]))
                quality, found = _ecc(template, image, _scaled(matrix, scale), cv2.MOTION_EUCLIDEAN, iterations)
                matrix = _scaled(found, 1 / scale)
        except cv2.error as error:  # StsNoConv: the images are uncorrelated, or do not overlap
            raise RegistrationError(
                "the frame does not show the reference: nothing in it correlates", expected="a frame of this product"
            ) from error
        try:
            free, found = _ecc(template, image, _scaled(matrix, scale), cv2.MOTION_AFFINE, _AFFINE_ITERATIONS)
        except cv2.error:  # it ran away: the rigid motion stands
            return matrix, quality
        stretch = np.abs(np.linalg.svd(found[:, :2], compute_uv=False) - 1).max()
        if free > quality + _AFFINE_GAIN and stretch <= STRETCH_MAX:
            return _scaled(found, 1 / scale), free
        return matrix, quality

    def _check(self, found: Registration) -> None:
        limits = self.limits
        x, y = found.shift_px(self.size)
        shift = math.hypot(x, y) / max(self.size)
        if not found.quality >= limits.quality:
            raise RegistrationError(
                "the frame does not show the reference",
                expected=f"correlation ≥ {limits.quality:.2f}",
                actual=f"{found.quality:.2f}",
            )
        for name, most, value in (
            ("shifted", limits.shift, shift),
            ("rotated", limits.rotation_deg, abs(found.rotation_deg)),
        ):
            if not value <= most:
                unit = "°" if name == "rotated" else " of its size"
                raise RegistrationError(
                    f"the part is {name} too far", expected=f"at most {most:g}{unit}", actual=f"{value:.3g}{unit}"
                )


def _ecc(template: UInt8Array, image: UInt8Array, begin: Matrix, motion: int, iterations: int) -> tuple[float, Matrix]:
    """Returns correlation and matrix.

    Raises:
        cv2.error: It does not converge.
    """
    until = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, iterations, _ECC_PRECISION)
    quality, found = cv2.findTransformECC(template, image, begin.astype(np.float32), motion, until, None, _ECC_BLUR)
    return float(quality), np.asarray(found, np.float64)


def _size_text(image: UInt8Array) -> str:
    return f"{image.shape[1]} × {image.shape[0]} px"


def _fine_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    scale = min(1.0, side / max(size))
    return max(8, round(size[0] * scale)), max(8, round(size[1] * scale))


def _resized(image: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    if image.shape[:2] == size:
        return image
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA), np.uint8)


def _gradients(image: UInt8Array) -> Floats:
    """Returns the magnitude of the gradient: it is the same where the light is another."""
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.0)
    return np.asarray(
        cv2.magnitude(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)), np.float32
    )


def _spectrum(values: Floats, window: npt.NDArray[np.generic]) -> npt.NDArray[np.complexfloating]:
    return np.fft.rfft2((values - values.mean()) * window)


def _rigid(size: tuple[int, int], angle_deg: float, shift: tuple[int, ...]) -> Matrix:
    height, width = size
    matrix = np.asarray(cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle_deg, 1.0), np.float64)
    matrix[:, 2] += shift
    return matrix


def _turned(values: Floats, angle_deg: float) -> Floats:
    size = (values.shape[0], values.shape[1])
    return np.asarray(cv2.warpAffine(values, _rigid(size, angle_deg, (0, 0)), size[::-1]), np.float32)


def _scaled(matrix: Matrix, scale: float) -> Matrix:
    """Returns the transform of images that are resized by ``scale``; pixels have their centres at whole numbers."""
    centre = (scale - 1) / 2
    offset = np.array([centre, centre])
    linear = matrix[:, :2]
    return np.hstack([linear, (scale * matrix[:, 2] + offset - linear @ offset)[:, None]])


@functools.lru_cache(maxsize=8)
def _reach(height: int, width: int, most: float) -> Floats:
    """Returns ``(height, width)``: 1 for shifts up to ``most`` px, else 0; shifts wrap around."""
    rows = np.minimum(np.arange(height), height - np.arange(height))
    columns = np.minimum(np.arange(width), width - np.arange(width))
    reach = np.asarray(np.hypot(rows[:, None], columns[None]) <= most + 1, np.float32)
    reach.setflags(write=False)
    return reach


def _correlation(image: UInt8Array, reference: UInt8Array, matrix: Matrix) -> float:
    """Returns the correlation of an image and the placed reference; what lies outside is continued and counts."""
    placed = cv2.warpAffine(reference, matrix, image.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    one, two = (cv2.GaussianBlur(each, (0, 0), 1.5) for each in (image, placed))
    return float(cv2.matchTemplate(one, two, cv2.TM_CCOEFF_NORMED)[0, 0])


def _coverage(matrix: Matrix, size: tuple[int, int]) -> float:
    height, width = size
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], np.float64)
    frame = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    area, _ = cv2.intersectConvexConvex((corners @ matrix.T).astype(np.float32), frame)
    return min(1.0, float(area) / (height * width))
