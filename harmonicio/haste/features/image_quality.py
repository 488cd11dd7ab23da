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

Sums over rings, not means: white noise has a slope of +1. The ring of the frequency f (cycles per image) is f + 1, so
slopes are steeper than over frequencies, by about 0.3 for images. The division of step 1 makes all power larger or
smaller alike, which moves the line and does not tilt it; it is left out. Only low frequencies are transformed.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.fft import fft, rfft
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
        ``power_log_log_slope`` (no unit), ``mean`` and ``standard_deviation`` (intensity
        units), ``laplacian_variance`` (intensity units squared); NaN or infinite where they are not defined.
    """
    with np.errstate(over="ignore", invalid="ignore"):
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
    is_used = (power > 0) & np.isfinite(power)
    if np.count_nonzero(is_used) < 2:
        return float("nan")
    slope, _ = np.polyfit(np.log(rings[is_used]), np.log(power[is_used]), 1)
    return float(slope)


def radial_power_spectrum(image: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return rings, and the power summed over each, in squared intensity units.

    Args:
        image: Shape (height, width), each at least 32.

    Returns:
        Two arrays of one length: rings from 2 up to min(height, width) / 8, excluded.
    """
    rings = np.arange(2, min(image.shape) // 8)
    height, reach = image.shape[0], min(image.shape) // 8
    # The transform of real numbers has P[r, c] = P[-r, -c], so the first columns stand for the last ones, too.
    first_columns = rfft(image - image.mean(), axis=1)[:, : reach + 1]
    power = (np.abs(fft(first_columns, axis=0)) ** 2)[np.r_[0 : reach + 1, height - reach - 1 : height]]
    here, mirrored = _rings(height, reach)
    sums = np.bincount(here, weights=power.ravel(), minlength=reach + 2)
    sums += np.bincount(mirrored, weights=power[:, 1:].ravel(), minlength=reach + 2)
    return rings, np.asarray(sums[rings], dtype=np.float64)


@lru_cache(maxsize=8)
def _rings(height: int, reach: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rings of the first and last rows in the first columns, and of their mirrors but for column 0."""
    rows, columns = np.r_[0 : reach + 1, height - reach - 1 : height], np.arange(reach + 1)
    mirrored_rows = -rows % height
    return (
        _ring(np.minimum(rows, height - 1 - rows), columns, reach),
        _ring(np.minimum(mirrored_rows, height - 1 - mirrored_rows), columns[1:] - 1, reach),
    )


def _ring(rows: NDArray[np.intp], columns: NDArray[np.intp], reach: int) -> NDArray[np.intp]:
    """Return the ring of each pixel, by folded indices, flattened; all that is too far out is ring ``reach + 1``."""
    distances = np.sqrt(rows[:, None] ** 2 + columns[None, :] ** 2)
    rings: NDArray[np.intp] = np.minimum(np.floor(distances).astype(np.intp) + 1, reach + 1).ravel()
    return rings
