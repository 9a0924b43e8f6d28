"""Turn off the telemetry of engines, which report to their vendors what a device runs.

The wheels of ONNX Runtime do so from 1.29 on: a thread sends events over HTTPS, and keeps them and an identifier of the
device in a database in ``~/.cache/Microsoft``
(https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md, microsoft/onnxruntime#27379). Beside the traffic
and the writes that costs 3 MB, and 1 kB for each session that is loaded. OpenVINO reports each import to Google
Analytics by the package ``openvino_telemetry``, NNCF each call, and does without where that can't be imported
(``openvino/tools/ovc/telemetry_utils.py``, ``nncf/telemetry/wrapper.py``).
"""

from __future__ import annotations

import os
import sys

ORT_VARIABLE = "ORT_DISABLE_TELEMETRY"
_OPENVINO_PACKAGE = "openvino_telemetry"


def turn_off() -> None:
    """Turns it off in this process and its children; must come before an engine is imported.

    A user's own setting of `ORT_VARIABLE` stays.
    """
    os.environ.setdefault(ORT_VARIABLE, "1")
    sys.modules.setdefault(_OPENVINO_PACKAGE, None)  # type: ignore[arg-type]  # so Python marks what must not be imported
