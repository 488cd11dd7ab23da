"""Stream declarations as an administrator writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from harmonicio.control.stream_files import load_streams, parse_streams
from harmonicio.core.errors import ConfigurationError, InvalidInput
from harmonicio.core.stream import StreamDeclaration

FILE = Path("/lab/streams.toml")


def test_a_table_becomes_a_declaration() -> None:
    text = """
    [streams.micrographs]
    handler = "engines/quality.py"
    engines = 4
    timeout_s = 30
    max_message_bytes = "2 GiB"
    parameters = { sigma = 1.5, channels = ["green"] }
    plugins.haste = { policy = "interval" }
    [streams.spectra]
    image = "lab/spectra@sha256:00"
    """
    assert parse_streams(text, FILE) == (
        StreamDeclaration(
            "micrographs",
            handler="/lab/engines/quality.py",
            engines=4,
            timeout_s=30.0,
            max_message_bytes=2 * 1024**3,
            parameters={"sigma": 1.5, "channels": ["green"]},
            plugins={"haste": {"policy": "interval"}},
        ),
        StreamDeclaration("spectra", image="lab/spectra@sha256:00"),
    )


@pytest.mark.parametrize(
    ("handler", "meaning"),
    [
        ("quality.py", "/lab/quality.py"),
        ("../x.py", "/x.py"),
        ("/opt/x.py", "/opt/x.py"),
        ("lab.quality", "lab.quality"),
    ],
)
def test_a_relative_handler_file_is_found_beside_the_stream_file(handler: str, meaning: str) -> None:
    assert parse_streams(f"[streams.s]\nhandler = '{handler}'", FILE)[0].handler == meaning


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "declares no stream"),
        ("streams = 3", "declares no stream"),
        ("[stream.s]\nhandler = 'm'", "'stream' in .* is not known.*\\[streams.NAME\\]"),
        ("[streams.s", "is not TOML"),
        ("[streams]\ns = 3", r"\[streams.s\] .* is a value"),
        ("[streams.s]\nhandler = 'm'\nengnies = 2", "'engnies' is unknown.*Did you mean 'engines'?"),
        ("[streams.s]\nhandler = 'm'\nname = 't'", "'name' is unknown"),
        ("[streams.s]\nhandler = 'm'\nversion = 2", "'version' is unknown"),
        ("[streams.s]\nhandler = 'm'\nengines = '2'", "engines must be of type int"),
        ("[streams.s]\nhandler = 'm'\nengines = -2", "engines = -2.*Use 0 to 10000"),
        ("[streams.s]\nhandler = 'm'\nmax_message_bytes = 'much'", "'much' is not a size"),
        ("[streams.s]\nhandler = 'm'\nparameters = { from = 2026-01-01 }", "parameters holds something"),
        ("[streams.s]\nhandler = 'm'\nparameters = { k = nan }", "parameters holds something"),
        ("[streams.s]\nengines = 2", "needs either a handler or an image"),
        ('[streams.s]\nhandler = "/tmp/\\u0000x.py"', "printable"),
        ("[streams.'../s']\nhandler = 'm'", "is not a stream name"),
        ("[streams.s]\nhandler = 'm'\nordered = true\nengines = 2", "ordered"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        parse_streams(text, FILE)


def test_a_file_is_read_from_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "streams.toml").write_text("[streams.s]\nhandler = 'h.py'")
    monkeypatch.chdir(tmp_path)
    assert load_streams(Path("streams.toml"))[0].handler == str(tmp_path / "h.py")


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"stream file .*nothing\.toml cannot be read"):
        load_streams(tmp_path / "nothing.toml")
