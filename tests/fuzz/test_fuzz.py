"""The fuzzer's entries in the test suite: every regression, every seed cut and changed, a few hundred inputs.

The long, coverage-guided run is ``python -m tests.fuzz`` (``make fuzz``) and not part of this.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside_hub.identity.access_lists import RIGHTS
from tests.fuzz.__main__ import main
from tests.fuzz.entries import Entry, Peers, entries, guarded
from tests.fuzz.seeds import SEEDS

REGRESSIONS = Path(__file__).parent / "regressions"
ROUNDS = 300


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Entry]]:
    peers = Peers(tmp_path_factory.mktemp("fuzz"))
    yield entries(peers)
    peers.close()


def test_every_topic_has_its_entry_and_every_entry_its_seed(every: dict[str, Entry]) -> None:
    assert {right.topic for right in RIGHTS} <= set(every)
    assert set(every) == set(SEEDS)


def test_an_entry_that_is_not_there_is_refused_with_the_names_of_those_that_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--entry", "desird"])
    assert ended.value.code == 2
    assert (
        "--entry desird" in (said := capsys.readouterr().err)
        and "group_desired, interactions, interactions_ack, log_answer, log_command, patch_bsdiff4" in said
    )


def test_seeded_patches_make_what_they_claim(every: dict[str, Entry]) -> None:
    for name in ("patch_zstd", "patch_bsdiff4"):
        for data in SEEDS[name]:
            every[name](data)  # raises if not


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_nothing_but_a_refusal_with_a_code_comes_out(every: dict[str, Entry], name: str) -> None:
    inputs = list(SEEDS[name])
    folder = REGRESSIONS / name
    inputs += [path.read_bytes() for path in sorted(folder.iterdir())] if folder.is_dir() else []
    inputs += [b"", b"\xff", b"[" * 100_000, b"{" * 3000, b'{"v":1}', b"null", b'"\xed\xa0\x80"', b"9" * 400]
    for data in inputs:
        guarded(every[name], data)
    chance = random.Random(name)
    for _ in range(ROUNDS):
        guarded(every[name], _changed(chance.choice(inputs[: len(SEEDS[name])]), chance))


def _changed(data: bytes, chance: random.Random) -> bytes:
    """One to four of the changes that fuzzers make."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        kind = chance.randrange(5)
        if kind == 0:
            del changed[at : at + chance.randint(1, 8)]
        elif kind == 1:
            changed[at:at] = chance.choice(
                (b"null", b"-1", b"1e999", b"9223372036854775808", b"[]", b"\x00", b"\\ud800")
            )
        elif kind == 2 and changed:
            changed[at % len(changed)] ^= 1 << chance.randrange(8)
        elif kind == 3:
            changed[at:at] = changed[: chance.randint(1, 40)]
        else:
            del changed[at:]
    return bytes(changed)
