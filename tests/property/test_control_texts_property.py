"""Files, lines and boards that others write: whatever they hold, they are read or refused with our errors."""

from __future__ import annotations

import math
import socket
import struct
import tempfile
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonicio.control import json_codec
from harmonicio.control.engine_channel import MAX_LINE_BYTES, ControllerChannel
from harmonicio.control.engine_messages import EngineConfiguration
from harmonicio.control.handler_board import read_board
from harmonicio.control.messages import EngineReport
from harmonicio.control.stream_files import KEYS, parse_streams
from harmonicio.core.engine import Availability
from harmonicio.core.errors import ConfigurationError, ConnectionEnded, HarmonicIOError, InvalidInput
from harmonicio.core.settings import resolve

HERE = Path("/nowhere/streams.toml")
toml_values = st.sampled_from(
    [
        "1",
        "-1",
        "1e400",
        "nan",
        "-inf",
        "true",
        '""',
        '"x"',
        '"2 GiB"',
        '"1e999 GiB"',
        '"\\u0000"',
        '"..\\u0000.py"',
        "[]",
        "[[]]",
        "{}",
        "{ a = 1 }",
        "{ a.b.c = nan }",
        "1979-05-27",
        "25:00:00",
        "0x" + "f" * 300,
        "0x" + "f" * 5_000,
        "[0x" + "f" * 5_000 + "]",
        '"' + "9" * 5_000 + ' GiB"',
        '"' + "9" * 400 + '.5 GiB"',
        "9" * 5_000,
        "[" * 5_000,
        "{a=" * 2_000,
        '"' + "x" * 10_000 + '"',
    ]
)
keys = st.sampled_from([*KEYS, "unknown", "name", '"\\u0000"', "a" * 500])
tables = st.lists(st.tuples(keys, toml_values), max_size=5).map(
    lambda pairs: "".join(f"{key} = {value}\n" for key, value in dict(pairs).items())
)
BROKEN = ["x = " + "[" * 5_000, "x = " + "9" * 5_000, "x = " + "{a=" * 2_000, "\0", "x = 1979-99-99", "[" * 5_000]


@given(tables.map(lambda table: "[streams.plates]\n" + table) | st.text(max_size=200))
def test_any_stream_file_is_read_or_refused_in_a_sentence(text: str) -> None:
    try:
        parse_streams(text, HERE)
    except InvalidInput as error:
        assert 0 < len(str(error)) < 1_500


settings_names = st.sampled_from(["master", "worker", "client", "unknown", "docker"])
setting_keys = st.sampled_from(
    ["port", "host", "data_folder", "max_engines", "token", "unknown", "name", "scratch_bytes"]
)


@given(
    st.lists(st.tuples(settings_names, setting_keys, toml_values), max_size=3),
    st.dictionaries(
        st.sampled_from(["HARMONICIO_MASTER_PORT", "HARMONICIO_WORKER_MAX_ENGINES", "HARMONICIO_X", "HARMONICIO_HOME"]),
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30) | st.just("9" * 5_000),
        max_size=2,
    ),
)
def test_any_settings_are_read_or_refused_in_a_sentence(
    given_ones: list[tuple[str, str, str]], environ: dict[str, str]
) -> None:
    text = "".join(f"[{section}]\n{key} = {value}\n" for section, key, value in given_ones)
    try:
        resolve(text, {"HOME": "/home/x", **environ}, {}, file="/x/harmonicio.toml")
    except ConfigurationError as error:
        assert 0 < len(str(error)) < 2_000


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: text[:8])
def test_what_pythons_reader_gives_up_on_is_not_toml(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"streams\.toml is not TOML"):
        parse_streams(text, HERE)
    with pytest.raises(ConfigurationError, match=r"settings\.toml is not TOML"):
        resolve(text, {"HOME": "/home/x"}, {}, file="/x/settings.toml")


# ── an engine and its controller ─────────────────────────────────────────────────────────────────────────────────────


#: Less than a socket takes before anybody reads it: one thread does both.
MAX_PIECE_BYTES = 65_536
REPORT = json_codec.dumps(EngineReport("e1", "images", 1, Availability.IDLE, 0.5))
lines = st.lists(
    st.just(REPORT + b"\n")
    | st.binary(max_size=60).map(lambda data: data + b"\n")
    | st.sampled_from(
        [b"[" * 50_000 + b"\n", b'{"engine": NaN}\n', b"9" * 5_000 + b"\n", b"\xff\xfe\n", b"null\n", b"\n"]
    ),
    min_size=1,
    max_size=5,
)


@given(lines, st.integers(1, 100))
def test_any_lines_of_an_engine_are_reports_or_end_its_connection(said: list[bytes], at: int) -> None:
    engine, accepted = socket.socketpair()
    with closing(engine), closing(ControllerChannel(accepted)) as channel:
        data = b"".join(said)
        for piece in (data[:at], data[at:]):
            while piece:
                piece = piece[engine.send(piece[:MAX_PIECE_BYTES]) :]
                try:
                    assert all(report.engine == "e1" for report in channel.receive_reports())
                except ConnectionEnded as error:
                    assert len(str(error)) < 2_000
                    return


def test_a_line_without_an_end_takes_bounded_memory() -> None:
    engine, accepted = socket.socketpair()
    piece = b"x" * 65_536
    with closing(engine), closing(ControllerChannel(accepted)) as channel:
        tracemalloc.start()
        with pytest.raises(ConnectionEnded, match="longer than"):
            for _ in range(10 * MAX_LINE_BYTES // len(piece)):
                engine.sendall(piece)
                channel.receive_reports()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * MAX_LINE_BYTES


rows = st.builds(
    lambda since, length, raw_id: struct.pack("<dH200s", since, length, raw_id),
    st.floats(),
    st.integers(0, 2**16 - 1),
    st.binary(max_size=200),
)


@given(st.binary(max_size=700) | st.lists(rows, max_size=4).map(b"".join), st.integers(1, 4))
def test_any_board_tells_of_messages_that_can_be_reported(data: bytes, handlers: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "handlers")
        path.write_bytes(data)
        running = read_board(path, handlers)
    assert running is not None and len(running) <= handlers
    assert all(math.isfinite(each.running_s) and each.running_s >= 0.0 for each in running)
    report = EngineReport("e1", "images", 1, Availability.BUSY, 0.5, running=running)
    assert json_codec.loads(EngineReport, json_codec.dumps(report)) == report


@given(st.binary(max_size=200) | st.sampled_from([b"[" * 100_000, b"{" * 9, b'{"engine": 1e999}', b"9" * 5_000]))
def test_any_configuration_of_an_engine_is_read_or_refused(line: bytes) -> None:
    with pytest.raises(HarmonicIOError) as caught:
        json_codec.loads(EngineConfiguration, line)
    assert len(str(caught.value)) < 2_000
