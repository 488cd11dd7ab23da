"""What waits, over REST and by the commands, against a real master with its store on disk."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benches.backlog import DONE, ERROR, message, reserve_one
from harmonicio.cli.__main__ import main
from harmonicio.control.client import MasterClient
from harmonicio.core.errors import HandlerFailed, InvalidInput, NotAllowed, NotFound
from harmonicio.core.message import Outcome, OutcomeKind
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.backlog.entry import Reservation
from harmonicio.master.service import BacklogOptions, MasterOptions, MasterService
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until

Command = Callable[..., str]


@pytest.fixture
def service(service: MasterService) -> MasterService:
    service.master.streams.declare(StreamDeclaration("plates", handler="plates.py"))
    return service


def put(service: MasterService, *message_ids: str) -> None:
    """Put messages, and wait until they are stored."""
    backlog = service.master.backlog
    before = backlog.figures("plates").stored_total
    for message_id in message_ids:
        backlog.put("plates", message(message_id, b"cells"), None, lambda outcome: None)
        before += 1
        wait_until(lambda: backlog.figures("plates").stored_total == before)  # noqa: B023  called at once


def reserve(service: MasterService, engine: str = "cells-1") -> Reservation:
    reservation = reserve_one(service.master.backlog, "plates", f"{engine}#1", time.monotonic())
    assert reservation is not None
    return reservation


@pytest.fixture
def run(service: MasterService, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command; return its exit code and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        exit_code = main(arguments)
        written = capsys.readouterr()
        return exit_code, written.out, written.err

    return run


def test_a_stream_is_shown_with_what_goes_next_and_what_is_oldest(service: MasterService, run: Command) -> None:
    assert "Nothing waits." in run("backlog", "show", "plates")[1]
    put(service, "a", "b", "c")
    reserve(service)
    code, shown, _ = run("backlog", "show", "plates")
    cells = [line.split() for line in shown.splitlines()]
    assert code == 0
    assert [each[0] for each in cells if each and each[0] in "abc"] == ["b", "c", "a", "b", "c"]
    assert "3 of 1,000,000 messages; dead letters 0 B of 10" in " ".join(shown.split())
    assert any(each[:2] == ["a", "reserved"] and each[-1] == "cells-1" for each in cells)
    view = json.loads(run("backlog", "show", "plates", "--json")[1])
    assert [each["message"] for each in view["next"]] == ["b", "c"]
    assert [each["message"] for each in view["oldest"]] == ["a", "b", "c"]
    assert (view["figures"]["ready"], view["figures"]["reserved"]) == (2, 1)
    one = json.loads(run("backlog", "show", "plates", "--limit", "1", "--json")[1])
    assert (len(one["next"]), len(one["oldest"])) == (1, 1)
    code, _, said = run("backlog", "show", "rows")
    assert code == 1 and "There is no stream 'rows'" in said


def test_what_goes_next_and_has_waited_for_longest_is_shown_once(service: MasterService, run: Command) -> None:
    put(service, "a", "b", "c")
    shown = run("backlog", "show", "plates")[1]
    cells = [line.split() for line in shown.splitlines()]
    assert [each[0] for each in cells if each and each[0] in "abc"] == ["a", "b", "c"]
    assert "Goes next, and has waited for longest" in shown


def test_messages_that_wait_can_be_put_in_another_order_which_outlives_the_master(
    service: MasterService, run: Command, tmp_path: Path
) -> None:
    put(service, "a", "b", "c", "d")
    assert run("backlog", "prioritise", "plates", "c", "d", "c", "--priority", "7") == (
        0,
        "2 messages of stream 'plates' now: priority 7.\n",
        "",
    )
    assert run("backlog", "prioritise", "plates", "a", "--priority", "-1")[0] == 0
    service.close()
    with MasterService(MasterOptions(tmp_path / "home" / "master", port=0, data_port=0)) as again:
        order = [reserve(again).entry for _ in range(4)]
        assert [(each.message_id, each.priority) for each in order] == [("c", 7), ("d", 7), ("b", 0), ("a", -1)]


def test_what_an_engine_has_and_what_is_dead_or_gone_keeps_its_priority_and_says_why(
    service: MasterService, run: Command
) -> None:
    put(service, "held", "dead", "done", "waits")
    backlog = service.master.backlog
    reserve(service)
    fatal = Outcome(OutcomeKind.FAILED, failure=type(ERROR)("ValueError", "no", retryable=False))
    backlog.settle([reserve(service)], fatal)
    backlog.settle([reserve(service)], DONE)
    wait_until(lambda: backlog.figures("plates").done_total == 1)
    code, shown, said = run("backlog", "prioritise", "plates", "held", "dead", "done", "waits", "--priority", "3")
    assert (code, shown) == (1, "1 message of stream 'plates' now: priority 3.\n")
    assert "held: Engine cells-1 has it." in said
    assert "dead: It is a dead letter: replay it first." in said
    assert "done: It is not in the backlog." in said


def test_the_order_of_messages_that_are_tried_again_can_be_changed_too(service: MasterService, run: Command) -> None:
    put(service, "a", "b")
    backlog = service.master.backlog
    backlog.settle([reserve(service)], Outcome(OutcomeKind.FAILED, failure=ERROR))
    assert run("backlog", "prioritise", "plates", "a", "--priority", "-5")[0] == 0
    wait_until(lambda: backlog.depth("plates") == 2)
    assert [reserve(service).entry.message_id for _ in range(2)] == ["b", "a"]


def test_where_nobody_looks_at_a_terminal_top_prints_lines(service: MasterService, run: Command) -> None:
    put(service, "a", "b")
    code, shown, _ = run("backlog", "top", "--interval", "0.1", "--count", "2")
    lines = shown.splitlines()
    assert (code, len(lines)) == (0, 2)
    now = "backlog of plates, ready 2, reserved 0, dead 0, waiting 10 B"
    pattern = rf"\d\d:\d\d:\d\d  {now}, oldest .* s, stored/s 0\.0, .*"
    assert re.fullmatch(pattern, lines[0])


def test_a_viewer_and_a_source_see_what_waits_and_change_nothing(service: MasterService) -> None:
    put(service, "a")
    with MasterClient(service.url, service.token_file(Role.SOURCE).read_text().strip()) as source:
        assert [each.message for each in source.stream_backlog("plates").next] == ["a"]
        with pytest.raises(NotAllowed):
            source.prioritise("plates", ["a"], 3)
    with MasterClient(service.url, service.token_file(Role.ADMIN).read_text().strip()) as admin:
        for priority in (-(2**15) - 1, 2**15):
            with pytest.raises(InvalidInput, match="larger ones go first"):
                admin.prioritise("plates", ["a"], priority)
        with pytest.raises(NotFound):
            admin.prioritise("rows", ["a"], 3)


def test_a_full_backlog_sheds_what_is_least_important_where_the_stream_says_so(
    service: MasterService, run: Command, tmp_path: Path
) -> None:
    service.close()
    options = MasterOptions(tmp_path / "home" / "master", port=0, data_port=0)
    with MasterService(options, BacklogOptions(max_disk_bytes=4_000_000)) as small:
        token = small.token_file(Role.SOURCE).read_text().strip()
        small.master.streams.declare(StreamDeclaration("live", handler="live.py", when_full="shed"))
        with StreamConnector("live", master=small.url, token=token, patience_s=0.05) as connector:
            keep = connector.send(bytes(500_000), priority=5)
            connector.flush("safe", timeout_s=30)
            others = []
            for _ in range(19):
                others.append(connector.send(bytes(500_000)))
                connector.flush("safe", timeout_s=30)
            assert {each.route for each in (keep, *others)} == {"backlog"}
            with pytest.raises(HandlerFailed, match="The backlog was full") as caught:
                others[0].result(timeout_s=30)
            assert caught.value.error_type == "Shed"
        view = MasterClient(small.url, small.token_file(Role.ADMIN).read_text().strip())
        with view:
            wait_until(lambda: view.stream_backlog("live").figures.shed_total == 13)
            shown = view.stream_backlog("live", limit=20)
            assert [each.message for each in shown.oldest] == [each.message_id for each in (keep, *others[-6:])]
            assert {each.message for each in shown.shed} == {each.message_id for each in others[:13]}
            assert [view.outcome("live", each.message_id).state for each in others[12:14]] == ["shed", "waiting"]
