"""Small pictures of images for a report: shrunk, stretched in contrast, and written into the page itself."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonicio.core.errors import InvalidInput

SIDE_PX = 160
#: The contrast is stretched between these percentiles, so that one hot pixel does not make the rest black.
STRETCH_PERCENT = (1.0, 99.7)


def thumbnail(image: NDArray[Any], side_px: int = SIDE_PX) -> str:
    """Return an image as a ``data:`` URI of a small 8-bit PNG.

    Args:
        image: Shape (height, width) or (height, width, channels), any numeric dtype.
        side_px: The larger side is at most this.

    Raises:
        InvalidInput: the image has another shape or no real pixels, or no finite one.
    """
    from PIL import Image

    if image.ndim not in (2, 3) or 0 in image.shape or image.dtype.kind not in "biuf":
        raise InvalidInput(f"There is no thumbnail of an array of shape {image.shape} and type {image.dtype}.")
    encoded = io.BytesIO()
    Image.fromarray(_stretched(_shrunk(_shown_channels(image), side_px))).save(encoded, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()


def _shown_channels(image: NDArray[Any]) -> NDArray[Any]:
    """Return grey (height, width) or colour (height, width, 3)."""
    if image.ndim == 3 and image.shape[2] < 3:
        return image[:, :, 0]
    return image[:, :, :3] if image.ndim == 3 else image


def _shrunk(image: NDArray[Any], side_px: int) -> NDArray[np.float64]:
    """Return the means of square blocks, so that noise shrinks with the image; what fills no block is left out."""
    height, width = image.shape[:2]
    factor = max(1, -(-max(height, width) // side_px))
    rows, columns = max(1, height // factor), max(1, width // factor)
    tall, wide = min(factor, height), min(factor, width)
    blocks = image[: rows * tall, : columns * wide].reshape(rows, tall, columns, wide, *image.shape[2:])
    means: NDArray[np.float64] = blocks.mean(axis=(1, 3), dtype=np.float64)
    return means


def _stretched(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    finite = image[np.isfinite(image)]
    if not finite.size:
        raise InvalidInput("There is no thumbnail of an image without a finite pixel.")
    low, high = np.percentile(finite, STRETCH_PERCENT)
    scaled = (np.nan_to_num(image, nan=low, posinf=high, neginf=low) - low) / ((high - low) or 1.0)
    stretched: NDArray[np.uint8] = (np.clip(scaled, 0.0, 1.0) * 255).round().astype(np.uint8)
    return stretched
