"""The folders of this host that a container gets: looked at, and made where they are not there yet.

Links are followed before anything is permitted, and what was permitted is what is given, not the name that led to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harmonicio.control.members import Family
from harmonicio.core.errors import InvalidInput, StorageError
from harmonicio.core.settings import DockerSettings
from harmonicio.core.stream import StreamDeclaration
from harmonicio.worker.containers.permits import check_folders

#: Each tells from the options of the engine plugin of its name which folders that writes to.
PLUGIN_FOLDERS = Family(
    "table of a plugin's folders",
    "harmonicio.plugin_folders",
    {"haste": "harmonicio.haste.folders:needed"},
    extra="haste",
)


@dataclass(frozen=True, slots=True)
class HostFolders:
    """Absolute paths, to write and to read only."""

    writable: tuple[str, ...]
    readable: tuple[str, ...]


def host_folders(
    declaration: StreamDeclaration, settings: DockerSettings, barred: Iterable[str], owner: tuple[int, int]
) -> HostFolders:
    """Return the folders that a declaration names, ready for use.

    Args:
        barred: What no folder may hold or lie in: the Docker engine's socket, and what belongs to the worker.
        owner: To whom folders belong that are made here.

    Raises:
        NotAllowed: one of them may not be given.
        InvalidInput: one to read from is not there.
        StorageError: one to write to cannot be made.
    """
    named = (*declaration.container.folders, *_of_plugins(declaration))
    writable = tuple(dict.fromkeys(map(_straight, named)))
    readable = tuple(map(_straight, declaration.container.reference_folders))
    own = [Path(os.path.realpath(each)) for each in barred if each]
    check_folders(map(Path, (*writable, *readable)), own, settings)
    for path in readable:
        if not os.path.isdir(path):
            raise InvalidInput(f"There is no folder {path} on this worker's host.")
    for path in writable:
        _make(Path(path), owner)
    return HostFolders(writable, readable)


def _straight(path: str) -> str:
    """Return a path that leads where it says, without links and without a way back up."""
    plain = os.path.normpath(path)
    if ".." in Path(path).parts or os.path.realpath(plain) != plain:
        raise InvalidInput(
            f"The folder {path} is a link, or leads over one or back up, to {os.path.realpath(path)}.",
            hint="Declare where it really is, so that it is the same inside the container.",
        )
    return plain


def _of_plugins(declaration: StreamDeclaration) -> Iterable[str]:
    known = PLUGIN_FOLDERS.names()
    for name, options in declaration.plugins.items():
        if name in known:
            yield from PLUGIN_FOLDERS.load(name)(options)


def _make(path: Path, owner: tuple[int, int]) -> None:
    """Make a folder that is not there, for whom the engines run as."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir(mode=0o755)
        except FileExistsError:
            if not path.is_dir():
                raise
            return
        if owner[0] != os.geteuid():
            os.chown(path, *owner, follow_symlinks=False)
    except OSError as error:
        raise StorageError(
            f"The folder {path} cannot be made for the engines: {error.strerror or error}.",
            hint="Make it, writable for the user that engines run as (docker.user).",
        ) from error
