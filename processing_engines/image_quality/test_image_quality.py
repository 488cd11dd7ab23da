"""The image quality engine, called as an engine calls it."""

from __future__ import annotations

import io
import warnings
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.ndimage import gaussian_filter

from harmonicio.core.errors import InvalidInput
from harmonicio.engine import Message
from harmonicio.engine.handler import load
from harmonicio.haste.engine_plugin import create
from harmonicio.haste.feature_db.base import RowFilter
from harmonicio.haste.feature_db.sqlite import SqliteFeatureDatabase

QUALITY = load(str(Path(__file__).with_name("engine.py")))
IMAGES = Path(__file__).parents[2] / "examples" / "images"


def measured(payload: bytes) -> dict[str, float]:
    features: dict[str, float] = QUALITY.function(Message("m1", "micrographs", memoryview(payload)))
    return features


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    encoded = io.BytesIO()
    tifffile.imwrite(encoded, pixels, **options)
    return encoded.getvalue()


def png(pixels: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


def test_a_micrograph_loses_slope_when_it_is_blurred() -> None:
    plane = tifffile.imread(IMAGES / "nuclei_cells3d.tif", key=30)
    slopes = [
        measured(tiff(gaussian_filter(plane.astype(np.float32), sigma_px)))["power_log_log_slope"]
        for sigma_px in (0, 1, 2, 3)
    ]
    assert slopes == sorted(slopes, reverse=True)


def test_the_same_image_has_the_same_features() -> None:
    payload = (IMAGES / "fei_tile0_1024.tif").read_bytes()
    features = measured(payload)
    assert features == measured(payload)
    assert set(features) == {"power_log_log_slope", "mean", "standard_deviation", "laplacian_variance"}


def test_what_is_no_image_is_refused_in_one_sentence() -> None:
    with pytest.raises(InvalidInput, match="not an image"):
        measured(b"<xml/>")


# ── with HASTE behind it ─────────────────────────────────────────────────────────────────────────────────────────────

RANDOM = np.random.default_rng(7)
GREY = RANDOM.integers(0, 4000, (64, 96)).astype(np.uint16)
COLOURS = RANDOM.integers(0, 255, (64, 96, 4)).astype(np.uint8)


def spoilt(value: float) -> np.ndarray:
    """Return pixels of which one is no number."""
    pixels = GREY.astype(np.float32)
    pixels[3, 4] = value
    return pixels


SCORED = {
    "8 bit": tiff((GREY // 16).astype(np.uint8)),
    "16 bit": tiff(GREY),
    "32 bit, BigTIFF, the other byte order": tiff(GREY.astype(np.uint32), bigtiff=True, byteorder=">"),
    "float": tiff(GREY.astype(np.float32)),
    "RGB": tiff(COLOURS[:, :, :3], photometric="rgb"),
    "RGBA": tiff(COLOURS, photometric="rgb", extrasamples=["unassalpha"]),
    "pages": tiff(np.stack([GREY, GREY // 2]), photometric="minisblack"),
    "tiles": tiff(GREY, tile=(16, 16), compression="zlib", predictor=2),
    "PNG, 16 bit": png(GREY),
    "PNG, RGBA": png(COLOURS),
    "PNG, black and white": png(GREY > 2000),
}
UNSCORED = {
    "1 x 1": (tiff(GREY[:1, :1]), "no finite number: power_log_log_slope"),
    "all the same": (tiff(np.full((64, 64), 7, np.uint16)), "no finite number: power_log_log_slope"),
    "NaN": (tiff(spoilt(np.nan)), "no finite number: power_log_log_slope, mean"),
    "infinite": (tiff(spoilt(np.inf)), "no finite number: power_log_log_slope, mean"),
    "at the end of all numbers": (tiff(RANDOM.random((64, 64)) * 1.7e308), "no finite number: power_log_log_slope"),
    "complex": (tiff(GREY.astype(np.complex64)), "complex64 have no grey"),
    "five channels": (tiff(np.dstack([GREY] * 5), photometric="minisblack", planarconfig="contig"), "(64, 96, 5)"),
    "volume": (tiff(np.zeros((16, 16, 16), np.uint8), volumetric=True, tile=(16, 16, 16)), "(16, 16, 16)"),
    "truncated TIFF": (tiff(GREY)[:4000], "The TIFF file cannot be read: failed to read"),
    "truncated TIFF, LZW": (tiff(GREY, compression="lzw")[:3000], "The TIFF file cannot be read"),
    "head of a TIFF": (tiff(GREY)[:100], "The TIFF file cannot be read"),
    "truncated PNG": (png(GREY)[:3000], "The PNG file cannot be read: image file is truncated"),
    "no image": (b"<xml/>", "The payload is not an image"),
    "nothing": (b"", "The payload is not an image"),
}


@dataclass(frozen=True)
class Context:
    stream: str = "micrographs"
    stream_version: int = 1
    engine: str = "engine-1"
    control_client: Any = None
    image: str = ""
    is_streaming: bool = False


def kept(folder: Path, payload: bytes) -> dict[str, Any]:
    """Return what an engine with HASTE answers; the payload is kept as it came, whatever that is."""
    options = {
        "function": {"name": "logistic", "preset": "haste-case-study-1"},
        "policy": {"intervals": [[0, 1, "A"]]},
        "tiers": {name: {"folder": str(folder / name)} for name in ("A", "unscored")},
        "feature_db": {"driver": "sqlite", "file": str(folder / "features.sqlite")},
    }
    plugin = create(options, Context())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = plugin.handle(Message("m1", "micrographs", memoryview(payload)), QUALITY.function)
    plugin.close()
    assert (folder / answer["tier"] / "micrographs" / "m1").read_bytes() == payload
    return answer


@pytest.mark.parametrize("name", SCORED)
def test_an_image_of_any_kind_has_features_and_a_score(tmp_path: Path, name: str) -> None:
    answer = kept(tmp_path, SCORED[name])
    assert (answer["tier"], answer["reason"]) == ("A", "")
    assert None not in answer["features"].values()


def test_an_image_that_comes_twice_has_one_record_and_the_same_features(tmp_path: Path) -> None:
    answers = [kept(tmp_path, SCORED["16 bit"]) for _ in range(2)]
    assert answers[0] == answers[1]
    with closing(SqliteFeatureDatabase(tmp_path / "features.sqlite")) as database:
        assert [row.features for row in database.rows(RowFilter())] == [answers[0]["features"]]
    assert [path.name for path in tmp_path.glob("*/micrographs/*")] == ["m1"]


@pytest.mark.parametrize("name", UNSCORED)
def test_an_image_that_cannot_be_measured_is_kept_unscored_with_the_reason(tmp_path: Path, name: str) -> None:
    payload, reason = UNSCORED[name]
    answer = kept(tmp_path, payload)
    assert (answer["tier"], answer["score"]) == ("unscored", None)
    assert reason in answer["reason"]
