"""Builds the images of this checkout: engine-base, master and worker, and those of processing_engines/.

No build reaches a network: what they install was fetched before (`make images` does both).
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import closing
from pathlib import Path

import harmonicio
from harmonicio.core.errors import HarmonicIOError
from harmonicio.core.sizes import format_size
from harmonicio.worker.containers.docker_host import DockerHost
from harmonicio.worker.containers.docker_records import BuildOrder
from harmonicio.worker.containers.image_builder import build_engine_image

REPOSITORY = Path(__file__).parents[2]
#: Each is a target of the Dockerfile beside this file.
TARGETS = {
    "engine-base": "What the image of an engine begins with.",
    "master": "The master of a HarmonicIO cluster.",
    "worker": "The controller of a host with engines, of a HarmonicIO cluster.",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--from", dest="base", default="python:3.11-slim", help="image with Python 3.11 to begin with")
    parser.add_argument("context", type=Path, help="folder with the wheels to install")
    given = parser.parse_args()
    try:
        with closing(DockerHost()) as host:
            build_all(host, given.base, given.context)
    except HarmonicIOError as error:
        print(f"error: {error}", file=sys.stderr)
        print("Another image to begin with can be given: make images BASE_IMAGE=…", file=sys.stderr)
        return 1
    return 0


def build_all(host: DockerHost, base: str, context: Path) -> None:
    """Build every image, and say how long each took."""
    for target, text in TARGETS.items():
        begun = time.monotonic()
        order = BuildOrder(
            context,
            f"harmonicio/{target}:latest",
            dockerfile=Path(__file__).with_name("Dockerfile").resolve(),
            target=target,
            arguments={"BASE_IMAGE": base},
            labels=_labels(target, text),
            network="none",
        )
        host.build(order, _say_nothing)
        _say(host, order.tag, begun)
    for folder in sorted(path.parent for path in (REPOSITORY / "processing_engines").glob("*/Dockerfile")):
        begun = time.monotonic()
        order = BuildOrder(folder, f"harmonicio/{folder.name}:latest", network="none")
        build_engine_image(host, order, _say_nothing)
        _say(host, order.tag, begun)


def _labels(title: str, text: str) -> dict[str, str]:
    """Return what every tool that shows images knows (OCI image specification, annotations)."""
    about = {"title": title, "description": text, "version": harmonicio.__version__, "licenses": "BSD-3-Clause"}
    return {f"org.opencontainers.image.{key}": value for key, value in about.items()}


def _say(host: DockerHost, tag: str, begun: float) -> None:
    print(f"Image {tag} ({format_size(host.image(tag).size_bytes)}) in {time.monotonic() - begun:.1f} s", flush=True)


def _say_nothing(line: str) -> None:
    """A build that goes well says nothing."""


if __name__ == "__main__":
    sys.exit(main())
