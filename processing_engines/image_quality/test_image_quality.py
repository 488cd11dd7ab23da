"""The image quality engine, called as an engine calls it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

from harmonicio.core.errors import InvalidInput
from harmonicio.core.message import Message
from harmonicio.engine.handler import load

QUALITY = load(str(Path(__file__).with_name("engine.py")))
IMAGES = Path(__file__).parents[2] / "examples" / "images"


def measured(payload: bytes) -> dict[str, float]:
    features: dict[str, float] = QUALITY.function(Message("m1", "micrographs", memoryview(payload)))
    return features


def tiff(pixels: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    tifffile.imwrite(encoded, pixels)
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
