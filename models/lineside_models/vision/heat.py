"""Heat map of one frame: its distance from good parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lineside_models.frame import Frame
from lineside_models.postprocess import heat_map
from lineside_models.preprocess import prepare
from lineside_models.reference.reference_set import composed
from lineside_runtime.errors import BadInputFormatError, ConfigError
from lineside_runtime.session import Session


def heat_of(session: Session, frames: Sequence[Frame]) -> npt.NDArray[np.float32]:
    """Returns the heat map of the frame, ``(H, W) float32`` from 0 to 1.

    Raises:
        ConfigError: The bundle is of another task.
        BadInputFormatError: There is not exactly one frame.
        DeviceError: Every device failed.
    """
    with session.pinned() as pinned:
        manifest = pinned.manifest
        if manifest.task != "anomaly":
            raise ConfigError(
                f"{manifest.identity} has no heat map",
                expected="a bundle of the task anomaly",
                actual=manifest.task,
                action="`lineside learn-good` makes one.",
            )
        if len(frames) != 1:
            raise BadInputFormatError("a heat map is of one image", expected=1, actual=len(frames), action="")
        tensor, letterbox = prepare(composed(frames[0].image, pinned.bundle), manifest.preprocess)
        prediction = pinned.infer({manifest.preprocess.input: tensor})
    return heat_map(prediction.outputs, manifest.postprocess.params, letterbox)
