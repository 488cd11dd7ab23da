"""What ``engine run`` declares: a handler, a program with its arguments, or an image."""

from __future__ import annotations

from pathlib import Path

import pytest

from harmonicio.cli.engine import declaration_of
from harmonicio.core.errors import InvalidInput


def command_of(text: str) -> list[str]:
    declaration = declaration_of(None, text, None, "cells", 3)
    assert (declaration.name, declaration.handler, declaration.engines) == ("cells", "harmonicio.engine.command", 3)
    words: list[str] = declaration.parameters["command"]
    return words


def test_a_handler_is_declared_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").touch()
    declaration = declaration_of(Path("mine.py"), None, None, "cells", 1)
    assert (declaration.handler, declaration.parameters) == (str(tmp_path / "mine.py"), {})


def test_a_program_is_declared_with_its_arguments_as_a_shell_would_split_them_and_no_more() -> None:
    assert command_of("segment --in {input} --out -") == ["segment", "--in", "{input}", "--out", "-"]
    assert command_of("""sh -c 'wc -c < "$0" | tr a b' {input}""") == ["sh", "-c", 'wc -c < "$0" | tr a b', "{input}"]
    assert command_of("cat $HOME/* ; reboot > '' # {id}") == ["cat", "$HOME/*", ";", "reboot", ">", "", "#", "{id}"]


def test_the_path_of_a_program_is_that_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command_of("./segment ./model") == [str(tmp_path / "segment"), "./model"]
    assert command_of("/opt/segment") == ["/opt/segment"]


def test_an_image_is_declared_by_its_name() -> None:
    declaration = declaration_of(None, None, "lab/cells:1.2", "cells", 2)
    assert (declaration.image, declaration.handler, declaration.engines) == ("lab/cells:1.2", "", 2)


@pytest.mark.parametrize(
    ("handler", "command", "image", "stream", "text"),
    [
        (None, None, None, "cells", "a handler, a program or an image. Give one: FILE.py, --exec"),
        (Path(__file__), "cat", None, "cells", "a handler, a program or an image. Give one: FILE.py, --exec"),
        (None, "cat", "cells", "cells", "a handler, a program or an image. Give one: FILE.py, --exec"),
        (None, "cat 'a", None, "cells", "cannot be read: No closing quotation. Close every quote."),
        (None, " ", None, "cells", "--exec names no program. Write it like --exec 'program --in {input}'."),
        (None, "cat {input}", None, None, "For which stream shall cat {input} run? Add --stream NAME."),
        (Path(__file__), None, None, None, "Add --stream NAME; or try it without a cluster: harmonicio up"),
        (None, None, "Cells", "cells", "'Cells' is no name of an image. Write it like lab/cells:1.2"),
        (None, None, "cells", None, "Add --stream NAME; or try it without a cluster: harmonicio up --image cells"),
    ],
)
def test_what_cannot_be_declared_is_refused_with_what_to_do(
    handler: Path | None, command: str | None, image: str | None, stream: str | None, text: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        declaration_of(handler, command, image, stream, 1)
    assert text in str(caught.value)
