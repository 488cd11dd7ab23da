"""An engine's emitter, with bare receivers and a master that grants leases."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harmonicio.control.messages import LeaseGrant, LeaseRequest
from harmonicio.core.errors import ConfigurationError, Conflict, InvalidInput, MasterUnavailable, NotFound
from harmonicio.core.message import Failure, Outcome, OutcomeKind, RejectReason
from harmonicio.engine import emission
from harmonicio.engine.emission import Emitter
from harmonicio.engine.handler import Handler
from harmonicio.engine.message import Message
from harmonicio.engine.plugin import NotKept
from harmonicio.engine.slots import Slot
from harmonicio.engine.work import Work
from harmonicio.haste.engine_plugin import HastePlugin
from harmonicio.haste.storage_client import StorageClient
from harmonicio.testing.bare_receivers import BareCluster
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.events import IncomingMessage
from harmonicio.wire.outcomes import STORED

Make = Callable[..., Emitter]


@pytest.fixture
def cluster() -> Iterator[BareCluster]:
    with BareCluster() as running:
        yield running


@pytest.fixture
def make(cluster: BareCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make the emitter of an engine that is not one of the cluster's, unless a test says so."""
    made: list[Emitter] = []

    monkeypatch.setattr("harmonicio.core.stream.KEEPING_AT_LEAST_S", 0.0)

    def make_emitter(engine: str = "e-here", timeout_s: float = 60.0) -> Emitter:
        made.append(Emitter(lambda: cluster.master, engine, timeout_s))
        return made[-1]

    yield make_emitter
    for emitter in made:
        emitter.close()


def parent(*streams: str, payload: bytes = b"payload") -> Message:
    message = Message("m", "images", memoryview(payload), priority=3)
    for stream in streams:
        message.emit(message.payload, stream=stream, metadata={"x": 1})
    return message


def deliver(emitter: Emitter, message: Message) -> None:
    emitter.deliver(message.emitted, time.monotonic())


def rejecting(reason: RejectReason) -> Callable[[IncomingMessage], Outcome]:
    return lambda _: Outcome(OutcomeKind.REJECTED, reason=reason, text="No.")


def test_emitted_messages_go_to_an_engine_with_their_ids_metadata_and_priority(
    cluster: BareCluster, make: Make
) -> None:
    engine = cluster.engine()
    deliver(make(), parent("tiles", "tiles"))
    assert engine.messages == [("m/0", b"payload"), ("m/1", b"payload")]
    assert [(each.metadata, each.priority) for each in engine.seen] == [({"x": 1}, 3)] * 2


def test_nothing_is_sent_to_the_engine_itself(cluster: BareCluster, make: Make) -> None:
    own, other = cluster.engine(), cluster.engine()
    deliver(make("e-0"), parent("tiles"))
    assert own.messages == []
    taken_before = list(other.messages)
    deliver(make("e-1"), parent("tiles"))
    assert other.messages == taken_before
    assert len(own.messages) + len(other.messages) + len(cluster.backlog.messages) == 2


def test_the_backlog_takes_what_only_the_engine_itself_could(cluster: BareCluster, make: Make) -> None:
    own = cluster.engine()
    deliver(make("e-0"), parent("images"))
    assert own.messages == []
    assert cluster.backlog.messages == [("m/0", b"payload")]


