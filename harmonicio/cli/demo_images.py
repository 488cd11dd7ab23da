"""The images that ``harmonicio demo`` streams: real micrographs, each blurred by known amounts.

Two sources, because features depend on the instrument and each is calibrated for itself:

    nuclei    30 planes of a fluorescence stack, 256 x 256, sigma 0 to 3 px in 7 steps; those that hold nuclei, for
              the noise of an empty plane passes for sharpness
    cryo-em   4 tiles of cryo-TEM micrographs, 1024 x 1024, sigma 0 to 6 px in 24 steps

A folder of the user's own TIFF and PNG files is one source, streamed as it is. Those stay on disk: of however many and
however large files, one at a time is in memory.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from harmonicio.core.errors import InvalidInput
from harmonicio.core.names import MAX_MESSAGE_ID_BYTES, check_message_id
from harmonicio.core.printable import printable

OWN_SUFFIXES = (".tif", ".tiff", ".png")
OWN_SOURCE = "images"

_NUCLEI_PLANES, _NUCLEI_SIGMAS_PX = range(24, 54), np.linspace(0.0, 3.0, 7)
_TILE_SIGMAS_PX = np.linspace(0.0, 6.0, 24)


@dataclass(frozen=True, slots=True)
class DemoImage:
    """One message of the demonstration.

    Attributes:
        source: Which instrument it stands for; names the stream.
        message_id: Says image and blur.
        content: The image as a TIFF or PNG file: its bytes, or where it is.
        metadata: ``image`` and ``sigma_px`` where the blur is known.
    """

    source: str
    message_id: str
    content: bytes | Path
    metadata: dict[str, Any] = field(default_factory=dict)

    def read(self) -> bytes:
        """Return the bytes of the file.

        Raises:
            InvalidInput: it cannot be read (any more).
        """
        if isinstance(self.content, bytes):
            return self.content
        try:
            return self.content.read_bytes()
        except OSError as error:
            raise InvalidInput(f"The file {self.content} cannot be read: {error.strerror}.") from None


def shipped_images(folder: Path) -> Iterator[DemoImage]:
    """Yield the blurred copies of the images in ``examples/images``.

    Raises:
        InvalidInput: the folder does not hold them.
    """
    stack_file = folder / "nuclei_cells3d.tif"
    tiles = sorted(folder.glob("*_1024.tif"))
    if not stack_file.is_file() or not tiles:
        raise InvalidInput(
            f"{folder} does not hold the demonstration's images.", hint="Give your own with --images FOLDER."
        )
    stack = tifffile.imread(stack_file)
    for plane in _NUCLEI_PLANES:
        yield from _blurred("nuclei", f"plane{plane:02d}", stack[plane], _NUCLEI_SIGMAS_PX)
    for tile in tiles:
        yield from _blurred("cryo-em", tile.stem, tifffile.imread(tile), _TILE_SIGMAS_PX)


def own_images(folder: Path) -> Iterator[DemoImage]:
    """Yield the TIFF and PNG files below ``folder``, in the order of their names.

    Raises:
        InvalidInput: there are none, or no such folder.
    """
    if not folder.is_dir():
        raise InvalidInput(f"There is no folder {folder}.", hint="Give one that holds TIFF and PNG files.")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in OWN_SUFFIXES and path.is_file())
    if not files:
        raise InvalidInput(f"{folder} holds no TIFF or PNG file.", hint="Give a folder that does.")
    for path in files:
        name = path.relative_to(folder).as_posix()
        yield DemoImage(OWN_SOURCE, _message_id(name), path, {"image": printable(name)})


def _message_id(name: str) -> str:
    """Return the file's name where it can be an id; else what can be shown of it, told apart by a digest."""
    try:
        return check_message_id(name)
    except InvalidInput:
        shown = printable(name).encode()[: MAX_MESSAGE_ID_BYTES // 2].decode(errors="ignore")
        return f"{shown}~{blake2b(os.fsencode(name), digest_size=4).hexdigest()}"


def _blurred(source: str, name: str, image: NDArray[Any], sigmas_px: NDArray[np.float64]) -> Iterator[DemoImage]:
    for sigma_px in sigmas_px:
        pixels = gaussian_filter(image.astype(np.float32), float(sigma_px)) if sigma_px else image
        encoded = io.BytesIO()
        tifffile.imwrite(encoded, np.rint(pixels).astype(image.dtype))
        metadata = {"image": name, "sigma_px": float(sigma_px)}
        yield DemoImage(source, f"{name}/sigma{sigma_px:.2f}", encoded.getvalue(), metadata)
