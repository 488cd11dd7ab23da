"""How much information the bytes of a message hold. Put your own handler in its place, and keep the form."""

from __future__ import annotations

import numpy as np

from harmonicio.engine import Message, handler

__version__ = "0.1"


@handler(takes="any bytes")
def ENGINE_NAME(message: Message, *, min_entropy: float = 1.0) -> dict[str, float]:
    """Return the entropy of the payload in bits per byte, and whether it has content: 1 when that is enough, else 0.

    Bytes that are all the same, as of an image that was never exposed, have 0; noise and compressed data nearly 8.

    Args:
        min_entropy: The smallest entropy of a message that has content, in bits per byte.
    """
    counts = np.bincount(np.frombuffer(message.payload, np.uint8), minlength=256)
    shares = counts[counts > 0] / message.payload.nbytes
    entropy = float(np.sum(shares * np.log2(1 / shares)))
    return {"entropy": entropy, "has_content": float(entropy >= min_entropy)}
