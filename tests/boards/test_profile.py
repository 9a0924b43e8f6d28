from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from lineside_boards import profile
from lineside_boards.detect import Board
from lineside_boards.errors import UnknownBoardError
from lineside_runtime import registry
from lineside_runtime.errors import ConfigError

PIS = ("rpi-coral", "rpi4", "rpi5", "rpi5-hailo", "rpi5-hailo10h", "rpi5-hailo8l", "rpi5-imx500")
JETSONS = ("jetson-orin-nano", "jetson-orin-nx", "jetson-thor")
ARM = (*JETSONS, "qcs6490", "qemu-virt", "rk3576", "rk3588")
WANTED = ("cuda0", *ARM, "rocm", *PIS, "x86", "x86-npu", "x86-openvino")


def test_all_supported_boards_are_there() -> None:
    assert profile.names() == tuple(WANTED)


@pytest.mark.parametrize("name", WANTED)
def test_each_profile_says_where_its_facts_stand_names_real_engines_and_claims_no_hardware_that_nobody_has(
    name: str,
) -> None:
    one = profile.load(name)
    assert one.name == name
    tables = (one.board, one.python, one.engines, one.optimize, one.camera, one.thermal, one.image, one.flash)
    assert all(len(table.source) > 10 for table in tables)
    assert set(one.engines.order) <= set(registry.names())
    assert set(one.optimize.engines) <= set(one.engines.order)
    assert name in ("x86", "x86-openvino") or one.tested.hardware == "nothing"
    assert name not in (*ARM, *PIS) or "gpio" in one.python.extras  # what switches its lines


@pytest.mark.parametrize("name", WANTED)
def test_what_no_page_confirms_is_told_in_the_guide(name: str) -> None:
    guide = (Path(__file__).parents[2] / "docs/reference/board-profiles.md").read_text()
    rows = [line.split("|") for line in guide.partition("## Not confirmed")[2].splitlines() if line.startswith("|")]
    told = {key.strip("` ") for row in rows if name in row[1].replace(" ", "").split(",") for key in row[2].split(",")}
    tables = msgspec.structs.asdict(profile.load(name)).items()
    facts = {table: one for table, one in tables if isinstance(one, profile.ProfileFacts)}
    assert told == {f"{table}.{key}" for table, one in facts.items() for key in one.unconfirmed}


@pytest.mark.parametrize(
    ("before", "after", "path"),
    [
        ('precision = "int8"', 'precision = "octal"', r"optimize\.precision"),
        ("threads = 3", "threads = 0", r"optimize\.threads"),
        ('version = "3.13"', 'version = "2.7"', r"python\.version"),
        ('method = "card"', 'methode = "card"', "methode"),
        ('unconfirmed = ["note", "pins"]', 'unconfirmed = ["note", "pinz"]', r"no key pinz in this table.*console"),
    ],
)
def test_a_wrong_key_or_value_is_named(before: str, after: str, path: str) -> None:
    text = (Path(profile.__file__).parent / "profiles/rpi5.toml").read_text()
    assert text.count(before) >= 1
    with pytest.raises(ConfigError, match=path):
        profile.parse(text.replace(before, after, 1).encode(), "rpi5")


def test_a_board_of_ones_own_is_a_file_profiles_are_plain_data_and_an_unknown_one_lists_the_known(
    tmp_path: Path,
) -> None:
    text = (Path(profile.__file__).parent / "profiles/rpi5.toml").read_text()
    own = tmp_path / "my-board.toml"
    own.write_text(text.replace('title = "Raspberry Pi 5"', 'title = "My board"'))
    one = profile.load(str(own))
    assert (one.board.title, one.name) == ("My board", "my-board")
    assert msgspec.json.decode(msgspec.json.encode(one), type=profile.BoardProfile) == one
    with pytest.raises(UnknownBoardError):
        profile.load(str(tmp_path / "absent.toml"))
    with pytest.raises(UnknownBoardError, match="rpi5-hailo"):
        profile.load("rpi6")


PI5 = Board("Raspberry Pi 5 Model B Rev 1.0", ("raspberrypi,5-model-b", "brcm,bcm2712"), "aarch64")

ORIN_NX = Board("NVIDIA Orin NX", ("nvidia,p3768-0000+p3767-0000", "nvidia,p3767-0000", "nvidia,tegra234"), "aarch64")
ORIN_NANO = Board(
    "NVIDIA Orin Nano", ("nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"), "aarch64"
)
AGX_ORIN = Board("NVIDIA AGX Orin", ("nvidia,p3737-0000+p3701-0000", "nvidia,p3701-0000", "nvidia,tegra234"), "aarch64")


@pytest.mark.parametrize(
    ("board", "accelerators", "engines", "expected"),
    [
        (PI5, ("VideoCore VII (Raspberry Pi 5)",), (), ("rpi5",)),
        (PI5, ("VideoCore VII (Raspberry Pi 5)", "Hailo-8"), (), ("rpi5-hailo", "rpi5")),
        (PI5, ("Hailo-8L",), (), ("rpi5-hailo8l", "rpi5")),
        (PI5, ("Hailo-10H",), (), ("rpi5-hailo10h", "rpi5")),
        (PI5, ("VideoCore VII (Raspberry Pi 5)", "Sony IMX500"), (), ("rpi5-imx500", "rpi5")),
        (PI5, ("Coral Edge TPU, before its first use",), (), ("rpi-coral", "rpi5")),
        (Board("PC", (), "x86_64"), (), (), ("x86",)),
        (Board("PC", (), "x86_64"), ("NVIDIA GPU",), ("openvino",), ("cuda0", "x86-openvino", "x86")),
        (Board("PC", (), "x86_64"), ("Intel NPU (Lunar Lake)",), ("openvino",), ("x86-npu", "x86-openvino", "x86")),
        (Board("PC", (), "x86_64"), ("Intel NPU (Lunar Lake)",), (), ("x86",)),
        (ORIN_NX, ("Jetson Orin's GPU",), (), ("jetson-orin-nx",)),
        (ORIN_NANO, ("Jetson Orin's GPU",), (), ("jetson-orin-nano",)),
        (AGX_ORIN, ("Jetson Orin's GPU",), (), ()),
        (Board("unknown", ("acme,box",), "aarch64"), (), (), ()),
        (Board("qemu", ("linux,dummy-virt",), "aarch64"), (), (), ("qemu-virt",)),
    ],
)
def test_machine_is_described_by_the_most_special_profile_first(
    board: Board, accelerators: tuple[str, ...], engines: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert tuple(one.name for one in profile.matching(board, accelerators, engines)) == expected


def test_reading_a_profile_loads_no_engine() -> None:
    code = "import sys; from lineside_boards import profile; profile.load('rpi5'); print(sorted(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not any(f"'{name}'" in printed for name in ("numpy", "onnxruntime", "cv2"))
