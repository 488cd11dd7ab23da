"""What every runtime must do: inherit :class:`RuntimeSuite` and say how engines behave on it.

class TestMyRuntime(RuntimeSuite):
    def open(self, context: RuntimeContext) -> Runtime: ...
    def declaration(self, behaviour: Behaviour) -> StreamDeclaration: ...
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import pytest

from harmonicio.control.engine_messages import EngineConfiguration
from harmonicio.control.log_messages import LOG_PART_BYTES
from harmonicio.core.errors import NotFound
from harmonicio.core.lease import Address
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.folder import SOCKET_FOLDER
from harmonicio.worker.instructions import EngineExited, EngineNotStarted, EngineStarted, RuntimeEvent
from harmonicio.worker.runtimes.base import EngineSpec, Runtime, RuntimeContext

SEVERAL_SECONDS = 20.0

Event = TypeVar("Event")


class Behaviour(StrEnum):
    """What an engine of the suite does once it has said ``ready <engine>`` on its log."""

    WAITS = "waits"  # until it is stopped
    IS_STUBBORN = "is_stubborn"  # does not care about being stopped
    FAILS = "fails"  # says "there is no such module" and an empty line, and ends with exit code 3
    SAYS_GOODBYE = "says_goodbye"  # when it is stopped, says FAREWELL and ends


#: More than one part of a log, in many lines and one long one.
FAREWELL = "".join(f"{number:04} {'é' * 40}\n" for number in range(900)) + "x" * 40_000 + "\n"


class Host:
    """A runtime on a folder, and what it told."""

    def __init__(self, suite: RuntimeSuite, folder: Path) -> None:
        self.folder = folder
        self.scratch = folder.parent / "scratch"
        self.scratch.mkdir(exist_ok=True)
        self._suite = suite
        self._lock = threading.Lock()
        self._all: list[RuntimeEvent] = []
        self.runtime = suite.open(RuntimeContext(folder, self._tell, self.scratch, worker="0123456789abcdef"))

    def _tell(self, event: RuntimeEvent) -> None:
        with self._lock:
            self._all.append(event)

    def begin(self, engine: str, behaviour: Behaviour = Behaviour.WAITS) -> None:
        """Begin to start an engine."""
        folder = self.folder / engine
        make_engine_folder(folder, self.runtime.owner)
        spec = EngineSpec(engine, folder, configuration(engine, self._suite.declaration(behaviour), self.scratch))
        self.runtime.start(spec)

    def start(self, engine: str, behaviour: Behaviour = Behaviour.WAITS) -> EngineStarted:
        """Start an engine and wait until it has said that it is ready."""
        self.begin(engine, behaviour)
        wait_until(lambda: self._is_ready(engine), SEVERAL_SECONDS, what=f"{engine} to be ready")
        return next(each for each in self.events(EngineStarted) if each.engine == engine)

    def _is_ready(self, engine: str) -> bool:
        has_started = any(each.engine == engine for each in self.events(EngineStarted))
        return has_started and f"ready {engine}" in self.runtime.logs(engine)

    def events(self, kind: type[Event]) -> list[Event]:
        """Return what was told of one kind."""
        with self._lock:
            return [each for each in self._all if isinstance(each, kind)]

    def told(self, count: int) -> list[EngineExited]:
        """Wait for as many ends, and return all of them."""
        wait_until(lambda: len(self.events(EngineExited)) >= count, SEVERAL_SECONDS, what=f"{count} ends")
        return self.events(EngineExited)

    def read_on(self, engine: str, mark: str) -> str:
        """Return what there is of a log after a mark until it is over."""
        parts = [self.runtime.log_part(engine, mark)]
        while not parts[-1].is_over:
            assert 0 < len(parts[-1].text) <= LOG_PART_BYTES
            parts.append(self.runtime.log_part(engine, parts[-1].mark))
        return "".join(part.text for part in parts)

    def end_all(self) -> None:
        """Kill every engine that was started here, and wait until all have ended."""
        for folder in self.folder.iterdir():
            self.runtime.kill(folder.name)
        self.told(len(self.events(EngineStarted)))
        for folder in self.folder.iterdir():
            self.runtime.forget(folder.name)


def make_engine_folder(folder: Path, owner: tuple[int, int] | None) -> None:
    """Make an engine's folder as the worker does."""
    folder.mkdir(mode=0o700)
    (folder / SOCKET_FOLDER).mkdir(mode=0o700)
    if owner is not None:
        os.chown(folder / SOCKET_FOLDER, *owner)


