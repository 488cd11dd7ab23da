"""What an engine is, told without running it: the labels of its image, and what ``--describe`` prints.

    io.harmonicio.engine.name          gfp_sum
    io.harmonicio.engine.takes         Message: TIFF or PNG image
    io.harmonicio.engine.parameters    {"threshold":{"type":"float","is_required":false,"default":1.0}}
    io.harmonicio.engine.protocol      1
                         version, description, returns: likewise, empty where nothing is known

A description has nothing that is not in the labels: what one side writes the other reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harmonicio.control import json_codec
from harmonicio.core.errors import InvalidInput

PREFIX = "io.harmonicio.engine."
#: Of what a worker and an engine say to each other: arguments, configuration, control socket, exit codes.
ENGINE_PROTOCOL = 1

_HINT = "Give the image the labels that this prints: python -m harmonicio.engine --describe FILE.py"


@dataclass(frozen=True, slots=True)
class ParameterDescription:
    """One parameter of an engine.

    Attributes:
        type: The annotation as it is written; empty where there is none.
        default: None, too, where JSON has no such value.
    """

    type: str
    is_required: bool
    default: Any = None


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """What an engine is.

    Attributes:
        name: The name of its function.
        version: Of the handler's module, in whatever form that has.
        description: One line.
        takes, returns: The types of message and result as they are written, and what a message holds.
    """

    name: str
    version: str = ""
    description: str = ""
    takes: str = ""
    returns: str = ""
    parameters: Mapping[str, ParameterDescription] = field(default_factory=dict)


_TEXTS = tuple(item.name for item in dataclasses.fields(EngineDescription) if item.name != "parameters")


def to_labels(description: EngineDescription) -> dict[str, str]:
    """Return the labels that say the same.

    Raises:
        InvalidInput: JSON has no such default.
    """
    labels = {name: str(getattr(description, name)) for name in _TEXTS}
    labels["parameters"] = json_codec.dumps(description.parameters).decode()
    labels["protocol"] = str(ENGINE_PROTOCOL)
    return {PREFIX + name: text for name, text in labels.items()}


def from_labels(labels: Mapping[str, str]) -> EngineDescription:
    """Return what the labels say; those of others are left alone.

    Raises:
        InvalidInput: one is missing or broken, or speaks of another protocol than ours; names it.
    """
    texts = {name: _text(labels, name) for name in _TEXTS}
    protocol = _text(labels, "protocol")
    if protocol != str(ENGINE_PROTOCOL):
        raise InvalidInput(
            f"The engine speaks protocol {protocol[:20]!r}, and this HarmonicIO speaks {ENGINE_PROTOCOL}.",
            hint="Build the image with this version of HarmonicIO.",
        )
    try:
        parameters = json_codec.loads(dict, _text(labels, "parameters"))
        return json_codec.from_plain(EngineDescription, {**texts, "parameters": parameters})
    except InvalidInput as error:
        raise InvalidInput(f"The label {PREFIX}parameters cannot be used: {error.text}", hint=_HINT) from None


def _text(labels: Mapping[str, str], name: str) -> str:
    text = labels.get(PREFIX + name)
    if not isinstance(text, str):
        raise InvalidInput(f"The label {PREFIX}{name} is missing.", hint=_HINT)
    return text
