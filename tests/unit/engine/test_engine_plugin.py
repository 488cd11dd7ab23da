"""Plugins stand around the handler, are found by name, and end with the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from harmonicio.control.client import MasterClient
from harmonicio.core.errors import ConfigurationError, StorageError
from harmonicio.core.message import OutcomeKind, RejectReason
from harmonicio.engine.handler import Handler
from harmonicio.engine.message import Emission, Message
from harmonicio.engine.plugin import PLUGINS, Call, NotKept, PluginContext
from harmonicio.engine.slots import Slot
from harmonicio.engine.work import Work

LOG: list[str] = []


MESSAGE = Message("m", "cells", memoryview(b""))


def deliver(emissions: Sequence[Emission], returned_at: float) -> None:
    raise AssertionError("nothing is emitted here")


class Bracket:
    def __init__(self, mark: str) -> None:
        self._mark = mark

    def handle(self, message: Any, call: Call) -> Any:
        return self._mark + call(message) + self._mark

    def close(self) -> None:
        LOG.append(f"closed {self._mark}")


def create(options: Mapping[str, Any], context: PluginContext) -> Bracket:
    return Bracket(options["mark"])


@pytest.fixture(autouse=True)
def empty_log() -> None:
    LOG.clear()


def test_the_first_plugin_is_the_outermost_and_all_are_closed_before_the_teardown() -> None:
    handler = Handler(lambda message: message.id, None, lambda state: LOG.append("torn down"), False, "test")
    work = Work(handler, {}, [Bracket("a"), Bracket("b")], deliver=deliver)
    assert work.run(MESSAGE, Slot(0))[0].result == "abmba"
    work.close()
    work.close()
    assert LOG == ["closed a", "closed b", "torn down"]


def test_what_a_plugin_raises_is_the_messages_failure() -> None:
    work = Work(Handler(lambda message: 3, None, None, False, "test"), {}, [Bracket("a")], deliver=deliver)
    outcome, _ = work.run(MESSAGE, Slot(0))
    assert outcome.kind is OutcomeKind.FAILED


class Broken(Bracket):
    """One whose store fails, or with the error that it is given."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def handle(self, message: Any, call: Call) -> Any:
        call(message)
        raise self._error


@pytest.mark.parametrize("plugins", [1, 2])
def test_a_plugin_whose_store_fails_is_no_fault_of_the_message(plugins: int) -> None:
    broken = Broken(NotKept("The tier 'fast' is full.", hint="Give it more."))
    work = Work(Handler(lambda message: "3", None, None, False, "test"), {}, [broken] * plugins, deliver=deliver)
    outcome, detail = work.run(MESSAGE, Slot(0))
    assert (outcome.kind, outcome.reason, detail) == (OutcomeKind.REJECTED, RejectReason.NOT_KEPT, b"")
    assert outcome.text == "The tier 'fast' is full. Give it more."


def test_a_storage_error_of_the_handler_is_its_failure() -> None:
    def fail(message: Any) -> Any:
        raise StorageError("The reference image is not there.")

    work = Work(Handler(fail, None, None, False, "test"), {}, [Bracket("a")], deliver=deliver)
    assert work.run(MESSAGE, Slot(0))[0].kind is OutcomeKind.FAILED


def test_the_state_of_the_setup_is_made_once_and_given_to_each_call() -> None:
    made: list[Mapping[str, Any]] = []

    def prepare(parameters: Mapping[str, Any]) -> str:
        made.append(parameters)
        return "model"

    handler = Handler(
        lambda message, state: (message.id, state), prepare, lambda state: LOG.append(state), False, "test"
    )
    work = Work(handler, {"k": 1}, deliver=deliver)
    assert work.run(MESSAGE, Slot(0))[0].result == ("m", "model")
    assert work.run(MESSAGE, Slot(0))[0].result == ("m", "model")
    assert made == [{"k": 1}]
    work.close()
    assert LOG == ["model"]


def test_a_plugin_is_found_by_its_row_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PLUGINS.table, "bracket", f"{__name__}:create")
    monkeypatch.setitem(__import__("sys").modules, __name__, __import__("types").SimpleNamespace(create=create))
    made = PLUGINS.load("bracket")({"mark": "*"}, PluginContext("s", 1, "e1", MasterClient("http://127.0.0.1:9")))
    assert made.handle("-", lambda message: message) == "*-*"


def test_an_unknown_or_broken_plugin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"no engine plugin 'nonesuch'.*haste"):
        PLUGINS.load("nonesuch")
    monkeypatch.setitem(PLUGINS.table, "broken", "harmonicio.there_is_no_such_module:create")
    with pytest.raises(ConfigurationError, match="'broken' needs the package"):
        PLUGINS.load("broken")
