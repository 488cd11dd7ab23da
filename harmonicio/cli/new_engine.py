"""Makes the folder of a new engine from the files in ``engine_template/``.

What they are is checked with the rest of the code; only the engine's name is filled in.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from harmonicio.core.errors import Conflict, InvalidInput, StorageError
from harmonicio.core.names import MAX_NAME_LENGTH

#: Stands for the name in every file.
PLACEHOLDER = "ENGINE_NAME"


def make_engine_folder(name: str) -> tuple[str, ...]:
    """Make the folder ``name`` here, and return the names of its files.

    Raises:
        InvalidInput: an image, a folder and a function cannot all have this name; says which rule it breaks.
        Conflict: something of this name is there already.
        StorageError: it cannot be written.
    """
    check_engine_name(name)
    templates = dict(_templates())
    try:
        Path(name).mkdir()
        for file, text in templates.items():
            (Path(name) / file).write_text(text.replace(PLACEHOLDER, name), encoding="utf-8")
    except FileExistsError:
        raise Conflict(f"Something called {name} is here already.", hint="Choose another name, or move it.") from None
    except OSError as error:
        raise StorageError(f"The folder {name} cannot be written: {error.strerror or error}.") from error
    return tuple(sorted(templates))


def check_engine_name(name: str) -> str:
    """Return a name that an image, a folder, a stream and a Python function can all have.

    Raises:
        InvalidInput: it breaks a rule of one of them; says which.
    """
    if broken := _broken_rule(name):
        raise InvalidInput(f"The name {name[: MAX_NAME_LENGTH + 1]!r} {broken}.", hint=_proposal(name))
    return name


def _broken_rule(name: str) -> str:
    rules = (
        (re.fullmatch(r"[a-z0-9_]+", name), "has something other than small letters, digits and '_'"),
        (re.match(r"[a-z]", name), "does not begin with a letter, as a function in Python does"),
        (not name.endswith("_") and "___" not in name, "ends with '_' or has '___', which a name of an image may not"),
        (len(name) <= MAX_NAME_LENGTH, f"has more than {MAX_NAME_LENGTH} characters"),
        (not keyword.iskeyword(name) and name not in _taken(), "means something else in engine.py"),
    )
    return next((text for is_kept, text in rules if not is_kept), "")


def _proposal(name: str) -> str:
    """Return a hint with a name like the one that was given, where that makes one."""
    proposed = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_0123456789")
    return f"Choose one like {'count_cells' if _broken_rule(proposed) else proposed}."


def _templates() -> Iterator[tuple[str, str]]:
    for item in (files("harmonicio.cli") / "engine_template").iterdir():
        if item.is_file():
            yield item.name, item.read_text(encoding="utf-8")


def _taken() -> set[str]:
    """Return the names that the handler's file uses itself."""
    return {node.id for node in ast.walk(ast.parse(dict(_templates())["engine.py"])) if isinstance(node, ast.Name)}
