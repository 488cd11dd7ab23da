"""Suspects reach an engine with concurrency, over real sockets, among messages of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benches.engine import Start, engine_benches, reason_of
from harmonicio.core.message import OutcomeKind, RejectReason
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.frames import Flag

SUSPECT = int(Flag.SUSPECT)
#: Notes what else ran at any time while a message ran; ``hold`` waits for the gate.
COMPANY = """
    import threading, time
    gate = threading.Event()
    lock = threading.Lock()
    running, company, order = set(), {}, []
    @handler OPTIONS
    def note(message):
        with lock:
            order.append(message.metadata.get("name"))
            company[message.id] = set(running)
            for other in running:
                company[other].add(message.id)
            running.add(message.id)
        READ
        if message.metadata.get("name") == "hold":
            gate.wait(30)
        elif message.metadata.get("seconds"):
            time.sleep(message.metadata["seconds"])
        with lock:
            running.discard(message.id)
"""
PLAIN = COMPANY.replace(" OPTIONS", "").replace("READ", "pass")
STREAMING = COMPANY.replace(" OPTIONS", "(streaming=True)").replace("READ", "message.payload_reader.read()")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with engine_benches(tmp_path) as starter:
        yield starter


@pytest.mark.parametrize(
    ("code", "size_bytes", "seconds"),
    [(PLAIN, 10, 0.0), (PLAIN, 10, 0.002), (PLAIN, 300_000, 0.002), (STREAMING, 300_000, 0.002)],
    ids=["many under one slot", "small", "large", "streaming"],
)
def test_nothing_runs_beside_a_suspect_by_whichever_route_it_comes(
    start: Start, code: str, size_bytes: int, seconds: float
) -> None:
    bench = start(code, concurrency=4)
    payload, said = bytes(size_bytes), {"seconds": seconds}
    with bench.connector() as one, bench.connector("other", "l2") as other:
        for number in range(100):
            flags = SUSPECT if number % 10 == 5 else 0
            for connector, name in ((one, "one"), (other, "other")):
                connector.send(payload, metadata=said, flags=flags, message_id=f"{name}-{number}-{flags}")
            bench.master.push(payload, metadata=said, flags=flags, message_id=f"master-{number}-{flags}")
        sent = 100
        outcomes = [*one.wait_for_outcomes(sent).values(), *other.wait_for_outcomes(sent).values()]
        wait_until(lambda: len(bench.master.outcomes) == sent, 20, what="the master's outcomes")
    outcomes += bench.master.outcomes
    done = [each for each in outcomes if each.kind is OutcomeKind.DONE]
    # On a slow machine some wait for so long that they are sent elsewhere.
    assert {each.reason for each in outcomes if each not in done} <= {RejectReason.NO_CREDIT}
    company = bench.module.company
    assert len(company) == len(done) >= sent
    assert [each for each, others in company.items() if each.endswith(f"-{SUSPECT}") and others] == []


def test_what_waits_behind_a_suspect_that_takes_long_is_sent_elsewhere_and_all_have_credit_afterwards(
    start: Start,
) -> None:
    bench = start(PLAIN, concurrency=2)
    with bench.connector() as connector:
        connector.wait(lambda: connector.credit.can_send(0))
        bench.master.push(metadata={"name": "hold"}, flags=SUSPECT)
        wait_until(lambda: bench.module.order == ["hold"], what="the suspect to run")
        while connector.credit.can_send(0):  # What was granted before may come all the same.
            assert reason_of(connector.outcome(connector.send())) is RejectReason.NO_CREDIT
        bench.master.push(metadata={"name": "later"})
        bench.module.gate.set()
        connector.wait(lambda: connector.credit.can_send(0))
        assert connector.outcome(connector.send()).kind is OutcomeKind.DONE
        wait_until(lambda: len(bench.master.outcomes) == 2, what="what waited at the master")
    assert {each.kind for each in bench.master.outcomes} == {OutcomeKind.DONE}
    assert bench.module.order[0] == "hold"


def test_a_drain_refuses_a_suspect_that_waits(start: Start) -> None:
    bench = start(PLAIN, concurrency=2)
    with bench.connector() as connector:
        connector.send(metadata={"name": "hold"})
        wait_until(lambda: bench.module.order == ["hold"], what="a handler that runs")
        bench.master.push(flags=SUSPECT)
        wait_until(lambda: not bench.master.credit.can_send(0), what="the suspect to be sent")
        bench.daemon.drain(10.0)
        wait_until(lambda: len(bench.master.outcomes) == 1, what="the suspect's outcome")
        assert reason_of(bench.master.outcomes[0]) is RejectReason.DRAINING
        bench.module.gate.set()
        assert connector.outcome(0).kind is OutcomeKind.DONE


def test_a_suspect_behind_a_handler_that_does_not_end_goes_elsewhere_and_others_run_meanwhile(start: Start) -> None:
    bench = start(PLAIN, concurrency=2)
    with bench.connector() as connector:
        connector.send(metadata={"name": "hold"})
        wait_until(lambda: bench.module.order == ["hold"], what="a handler that runs")
        bench.master.push(flags=SUSPECT)
        wait_until(lambda: len(bench.master.outcomes) == 1, what="the suspect's outcome")
        assert reason_of(bench.master.outcomes[0]) is RejectReason.NO_CREDIT
        bench.master.push(metadata={"name": "beside"})
        wait_until(lambda: len(bench.master.outcomes) == 2, what="the outcome of what runs in the other slot")
        assert bench.module.order == ["hold", "beside"]
        bench.module.gate.set()
