"""``harmonicio image …``: images of engines on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import typer

from harmonicio.cli import console, invocation
from harmonicio.control.engine_description import PREFIX, EngineDescription, ParameterDescription, from_labels
from harmonicio.core.errors import InvalidInput, NotFound
from harmonicio.core.settings import DockerSettings
from harmonicio.core.sizes import format_size
from harmonicio.worker.containers.docker_host import DockerHost
from harmonicio.worker.containers.docker_records import BuildOrder, Image
from harmonicio.worker.containers.image_builder import build_engine_image, describe, own_labels
from harmonicio.worker.containers.image_name import parse_image_name
from harmonicio.worker.containers.image_shelf import ImageShelf

app = typer.Typer(no_args_is_help=True)

#: All that this machine has of an engine's image is found by this label.
_MARK = f"{PREFIX}protocol"
#: What an engine's image begins with, unless its Dockerfile says otherwise.
BASE_IMAGE = "harmonicio/engine-base"
_SEE_ALL = "To see all that the build says, add --verbose."


@app.command("build")
def build(
    context: typer.Context,
    folder: Path = typer.Argument(help="Holds engine.py and a Dockerfile."),
    tag: str | None = typer.Option(None, help="The image's name; by default the folder's."),
    base: str | None = typer.Option(None, "--from", help="Image to begin with, as BASE_IMAGE of the Dockerfile."),
    is_offline: bool = typer.Option(False, "--offline", help="Build without any network."),
    is_verbose: bool = typer.Option(False, "--verbose", help="Show everything that the build says."),
) -> None:
    """Build the image of an engine; its labels say what it is."""
    if not (folder / "Dockerfile").is_file():
        raise InvalidInput(
            f"There is no {folder / 'Dockerfile'}.", hint="Make a folder with: harmonicio engine new NAME"
        )
    name = parse_image_name(tag or folder.resolve().name.lower())
    order = BuildOrder(
        folder.resolve(),
        name.tagged,
        arguments={"BASE_IMAGE": base} if base else {},
        network="none" if is_offline else "",
    )
    begun = time.monotonic()
    with _docker_host(context) as host:
        try:
            built = build_engine_image(host, order, console.say if is_verbose else _say_nothing)
        except InvalidInput as error:
            raise InvalidInput(error.text, hint=_what_may_lack(host, base) or error.hint or _SEE_ALL) from None
    console.say(
        f"Image {name.tagged} ({format_size(built.image.size_bytes)}) in {time.monotonic() - begun:.1f} s: "
        f"{_in_words(built.engine)}"
    )


@app.command("check")
def check(context: typer.Context, name: str = typer.Argument(help="The image's name.")) -> None:
    """Start the engine of an image for a moment, confined as engines are, and compare it with its labels."""
    with _docker_host(context) as host:
        image = ImageShelf(host, pull_timeout_s=0.0).get(parse_image_name(name), _say_nothing)
        labelled = from_labels(own_labels(image))
        found = from_labels(describe(host, image.id))
    if labelled != found:
        raise InvalidInput(
            f"The labels of {name} do not say what its engine is.", hint="Build it again: harmonicio image build FOLDER"
        )
    console.say(f"Image {name} ({format_size(image.size_bytes)}) starts as an ordinary user on a read-only disk.")
    console.say(_in_words(found))
    for parameter, about in found.parameters.items():
        console.say(f"  {parameter}: {_parameter(about)}")
    console.say(f"Digest: {image.digest_in(parse_image_name(name).repository)}")


@app.command("ls")
def list_all(context: typer.Context, as_json: bool = console.AS_JSON) -> None:
    """List the images of engines on this machine."""
    with _docker_host(context) as host:
        found = [(image, _engine_of(image)) for image in host.images(_MARK) if image.tags or image.digests]
    if as_json:
        console.show_json([{"image": image, "engine": engine} for image, engine in found])
        return
    console.show_table(
        ("image", "engine", "version", "takes", "returns", "parameters", "size"),
        [_row(image, engine) for image, engine in found],
        empty="There are no images of engines here. Make one: harmonicio engine new NAME",
    )
    for image, _ in found:  # Below the table, where none is folded: they are there to be copied.
        console.say(_by_digest(image))


def have_image(name: str, settings: DockerSettings) -> None:
    """Have an image on this machine, pulled if need be.

    Raises:
        NotFound: it cannot be had; says how to build it.
    """
    image = parse_image_name(name)
    said: list[str] = []

    def say_once(progress: str) -> None:
        if not said:
            console.say(f"Image {image.tagged} is not on this machine; it is being pulled …")
        said.append(progress)

    # Without a registry or an owner it is a name of Docker's own images, and none of them is an engine.
    pull_timeout_s = settings.pull_timeout_s if "/" in image.repository else 0.0
    with closing(DockerHost(settings.url)) as host:
        try:
            ImageShelf(host, pull_timeout_s).get(image, say_once)
        except NotFound as error:
            reason = f" {error.text}" if said else ""
            raise NotFound(
                f"There is no image {name} on this machine.{reason}",
                hint=f"Build it: harmonicio image build FOLDER --tag {name.partition('@')[0]}",
            ) from None


@contextmanager
def _docker_host(context: typer.Context) -> Iterator[DockerHost]:
    with closing(DockerHost(invocation.of(context).settings().docker.url)) as host:
        yield host


def _what_may_lack(host: DockerHost, base: str | None) -> str:
    """Return what to do where this machine does not have the image that others begin with; empty where it has."""
    try:
        host.image(base or BASE_IMAGE)
    except NotFound:
        how = "Name another with --from." if base else "Build it in the repository of HarmonicIO: make images"
        return f"There is no image {base or BASE_IMAGE} on this machine. {how}"
    return ""


def _say_nothing(line: str) -> None:
    """What goes well says nothing."""


def _engine_of(image: Image) -> EngineDescription | None:
    """Return what the labels say; ``None`` when another version of HarmonicIO wrote them."""
    try:
        return from_labels(own_labels(image))
    except InvalidInput:
        return None


def _row(image: Image, engine: EngineDescription | None) -> tuple[console.Cell, ...]:
    name = ", ".join(image.tags or image.digests)
    if engine is None:
        return name, "(labels of another version)", "", "", "", "", format_size(image.size_bytes)
    parameters = ", ".join(f"{each}: {_parameter(about)}" for each, about in engine.parameters.items())
    size = format_size(image.size_bytes)
    return name, engine.name, engine.version, engine.takes, engine.returns, parameters, size


def _by_digest(image: Image) -> str:
    """Return the name by which a stream declares exactly this image."""
    repository = parse_image_name((image.tags or image.digests)[0]).repository
    return f"{repository}@{image.digest_in(repository)}"


def _in_words(engine: EngineDescription) -> str:
    version = f" {engine.version}" if engine.version else ""
    text = f": {engine.description}" if engine.description else ""
    return f"{engine.name}{version}, {engine.takes} -> {engine.returns or 'anything'}{text}"


def _parameter(about: ParameterDescription) -> str:
    kind = about.type or "any value"
    return f"{kind}, required" if about.is_required else f"{kind} = {about.default!r}"
