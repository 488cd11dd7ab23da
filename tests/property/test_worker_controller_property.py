"""Whatever happens to engines, the controller keeps its rules and ends with what is wanted."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from harmonicio.core.engine import ExitReason
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.simulated_host import STEP_S, SimulatedHost
from harmonicio.worker.back_off import FIRST_DELAY_S, LONGEST_DELAY_S
from harmonicio.worker.instructions import EngineExited, ExitsAcknowledged, StartEngine

MAX_ENGINES = 5
STREAMS = ("images", "spectra", "volumes")


class HostMachine(RuleBasedStateMachine):
    """Events in any order; the host checks that no id runs twice and that there are never too many engines."""

    def __init__(self) -> None:
        super().__init__()
        self.host = SimulatedHost(max_engines=MAX_ENGINES)
        self.wanted: dict[str, tuple[int, int]] = {}
        self.acknowledged: set[str] = set()

    @initialize(seed=st.integers(0, 1000), start_s=st.sampled_from([0.0, 1.0, 5.0]))
    def begin(self, seed: int, start_s: float) -> None:
        self.host = SimulatedHost(max_engines=MAX_ENGINES, seed=seed, start_s=start_s)

    @rule(
        counts=st.lists(st.integers(0, 4), min_size=3, max_size=3), version=st.integers(1, 2), is_ordered=st.booleans()
    )
    def want(self, counts: list[int], version: int, is_ordered: bool) -> None:
        room, self.wanted = MAX_ENGINES, {}
        for stream, count in zip(STREAMS, counts, strict=True):
            most = 1 if is_ordered and stream == "volumes" else room
            self.wanted[stream] = (min(count, room, most), version)
            room -= self.wanted[stream][0]
        self.host.want(
            *(
                (self.declaration(stream, version, is_ordered and stream == "volumes"), count)
                for stream, (count, version) in self.wanted.items()
            )
        )

    @staticmethod
    def declaration(stream: str, version: int, is_ordered: bool) -> StreamDeclaration:
        return StreamDeclaration(stream, handler="x.py", timeout_s=15.0, version=version, ordered=is_ordered)

    @rule(seconds=st.sampled_from([STEP_S, 1.0, 7.0, 40.0]))
    def pass_time(self, seconds: float) -> None:
        self.host.run(seconds)

    @rule(stream=st.sampled_from(STREAMS), is_broken=st.booleans())
    def break_handler(self, stream: str, is_broken: bool) -> None:
        (self.host.broken_streams.add if is_broken else self.host.broken_streams.discard)(stream)

    @rule(is_deaf=st.booleans())
    def lose_orders(self, is_deaf: bool) -> None:
        self.host.is_deaf = is_deaf

    @precondition(lambda self: self.host.engines)
    @rule(data=st.data(), code=st.sampled_from([None, 0, 1, -9]))
    def crash(self, data: st.DataObject, code: int | None) -> None:
        self.host.end(data.draw(st.sampled_from(sorted(self.host.engines))), code)

    @precondition(lambda self: self.host.engines)
    @rule(data=st.data())
    def freeze(self, data: st.DataObject) -> None:
        self.host.engines[data.draw(st.sampled_from(sorted(self.host.engines)))].is_frozen = True

    @precondition(lambda self: any(each.is_ready for each in self.host.engines.values()))
    @rule(data=st.data())
    def run_message(self, data: st.DataObject) -> None:
        ready = sorted(each.engine for each in self.host.engines.values() if each.is_ready)
        engine = data.draw(st.sampled_from(ready))
        if self.host.engines[engine].running_since:
            self.host.finish_message(engine, next(iter(self.host.engines[engine].running_since)))
        else:
            self.host.handle_message(engine, "m-1")

    @rule()
    def acknowledge(self) -> None:
        exits = self.host.controller.report(1, None, self.host.now).exits
        self.host.give(ExitsAcknowledged(tuple(each.engine for each in exits)))
        assert self.host.controller.report(2, None, self.host.now).exits == ()
        assert self.acknowledged.isdisjoint(each.engine for each in exits)
        self.acknowledged.update(each.engine for each in exits)

    @rule()
    def hear_of_a_stranger(self) -> None:
        assert self.host.give(EngineExited("e-stranger", 0)) == []

    @invariant()
    def the_controller_knows_exactly_the_engines_that_are_there(self) -> None:
        assert set(self.host.controller.engines) == set(self.host.engines)

    @invariant()
    def an_ordered_stream_has_one_engine(self) -> None:
        ordered = [each for each in self.host.engines.values() if each.declaration.ordered]
        assert len(ordered) <= 1

    @invariant()
    def nothing_starts_while_its_stream_is_backed_off(self) -> None:
        troubles = self.host.controller.report(1, None, self.host.now).troubles
        waiting = {each.stream for each in troubles if each.retry_in_s > 0}
        assert all(each.retry_in_s <= LONGEST_DELAY_S for each in troubles)
        before = len(self.host.started)
        self.host.give(EngineExited("e-stranger", 0))
        assert waiting.isdisjoint(stream for _, stream in self.host.started[before:])

    def teardown(self) -> None:
        """Once everything works again, there are exactly the engines that are wanted, and no troubles."""
        self.host.broken_streams.clear()
        self.host.is_deaf = False
        for engine in self.host.engines.values():
            engine.running_since.clear()
        self.host.run(200)
        running = Counter((each.declaration.name, each.declaration.version) for each in self.host.engines.values())
        wanted = {(stream, version): count for stream, (count, version) in self.wanted.items() if count}
        assert running == wanted
        report = self.host.controller.report(1, None, self.host.now)
        assert report.troubles == ()
        assert all(each.state.can_be_leased for each in report.engines)
        assert len({each.engine for each in self.host.orders(StartEngine) if isinstance(each, StartEngine)}) == len(
            self.host.orders(StartEngine)
        )


TestHostMachine = HostMachine.TestCase
TestHostMachine.settings = settings(max_examples=60, stateful_step_count=30)


@given(seed=st.integers(), count=st.integers(1, 4))
@settings(max_examples=40)
def test_delays_grow_from_half_a_second_to_half_a_minute(seed: int, count: int) -> None:
    host = SimulatedHost(seed=seed)
    host.broken_streams.add("images")
    host.want((StreamDeclaration("images", handler="x.py", version=1), count))
    host.run(240)
    times = [at for at, _ in host.started[count - 1 :]]
    assert len(times) >= 8
    for number, (earlier, later) in enumerate(pairwise(times)):
        longest_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**number)
        assert 0.5 * longest_s <= later - earlier <= longest_s + 2 * STEP_S
    exits = host.controller.report(1, None, host.now).exits
    assert {each.reason for each in exits} == {ExitReason.FAILED_TO_START}
