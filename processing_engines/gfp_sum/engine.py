"""The amount of green fluorescent protein in an image, and whether that is enough to keep it.

The pixels of the green channel are summed, as Torruangwatthana et al. do to find the images of a time lapse in which
cells have taken up a drug and express GFP (*HarmonicIO: Scalable Data Stream Processing for Scientific Datasets*, 2018,
section IV-B).
"""

from __future__ import annotations

import numpy as np

from harmonicio.engine import Message, handler
from harmonicio.haste.features.images import decode


@handler
def gfp_sum(message: Message, *, threshold: float = 1.0) -> dict[str, float]:
    """Return ``green_sum``, and ``has_expression``: 1 when the sum reaches the threshold, else 0.

    An image with colours has its green in the second channel; one without is a green channel by itself.

    Args:
        threshold: The smallest green sum of an image with expression, in intensity units.
    """
    image = decode(message.payload, message.metadata)
    green = image[:, :, 1] if image.ndim == 3 and image.shape[2] >= 3 else image
    green_sum = float(green.sum(dtype=np.float64))
    return {"green_sum": green_sum, "has_expression": float(green_sum >= threshold)}
