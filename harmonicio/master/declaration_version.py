"""Which version a declaration gets: it tells engines of one recipe from those of another.

Pure.
"""

from __future__ import annotations

from dataclasses import replace

from harmonicio.core.stream import StreamDeclaration


def next_declaration(
    given: StreamDeclaration, current: StreamDeclaration | None, last_version: int
) -> StreamDeclaration:
    """Return the declaration as it is to be kept.

    The version counts what engines run with. A declaration that differs from the current one in nothing but the number
    of engines keeps its version, so that scaling restarts no engine.

    Args:
        given: As the administrator declares it; its version is ignored.
        current: The declaration in force, if there is one.
        last_version: The highest version that this stream's name has ever had.
    """
    if current is not None and replace(given, version=current.version, engines=current.engines) == current:
        return replace(given, version=current.version)
    return replace(given, version=last_version + 1)
