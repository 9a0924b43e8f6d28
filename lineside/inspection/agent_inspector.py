"""`AgentInspector`: images inspected by a bundle of several models, loaded as an agent loads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from lineside_agent.config import InspectConfig
from lineside_agent.inspection.loaded_bundle import load
from lineside_models.frame import Frame
from lineside_models.inspection import Inspection
from lineside_models.inspector import FRAME_ERRORS
from lineside_models.multi_model import MultiModelInspector
from lineside_models.vision import ExaminedImage
from lineside_models.vision.heat import heat_of
from lineside_models.vision.images import Image, InputImage, input_images
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import BadInputFormatError, InputNotFoundError
from lineside_runtime.files import cache_folder


class AgentInspector:
    """Inspects images one by one, with the placement and rules of ``[inspect]``.

    Times of variants that are measured here are kept in the user's cache folder.

    Args:
        config: As in ``agent.toml``.

    Raises:
        ConfigError: The table does not fit the bundle.
        LinesideError: Nothing here can run one of the models.
    """

    def __init__(self, bundle: Bundle, config: InspectConfig) -> None:
        self._loaded = load("a", bundle, config, measured=cache_folder())

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models in the order in which they run."""
        return tuple(model.name for model in self._loaded.models)

    @property
    def thresholds(self) -> dict[str, float]:
        """Least score of a defect of each type."""
        return self._loaded.inspector.thresholds

    @property
    def variant(self) -> str:
        """Variants that run, joined by ``+``."""
        return self._loaded.variant

    @property
    def requested_device(self) -> str:
        """Processors that should run them, joined by ``+``."""
        return self._loaded.requested_device

    def inspect(self, frame: Frame) -> Inspection:
        """Inspects a frame.

        Raises:
            LinesideError: As `MultiModelInspector.inspect`.
        """
        return self._loaded.inspect(frame)

    def examine(self, images: Image | Iterable[Image]) -> Iterator[ExaminedImage]:
        """Yields each image with its verdict; continues after one that can't be read or shows no part.

        Args:
            images: As for `ImageInspector.examine`.
        """
        for given in input_images(images):
            yield self._examined(given)

    def _examined(self, given: InputImage) -> ExaminedImage:
        try:
            frame = given.frame()
        except (InputNotFoundError, BadInputFormatError) as error:
            return ExaminedImage(given.source, None, None, error)
        try:
            return ExaminedImage(given.source, frame, self.inspect(frame))
        except FRAME_ERRORS as error:
            return ExaminedImage(given.source, frame, None, error)

    def heat_map(self, image: Frame) -> npt.NDArray[np.float32] | None:
        """Returns the heat map of the model of good parts, ``(H, W) float32`` from 0 to 1; ``None`` without one for the
        whole frame.
        """
        inspector = self._loaded.inspector
        for entry, one in inspector.models if isinstance(inspector, MultiModelInspector) else ():
            if not entry.of and one.session.manifest.task == "anomaly":
                return heat_of(one, [image])
        return None

    def close(self) -> None:
        """Releases the devices."""
        self._loaded.close()

    def __enter__(self) -> AgentInspector:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()
