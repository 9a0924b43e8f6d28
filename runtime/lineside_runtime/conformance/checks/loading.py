"""An engine loads what is a model, says why it can't load the rest, and gives everything back."""

from __future__ import annotations

import gc
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lineside_runtime.bundle import files_of
from lineside_runtime.conformance.kit import CheckFailed, NotApplicable
from lineside_runtime.conformance.models import ConformanceModel
from lineside_runtime.conformance.subject import EngineSubject, expect, expect_right
from lineside_runtime.devices import Device
from lineside_runtime.errors import DeviceError, InputNotFoundError, UnsupportedModelError

CYCLES_WARM = 10
CYCLES = 40
CYCLES_LEAST = 10
CYCLES_MAX_S = 10.0
GROWTH_MAX_BYTES = 8 << 20
GROWTH_MAX_PER_CYCLE_BYTES = 100 << 10
"""An executable of these networks holds some 100 KB; one that is not given back shows."""


def a_missing_file_is_not_found(subject: EngineSubject) -> str:
    """2002, before the engine sees it."""
    missing = subject.simplest.file.with_name(f"missing-{subject.simplest.file.name}")
    with expect(InputNotFoundError, what="a file that isn't there"):
        subject.backend.load(missing, subject.device, subject.simplest.options())
    return missing.name


def a_file_that_is_no_model_is_unsupported(subject: EngineSubject) -> str:
    """2007 for noise, for text and for nothing at all."""
    spoilt = {
        "noise": random.Random(1).randbytes(4096),
        "text": b"This is not a model.\n" * 20,
        "nothing": b"",
    }
    for what, data in spoilt.items():
        with _copied(subject.simplest) as file:
            file.write_bytes(data)
            with expect(UnsupportedModelError, what=f"a file of {what}"):
                subject.backend.load(file, subject.device, subject.simplest.options())
    return ", ".join(spoilt)


def half_a_model_is_unsupported(subject: EngineSubject) -> str:
    """2007 for a file that was cut off, as by a full disk."""
    model = subject.largest
    with _copied(model) as file:
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2])
        with expect(UnsupportedModelError, what="the first half of a file"):
            subject.backend.load(file, subject.device, model.options())
    return f"{len(data) // 2} of {len(data)} bytes of {model.network.name}"


def a_device_that_is_not_there_is_a_device_error(subject: EngineSubject) -> str:
    """1xxx: it was unplugged, or another board was meant. Nothing else is taken instead."""
    absent = Device(subject.device.kind, 97, handle="97")
    with expect(DeviceError, what=f"loading onto {absent}"):
        subject.backend.load(subject.simplest.file, absent, subject.simplest.options())
    return str(absent)


def it_loads_again_after_it_could_not(subject: EngineSubject) -> str:
    """A failed load leaves nothing behind that would stop the next one."""
    with _copied(subject.simplest) as file:
        good = file.read_bytes()
        file.write_bytes(b"broken")
        with expect(UnsupportedModelError, what="a file of six bytes"):
            subject.backend.load(file, subject.device, subject.simplest.options())
        file.write_bytes(good)
        executable = subject.backend.load(file, subject.device, subject.simplest.options())
        inputs = subject.simplest.network.sample(1)
        expect_right(executable.run(inputs), subject.simplest, inputs, " after a failed load")
        executable.close()
    return subject.simplest.network.name


def its_memory_does_not_grow_with_each_load(subject: EngineSubject) -> str:
    """Loaded, run and closed over and over, the process stays as large as it was."""
    if not subject.in_this_process:
        raise NotApplicable("its memory is another process's")
    model = subject.largest
    inputs = model.network.sample(1)

    def cycles(count: int, until_s: float) -> int:
        done = 0
        while done < count and (done < CYCLES_LEAST or time.monotonic() < until_s):
            with subject.loaded(model) as executable:
                executable.run(inputs)
            done += 1
        gc.collect()
        return done

    cycles(CYCLES_WARM, time.monotonic() + CYCLES_MAX_S / 4)
    for _ in range(2):  # a leak grows again; a pool of the driver's that grew once doesn't
        before = _resident_bytes()
        count = cycles(CYCLES, time.monotonic() + CYCLES_MAX_S)
        grown = _resident_bytes() - before
        allowed = min(GROWTH_MAX_BYTES, GROWTH_MAX_PER_CYCLE_BYTES * count)
        if grown <= allowed:
            break
    if grown > allowed:
        raise CheckFailed(f"{count} times {model.network.name}: grown by {grown >> 10} KiB, allowed {allowed >> 10}")
    return f"{count} times {model.network.name}: {grown >> 10:+d} KiB of {before >> 20} MiB"


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


@contextmanager
def _copied(model: ConformanceModel) -> Iterator[Path]:
    """A copy of a model's files in a folder of its own; gives the path of the first."""
    with tempfile.TemporaryDirectory(prefix="lineside-conformance-") as folder:
        names = {path for kind in ("ncnn", "openvino") for path in files_of(kind, str(model.file))}
        for name in names:
            shutil.copy(name, folder)
        yield Path(folder) / model.file.name


CHECKS = (
    a_missing_file_is_not_found,
    a_file_that_is_no_model_is_unsupported,
    half_a_model_is_unsupported,
    a_device_that_is_not_there_is_a_device_error,
    it_loads_again_after_it_could_not,
    its_memory_does_not_grow_with_each_load,
)
