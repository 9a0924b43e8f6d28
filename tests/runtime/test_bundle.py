from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineside_runtime import bundle as bundles
from lineside_runtime.bundle import (
    CHUNK_BYTES,
    MANIFEST_MAX_BYTES,
    MANIFEST_NAME,
    Bundle,
    Manifest,
    check_relative,
    describe_bytes,
    open_bundle,
    parse_manifest,
    write_manifest,
)
from lineside_runtime.bundle.archive import pack_archive, unpack_archive
from lineside_runtime.errors import BundleError, BundleFormatError, BundleIntegrityError, InputError, InputNotFoundError
from tests.runtime.onnx_models import make_bundle, scaler

MODEL = "level0/model.onnx"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle", scaler(2.0))


@pytest.fixture
def values(bundle: Bundle) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((bundle.path / MANIFEST_NAME).read_bytes())
    return loaded


def test_a_bundle_opens_as_it_was_written(bundle: Bundle) -> None:
    opened = open_bundle(str(bundle.path))
    assert (opened.manifest, opened.digest) == (bundle.manifest, bundle.digest)
    assert opened.manifest.identity == "test@1"
    assert opened.manifest.size_bytes == (bundle.path / MODEL).stat().st_size
    assert opened.file(MODEL).read_bytes() == scaler(2.0)


def test_terms_are_left_out_of_a_manifest_where_nobody_states_them(bundle: Bundle, values: dict[str, Any]) -> None:
    assert not {"licence", "data_terms"} & set(values)  # agents that do not know the fields read it
    assert bundle.manifest.restricted_data == {}
    terms = {"own": "CC-BY-4.0", "NEU-DET": "none", "DeepPCB": "research"}
    stated = parse_manifest(json.dumps({**values, "licence": "Apache-2.0", "data_terms": terms}).encode())
    assert stated.restricted_data == {"NEU-DET": "none", "DeepPCB": "research"}


def test_a_file_that_the_manifest_does_not_name_cannot_be_asked_for(bundle: Bundle) -> None:
    with pytest.raises(BundleFormatError, match="does not name"):
        bundle.file("../secret")


def test_no_folder_and_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError):
        open_bundle(tmp_path / "none")
    with pytest.raises(BundleFormatError, match=MANIFEST_NAME):
        open_bundle(tmp_path)


def test_files_are_described_by_chunk() -> None:
    entry = describe_bytes(bytes(CHUNK_BYTES + 1))
    assert entry.size == CHUNK_BYTES + 1
    assert entry.chunks == (describe_bytes(bytes(CHUNK_BYTES)).sha256, describe_bytes(b"\0").sha256)
    assert describe_bytes(b"").chunks == ()


# what may go wrong with a folder


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, lengthen, Path.unlink, become_a_folder])
def test_a_damaged_file_is_an_integrity_error(bundle: Bundle, damage: Callable[[Path], None]) -> None:
    damage(bundle.path / MODEL)
    with pytest.raises(BundleIntegrityError) as caught:
        open_bundle(bundle.path)
    assert caught.value.code == 3002
    assert open_bundle(bundle.path, verify=False).digest == bundle.digest


@pytest.mark.parametrize("linked", [MODEL, "level0", MANIFEST_NAME])
def test_a_link_is_refused_although_its_content_is_right(bundle: Bundle, tmp_path: Path, linked: str) -> None:
    (bundle.path / linked).rename(tmp_path / "elsewhere")
    (bundle.path / linked).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleFormatError, match="link"):
        open_bundle(bundle.path)


def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(bundle: Bundle) -> None:
    (bundle.path / MODEL).unlink()
    os.mkfifo(bundle.path / MODEL)
    with pytest.raises(BundleFormatError, match="neither"):
        open_bundle(bundle.path)


def test_a_file_that_the_manifest_does_not_name_is_refused(bundle: Bundle) -> None:
    (bundle.path / "level0" / "extra.bin").write_bytes(b"hidden")
    with pytest.raises(BundleFormatError, match=r"level0/extra\.bin"):
        open_bundle(bundle.path)


