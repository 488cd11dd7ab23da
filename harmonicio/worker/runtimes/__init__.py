"""What starts engines: one member per file, found by name.

A package of somebody else's adds a member with an entry point of the group ``harmonicio.runtimes`` that names a class
like :class:`~harmonicio.worker.runtimes.base.Runtime`. Members are imported when they are opened, not before.
"""

from __future__ import annotations

from harmonicio.control.members import Family
from harmonicio.worker.runtimes.base import Runtime, RuntimeContext

RUNTIMES = Family(
    "runtime",
    "harmonicio.runtimes",
    {
        "docker": "harmonicio.worker.runtimes.docker:DockerRuntime",
        "memory": "harmonicio.worker.runtimes.memory:MemoryRuntime",
        "process": "harmonicio.worker.runtimes.process:ProcessRuntime",
    },
)


def open_runtime(name: str, context: RuntimeContext) -> Runtime:
    """Open the runtime called ``name``.

    Raises:
        ConfigurationError: there is none of that name, or it cannot be loaded.
    """
    kind: type[Runtime] = RUNTIMES.load(name)
    return kind(context)
