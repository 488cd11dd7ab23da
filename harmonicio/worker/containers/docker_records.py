"""Images, builds and events of a Docker engine, as plain records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Image:
    """An image of this host.

    Attributes:
        id: By which containers are made; the digest of its configuration.
        digests: ``repository@sha256:…`` for each registry that it was pulled from or pushed to.
        volumes: Paths that its maker wants to be writable.
    """

    id: str
    digests: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    labels: Mapping[str, str] | None = None
    size_bytes: int = 0
    volumes: tuple[str, ...] = ()

    def digest_in(self, repository: str, wanted: str = "") -> str:
        """Return the digest under which everybody finds it in a repository, or, of a local image, its id.

        Args:
            wanted: The digest by which it was asked for, if it was; another one of the same image is not meant.
        """
        known = sorted(
            digest for name, _, digest in (each.partition("@") for each in self.digests) if name == repository
        )
        return wanted if wanted in (*known, self.id) else known[0] if known else self.id


@dataclass(frozen=True, slots=True)
class BuildOrder:
    """An image to build.

    Attributes:
        folder: What the Dockerfile can copy; what its ``.dockerignore`` names is left out.
        tag: The image's name; empty: it gets none.
        dockerfile: Where that is, when not in the folder.
        target: Which stage of it; empty takes the last.
        arguments: Of the Dockerfile (``ARG``).
        network: ``none``: the build reaches nothing; empty: what the Docker engine gives it.
    """

    folder: Path
    tag: str
    dockerfile: Path | None = None
    target: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    network: str = ""


@dataclass(frozen=True, slots=True)
class DockerEvent:
    """Something that happened to a container, like ``die`` or ``health_status: unhealthy``."""

    action: str
    labels: Mapping[str, str]

    @property
    def exit_code(self) -> int | None:
        """Of a container that died."""
        code = self.labels.get("exitCode", "")
        return int(code) if code.isdecimal() else None

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> DockerEvent:
        return cls(str(raw.get("Action") or ""), (raw.get("Actor") or {}).get("Attributes") or {})


def image_of(found: Mapping[str, Any]) -> Image:
    """Return an image from what the Docker engine says of it."""
    labels = (found.get("Config") or {}).get("Labels") or found.get("Labels") or {}
    return Image(
        id=str(found["Id"]),
        digests=tuple(each for each in found.get("RepoDigests") or () if not each.startswith("<none>")),
        tags=tuple(each for each in found.get("RepoTags") or () if not each.startswith("<none>")),
        labels=dict(labels),
        size_bytes=int(found.get("Size") or 0),
        volumes=tuple((found.get("Config") or {}).get("Volumes") or ()),
    )
