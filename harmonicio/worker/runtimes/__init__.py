"""What starts engines: one member per file, found by name.

A package of somebody else's adds a member with an entry point of the group ``harmonicio.runtimes`` that names a class
like :class:`~harmonicio.worker.runtimes.base.Runtime`. Members are imported when they are opened, not before.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from harmonicio.core.errors import ConfigurationError
from harmonicio.worker.runtimes.base import OnExit, Runtime

GROUP = "harmonicio.runtimes"
_TABLE = {
    "memory": "harmonicio.worker.runtimes.memory:MemoryRuntime",
    "process": "harmonicio.worker.runtimes.process:ProcessRuntime",
}


def runtime_names() -> tuple[str, ...]:
    """Return the names of all runtimes that can be opened."""
    return tuple(sorted(_references()))


def open_runtime(name: str, folder: Path, on_exit: OnExit) -> Runtime:
    """Open the runtime called ``name`` on the folder of a worker's engines.

    Raises:
        ConfigurationError: there is none of that name, or it cannot be loaded.
    """
    references = _references()
    if name not in references:
        raise ConfigurationError(f"There is no runtime {name!r}.", hint=f"Use one of {', '.join(sorted(references))}.")
    module, _, attribute = references[name].partition(":")
    try:
        kind: type[Runtime] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"The runtime {name!r} cannot be loaded: {error}.", hint="Install the packages that it needs."
        ) from error
    return kind(folder, on_exit)


def _references() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=GROUP)} | _TABLE
