from __future__ import annotations

import importlib
import inspect
import json
import pickle
import re
import sys

import pytest

from lineside_runtime import errors, registry
from lineside_runtime.errors import (
    DeviceError,
    DiskFullError,
    InputError,
    LinesideError,
    OutOfDeviceMemoryError,
    reason_of,
)
from tests.docs.errors import TITLES, classes

CLASSES: list[type[LinesideError]] = [LinesideError, *classes()]


def test_each_class_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in CLASSES]
    assert len(set(codes)) == len(codes)
    assert all("code" in vars(kind) for kind in CLASSES)


def test_a_code_lies_in_its_parents_thousand() -> None:
    for kind in CLASSES:
        for family in LinesideError.__subclasses__():
            if issubclass(kind, family):
                assert kind.code // 1000 == family.code // 1000, kind


def test_the_docstring_shows_every_family_with_its_codes() -> None:
    families = {kind.__name__: kind.code // 1000 for kind in LinesideError.__subclasses__() if kind in CLASSES}
    shown = re.findall(r"(\w+Error)  +(\d)(?:xxx|\d{3}) ", errors.__doc__ or "")
    assert {name: int(family) for name, family in shown} == families


def test_the_codes_that_the_customer_catches() -> None:
    assert issubclass(OutOfDeviceMemoryError, DeviceError)
    assert OutOfDeviceMemoryError.code == 1001
    assert issubclass(errors.BadInputFormatError, InputError)
    assert errors.BadInputFormatError.code == 2003


def test_the_text_has_code_expected_actual_and_what_to_do() -> None:
    error = OutOfDeviceMemoryError("full", expected="1 MB", actual="2 MB")
    assert str(error).startswith("[1001] full; expected 1 MB; got 2 MB. ")
    assert "reload(optimization_level=2)" in str(error)
    assert str(LinesideError("plain")) == "[0] plain"
    assert str(OutOfDeviceMemoryError("full", action="")) == "[1001] full"
    assert str(LinesideError("no such camera.", action="Plug it in.")) == "[0] no such camera. Plug it in."


def test_an_error_inside_the_message_of_another_has_no_code_and_action() -> None:
    assert reason_of(OutOfDeviceMemoryError("full", expected="1 MB", actual="2 MB")) == "full; expected 1 MB; got 2 MB"
    assert reason_of(OSError("no such device")) == "no such device"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_is_the_same_after_two_processes(kind: type[LinesideError]) -> None:
    error = kind("full", action="Delete some.")
    error.expected, error.actual = [1, 2], sys  # a module cannot be pickled
    sent = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error))))  # noqa: S301  # our own
    assert (type(sent), str(sent), sent.as_dict()) == (kind, str(error), error.as_dict())


def test_an_error_travels_as_json() -> None:
    error = DiskFullError(path="/data", needed_bytes=5)
    assert json.loads(json.dumps(error.as_dict())) == {
        "code": 4002,
        "error": "DiskFullError",
        "message": "no room to write /data",
        "expected": "5 free bytes",
        "actual": None,
        "action": DiskFullError.default_action,
    }


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind.code], ids=lambda kind: kind.__name__)
def test_every_error_says_what_it_means_and_what_to_do_next(kind: type[LinesideError]) -> None:
    assert (kind.__doc__ or "").strip().split("\n")[0].endswith(".")
    assert kind.default_action.endswith("."), "a sentence that tells the reader what to do"
    assert kind.default_action in str(kind("words"))


def test_every_family_of_codes_has_a_section_in_the_reference() -> None:
    assert {kind.code // 1000 for kind in CLASSES if kind.code} == set(TITLES)


VENDORS = {
    "ort": ("onnxruntime", "onnxruntime.capi.onnxruntime_pybind11_state"),
    "openvino": ("openvino", "openvino._pyopenvino", "openvino.exceptions"),
    "litert": ("ai_edge_litert.interpreter",),
    "ncnn": ("ncnn", "ncnn.ncnn"),
    "mnn": ("MNN", "_mnncengine"),
    "torch": ("torch", "torch._C", "torch.cuda"),
}
"""Where the vendors of the engines that are installed for the tests define their exceptions."""


@pytest.mark.parametrize("engine", VENDORS)
def test_no_exception_of_an_engine_gets_past_its_backend(engine: str) -> None:
    caught = registry.backend(engine)._vendor_errors()
    loose = {
        f"{module}.{name}"
        for module in VENDORS[engine]
        for name, value in vars(importlib.import_module(module)).items()
        if inspect.isclass(value)
        and issubclass(value, Exception)
        and not issubclass(value, Warning)
        and not issubclass(value, caught)
    }
    assert not loose, "the vendor has exceptions that the backend doesn't map"
