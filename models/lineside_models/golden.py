"""Golden input: checks that a bundle computes here what it computed where it was made."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from lineside_models.frame import Frame
from lineside_models.image_file import decode_png
from lineside_models.nlp.extraction.windows import TextWindows, batches
from lineside_models.preprocess import prepare
from lineside_models.recommendation.recommender import Recommender
from lineside_models.reference.reference_set import composed
from lineside_runtime.bundle import Bundle, Golden, TextForm
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import BundleFormatError, GoldenMismatchError
from lineside_runtime.files import write_atomic
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array

OTHER_LEVEL = (0.9, 0.5)
"""Least cosine similarity and largest error of a variant of another level than the recorded one's, such as one without
test-time augmentation, which computes something else by design: 0.97 and 0.25 for `surface-12`. Enough to notice a
device that computes nonsense.
"""

OTHER_WIDTH = (-1.0, float("inf"))
"""The same for another width: its outputs need only be numbers of the right shape."""

ARRAY_MAX_BYTES = 1 << 28
HEADER_MAX_BYTES = 10_000
TEXT_MAX_BYTES = 1 << 20
_FOLDER = "golden"


class GoldenReport(msgspec.Struct, frozen=True, kw_only=True):
    """Differences of the outputs from the expected ones.

    Attributes:
        cosine: Cosine similarity by output; 1 is equal.
        error: Mean absolute difference by output, as a share of the expected output's mean magnitude.
        used_device: Where it ran, such as ``ort/cpu:0``.
    """

    cosine: dict[str, float]
    error: dict[str, float]
    used_device: str


def replay(session: Session, bundle: Bundle) -> GoldenReport:
    """Runs the bundle's golden input and compares.

    Args:
        session: Has ``bundle`` loaded.
        bundle: Names the golden input and the expected outputs.

    Raises:
        GoldenMismatchError: An output is further away than the bundle allows, or `OTHER_LEVEL` for a variant of another
            level; the message has the figures.
        BundleFormatError: The bundle has no golden input, or it can't be read.
        RegistrationError: The golden input can't be compared with the bundle's references.
        DeviceError: No device could run it.
    """
    golden = bundle.manifest.golden
    if golden is None:
        raise BundleFormatError(f"{bundle.manifest.identity} has no golden input")
    prediction = session.warm_up(_inputs(session, bundle, golden))  # a cached result would prove nothing
    cosine: dict[str, float] = {}
    error: dict[str, float] = {}
    for name, file in golden.outputs.items():
        expected = read_array(bundle.file(file))
        cosine[name], error[name] = _compare(name, expected, prediction.outputs)
    report = GoldenReport(cosine=cosine, error=error, used_device=prediction.used_device)
    _judge(report, bundle, _limits(golden, bundle, session))
    return report


def _inputs(session: Session, bundle: Bundle, golden: Golden) -> dict[str, Array]:
    how, file = bundle.manifest.preprocess, bundle.file(golden.frame)
    if how.rows:
        try:
            request = decode_json(file.read_bytes(), type=RankingRequest)
        except msgspec.DecodeError as error:
            raise BundleFormatError(f"{file}: {error}") from error
        return Recommender(session).inputs(request.history, request.candidates)
    if isinstance(how.text, TextForm):
        return {how.input: text_input(_read_text(file), bundle)}
    tensor, _ = prepare(composed(read_png(file), bundle), how)
    return {how.input: tensor}


class RankingRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Golden input of a recommender.

    Attributes:
        history: Items, oldest first.
    """

    history: Annotated[tuple[str, ...], msgspec.Meta(max_length=1000)]
    candidates: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=1000)]


def record_ranking(session: Session, folder: Path, request: RankingRequest) -> Golden:
    """Ranks items, and writes request and scores into a bundle's folder, as `record` does with a frame."""
    inputs = Recommender(session).inputs(request.history, request.candidates)
    return _record(session, folder, inputs, "request.json", msgspec.json.encode(request))


def record(session: Session, folder: Path, frame: Frame) -> Golden:
    """Runs a frame, and writes it and the outputs into a bundle's folder.

    Args:
        session: Has the model loaded whose outputs are to be expected.
        folder: The folder of the bundle that is being built.
        frame: What a camera would give, with something to find in it.

    Returns:
        The entry for the manifest.

    Raises:
        DiskFullError: There is no room.
        DeviceError: No device could run it.
    """
    _, png = cv2.imencode(".png", frame.image)
    tensor, _ = prepare(composed(frame.image, session.bundle), session.manifest.preprocess)
    return _record(session, folder, {session.manifest.preprocess.input: tensor}, "frame.png", png.tobytes())


def record_text(session: Session, folder: Path, text: str) -> Golden:
    """Runs the first windows of a text, and writes it and the outputs into a bundle's folder, see `record`."""
    inputs = {session.manifest.preprocess.input: text_input(text, session.bundle)}
    return _record(session, folder, inputs, "text.txt", text.encode())


