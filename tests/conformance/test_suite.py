"""The suite itself: a right engine passes it all, and each fault is found by the check that looks for it."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from lineside_runtime.bundle import files_of
from lineside_runtime.conformance import CHECKS, FOLDER, NETWORKS, NotApplicable, run, subject, title
from lineside_runtime.conformance.command import main
from lineside_runtime.conformance.models import SUFFIXES, find
from lineside_runtime.errors import ConfigError, InputNotFoundError, NoDeviceError, UnsupportedModelError
from tests.conformance.faulty_engine import (
    OracleBackend,
    leaked,
    report_on_a_right_engine,
    shorten_checks,
    write_models,
)
from tests.conformance.make_models import files

FAULTS = {
    "a version that is no number": "it says what it is",
    "other devices each time": "it finds its devices the same each time",
    "a misfit without advice": "it tells whether driver and libraries fit",
    "is wrong by a tenth": "it computes what the network says",
    "is not a number": "it computes what the network says",
    "gives doubles": "it computes what the network says",
    "is wrong in eight bits": "it computes in eight bits what the network says",
    "reuses its outputs": "its answers stay after the next call",
    "writes into the inputs": "it leaves the inputs as they were",
    "reads memory as it lies": "it reads arrays that do not lie in one piece",
    "takes inputs by position": "it takes the inputs in any order",
    "repeats the first of a batch": "it computes a batch or refuses it",
    "mixes threads up": "several threads at once get each its own answer",
    "closes its twins": "several models at once do not mix",
    "cuts what is too large": "it refuses a wrong shape",
    "calls a wrong shape a failure": "it refuses a wrong shape",
    "converts types in silence": "it refuses a wrong type",
    "runs with an input missing": "it refuses a missing input",
    "ignores other inputs": "it refuses an input that it does not have",
    "answers when closed": "closed it says so",
    "closes only once": "closed it says so",
    "loads anything": "a file that is no model is unsupported",
    "fails when it can't read": "a file that is no model is unsupported",
    "loads half a model": "half a model is unsupported",
    "takes another device": "a device that is not there is a device error",
    "leaks": "its memory does not grow with each load",
    "spins": "with one thread it keeps one processor busy",
    "ignores cores": "it keeps to the cores that it is given",
    "ignores operator libraries": "an operator library is loaded or refused",
    "profiles unasked": "its profile is plausible or empty",
    "exaggerates": "its profile is plausible or empty",
    "lets exceptions through": "it computes what the network says",
}
"""Fault to the check that finds it; others may find it as well."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("oracle") / "models")


@pytest.fixture(autouse=True)
def short_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_checks(monkeypatch.setattr)


