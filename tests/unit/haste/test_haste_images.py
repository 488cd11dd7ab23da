"""Images out of payloads, good and hostile."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from harmonicio.core.errors import ConfigurationError, InvalidInput
from harmonicio.haste.features.images import decode, grey

PIXELS = np.arange(48 * 40, dtype=np.uint16).reshape(48, 40)


def as_tiff(pixels: np.ndarray, **options: object) -> bytes:
    encoded = io.BytesIO()
    tifffile.imwrite(encoded, pixels, **options)
    return encoded.getvalue()


def as_png(pixels: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


@pytest.mark.parametrize("payload", [as_tiff(PIXELS), as_tiff(PIXELS, compression="zlib"), as_png(PIXELS)])
def test_tiff_and_png_files_give_their_pixels(payload: bytes) -> None:
    assert np.array_equal(decode(memoryview(payload), {}), PIXELS)


def test_raw_pixels_are_a_view_of_the_payload() -> None:
    payload = PIXELS.tobytes()
    image = decode(payload, {"shape": [48, 40], "dtype": "uint16"})
    assert np.array_equal(image, PIXELS)
    assert not image.flags.owndata


def test_a_tiff_that_declares_forty_billion_pixels_is_refused_at_once() -> None:
    small = bytearray(as_tiff(np.zeros((8, 8), np.uint8)))
    with tifffile.TiffFile(io.BytesIO(small)) as file:
        tags = file.pages.first.tags
        for tag in (tags["ImageWidth"], tags["ImageLength"]):
            struct.pack_into("<HIH" if tag.dtype == 3 else "<HII", small, tag.offset + 2, 4, 1, 0)
            struct.pack_into("<I", small, tag.offset + 8, 200_000)
    begun = time.monotonic()
    with pytest.raises(InvalidInput, match=r"200000 x 200000"):
        decode(bytes(small), {})
    assert time.monotonic() - begun < 1


def test_a_png_that_declares_too_much_is_refused() -> None:
    payload = bytearray(as_png(np.zeros((8, 8), np.uint8)))
    payload[16:24] = struct.pack(">II", 200_000, 200_000)
    with pytest.raises(InvalidInput):
        decode(bytes(payload), {})


@pytest.mark.parametrize(
    "payload", [b"", b"not an image at all", as_tiff(PIXELS)[:60], as_png(PIXELS)[:40], b"<OME xmlns='x'/>"]
)
def test_what_is_no_image_is_refused_with_a_reason(payload: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode(payload, {})


@pytest.mark.parametrize(
    "metadata",
    [
        {"shape": [48, 41], "dtype": "uint16"},
        {"shape": [48, 40], "dtype": "object"},
        {"shape": [-48, 40], "dtype": "uint16"},
        {"shape": "48x40", "dtype": "uint16"},
        {"shape": [200_000, 200_000], "dtype": "uint8"},
    ],
)
def test_raw_pixels_that_contradict_their_metadata_are_refused(metadata: dict) -> None:
    with pytest.raises(InvalidInput):
        decode(PIXELS.tobytes(), metadata)


def test_colours_are_averaged_to_grey() -> None:
    assert np.array_equal(grey(np.dstack([PIXELS * 0, PIXELS, PIXELS * 2])), PIXELS.astype(float))


def test_colours_are_the_last_axis_however_the_tiff_stores_them() -> None:
    colours = np.random.default_rng(1).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    apart = as_tiff(np.moveaxis(colours, -1, 0), photometric="rgb", planarconfig="separate")
    assert np.array_equal(decode(apart, {}), colours)
    assert np.array_equal(decode(as_tiff(colours, photometric="rgb"), {}), colours)


def test_a_palette_is_decoded_to_its_colours() -> None:
    image = Image.new("P", (8, 8), color=1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    assert decode(encoded.getvalue(), {})[0, 0].tolist() == [200, 100, 50]


@pytest.mark.parametrize(("channels", "expected"), [(1, 10.0), (2, 10.0), (3, 20.0), (4, 20.0)])
def test_opacity_is_no_part_of_grey(channels: int, expected: float) -> None:
    image = np.array([10, 20, 30, 255] if channels > 2 else [10, 255], np.uint8)[:channels]
    assert grey(np.tile(image, (4, 4, 1))).tolist() == np.full((4, 4), expected).tolist()


@pytest.mark.parametrize(
    "shape", [[0, 4], [True, 4], [-1, -4], [4], [], [1] * 70, "44", None, [2.0, 2.0], [2**40, 2**40]], ids=repr
)
def test_raw_pixels_of_an_impossible_shape_are_refused(shape: object) -> None:
    with pytest.raises(InvalidInput):
        decode(bytes(4), {"shape": shape, "dtype": "uint8"})


@pytest.mark.parametrize(("module", "payload"), [("tifffile", as_tiff(PIXELS)), ("PIL", as_png(PIXELS))])
def test_a_decoder_that_is_not_installed_is_named_with_its_extra(
    module: str, payload: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=r"harmonicio\[haste\]"):
        decode(payload, {})


@given(st.binary(max_size=300), st.sampled_from((b"", b"II*\0\x08\0\0\0", b"MM\0*", b"\x89PNG\r\n\x1a\n")))
def test_bytes_of_any_kind_are_an_image_or_refused(garbage: bytes, magic: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        decode(magic + garbage, {})


# ── bombs ────────────────────────────────────────────────────────────────────────────────────────────────────────────

SMALL = np.zeros((8, 8), np.uint8)
UNPACKED_BYTES = 200_000_000


def tiff_of(compression: int, strip: bytes, **tags: int) -> bytes:
    """Return a TIFF file of 8 x 8 pixels whose only strip is ``strip``."""
    head = bytearray(as_tiff(SMALL, tile=(16, 16) if tags else None))
    names = ("TileOffsets", "TileByteCounts") if tags else ("StripOffsets", "StripByteCounts")
    with tifffile.TiffFile(io.BytesIO(head)) as file:
        known = file.pages.first.tags
        for name, value in {"Compression": compression, names[0]: len(head), names[1]: len(strip), **tags}.items():
            struct.pack_into("<HII", head, known[name].offset + 2, 4, 1, value)
    return bytes(head) + strip


def png_of(pixels: bytes) -> bytes:
    """Return a PNG file of 8 x 8 grey pixels whose data unpacks to ``pixels``."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(pixels, 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


