"""A connector that is closed at a bad moment, taken into a fork, or left waiting for a master that is away."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import ExitStack

import pytest

from harmonicio.control.client import MasterClient
from harmonicio.control.messages import BacklogAccess, Lease, LeaseGrant, LeaseList, LeaseRenewal, LeaseRequest
from harmonicio.core.errors import (
    ConnectionEnded,
    HandlerFailed,
    HarmonicIOError,
    InvalidInput,
    MasterUnavailable,
    OutcomeTimeout,
    UndeliveredError,
)
from harmonicio.core.lease import Address
from harmonicio.core.message import Failure, Outcome, OutcomeKind
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.bare_receivers import BareCluster
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.events import IncomingMessage


class AbsentMaster:
    """Does not answer, after as long as a test wants."""

    url = "http://127.0.0.1:1"

    def __init__(self) -> None:
        self.is_asked = threading.Event()
        self.may_answer = threading.Event()
        self.requests = 0
        self.is_closed = False

    def request_leases(self, request: LeaseRequest) -> LeaseGrant:
        self.requests += 1
        self.is_asked.set()
        self.may_answer.wait(10)
        raise MasterUnavailable("The master does not answer.")

    def renew_leases(self, held: LeaseList) -> LeaseRenewal:
        return LeaseRenewal(held.leases, ())

    def release_leases(self, held: LeaseList) -> None:
        """Nothing is held."""

    def close(self) -> None:
        self.is_closed = True


def threads_of(connector: StreamConnector) -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith(connector.source)]


def test_close_while_another_thread_opens_leaves_nothing_running() -> None:
    master = AbsentMaster()
    connector = StreamConnector(stream="images", client=master)
    errors: list[HarmonicIOError] = []

    def send() -> None:
        try:
            connector.send(b"image")
        except HarmonicIOError as error:
            errors.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    assert master.is_asked.wait(10)
    closer = threading.Thread(target=connector.close)
    closer.start()
    wait_until(lambda: "closed" in repr(connector))
    master.may_answer.set()
    closer.join(10)
    sender.join(10)
    assert [type(error) for error in errors] == [InvalidInput]
    assert threads_of(connector) == []
    assert master.is_closed


class OneEngine(AbsentMaster):
    """Grants an engine that takes a connection and says nothing."""

    def __init__(self, address: Address) -> None:
        super().__init__()
        self.address = address
        self.released: list[str] = []

    def request_leases(self, request: LeaseRequest) -> LeaseGrant:
        self.is_asked.set()
        access = BacklogAccess(self.address, "t", 60.0)
        return LeaseGrant((Lease("l1", "e1", self.address, "t", 60.0),), access, "engine", 1.0, 60.0)

    def release_leases(self, held: LeaseList) -> None:
        assert not self.is_closed
        self.released += held.leases


def test_who_closes_while_the_first_engine_is_dialled_gives_its_lease_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        master = OneEngine(Address("127.0.0.1", silent.getsockname()[1]))
        connector = StreamConnector("images", client=master, arena_max_bytes=0)

        def send() -> None:
            with pytest.raises(InvalidInput):
                connector.send(b"image")

        sender = threading.Thread(target=send)
        sender.start()
        silent.settimeout(10)
        connection, _ = silent.accept()
        with connection:
            connector.close()
            sender.join(10)
        assert master.released == ["l1"]
        assert threads_of(connector) == []


def test_who_closes_it_second_waits_for_the_first() -> None:
    class Slow(AbsentMaster):
        """Takes its time to close."""

        def close(self) -> None:
            is_closing.set()
            time.sleep(0.2)
            super().close()

    is_closing = threading.Event()
    master = Slow()
    master.may_answer.set()
    connector = StreamConnector("images", client=master)
    with connector:
        first = threading.Thread(target=connector.close)
        first.start()
        assert is_closing.wait(10)
        assert connector.close() == 0
        assert threads_of(connector) == []
        assert master.is_closed
        first.join(10)


def test_a_request_that_the_master_does_not_answer_leaves_nothing_running_after_close() -> None:
    class Hanging(AbsentMaster):
        """Does not answer before it is closed, and a while after."""

        def close(self) -> None:
            super().close()
            threading.Timer(0.3, self.may_answer.set).start()

    master = Hanging()
    master.may_answer.set()
    connector = StreamConnector(stream="images", client=master)
    connector.send(b"image")
    master.may_answer.clear()
    master.is_asked.clear()
    assert master.is_asked.wait(10)
    with pytest.raises(UndeliveredError):
        connector.close(timeout_s=0.1)
    assert threads_of(connector) == []


def test_a_client_that_is_closed_does_not_wait_for_an_answer() -> None:
    errors: list[HarmonicIOError] = []

    def ask() -> None:
        try:
            client.request_leases(LeaseRequest("images", "source", 1))
        except HarmonicIOError as error:
            errors.append(error)

    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as accepted:
        client = MasterClient(f"http://127.0.0.1:{listener.getsockname()[1]}", "t")
        asking = threading.Thread(target=ask)
        asking.start()
        connection = accepted.enter_context(listener.accept()[0])
        assert connection.recv(65_536)
        client.close()
        asking.join(5)
        assert not asking.is_alive()
    assert [type(error) for error in errors] == [ConnectionEnded]


def test_a_connector_that_is_closed_does_not_open_again() -> None:
    connector = StreamConnector(stream="images", client=AbsentMaster())
    connector.close()
    with pytest.raises(InvalidInput, match="closed"):
        connector.send(b"image")
    assert threads_of(connector) == []


def test_waiting_for_a_master_that_is_away_costs_no_time_of_the_processor() -> None:
    master = AbsentMaster()
    master.may_answer.set()
    connector = StreamConnector(stream="images", client=master)
    for _ in range(100):
        connector.send(bytes(1000))
    began_s, cpu_s = time.monotonic(), time.process_time()
    with pytest.raises(UndeliveredError) as caught:
        connector.close(timeout_s=1.0)
    assert time.process_time() - cpu_s < 0.25 * (time.monotonic() - began_s)
    assert len(caught.value.message_ids) == 100
    assert master.requests < 20


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_is_told_to_open_its_own_even_when_the_fork_came_at_a_bad_moment() -> None:
    master = AbsentMaster()
    master.may_answer.set()
    connector = StreamConnector(stream="images", client=master)
    delivery = connector.send(b"image")
    with connector._exchange.lock:  # As if another thread were in the middle of something: it is never let go there.
        child = os.fork()
        if not child:
            refusals = 0
            for attempt in (lambda: connector.send(b""), connector.flush, connector.close, lambda: delivery.result(1)):
                try:
                    attempt()
                except InvalidInput:
                    refusals += 1
            os._exit(refusals)
    statuses: list[int] = []

    def has_ended() -> bool:
        pid, status = os.waitpid(child, os.WNOHANG)
        statuses.append(os.waitstatus_to_exitcode(status))
        return pid == child

    try:
        wait_until(has_ended)
    except BaseException:
        os.kill(child, 9)
        os.waitpid(child, 0)
        raise
    assert statuses[-1] == 4
    with pytest.raises(UndeliveredError):
        connector.close(timeout_s=0.1)


def test_flush_after_closing_says_that_the_end_of_stored_messages_is_not_known() -> None:
    with BareCluster() as cluster:
        connector = cluster.connect(patience_s=0.0)
        connector.send(b"image")
        connector.close()
        with pytest.raises(OutcomeTimeout, match="1 stored ones are not known to be processed, and the connector is"):
            connector.flush("processed")
        connector.flush("safe")


def test_a_failure_after_somebody_gave_up_waiting_for_it_is_raised_by_flush() -> None:
    may_fail = threading.Event()

    def fail(_: IncomingMessage) -> Outcome:
        may_fail.wait(10)
        text = "bad\n\x1b[2Jimage"
        return Outcome(OutcomeKind.FAILED, failure=Failure("ValueError", text, "line 1\nline 2", retryable=False))

    with BareCluster() as cluster:
        cluster.engine(fail)
        with cluster.connect() as connector:
            delivery = connector.send(b"image")
            with pytest.raises(OutcomeTimeout):
                delivery.result(0.05)
            may_fail.set()
            with pytest.raises(HandlerFailed, match=r"ValueError: bad .*image") as caught:
                connector.flush("processed", timeout_s=10)
        assert str(caught.value).isprintable()
        assert caught.value.traceback == "line 1\nline 2"
