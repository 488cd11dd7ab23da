"""Stream declarations in a TOML file, as an administrator writes them.

    [streams.micrographs]
    handler = "engines/quality.py"        # relative to this file; or the name of an importable module
    engines = 4
    max_message_bytes = "2 GiB"
    parameters = { sigma = 1.5 }

The keys are the fields of :class:`~harmonicio.core.stream.StreamDeclaration`. Unknown keys are errors that name the
nearest known one.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harmonicio.control import json_codec
from harmonicio.control.settings_files import read_text
from harmonicio.core.errors import InvalidInput
from harmonicio.core.settings import nearest
from harmonicio.core.sizes import parse_size
from harmonicio.core.stream import ContainerNeeds, StreamDeclaration

#: The name is the table's, and the master counts the versions.
KEYS = tuple(item.name for item in dataclasses.fields(StreamDeclaration) if item.name not in ("name", "version"))
CONTAINER_KEYS = tuple(item.name for item in dataclasses.fields(ContainerNeeds))


def load_streams(file: Path) -> tuple[StreamDeclaration, ...]:
    """Read the declarations of a file, in its order.

    Raises:
        ConfigurationError: the file cannot be read.
        InvalidInput: it is not TOML, a key is unknown, or a value cannot be used; names file, stream and key.
    """
    return parse_streams(read_text(file, "stream file"), file.absolute())


def parse_streams(toml_text: str, file: Path) -> tuple[StreamDeclaration, ...]:
    """Return the declarations in ``toml_text``, with handlers relative to the folder of ``file``."""
    try:
        document = tomllib.loads(toml_text)
    except (ValueError, RecursionError) as error:  # Also of numbers and nesting that Python's reader gives up on.
        raise InvalidInput(f"{file} is not TOML: {str(error)[:200]}.") from None
    for key in document:
        if key != "streams":
            raise InvalidInput(f"{key[:80]!r} in {file} is not known.", hint="Write each stream as [streams.NAME].")
    tables = document.get("streams", {})
    if not isinstance(tables, dict) or not tables:
        raise InvalidInput(f"{file} declares no stream.", hint="Write each stream as [streams.NAME].")
    return tuple(_declaration(name, table, file) for name, table in tables.items())


def _declaration(name: str, table: Any, file: Path) -> StreamDeclaration:
    where = f"[streams.{name[:80]}] in {file}"
    if not isinstance(table, dict):
        raise InvalidInput(f"{where} is a value.", hint="Write a table of settings.")
    for key in table:
        if key not in KEYS:
            raise InvalidInput(f"{key[:80]!r} is unknown in {where}.", hint=nearest(key[:80], KEYS))
    try:
        fields = {key: _value(key, value, file.parent) for key, value in table.items()}
        return json_codec.from_plain(StreamDeclaration, {"name": name, **fields}).checked()
    except InvalidInput as error:
        text = error.text.replace("StreamDeclaration.", "")
        raise InvalidInput(f"{where} cannot be used: {text}", hint=error.hint) from None


def _value(key: str, value: Any, folder: Path) -> Any:
    if key.endswith("_bytes") and isinstance(value, str):
        return parse_size(value)
    if key == "handler" and isinstance(value, str) and value.endswith(".py") and "\0" not in value:
        return str((folder / value).resolve())
    if key == "container" and isinstance(value, Mapping):
        for inner in value:
            if inner not in CONTAINER_KEYS:
                raise InvalidInput(
                    f"{inner[:80]!r} is unknown in its container.", hint=nearest(inner[:80], CONTAINER_KEYS)
                )
        return {inner: _value(inner, each, folder) for inner, each in value.items()}
    if isinstance(value, Mapping):
        _check_plain(key, value)
    return value


def _check_plain(key: str, value: Mapping[str, Any]) -> None:
    """TOML has dates and times, which do not cross the control plane."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"{key} holds something that JSON cannot hold ({error}).", hint="Write it as text."
        ) from None
