"""Members of a contract by name: runtimes, stores, tiers, functions, plugins.

Our own members are rows of a table, ``name: "module:attribute"``; other packages offer theirs as entry points. A member
is imported when it is used and not before, so that nobody needs the packages of members that he does not use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from harmonicio.core.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Family:
    """The members of one contract.

    Attributes:
        kind: What a member is, for errors: "runtime", "tier driver" …
        group: Entry-point group in which other packages offer members.
        table: Our own members.
        extra: The extra of this package with which our own members come.
    """

    kind: str
    group: str
    table: Mapping[str, str]
    extra: str = "all"

    def names(self) -> list[str]:
        """Return the names of all members that are offered, whether they can be loaded or not."""
        return sorted(self._references())

    def load(self, name: object) -> Any:
        """Return the member called ``name``.

        Raises:
            ConfigurationError: there is no such member, or it cannot be imported; caused by a ModuleNotFoundError when
                a package that it needs is not installed.
        """
        references = self._references()
        if not isinstance(name, str) or name not in references:
            raise ConfigurationError(
                f"There is no {self.kind} {name!r:.60}.", hint=f"Known are {', '.join(sorted(references))}."
            )
        module, _, attribute = references[name].partition(":")
        try:
            return getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"The {self.kind} {name!r} needs the package {error.name}, which is not installed.",
                hint=f"Run: pip install 'harmonicio[{self.extra}]'" if name in self.table else "",
            ) from error
        except (ImportError, AttributeError) as error:
            raise ConfigurationError(f"The {self.kind} {name!r} cannot be loaded: {error}.") from error

    def _references(self) -> dict[str, str]:
        return {point.name: point.value for point in entry_points(group=self.group)} | dict(self.table)
