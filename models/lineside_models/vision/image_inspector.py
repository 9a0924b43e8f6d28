"""`ImageInspector`: images in, defect types and locations out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from lineside_models import zoo
from lineside_models.frame import Frame
from lineside_models.inspection import Inspection
from lineside_models.inspector import FRAME_ERRORS, Inspector
from lineside_models.verdict.regions import Region
from lineside_models.verdict.rules import OTHERS, Rules, read_rules
from lineside_models.vision.batch_workers import BatchWorkers
from lineside_models.vision.heat import heat_of
from lineside_models.vision.images import Image, InputImage, frames, input_images
from lineside_models.vision.model_facts import ModelFacts, from_arguments
from lineside_runtime.bundle import Bundle, Postprocess, Preprocess, open_bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import (
    BadInputFormatError,
    ConfigError,
    InputNotFoundError,
    LinesideError,
    MissingExtraError,
    UnsupportedModelError,
)
from lineside_runtime.session import ARCHIVE_SUFFIX, Session
from lineside_runtime.tensors import Array

if TYPE_CHECKING:
    from lineside_models.identification.expected_values import ExpectedValues

SHIPPED = Path(__file__).parent.parent / "zoo" / "surface-12"
"""The detector that comes with lineside."""

AT_ONCE = 4
"""Images that one core takes at a time: enough to share what a call costs, few enough that no core waits long."""

AHEAD = 8
"""Images that wait for each core, read or not, and verdicts that wait to be taken."""

TORCH_SUFFIXES = frozenset({".pt", ".pth"})

ImportPt = Callable[[Path, bool], Path]
"""Takes a ``.pt`` file and whether it is trusted; gives an ONNX file in a new folder, which is removed after use."""


@dataclasses.dataclass(frozen=True, slots=True)
class ExaminedImage:
    """An image with its verdict or error.

    Attributes:
        source: The file's path; empty for an array.
        frame: Its pixels; ``None`` if it could not be read.
        inspection: The verdict; ``None`` if there is an error.
        error: Why it could not be read or judged.
    """

    source: str
    frame: Frame | None
    inspection: Inspection | None
    error: LinesideError | None = None


class ImageInspector:
    """Finds defects in images.

    ::

        with ImageInspector() as inspector:
            for verdict in inspector.predict("photos/"):
                print(verdict.part_id, verdict.passed, verdict.detections)
    """

    def __init__(
        self,
        model_path: Path | str | None = None,
        confidence_threshold: float | None = None,
        batch_size: int = 16,
        *,
        config: Config | None = None,
        regions: Sequence[Region | Mapping[str, Any]] = (),
        rules: Rules | Mapping[str, Any] | None = None,
        reference: Image | Sequence[Image] = (),
        expected_values: Path | str | None = None,
        labels: Sequence[str] | None = None,
        preprocess: Preprocess | Mapping[str, Any] | None = None,
        postprocess: Postprocess | Mapping[str, Any] | None = None,
        trust: bool = False,
        import_pt: ImportPt | None = None,
    ) -> None:
        """Opens and loads the model.

        Args:
            model_path: A bundle's folder, the name of a shipped one, a ``.lsb``, ``.onnx`` or ``.pt`` file; ``None``
                for the shipped detector.
            confidence_threshold: Least score of a defect, 0 to 1; if not given, the bundle's own, by type: they were
                chosen for what a miss and a false reject cost.
            batch_size: At most so many images of one size go through the model at once.
            config: Where it may run.
            regions: Where on the frame defects count: polygons or masks to inspect or to ignore.
            rules: What else turns findings into a verdict: thresholds and bands of doubt by type, least sizes, slicing.
                A threshold in them comes before ``confidence_threshold``.
            reference: Images of good parts to compare with, in place of those in the bundle; for bundles that compare.
            expected_values: File or folder with what the marks of each part must say (`ExpectedValues`), for rules in
                ``read`` that agree with a field.
            labels: Class names of a bare ``.onnx`` or ``.pt``, in the order of its outputs.
            preprocess: How an image becomes the input of a bare model.
            postprocess: How the outputs of a bare model become detections.
            trust: Read a ``.pt`` although reading it can run code from it: only for files that you made yourself.
            import_pt: Turns a ``.pt`` into ONNX; `lineside.vision.ImageInspector` brings it.

        Raises:
            InputNotFoundError: There is no such model.
            UnsupportedModelError: A file of a kind that is not known.
            MissingModelFactsError: A bare model doesn't say its labels, pre-processing or post-processing.
            UnsafeModelError: Reading a ``.pt`` could run code, and ``trust`` was not said.
            MissingExtraError: A ``.pt`` needs torch, which isn't installed.
            ConfigError: A value out of range.
            MarkError: There are no expected values at the path, or they are malformed.
        """
        self._rules = _rules_of(_checked_threshold(confidence_threshold), regions, rules)
        self._batch_size = _checked_batch_size(batch_size)
        self._expected = _expected_of(expected_values)
        self._references = [frame.image for frame in frames(reference)] if _is_given(reference) else []
        self._resources = ExitStack()
        try:
            given = from_arguments(labels, preprocess, postprocess)
            path = SHIPPED if model_path is None else zoo.find(model_path)
            self._load(self._source(path, given, trust, import_pt or self._import_pt), config)
        except BaseException:
            self._resources.close()
            raise

    def _load(self, source: Bundle | Path, config: Config | None) -> None:
        self.session = self._resources.enter_context(Session(source, config))
        self._inspector = self._inspector_on(self.session)
        self._workers = BatchWorkers(self._inspector, self._inspector_on, self._judge)
        self._resources.callback(self._workers.close)

    def predict(self, images: Image | Iterable[Image]) -> list[Inspection]:
        """Inspects images.

        Args:
            images: A path, a folder, an array ``(H, W, 3) uint8`` BGR or ``(H, W) uint8``, a `Frame`, or a list of
                these.

        Returns:
            One verdict an image, in their order.

        Raises:
            InputNotFoundError: A path is not there, or a folder holds no image.
            BadInputFormatError: Something is no image.
            DeviceError: Every device failed.
        """
        return list(self.stream(images))

    def stream(self, images: Image | Iterable[Image]) -> Iterator[Inspection]:
        """Like `predict`, but yields each verdict as soon as it is ready.

        Several images are read and judged at once, one a core: not more than `AHEAD` of them for each core wait to be
        taken, so that a folder of any length needs little memory. A lone image has all cores to itself.

        Args:
            images: As for `predict`, or an endless iterable.

        Yields:
            One verdict an image, in their order.
        """
        for each in self.examine(images):
            if each.error is not None:
                raise each.error
            if each.inspection is not None:
                yield each.inspection

    def examine(self, images: Image | Iterable[Image]) -> Iterator[ExaminedImage]:
        """Like `stream`, with each image's pixels; continues after an image that can't be read.

        Args:
            images: As for `stream`.

        Yields:
            An image each, in their order.
        """
        size = min(self._batch_size, AT_ONCE)
        source = input_images(images)
        batches = iter(lambda: list(islice(source, size)), [])
        for examined in self._workers.run(batches, ahead=max(1, AHEAD // size)):
            yield from examined

    def preprocess(self, images: Image | Iterable[Image]) -> Array:
        """Returns the model's input for `Session.predict`: one batch ``(N, C, H, W)``.

        Raises:
            InputNotFoundError: A path is not there, or a folder holds no image.
            BadInputFormatError: Something is no image, or the images become tensors of different sizes.
        """
        tensors = [self._inspector.prepare(frame) for frame in frames(images)]
        shapes = sorted({tensor.shape for tensor in tensors})
        if len(shapes) != 1:
            raise BadInputFormatError(
                "the images don't fit one batch",
                expected="images of one size",
                actual=shapes,
                action="Give them apart.",
            )
        return np.concatenate(tensors)

    def heat_map(self, image: Image) -> npt.NDArray[np.float32]:
        """Returns the distance of each pixel of one image from good parts, by an anomaly model.

        Returns:
            ``(H, W) float32``, 0 to 1, in the image's pixels.

        Raises:
            ConfigError: The model is of another task, which has no such map.
            InputNotFoundError: A path is not there.
            BadInputFormatError: It is no image, or more than one.
            DeviceError: Every device failed.
        """
        return heat_of(self._inspector, list(islice(frames(image), 2)))

    def close(self) -> None:
        """Releases the device and removes temporary files; idempotent."""
        self._resources.close()

    def __enter__(self) -> ImageInspector:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def _inspector_on(self, session: Session) -> Inspector:
        return Inspector(
            session,
            batch_size=self._batch_size,
            rules=self._rules,
            references=self._references,
            expected=self._expected,
        )

    def _judge(self, inspector: Inspector, batch: list[InputImage]) -> list[ExaminedImage]:
        read = [_read(each) for each in batch]
        frames = [frame for frame, _ in read if frame is not None]
        results = iter(_inspected(inspector, frames))
        examined = []
        for each, (frame, error) in zip(batch, read, strict=True):
            verdict, fault = (None, error) if frame is None else next(results)
            examined.append(ExaminedImage(each.source, frame, verdict, fault))
        return examined

    def _source(self, path: Path, given: ModelFacts, trust: bool, import_pt: ImportPt) -> Bundle | Path:
        if path == SHIPPED and not path.exists():
            raise InputNotFoundError("this build of lineside ships no model", action="Give model_path.")
        if path.is_dir() or path.suffix == ARCHIVE_SUFFIX:
            if given != ModelFacts():
                raise ConfigError(
                    "labels, preprocess and postprocess", expected="none of them with a bundle, which brings its own"
                )
            return open_bundle(path) if path.is_dir() else path
        if not path.is_file():
            raise InputNotFoundError(f"no model at {path}", action="Give a bundle, an .onnx or a .pt file.")
        return self._wrapped(path, given, trust, import_pt)

    def _wrapped(self, path: Path, given: ModelFacts, trust: bool, import_pt: ImportPt) -> Bundle:
        import shutil  # these are for bare models: 1 MB and 10 ms
        import tempfile

        from lineside_models.vision.onnx_bundle import wrap_onnx

        folder = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="lineside-model-")))
        if path.suffix in TORCH_SUFFIXES:
            imported = import_pt(path, trust)
            try:
                return wrap_onnx(imported, folder, given, origin=path)
            finally:
                shutil.rmtree(imported.parent, ignore_errors=True)
        if path.suffix == ".onnx":
            return wrap_onnx(path, folder, given)
        raise UnsupportedModelError(f"model {path}", expected="a bundle's folder, .lsb, .onnx or .pt")

    def _import_pt(self, path: Path, trust: bool) -> Path:
        raise MissingExtraError(
            f"{path} needs torch, which a device doesn't carry",
            action="On a host, run pip install 'lineside[train]' and use lineside.vision.QualityInspector; "
            "for a device, make a bundle of it with lineside.Optimizer.",
        )


def _rules_of(
    threshold: float | None, regions: Sequence[Region | Mapping[str, Any]], rules: Rules | Mapping[str, Any] | None
) -> Rules:
    """Joins threshold, regions and rules of a caller.

    Raises:
        ConfigError: One of them is unknown, of a wrong type or out of range.
    """
    if isinstance(rules, Rules):
        rules = msgspec.structs.asdict(rules)
    given = dict(rules or {})
    if given.get("confidence_threshold") is None and OTHERS not in given.get("thresholds", {}):
        given["confidence_threshold"] = threshold
    if regions:
        given["regions"] = [*given.get("regions", ()), *regions]
    return read_rules(given)


def _expected_of(path: Path | str | None) -> ExpectedValues | None:
    if path is None:
        return None
    from lineside_models.identification.expected_values import ExpectedValues  # only who compares pays for it

    expected = ExpectedValues(path)
    expected.check()
    return expected


def _is_given(reference: Image | Sequence[Image]) -> bool:
    return isinstance(reference, (str, np.ndarray, Path, Frame)) or len(reference) > 0


def _read(given: InputImage) -> tuple[Frame | None, LinesideError | None]:
    try:
        return given.frame(), None
    except (InputNotFoundError, BadInputFormatError) as error:
        return None, error


def _inspected(inspector: Inspector, frames: Sequence[Frame]) -> list[tuple[Inspection | None, LinesideError | None]]:
    """Returns the verdict on each frame, or why that one can't be judged."""
    if not frames:
        return []
    try:
        return [(verdict, None) for verdict in inspector.inspect_batch(frames)]
    except FRAME_ERRORS as error:
        if len(frames) == 1:
            return [(None, error)]
    return [result for frame in frames for result in _inspected(inspector, [frame])]


def _checked_threshold(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ConfigError("confidence_threshold", expected="None or a number 0 to 1", actual=repr(value))
    return float(value)


def _checked_batch_size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError("batch_size", expected="an integer of at least 1", actual=repr(value))
    return value
