"""Builds images of engines, which say in their labels what they are.

    folder with a Dockerfile ──build──► image ──run: --describe──► labels ──build──► image with labels, tagged

An engine describes itself inside its own image, where everything that its handler imports is installed; so whoever
reads the labels needs neither that nor a container.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harmonicio.control.engine_description import PREFIX, EngineDescription, from_labels
from harmonicio.core.errors import HarmonicIOError, InvalidInput
from harmonicio.core.printable import one_line
from harmonicio.worker.containers.container_plan import ORDINARY_USER, confined
from harmonicio.worker.containers.docker_host import DockerHost
from harmonicio.worker.containers.docker_records import BuildOrder, Image
from harmonicio.worker.runtimes.engine_log import last_words

DESCRIBE_WITHIN_S = 120
DESCRIBE_MEMORY_BYTES = 4 * 1024**3
TITLE, TEXT, VERSION = (f"org.opencontainers.image.{each}" for each in ("title", "description", "version"))


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """An image of an engine, and what it is."""

    image: Image
    engine: EngineDescription


def build_engine_image(host: DockerHost, order: BuildOrder, on_line: Callable[[str], None]) -> BuiltImage:
    """Build the image of an engine from its folder.

    Args:
        on_line: Told what the build says, line by line.

    Raises:
        InvalidInput: it cannot be built, or holds no engine that describes itself; nothing is tagged then.
    """
    plain = host.build(replace(order, tag=""), on_line)
    try:
        labels = own_labels(host.image(plain)) or describe(host, plain)
        engine = from_labels(labels)
        user = f"USER {ORDINARY_USER[0]}:{ORDINARY_USER[1]}\n"
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "Dockerfile").write_text(f"FROM {plain}\n{user}")
            host.build(BuildOrder(Path(folder), order.tag, labels=labels | _open_labels(engine)), on_line)
    except HarmonicIOError:
        host.remove_image(plain)
        raise
    return BuiltImage(host.image(order.tag), engine)


def own_labels(image: Image) -> dict[str, str]:
    """Return the labels that tell what an engine is; an engine in another language gets them from its Dockerfile."""
    return {name: text for name, text in (image.labels or {}).items() if name.startswith(PREFIX)}


def describe(host: DockerHost, image_id: str) -> dict[str, str]:
    """Let the engine of an image describe itself, confined as engines are and without any network.

    Raises:
        InvalidInput: it does not; says what it said instead.
    """
    command = [*host.command_of(image_id), "--describe"]
    plan: dict[str, Any] = {"Image": image_id, "Cmd": command, "Env": ["HOME=/tmp"], **confined(DESCRIBE_MEMORY_BYTES)}
    container = host.create("", plan)
    try:
        host.start(container)
        exit_code = host.wait(container, DESCRIBE_WITHIN_S)
        said, complaint = host.output(container)
    finally:
        host.remove(container)
    try:
        labels = json.loads(said)
    except ValueError:
        labels = None
    if exit_code or not isinstance(labels, dict):
        words = last_words(complaint.decode("utf-8", "replace")) or one_line(said.decode("utf-8", "replace"))[:200]
        raise InvalidInput(
            f"The image holds no engine that describes itself (exit code {exit_code}): {words or 'it says nothing'}",
            hint="It begins FROM harmonicio/engine-base and has /engine/engine.py, or its Dockerfile has the labels.",
        )
    return {str(name): str(text) for name, text in labels.items()}


def _open_labels(engine: EngineDescription) -> dict[str, str]:
    """Return the same for tools that know nothing of us (OCI image specification, annotations)."""
    labels = {TITLE: engine.name, TEXT: engine.description, VERSION: engine.version}
    return {name: text for name, text in labels.items() if text}
