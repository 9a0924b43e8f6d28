"""`BoardProfile`: everything that differs between boards, as data.

``profiles/`` has one file for each board. Each table of facts names its ``source``; ``unconfirmed`` lists the keys
without a source, and ``[tested]`` what was run. An unknown key is an error that names its path.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from lineside_boards.detect import Board
from lineside_boards.errors import UnknownBoardError
from lineside_runtime.decoding import decode_toml
from lineside_runtime.errors import ConfigError
from lineside_runtime.precision import Precision

Architecture = Literal["aarch64", "x86_64"]
FirstBoot = Literal["cloud-init", "firstrun", "preseed"]

_SHIPPED = Path(__file__).parent / "profiles"


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class ProfileFacts(_Strict, frozen=True, kw_only=True):
    """A table of facts.

    Attributes:
        unconfirmed: Keys that no page confirms; ``source`` if that page itself was not read. Choices of lineside,
            such as an order of engines, need no page. ``docs/reference/board-profiles.md`` quotes the pages.
    """

    unconfirmed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = sorted(set(self.unconfirmed) - set(self.__struct_fields__))
        if unknown:
            raise ValueError(f"unconfirmed: no key {', '.join(unknown)} in this table")


class BoardFacts(ProfileFacts, frozen=True, kw_only=True):
    """What the board is.

    Attributes:
        title: Name of the board.
        architecture: As ``uname -m`` says it.
        compatible: Device tree names of which it has at least one; empty for a PC.
        accelerators: Names as `lineside_runtime.system.accelerators` gives them, all of which it has.
        engine: An engine that must be installed for a match, if hardware alone does not distinguish; or empty.
        memory_bytes: Of the smallest model that is sold; 0 if that does not matter.
        patience: Factor of the agent's timeouts; above 1 for an emulator.
        source: Of these facts.
    """

    title: str
    architecture: Architecture
    compatible: tuple[str, ...] = ()
    accelerators: tuple[str, ...] = ()
    engine: str = ""
    memory_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    patience: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    source: str


class PythonFacts(ProfileFacts, frozen=True, kw_only=True):
    """The Python of the board's system, which runs the agent.

    Attributes:
        version: Such as ``3.13``.
        glibc: Of the system, such as ``2.41``: it decides which wheels can be installed.
        pins: Requirements as for pip that narrow those of lineside.
        extras: Extras of lineside that its engines need.
        packages: Wheels beside lineside's own, such as a vendor's engine.
        system_site_packages: Whether the agent's environment must see the system's packages.
        source: Of these facts.
    """

    version: Annotated[str, msgspec.Meta(pattern=r"^3\.\d+$")]
    glibc: Annotated[str, msgspec.Meta(pattern=r"^2\.\d+$")]
    pins: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    system_site_packages: bool = False
    source: str


class EngineFacts(ProfileFacts, frozen=True, kw_only=True):
    """Engines of the board.

    Attributes:
        order: Best first, as in `lineside_runtime.config.Config.engines`.
        install: How to install the vendor's packages that are not on PyPI.
        source: Of these facts.
    """

    order: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    install: str = ""
    source: str


class OptimizeFacts(ProfileFacts, frozen=True, kw_only=True):
    """Requirements of its engines on a compressed model, for ``lineside optimize --target``.

    Attributes:
        engines: For which variants are made, best first.
        activation: Signedness of quantised activations and weights: ``u8s8`` or ``s8s8``.
        per_channel: Whether weights have a scale for each channel.
        precision: Of the first engine.
        threads: Of one call on its CPU.
        operators: ONNX operators that its first engine runs quantized; empty for no limit.
        source: Of these facts.
    """

    engines: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    activation: Literal["u8s8", "s8s8"]
    per_channel: bool
    precision: Precision
    threads: Annotated[int, msgspec.Meta(ge=1, le=64)]
    operators: tuple[str, ...] = ()
    source: str


class CameraFacts(ProfileFacts, frozen=True, kw_only=True):
    """Cameras of the board.

    Attributes:
        stack: ``v4l2``: the kernel's own. ``libcamera``: Raspberry Pi's, through the system's picamera2. ``argus``:
            NVIDIA's. ``none``: no camera connector.
        note: Remark for the user.
        source: Of these facts.
    """

    stack: Literal["v4l2", "libcamera", "argus", "none"]
    note: str = ""
    source: str


class ThermalFacts(ProfileFacts, frozen=True, kw_only=True):
    """Thermal limits.

    Attributes:
        throttle_c: The clock is reduced from here on; ``None`` if undocumented.
        limit_c: Maximum, or switch-off; ``None`` if undocumented.
        source: Of these facts.
    """

    throttle_c: float | None = None
    limit_c: float | None = None
    source: str


class ImageFacts(ProfileFacts, frozen=True, kw_only=True):
    """Layout of its system's image.

    Attributes:
        system: Such as ``Raspberry Pi OS trixie``.
        boot_label: Of the FAT partition that holds first-boot files; empty if there is none.
        root_label: Of the ext4 partition with the root; empty for the largest one.
        boot_path: Mount point of the FAT partition on the board.
        first_boot: Ways of first-boot settings that its images support, newest first.
        source: Of these facts.
    """

    system: str
    boot_label: str = ""
    root_label: str = ""
    boot_path: str = "/boot/firmware"
    first_boot: tuple[FirstBoot, ...] = ()
    source: str


class FlashFacts(ProfileFacts, frozen=True, kw_only=True):
    """How the image is installed.

    Attributes:
        method: ``card``: lineside writes it to a card or disk. ``qemu``: given to the emulator. ``vendor``: by a
            program of the maker. ``none``: lineside is installed on a system that already runs.
        note: Remark for the user.
        source: Of these facts.
    """

    method: Literal["card", "qemu", "vendor", "none"]
    note: str = ""
    source: str


class ConsoleFacts(ProfileFacts, frozen=True, kw_only=True):
    """Its serial console.

    Attributes:
        device: On the board.
        baud: Bits a second.
        pins: Of ground, TX and RX; empty if there is no header.
        note: What must be enabled first.
        source: Of these facts; empty if the maker documents no console.
    """

    device: str = ""
    baud: Annotated[int, msgspec.Meta(ge=300, le=4_000_000)] = 115200
    pins: str = ""
    note: str = ""
    source: str = ""


class Tested(_Strict, frozen=True, kw_only=True):
    """Tests of the board.

    Attributes:
        hardware: What ran on such a board.
        emulation: What ran in an emulator.
    """

    hardware: str = "nothing"
    emulation: str = "nothing"


class BoardProfile(_Strict, frozen=True, kw_only=True):
    """Profile of a board; ``name`` is that of its file without the ending."""

    board: BoardFacts
    python: PythonFacts
    engines: EngineFacts
    optimize: OptimizeFacts
    camera: CameraFacts
    thermal: ThermalFacts
    image: ImageFacts
    flash: FlashFacts
    tested: Tested
    console: ConsoleFacts = ConsoleFacts()
    name: str = ""


def names() -> tuple[str, ...]:
    """Returns the names of the shipped profiles."""
    return tuple(sorted(file.stem for file in _SHIPPED.glob("*.toml")))


def load(name: str) -> BoardProfile:
    """Reads a profile.

    Args:
        name: One of `names`, or the path of a ``.toml`` file.

    Raises:
        UnknownBoardError: There is no such profile.
        ConfigError: It is invalid; the message names the key.
    """
    own = name.endswith(".toml")
    if not own and name not in names():
        raise UnknownBoardError(f"no profile {name!r}", expected=f"one of {', '.join(names())}, or a .toml file")
    try:
        data = (Path(name) if own else _SHIPPED / f"{name}.toml").read_bytes()
    except OSError as error:
        raise UnknownBoardError(f"{name}: {error.strerror}", expected="a readable profile") from error
    return parse(data, Path(name).stem if own else name)


def parse(data: bytes, name: str) -> BoardProfile:
    """Reads the bytes of a profile.

    Raises:
        ConfigError: It is invalid; the message names the key.
    """
    try:
        profile = decode_toml(data, type=BoardProfile)
    except msgspec.DecodeError as error:
        raise ConfigError(f"profile {name}: {error}", action="Correct the profile.") from error
    return msgspec.structs.replace(profile, name=name)


def matching(board: Board, accelerators: Iterable[str], engines: Iterable[str] = ()) -> tuple[BoardProfile, ...]:
    """Returns the profiles that match a machine, the most specific one first.

    Args:
        accelerators: Names from `lineside_runtime.system.accelerators.find`.
        engines: Installed ones; they distinguish profiles that are equal otherwise.
    """
    present, installed = set(accelerators), set(engines)
    fitting = [
        profile for profile in map(load, names()) if _describes(profile.board, board, present, installed=installed)
    ]
    return tuple(sorted(fitting, key=lambda profile: _specificity(profile.board, board), reverse=True))


def _describes(facts: BoardFacts, board: Board, present: set[str], *, installed: set[str]) -> bool:
    same = facts.architecture == board.architecture and bool(facts.compatible) == bool(board.compatible)
    named = not facts.compatible or not set(facts.compatible).isdisjoint(board.compatible)
    return (
        same and named and _all_there(facts.accelerators, present) and (not facts.engine or facts.engine in installed)
    )


def _all_there(wanted: Iterable[str], present: set[str]) -> bool:
    from lineside_runtime.system.accelerators import is_named  # it loads numpy, which reading a profile doesn't need

    return all(any(is_named(one, family) for one in present) for family in wanted)


def _specificity(facts: BoardFacts, board: Board) -> tuple[int, int, int]:
    """Ranks a profile that fits. A device tree lists a board's names in the order from the board to its processor."""
    places = [place for place, name in enumerate(board.compatible) if name in facts.compatible]
    return len(facts.accelerators), -min(places, default=0), len(facts.engine)
