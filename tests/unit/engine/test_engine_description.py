"""What a handler is, told from its function without a call of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harmonicio.control.engine_description import EngineDescription, ParameterDescription
from harmonicio.engine import Message, StreamingMessage
from harmonicio.engine.description import describe
from harmonicio.engine.handler import Handler, load


def handler_of(
    function: Callable[..., Any], setup: Callable[..., Any] | None = None, *, streaming: bool = False, **said: str
) -> Handler:
    return Handler(function, setup, None, streaming, "engine.py", **said)


def test_everything_is_told_from_function_annotations_and_module() -> None:
    def gfp_sum(message: Message, *, threshold: float = 1.0, mode: str | None) -> dict[str, float]:
        """Sum the green channel.

        And more, which a list of engines has no room for.
        """
        raise AssertionError("nothing is called")

    assert describe(handler_of(gfp_sum, takes="TIFF or PNG image", version="2.1")) == EngineDescription(
        "gfp_sum",
        "2.1",
        "Sum the green channel.",
        "Message: TIFF or PNG image",
        "dict[str, float]",
        {
            "threshold": ParameterDescription("float", False, 1.0),
            "mode": ParameterDescription("str | None", True),
        },
    )


def test_a_handler_that_says_little_is_described_with_what_is_known() -> None:
    assert describe(handler_of(lambda message: None)) == EngineDescription("<lambda>", takes="Message")
    assert describe(handler_of(lambda message: None, streaming=True)).takes == "StreamingMessage"
    assert describe(handler_of(functools.partial(print))).name == "partial"
    assert describe(handler_of(len)).takes == "Message"


def test_annotations_that_are_no_text_are_told_without_their_package() -> None:
    def read(message, *, size=None): ...  # type: ignore[no-untyped-def]

    read.__annotations__ = {"message": StreamingMessage, "size": list[int] | None, "return": None}
    described = describe(handler_of(read, streaming=True))
    assert (described.takes, described.returns) == ("StreamingMessage", "None")
    assert described.parameters["size"].type == "list[int] | None"


def test_parameters_of_the_setup_are_told_and_required_by_one_is_required() -> None:
    def load_model(table: Mapping[str, Any], *, side_px: int, weights: Path = Path("w.bin")) -> Any: ...

    def classify(message: Any, model: Any, *, side_px: int = 3, edges: tuple[int, int] = (0, 9)) -> Any: ...

    assert describe(handler_of(classify, load_model)).parameters == {
        "edges": ParameterDescription("tuple[int, int]", False, [0, 9]),
        "weights": ParameterDescription("Path", False, None),
        "side_px": ParameterDescription("int", True),
    }


def test_a_loaded_file_brings_its_version_and_what_it_takes(tmp_path: Path) -> None:
    file = tmp_path / "described.py"
    file.write_text(
        "from harmonicio.engine import handler\n__version__ = 3\n@handler(takes='spectra')\ndef f(message): ..."
    )
    described = describe(load(str(file)))
    assert (described.version, described.takes) == ("3", "Message: spectra")