class RuntimeSuite(ABC):
    """The contract of :class:`~harmonicio.worker.runtimes.base.Runtime`."""

    @abstractmethod
    def open(self, context: RuntimeContext) -> Runtime:
        """Return a runtime on this folder; a second one finds what the first one started."""

    @abstractmethod
    def declaration(self, behaviour: Behaviour) -> StreamDeclaration:
        """Return the declaration of an engine that behaves so."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "engines").mkdir()
        return tmp_path / "engines"

    @contextmanager
    def opened(self, folder: Path) -> Iterator[Host]:
        """Open a runtime and close it; its engines live on."""
        host = Host(self, folder)
        with host.runtime:
            yield host

    @pytest.fixture
    def host(self, folder: Path) -> Iterator[Host]:
        with self.opened(folder) as host:
            yield host
            host.end_all()

    # ── starting and ending ──────────────────────────────────────────────────────────────────────────────────────────

    def test_a_started_engine_has_its_configuration_and_lives(self, host: Host) -> None:
        host.start("e-1")
        assert host.told(0) == []
        assert host.runtime.logs("e-1") == "ready e-1\n"

    def test_an_engine_that_is_stopped_ends_and_that_is_told_once(self, host: Host) -> None:
        host.start("e-1")
        host.start("e-2")
        host.runtime.stop("e-1")
        assert [each.engine for each in host.told(1)] == ["e-1"]
        host.runtime.stop("e-1")
        host.runtime.kill("e-1")
        host.runtime.kill("e-2")
        assert [each.engine for each in host.told(2)] == ["e-1", "e-2"]

    def test_an_engine_that_does_not_care_about_being_stopped_is_killed(self, host: Host) -> None:
        host.start("e-1", Behaviour.IS_STUBBORN)
        host.runtime.stop("e-1")
        host.runtime.kill("e-1")
        assert host.told(1) == [EngineExited("e-1", -9, "ready e-1")]

    def test_an_engine_that_fails_tells_its_exit_code_and_last_words(self, host: Host) -> None:
        host.start("e-1", Behaviour.FAILS)
        assert host.told(1) == [EngineExited("e-1", 3, "there is no such module")]

    def test_engines_that_end_together_are_each_told_once(self, host: Host) -> None:
        names = [f"e-{number}" for number in range(5)]
        for name in names:
            host.start(name)
        for name in names:
            host.runtime.kill(name)
        assert sorted(each.engine for each in host.told(5)) == names

    def test_orders_about_unknown_engines_do_nothing(self, host: Host) -> None:
        host.runtime.stop("e-unknown")
        host.runtime.kill("e-unknown")
        host.runtime.forget("e-unknown")
        assert host.runtime.list() == ()

    # ── outliving the runtime ────────────────────────────────────────────────────────────────────────────────────────

    def test_an_engine_outlives_its_runtime_and_the_next_one_finds_it(self, folder: Path) -> None:
        with self.opened(folder) as first:
            started = first.start("e-1", Behaviour.IS_STUBBORN)
        with self.opened(folder) as second:
            (found,) = second.runtime.list()
            assert (found.engine, found.is_running, found.text) == ("e-1", True, "")
            assert found.declaration == self.declaration(Behaviour.IS_STUBBORN)
            assert (found.pid, found.address, found.image) == (started.pid, started.address, started.image)
            assert second.runtime.logs("e-1") == "ready e-1\n"
            assert second.told(0) == []
            second.runtime.kill("e-1")
            assert [each.engine for each in second.told(1)] == ["e-1"]
            second.runtime.forget("e-1")
        assert first.told(0) == []

    def test_an_engine_that_ended_in_between_is_found_as_ended(self, folder: Path) -> None:
        with self.opened(folder) as first:
            first.start("e-1", Behaviour.FAILS)
            first.told(1)
        with self.opened(folder) as second:
            (found,) = second.runtime.list()
            assert (found.engine, found.is_running, found.text) == ("e-1", False, "there is no such module")
            second.runtime.kill("e-1")
            second.runtime.forget("e-1")
            assert second.runtime.list() == ()

    def test_an_engine_that_is_killed_while_it_starts_does_not_live(self, host: Host) -> None:
        host.begin("e-1")
        host.runtime.kill("e-1")
        wait_until(
            lambda: [*host.events(EngineExited), *host.events(EngineNotStarted)], SEVERAL_SECONDS, what="the end of e-1"
        )
        host.runtime.forget("e-1")
        assert host.runtime.list() == ()

    def test_closing_may_be_repeated(self, folder: Path) -> None:
        with self.opened(folder) as host:
            host.runtime.close()

    # ── logs ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def test_the_log_of_a_forgotten_engine_can_still_be_read(self, host: Host) -> None:
        host.start("e-1", Behaviour.FAILS)
        host.told(1)
        host.runtime.forget("e-1")
        host.runtime.forget("e-1")
        assert host.runtime.list() == ()
        assert host.runtime.logs("e-1").rstrip() == "ready e-1\nthere is no such module"

    def test_a_log_is_continued_after_the_mark_and_over_when_its_engine_has_ended(self, host: Host) -> None:
        host.start("e-1", Behaviour.SAYS_GOODBYE)
        begun = host.runtime.log_part("e-1")
        assert (begun.text, begun.is_over) == ("ready e-1\n", False)
        waiting = host.runtime.log_part("e-1", begun.mark)
        assert (waiting.text, waiting.is_over) == ("", False)
        host.runtime.stop("e-1")
        host.told(1)
        assert host.read_on("e-1", waiting.mark) == FAREWELL
        assert host.runtime.logs("e-1", last_bytes=60_000) in FAREWELL

    def test_a_log_is_continued_where_it_was_when_its_engine_has_been_forgotten_meanwhile(self, host: Host) -> None:
        host.start("e-1", Behaviour.SAYS_GOODBYE)
        mark = host.runtime.log_part("e-1").mark
        host.runtime.stop("e-1")
        host.told(1)
        middle = host.runtime.log_part("e-1", mark)
        host.runtime.forget("e-1")
        assert middle.text and not middle.is_over
        assert middle.text + host.read_on("e-1", middle.mark) == FAREWELL

    def test_a_log_is_continued_by_the_next_runtime(self, folder: Path) -> None:
        with self.opened(folder) as first:
            first.start("e-1", Behaviour.SAYS_GOODBYE)
            mark = first.runtime.log_part("e-1").mark
        with self.opened(folder) as second:
            second.runtime.list()
            assert second.runtime.log_part("e-1", mark).text == ""
            second.runtime.stop("e-1")
            second.told(1)
            assert second.read_on("e-1", mark) == FAREWELL
            second.runtime.forget("e-1")

    @pytest.mark.parametrize("mark", ["nonsense", "99999999999999", "99999999999999.7", "-1", "٣", "1.٣", "." * 100])
    def test_a_mark_that_says_nothing_is_answered_with_what_is_there(self, host: Host, mark: str) -> None:
        host.start("e-1")
        part = host.runtime.log_part("e-1", mark)
        assert part.text == "ready e-1\n"
        assert host.runtime.log_part("e-1", part.mark).text == ""

    def test_a_living_engine_is_not_forgotten(self, host: Host) -> None:
        host.start("e-1")
        host.runtime.forget("e-1")
        host.runtime.kill("e-1")
        assert host.told(1)

    def test_only_the_end_of_a_log_is_read(self, host: Host) -> None:
        host.start("e-1", Behaviour.FAILS)
        host.told(1)
        assert host.runtime.logs("e-1", last_bytes=10).strip() in ("", "ch module")

    def test_an_unknown_engine_has_no_log(self, host: Host) -> None:
        with pytest.raises(NotFound, match="e-unknown"):
            host.runtime.logs("e-unknown")


def configuration(engine: str, declaration: StreamDeclaration, scratch: Path) -> EngineConfiguration:
    """Return what an engine of the suite is given."""
    return EngineConfiguration(
        engine=engine,
        worker="w-1",
        declaration=declaration,
        key="00" * 32,
        ticket="ticket",
        master_url="http://127.0.0.1:1",
        master_data=Address("127.0.0.1", 1),
        control_socket="control.sock",
        listen_host="127.0.0.1",
        scratch_folder=str(scratch),
        payload_budget_bytes=1,
        orphan_after_s=60.0,
    )
