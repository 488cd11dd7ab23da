"""What every runtime must do: inherit :class:`RuntimeSuite` and say how engines behave on it.

class TestMyRuntime(RuntimeSuite):
    def open(self, folder: Path, on_exit: OnExit) -> Runtime: ...
    def handler(self, behaviour: Behaviour) -> str: ...
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

import pytest

from harmonicio.control.engine_messages import EngineConfiguration
from harmonicio.core.errors import NotFound
from harmonicio.core.lease import Address
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.instructions import EngineExited, EngineFound
from harmonicio.worker.runtimes.base import EngineSpec, OnExit, Runtime

SEVERAL_SECONDS = 20.0


class Behaviour(StrEnum):
    """What an engine of the suite does once it has said ``ready <engine>`` on its log."""

    WAITS = "waits"  # until it is stopped
    IS_STUBBORN = "is_stubborn"  # does not care about being stopped
    FAILS = "fails"  # says "there is no such module" and an empty line, and ends with exit code 3


class Host:
    """A runtime on a folder, and the ends that it told."""

    def __init__(self, suite: RuntimeSuite, folder: Path) -> None:
        self.folder = folder
        self._suite = suite
        self._lock = threading.Lock()
        self._told: list[EngineExited] = []
        self._started = 0
        self.runtime = suite.open(folder, self._tell)

    def _tell(self, exited: EngineExited) -> None:
        with self._lock:
            self._told.append(exited)

    def start(self, engine: str, behaviour: Behaviour = Behaviour.WAITS) -> int:
        """Start an engine and wait until it has said that it is ready."""
        folder = self.folder / engine
        folder.mkdir(mode=0o700)
        self._started += 1
        pid = self.runtime.start(EngineSpec(engine, folder, configuration(engine, self._suite.handler(behaviour))))
        wait_until(
            lambda: f"ready {engine}" in self.runtime.logs(engine), SEVERAL_SECONDS, what=f"{engine} to be ready"
        )
        return pid

    def told(self, count: int) -> list[EngineExited]:
        """Wait for as many ends, and return all of them."""
        wait_until(lambda: len(self._told) >= count, SEVERAL_SECONDS, what=f"{count} ends")
        return list(self._told)

    def end_all(self) -> None:
        """Kill every engine that was started here, and wait until all have ended."""
        for folder in self.folder.iterdir():
            self.runtime.kill(folder.name)
        self.told(self._started)


class RuntimeSuite(ABC):
    """The contract of :class:`~harmonicio.worker.runtimes.base.Runtime`."""

    @abstractmethod
    def open(self, folder: Path, on_exit: OnExit) -> Runtime:
        """Return a runtime on this folder; a second one finds what the first one started."""

    @abstractmethod
    def handler(self, behaviour: Behaviour) -> str:
        """Return the handler of an engine that behaves so."""

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
            pid = first.start("e-1", Behaviour.IS_STUBBORN)
        with self.opened(folder) as second:
            declaration = configuration("e-1", self.handler(Behaviour.IS_STUBBORN)).declaration
            assert second.runtime.list() == (EngineFound("e-1", declaration, pid, is_running=True),)
            assert second.runtime.logs("e-1") == "ready e-1\n"
            assert second.told(0) == []
            second.runtime.kill("e-1")
            assert [each.engine for each in second.told(1)] == ["e-1"]
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


def configuration(engine: str, handler: str) -> EngineConfiguration:
    """Return what an engine of the suite is given."""
    return EngineConfiguration(
        engine=engine,
        worker="w-1",
        declaration=StreamDeclaration("images", handler=handler, version=1),
        key="00" * 32,
        ticket="ticket",
        master_url="http://127.0.0.1:1",
        master_data=Address("127.0.0.1", 1),
        control_socket="control.sock",
        listen_host="127.0.0.1",
        scratch_folder="",
        payload_budget_bytes=1,
        orphan_after_s=60.0,
    )
