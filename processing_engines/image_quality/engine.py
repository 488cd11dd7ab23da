"""Is the image in focus? The features on which HASTE sorts micrographs into tiers."""

from __future__ import annotations

from harmonicio.engine import Message, handler
from harmonicio.haste.features.image_quality import image_quality
from harmonicio.haste.features.images import decode, grey


@handler
def quality(message: Message) -> dict[str, float]:
    """Return power log-log slope, mean, standard deviation and Laplacian variance of one image."""
    return image_quality(grey(decode(message.payload, message.metadata)))
