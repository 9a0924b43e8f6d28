"""An engine computes what the network says, from any thread and in every call."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Mapping

import numpy as np

from lineside_runtime.backend import Executable
from lineside_runtime.conformance.kit import CheckFailed, NotApplicable
from lineside_runtime.conformance.models import ConformanceModel
from lineside_runtime.conformance.subject import EngineSubject, expect_right
from lineside_runtime.errors import BadInputFormatError, DeviceBusyError
from lineside_runtime.tensors import Array

SAMPLES = 4
THREADS = 4
CALLS = 8
BATCHES = (3, 1, 2)


def it_computes_what_the_network_says(subject: EngineSubject) -> str:
    """Float networks, against numpy, with several inputs."""
    return _compute(subject, [model for model in subject.models if model.network.precision != "int8"])


def it_computes_in_eight_bits_what_the_network_says(subject: EngineSubject) -> str:
    """The INT8 network, against numpy in float, within what eight bits allow."""
    return _compute(subject, [model for model in subject.models if model.network.precision == "int8"])


def _compute(subject: EngineSubject, models: list[ConformanceModel]) -> str:
    if not models:
        raise NotApplicable("it was given no such network that it reads")
    seen: list[str] = []
    for model in models:
        with subject.loaded(model) as executable:
            samples = [model.network.sample(seed) for seed in range(SAMPLES)]
            worst = max(expect_right(executable.run(inputs), model, inputs) for inputs in samples)
            seen.append(f"{model.network.name} {worst:.1e}")
    return "worst error as a share of the largest value: " + ", ".join(seen)


def its_answers_stay_after_the_next_call(subject: EngineSubject) -> str:
    """An output is the caller's: the next call doesn't write into it, and neither does closing."""
    for model in subject.models:
        with subject.loaded(model) as executable:
            answers = executable.run(model.network.sample(1))
            before = {name: np.array(array) for name, array in answers.items()}
            executable.run(model.network.sample(2))
        for name, array in before.items():
            if not np.array_equal(array, answers[name]):
                raise CheckFailed(f"{model.network.name}: output {name!r} changed after it was given")
    return _names(subject)


def it_leaves_the_inputs_as_they_were(subject: EngineSubject) -> str:
    """An input is the caller's too, also one that may not be written to."""
    for model in subject.models:
        inputs = model.network.sample(1)
        before = {name: array.copy() for name, array in inputs.items()}
        with subject.loaded(model) as executable:
            expect_right(executable.run(inputs), model, before)
            for name, array in inputs.items():
                if not np.array_equal(array, before[name]):
                    raise CheckFailed(f"{model.network.name}: input {name!r} was written to")
                array.flags.writeable = False
            expect_right(executable.run(inputs), model, before, " with inputs that are read-only")
    return _names(subject)


def it_reads_arrays_that_do_not_lie_in_one_piece(subject: EngineSubject) -> str:
    """A slice or a transposed view has the same values as a copy of it."""
    for model in subject.models:
        whole = model.network.sample(1)
        strided = {name: np.repeat(array, 2, axis=-1)[..., ::2] for name, array in whole.items()}
        turned = {name: np.ascontiguousarray(array.T).T for name, array in whole.items()}
        with subject.loaded(model) as executable:
            expect_right(executable.run(strided), model, whole, " of a slice")
            expect_right(executable.run(turned), model, whole, " of a transposed view")
    return _names(subject)


def it_takes_the_inputs_in_any_order(subject: EngineSubject) -> str:
    """By name and not by place."""
    several = [model for model in subject.models if len(model.network.inputs) > 1]
    if not several:
        raise NotApplicable("it was given no network with two inputs that it reads")
    for model in several:
        inputs = model.network.sample(1)
        with subject.loaded(model) as executable:
            expect_right(executable.run(dict(reversed(inputs.items()))), model, inputs, " with the inputs reversed")
    return ", ".join(model.network.name for model in several)


def it_computes_a_batch_or_refuses_it(subject: EngineSubject) -> str:
    """Another batch on every call is computed, item by item right, or refused as a bad input."""
    seen: list[str] = []
    for model in subject.models:
        with subject.loaded(model) as executable:
            taken = [_batch(executable, model, batch) for batch in BATCHES]
            inputs = model.network.sample(1)
            expect_right(executable.run(inputs), model, inputs, " after other batches")
            seen.append(f"{model.network.name} {'any batch' if all(taken) else 'one batch size'}")
    return ", ".join(seen)


def _batch(executable: Executable, model: ConformanceModel, batch: int) -> bool:
    inputs = model.network.sample(batch, batch=batch)
    try:
        answers = executable.run(inputs)
    except BadInputFormatError:
        return False
    expect_right(answers, model, inputs, f" in a batch of {batch}")
    return True


def several_threads_at_once_get_each_its_own_answer(subject: EngineSubject) -> str:
    """The same executable, called from several threads with inputs of their own."""
    for model in subject.models:
        samples = [model.network.sample(seed) for seed in range(THREADS)]
        together = threading.Barrier(THREADS)
        with subject.loaded(model) as executable, concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            jobs = [pool.submit(_ask_often, executable, model, inputs, together) for inputs in samples]
            for job in jobs:
                job.result()
    return f"{THREADS} threads, {CALLS} calls each: {_names(subject)}"


def _ask_often(
    executable: Executable, model: ConformanceModel, inputs: Mapping[str, Array], together: threading.Barrier
) -> None:
    together.wait(60)
    for _ in range(CALLS):
        expect_right(executable.run(inputs), model, inputs, " with other threads beside it")


def several_models_at_once_do_not_mix(subject: EngineSubject) -> str:
    """All networks loaded together, run in turn, and the others still right when one is closed.

    A device that is full may refuse one network twice as busy (1003): then closing a twin cannot be checked. Networks
    that it refuses beside each other, or answers wrongly before that, fail the check.
    """
    executables = [subject.backend.load(model.file, subject.device, model.options()) for model in subject.models]
    pairs = list(zip(executables, subject.models, strict=True))
    try:
        for seed in range(2):
            for executable, model in pairs:
                inputs = model.network.sample(seed)
                expect_right(executable.run(inputs), model, inputs, " with others loaded")
        try:
            twin = subject.backend.load(subject.simplest.file, subject.device, subject.simplest.options())
        except DeviceBusyError as error:
            raise NotApplicable(f"its device holds one model at a time: {error.message}") from error
        twin.close()
        for executable, model in pairs:
            inputs = model.network.sample(7)
            expect_right(executable.run(inputs), model, inputs, " after its twin was closed")
    finally:
        for executable in executables:
            executable.close()
    return _names(subject)


def _names(subject: EngineSubject) -> str:
    return ", ".join(model.network.name for model in subject.models)


CHECKS = (
    it_computes_what_the_network_says,
    it_computes_in_eight_bits_what_the_network_says,
    its_answers_stay_after_the_next_call,
    it_leaves_the_inputs_as_they_were,
    it_reads_arrays_that_do_not_lie_in_one_piece,
    it_takes_the_inputs_in_any_order,
    it_computes_a_batch_or_refuses_it,
    several_threads_at_once_get_each_its_own_answer,
    several_models_at_once_do_not_mix,
)
