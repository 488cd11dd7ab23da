"""Streams: declared, shown, scaled and deleted."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from harmonicio.control import json_codec, paths
from harmonicio.control.messages import EngineCount, StreamView
from harmonicio.core.errors import InvalidInput
from harmonicio.core.hidden import options_without_secrets
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.endpoint import ADMIN_ONLY, LOOKING, Call, Routes
from harmonicio.master.master import Master

routes = Routes("streams")


@dataclass(frozen=True, slots=True)
class DeleteQuery:
    """``force`` deletes the messages that wait, too."""

    force: bool = False


@routes.get(paths.STREAMS, LOOKING, answer=tuple[StreamView, ...])
def list_all(master: Master, call: Call) -> tuple[StreamView, ...]:
    """List all streams with their engines and backlog."""
    return tuple(shown_to(call, each) for each in master.stream_views())


@routes.get(paths.STREAM, LOOKING, answer=StreamView)
def show(master: Master, call: Call) -> StreamView:
    """Show one stream."""
    return shown_to(call, master.stream_view(call.names["stream"]))


def shown_to(call: Call, view: StreamView) -> StreamView:
    """Return what the caller may see of a stream: secrets in its options are its administrators'."""
    if call.identity is not None and call.identity.role is Role.ADMIN:
        return view
    known = view.declaration
    parameters, plugins = options_without_secrets(known.parameters), options_without_secrets(known.plugins)
    return replace(view, declaration=replace(known, parameters=parameters, plugins=plugins))


def _declared(declaration: StreamDeclaration) -> dict[str, Any]:
    """Parameters and options of plugins may hold secrets: the digest says whether they are those of another time."""
    return {
        "handler": declaration.handler,
        "image": declaration.image,
        "engines": declaration.engines,
        "plugins": sorted(declaration.plugins),
        "sha256": hashlib.sha256(json_codec.dumps(declaration)).hexdigest(),
    }


@routes.put(paths.STREAM, ADMIN_ONLY, body=StreamDeclaration, answer=StreamDeclaration, note=_declared)
def declare(master: Master, call: Call) -> StreamDeclaration:
    """Declare a stream; the answer names the version. The same declaration again changes nothing."""
    if call.body.name != call.names["stream"]:
        raise InvalidInput(f"The path names stream {call.names['stream']!r}, the declaration {call.body.name[:100]!r}.")
    return master.streams.declare(call.body)


@routes.post(
    paths.STREAM_SCALE, ADMIN_ONLY, body=EngineCount, answer=StreamView, note=lambda count: {"engines": count.engines}
)
def scale(master: Master, call: Call) -> StreamView:
    """Run another number of engines; none that goes on is restarted."""
    master.streams.scale(call.names["stream"], call.body.engines)
    return master.stream_view(call.names["stream"])


@routes.post(paths.STREAM_RESTART, ADMIN_ONLY, answer=StreamView)
def restart(master: Master, call: Call) -> StreamView:
    """Replace a stream's engines one after another, by a new version of the same declaration."""
    master.streams.restart(call.names["stream"])
    return master.stream_view(call.names["stream"])


@routes.delete(paths.STREAM, ADMIN_ONLY, query=DeleteQuery)
def delete(master: Master, call: Call) -> None:
    """Delete a stream; refused while messages of it wait or arrive, unless forced."""
    master.streams.delete(call.names["stream"], is_forced=call.query.force)
