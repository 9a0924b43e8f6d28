from __future__ import annotations

import io
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lineside_models import zoo
from lineside_models.frame import Frame
from lineside_models.golden import read_array, read_png, record, replay
from lineside_models.image_file import PIXELS_MAX
from lineside_runtime.bundle import Bundle, open_bundle, write_manifest
from lineside_runtime.config import Config
from lineside_runtime.errors import BundleFormatError, GoldenMismatchError
from lineside_runtime.session import Session
from tests.models.small_detector import detector, detector_bundle, part
from tests.models.test_image_file import chunk

ORT = Config(threads=1, engines=("ort",))


def with_golden(folder: Path, **changes: Any) -> Bundle:
    bare = detector_bundle(folder)
    with Session(bare, ORT) as session:
        golden = record(session, folder, Frame(image=part((2, 5), (4, 1))))
    golden = msgspec.structs.replace(golden, **changes)
    return write_manifest(folder, msgspec.structs.replace(bare.manifest, golden=golden))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return with_golden(tmp_path / "b")


def test_what_was_recorded_replays_exactly_on_the_same_engine(bundle: Bundle) -> None:
    assert bundle.manifest.golden is not None
    assert set(bundle.manifest.golden.outputs) == {"cls_8", "box_8"}
    assert bundle.manifest.golden.variant == "onnx"
    with Session(open_bundle(bundle.path), ORT) as session:
        report = replay(session, bundle)
    assert report.cosine == {"cls_8": 1.0, "box_8": 1.0}
    assert report.error == {"cls_8": 0.0, "box_8": 0.0}
    assert report.used_device == "ort/cpu:0"


def test_another_engine_comes_near_enough(bundle: Bundle) -> None:
    with Session(bundle, Config(engines=("openvino",))) as session:
        report = replay(session, bundle)
    assert min(report.cosine.values()) > 0.9999
    assert report.used_device == "openvino/cpu:0"


def refused(bundle: Bundle) -> GoldenMismatchError:
    """Replays a bundle whose files have changed, and returns the error."""
    changed = write_manifest(bundle.path, bundle.manifest)
    with Session(changed, ORT) as session, pytest.raises(GoldenMismatchError) as caught:
        replay(session, changed)
    return caught.value


def test_a_model_that_computes_something_else_is_refused_with_its_figures(bundle: Bundle) -> None:
    (bundle.path / "onnx/model.onnx").write_bytes(detector(gain=-1.0))
    error = refused(bundle)
    assert error.code == 5001
    assert "cls_8: cosine -1.0000" in str(error.actual)
    assert "box_8" not in str(error.actual)
    assert "0.98" in str(error.expected)
    for gain, words in ((1.5, "error 0.5000"), (float("nan"), "nan")):  # the right direction, and no number
        (bundle.path / "onnx/model.onnx").write_bytes(detector(gain=gain))
        assert words in str(refused(bundle))


def test_outputs_of_another_shape_or_of_zeros_are_a_mismatch(bundle: Bundle) -> None:
    for shape, words in (((1, 2, 3, 3), "(1, 2, 3, 3)"), ((1, 2, 6, 8), "inf")):
        np.save(bundle.path / "golden/cls_8.npy", np.zeros(shape, np.float32))
        assert words in str(refused(bundle))


def with_plain_variant(bundle: Bundle, noise: float) -> Bundle:
    """A bundle with a variant of level 1 beside that of its golden outputs, which differ by noise."""
    golden = bundle.manifest.golden
    assert golden is not None
    for name in golden.outputs.values():
        array = np.load(bundle.path / name)
        drawn = np.random.default_rng(3).normal(0, noise * np.abs(array).mean(), array.shape)
        np.save(bundle.path / name, (array + drawn).astype(array.dtype))
    own = bundle.manifest.variants[0]
    plain = msgspec.structs.replace(own, name="plain", level=own.level + 1)
    return write_manifest(bundle.path, msgspec.structs.replace(bundle.manifest, variants=(own, plain)))


def test_a_variant_of_another_level_may_differ_more_and_not_compute_nonsense(tmp_path: Path) -> None:
    near = with_plain_variant(with_golden(tmp_path / "near"), 0.35)
    with Session(near, ORT) as session, pytest.raises(GoldenMismatchError):
        replay(session, near)
    with Session(near, msgspec.structs.replace(ORT, variant="plain")) as session:
        replay(session, near)
    far = with_plain_variant(with_golden(tmp_path / "far"), 30.0)
    with (
        Session(far, msgspec.structs.replace(ORT, variant="plain")) as session,
        pytest.raises(GoldenMismatchError, match=r"cosine ≥ 0\.9"),
    ):
        replay(session, far)


@pytest.mark.parametrize("name", [variant.name for variant in open_bundle(zoo.path("surface-12")).manifest.variants])
def test_every_variant_of_the_shipped_detector_passes_the_replay(name: str) -> None:
    shipped = open_bundle(zoo.path("surface-12"), verify=False)
    with Session(shipped, Config(threads=1, variant=name)) as session:
        replay(session, shipped)
        assert session.variant == name


def test_the_bundle_sets_the_bar(tmp_path: Path) -> None:
    loose = with_golden(tmp_path / "loose", max_error=0.6)
    (loose.path / "onnx/model.onnx").write_bytes(detector(gain=1.5))
    changed = write_manifest(loose.path, loose.manifest)
    with Session(changed, ORT) as session:
        assert replay(session, changed).error["cls_8"] == pytest.approx(0.5, abs=1e-3)


def test_a_bundle_without_golden_input_says_so(tmp_path: Path) -> None:
    bare = detector_bundle(tmp_path / "bare")
    with Session(bare, ORT) as session, pytest.raises(BundleFormatError, match="no golden"):
        replay(session, bare)


# hostile files


class Bomb:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("/tmp/lineside-golden-ran-code"),)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    for name, data in (("plain.npy", pickle.dumps(Bomb())), ("object.npy", npy_of_objects())):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BundleFormatError):
            read_array(tmp_path / name)
    assert not Path("/tmp/lineside-golden-ran-code").exists()


def npy_of_objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def npy(header: str, data: bytes) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        *(
            npy(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape},)}}", data)
            for kind, shape, data in (
                ("<f4", "1000000000000", b"1234"), ("<f4", "-1", b"1234"), ("<f4", "2", b"1234"),
                ("|O", "1", b"12345678"), ("nonsense", "1", b"1234"),
            )
        ),
        npy("__import__('os').system('true')", b""),
    ],
)  # fmt: skip
def test_an_array_file_that_lies_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(BundleFormatError):
        read_array(tmp_path / "a.npy")


def test_an_oversize_array_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleFormatError, match="at most"):
        read_array(tmp_path / "a.npy")


def png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 1000)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_what_is_no_png_or_would_unpack_to_too_much_is_refused(tmp_path: Path) -> None:
    assert PIXELS_MAX < 60_000**2
    for content in (png(60_000, 60_000), b"", b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(30), png(4, 4)[:40]):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(BundleFormatError, match="pixels" if len(content) > 50 else None):
            read_png(tmp_path / "a.png")
