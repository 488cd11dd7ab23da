"""What a loaded handler is, as its function, its annotations and its module say; nothing of it is called."""

from __future__ import annotations

import inspect
import json
from typing import Any

from harmonicio.control import json_codec
from harmonicio.control.engine_description import EngineDescription, ParameterDescription
from harmonicio.core.errors import InvalidInput
from harmonicio.engine.handler import Handler
from harmonicio.engine.parameters import Parameter, annotation_text, arguments_of, parameters_of


def describe(handler: Handler) -> EngineDescription:
    """Return what the handler is."""
    function = inspect.unwrap(handler.function)
    # Where handler and setup take the same parameter, it is required if one of them requires it.
    parameters = sorted(parameters_of(handler), key=lambda each: each.is_required)
    return EngineDescription(
        name=handler.name,
        version=handler.version,
        description=str(function.__doc__ or "").strip().partition("\n")[0].rstrip(),
        takes=_takes(handler),
        returns=annotation_text(getattr(function, "__annotations__", {}).get("return", inspect.Parameter.empty)),
        parameters={each.name: _parameter(each) for each in parameters},
    )


def _takes(handler: Handler) -> str:
    given = "StreamingMessage" if handler.is_streaming else "Message"
    kind = annotation_text(arguments_of(handler.function)[0].annotation) or given
    return f"{kind}: {handler.takes}" if handler.takes else kind


def _parameter(parameter: Parameter) -> ParameterDescription:
    default = None if parameter.is_required else _in_json(parameter.default)
    return ParameterDescription(parameter.type_text, parameter.is_required, default)


def _in_json(value: Any) -> Any:
    """Return the value as it will be read from JSON; None where JSON has no such value."""
    try:
        return json.loads(json_codec.dumps(value))
    except InvalidInput:
        return None
