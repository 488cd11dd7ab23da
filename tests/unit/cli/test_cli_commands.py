"""The table of commands, and the commands that need no master."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import harmonicio
from harmonicio.cli import app, console, up
from harmonicio.cli.__main__ import main
from harmonicio.core.errors import InvalidInput


@pytest.mark.parametrize("command", app.COMMANDS, ids=lambda command: command.name)
def test_every_command_of_the_table_has_a_module_and_shows_its_help(
    command: app.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(command.module)
    assert hasattr(module, "app" if command.is_noun else "run")
    assert main([command.name, "--help"]) == 0
    assert command.help.split(".")[0] in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_help_is_text_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", "apply", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "TOML file with a table [streams.NAME] for each stream." in shown


def test_the_help_names_every_command_and_loads_none_of_them() -> None:
    program = (
        "import sys; from harmonicio.cli.__main__ import main; code = main(['--help']);"
        "print(sorted(name for name in sys.modules if name.startswith('harmonicio.cli.'))); sys.exit(code)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    *help_lines, loaded = run.stdout.splitlines()
    for command in app.COMMANDS:
        assert f" {command.name} " in "\n".join(help_lines)
        assert command.module not in loaded


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["harmonicio"] == harmonicio.__version__


def test_config_shows_values_origins_and_no_secret(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lab.toml"
    file.write_text("[client]\ntoken = 'canary-secret'\n[worker]\nmax_engines = 3\n")
    monkeypatch.setenv("HARMONICIO_WORKER_NAME", "w7")
    assert main(["--settings", str(file), "--master", "http://lab:1", "config"]) == 0
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    assert ["worker.max_engines", "3", str(file)] in [line[:3] for line in lines]
    assert ["worker.name", "w7", "HARMONICIO_WORKER_NAME"] in [line[:3] for line in lines]
    assert ["master.url", "http://lab:1", "argument"] in [line[:3] for line in lines]
    assert "canary-secret" not in shown


@pytest.mark.parametrize(
    ("file", "stream"), [("brightness.py", "brightness"), ("gfp_sum/engine.py", "gfp_sum"), ("über 1.py", "ber-1")]
)
def test_a_handler_that_up_starts_names_its_stream(tmp_path: Path, file: str, stream: str) -> None:
    handler = tmp_path / file
    handler.parent.mkdir(exist_ok=True)
    handler.touch()
    (declaration,) = up.declarations_of(handler, None, None, None)
    assert declaration.name == stream


@pytest.mark.parametrize(
    ("image", "stream"),
    [("cells", "cells"), ("lab.example:5000/em/cells:1.2", "cells"), (f"a/b@sha256:{'0' * 64}", "b")],
)
def test_an_image_that_up_starts_names_its_stream(image: str, stream: str) -> None:
    (declaration,) = up.declarations_of(None, image, None, 3)
    assert (declaration.name, declaration.image, declaration.handler, declaration.engines) == (stream, image, "", 3)
    (declaration,) = up.declarations_of(None, image, "plates", None)
    assert (declaration.name, declaration.engines) == ("plates", 1)


@pytest.mark.parametrize(
    ("what", "image", "text"),
    [
        (Path("mine.py"), "cells", "Engines run either mine.py or the image cells. Give one of them."),
        (None, "Cells", "'Cells' is no name of an image. Write it like lab/cells:1.2"),
    ],
)
def test_what_up_cannot_start_is_refused_with_what_to_do(what: Path | None, image: str, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        up.declarations_of(what, image, None, None)
    assert text in str(caught.value)


def test_a_table_shows_numbers_with_separators_and_hides_terminal_codes(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_table(("name", "count"), [("[red]a\x1b[2J", 12345), ("b", 0)])
    shown = capsys.readouterr().out
    assert "12,345" in shown
    assert r"[red]a\x1b[2J" in shown


def test_a_table_without_rows_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_table(("name",), [], empty="There is nothing.")
    assert capsys.readouterr().out == "There is nothing.\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.5, "9.5 s"), (60, "1 min"), (3_725, "1 h 2 min"), (180_000, "2 d 2 h")],
)
def test_a_duration_is_shown_with_its_two_largest_units(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text
