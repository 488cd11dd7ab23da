"""Images out of payloads, with the declared size checked before anything is decoded.

A file of a few bytes can claim to hold 200,000 x 200,000 pixels; a decoder that believes it takes the memory of the
host. So the header is read first, and what is larger than the limit is refused. In a TIFF file that holds for tiles,
too, and only compressions are taken that say no sizes of their own (a JPEG 2000 stream of 2 KB can be 20,000 x 20,000
pixels) and whose decoders stop at the size that they are given.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonicio.core.errors import ConfigurationError, InvalidInput

MAX_PIXELS = 64 * 1024**2

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: None, LZW, deflate (two numbers), PackBits, LZMA, ZSTD.
_TIFF_COMPRESSIONS = (1, 5, 8, 32946, 32773, 34925, 50000)
_RAW_DTYPES = ("uint8", "uint16", "uint32", "int16", "int32", "float32", "float64")


def decode(payload: memoryview | bytes, metadata: Mapping[str, Any], *, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """Return the image that a payload holds.

    Args:
        payload: A TIFF or PNG file, or raw pixels in C order whose metadata has ``shape`` and ``dtype``.
        max_pixels: Samples (pixels times channels) that an image may have.

    Returns:
        Array of shape (height, width) or (height, width, channels); the first page of a TIFF, the colours of a palette.
        Raw pixels are a view of the payload.

    Raises:
        InvalidInput: it is no image of these kinds, is damaged, or declares more than ``max_pixels``.
        ConfigurationError: the package that decodes it is not installed.
    """
    head = bytes(memoryview(payload)[:8])
    if head == _PNG_MAGIC:
        return _decode_png(payload, max_pixels)
    if head[:4] in _TIFF_MAGICS:
        return _decode_tiff(payload, max_pixels)
    if "shape" in metadata and "dtype" in metadata:
        return _view_raw(payload, metadata["shape"], metadata["dtype"], max_pixels)
    raise InvalidInput(
        "The payload is not an image.", hint="Send TIFF or PNG, or raw pixels with 'shape' and 'dtype' as metadata."
    )


def grey(image: NDArray[Any]) -> NDArray[np.float64]:
    """Return an image of shape (height, width) as float64: the mean of three colours, without their opacity.

    Raises:
        InvalidInput: it has another number of dimensions, or complex numbers.
    """
    if image.dtype.kind not in "biuf":
        raise InvalidInput(f"Pixels of the type {image.dtype} have no grey.", hint="Send real numbers.")
    if image.ndim == 3 and image.shape[2] <= 4:
        image = image[:, :, : 3 if image.shape[2] >= 3 else 1].mean(axis=2)
    if image.ndim != 2:
        raise InvalidInput(f"An image of shape {image.shape} is not (height, width) or (height, width, channels).")
    return image.astype(np.float64)


def _decode_png(payload: memoryview | bytes, max_pixels: int) -> NDArray[Any]:
    try:
        from PIL import Image
    except ImportError:
        raise _missing("Pillow", "PNG") from None
    refused = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with Image.open(io.BytesIO(payload), formats=["PNG"]) as image:
            _check_size((*image.size[::-1], len(image.getbands())), max_pixels)
            return np.asarray(image.convert("RGB") if image.mode == "P" else image)
    except (*refused, OSError, SyntaxError, ValueError) as error:
        raise _damaged("PNG", error) from None


def _decode_tiff(payload: memoryview | bytes, max_pixels: int) -> NDArray[Any]:
    try:
        import tifffile
    except ImportError:
        raise _missing("tifffile", "TIFF") from None
    try:
        with tifffile.TiffFile(io.BytesIO(payload)) as file:
            page = file.pages.first
            _check_size(page.shape, max_pixels)
            if page.is_tiled:
                _check_size(page.chunks, max_pixels)
            if page.compression not in _TIFF_COMPRESSIONS:
                raise InvalidInput(
                    f"The TIFF file is compressed by {getattr(page.compression, 'name', page.compression)}.",
                    hint="Compress it without loss: LZW, deflate, LZMA or ZSTD.",
                )
            pixels: NDArray[Any] = page.asarray()
            # Colours one after the other instead of side by side.
            return np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels
    except InvalidInput:
        raise
    except Exception as error:  # noqa: BLE001  the decoders below tifffile raise errors of every kind on damaged files
        raise _damaged("TIFF", error) from None


def _view_raw(payload: memoryview | bytes, shape: object, dtype: object, max_pixels: int) -> NDArray[Any]:
    if dtype not in _RAW_DTYPES:
        raise InvalidInput(f"Raw pixels have the dtype {dtype!r:.40}.", hint=f"Use one of {', '.join(_RAW_DTYPES)}.")
    if not isinstance(shape, (list, tuple)) or len(shape) not in (2, 3) or not all(map(_is_side, shape)):
        raise InvalidInput(
            f"Raw pixels have the shape {shape!r:.60}.", hint="Use [height, width] or [height, width, channels]."
        )
    _check_size(tuple(shape), max_pixels)
    expected = math.prod(shape) * np.dtype(str(dtype)).itemsize
    if memoryview(payload).nbytes != expected:
        raise InvalidInput(f"Raw pixels of {shape} {dtype} are {expected} bytes, not {memoryview(payload).nbytes}.")
    return np.frombuffer(payload, dtype=str(dtype)).reshape(shape)


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check_size(shape: tuple[int, ...], max_pixels: int) -> None:
    if math.prod(shape) > max_pixels or not shape:
        sides = " x ".join(map(str, shape))
        raise InvalidInput(f"The image declares {sides} pixels, more than {max_pixels}.", hint="Send it in tiles.")


def _missing(package: str, kind: str) -> ConfigurationError:
    return ConfigurationError(
        f"The package {package}, which decodes {kind}, is not installed.", hint="Run: pip install 'harmonicio[haste]'"
    )


def _damaged(kind: str, error: Exception) -> InvalidInput:
    if isinstance(error, InvalidInput):
        return error
    # What a decoder looked up and did not find says nothing by itself.
    reason = "it is damaged" if isinstance(error, LookupError) else str(error) or type(error).__name__
    return InvalidInput(f"The {kind} file cannot be read: {reason}.")
