"""Messages that end, stop or outlast their engine, and the neighbours that must not suffer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.errors import HandlerFailed
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector import StreamConnector

Write = Callable[[str, str], Path]
Connect = Callable[..., StreamConnector]

POISON = """
    import os, re, signal
    from harmonicio.engine import handler

    @handler
    def taste(message):
        poison = message.metadata.get("poison")
        if poison == "exit 3":
            os._exit(3)
        if poison == "exit 0":
            os._exit(0)
        if poison == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if poison == "close files":
            os.closerange(3, 1024)
        if poison == "regular expression":  # Holds the interpreter's lock, for longer than the universe lasts.
            re.match(r"(a+)+$", "a" * 60 + "b")
        return "fine"
"""

SIP = """
    import os, signal, time
    from harmonicio.engine import handler

    @handler
    def sip(message):
        time.sleep(0.02)
        if message.metadata.get("poison"):
            time.sleep(0.02)  # Others have come by then, if any may.
            os.kill(os.getpid(), signal.SIGKILL)
        return "fine"
"""

PATIENT = """
    import os, time
    from harmonicio.engine import handler

    @handler
    def wait(message):
        time.sleep(0.9)
        return os.getpid()
"""

STATEFUL = """
    import time
    from harmonicio.engine import handler

    @handler(setup=lambda parameters: {"n": 0})
    def count(message, state):
        state["n"] += 1
        state["scratch"] = object()
        time.sleep(message.metadata.get("seconds", 0.0))
        del state["scratch"]
        return state
"""


@pytest.mark.parametrize("is_ordered", [False, True], ids=["peer to peer", "by the backlog"])
@pytest.mark.parametrize("poison", ["exit 3", "exit 0", "kill"])
def test_a_message_that_ends_its_engine_at_once_is_given_up_and_its_neighbours_are_processed(
    cluster: LocalCluster, write_handler: Write, connect: Connect, poison: str, is_ordered: bool
) -> None:
    path = str(write_handler("taste", POISON))
    cluster.declare(StreamDeclaration("s", handler=path, engines=1, max_crashes=2, ordered=is_ordered))
    cluster.wait_for_engines("s", 1)
    with connect("s") as connector:
        before = connector.send(b"")
        deadly = connector.send(b"", metadata={"poison": poison})
        after = [connector.send(b"") for _ in range(20)]
        with pytest.raises(HandlerFailed, match="crashed while they handled it: 2"):
            deadly.result(timeout_s=15)
        assert [each.result(timeout_s=15) for each in (before, *after)] == ["fine"] * 21
    assert [each.dead for each in cluster.client.backlog()] == [1]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_message_whose_handler_closes_all_files_of_its_engine_does_not_circle_for_ever(
    cluster: LocalCluster, write_handler: Write, connect: Connect, concurrency: int
) -> None:
    path = str(write_handler("taste", POISON))
    cluster.declare(StreamDeclaration("s", handler=path, engines=1, concurrency=concurrency, max_crashes=2))
    cluster.wait_for_engines("s", 1)
    with connect("s") as connector:
        before = connector.send(b"")
        deadly = connector.send(b"", metadata={"poison": "close files"})
        after = [connector.send(b"") for _ in range(20)]
        with pytest.raises(HandlerFailed, match="crashed while they handled it: 2"):
            deadly.result(timeout_s=30)
        assert [each.result(timeout_s=30) for each in (before, *after)] == ["fine"] * 21
    assert [each.dead for each in cluster.client.backlog()] == [1]


@pytest.mark.parametrize(("patience_s", "max_crashes"), [(None, 1), (0.0, 2)], ids=["peer to peer", "by the backlog"])
def test_a_poison_among_many_that_run_at_once_is_found_and_none_of_the_others_is_blamed(
    cluster: LocalCluster, write_handler: Write, connect: Connect, patience_s: float | None, max_crashes: int
) -> None:
    path = str(write_handler("sip", SIP))
    cluster.declare(StreamDeclaration("s", handler=path, engines=1, concurrency=8, max_crashes=max_crashes))
    cluster.wait_for_engines("s", 1)
    with connect("s", patience_s=patience_s) as connector:
        innocents = [connector.send(b"") for _ in range(31)]
        deadly = connector.send(b"", metadata={"poison": True})
        innocents += [connector.send(b"") for _ in range(32)]
        with pytest.raises(HandlerFailed, match=f"crashed while they handled it: {max_crashes}"):
            deadly.result(timeout_s=30)
        # With max_crashes = 1 one count would have been the end of any of them.
        assert [each.result(timeout_s=30) for each in innocents] == ["fine"] * 63
    assert [(each.dead, each.ready, each.reserved) for each in cluster.client.backlog()] == [(1, 0, 0)]


def test_a_handler_that_keeps_the_interpreter_to_itself_times_out(
    cluster: LocalCluster, write_handler: Write, connect: Connect
) -> None:
    path = str(write_handler("taste", POISON))
    cluster.declare(StreamDeclaration("s", handler=path, engines=1, max_attempts=2, timeout_s=1.0))
    cluster.wait_for_engines("s", 1)
    with connect("s") as connector:
        endless = connector.send(b"", metadata={"poison": "regular expression"})
        with pytest.raises(HandlerFailed, match="2 attempts are used up"):
            endless.result(timeout_s=15)
        assert connector.send(b"").result(timeout_s=15) == "fine"


def test_handlers_that_take_nearly_all_their_time_one_after_the_other_are_left_alone(
    cluster: LocalCluster, write_handler: Write, connect: Connect
) -> None:
    path = str(write_handler("wait", PATIENT))
    cluster.declare(StreamDeclaration("s", handler=path, engines=1, timeout_s=1.0))
    cluster.wait_for_engines("s", 1)
    with connect("s") as connector:
        deliveries = [connector.send(b"") for _ in range(5)]
        assert len({each.result(timeout_s=20) for each in deliveries}) == 1


def test_a_handler_may_change_what_it_returned_for_the_message_before(
    cluster: LocalCluster, write_handler: Write, connect: Connect
) -> None:
    path = str(write_handler("count", STATEFUL))
    cluster.declare(StreamDeclaration("s", handler=path, engines=1))
    cluster.wait_for_engines("s", 1)
    with connect("s") as connector:
        for _ in range(100):
            connector.send(b"").result(timeout_s=20)  # From now on the handler is fast: many share one slot.
        seconds = [0.008 if number % 10 == 9 else 0.0 for number in range(200)]
        deliveries = [connector.send(b"", metadata={"seconds": each}) for each in seconds]
        assert [each.result(timeout_s=20)["n"] for each in deliveries] == list(range(101, 301))
