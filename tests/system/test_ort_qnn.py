"""A provider of ONNX Runtime that offers a device and takes no node: Qualcomm's on a processor of another maker.

In an environment of its own, so that the others' tests see the plain package only.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from typing import Any

import pytest

from tests.peers.environments import environment

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.version_info < (3, 11),
    reason="on an Arm processor of Qualcomm's the device may be real; the plug-in's wheels want Python 3.11",
)

CODE = """
import msgspec, sys
from lineside_runtime.system import probing
sys.stdout.buffer.write(msgspec.json.encode(probing.probe(("ort",), trial=True)[0]))
"""


@pytest.fixture(scope="module")
def told() -> Any:
    python = environment("ort-qnn", ["onnxruntime>=1.23,<2", "onnxruntime-qnn"])
    done = subprocess.run([python, "-c", CODE], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_a_device_that_takes_no_node_is_listed_as_unusable_with_its_reason(told: Any) -> None:
    qnn = [device for device in told["devices"] if device["name"].startswith("QNN")]
    assert qnn, "the plug-in no longer offers a device that it can't use: this test has lost its subject"
    assert all("backend" in device["unusable"] for device in qnn)


def test_the_processor_beside_it_stays_usable(told: Any) -> None:
    assert told["devices"][0]["device"] == "ort/cpu:0" and not told["devices"][0]["unusable"]
