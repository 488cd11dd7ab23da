"""Extensions of the master: routes that another room brings, found by name and never imported by this one.

A row of the table or an entry point of the group ``harmonicio.master_extensions`` names a function ``create`` that is
given the master's data folder and returns an :class:`~harmonicio.control.extension.Extension`. One whose packages are
not installed is left out, and the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonicio.core.errors import ConfigurationError
from harmonicio.core.roles import Role
from harmonicio.master.endpoint import Call, Endpoint, Handler
from harmonicio.master.master import Master

if TYPE_CHECKING:
    from harmonicio.control.extension import Extension, ExtensionRoute

_log = logging.getLogger(__name__)

GROUP = "harmonicio.master_extensions"
_TABLE = {"haste": "harmonicio.haste.master_extension:create"}


def open_extensions(data_folder: Path) -> dict[str, Extension]:
    """Create every extension that is there, by name."""
    references = {point.name: point.value for point in entry_points(group=GROUP)} | _TABLE
    opened = {}
    for name, reference in sorted(references.items()):
        create = _load(name, reference)
        if create is not None:
            opened[name] = create(data_folder)
    return opened


def _load(name: str, reference: str) -> Callable[[Path], Extension] | None:
    module, _, attribute = reference.partition(":")
    try:
        create: Callable[[Path], Extension] = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        _log.info("The extension %r is left out: %s. Install harmonicio[%s] to have it.", name, error, name)
        return None
    except AttributeError as error:
        raise ConfigurationError(f"The extension {name!r} cannot be loaded: {error}.") from error
    return create


def extension_endpoints(extensions: dict[str, Extension]) -> list[Endpoint]:
    """Return the routes of the extensions as endpoints like all others."""
    return [_endpoint(name, route) for name, extension in extensions.items() for route in extension.routes]


def _endpoint(tag: str, route: ExtensionRoute) -> Endpoint:
    method = route.method.upper()
    name = f"{tag}.{method.lower()}.{route.path.rsplit('/', 1)[-1].strip('{}')}"
    text = (route.handler.__doc__ or f"Belongs to the extension {tag}.").strip()
    has_body = method in ("POST", "PUT")
    return Endpoint(
        method,
        route.path,
        _handler(route),
        _roles(route.roles),
        Any,
        tag,
        name,
        text,
        body=Any if has_body else None,
        query=Any,
    )


def _handler(route: ExtensionRoute) -> Handler:
    def handle(master: Master, call: Call) -> Any:
        return route.handler(call.names, call.body, call.query)

    return handle


def _roles(roles: Iterable[Role]) -> frozenset[Role]:
    return frozenset(roles)
