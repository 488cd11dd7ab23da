"""Image quality: is it in focus, and how are its pixels spread?

The power log-log slope (PLLS) is the slope of the radial power spectrum on log-log axes. A sharp image has much power
at high frequencies and a slope of about -1 to -2; blur makes it steeper. Bray et al. found it the best single measure
of focus: *Workflow and metrics for image quality control in large-scale high-content screens*, J Biomol Screen 17
(2012).

It is CellProfiler's ``MeasureImageQuality``, feature ``PowerLogLogSlope``, on ``centrosome.radial_power_spectrum.rps``:

    1. the image is divided by the median of its absolute deviations from its mean, and its mean is taken off
    2. power is the square of the magnitude of its 2-D Fourier transform
    3. power is summed over rings; a pixel's ring is its distance from the zero frequency, rounded down, plus 1, where
       both axes are folded as centrosome folds them: index i of n counts as min(i, n - 1 - i)
    4. a straight line through log(power) over log(ring), for the rings from 2 up to min(height, width) / 8, which is
       excluded

Sums over rings, not means: white noise has a slope of +1.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import laplace

PLLS = "power_log_log_slope"
MEAN, STANDARD_DEVIATION, LAPLACIAN_VARIANCE = "mean", "standard_deviation", "laplacian_variance"

#: Below this side there are not enough radii for a line.
MIN_SIDE_PX = 32


def image_quality(image: NDArray[np.float64]) -> dict[str, float]:
    """Return the image quality features.

    Args:
        image: Shape (height, width), any intensity unit.

    Returns:
        ``power_log_log_slope`` (no unit; NaN where it is not defined), ``mean`` and ``standard_deviation`` (intensity
        units), ``laplacian_variance`` (intensity units squared).
    """
    return {
        PLLS: power_log_log_slope(image),
        MEAN: float(image.mean()),
        STANDARD_DEVIATION: float(image.std()),
        LAPLACIAN_VARIANCE: float(laplace(image).var()),
    }


def power_log_log_slope(image: NDArray[np.float64]) -> float:
    """Return the slope of the radial power spectrum; NaN for a constant or too small image, or one that has NaN.

    Args:
        image: Shape (height, width).
    """
    if min(image.shape) < MIN_SIDE_PX or not np.isfinite(image).all() or image.min() == image.max():
        return float("nan")
    rings, power = radial_power_spectrum(image)
    is_used = power > 0
    if np.count_nonzero(is_used) < 2:
        return float("nan")
    slope, _ = np.polyfit(np.log(rings[is_used]), np.log(power[is_used]), 1)
    return float(slope)


def radial_power_spectrum(image: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return rings, and the power summed over each.

    Args:
        image: Shape (height, width), not constant.

    Returns:
        Two arrays of one length: rings from 2 up to min(height, width) / 8, excluded.
    """
    deviation = float(np.median(np.abs(image - image.mean()))) or 1.0
    normalised = image / deviation
    power = np.abs(np.fft.fft2(normalised - normalised.mean())) ** 2
    rings = np.arange(2, min(image.shape) // 8)
    sums = np.bincount(_rings(*image.shape), weights=power.ravel(), minlength=int(rings[-1]) + 1)
    return rings, np.asarray(sums[rings], dtype=np.float64)


@lru_cache(maxsize=4)
def _rings(height: int, width: int) -> NDArray[np.intp]:
    """Return the ring of each pixel of a spectrum, flattened."""
    rows, columns = (np.minimum(np.arange(side), np.arange(side)[::-1]) for side in (height, width))
    distances = np.sqrt(rows[:, None] ** 2 + columns[None, :] ** 2)
    rings: NDArray[np.intp] = np.floor(distances).astype(np.intp).ravel() + 1
    return rings