def test_what_an_earlier_attempt_has_emitted_counts(
    cluster: BareCluster, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.engine(rejecting(RejectReason.ID_CONFLICT))
    with caplog.at_level(logging.INFO):
        deliver(make(), parent("tiles"))
    assert "'m/0'" in caplog.text


def test_what_can_never_be_taken_fails_the_parent_for_good(cluster: BareCluster, make: Make) -> None:
    cluster.engine(rejecting(RejectReason.TOO_LARGE))
    with pytest.raises(InvalidInput, match=r"'tiles'.*No\."):
        deliver(make(), parent("tiles"))


def test_what_a_handler_makes_of_it_is_its_own_streams_business(
    cluster: BareCluster, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    failed = Outcome(OutcomeKind.FAILED, failure=Failure("ValueError", "no", retryable=False))
    cluster.engine(lambda _: failed)
    emitter = make()
    deliver(emitter, parent("tiles"))
    emitter.close()
    assert [message.is_dead for message in cluster.backlog.seen] == [True]
    assert caplog.records == []


def test_a_stream_that_does_not_exist_fails_the_parent_until_it_does(cluster: BareCluster, make: Make) -> None:
    emitter = make()
    cluster.master.error = NotFound("There is no stream 'tiles'.")
    with pytest.raises(NotFound, match="There is no stream 'tiles'"):
        deliver(emitter, parent("tiles"))
    cluster.master.error = None
    deliver(emitter, parent("tiles"))
    assert len(cluster.backlog.messages) == 1


def test_what_nobody_takes_in_time_is_no_fault_of_the_parent_and_is_emitted_again_under_the_same_ids(
    cluster: BareCluster, make: Make
) -> None:
    emitter = make(timeout_s=0.5)
    cluster.master.error = MasterUnavailable("The master is away.")
    with pytest.raises(NotKept, match="took 2 of 2 messages in time, the first is 'm/0'"):
        deliver(emitter, parent("tiles", "tiles"))
    cluster.master.error = None
    deliver(emitter, parent("tiles", "tiles"))
    assert [name for name, _ in cluster.backlog.messages] == ["m/0", "m/1"]


def test_a_full_backlog_is_no_fault_of_the_parent(cluster: BareCluster, make: Make) -> None:
    emitter = make(timeout_s=0.5)
    cluster.backlog.answer = rejecting(RejectReason.BACKLOG_FULL)
    with pytest.raises(NotKept, match="'tiles' is not safe"):
        deliver(emitter, parent("tiles"))
    cluster.backlog.answer = lambda _: STORED
    deliver(emitter, parent("tiles"))


def test_a_slot_waits_no_longer_than_its_bound_whatever_the_master_answers_and_however_long_an_end_takes(
    cluster: BareCluster, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    emitter, answers = make(timeout_s=0.5), threading.Event()
    asked, ended = cluster.master.request_leases, cluster.master.close

    def ask_a_frozen_master(request: LeaseRequest) -> LeaseGrant:
        answers.wait(20)
        return asked(request)

    def end_late() -> None:
        answers.wait(20)
        ended()

    monkeypatch.setattr(cluster.master, "request_leases", ask_a_frozen_master)
    monkeypatch.setattr(cluster.master, "close", end_late)
    begun_at = time.monotonic()
    for _ in range(2):
        with pytest.raises(NotKept):
            deliver(emitter, parent("one", "two"))
    took_s = time.monotonic() - begun_at
    answers.set()
    assert took_s < 5.0


def test_what_a_plugin_has_left_no_time_for_is_not_sent_at_all(
    cluster: BareCluster, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[LeaseRequest] = []
    monkeypatch.setattr(cluster.master, "request_leases", asked.append)
    emitter = make()
    with pytest.raises(NotKept, match="'m/0'"):
        emitter.deliver(parent("tiles").emitted, time.monotonic() - 60.0)
    emitter.close()
    assert asked == []


def test_closing_ends_the_wait(cluster: BareCluster, make: Make) -> None:
    engine = cluster.engine(lambda _: None)
    emitter, errors = make(), []

    def wait() -> None:
        try:
            deliver(emitter, parent("tiles"))
        except NotKept as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_until(lambda: engine.seen)
    emitter.close()
    waiting.join(10)
    assert len(errors) == 1
    with pytest.raises(NotKept, match="The engine ends"):
        deliver(emitter, parent("tiles"))


def test_an_engine_emits_into_a_bounded_number_of_streams(
    cluster: BareCluster, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emission, "MAX_TARGETS", 2)
    emitter = make()
    deliver(emitter, parent("one", "two"))
    with pytest.raises(ConfigurationError, match="2 streams"):
        deliver(emitter, parent("three"))


def test_several_threads_emit_at_the_same_time(cluster: BareCluster, make: Make) -> None:
    engine, emitter = cluster.engine(), make()
    threads = [threading.Thread(target=deliver, args=(emitter, parent(*["tiles"] * 50))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(engine.messages) + len(cluster.backlog.messages) == 400


# ── beside HASTE ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Context:
    stream, stream_version, engine, image, control_client = "images", 1, "e-here", "", None


def test_a_message_that_was_recorded_but_not_emitted_is_emitted_by_the_next_run(
    cluster: BareCluster, make: Make, tmp_path: Path
) -> None:
    """As after a crash between the commit of the feature row and the emission."""
    storage = StorageClient.from_options(
        {
            "function": lambda features, metadata: 0.5,
            "policy": {"intervals": [[0, 1, "all"]]},
            "tiers": {name: {"driver": "file", "folder": str(tmp_path / name)} for name in ("all", "unscored")},
            "feature_db": {"driver": "sqlite", "file": str(tmp_path / "rows.sqlite")},
        }
    )

    runs: list[str] = []

    def tile(message: Message) -> dict[str, float]:
        message.emit(message.payload, stream="tiles")
        runs.append(message.id)
        return {"focus": float(len(runs))}

    plugin, emitter = HastePlugin(storage, Context()), make(timeout_s=0.5)
    work = Work(Handler(tile, None, None, False, "test"), {}, [plugin], deliver=emitter.deliver)
    cluster.master.error = Conflict("Not now.")
    outcome, _ = work.run(Message("m", "images", memoryview(b"pixels")), Slot(0))
    assert (outcome.kind, outcome.reason) == (OutcomeKind.REJECTED, RejectReason.NOT_KEPT)
    assert len(storage.rows()) == 1, "the row was committed before anything could leave"
    cluster.master.error = None
    outcome, _ = work.run(Message("m", "images", memoryview(b"pixels")), Slot(0))
    assert outcome.result["features"] == {"focus": 1.0}, "what the first run recorded counts"
    assert len(runs) == 2
    assert [name for name, _ in cluster.backlog.messages] == ["m/0"]
    assert len(storage.rows()) == 1
    work.close()