def test_an_engine_that_does_everything_right_conforms(folder: Path) -> None:
    """In a process of its own: what threads of earlier tests still do here would count as the engine's."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        report = pool.submit(report_on_a_right_engine, folder).result(timeout=120)
    assert [one for one in report.outcomes if one.verdict == "failed"] == []
    assert report.conforms
    assert list(report.networks) == [network.name for network in NETWORKS]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_the_check_that_looks_for_it(fault: str, folder: Path) -> None:
    one = subject(OracleBackend(folder))
    one.backend.fault = fault  # type: ignore[attr-defined]  # of the oracle alone
    (check,) = [check for check in CHECKS if title(check) == FAULTS[fault]]
    report = run(one, [check])
    leaked.clear()
    if fault == "ignores cores" and len(os.sched_getaffinity(0)) == 1:
        pytest.skip(report.outcomes[0].detail)
    assert report.outcomes[0].verdict == "failed", report.outcomes[0].detail
    assert not report.conforms


def test_every_check_but_those_that_need_no_engine_has_a_fault_that_it_finds() -> None:
    without = {title(check) for check in CHECKS} - set(FAULTS.values())
    assert without == {
        "a missing file is not found",  # `Backend.load` itself sees to it
        "it loads again after it could not",
        "with more threads it is still right",
    }


def test_a_network_that_the_engine_does_not_read_is_listed_with_its_reason(folder: Path, tmp_path: Path) -> None:
    other = write_models(tmp_path / "other")
    (other / "pair.oracle").write_text("of another vendor's")
    one = subject(OracleBackend(other))
    assert one.refused == {"pair": "not of the oracle's"}
    order = next(check for check in CHECKS if title(check) == "it takes the inputs in any order")
    with pytest.raises(NotApplicable, match="two inputs"):
        order(one)


def test_an_engine_that_reads_nothing_cannot_be_tried(tmp_path: Path) -> None:
    other = write_models(tmp_path / "other")
    for file in other.iterdir():
        file.write_text("of another vendor's")
    with pytest.raises(UnsupportedModelError, match="none of the networks"):
        subject(OracleBackend(other))


def test_files_are_found_in_the_order_of_who_names_them(folder: Path, tmp_path: Path) -> None:
    given = write_models(tmp_path / "given")
    named = tmp_path / "my.file"
    named.write_text((folder / "conv.oracle").read_text())
    found = {one.network.name: one.file for one in find(OracleBackend(folder), folder=given, named={"conv": named})}
    assert found["conv"] == named
    assert found["scale"] == given / "scale.oracle"
    assert find(OracleBackend(folder))[0].file == folder / "scale.oracle"


def test_what_cannot_be_tried_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match=r"--model conv=FILE"):
        find(OracleBackend(tmp_path))
    with pytest.raises(ConfigError, match="conv_int8"):
        find(OracleBackend(folder), named={"resnet": tmp_path})
    with pytest.raises(InputNotFoundError):
        find(OracleBackend(folder), named={"conv": tmp_path / "none"})
    with pytest.raises(NoDeviceError, match="cpu:0"):
        subject(OracleBackend(folder), "npu:3")


def test_the_committed_models_are_what_the_script_makes() -> None:
    made = {name: data for network in NETWORKS for name, data in files(network).items()}
    assert {path.name for path in FOLDER.iterdir()} == set(made)
    by_processor = {"conv_int8.mnn"}  # its quantizer's ranges depend on the processor's sums
    different = [
        name for name, data in made.items() if name not in by_processor and (FOLDER / name).read_bytes() != data
    ]
    assert different == []
    assert sum(map(len, made.values())) < 100_000


def test_every_format_of_a_bundle_has_the_endings_of_its_files() -> None:
    from lineside_runtime.backends.null import NullBackend

    assert set(SUFFIXES) == NullBackend.formats
    assert files_of("ncnn", str(FOLDER / "conv.ncnn.param"))[1] == str(FOLDER / "conv.ncnn.bin")


def test_the_command_prints_a_table_and_says_by_its_status_whether_it_conforms(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["ort", "--device", "cpu:0", "--only", "missing"]) == 0
    printed = capsys.readouterr().out
    assert "ok   a missing file is not found" in printed
    assert "ort/cpu:0 conforms" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["abacus"], "no engine"),
        (["ort", "--device", "npu:0"], "no such device"),
        (["ort", "--model", "conv"], "NETWORK=FILE"),
        (["ort", "--only", "xyz"], "no such check"),
        (["ort", "--python", "/usr/bin/python3"], "--isolated"),
        (["hailo"], "HailoRT"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    assert words in capsys.readouterr().err


def test_the_command_fails_with_json_for_an_engine_that_does_not_conform(tmp_path: Path) -> None:
    """A third party's engine with a fault, found through its entry point, as a stranger would run it."""
    package = tmp_path / "faulty-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[lineside.backends]\nfaulty = faulty:FaultyBackend\n")
    (tmp_path / "faulty.py").write_text(
        "from pathlib import Path\n"
        "from lineside_runtime.backends.ort.backend import OrtBackend\n"
        "class FaultyBackend(OrtBackend):\n"
        "    name = 'faulty'\n"
        "    def _load(self, model, device, options):\n"
        "        executable = super()._load(model, device, options)\n"
        "        run = executable._run\n"
        "        executable._run = lambda inputs: {name: array * 2 for name, array in run(inputs).items()}\n"
        "        return executable\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "lineside", "conformance", "faulty", "--json", "--only", "says"],
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert told["conforms"] is False
    failed = {one["check"] for one in told["reports"][0]["outcomes"] if one["verdict"] == "failed"}
    assert "it computes what the network says" in failed
    assert "it says what it is" not in failed
    assert "DOES NOT CONFORM" in done.stderr


def test_an_engine_is_tried_in_a_process_of_its_own_too(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["ort", "--isolated", "--device", "cpu:0", "--json", "--only"]
    assert main([*arguments, "any order"]) == 0, capsys.readouterr().err
    (report,) = json.loads(capsys.readouterr().out)["reports"]
    assert {one["verdict"] for one in report["outcomes"]} == {"passed"}
    assert main([*arguments, "memory"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["reports"]
    assert report["outcomes"][0]["detail"] == "its memory is another process's"
