"""The master's routes for feature rows, without a web server between."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harmonicio.control.caller import _body_of
from harmonicio.control.extension import ExtensionCall
from harmonicio.core.errors import MasterUnavailable
from harmonicio.haste.master_extension import HasteExtension


class Routes:
    """A client of the master that calls the extension's routes as the master's application does, through JSON."""

    def __init__(self, extension: HasteExtension) -> None:
        self._extension = extension
        self._handlers = {route.method: route.handler for route in extension.routes}
        self.is_away = False
        self.refusals: list[Exception] = []
        self.requests: list[int] = []

    def post_feature_rows(self, stream: str, rows: Sequence[Mapping[str, Any]]) -> Any:
        if self.is_away:
            raise MasterUnavailable("The master does not answer.")
        if self.refusals:
            raise self.refusals.pop()
        self.requests.append(len(rows))
        return self._call("POST", stream, json.loads(_body_of(list(rows))), {})

    def feature_rows(self, stream: str, **filters: str | int | float) -> Any:
        return self._call("GET", stream, None, {key: str(value) for key, value in filters.items()})

    def _call(self, method: str, stream: str, body: Any, query: Mapping[str, str]) -> Any:
        answer = self._handlers[method](ExtensionCall({"stream": stream}, body, query))
        return json.loads(json.dumps(answer, allow_nan=False))

    def close(self) -> None:
        self._extension.close()
