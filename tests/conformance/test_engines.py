"""Every engine that is here is put through what every engine must do; so would a third party's be, by its own tests."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lineside_runtime import registry
from lineside_runtime.conformance import CHECKS, NETWORKS, Check, EngineSubject, NotApplicable, subject, title
from lineside_runtime.conformance.checks import loading
from lineside_runtime.errors import NoDeviceError

NUMPY_ENGINE = Path(__file__).parents[1] / "runtime" / "engine"

KEEPS_CORES = "it keeps to the cores that it is given"
NO_CPU = {"with one thread it keeps one processor busy", KEEPS_CORES}
EIGHT_BITS, ANY_ORDER = "it computes in eight bits what the network says", "it takes the inputs in any order"
ONE_NETWORK = {EIGHT_BITS, ANY_ORDER}
TOGETHER = {"several models at once do not mix", "several threads at once get each its own answer"}
OF_EACH_NETWORK = {"it computes what the network says", EIGHT_BITS, ANY_ORDER}

SUBJECTS: dict[tuple[str, str], set[str]] = {
    ("ort", "cpu:0"): set(),
    ("openvino", "cpu:0"): set(),
    ("litert", "cpu:0"): set(),
    ("ncnn", "cpu:0"): set(),
    ("ncnn", "gpu:0"): NO_CPU,
    ("mnn", "cpu:0"): set(),
    ("torch", "cpu:0"): set(),
    ("numpy", "npu:0"): NO_CPU | ONE_NETWORK,
    ("numpy", "gpu:0"): NO_CPU | ONE_NETWORK,
}
"""Engine and device to the checks that can't apply; any other that says so fails."""

KNOWN_FAILURES = {
    ("openvino", "it keeps to the cores that it is given"): "once a model without cores has run in the process, "
    "OpenVINO 2026.4 moves the caller's thread back to all cores, and its workers are on all of them anyway",
}


@pytest.fixture(scope="module", autouse=True)
def numpy_engine() -> Iterator[None]:
    """The third party's, found through its entry point."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(NUMPY_ENGINE))
        importlib.invalidate_caches()
        yield
    registry._loaded.pop("numpy", None)
    sys.modules.pop("lineside_numpy_engine", None)


SLOW = ("ncnn", "gpu:0")
"""Vulkan on a processor, where a load takes 60 ms: what does not depend on the network is tried with one or two."""


@functools.cache
def found(engine: str, device: str) -> EngineSubject | NoDeviceError:
    try:
        return subject(engine, device)
    except NoDeviceError as error:
        return error


def cases() -> Iterator[Any]:
    for engine, device in SUBJECTS:
        for check in CHECKS:
            why = KNOWN_FAILURES.get((engine, title(check)))
            marks = [pytest.mark.xfail(strict=True, reason=why)] if why else []
            yield pytest.param(engine, device, check, id=f"{engine}/{device}: {title(check)}", marks=marks)


@pytest.mark.parametrize(("engine", "device", "check"), list(cases()))
def test_it_conforms(engine: str, device: str, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "CYCLES_MAX_S", 0.2)  # of Vulkan on a processor
    one = found(engine, device)
    if isinstance(one, NoDeviceError):
        if (engine, device) == SLOW:
            pytest.skip(f"no Vulkan driver here, install mesa-vulkan-drivers: {one}")
        raise one
    if (engine, device) == SLOW and title(check) not in OF_EACH_NETWORK:
        names = {"conv", "pair"} if title(check) in TOGETHER else {"pair"}
        one = dataclasses.replace(one, models=tuple(each for each in one.models if each.network.name in names))
    try:
        assert check(one)
    except NotApplicable as reason:
        if title(check) == KEEPS_CORES and len(os.sched_getaffinity(0)) == 1:
            pytest.skip(str(reason))
        assert title(check) in SUBJECTS[engine, device], reason
    else:
        assert title(check) not in SUBJECTS[engine, device]


def test_all_networks_are_tried_on_the_engines_that_read_any() -> None:
    for engine, device in SUBJECTS:
        one = found(engine, device)
        if isinstance(one, EngineSubject):
            read = [model.network.name for model in one.models]
            assert read == (["scale", "fixed"] if engine == "numpy" else [network.name for network in NETWORKS])
            assert len(one.refused) == (3 if engine == "numpy" else 0)
