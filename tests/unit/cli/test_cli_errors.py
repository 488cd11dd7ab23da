"""Every error is one readable line on standard error, with an exit code that tells a script what happened."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from harmonicio.cli import app
from harmonicio.cli.__main__ import exit_code_of, main
from harmonicio.control.settings_files import write_token_file
from harmonicio.core import errors


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without settings, who stands in an empty folder."""
    monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that was written to standard error."""
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.count("\n") == 1
    return written.err.strip()


def interrupt(_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.ConfigurationError(""), 2),
        (errors.InvalidInput(""), 2),
        (errors.MasterUnavailable(""), 3),
        (errors.BacklogFull(""), 3),
        (errors.NotAllowed(""), 1),
        (errors.NotFound(""), 1),
    ],
)
def test_the_exit_code_tells_what_kind_of_error_it_was(error: errors.HarmonicIOError, exit_code: int) -> None:
    assert exit_code_of(error) == exit_code


def test_ctrl_c_before_the_command_has_begun_is_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "build", interrupt)
    assert main(["status"]) == 130
    assert complaint(capsys) == "Interrupted."


def test_without_a_token_the_command_says_where_one_belongs(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert main(["status"]) == 1
    assert f"Put one into {home}/tokens/admin.token" in complaint(capsys)


def test_a_master_that_is_not_there_is_named_with_its_address(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    write_token_file(home / "tokens" / "admin.token", "secret")
    with socket.socket() as bound_but_not_listening:
        bound_but_not_listening.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound_but_not_listening.getsockname()[1]}"
        assert main(["--master", url, "worker", "ls"]) == 3
    assert complaint(capsys).startswith(f"error: The master at {url} does not answer")


def test_a_misspelt_setting_names_the_nearest_one(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    (home / "harmonicio.toml").write_text("[master]\nprot = 1\n")
    assert main(["config"]) == 2
    assert complaint(capsys).endswith("Did you mean 'master.port'?")


def test_a_variable_that_is_like_no_setting_is_not_said_to_be_like_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARMONICIO_NOPE", "1")
    assert main(["config"]) == 2
    assert "Did you mean" not in complaint(capsys)
    monkeypatch.setenv("HARMONICIO_MASTER_PROT", "1")
    monkeypatch.delenv("HARMONICIO_NOPE")
    assert main(["config"]) == 2
    assert "Did you mean 'HARMONICIO_MASTER_PORT'?" in complaint(capsys)


def test_an_unknown_role_is_refused_before_the_master_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "create", "mic", "--role", "sourse"]) == 2
    assert complaint(capsys) == "error: 'sourse' is not the role of a token. Did you mean 'source'?"


def test_nothing_from_elsewhere_reaches_the_terminal_as_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", "apply", "a\x1b[2Jb\nc.toml"]) == 2
    assert r"a\x1b[2Jb\nc.toml" in complaint(capsys)


@pytest.mark.parametrize(
    "arguments", [["stats"], ["stream", "scale"], ["stream", "scale", "s", "-1"], ["status", "-x"]]
)
def test_a_command_that_cannot_be_used_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Usage: harmonicio" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["up", "none.py"], "There is no file none.py. Give a handler (FILE.py) or streams (FILE.toml)."),
        (["up", "."], ". is a folder. Name its file, like engine.py."),
        (["up", "notes.txt"], "notes.txt is not a Python file. Give a handler (FILE.py) or streams (FILE.toml)."),
        (
            ["up", "s.toml", "--engines", "2"],
            "--stream and --engines are for a handler or an image; s.toml says both itself.",
        ),
        (["up", "none.toml"], "The stream file none.toml cannot be read: No such file or directory."),
        (["up", "--stream", "a/b"], "'a/b' is not a stream name."),
        (["engine", "run", "notes.txt", "--stream", "s"], "notes.txt is not a Python file. Give a handler (FILE.py)."),
    ],
)
def test_a_handler_that_cannot_be_one_is_refused_before_anything_starts(
    arguments: list[str], text: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "notes.txt").touch()
    (home / "s.toml").write_text("[streams.s]\nhandler = 's.py'\n")
    assert main(arguments) == 2
    assert complaint(capsys).startswith(f"error: {text}")
