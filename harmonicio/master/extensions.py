"""Extensions of the master: routes that another room brings, found by name and never imported by this one.

A row of the table or an entry point of the group ``harmonicio.master_extensions`` names a function ``create`` that is
given the master's data folder and returns an :class:`~harmonicio.control.extension.Extension`. One whose packages are
not installed is left out, and the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonicio.control.extension import ChecksPlugin, ExtensionCall, RecordsOutcomes
from harmonicio.control.members import Family
from harmonicio.core.errors import ConfigurationError, StorageError
from harmonicio.core.message import Outcome, OutcomeKind
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.endpoint import Call, Endpoint, Handler
from harmonicio.master.master import Master

if TYPE_CHECKING:
    from harmonicio.control.extension import Extension, ExtensionRoute

_log = logging.getLogger(__name__)

EXTENSIONS = Family(
    "master extension", "harmonicio.master_extensions", {"haste": "harmonicio.haste.master_extension:create"}, "haste"
)


def open_extensions(data_folder: Path) -> dict[str, Extension]:
    """Create every extension that is there, by name."""
    opened = {}
    for name in EXTENSIONS.names():
        try:
            create = EXTENSIONS.load(name)
        except ConfigurationError as error:
            if not isinstance(error.__cause__, ModuleNotFoundError):
                raise
            _log.info("The extension %r is left out: %s", name, error)
        else:
            opened[name] = create(data_folder)
    return opened


def extension_endpoints(extensions: dict[str, Extension], make_room: Callable[[], None]) -> list[Endpoint]:
    """Return the routes of the extensions as endpoints like all others.

    Args:
        make_room: Called when one of them could not write.
    """
    return [_endpoint(name, route, make_room) for name, extension in extensions.items() for route in extension.routes]


def check_plugins(extensions: Mapping[str, Extension], declaration: StreamDeclaration) -> None:
    """Let the extensions look at a declaration's plugins; one that none of them knows may be installed on workers.

    Raises:
        ConfigurationError: no engine could use the options of a plugin.
    """
    for name, options in declaration.plugins.items():
        extension = extensions.get(name)
        if isinstance(extension, ChecksPlugin):
            extension.check(options)
        else:
            _log.info("Stream %s: the options of plugin %r are left to the engines to check.", declaration.name, name)


def find_outcome(
    extensions: Mapping[str, Extension], declaration: StreamDeclaration, message_id: str, size_bytes: int
) -> Outcome | None:
    """Return what an extension has recorded of a message whose engine could not tell; None when nothing is known.

    Raises:
        StorageError: it cannot be looked up now.
    """
    for name, options in declaration.plugins.items():
        extension = extensions.get(name)
        if isinstance(extension, RecordsOutcomes):
            result = extension.recorded(options, declaration.name, message_id, size_bytes)
            if result is not None:
                return Outcome(OutcomeKind.DONE, result)
    return None


def _endpoint(tag: str, route: ExtensionRoute, make_room: Callable[[], None]) -> Endpoint:
    method = route.method.upper()
    name = f"{tag}.{method.lower()}.{route.path.rsplit('/', 1)[-1].strip('{}')}"
    text = (route.handler.__doc__ or f"Belongs to the extension {tag}.").strip()
    has_body = method in ("POST", "PUT")
    return Endpoint(
        method,
        route.path,
        _handler(route, make_room),
        frozenset(route.roles),
        Any,
        tag,
        name,
        text,
        body=Any if has_body else None,
        query=Any,
    )


def _handler(route: ExtensionRoute, make_room: Callable[[], None]) -> Handler:
    def handle(master: Master, call: Call) -> Any:
        try:
            engine = call.identity.engine if call.identity is not None else ""
            return route.handler(ExtensionCall(call.names, call.body, call.query, engine))
        except StorageError:
            make_room()  # What is processed leaves a full disk only if its rows can be written.
            raise

    return handle
