"""Makes the containers of engines: looks at what is permitted, finds the image, and prepares what each one gets."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from harmonicio.control import json_codec
from harmonicio.control.engine_messages import CONFIGURATION_NAME
from harmonicio.core.errors import ConfigurationError, InvalidInput, NotAllowed, Unavailable
from harmonicio.core.settings import DockerSettings
from harmonicio.core.stream import StreamDeclaration
from harmonicio.worker.containers.container_plan import (
    ORDINARY_USER,
    ContainerLimits,
    ContainerSite,
    container_name,
    container_plan,
    limits_of,
    network_of,
    seen_inside,
)
from harmonicio.worker.containers.docker_host import DockerHost
from harmonicio.worker.containers.host_folders import host_folders
from harmonicio.worker.containers.image_name import ImageName, parse_image_name
from harmonicio.worker.containers.image_shelf import ImageShelf
from harmonicio.worker.containers.permits import check_image, check_needs
from harmonicio.worker.containers.scratch_volumes import ScratchVolumes
from harmonicio.worker.folder import SOCKET_FOLDER
from harmonicio.worker.runtimes.base import EngineSpec, RuntimeContext
from harmonicio.worker.runtimes.mark import write_mark


@dataclass(frozen=True, slots=True)
class ContainerMark:
    """What is kept of an engine's container in the engine's folder.

    Attributes:
        listen_host: Of the worker.
        network: Which one it joined.
        image: Digest of its image, once that has been found.
    """

    engine: str
    declaration: StreamDeclaration
    listen_host: str
    network: str
    image: str = ""


@dataclass(frozen=True, slots=True)
class ContainerOrder:
    """A container that may be made: everything that is known before its image has been found."""

    spec: EngineSpec
    image: ImageName
    mark: ContainerMark


class ContainerMaker:
    """Makes containers, and starts none.

    Args:
        host: Where they are made.
        context: Where the runtime works.

    Raises:
        ConfigurationError: ``docker.user`` is none.
    """

    def __init__(self, host: DockerHost, context: RuntimeContext) -> None:
        self._host = host
        self._settings: DockerSettings = context.docker
        self._worker = context.worker
        self._places = context.max_engines
        self._shelf = ImageShelf(host, context.docker.pull_timeout_s)
        self.owner = owner_of(context.docker.user)
        self._barred = (host.socket_path, str(context.folder.parent), str(context.scratch_folder))
        self.volumes = ScratchVolumes(
            context.scratch_folder / "containers", context.docker.scratch_max_bytes, self.owner
        )

    def __repr__(self) -> str:
        return f"<ContainerMaker {self._shelf!r}>"

    def check(self, spec: EngineSpec) -> ContainerOrder:
        """Return the order for an engine's container, when this host may run it; pulls nothing.

        Raises:
            InvalidInput, NotAllowed: it may not; says why.
        """
        declaration = spec.declaration
        if not declaration.image:
            raise InvalidInput(
                f"Stream {declaration.name!r} has a handler and no image.",
                hint="Run it on a worker with the process runtime, or give it an image.",
            )
        name = parse_image_name(declaration.image)
        check_image(name, self._settings)
        check_needs(declaration.container, self._settings)
        mark = ContainerMark(
            spec.engine,
            declaration,
            spec.configuration.listen_host,
            network_of(declaration.container, self._settings),
        )
        return ContainerOrder(spec, name, mark)

    def make(self, order: ContainerOrder, on_progress: Callable[[str], None]) -> tuple[str, ContainerMark]:
        """Make a container and return its id and mark, which is written.

        Args:
            on_progress: Told in words what is waited for, again and again; what it raises ends the waiting.

        Raises:
            HarmonicIOError, OSError: it cannot be made; folders and mark may be left.
        """
        spec = order.spec
        image = self._shelf.get(order.image, on_progress)
        mark = replace(order.mark, image=image.digest_in(order.image.repository, order.image.digest))
        if spec.image not in ("", mark.image):
            raise NotAllowed(
                f"Image {order.image} is {mark.image} by now, and the stream's engines run {spec.image}.",
                hint="To run the new one, scale the stream to 0 and back; or declare it by digest.",
            )
        limits = self.limits(spec.declaration)
        write_mark(spec.folder, mark)
        scratch_folder = self.volumes.make(spec.engine)
        given = replace(spec.configuration, image=mark.image)
        inside = json_codec.dumps(seen_inside(given, self._settings, limits.memory_bytes)) + b"\n"
        _write_for(self.owner, spec.folder / SOCKET_FOLDER / CONFIGURATION_NAME, inside)
        # As late as can be: who may write beside a folder could put a link in its place.
        folders = host_folders(spec.declaration, self._settings, self._barred, self.owner)
        site = ContainerSite(
            image.id,
            self.owner,
            self._worker,
            str(spec.folder / SOCKET_FOLDER),
            str(scratch_folder),
            limits,
            folders.writable,
            folders.readable,
            host_ip=_ip_of(spec.configuration.listen_host),
            volumes=image.volumes,
        )
        plan = container_plan(spec.configuration, site, self._settings)
        return self._host.create(container_name(spec.engine), plan), mark

    def limits(self, declaration: StreamDeclaration) -> ContainerLimits:
        """Return what an engine of a stream may use on this host."""
        return limits_of(
            declaration.container,
            self._settings,
            cpus=psutil.cpu_count() or 1,
            memory_bytes=psutil.virtual_memory().total,
            places=self._places,
        )


def owner_of(user: str) -> tuple[int, int]:
    """Return the user and group id that engines run as.

    Args:
        user: ``uid:gid``; empty takes our own, or of root's an ordinary user's.

    Raises:
        ConfigurationError: it is none, or root's.
    """
    if not user:
        return (os.geteuid(), os.getegid()) if os.geteuid() else ORDINARY_USER
    uid, _, gid = user.partition(":")
    if not all(each.isdecimal() and 0 < int(each) < 2**31 for each in (uid, gid)):
        raise ConfigurationError(
            f"docker.user is {user[:80]!r}.", hint="Give uid:gid as numbers; engines never run as root."
        )
    return int(uid), int(gid)


def _ip_of(host: str) -> str:
    """Return the address of a host's name: the Docker engine takes a name for all addresses.

    Raises:
        Unavailable: it is not known.
    """
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise Unavailable(
            f"The address of {host!r} is not known: {error.strerror}.", hint="See worker.host."
        ) from error


def _write_for(owner: tuple[int, int], path: Path, content: bytes) -> None:
    """Write a file that only its owner can read."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(file, "wb") as opened:
        opened.write(content)
        os.fchown(file, *owner)
