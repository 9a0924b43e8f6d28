from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lineside_agent.deployment.slots import Slots
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import BundleFormatError, BundleIntegrityError, InputNotFoundError
from tests.worlds.bundles import make_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle", golden=False)


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path / "state")


def install(slots: Slots, bundle: Bundle) -> None:
    shutil.copytree(bundle.path, slots.begin("a", bundle.digest), dirs_exist_ok=True)
    slots.finish("a", bundle.digest)


def test_whole_bundle_can_be_opened(slots: Slots, bundle: Bundle) -> None:
    install(slots, bundle)
    assert slots.open("a").digest == bundle.digest


def test_slot_without_its_digest_is_not_whole(slots: Slots, bundle: Bundle) -> None:
    shutil.copytree(bundle.path, slots.begin("a", bundle.digest), dirs_exist_ok=True)
    with pytest.raises(BundleIntegrityError, match="not whole"):
        slots.open("a")


def test_begin_takes_the_digest_away_first(slots: Slots, bundle: Bundle) -> None:
    install(slots, bundle)
    slots.begin("a", bundle.digest)
    with pytest.raises(BundleIntegrityError, match="not whole"):
        slots.open("a")


def test_begin_keeps_a_part_of_the_same_bundle(slots: Slots, bundle: Bundle) -> None:
    (slots.begin("a", bundle.digest) / "part").write_bytes(b"half")
    assert (slots.begin("a", bundle.digest) / "part").read_bytes() == b"half"


def test_begin_clears_a_part_of_another_bundle(slots: Slots, bundle: Bundle) -> None:
    (slots.begin("a", "0" * 64) / "part").write_bytes(b"half")
    assert list(slots.begin("a", bundle.digest).iterdir()) == []


def test_finish_refuses_a_flipped_bit(slots: Slots, bundle: Bundle) -> None:
    folder = slots.begin("a", bundle.digest)
    shutil.copytree(bundle.path, folder, dirs_exist_ok=True)
    model = folder / "onnx-fp32" / "model.onnx"
    data = bytearray(model.read_bytes())
    data[100] ^= 1
    model.write_bytes(data)
    with pytest.raises(BundleIntegrityError, match="another hash"):
        slots.finish("a", bundle.digest)


def test_finish_refuses_another_bundle(slots: Slots, bundle: Bundle) -> None:
    shutil.copytree(bundle.path, slots.begin("a", "0" * 64), dirs_exist_ok=True)
    with pytest.raises(BundleIntegrityError, match="another bundle"):
        slots.finish("a", "0" * 64)


def test_finish_refuses_a_bundle_without_its_manifest(slots: Slots, bundle: Bundle) -> None:
    slots.begin("a", bundle.digest)
    with pytest.raises(BundleFormatError):
        slots.finish("a", bundle.digest)


def test_bundle_that_was_damaged_later_is_not_opened(slots: Slots, bundle: Bundle) -> None:
    install(slots, bundle)
    (slots.bundle_path("a") / "labels.json").write_text("[]")
    with pytest.raises(BundleIntegrityError):
        slots.open("a")


def test_current_follows_the_last_flip(slots: Slots, tmp_path: Path) -> None:
    assert slots.current() is None
    for slot in ("a", "b", "b", "a"):
        slots.make_current(slot)
        assert slots.current() == slot
    assert not list((tmp_path / "state").glob(".current*"))


def test_flip_over_a_leftover_of_a_killed_flip(slots: Slots, tmp_path: Path) -> None:
    (tmp_path / "state" / ".current.tmp").symlink_to("slots/b/bundle")
    slots.make_current("a")
    assert slots.current() == "a"


def test_factory_bundle_is_opened_where_it_lies(bundle: Bundle, tmp_path: Path) -> None:
    slots = Slots(tmp_path / "state", bundle.path)
    assert slots.open("factory").path == bundle.path
    slots.make_current("factory")
    assert (slots.current(), (tmp_path / "state" / "current").resolve()) == ("factory", bundle.path.resolve())


def test_no_factory_bundle_says_so(slots: Slots) -> None:
    with pytest.raises(InputNotFoundError, match="no factory bundle"):
        slots.open("factory")
