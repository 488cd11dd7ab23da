"""A program of any language as handler: what it is given, what it answers, and all that it may do wrong."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benches.engine import MIB, engine_benches
from benches.worker import IDLE, connect, is_running, running, small_master, worker_options
from harmonicio.core.engine import ExitReason
from harmonicio.core.errors import ConfigurationError, InvalidInput, ProgramFailed, StorageError
from harmonicio.core.message import MAX_RESULT_BYTES
from harmonicio.core.stream import StreamDeclaration
from harmonicio.engine import Message
from harmonicio.engine.command import Command
from harmonicio.engine.outputs import failure_of
from harmonicio.testing.small_master import SmallMaster
from harmonicio.testing.waiting import wait_until

#: A program that tells its arguments as a JSON object.
ARGUMENTS = [sys.executable, "-c", "import json, sys; print(json.dumps({'arguments': sys.argv[1:]}))"]

Run = Callable[..., Any]


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def run(scratch: Path) -> Iterator[Run]:
    """Run a command on one message; afterwards none of its files may be there."""
    with ExitStack() as exits:

        def run_command(command: list[str], payload: bytes = b"", message_id: str = "m1", **metadata: Any) -> Any:
            made = Command(command=command)
            exits.callback(made.close)
            try:
                return made.run(Message(message_id, "cells", memoryview(payload), metadata))
            finally:
                assert [each for folder in scratch.iterdir() for each in folder.iterdir()] == []

        yield run_command
    assert list(scratch.iterdir()) == []


# ── what it is given ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_payload_comes_on_standard_input(run: Run) -> None:
    assert run(["wc", "-c"], bytes(3 * MIB)).strip() == str(3 * MIB)


def test_the_payload_is_a_file_where_an_argument_names_it(run: Run) -> None:
    assert run(["cat", "{input}"], b"as a file") == "as a file"
    assert run(["dd", "if={input}", "status=none"], b"inside an argument") == "inside an argument"


def test_the_payload_is_not_on_standard_input_as_well(run: Run) -> None:
    assert run([*shell('cat "$0" -'), "{input}"], b"once") == "once"


def test_metadata_is_a_json_file_and_the_id_is_text(run: Run) -> None:
    assert run(["cat", "{metadata}"], well="B03", shape=[2, 3], raw=b"\0\xff") == {
        "well": "B03",
        "shape": [2, 3],
        "raw": "AP8=",
    }
    assert run([*ARGUMENTS, "--name={id}"], message_id="plate 1/é") == {"arguments": ["--name=plate 1/é"]}


@pytest.mark.row("S12")
def test_every_other_argument_arrives_literally(run: Run) -> None:
    literal = [
        "",
        " ",
        "$HOME",
        "*",
        "; exit 3",
        "'",
        '"',
        "{}",
        "{{input}",
        "{inputs}",
        "%s",
        "a\nb",
        "--",
        "\\",
        "{0}",
    ]
    assert run([*ARGUMENTS, *literal])["arguments"][:8] == literal[:8]
    (given,) = run([*ARGUMENTS, "{id}"], message_id="{input} {metadata} $(reboot)")["arguments"]
    assert given == "{input} {metadata} $(reboot)"


def test_temporary_files_of_the_program_go_when_it_has_ended(run: Run, scratch: Path) -> None:
    made = run(shell('mkdir -p "$TMPDIR/a/b"; mktemp; mktemp -p "$TMPDIR/a/b" >/dev/null')).strip()
    assert Path(made).is_relative_to(scratch)
    assert not Path(made).exists()


# ── what it answers ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("output", "result"),
    [
        (b"", None),
        (b"text \xc3\xa9\n", "text é\n"),
        (b"\xff\xfe bytes", b"\xff\xfe bytes"),
        (b' \n{"focus": 0.7, "cells": [1]}\n', {"focus": 0.7, "cells": [1]}),
        (b"{focus}", "{focus}"),
        (b"[1, 2]", "[1, 2]"),
        (b'{"a": ' * 50_000, InvalidInput),
        (b'{"a":' * 10_000, '{"a":' * 10_000),
        (bytes(MAX_RESULT_BYTES), "\0" * MAX_RESULT_BYTES),
        (bytes(MAX_RESULT_BYTES + 1), InvalidInput),
    ],
    ids=["nothing", "text", "bytes", "object", "braces", "list", "large", "deep", "full", "too much"],
)
def test_its_standard_output_is_the_result(run: Run, output: bytes, result: Any) -> None:
    if result is InvalidInput:
        with pytest.raises(InvalidInput, match="wrote more than 65536 bytes"):
            run(["cat"], output)
    else:
        assert run(["cat"], output) == result


def test_an_exit_code_is_a_failure_with_the_last_line_of_standard_error(run: Run) -> None:
    with pytest.raises(ProgramFailed, match=r"^sh ended with exit code 3: no such channel: 7\n") as caught:
        run(shell("echo loading >&2; echo 'no such channel: 7' >&2; echo unheard; exit 3"))
    failure = failure_of(caught.value).failure
    assert failure is not None
    assert failure.retryable
    assert "loading\nno such channel: 7" in failure.traceback


def test_a_program_that_crashes_fails_with_its_signal(run: Run) -> None:
    with pytest.raises(ProgramFailed, match=r"ended with signal 11 \(Segmentation fault\): it said nothing"):
        run(shell("kill -SEGV $$"))


# ── all that it may do wrong ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("script", "result"),
    [
        ("exec <&-; echo unread", "unread\n"),
        ("echo first; head -c 100 >/dev/null", "first\n"),
        ("echo closed; exec >&- 2>&-; cat >/dev/null", "closed\n"),
        ("head -c 3000000 /dev/zero >&2; cat >/dev/null; echo said", "said\n"),
        ("head -c 60000 /dev/zero | tr '\\0' x; wc -c; head -c 3000000 /dev/zero >&2", "x" * 60_000 + "8388608\n"),
    ],
    ids=["never reads", "reads a little", "closes early", "speaks before it reads", "fills both"],
)
def test_pipes_are_used_in_any_order(run: Run, script: str, result: str) -> None:
    assert run(shell(script), bytes(8 * MIB)) == result


def test_endless_output_ends_the_program(run: Run) -> None:
    with pytest.raises(InvalidInput, match="wrote more than"):
        run(shell("exec yes"))


def test_endless_words_are_heard_at_their_end_only(run: Run) -> None:
    with pytest.raises(ProgramFailed) as caught:
        run(shell("yes | head -c 20000000 >&2; exit 1"))
    assert len("".join(caught.value.__notes__)) < 5_000


def test_what_a_program_leaves_running_keeps_nobody_waiting(run: Run) -> None:
    left_behind = int(run(shell("sleep 600 & echo $!")))
    os.kill(left_behind, signal.SIGKILL)


def test_a_program_stays_in_the_engines_process_group(run: Run) -> None:
    code = "import os; print(os.getpgrp())"
    assert int(run([sys.executable, "-c", code])) == os.getpgrp()


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ([], "is empty"),
        (["no-such-program-anywhere"], "There is no program 'no-such-program-anywhere'"),
        (["/nowhere/at/all"], "There is no program"),
        ([__file__], r"There is no program '.*\.py' that could be started"),
        (["/etc"], "There is no program"),
        (["{input}"], "There is no program"),
        ([""], "There is no program"),
        (["cat", "a\0b"], "cannot be given to a program"),
        (["c\0at"], "cannot be given to a program"),
        (["cat", "\ud800"], "cannot be given to a program"),
    ],
)
def test_what_cannot_be_started_is_found_at_the_start(scratch: Path, command: list[str], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Command(command=command)
    assert list(scratch.iterdir()) == []


def test_a_program_that_breaks_later_is_a_failure(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF is not enough")
    broken.chmod(0o755)
    with pytest.raises(ProgramFailed, match=r"broken cannot be started: Exec format error"):
        run([str(broken)])
    with pytest.raises(ProgramFailed, match="Argument list too long"):
        run(["true", "x" * 5_000_000])


def test_a_volume_without_room_is_a_storage_error(scratch: Path) -> None:
    command = Command(command=["cat", "{input}"])
    (own,) = scratch.iterdir()
    own.rmdir()
    with pytest.raises(StorageError, match="No folder can be made in"):
        command.run(Message("m1", "cells", memoryview(b"")))
    command.close()


# ── inside an engine ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("scratch")
@pytest.mark.parametrize("size_bytes", [10, 200_000, 3 * MIB])
@pytest.mark.parametrize("command", [["wc", "-c"], ["wc", "-c", "{input}"], shell("exit 1"), ["yes"]], ids=str)
def test_payloads_of_every_kind_are_given_and_given_back(tmp_path: Path, command: list[str], size_bytes: int) -> None:
    code = "from harmonicio.engine.command import run_command"
    with engine_benches(tmp_path) as start:
        bench = start(code, memory_payload_max_bytes=MIB, parameters={"command": command}, concurrency=2)
        connector = bench.connector()
        for number in [connector.send(bytes(size_bytes)) for _ in range(4)]:
            outcome = connector.outcome(number)
            said = outcome.result or (outcome.failure and outcome.failure.text)
            assert said.split()[0] in (str(size_bytes), "sh", "The")
        wait_until(lambda: bench.daemon._payloads.budget.held_bytes == 0)
        assert bench.daemon._payloads.abandoned == 0


@pytest.fixture
def master() -> Iterator[SmallMaster]:
    with small_master() as master_of_one:
        yield master_of_one


def test_nothing_is_left_of_a_program_whose_engine_is_killed(tmp_path: Path, master: SmallMaster) -> None:
    script = f'echo $$ >{tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; exec sleep "$(cat "$0")"'
    options = worker_options(tmp_path)
    declaration = StreamDeclaration(
        "cells",
        handler="harmonicio.engine.command",
        parameters={"command": [*shell(script), "{input}"]},
        timeout_s=1.0,
        version=1,
    )
    with running(options, master):
        master.want((declaration, 1))
        (engine,) = master.wait_for_engines(1, IDLE)
        with connect(master, engine) as connector:
            connector.send(b"600")
            wait_until((tmp_path / "pid").exists)
            pid = int((tmp_path / "pid").read_text())
            (before,) = options.scratch_folder.glob("*/*/input")
            master.wait_for(lambda: engine in master.exits)
        assert master.exits[engine].reason is ExitReason.TIMED_OUT
        wait_until(lambda: not is_running(pid), what="the program to be gone")
        master.wait_for(lambda: [each.engine for each in master.engines(IDLE)] not in ([], [engine]))
        assert not before.exists()


def test_a_command_that_cannot_be_started_is_told_by_its_worker(tmp_path: Path, master: SmallMaster) -> None:
    command = {"command": ["no-such-program-anywhere", "{input}"]}
    with running(worker_options(tmp_path), master):
        master.want((StreamDeclaration("cells", handler="harmonicio.engine.command", parameters=command), 1))
        master.wait_for(lambda: [each for _, report in master.reports for each in report.troubles])
        (trouble, *_) = (each for _, report in master.reports for each in report.troubles)
    assert "There is no program 'no-such-program-anywhere' that could be started." in trouble.text
