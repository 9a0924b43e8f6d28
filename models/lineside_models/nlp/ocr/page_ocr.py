"""An image of a page to words with boxes: orientation, skew, lines, words."""

from __future__ import annotations

import functools
import math
import re
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from lineside_models.nlp.document import Box
from lineside_models.nlp.ocr.networks import OcrModel, RecognitionModel
from lineside_models.nlp.ocr.text_detection import Quads, detect_lines, sides, skew_deg
from lineside_models.nlp.ocr.text_recognition import LineReader, LineWord
from lineside_runtime.config import Config

PIXELS_MAX = 6_000_000
"""A larger image is reduced first: A4 has 3.9 megapixels at 200 dpi."""

UNCONFIRMED = 0.5
"""Score of an identifier that two crops of its line disagree on."""

DOUBTFUL = 0.8
"""A line with a character of a lower probability is read twice. Chosen on receipts of the train fold: with 0.9 many
more lines are read twice, and hardly more are right."""

_IDENTIFIER = re.compile(r"(?=.*\d)[A-Z0-9][A-Z0-9/.-]{3,}")
_DECIMAL = re.compile(r"\d+[.]\d+")
_GROWN_SHARE = 0.12
"""Of a line's height, by which the second crop is larger on each side."""

SKEW_FROM_DEG = 0.3
_ORIENTATION_SIZE = (192, 48)
_ORIENTATION_LINES = 12
_ASPECT_MAX = 50.0
"""Of image and line: PP-OCR's memory grows with the longer side (RapidOCR, issue 538)."""

Image = npt.NDArray[np.uint8]


class PageWords(msgspec.Struct, frozen=True, kw_only=True):
    """What was read on an image.

    Attributes:
        width: Of the upright image in pixels.
        height: As the width.
        rotation: By how many degrees clockwise the image was turned: 0, 90, 180 or 270.
        skew_deg: By how many degrees anticlockwise it was then turned about its middle.
        words: Text, box in pixels of the upright image, and least probability of the word's characters.
    """

    width: int
    height: int
    rotation: int
    skew_deg: float
    words: tuple[tuple[str, Box, float], ...]


class TextLine(msgspec.Struct, frozen=True):
    """A line of text on an image.

    Attributes:
        text: Its words with single blanks between them.
        score: Least probability of its characters, 0 to 1.
        outline: Corners ``(x, y)`` in pixels of the image as it was given, clockwise from the upper left one of the
            upright text.
    """

    text: str
    score: float
    outline: tuple[tuple[float, float], ...]