def test_the_bundle_folder_itself_may_be_reached_through_a_link(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(bundle.path, target_is_directory=True)
    assert open_bundle(tmp_path / "current").digest == bundle.digest


# what may go wrong in a manifest


def change(values: dict[str, Any], path: str, value: Any) -> bytes:
    *parents, last = path.split(".")
    place: Any = values
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    place[int(last) if isinstance(place, list) else last] = value
    return json.dumps(values).encode()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("surprise", 1, "surprise"),
        ("preprocess.surprise", 1, r"\$\.preprocess"),
        ("variants.0.surprise", 1, r"\$\.variants\[0\]"),
        ("name", 5, r"\$\.name"),
        ("schema", 2, "another schema"),
        ("variants", [], "no variant"),
        ("variants.0.file", "other.onnx", r"other\.onnx"),
        ("variants.0.precision", "octal", "precision"),
        ("golden", {"frame": "golden/frame.png", "outputs": {}, "variant": "level0"}, "golden"),
        ("files", {}, "does not list"),
    ],
)
def test_a_manifest_that_breaks_the_format_is_refused(
    values: dict[str, Any], path: str, value: Any, message: str
) -> None:
    with pytest.raises(BundleFormatError, match=message) as caught:
        parse_manifest(change(values, path, value))
    assert caught.value.code == 3001


@pytest.mark.parametrize(
    "entry",
    [
        {"size": -1, "sha256": "0" * 64, "chunks": []},
        {"size": 1 << 40, "sha256": "0" * 64, "chunks": []},
        {"size": 10, "sha256": "0" * 64, "chunks": []},
        {"size": 0, "sha256": "0" * 64, "chunks": ["0" * 64]},
        {"size": 10, "sha256": "0" * 63, "chunks": ["0" * 64]},
        {"size": 10, "sha256": "A" * 64, "chunks": ["0" * 64]},
        {"size": 10, "sha256": "0" * 64, "chunks": ["../../etc/passwd"]},
    ],
)
def test_a_file_entry_out_of_bounds_is_refused(values: dict[str, Any], entry: dict[str, Any]) -> None:
    values["files"][MODEL] = entry
    with pytest.raises(BundleFormatError):
        parse_manifest(json.dumps(values).encode())


def test_too_many_files_are_refused(values: dict[str, Any]) -> None:
    entry = msgspec.to_builtins(describe_bytes(b""))
    values["files"] |= {f"f{number}": entry for number in range(bundles.FILES_MAX)}
    with pytest.raises(BundleFormatError, match="too many"):
        parse_manifest(json.dumps(values).encode())


@pytest.mark.parametrize(
    "relative",
    [
        "", ".", "..", "/etc/passwd", "../x", "a/../b", "a/..", "./a", "a//b", "a/", "a\\b", "..\\x", "a\0b",
        MANIFEST_NAME, "C:\\x", "a/./b",
    ],
)  # fmt: skip
def test_a_path_that_leaves_the_folder_or_hides_is_refused(values: dict[str, Any], relative: str) -> None:
    with pytest.raises(BundleFormatError):
        check_relative(relative)
    values["files"][relative] = msgspec.to_builtins(describe_bytes(b""))
    with pytest.raises(BundleFormatError):
        parse_manifest(json.dumps(values).encode())


def test_an_oversize_manifest_is_not_read(bundle: Bundle) -> None:
    with (bundle.path / MANIFEST_NAME).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleFormatError, match="too large"):
        open_bundle(bundle.path)
    with pytest.raises(BundleFormatError, match="too large"):
        parse_manifest(b" " * (MANIFEST_MAX_BYTES + 1))


