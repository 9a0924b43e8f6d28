"""T1: the wheels of a board's payload run on its processor's instructions, under qemu's user emulation.

T2: Debian's arm64 kernel and an initramfs of ours start on qemu's board with the Pi 5's core and reach a broker here.
Neither says anything of a board's speed.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lineside_boards import profile
from lineside_boards.detect import Board
from lineside_converters.bundles.packaging import golden_frame
from lineside_models import zoo
from lineside_models.preprocess import prepare
from lineside_runtime.bundle import open_bundle
from tests.boards import arm64, emulator, on_arm64

INSTALLED_BYTES_MAX, CARRIED_BYTES_MAX = 300e6, 110e6
"""Of the agent with its shipped bundles; 11 MB of them read printed text."""


@pytest.mark.slow
def test_every_variant_gives_the_same_outputs_on_the_boards_instructions(tmp_path: Path) -> None:
    payload, tree = arm64.agent()
    words = [str(Path(__file__).with_name("on_arm64.py")), str(tmp_path / "input.npy")]
    tensor, _ = prepare(golden_frame().image, open_bundle(zoo.path("surface-12")).manifest.preprocess)
    np.save(words[1], tensor)
    here = on_arm64.figures(words[1])
    there = json.loads(arm64.run_there(tree, *words))
    assert (there["machine"], there["python"]) == ("aarch64", arm64.PYTHON)
    assert there["jpeg_mean"] == pytest.approx(here["jpeg_mean"], abs=0.1)
    assert there["input_mean"] == pytest.approx(here["input_mean"], abs=0.01), "OpenCV rounds a pixel otherwise"
    assert len(here["outputs"]) == 3 + 2
    for variant, outputs in here["outputs"].items():
        for name, values in outputs.items():
            found = there["outputs"][variant][name]
            assert arm64.mean_error(found, values) < arm64.MEAN_ERROR_MAX, (variant, name)
            if "s8s8" not in variant:
                np.testing.assert_allclose(found, values, atol=1e-3, err_msg=f"{variant} {name}")
    installed = sum(path.lstat().st_size for path in tree.rglob("*"))
    assert installed < INSTALLED_BYTES_MAX
    assert payload.manifest.size_bytes < CARRIED_BYTES_MAX
    shipped = sorted(folder.name for folder in (arm64.site_packages(tree) / "lineside_models/zoo").iterdir())
    assert [name for name in zoo.NAMES if name not in shipped] == list(zoo.HOST_ONLY)


def test_board_of_the_pis_core_boots_and_its_message_arrives(tmp_path: Path) -> None:
    took_s, message = emulator.boot_to_message(tmp_path)
    print(f"power to the message on the host: {took_s:.1f} s")
    compatible, machine, memory_kib, gpio = message.split(";")
    found = Board("qemu", tuple(compatible.split()), machine, memory_bytes=int(memory_kib) * 1024)
    assert [one.name for one in profile.matching(found, ())] == ["qemu-virt"]
    assert gpio == "/dev/gpiochip0", "the PL061 that rejects are signalled on"
