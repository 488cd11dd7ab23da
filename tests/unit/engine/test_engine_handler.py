"""Marking a handler, and loading the one that a file or module holds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from harmonicio.core.errors import ConfigurationError, InvalidInput
from harmonicio.engine import handler
from harmonicio.engine.handler import load

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Write a handler file and return its path; what was imported from there is forgotten afterwards."""
    before, path_before = set(sys.modules), list(sys.path)

    def write_file(code: str, name: str = "mine.py") -> str:
        path = tmp_path / name
        path.write_text("from harmonicio.engine import handler\n" + dedent(code))
        return str(path)

    yield write_file
    sys.path[:] = path_before
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_marked_function_can_still_be_called_as_it_is() -> None:
    @handler
    def double(message: int) -> int:
        return 2 * message

    assert double(4) == 8


def test_the_one_handler_of_a_file_is_loaded_with_its_options(write: Write) -> None:
    loaded = load(
        write(
            """
            def prepare(parameters): return parameters["gain"]

            @handler(setup=prepare, streaming=True)
            def scale(message, gain): return gain * message
            """
        )
    )
    assert loaded.is_streaming
    assert loaded.teardown is None
    assert loaded.setup is not None
    assert loaded.function(3, loaded.setup({"gain": 2})) == 6


def test_a_handler_may_take_parameters_beside_its_message(write: Write) -> None:
    assert load(write("@handler\ndef scale(message, *, gain): return gain * message")).function(3, gain=2) == 6


def test_a_handler_file_can_import_its_neighbours(write: Write, tmp_path: Path) -> None:
    (tmp_path / "its_neighbour_module.py").write_text("ANSWER = 42")
    loaded = load(write("from its_neighbour_module import ANSWER\n@handler\ndef tell(message): return ANSWER"))
    assert loaded.function(None) == 42


def test_a_handler_is_loaded_from_an_importable_module() -> None:
    loaded = load("harmonicio.engine.echo")
    assert loaded.origin == "harmonicio.engine.echo"


def test_a_handler_with_two_names_is_one(write: Write) -> None:
    assert load(write("@handler\ndef first(message): return 1\nalias = first")).function(None) == 1


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("def plain(message): return 1", "has no handler"),
        ("@handler\ndef a(m): ...\n@handler\ndef b(m): ...", r"2 handlers \(a, b\)"),
        ("import there_is_no_such_module", "ModuleNotFoundError: No module named 'there_is_no_such_module'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def broken(:", "SyntaxError"),
        ("@handler\ndef nothing(): ...", r"cannot be called with \(message\)"),
        ("@handler(setup=dict)\ndef lacks_state(message): ...", r"cannot be called with \(message, state\)"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_files_name_and_the_reason(write: Write, code: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        load(write(code))
    assert "mine.py" in str(caught.value)


def test_a_missing_file_or_module_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"no handler file /nowhere/at_all\.py"):
        load("/nowhere/at_all.py")
    with pytest.raises(ConfigurationError, match=r"no_such_package\.handlers cannot be imported"):
        load("no_such_package.handlers")


def test_only_what_can_be_called_can_be_marked() -> None:
    thing: Any = 3
    with pytest.raises(InvalidInput):
        handler(setup=dict)(thing)
