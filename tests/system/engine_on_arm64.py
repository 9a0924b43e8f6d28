"""What `test_arm64_engines.py` runs under emulation: bundles on an engine, each on an input, outputs into a file.

python engine_on_arm64.py ENGINE BUNDLE INPUT.npy OUTPUTS.npz ...
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from lineside_runtime.config import Config
from lineside_runtime.session import Session

engine, words = sys.argv[1], sys.argv[2:]
for bundle, given, told in zip(words[::3], words[1::3], words[2::3], strict=True):
    with Session(bundle, Config(engines=(engine,), threads=1)) as session:
        outputs: Any = session.predict(np.load(given))
        np.savez(told, **outputs)
        print(session.used_device)
