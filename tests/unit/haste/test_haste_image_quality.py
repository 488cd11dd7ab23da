"""The features of images: what they are of known images, and that they follow the focus of real ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from harmonicio.haste.features.image_quality import PLLS, image_quality, power_log_log_slope, radial_power_spectrum
from harmonicio.haste.features.images import decode, grey

IMAGES = Path(__file__).parents[3] / "examples" / "images"
#: Real images of one plate in and out of focus, beside the repository.
PLATE = Path(__file__).parents[4] / "shared" / "data" / "hcs_focus"


def test_the_slope_of_an_image_made_with_a_power_law_is_that_of_the_law() -> None:
    side, exponent = 512, -3.0
    distance = np.hypot(*np.meshgrid(np.fft.fftfreq(side, 1 / side), np.fft.fftfreq(side, 1 / side)))
    amplitude = np.where(distance > 0, np.maximum(distance, 1) ** (exponent / 2), 0)
    phases = np.fft.fft2(np.random.default_rng(7).normal(size=(side, side)))
    image = np.fft.ifft2(amplitude * phases / np.abs(phases)).real
    # Summing over a ring, whose length grows with its radius, adds one to the slope.
    assert power_log_log_slope(image) == pytest.approx(exponent + 1, abs=0.1)


def test_white_noise_has_a_slope_of_one() -> None:
    noise = np.random.default_rng(3).normal(size=(512, 512))
    assert power_log_log_slope(noise) == pytest.approx(1.0, abs=0.1)


def test_the_slope_does_not_depend_on_brightness_or_contrast() -> None:
    image = tifffile.imread(IMAGES / "nuclei_cells3d.tif", key=30).astype(float)
    assert power_log_log_slope(3 * image + 100) == pytest.approx(power_log_log_slope(image), abs=1e-9)


@pytest.mark.parametrize(
    "image", [np.full((64, 64), 7.0), np.zeros((64, 64)), np.full((64, 64), np.nan), np.eye(31)], ids=str
)
def test_an_image_without_a_spectrum_has_no_slope(image: np.ndarray) -> None:
    assert math.isnan(power_log_log_slope(image))


def test_blur_lowers_slope_and_laplacian_variance_of_every_shipped_image() -> None:
    stack = tifffile.imread(IMAGES / "nuclei_cells3d.tif").astype(float)
    cases = [(plane, np.linspace(0, 3, 7)) for plane in stack[::6]]
    cases += [(tifffile.imread(path).astype(float), np.linspace(0, 6, 7)) for path in IMAGES.glob("*_1024.tif")]
    for image, sigmas_px in cases:
        rows = [image_quality(gaussian_filter(image, sigma)) for sigma in sigmas_px]
        for feature in (PLLS, "laplacian_variance"):
            assert spearmanr(sigmas_px, [row[feature] for row in rows]).statistic <= -0.9


def as_defined(image: np.ndarray) -> float:
    """Return the slope step by step as the module's text defines it, slowly and over the whole spectrum."""
    height, width = image.shape
    normalised = image / np.median(np.abs(image - image.mean()))
    power = np.abs(np.fft.fft2(normalised - normalised.mean())) ** 2
    sums: dict[int, float] = dict.fromkeys(range(2, min(height, width) // 8), 0.0)
    for row in range(height):
        for column in range(width):
            ring = math.isqrt(min(row, height - 1 - row) ** 2 + min(column, width - 1 - column) ** 2) + 1
            if ring in sums:
                sums[ring] += power[row, column]
    return float(np.polyfit(np.log(list(sums)), np.log(list(sums.values())), 1)[0])


@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (64, 40), (128, 129), (97, 256)], ids=str)
def test_the_slope_is_that_of_its_definition(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(sum(shape)).normal(100, 20, shape)
    for image in (noise, gaussian_filter(noise, 1.5), np.cumsum(noise, axis=1)):
        assert power_log_log_slope(image) == pytest.approx(as_defined(image), rel=1e-9)


def plate(name: str) -> list[np.ndarray]:
    if not PLATE.is_dir():
        pytest.skip(f"there is no plate at {PLATE}")
    return [grey(decode(path.read_bytes(), {})) for path in sorted((PLATE / name).iterdir())]


def test_a_real_plate_has_larger_slopes_in_focus_than_out_of_focus() -> None:
    in_focus, defocus = ([power_log_log_slope(image) for image in plate(name)] for name in ("in_focus", "defocus"))
    assert -2.0 < min(in_focus) < max(in_focus) < -1.1
    assert -3.2 < min(defocus) < max(defocus) < -2.5


@pytest.mark.parametrize(("name", "lowest", "highest"), [("in_focus", -1.82, -1.46), ("defocus", -2.72, -2.37)])
def test_the_spectrum_has_the_slopes_that_the_data_came_with(name: str, lowest: float, highest: float) -> None:
    """Those are over frequencies, not rings, of the square at the upper left."""
    slopes = []
    for image in plate(name):
        side = min(image.shape)
        rings, power = radial_power_spectrum(image[:side, :side])
        slopes.append(np.polyfit(np.log(rings - 1), np.log(power), 1)[0])
    assert (min(slopes), max(slopes)) == pytest.approx((lowest, highest), abs=0.05)


def test_features_are_the_same_when_taken_again() -> None:
    image = tifffile.imread(next(IMAGES.glob("epu*"))).astype(float)
    assert image_quality(image) == image_quality(image.copy())
