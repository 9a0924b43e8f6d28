"""An engine refuses what it can't compute with a `LinesideError`: never silent garbage, never a crash."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np

from lineside_runtime.conformance.models import ConformanceModel
from lineside_runtime.conformance.subject import EngineSubject, expect, expect_right
from lineside_runtime.errors import BadInputFormatError, DeviceError
from lineside_runtime.tensors import Array

Inputs = dict[str, Array]


def it_refuses_a_wrong_shape(subject: EngineSubject) -> str:
    """An item of another size, or one dimension more or less, is a bad input (2003)."""

    def larger(inputs: Inputs) -> Inputs:
        return {name: np.concatenate([array, array], axis=-1) for name, array in inputs.items()}

    def smaller(inputs: Inputs) -> Inputs:
        return {name: array[..., :-1] for name, array in inputs.items()}

    def deeper(inputs: Inputs) -> Inputs:
        return {name: array[..., None] for name, array in inputs.items()}

    def flatter(inputs: Inputs) -> Inputs:
        return {name: array[0] for name, array in inputs.items()}

    return _each(subject, "an input", larger, smaller, deeper, flatter)


def it_refuses_a_wrong_type(subject: EngineSubject) -> str:
    """Doubles and bytes are bad inputs (2003): nothing is converted silently."""

    def double(inputs: Inputs) -> Inputs:
        return {name: array.astype(np.float64) for name, array in inputs.items()}

    def byte(inputs: Inputs) -> Inputs:
        return {name: array.astype(np.uint8) for name, array in inputs.items()}

    return _each(subject, "an input of type", double, byte)


def it_refuses_a_missing_input(subject: EngineSubject) -> str:
    """It would compute with what lies there (2003)."""

    def one_missing(inputs: Inputs) -> Inputs:
        return dict(list(inputs.items())[1:])

    return _each(subject, "inputs", one_missing)


def it_refuses_an_input_that_it_does_not_have(subject: EngineSubject) -> str:
    """A name too many, or a wrong one, is a mistake of the caller's (2003)."""

    def one_more(inputs: Inputs) -> Inputs:
        return {**inputs, "no_such_input": next(iter(inputs.values()))}

    def another_name(inputs: Inputs) -> Inputs:
        (_, array), *others = inputs.items()
        return {"no_such_input": array, **dict(others)}

    return _each(subject, "inputs", one_more, another_name)


def _each(subject: EngineSubject, what: str, *spoilers: Callable[[Inputs], Inputs]) -> str:
    for model in subject.models:
        for spoil in spoilers:
            _refused(subject, model, spoil, f"{model.network.name}, {what} {spoil.__name__.replace('_', ' ')}")
    return ", ".join(spoil.__name__.replace("_", " ") for spoil in spoilers)


def _refused(subject: EngineSubject, model: ConformanceModel, spoil: Callable[[Inputs], Inputs], what: str) -> None:
    """Tries it on a fresh executable and on one that has computed: what lies there could be taken for an answer."""
    inputs = model.network.sample(1)
    with subject.loaded(model) as executable:
        with expect(BadInputFormatError, what=f"{what}, first of all"):
            executable.run(spoil(inputs))
        expect_right(executable.run(inputs), model, inputs, f" after {what} was refused")
        with expect(BadInputFormatError, what=f"{what}, after a right one"):
            executable.run(spoil(inputs))
        expect_right(executable.run(inputs), model, inputs, f" after {what} was refused")


def closed_it_says_so(subject: EngineSubject) -> str:
    """After `close` a call is a device error and no crash; closing twice changes nothing."""
    for model in subject.models:
        executable = subject.backend.load(model.file, subject.device, model.options())
        executable.run(model.network.sample(1))
        executable.close()
        executable.close()
        with expect(DeviceError, what=f"{model.network.name}, a call after close"):
            executable.run(model.network.sample(1))
        with suppress(DeviceError):  # what it had measured may be gone, but a crash it may not be
            executable.operators()
    return ", ".join(model.network.name for model in subject.models)


CHECKS = (
    it_refuses_a_wrong_shape,
    it_refuses_a_wrong_type,
    it_refuses_a_missing_input,
    it_refuses_an_input_that_it_does_not_have,
    closed_it_says_so,
)
