"""Engines as real processes: what is special about them, beyond the contract of runtimes."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harmonicio.core.errors import InvalidInput, Unavailable
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.runtime_suite import configuration
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.instructions import EngineExited, EngineStarted, RuntimeEvent
from harmonicio.worker.runtimes import engine_log, log_archive, process
from harmonicio.worker.runtimes.base import EngineSpec, RuntimeContext
from harmonicio.worker.runtimes.process import ProcessRuntime
from harmonicio.worker.runtimes.process_mark import ProcessMark, find_mark, start_ticks

PYTHON = (sys.executable, "-s", "-S", "-c")


class Told:
    """Collects what a runtime tells."""

    def __init__(self) -> None:
        self.started: list[EngineStarted] = []
        self.exits: list[EngineExited] = []
        self._has_news = threading.Condition()

    def __call__(self, event: RuntimeEvent) -> None:
        with self._has_news:
            if isinstance(event, EngineStarted):
                self.started.append(event)
            else:
                assert isinstance(event, EngineExited)
                self.exits.append(event)
            self._has_news.notify_all()

    def wait(self, count: int = 1) -> list[EngineExited]:
        with self._has_news:
            assert self._has_news.wait_for(lambda: len(self.exits) >= count, 20)
            return self.exits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "engines").mkdir()
    return tmp_path / "engines"


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def runtime(folder: Path, told: Told) -> Iterator[ProcessRuntime]:
    """A runtime whose handlers are Python programs."""
    with ProcessRuntime(RuntimeContext(folder, told), command=PYTHON) as runtime:
        yield runtime


def start(runtime: ProcessRuntime, folder: Path, told: Told, program: str, engine: str = "e-1") -> int:
    (folder / engine).mkdir(exist_ok=True)
    runtime.start(EngineSpec(engine, folder / engine, configuration(engine, running(program), folder)))
    return told.started[-1].pid


def running(program: str) -> StreamDeclaration:
    return StreamDeclaration("images", handler=program, version=1)


def is_running(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path("/proc", str(pid), "stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def test_an_engine_sees_no_variable_of_ours_and_what_it_prints_is_logged_at_once(
    runtime: ProcessRuntime, folder: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARMONICIO_CLIENT_TOKEN", "secret")
    monkeypatch.setenv("SOMEBODY_ELSES", "kept")
    start(runtime, folder, told, "import os; print(sorted(os.environ)); os._exit(0)")
    told.wait()
    names = runtime.logs("e-1")
    assert "HARMONICIO" not in names
    assert "SOMEBODY_ELSES" in names


def test_an_engine_inherits_no_file_and_has_default_signals_and_its_own_session(
    runtime: ProcessRuntime, folder: Path, told: Told
) -> None:
    program = (
        "import os, signal; "
        "print(len(os.listdir('/proc/self/fd')), os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid());"
        "print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, signal.pthread_sigmask(0, []))"
    )
    start(runtime, folder, told, program)
    told.wait()
    first, second = runtime.logs("e-1").splitlines()
    assert first == "4 True True"  # Standard input, output and error, and the folder that is being listed.
    assert second == "True set()"


def test_only_the_owner_can_read_an_engines_files(runtime: ProcessRuntime, folder: Path, told: Told) -> None:
    start(runtime, folder, told, "print('hello')")
    told.wait()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder / "e-1").iterdir()}
    assert modes == {"engine.json": 0o600, "engine.log": 0o600}
    assert "00" * 32 not in (folder / "e-1" / "engine.json").read_text()


def test_a_kill_takes_along_what_the_engine_has_started(runtime: ProcessRuntime, folder: Path, told: Told) -> None:
    program = (
        "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True); sys.stdin.read(); input()"
    )
    program = program.replace("input()", "import time; time.sleep(600)")
    start(runtime, folder, told, program)
    child = int(wait_until(lambda: runtime.logs("e-1")))
    runtime.kill("e-1")
    assert told.wait() == [EngineExited("e-1", -9, str(child))]
    wait_until(lambda: not is_running(child))


def test_what_a_crashed_engine_leaves_behind_is_ended(runtime: ProcessRuntime, folder: Path, told: Told) -> None:
    start(
        runtime,
        folder,
        told,
        "import os, subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True); os.abort()",
    )
    (ended,) = told.wait()
    assert ended.exit_code == -signal.SIGABRT
    wait_until(lambda: not is_running(int(ended.text)))


def test_a_stopped_process_can_be_killed(runtime: ProcessRuntime, folder: Path, told: Told) -> None:
    pid = start(runtime, folder, told, "import time; time.sleep(600)")
    os.kill(pid, signal.SIGSTOP)
    runtime.kill("e-1")
    assert told.wait()[0].exit_code == -signal.SIGKILL


def test_a_process_that_has_the_pid_of_an_engine_but_is_another_is_left_alone(folder: Path, told: Told) -> None:
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        declaration = running("x.py")
        genuine = ProcessMark.of("e-1", stranger.pid, declaration)
        assert genuine.is_alive()
        for number, mark in enumerate(
            (replace(genuine, start_ticks=genuine.start_ticks - 1), replace(genuine, boot="another"))
        ):
            engine = f"e-{number}"
            (folder / engine).mkdir()
            replace(mark, engine=engine).write(folder / engine)
        with ProcessRuntime(RuntimeContext(folder, told), command=PYTHON) as runtime:
            assert [each.is_running for each in runtime.list()] == [False, False]
            for engine in ("e-0", "e-1"):
                runtime.stop(engine)
                runtime.kill(engine)
                runtime.forget(engine)
        assert stranger.poll() is None
        assert told.exits == []
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("content", ["", "{}", "[]", "not json", json.dumps({"engine": "e-2", "pid": 1})])
def test_a_folder_without_a_mark_of_ours_is_no_engine(folder: Path, told: Told, content: str) -> None:
    (folder / "e-1").mkdir()
    (folder / "e-1" / "engine.json").write_text(content)
    (folder / "e-2").mkdir()
    with ProcessRuntime(RuntimeContext(folder, told)) as runtime:
        assert runtime.list() == ()


def test_an_engine_that_could_not_be_marked_does_not_run(
    runtime: ProcessRuntime, folder: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = []

    def fail(mark: ProcessMark, folder: Path) -> None:
        marked.append(mark)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ProcessMark, "write", fail)
    with pytest.raises(Unavailable, match="No space left"):
        start(runtime, folder, told, "import time; time.sleep(600)")
    assert start_ticks(marked[0].pid) is None
    assert told.exits == []


def test_an_engine_that_no_descriptor_is_left_to_watch_is_ended_and_waited_for(
    runtime: ProcessRuntime, folder: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawned = []

    def fail(pid: int) -> int:
        spawned.append(pid)
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched, pytest.raises(Unavailable, match="Too many open files"):
        patched.setattr(os, "pidfd_open", fail)
        start(runtime, folder, told, "import time; time.sleep(600)")
    assert start_ticks(spawned[0]) is None  # A zombie would still have them.
    assert (told.started, told.exits, runtime.list()) == ([], [], ())
    start(runtime, folder, told, "pass")
    assert told.wait()[0].exit_code == 0


class _FullWatch:
    """An epoll that takes nothing more, as when the kernel allows no more watches."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self.poll, self.unregister, self.close = epoll.poll, epoll.unregister, epoll.close

    def register(self, descriptor: int, events: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_an_engine_whose_end_cannot_be_waited_for_is_not_told_to_have_started(
    runtime: ProcessRuntime, folder: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, pytest.raises(Unavailable, match="No space left"):
        patched.setattr(runtime, "_epoll", _FullWatch(runtime._epoll))
        start(runtime, folder, told, "import time; time.sleep(600)")
    mark = find_mark(folder / "e-1")
    assert mark is not None
    assert start_ticks(mark.pid) is None
    assert told.started == told.exits == []
    assert [each.is_running for each in runtime.list()] == [False]
    start(runtime, folder, told, "pass")
    assert told.wait()[0].exit_code == 0


def test_a_program_that_is_not_there_is_said(folder: Path, told: Told) -> None:
    with (
        ProcessRuntime(RuntimeContext(folder, told), command=("/nowhere/python",)) as runtime,
        pytest.raises(Unavailable, match="No such file"),
    ):
        start(runtime, folder, told, "x.py")
    assert find_mark(folder / "e-1") is None


def test_an_image_is_for_another_runtime(runtime: ProcessRuntime, folder: Path) -> None:
    given = configuration("e-1", running("x.py"), folder)
    spec = EngineSpec("e-1", folder, replace(given, declaration=replace(given.declaration, handler="", image="a:1")))
    with pytest.raises(InvalidInput, match="has an image and no handler"):
        runtime.start(spec)


@pytest.mark.parametrize("size", [100_000, 900_000])
def test_large_parameters_reach_an_engine_that_reads_late(
    runtime: ProcessRuntime, folder: Path, told: Told, size: int
) -> None:
    program = f"import time, sys; time.sleep(0.2); print(len(sys.stdin.readline()) > {size})"
    given = configuration("e-1", running(program), folder)
    declaration = replace(given.declaration, parameters={"table": "x" * size})
    (folder / "e-1").mkdir()
    runtime.start(EngineSpec("e-1", folder / "e-1", replace(given, declaration=declaration)))
    assert told.wait() == [EngineExited("e-1", 0, "True")]


def test_parameters_without_measure_are_refused(runtime: ProcessRuntime, folder: Path) -> None:
    given = configuration("e-1", running("pass"), folder)
    declaration = replace(given.declaration, parameters={"table": "x" * 100_000_000})
    (folder / "e-1").mkdir()
    with pytest.raises(InvalidInput, match="Put large parameters into a file"):
        runtime.start(EngineSpec("e-1", folder / "e-1", replace(given, declaration=declaration)))


def test_a_log_is_bounded_while_its_engine_writes(
    runtime: ProcessRuntime, folder: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_log, "MAX_LOG_BYTES", 10_000)
    program = "import time\nwhile True:\n print('word ' * 100, flush=True)\n time.sleep(0.005)"
    start(runtime, folder, told, program)
    old = folder / "e-1" / "engine.log.1"
    wait_until(lambda: old.exists() and old.stat().st_size > 10_000)
    wait_until(lambda: 0 < (folder / "e-1" / "engine.log").stat().st_size < 10_000)
    runtime.kill("e-1")
    told.wait()
    runtime.forget("e-1")
    assert list((folder / "e-1").iterdir()) == []


@pytest.mark.parametrize(
    ("put", "reason"),
    [
        ("os.mkdir(log)", "It is not a file"),
        ("os.mkfifo(log)", "It is not a file"),
        ("os.symlink('/dev/zero', log)", "Too many levels of symbolic links"),
    ],
)
def test_the_end_of_an_engine_that_has_put_something_else_in_place_of_its_log_is_told(
    runtime: ProcessRuntime, folder: Path, told: Told, put: str, reason: str
) -> None:
    log = folder / "e-1" / "engine.log"
    start(runtime, folder, told, f"import os; log = {str(log)!r}; os.remove(log); {put}")
    (exited,) = told.wait()
    assert (exited.exit_code, exited.text) == (0, f"The log cannot be read: {reason}.")
    assert runtime.logs("e-1") == exited.text


def test_an_engine_that_has_put_a_pipe_in_place_of_its_log_is_forgotten_like_any_other(
    runtime: ProcessRuntime, folder: Path, told: Told
) -> None:
    log = folder / "e-1" / "engine.log"
    start(runtime, folder, told, f"import os; os.remove({str(log)!r}); os.mkfifo({str(log)!r})")
    told.wait()
    runtime.forget("e-1")
    assert list((folder / "e-1").iterdir()) == []
    assert runtime.logs("e-1") == "The log cannot be read: It is not a file."


def test_what_an_engine_has_linked_in_place_of_its_logs_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_log, "MAX_LOG_BYTES", 10)
    other, log, older = (folder / name for name in ("other", "engine.log", "engine.log.1"))
    other.write_text("not a log of this engine")
    log.symlink_to(other)
    engine_log.bound_log(folder)
    log.unlink()
    log.write_text("longer than it may be")
    older.symlink_to(other)
    engine_log.bound_log(folder)
    assert other.read_text() == "not a log of this engine"
    assert (log.read_text(), older.read_text()) == ("", "0\nlonger than it may be")


def test_an_error_of_ours_at_the_end_of_one_engine_leaves_no_other_unwatched(
    runtime: ProcessRuntime, folder: Path, told: Told, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(ended: Path) -> str:
        if ended.name == "e-1":
            raise MemoryError("once")
        return "ended"

    monkeypatch.setattr(process, "last_line", fail)
    for engine in ("e-1", "e-2"):
        start(runtime, folder, told, "pass", engine)
        wait_until(lambda: "MemoryError: once" in caplog.text)
    assert [each.engine for each in told.wait()] == ["e-2"]


def test_only_the_logs_of_the_last_engines_are_kept(
    runtime: ProcessRuntime, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_archive, "MAX_KEPT_LOGS", 3)
    for number in range(6):
        (folder / f"e-{number}").mkdir()
        (folder / f"e-{number}" / "engine.log").write_text(f"log {number}\n" * 10)
        runtime.forget(f"e-{number}")
    kept = folder.parent / "engine-logs"
    assert sorted(path.name for path in kept.iterdir()) == ["e-3.log", "e-4.log", "e-5.log"]
    assert runtime.logs("e-5", last_bytes=12) == "log 5\n"


def test_an_engine_that_logged_last_that_all_was_in_order_has_no_last_words(folder: Path) -> None:
    log = folder / "engine.log"
    log.write_text("2026-11-21 14:09:04,243 INFO harmonicio.engine.daemon: Engine e-1 serves stream plates.\n")
    assert engine_log.last_line(folder) == ""
    with log.open("a") as more:
        more.write("Fatal Python error: Segmentation fault\n")
    assert engine_log.last_line(folder) == "Fatal Python error: Segmentation fault"


def test_the_last_line_of_a_log_is_short_and_printable(folder: Path) -> None:
    (folder / "engine.log").write_bytes(b"first\n" + b"\x1b[31m" + b"\xff" + b"x" * 1000 + b"\n\n  \n")
    line = engine_log.last_line(folder)
    assert line.isprintable()
    assert line.startswith("\\x1b[31m\ufffdxxx")
    assert len(line) == engine_log.MAX_LINE_LENGTH
