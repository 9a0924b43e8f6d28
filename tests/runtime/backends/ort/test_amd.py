"""What can be told of AMD's GPUs by files; AMD's own package is run by tests/system/test_ort_migraphx.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineside_runtime.backends.ort import amd
from tests.boards.machines import write

NODES = "sys/class/kfd/kfd/topology/nodes"


def kfd(root: Path, *versions: int) -> Path:
    for number, version in enumerate(versions):
        text = (
            f"cpu_cores_count {0 if version else 16}\nsimd_count {96 if version else 0}\ngfx_target_version {version}\n"
        )
        write(root, {f"{NODES}/{number}/properties": text})
    return root


def test_gpus_are_the_kernels_nodes_that_are_no_processors(tmp_path: Path) -> None:
    assert amd.gpus(kfd(tmp_path, 0, 110000, 90010, 120001)) == ("gfx1100", "gfx90a", "gfx1201")


def test_they_are_counted_by_number_and_not_by_letter(tmp_path: Path) -> None:
    assert amd.gpus(kfd(tmp_path, *[0] * 2, *[100300] * 8, 110001))[-1] == "gfx1101"


@pytest.mark.parametrize("versions", [(), (0,)])
def test_a_machine_without_one_has_none(versions: tuple[int, ...], tmp_path: Path) -> None:
    assert amd.gpus(kfd(tmp_path, *versions)) == ()


@pytest.mark.parametrize(
    ("there", "fits", "missing"),
    [
        (("opt/rocm/lib/libamdhip64.so.7", "opt/rocm/lib/libmigraphx_c.so.3"), True, ""),
        (("usr/lib/x86_64-linux-gnu/libamdhip64.so.7", "opt/rocm/lib/libmigraphx_c.so.3"), True, ""),
        (("opt/rocm/lib/libamdhip64.so.6", "opt/rocm/lib/libmigraphx_c.so.3"), False, "libamdhip64.so.7"),
        ((), False, "libmigraphx_c.so.3"),
    ],
)
def test_rocm_fits_if_it_has_the_libraries_that_the_provider_was_linked_with(
    there: tuple[str, ...], fits: bool, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    provider = tmp_path / "libonnxruntime_providers_migraphx.so"
    provider.write_bytes(b"\x7fELF\0libmigraphx_c.so.3\0libamdhip64.so.7\0libstdc++.so.6\0")
    root = write(tmp_path / "root", {"opt/rocm/.info/version": "7.2.0-43\n", **dict.fromkeys(there, "")})
    found = amd.compatibility({"onnxruntime": "1.27.1"}, root, provider)
    assert found.fits is fits
    assert missing in found.advice
    assert found.versions["ROCm"] == "7.2.0-43"
