"""The green-channel sum, alone and with HASTE behind it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from harmonicio.engine import Message
from harmonicio.engine.handler import load
from harmonicio.haste.engine_plugin import create

GFP_SUM = load(str(Path(__file__).with_name("engine.py")))
#: 24 real images of the GFP channel, beside the repository.
PLATE_ROW = Path(__file__).parents[3] / "shared" / "data" / "plate_row"
BACKGROUND, SIDE_PX = 100, 64


def tiff(pixels: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    tifffile.imwrite(encoded, pixels)
    return encoded.getvalue()


def well(number: int, *, has_expression: bool) -> bytes:
    """Return a colour image: noise and bright red nuclei in all, green cells only where there is expression."""
    random = np.random.default_rng(number)
    image = random.poisson(BACKGROUND, (SIDE_PX, SIDE_PX, 3)).astype(np.uint16)
    image[20:40, 20:40, 0] += 8_000
    if has_expression:
        image[10:30, 30:50, 1] += 3_000
    return tiff(image)


def message(payload: bytes, **metadata: Any) -> Message:
    return Message("m1", "plates", memoryview(payload), metadata)


def test_it_sums_the_green_channel_and_no_other() -> None:
    image = np.zeros((4, 5, 3), np.uint16)
    image[:, :, 0], image[:, :, 1], image[:, :, 2] = 7, 60_000, 9
    assert GFP_SUM.function(message(tiff(image)))["green_sum"] == 20 * 60_000


def test_an_image_without_colours_is_a_green_channel() -> None:
    pixels = np.full((6, 7), 3, np.uint8)
    answer = GFP_SUM.function(message(pixels.tobytes(), shape=[6, 7], dtype="uint8"))
    assert answer == {"green_sum": 126.0, "has_expression": 1.0}


@pytest.mark.parametrize(("threshold", "expected"), [(125.9, 1.0), (126, 1.0), (126.1, 0.0)])
def test_the_threshold_itself_counts_as_expression(threshold: float, expected: float) -> None:
    answer = GFP_SUM.function(message(tiff(np.full((6, 7), 3, np.uint8))), threshold=threshold)
    assert answer["has_expression"] == expected


@dataclass(frozen=True)
class Context:
    stream: str = "plates"
    stream_version: int = 1
    engine: str = "engine-1"
    control_client: Any = None
    image: str = ""
    is_streaming: bool = False


def test_exactly_the_images_with_planted_expression_are_kept(tmp_path: Path) -> None:
    positives = {3, 4, 11, 17}
    folders = {name: {"folder": str(tmp_path / name)} for name in ("kept", "unscored")}
    options = {
        "function": {"name": "feature", "feature": "has_expression"},
        "policy": {"intervals": [[0, 0.5, "trash"], [0.5, 1, "kept"]]},
        "tiers": {**folders, "trash": {"driver": "trash"}},
        "feature_db": {"driver": "memory"},
    }
    threshold = 1.5 * BACKGROUND * SIDE_PX**2
    plugin = create(options, Context())
    for number in range(20):
        sent = Message(f"well{number}", "plates", memoryview(well(number, has_expression=number in positives)))
        plugin.handle(sent, lambda taken: GFP_SUM.function(taken, threshold=threshold))
    plugin.close()
    assert {file.name for file in (tmp_path / "kept" / "plates").iterdir()} == {f"well{each}" for each in positives}
    assert not list(tmp_path.glob("unscored/*/*"))


def test_the_green_channels_of_a_real_plate_have_the_sums_of_their_pixels() -> None:
    files = sorted(PLATE_ROW.glob("*.TIF"))
    if not files:
        pytest.skip(f"there is no plate at {PLATE_ROW}")
    for file in files:
        expected = float(tifffile.imread(file).sum(dtype=np.uint64))
        assert GFP_SUM.function(message(file.read_bytes()))["green_sum"] == expected
