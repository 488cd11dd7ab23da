"""An engine's board says what its handlers run, whatever becomes of the engine."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest

from harmonicio.control.handler_board import HandlerBoard, read_board
from harmonicio.core.errors import StorageError
from harmonicio.core.names import MAX_MESSAGE_ID_BYTES


def test_what_runs_is_read_with_its_time(tmp_path: Path) -> None:
    board = HandlerBoard(tmp_path / "handlers", 3)
    assert read_board(tmp_path / "handlers", 3) == ()
    longest = "µ" * (MAX_MESSAGE_ID_BYTES // 2)
    board.begin(0, "plate 7", time.monotonic() - 5.0)
    board.begin(2, longest, time.monotonic())
    first, second = read_board(tmp_path / "handlers", 3) or ()
    assert (first.message, second.message) == ("plate 7", longest)
    assert first.running_s == pytest.approx(5.0, abs=1.0)
    board.end(0)
    assert [each.message for each in read_board(tmp_path / "handlers", 3) or ()] == [longest]
    board.close()


def test_a_handler_that_has_returned_is_told_from_one_that_runs(tmp_path: Path) -> None:
    board = HandlerBoard(tmp_path / "handlers", 2)
    board.begin(0, "plate 7", time.monotonic() - 50.0)
    board.begin(1, "plate 8", time.monotonic() - 50.0)
    board.returned(0, "plate 7", time.monotonic() - 5.0)
    kept, running = read_board(tmp_path / "handlers", 2) or ()
    assert (kept.message, kept.has_returned, running.has_returned) == ("plate 7", True, False)
    assert kept.running_s == pytest.approx(5.0, abs=1.0)
    board.begin(0, "plate 9", time.monotonic())
    assert [each.has_returned for each in read_board(tmp_path / "handlers", 2) or ()] == [False, False]
    board.close()


def test_a_row_whose_length_has_two_bytes_says_that_a_handler_runs(tmp_path: Path) -> None:
    (tmp_path / "handlers").write_bytes(struct.pack("<dH200s", time.monotonic(), 200, b"i" * 200))
    (row,) = read_board(tmp_path / "handlers", 1) or ()
    assert (row.message, row.has_returned) == ("i" * 200, False)


def test_a_row_of_a_phase_that_there_is_not_is_left_out(tmp_path: Path) -> None:
    rows = [struct.pack("<dBB200s", time.monotonic(), 1, phase, b"m") for phase in (1, 2, 255, 0)]
    (tmp_path / "handlers").write_bytes(b"".join(rows))
    assert [each.has_returned for each in read_board(tmp_path / "handlers", 4) or ()] == [True, False]


def test_a_board_outlives_an_engine_that_ends_at_once(tmp_path: Path) -> None:
    code = f"""
        import os, time
        from pathlib import Path
        from harmonicio.control.handler_board import HandlerBoard
        HandlerBoard(Path({str(tmp_path / "handlers")!r}), 1).begin(0, "poison", time.monotonic())
        os._exit(3)
    """
    assert subprocess.run([sys.executable, "-c", dedent(code)], check=False).returncode == 3
    assert [each.message for each in read_board(tmp_path / "handlers", 3) or ()] == ["poison"]


def test_what_is_no_board_is_not_waited_for(tmp_path: Path) -> None:
    assert read_board(tmp_path / "missing", 3) is None
    os.mkfifo(tmp_path / "pipe")
    assert read_board(tmp_path / "pipe", 3) is None
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    assert read_board(tmp_path / "link", 3) is None
    (tmp_path / "noise").write_bytes(b"\xff" * 1000)
    assert read_board(tmp_path / "noise", 3) == ()


def test_a_board_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="handlers cannot be made"):
        HandlerBoard(tmp_path / "missing" / "handlers", 1)


def test_no_more_is_read_than_handlers_were_declared_and_nothing_but_message_ids(tmp_path: Path) -> None:
    row = struct.Struct("<dH200s")
    now = time.monotonic()
    rows = [
        row.pack(now, 200, b"\xff" * 200),
        row.pack(now, 10, b"two\nlines\x00"),
        row.pack(float("-inf"), 1, b"a"),
        row.pack(now, 1, b"b"),
        row.pack(now, 1, b"c"),
        row.pack(now, 1, b"d"),
    ]
    (tmp_path / "handlers").write_bytes(b"".join(rows))
    assert [each.message for each in read_board(tmp_path / "handlers", 5) or ()] == ["b", "c"]
    assert read_board(tmp_path / "handlers", 0) == ()
