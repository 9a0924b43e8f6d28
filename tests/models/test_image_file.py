"""Image files of somebody else: bombs, false heads, orientation, and what is no image."""

from __future__ import annotations

import socket
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from lineside.cli import main
from lineside_models.datasets import load_dataset
from lineside_models.image_file import PIXELS_MAX, decode_image, image_size
from lineside_models.vision.images import read_image
from lineside_runtime.errors import BadInputFormatError

FORMATS = (".bmp", ".jpg", ".png", ".tif", ".webp", ".ppm", ".pgm")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(width: int, height: int) -> bytes:
    """A grey PNG of zeros, some hundred kilobytes whatever its size."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def claims(width: int, height: int) -> dict[str, bytes]:
    """Heads that name a size, with no pixels behind them."""
    frame = struct.pack(">HBHHB", 8, 8, min(height, 65535), min(width, 65535), 0)
    entries = struct.pack("<HHII", 256, 4, 1, width) + struct.pack("<HHII", 257, 4, 1, height)
    extended = (
        b"VP8X" + struct.pack("<II", 10, 0) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    )
    return {
        "bmp": b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, -height, 1, 24, *[0] * 6),
        "jpg": b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff\xc0" + frame,
        "tif": b"II*\0" + struct.pack("<IH", 8, 2) + entries,
        "webp": b"RIFF" + struct.pack("<I", 30) + b"WEBP" + extended,
        "pgm": b"P5\n# a comment\n%d %d\n255\n" % (width, height),
    }


@pytest.mark.parametrize("ending", FORMATS)
def test_the_size_of_a_head_is_the_decoded_one(ending: str) -> None:
    image = np.random.default_rng(1).integers(0, 255, (37, 91, 3), np.uint8)
    data = cv2.imencode(ending, image if ending != ".pgm" else image[..., 0])[1].tobytes()
    assert image_size(data) == (91, 37)
    assert decode_image(data).shape[:2] == (37, 91)
    if ending == ".webp":
        lossy = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 50])[1].tobytes()
        assert image_size(lossy) == (91, 37)


@pytest.mark.parametrize("kind", ["bmp", "jpg", "tif", "webp", "pgm"])
def test_a_head_that_claims_too_much_is_refused_unread(kind: str) -> None:
    with pytest.raises(ValueError, match="pixels, at most"):
        decode_image(claims(60_000, 60_000)[kind])


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    data = png_bomb(12_000, 12_000)
    assert len(data) < 200_000
    with pytest.raises(ValueError, match=f"at most {PIXELS_MAX}"):
        decode_image(data)
    (tmp_path / "part.png").write_bytes(data)
    with pytest.raises(BadInputFormatError, match="12000 × 12000 pixels"):
        read_image(tmp_path / "part.png")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff\xff\xff",
        b"II*\0\xff\xff\xff\xff",
        b"RIFF\0\0\0\0WEBPVP8 ",
        b"P5\n",
        b"P5\n-1 5\n255\n",
        b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>',
        b"GIF89a\x01\x00\x01\x00",
        b"BM" + bytes(60),
    ],
)
def test_what_is_no_image_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode_image(data)


@pytest.mark.parametrize("name", ["part.svg", "part.png"])
def test_an_svg_is_never_rendered(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither under its own ending nor under another: it could name files and addresses."""
    (tmp_path / name).write_text('<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>')
    assert main(["inspect", str(tmp_path / name), "--model", "surface-12"]) != 0
    said = capsys.readouterr().err
    assert "[2003]" in said and f"{name} is n" in said


def rotated_jpeg(image: np.ndarray) -> bytes:
    """A JPEG with EXIF orientation 6: shown turned by 90 degrees clockwise."""
    data = cv2.imencode(".jpg", image)[1].tobytes()
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def test_a_photo_is_turned_as_its_camera_says_and_boxes_of_a_yolo_set_lie_on_the_turned_one(tmp_path: Path) -> None:
    """Tools for annotation show a photo turned; a box in shares of it must not be laid on the stored one."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    image = np.zeros((40, 120, 3), np.uint8)
    image[:, :40] = 255  # at the left: at the top when it is turned
    photo = tmp_path / "images" / "a.jpg"
    photo.write_bytes(rotated_jpeg(image))
    seen = read_image(photo)
    assert seen.shape == (120, 40, 3)
    assert seen[:30].mean() > 240 > 10 > seen[60:].mean()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.25 1.0 0.5\n")
    (tmp_path / "data.yaml").write_text("names: [scratch]\n")
    [sample] = load_dataset(tmp_path).samples
    assert sample.boxes.tolist() == [[0.0, 0.0, 40.0, 60.0]]
    for broken in (b"\xff\xd8\xff\xe1\xff\xffExif\0\0" + b"MM\0*" + b"\xff" * 60, b"\xff\xd8\xff\xe1\0\x02"):
        photo.write_bytes(broken)
        with pytest.raises(BadInputFormatError):
            read_image(photo)


def test_a_playlist_under_a_videos_name_fetches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """FFmpeg would follow it to any address or file, if it took the content for what it is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x.ts"
        lines = ("#EXTM3U", "#EXT-X-TARGETDURATION:1", "#EXTINF:1.0,", address, "#EXT-X-ENDLIST", "")
        (tmp_path / "part.mp4").write_text("\n".join(lines))
        assert main(["inspect", str(tmp_path / "part.mp4"), "--frames", "1"]) == 1
        with pytest.raises(TimeoutError):
            server.accept()
    assert "[2003]" in capsys.readouterr().err


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_of_16_bits_the_upper_8_are_taken_and_values_of_12_bits_are_refused(ending: str, tmp_path: Path) -> None:
    grey = np.random.default_rng(1).integers(40, 255, (37, 91), np.uint8)
    colour = np.stack([grey, grey // 2, grey // 3], axis=-1)
    for image in (grey, colour):
        deep = image.astype(np.uint16) << 8 | 0x5A
        data = cv2.imencode(ending, deep)[1].tobytes()
        read = decode_image(data)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, image)
    path = tmp_path / f"part{ending}"
    path.write_bytes(cv2.imencode(ending, grey.astype(np.uint16) << 4)[1].tobytes())
    with pytest.raises(BadInputFormatError, match="brightest pixel is 4064 of 65535"):
        read_image(path)


def test_pixels_that_are_no_whole_numbers_are_refused() -> None:
    data = cv2.imencode(".tif", np.full((8, 8), 0.5, np.float32))[1].tobytes()
    with pytest.raises(ValueError, match="float32: 8 or 16 bits are read"):
        decode_image(data)