def text_input(text: str, bundle: Bundle) -> Array:
    """Returns the first windows of a text as the input of a model of texts, ``(N, T) int64``.

    Raises:
        BundleFormatError: The bundle's model takes no text, its tokenizer is damaged, or the text is empty.
        MissingExtraError: The package ``tokenizers`` is not installed.
    """
    form = bundle.manifest.preprocess.text
    if not isinstance(form, TextForm):
        raise BundleFormatError(f"{bundle.manifest.identity} takes no text")
    windows = TextWindows(bundle.file(form.tokenizer), form)(text)
    if not windows:
        raise BundleFormatError("the golden text is empty")
    return batches(windows)[0][1]


def _read_text(path: Path) -> str:
    if path.stat().st_size > TEXT_MAX_BYTES:
        raise BundleFormatError(f"{path}", expected=f"at most {TEXT_MAX_BYTES} bytes", actual=path.stat().st_size)
    return path.read_text(encoding="utf-8", errors="replace")


def _record(session: Session, folder: Path, inputs: dict[str, Array], name: str, content: bytes) -> Golden:
    (folder / _FOLDER).mkdir(parents=True, exist_ok=True)
    write_atomic(folder / _FOLDER / name, content)
    outputs: dict[str, str] = {}
    for output, array in session.predict(inputs).items():
        outputs[output] = f"{_FOLDER}/{output.replace('/', '_')}.npy"
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        write_atomic(folder / outputs[output], buffer.getvalue())
    return Golden(frame=f"{_FOLDER}/{name}", outputs=outputs, variant=session.variant)


def read_png(path: Path) -> npt.NDArray[np.uint8]:
    """Reads a PNG whose size was bounded before it is unpacked.

    Raises:
        BundleFormatError: It is no PNG, or has more than `lineside_models.image_file.PIXELS_MAX` pixels.
    """
    try:
        return decode_png(path.read_bytes())
    except ValueError as error:
        raise BundleFormatError(f"{path}: {error}") from error


def read_array(path: Path) -> Array:
    """Reads an ``.npy`` file: never a pickle, and never more than the file holds.

    Raises:
        BundleFormatError: It is too large, damaged, holds objects, or promises more than it holds.
    """
    size = path.stat().st_size
    if size > ARRAY_MAX_BYTES:
        raise BundleFormatError(f"{path}", expected=f"at most {ARRAY_MAX_BYTES} bytes", actual=f"{size} bytes")
    buffer = io.BytesIO(path.read_bytes())
    try:
        shape, dtype = _header(buffer)
        # numpy allocates what the header promises before it reads
        if dtype.hasobject or int(np.prod(shape, dtype=object)) * dtype.itemsize != size - buffer.tell():
            raise BundleFormatError(f"{path}", expected=f"{shape} {dtype}", actual=f"{size - buffer.tell()} bytes")
        buffer.seek(0)
        array: Array = np.load(buffer, allow_pickle=False, max_header_size=HEADER_MAX_BYTES)
    except (ValueError, EOFError, TypeError) as error:
        raise BundleFormatError(f"{path} is not an array: {error}") from error
    return array


def _header(buffer: io.BytesIO) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    version = np.lib.format.read_magic(buffer)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"version {version} of the format")
    shape, _, dtype = read(buffer, max_header_size=HEADER_MAX_BYTES)
    return shape, dtype


def _compare(name: str, expected: Array, outputs: dict[str, Array]) -> tuple[float, float]:
    actual = outputs.get(name)
    if actual is None or actual.shape != expected.shape:
        raise GoldenMismatchError(
            f"golden output {name!r}",
            expected=expected.shape,
            actual="no such output" if actual is None else actual.shape,
        )
    wanted, found = expected.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
    if np.array_equal(wanted, found):
        return 1.0, 0.0
    norms = float(np.linalg.norm(wanted) * np.linalg.norm(found))
    magnitude = float(np.abs(wanted).mean())
    cosine = float(wanted @ found) / norms if norms else 0.0
    return cosine, float(np.abs(wanted - found).mean()) / magnitude if magnitude else float("inf")


def _limits(golden: Golden, bundle: Bundle, session: Session) -> tuple[float, float]:
    variants = {one.name: one for one in bundle.manifest.variants}
    recorded, runs = variants.get(golden.variant), variants.get(session.variant)
    if recorded is not None and runs is not None:
        if (recorded.width or 1.0) != (runs.width or 1.0):
            return OTHER_WIDTH
        if recorded.level != runs.level:
            return OTHER_LEVEL
    return golden.min_cosine, golden.max_error


def _judge(report: GoldenReport, bundle: Bundle, limits: tuple[float, float]) -> None:
    cosine, error = limits
    # written so that NaN fails
    bad = [name for name in report.cosine if not (report.cosine[name] >= cosine and report.error[name] <= error)]
    if bad:
        figures = ", ".join(f"{name}: cosine {report.cosine[name]:.4f}, error {report.error[name]:.4f}" for name in bad)
        raise GoldenMismatchError(
            f"{bundle.manifest.identity} on {report.used_device} gives other outputs than where it was built",
            expected=f"cosine ≥ {cosine}, error ≤ {error}",
            actual=figures,
        )