class PageOcr:
    """Reads images of pages; each of the three networks is loaded once.

    Args:
        config: Where the networks may run; `Config()` if ``None``.
        networks: Folder with the three bundles; the shipped ones if ``None``.

    Raises:
        InputNotFoundError: This installation lacks the networks.
    """

    def __init__(self, config: Config | None = None, networks: Path | None = None) -> None:
        self._config, self._networks = config, networks
        self._detector = OcrModel("text-detection", config, networks)
        self._orientation = OcrModel("text-orientation", config, networks)

    @functools.cached_property
    def _recognizer(self) -> RecognitionModel:
        """The network that reads lines: loaded by the first page with text."""
        return RecognitionModel(self._config, self._networks)

    @functools.cached_property
    def _lines(self) -> LineReader:
        return LineReader(self._recognizer, self._recognizer.head)

    def read(self, image: Image) -> PageWords:
        """Reads one page.

        Args:
            image: ``(H, W) uint8`` grey. Pages in steps of 90 degrees and up to 20 degrees askew are turned upright.
        """
        height, width = image.shape
        image, scale = _bounded(image)
        quads, _ = detect_lines(image, self._detector)
        quads, lines, rotation, skew = self._read_found(image, quads)
        words = []
        for quad, line in zip(quads, lines, strict=True):
            low, high = quad.min(axis=0) / scale, quad.max(axis=0) / scale
            long = float(high[0] - low[0])
            for word in line:
                box = (
                    float(low[0]) + word.left * long,
                    float(low[1]),
                    float(low[0]) + word.right * long,
                    float(high[1]),
                )
                words.append((word.text, box, word.score))
        turned = rotation in (90, 270)
        return PageWords(
            width=height if turned else width,
            height=width if turned else height,
            rotation=rotation,
            skew_deg=skew,
            words=tuple(words),
        )

    def lines(self, image: Image) -> list[TextLine]:
        """Reads the lines of text of an image, such as a region of a frame.

        Args:
            image: As for `read`.
        """
        image, scale = _bounded(image)
        quads, _ = detect_lines(image, self._detector)
        _, lines, rotation, _ = self._read_found(image, quads)
        return [
            TextLine(
                text=" ".join(word.text for word in line),
                score=min(word.score for word in line),
                outline=tuple((float(x) / scale, float(y) / scale) for x, y in np.roll(quad, rotation // 90, axis=0)),
            )
            for quad, line in zip(quads, lines, strict=True)
            if line
        ]

    def _read_found(self, image: Image, quads: Quads) -> tuple[Quads, list[list[LineWord]], int, float]:
        """Turns an image upright and reads the lines that were found in it.

        Returns:
            The quadrilaterals in the upright image, the words of each line, by how many degrees clockwise the image was
            turned, and by how many anticlockwise then.
        """
        image, quads, rotation = self._upright(image, quads)
        image, quads, skew = _deskewed(image, quads)
        return quads, self._read_lines(image, quads), rotation, skew

    def _read_lines(self, image: Image, quads: Quads) -> list[list[LineWord]]:
        """Reads all lines, and those with identifiers or doubtful characters twice.

        The network is sure of some characters that it takes for others (8 and B, 0 and O). Another crop of the line
        gives it another chance, and the reading that it is surer of is right more often.
        """
        if not len(quads):
            return []
        lines = self._lines.read([cut_out(image, quad) for quad in quads])
        again = [at for at, line in enumerate(lines) if _is_read_twice(line)]
        seconds = self._lines.read([cut_out(image, _grown(quads[at])) for at in again])
        for at, second in zip(again, seconds, strict=True):
            lines[at] = _surer_reading(lines[at], _within(second, quads[at]))
        return lines

    def load(self) -> None:
        """Loads the network that reads lines, so that the first page with text need not wait for it."""
        _ = self._lines

    def close(self) -> None:
        """Frees the networks."""
        loaded = [self.__dict__["_recognizer"]] if "_recognizer" in self.__dict__ else []
        for one in (self._detector, self._orientation, *loaded):
            one.close()

    def _upright(self, image: Image, quads: Quads) -> tuple[Image, Quads, int]:
        """Turns the image so that lines run from left to right and stand upright."""
        if not len(quads):
            return image, quads, 0
        wide, high = sides(quads)
        rotation = 0
        if (high[high > wide] ** 2).sum() > (wide[wide >= high] ** 2).sum():  # most of the text is upright lines
            image, quads, rotation = *_turned(image, quads), 90
            wide, high = sides(quads)
        order = np.argsort(-wide * (wide > 1.5 * high))[:_ORIENTATION_LINES]
        lines = [
            cv2.resize(cut_out(image, quads[at]), _ORIENTATION_SIZE).astype(np.float32) / 127.5 - 1 for at in order
        ]
        batch = np.ascontiguousarray(np.broadcast_to(np.array(lines)[:, None], (len(lines), 3, *lines[0].shape)))
        if float(np.median(self._orientation(batch)[:, 1])) > 0.5:
            for _ in range(2):
                image, quads = _turned(image, quads)
            rotation += 180
        return image, quads, rotation


@functools.cache
def shared_ocr() -> PageOcr:
    """Returns the `PageOcr` of this process, loaded by the first call."""
    return PageOcr()


def _is_identifier(text: str) -> bool:
    """Whether a word is a number of a part, heat or order: digits with letters, or five digits without a separator."""
    word = text.strip(".,;:()")
    return bool(_IDENTIFIER.fullmatch(word)) and (not word.isdigit() or len(word) > 4) and not _DECIMAL.fullmatch(word)


def _is_read_twice(line: list[LineWord]) -> bool:
    return any(word.score < DOUBTFUL or _is_identifier(word.text) for word in line)


def _surer_reading(first: list[LineWord], second: list[LineWord]) -> list[LineWord]:
    """Returns the surer of two readings of a line; an identifier that only one of them has is doubtful."""
    line, other = (second, first) if _mean_probability(second) > _mean_probability(first) else (first, second)
    text = "".join(word.text for word in other)
    identifiers = [word for word in other if _is_identifier(word.text)]

    def is_checked(word: LineWord) -> bool:
        return _is_identifier(word.text) or any(one.left < word.right and word.left < one.right for one in identifiers)

    return [
        word
        if not is_checked(word) or word.text in text
        else msgspec.structs.replace(word, score=min(word.score, UNCONFIRMED))
        for word in line
    ]


def _mean_probability(line: list[LineWord]) -> float:
    """Returns the mean probability of a line's characters."""
    return sum(len(word.text) * word.mean for word in line) / max(1, sum(len(word.text) for word in line))


def _within(line: list[LineWord], quad: npt.NDArray[np.float32]) -> list[LineWord]:
    """Returns words of the crop that `_grown` makes, with their places in the line itself."""
    (wide,), (high,) = sides(quad[None])
    margin = _GROWN_SHARE * float(high) / max(float(wide), 1e-6)

    def place(share: float) -> float:
        return min(max(share * (1 + 2 * margin) - margin, 0.0), 1.0)

    return [msgspec.structs.replace(word, left=place(word.left), right=place(word.right)) for word in line]


def _grown(quad: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Returns a quadrilateral with a wider margin."""
    along, down = quad[1] - quad[0], quad[3] - quad[0]
    margin = _GROWN_SHARE * float(np.linalg.norm(down))
    x = margin * along / max(float(np.linalg.norm(along)), 1e-6)
    y = margin * down / max(float(np.linalg.norm(down)), 1e-6)
    return quad + np.array([-x - y, x - y, x + y, -x + y], np.float32)


def _bounded(image: Image) -> tuple[Image, float]:
    """Returns an image of bounded size and aspect, and its scale to the given one."""
    height, width = image.shape
    scale = min(1.0, math.sqrt(PIXELS_MAX / (height * width)))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    short = math.ceil(max(image.shape) / _ASPECT_MAX)
    down, right = max(0, short - image.shape[0]), max(0, short - image.shape[1])
    if down or right:
        image = np.asarray(cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_REPLICATE), np.uint8)
    return image, scale


def _turned(image: Image, quads: Quads) -> tuple[Image, Quads]:
    """Turns an image and its quadrilaterals by 90 degrees clockwise."""
    height = image.shape[0]
    moved = np.stack((height - quads[..., 1], quads[..., 0]), axis=-1)
    return np.asarray(cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE)), np.roll(moved, 1, axis=1)


def _deskewed(image: Image, quads: Quads) -> tuple[Image, Quads, float]:
    angle = skew_deg(quads) if len(quads) else 0.0
    if abs(angle) < SKEW_FROM_DEG:
        return image, quads, 0.0
    turned, matrix = turned_about_middle(image, angle)
    return turned, cv2.transform(quads, matrix).astype(np.float32), angle


def turned_about_middle(image: Image, degrees: float) -> tuple[Image, Any]:
    """Returns an image that was turned anticlockwise, of the same size, and the matrix for its points."""
    height, width = image.shape
    matrix: Any = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    turned = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(turned, np.uint8), matrix


def cut_out(image: Image, quad: npt.NDArray[np.float32]) -> Image:
    """Cuts a quadrilateral out as an upright rectangle ``(h, w)``."""
    wide, high = (max(1.0, float(side[0])) for side in sides(quad[None]))
    wide, high = min(wide, high * _ASPECT_MAX * 2), min(high, wide * _ASPECT_MAX)
    size = (max(1, round(wide)), max(1, round(high)))
    corners = np.array([[0, 0], [size[0], 0], [size[0], size[1]], [0, size[1]]], np.float32)
    matrix = cv2.getPerspectiveTransform(np.ascontiguousarray(quad, np.float32), corners)
    return np.asarray(
        cv2.warpPerspective(image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )
