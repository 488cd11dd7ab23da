"""Members of a contract by name: a table row each, imported when it is used; other packages add entry points."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from harmonicio.core.errors import ConfigurationError


def load(kind: str, group: str, table: Mapping[str, str], name: object) -> Any:
    """Return the member called ``name``.

    Args:
        kind: What it is, for errors: "tier driver", "policy" …
        group: Entry-point group in which other packages offer members.
        table: Our own members, ``name: "module:attribute"``.

    Raises:
        ConfigurationError: there is no such member, or a package that it needs is not installed.
    """
    references = {point.name: point.value for point in entry_points(group=group)} | dict(table)
    if not isinstance(name, str) or name not in references:
        raise ConfigurationError(
            f"There is no {kind} {name!r:.60}.", hint=f"Known are {', '.join(sorted(references))}."
        )
    module, _, attribute = references[name].partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"The {kind} {name!r} needs the package {error.name}.", hint="Run: pip install 'harmonicio[haste]'"
        ) from None


def check_options(what: str, options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuse options that nobody would read.

    Raises:
        ConfigurationError: names the first unknown option and what is known.
    """
    for key in options:
        if key not in known:
            raise ConfigurationError(
                f"{what} has no option {key!r:.60}.", hint=f"Known are {', '.join(known) or 'none'}."
            )