@given(st.binary(max_size=400))
def test_any_bytes_give_a_format_error(data: bytes) -> None:
    with pytest.raises(BundleFormatError):
        parse_manifest(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
_TEMPLATE: dict[str, Any] = {
    "name": "n", "version": "1", "created_at": "", "labels": ["a"],
    "inputs": [{"name": "x", "shape": [-1, 4]}], "outputs": [{"name": "y", "shape": [-1, 4]}],
    "preprocess": {"input": "x", "colour": "grey"}, "postprocess": {"name": "none"},
    "variants": [{"name": "v", "format": "onnx", "file": "m", "level": 0, "precision": "fp32"}],
    "files": {"m": msgspec.to_builtins(describe_bytes(b"model"))},
}  # fmt: skip


@given(st.sampled_from(sorted(_TEMPLATE)), json_values)
def test_any_value_in_any_field_is_read_or_refused_but_never_crashes(field: str, value: Any) -> None:
    data = json.dumps({**_TEMPLATE, field: value}).encode()
    try:
        manifest = parse_manifest(data)
    except BundleFormatError:
        return
    assert parse_manifest(msgspec.json.encode(manifest)) == manifest


def test_deeply_nested_json_is_refused(values: dict[str, Any]) -> None:
    data = json.dumps(values).replace('"none"', "[" * 100_000 + "]" * 100_000)
    with pytest.raises(BundleFormatError):
        parse_manifest(data.encode())


@pytest.mark.parametrize("depth", [17, 900, 300_000])
def test_parameters_that_are_nested_without_end_are_refused(values: dict[str, Any], depth: int) -> None:
    values["postprocess"]["params"] = {"deep": "DEEP"}
    data = json.dumps(values).replace('"DEEP"', "[" * depth + "]" * depth)
    with pytest.raises(BundleFormatError):
        parse_manifest(data.encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"size": [10**9, 10**9]},
        {"size": [0, 8]},
        {"max_side": 10**12},
        {"min_side": 0},
        {"multiple_of": 10**9},
        {"multiple_of": 0},
        {"pad_value": -1},
        {"mean": []},
        {"std": [1.0] * 5},
    ],
)
def test_an_absurd_image_size_is_refused(values: dict[str, Any], changes: dict[str, Any]) -> None:
    values["preprocess"] |= changes
    with pytest.raises(BundleFormatError, match=r"preprocess"):
        parse_manifest(json.dumps(values).encode())


@pytest.mark.parametrize("shape", [[1 << 31], [1 << 16, 1 << 16], [1] * 17, [-2, 3]])
def test_an_absurd_shape_is_refused(values: dict[str, Any], shape: list[int]) -> None:
    values["inputs"][0]["shape"] = shape
    with pytest.raises(BundleFormatError, match="shape of"):
        parse_manifest(json.dumps(values).encode())


@pytest.mark.parametrize("name", ["../../..", "", "a/b", ".hidden", "-x", "a" * 65, "a\n", "part\u202e", "name\0"])
@pytest.mark.parametrize("field", ["name", "version"])
def test_a_name_that_is_a_path_or_steers_a_terminal_is_refused(values: dict[str, Any], field: str, name: str) -> None:
    values[field] = name
    with pytest.raises(BundleFormatError, match=f"{field} of a bundle"):
        parse_manifest(json.dumps(values).encode())


# writing


def test_writing_refuses_links_and_special_files(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.path / "link").symlink_to("/etc/hostname")
    with pytest.raises(BundleFormatError, match="link"):
        write_manifest(bundle.path, bundle.manifest)
    (bundle.path / "link").unlink()
    os.mkfifo(bundle.path / "pipe")
    with pytest.raises(BundleFormatError, match=r"pipe in .* neither"):
        write_manifest(bundle.path, bundle.manifest)


def test_writing_refuses_a_manifest_that_names_a_missing_file(bundle: Bundle) -> None:
    (bundle.path / MODEL).unlink()
    (bundle.path / "model_card.md").write_text("card")
    with pytest.raises(BundleFormatError, match=MODEL):
        write_manifest(bundle.path, bundle.manifest)


def test_a_manifest_deeper_in_the_folder_is_not_overlooked(bundle: Bundle) -> None:
    (bundle.path / "level0" / MANIFEST_NAME).write_text("{}")
    written = write_manifest(bundle.path, bundle.manifest)
    assert f"level0/{MANIFEST_NAME}" in written.manifest.files
    open_bundle(bundle.path)


def test_the_same_content_gives_the_same_digest(tmp_path: Path) -> None:
    assert make_bundle(tmp_path / "a", scaler(2.0)).digest == make_bundle(tmp_path / "b", scaler(2.0)).digest
    assert make_bundle(tmp_path / "c", scaler(3.0)).digest != make_bundle(tmp_path / "d", scaler(2.0)).digest


