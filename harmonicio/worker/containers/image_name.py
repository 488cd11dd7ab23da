"""Names of container images, and which of them a host lets run.

    registry.example:5000/lab/cells:1.2@sha256:0123…
    └─────── repository ─────────┘ tag  digest

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from harmonicio.core.errors import InvalidInput

#: What registries take: of the repository's name with its host, and of a tag.
MAX_REPOSITORY_LENGTH, MAX_TAG_LENGTH = 255, 128

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_REPOSITORY = re.compile(r"[a-z0-9](?:[a-z0-9._:-]*[a-z0-9])?(?:/[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class ImageName:
    """An image's name in its parts; ``tag`` and ``digest`` may be empty."""

    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return self.repository + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def tagged(self) -> str:
        """The name without a digest, by which a Docker engine knows it; without any tag it means ``latest``."""
        return f"{self.repository}:{self.tag or 'latest'}"

    def matches(self, patterns: Iterable[str]) -> bool:
        """Whether one of the patterns fits: the repository alone, with its tag, or the whole name.

        ``*`` stands for any text and ``?`` for one character, as in a shell; a ``*`` crosses slashes. A digest means
        the same whatever tag stands before it, so a pattern with a tag fits no name with a digest.
        """
        forms = {self.repository, str(self)} if self.digest else {self.repository, self.tagged}
        return any(fnmatchcase(form, pattern) for pattern in patterns for form in forms)


def parse_image_name(text: str) -> ImageName:
    """Return the parts of an image's name.

    Raises:
        InvalidInput: it is none. Ids of images are none either: they say nothing of where an image is from.
    """
    name, _, digest = text.partition("@")
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:  # No tag; what follows the colon is a registry's port.
        repository, tag = name, ""
    if len(repository) > MAX_REPOSITORY_LENGTH or len(tag) > MAX_TAG_LENGTH:
        raise InvalidInput(
            f"The name of an image that starts with {text[:40]!r} is too long.",
            hint=f"Use at most {MAX_REPOSITORY_LENGTH} characters before the tag, and {MAX_TAG_LENGTH} in it.",
        )
    is_valid = _REPOSITORY.fullmatch(repository) and (_TAG.fullmatch(tag) if tag else not name.endswith(":"))
    if not is_valid or (("@" in text) and not _DIGEST.fullmatch(digest)) or _DIGEST.fullmatch(text):
        raise InvalidInput(
            f"{text[:200]!r} is no name of an image.", hint="Write it like lab/cells:1.2, or lab/cells@sha256:…"
        )
    return ImageName(repository, tag, digest)
