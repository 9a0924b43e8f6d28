"""Heat map of one frame: its distance from good parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lineside_models.frame import Frame
from lineside_models.inspector import Inspector
from lineside_models.postprocess import heat_map
from lineside_models.preprocess import prepare
from lineside_runtime.errors import BadInputFormatError, ConfigError


def heat_of(inspector: Inspector, frames: Sequence[Frame]) -> npt.NDArray[np.float32]:
    """Returns the heat map of the frame, ``(H, W) float32`` from 0 to 1.

    Raises:
        ConfigError: The bundle is of another task.
        BadInputFormatError: There is not exactly one frame.
        RegistrationError: The frame can't be compared with the reference.
        DeviceError: Every device failed.
    """
    with inspector.session.pinned() as pinned:
        manifest = pinned.manifest
        if manifest.task != "anomaly":
            raise ConfigError(
                f"{manifest.identity} has no heat map",
                expected="a bundle of the task anomaly",
                actual=manifest.task,
                action="`lineside learn-good` and `lineside learn-reference` make one.",
            )
        if len(frames) != 1:
            raise BadInputFormatError("a heat map is of one image", expected=1, actual=len(frames), action="")
        tensor, letterbox = prepare(inspector.compose(frames[0], pinned.bundle), manifest.preprocess)
        prediction = pinned.infer({manifest.preprocess.input: tensor})
    return heat_map(prediction.outputs, manifest.postprocess.params, letterbox)