# archives


def test_an_archive_there_and_back(bundle: Bundle, tmp_path: Path) -> None:
    pack_archive(bundle, tmp_path / "a.lsb")
    pack_archive(bundle, tmp_path / "b.lsb")
    assert (tmp_path / "a.lsb").read_bytes() == (tmp_path / "b.lsb").read_bytes()
    assert unpack_archive(tmp_path / "a.lsb", tmp_path / "out").digest == bundle.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.lsb", "b.lsb", "bundle", "out"]


def rewritten(bundle: Bundle, path: Path, change: Callable[[zipfile.ZipFile], None], **options: Any) -> Path:
    """Makes an archive of all files of the bundle and lets ``change`` add to it."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        for relative in (MANIFEST_NAME, *bundle.manifest.files):
            archive.write(bundle.path / relative, relative)
        change(archive)
    return path


def add_climbing(archive: zipfile.ZipFile) -> None:
    archive.writestr("../escaped", b"x")


def add_absolute(archive: zipfile.ZipFile) -> None:
    archive.writestr("/tmp/lineside-escaped", b"x")


def add_unnamed(archive: zipfile.ZipFile) -> None:
    archive.writestr("extra", b"x")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def add_twice(archive: zipfile.ZipFile) -> None:
    archive.writestr(MODEL, b"another model")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("attack", [add_climbing, add_absolute, add_unnamed, add_twice])
def test_an_archive_with_more_than_the_manifest_names_is_refused(
    bundle: Bundle, tmp_path: Path, attack: Callable[[zipfile.ZipFile], None]
) -> None:
    path = rewritten(bundle, tmp_path / "a.lsb", attack)
    with pytest.raises(BundleFormatError):
        unpack_archive(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "escaped").exists()
    assert not Path("/tmp/lineside-escaped").exists()


def test_a_compressed_archive_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    path = rewritten(bundle, tmp_path / "a.lsb", lambda _: None, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleFormatError, match="stored"):
        unpack_archive(path, tmp_path / "out")


def test_a_link_in_an_archive_becomes_no_link(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "a.lsb"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(bundle.path / MANIFEST_NAME, MANIFEST_NAME)
        info = zipfile.ZipInfo(MODEL)
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(BundleIntegrityError):
        unpack_archive(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_archive_is_refused(bundle: Bundle, tmp_path: Path, keep: float) -> None:
    pack_archive(bundle, tmp_path / "a.lsb")
    data = (tmp_path / "a.lsb").read_bytes()
    (tmp_path / "a.lsb").write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(BundleFormatError):
        unpack_archive(tmp_path / "a.lsb", tmp_path / "out")


def test_a_flipped_bit_anywhere_in_an_archive_never_gives_another_bundle(bundle: Bundle, tmp_path: Path) -> None:
    pack_archive(bundle, tmp_path / "a.lsb")
    data = (tmp_path / "a.lsb").read_bytes()
    refused = 0
    for number, position in enumerate(range(0, len(data), 7)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        (tmp_path / "b.lsb").write_bytes(flipped)
        out = tmp_path / f"out{number}"
        try:
            opened = unpack_archive(tmp_path / "b.lsb", out)
        except BundleError:
            refused += 1
            assert not out.exists()
        else:  # a bit of the zip's own bookkeeping that nobody reads
            assert opened.digest == bundle.digest
    assert refused > len(data) // 7 // 2


def test_an_existing_folder_is_not_written_into(bundle: Bundle, tmp_path: Path) -> None:
    pack_archive(bundle, tmp_path / "a.lsb")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(InputError, match="exists"):
        unpack_archive(tmp_path / "a.lsb", tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "mine"


def test_a_missing_archive_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError):
        unpack_archive(tmp_path / "none.lsb", tmp_path / "out")


def test_the_manifest_says_what_it_holds(bundle: Bundle) -> None:
    assert isinstance(bundle.manifest, Manifest)
    assert set(bundle.manifest.files) == {MODEL}
