"""`BoardProfile`: everything that differs from board to board, as data; no other file asks which board this is.

One file a board under ``profiles/``; a new board is a new file. Each table that states facts names its ``source``, and
its ``unconfirmed`` what nobody has found in a page yet; ``[tested]`` says what we have run: on hardware nothing. An
unknown key is an error that names its path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from lineside_boards.detect import Board
from lineside_runtime.decoding import decode_toml
from lineside_runtime.errors import ConfigError, UnknownBoardError
from lineside_runtime.precision import Precision

Architecture = Literal["aarch64", "x86_64"]
FirstBoot = Literal["cloud-init", "firstrun", "preseed"]

_SHIPPED = Path(__file__).parent / "profiles"
_GLIBC_FLOOR = 17
_ALIASES = {17: "manylinux2014", 12: "manylinux2010"}


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class ProfileFacts(_Strict, frozen=True, kw_only=True):
    """A table of facts.

    Attributes:
        unconfirmed: Its keys that no page which was read confirms; ``source`` where the page at that address wasn't
            read itself. Choices of our own, such as an order of engines, need no page. The pages' words stand in
            ``docs/reference/board-profiles.md``.
    """

    unconfirmed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = sorted(set(self.unconfirmed) - set(self.__struct_fields__))
        if unknown:
            raise ValueError(f"unconfirmed: no key {', '.join(unknown)} in this table")


class BoardFacts(ProfileFacts, frozen=True, kw_only=True):
    """What the board is.

    Attributes:
        title: For people.
        architecture: As ``uname -m`` says it.
        compatible: Device tree names of which it has at least one; empty for a PC.
        accelerators: Names as `lineside_runtime.system.accelerators` gives them, all of which it has.
        engine: An engine that is asked for beside the kernel's own files, where hardware alone doesn't tell; or empty.
        memory_bytes: The least that it is sold with; 0 where that says nothing.
        patience: How many times longer than on a board the agent's start and one frame may take; an emulator's.
        source: Where these facts stand.
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
        pins: Requirements in pip's words that narrow what lineside asks for.
        extras: Extras of lineside that its engines need.
        packages: Wheels beside lineside's own, such as a vendor's engine.
        system_site_packages: Whether the agent's environment must see the system's packages.
        source: Where these facts stand.
    """

    version: Annotated[str, msgspec.Meta(pattern=r"^3\.\d+$")]
    glibc: Annotated[str, msgspec.Meta(pattern=r"^2\.\d+$")]
    pins: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    system_site_packages: bool = False
    source: str


class EngineFacts(ProfileFacts, frozen=True, kw_only=True):
    """Which engines serve it.

    Attributes:
        order: Best first, as in `lineside_runtime.config.Config.engines`.
        install: What pip can't bring: the vendor's packages, in words.
        source: Where these facts stand.
    """

    order: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    install: str = ""
    source: str


class OptimizeFacts(ProfileFacts, frozen=True, kw_only=True):
    """What its engines need of a compressed model, for ``lineside optimize --target``.

    Attributes:
        engines: Those to make variants for, best first.
        activation: Signedness of quantised activations and weights: ``u8s8`` or ``s8s8``.
        per_channel: Whether weights have a scale a channel.
        precision: What the first engine computes in.
        threads: Of one call on its CPU.
        operators: ONNX operators that its first engine runs quantised; empty where it sets no limit.
        source: Where these facts stand.
    """

    engines: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    activation: Literal["u8s8", "s8s8"]
    per_channel: bool
    precision: Precision
    threads: Annotated[int, msgspec.Meta(ge=1, le=64)]
    operators: tuple[str, ...] = ()
    source: str


class CameraFacts(ProfileFacts, frozen=True, kw_only=True):
    """How frames come in.

    Attributes:
        stack: ``v4l2``: the kernel's own. ``libcamera``: Raspberry Pi's, through the system's picamera2. ``argus``:
            NVIDIA's. ``none``: no camera connector.
        note: What to know of it.
        source: Where these facts stand.
    """

    stack: Literal["v4l2", "libcamera", "argus", "none"]
    note: str = ""
    source: str


class ThermalFacts(ProfileFacts, frozen=True, kw_only=True):
    """When heat slows it down.

    Attributes:
        throttle_c: From here on it lowers its clocks; ``None`` where the maker doesn't say.
        limit_c: It stays below this, or switches off; ``None`` where the maker doesn't say.
        source: Where these facts stand.
    """

    throttle_c: float | None = None
    limit_c: float | None = None
    source: str


class ImageFacts(ProfileFacts, frozen=True, kw_only=True):
    """How its system's image is laid out.

    Attributes:
        system: Such as ``Raspberry Pi OS trixie``.
        boot_label: Of the FAT partition that holds first-boot files; empty if there is none.
        root_label: Of the ext4 partition with the root; empty for the largest one.
        boot_path: Where the FAT partition is mounted on the board.
        first_boot: Ways of telling it its first settings that its images know, newest first.
        source: Where these facts stand.
    """

    system: str
    boot_label: str = ""
    root_label: str = ""
    boot_path: str = "/boot/firmware"
    first_boot: tuple[FirstBoot, ...] = ()
    source: str


class FlashFacts(ProfileFacts, frozen=True, kw_only=True):
    """How the image gets onto it.

    Attributes:
        method: ``card``: written to a card or disk by us. ``qemu``: given to the emulator. ``vendor``: by the maker's
            program, which we don't run. ``none``: lineside is installed on a system that already runs.
        note: What to know of it.
        source: Where these facts stand.
    """

    method: Literal["card", "qemu", "vendor", "none"]
    note: str = ""
    source: str


class ConsoleFacts(ProfileFacts, frozen=True, kw_only=True):
    """Its serial console.

    Attributes:
        device: As the board calls it.
        baud: Bits a second.
        pins: Where ground, TX and RX are, in words; empty where there is no header for it.
        note: What must be switched on first.
        source: Where these facts stand; empty where the maker has no console, and 115200 is a custom only.
    """

    device: str = ""
    baud: Annotated[int, msgspec.Meta(ge=300, le=4_000_000)] = 115200
    pins: str = ""
    note: str = ""
    source: str = ""


class Tested(_Strict, frozen=True, kw_only=True):
    """What of it we have run.

    Attributes:
        hardware: What ran on such a board; ``nothing`` until somebody has one.
        emulation: What ran in an emulator.
    """

    hardware: str = "nothing"
    emulation: str = "nothing"


class BoardProfile(_Strict, frozen=True, kw_only=True):
    """A board.

    Attributes:
        board: What it is.
        python: Its system's Python.
        engines: Which engines serve it.
        optimize: What a compressed model must be like.
        camera: How frames come in.
        thermal: When heat slows it down.
        image: How its image is laid out.
        flash: How the image gets onto it.
        console: Its serial console.
        tested: What of it we have run.
        name: Of the file, without its ending.
    """

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

    @property
    def platform_tags(self) -> tuple[str, ...]:
        """Platforms whose wheels it takes, as ``pip download --platform`` names them, newest first (PEP 600)."""
        return platform_tags(self.board.architecture, self.python.glibc)


def platform_tags(architecture: str, glibc: str) -> tuple[str, ...]:
    """Returns the platforms whose wheels a system takes, newest first.

    Args:
        architecture: Such as ``aarch64``.
        glibc: Such as ``2.41``.
    """
    minors = range(int(glibc.partition(".")[2]), _GLIBC_FLOOR - 1, -1)
    tags: list[str] = []
    for minor in minors:
        tags += [f"manylinux_2_{minor}_{architecture}"]
        tags += [f"{_ALIASES[minor]}_{architecture}"] if minor in _ALIASES else []
    return (*tags, f"linux_{architecture}")


def names() -> tuple[str, ...]:
    """Returns the names of the profiles that come with lineside."""
    return tuple(sorted(file.stem for file in _SHIPPED.glob("*.toml")))


def load(name: str) -> BoardProfile:
    """Reads a profile.

    Args:
        name: One of `names`, or the path of a ``.toml`` file of one's own.

    Raises:
        UnknownBoardError: There is no such profile.
        ConfigError: It breaks the format; the message names the path in it.
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
        ConfigError: It breaks the format; the message names the path in it.
    """
    try:
        profile = decode_toml(data, type=BoardProfile)
    except msgspec.DecodeError as error:
        raise ConfigError(f"profile {name}: {error}", action="Correct the profile.") from error
    return msgspec.structs.replace(profile, name=name)


def matching(board: Board, accelerators: Iterable[str], engines: Iterable[str] = ()) -> tuple[BoardProfile, ...]:
    """Returns the profiles that describe a machine, the most special one first.

    Args:
        board: What `lineside_boards.detect.detect` found.
        accelerators: Names of what `lineside_runtime.system.accelerators.find` found.
        engines: That are installed; tells profiles apart that differ by nothing else.
    """
    present, installed = set(accelerators), set(engines)
    fitting = [
        profile for profile in map(load, names()) if _describes(profile.board, board, present, installed=installed)
    ]
    return tuple(sorted(fitting, key=_speciality, reverse=True))


def _describes(facts: BoardFacts, board: Board, present: set[str], *, installed: set[str]) -> bool:
    same = facts.architecture == board.architecture and bool(facts.compatible) == bool(board.compatible)
    named = not facts.compatible or not set(facts.compatible).isdisjoint(board.compatible)
    return (
        same and named and _all_there(facts.accelerators, present) and (not facts.engine or facts.engine in installed)
    )


def _all_there(wanted: Iterable[str], present: set[str]) -> bool:
    """A family's name, ``Hailo-8``, is there if something begins with it."""
    return all(any(re.match(re.escape(name) + r"\b", one) for one in present) for name in wanted)


def _speciality(profile: BoardProfile) -> tuple[int, int, int]:
    facts = profile.board
    return len(facts.accelerators), len(facts.compatible), len(facts.engine)