BOMBS: dict[str, Callable[[], bytes]] = {
    "deflate": lambda: tiff_of(8, zlib.compress(bytes(UNPACKED_BYTES), 1)),
    "packbits": lambda: tiff_of(32773, b"\x81\0" * 10**6),
    "zstd": lambda: tiff_of(50000, imagecodecs.zstd_encode(bytes(UNPACKED_BYTES))),
    "jpeg 2000": lambda: tiff_of(34712, imagecodecs.jpeg2k_encode(np.zeros((8_000, 8_000), np.uint8))),
    "png in tiff": lambda: tiff_of(34933, imagecodecs.png_encode(np.zeros((8_000, 8_000), np.uint8))),
    "one tile": lambda: tiff_of(8, zlib.compress(bytes(100)), TileWidth=64_000, TileLength=64_000),
    "png": lambda: png_of(bytes(UNPACKED_BYTES)),
}
MEASURE = """
import resource, sys
from harmonicio.core.errors import InvalidInput
from harmonicio.haste.features.images import decode
from pathlib import Path
payload = Path(sys.argv[1]).read_bytes()
for warm_up in sys.argv[2:]:
    decode(Path(warm_up).read_bytes(), {})
before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(decode(payload, {}).shape)
except InvalidInput as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) * 1024)
"""


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_unpacks_to_a_large_one_takes_no_memory(tmp_path: Path, name: str) -> None:
    files = {"bomb": BOMBS[name](), "tiff": as_tiff(PIXELS, compression="zlib"), "png": as_png(PIXELS)}
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    command = [sys.executable, "-c", MEASURE, *(str(tmp_path / file) for file in files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    said, grown_bytes = done.stdout.splitlines()
    assert said == "(8, 8)" or said.startswith(("The TIFF file", "The image declares")), said
    assert int(grown_bytes) < len(files["bomb"]) + 30e6


def test_a_lossy_compression_is_refused_with_what_to_use_instead() -> None:
    with pytest.raises(InvalidInput, match=r"compressed by JPEG\. Compress it without loss"):
        decode(as_tiff(np.zeros((64, 64), np.uint8), compression="jpeg"), {})


def test_complex_pixels_have_no_grey() -> None:
    with pytest.raises(InvalidInput, match="complex64 have no grey"):
        grey(decode(as_tiff(PIXELS.astype(np.complex64)), {}))
