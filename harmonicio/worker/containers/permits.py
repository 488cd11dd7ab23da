"""What a stream's containers may be and have on this host.

A declaration asks; the configuration of the worker, which only the administrator of its host writes, permits. What it
does not name is refused, whoever declared the stream. The socket of the Docker engine is never given to a container:
whoever has it owns the host.

Pure: paths come as they are after all links have been followed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePath

from harmonicio.core.errors import NotAllowed
from harmonicio.core.settings import DockerSettings
from harmonicio.core.stream import ContainerNeeds
from harmonicio.worker.containers.image_name import ImageName


def check_image(image: ImageName, settings: DockerSettings) -> None:
    """Raise NotAllowed when this host does not run the image."""
    if not image.matches(settings.images):
        listed = f"They are {', '.join(settings.images)}." if settings.images else "There are none."
        raise NotAllowed(
            f"Image {image} is not among those that this worker runs. {listed}",
            hint="The administrator of its host can add a pattern to docker.images.",
        )
    if settings.pin_digests and not image.digest:
        raise NotAllowed(
            f"Image {image} has a tag, which can change, and this worker runs images by digest only.",
            hint=f"Declare it as {image.repository}@sha256:…; see: harmonicio image ls",
        )


def check_needs(needs: ContainerNeeds, settings: DockerSettings) -> None:
    """Raise NotAllowed when a stream asks for more than this host gives."""
    _check_each(
        "network", (needs.network,) if needs.network else (), (settings.network, *settings.networks), "networks"
    )
    _check_each("device", needs.devices, settings.devices, "devices")
    _check_each("capability", needs.capabilities, settings.capabilities, "capabilities")
    _check_each("namespace", needs.namespaces, settings.namespaces, "namespaces")
    if needs.privileged and not settings.privileged:
        raise _refused("a privileged container", "docker.privileged")


def check_folders(folders: Iterable[PurePath], barred: Sequence[PurePath], settings: DockerSettings) -> None:
    """Raise NotAllowed when a folder is not below a permitted one, or leads to what no container gets.

    Args:
        folders: Where they really are, without links and without ``..``.
        barred: Likewise: the Docker engine's socket, and what belongs to the worker.
    """
    permitted = [PurePath(each) for each in settings.folders]
    for folder in folders:
        if not any(folder.is_relative_to(each) for each in permitted):
            raise _refused(f"the folder {folder} of its host", "docker.folders")
        for each in barred:
            if each.is_relative_to(folder) or folder.is_relative_to(each):
                raise NotAllowed(
                    f"The folder {folder} leads to {each}, the socket of the Docker engine or the worker's own folder, "
                    "which no container gets.",
                    hint="Name folders that hold data only.",
                )


def _check_each(kind: str, asked: Iterable[str], permitted: Iterable[str], setting: str) -> None:
    for each in asked:
        if each not in permitted:
            raise _refused(f"the {kind} {each!r}", f"docker.{setting}")


def _refused(what: str, setting: str) -> NotAllowed:
    return NotAllowed(
        f"The stream asks for {what}, which this worker does not give.",
        hint=f"The administrator of its host can permit it with {setting}.",
    )
