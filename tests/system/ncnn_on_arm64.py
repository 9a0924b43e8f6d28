"""What `test_arm64.py` runs under emulation: ncnn bundles, each on an input, outputs into a file.

python ncnn_on_arm64.py BUNDLE INPUT.npy OUTPUTS.npz ...
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from lineside_runtime.config import Config
from lineside_runtime.session import Session

for bundle, given, told in zip(sys.argv[1::3], sys.argv[2::3], sys.argv[3::3], strict=True):
    with Session(bundle, Config(engines=("ncnn",), threads=1)) as session:
        outputs: Any = session.predict(np.load(given))
        np.savez(told, **outputs)
        print(session.used_device)
