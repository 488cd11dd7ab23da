"""Whatever happens to leases, the table's counts agree with each other."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from harmonicio.master.leases import LeaseTable

SOURCES = st.sampled_from(["s1", "s2", "s3"])
ENGINES = st.sampled_from(["e1", "e2", "e3", "e4"])
STREAM_OF = {"e1": "plates", "e2": "plates", "e3": "spectra", "e4": "spectra"}
TERM_S = 10.0


class LeaseMachine(RuleBasedStateMachine):
    """The table against a plain dictionary: (source, engine) -> (lease, end)."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.table = LeaseTable(id_prefix="t", term_s=TERM_S)
        self.model: dict[tuple[str, str], tuple[str, float]] = {}
        self.ever: set[str] = set()

    @rule(source=SOURCES, engine=ENGINES)
    def grant(self, source: str, engine: str) -> None:
        if (source, engine) in self.model:
            assert self.table.is_held(source, engine)
            return
        held = self.table.grant(source, STREAM_OF[engine], engine, self.now)
        assert held.lease not in self.ever
        self.ever.add(held.lease)
        self.model[source, engine] = (held.lease, self.now + TERM_S)

    @rule(source=SOURCES, data=st.data())
    def renew(self, source: str, data: st.DataObject) -> None:
        asked = data.draw(st.lists(st.sampled_from(sorted(self.ever | {"none"})), unique=True))
        mine = {lease: key for key, (lease, ends) in self.model.items() if key[0] == source and ends > self.now}
        answer = self.table.renew(source, asked, self.now)
        assert answer.renewed == tuple(lease for lease in asked if lease in mine)
        assert answer.ended == tuple(lease for lease in asked if lease not in mine)
        for lease in answer.renewed:
            self.model[mine[lease]] = (lease, self.now + TERM_S)

    @rule(source=SOURCES, data=st.data())
    def release(self, source: str, data: st.DataObject) -> None:
        asked = data.draw(st.lists(st.sampled_from(sorted(self.ever | {"none"}))))
        ended = {held.lease for held in self.table.release(source, asked)}
        expected = {key for key, (lease, _) in self.model.items() if key[0] == source and lease in asked}
        assert ended == {self.model.pop(key)[0] for key in expected}

    @rule(source=SOURCES, stream=st.sampled_from(["plates", "spectra"]), data=st.data())
    def end_unknown(self, source: str, stream: str, data: st.DataObject) -> None:
        known = data.draw(st.lists(st.sampled_from(sorted(self.ever | {"none"}))))
        ended = {held.lease for held in self.table.end_unknown(source, stream, known)}
        lost = {
            key
            for key, (lease, _) in self.model.items()
            if key[0] == source and STREAM_OF[key[1]] == stream and lease not in known
        }
        assert ended == {self.model.pop(key)[0] for key in lost}

    @rule(engine=ENGINES)
    def revoke_engine(self, engine: str) -> None:
        ended = {held.lease for held in self.table.revoke_engine(engine)}
        assert ended == {self.model.pop(key)[0] for key in list(self.model) if key[1] == engine}

    @rule(stream=st.sampled_from(["plates", "spectra"]))
    def revoke_stream(self, stream: str) -> None:
        ended = {held.lease for held in self.table.revoke_stream(stream)}
        assert ended == {self.model.pop(key)[0] for key in list(self.model) if STREAM_OF[key[1]] == stream}

    @rule(seconds=st.floats(0.0, 8.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        ended = {held.lease for held in self.table.expire(self.now)}
        due = [key for key, (_, ends) in self.model.items() if ends <= self.now]
        assert ended == {self.model.pop(key)[0] for key in due}

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.table) == len(self.model)
        for engine in STREAM_OF:
            assert self.table.count_on(engine) == sum(1 for key in self.model if key[1] == engine)


TestLeases = LeaseMachine.TestCase
TestLeases.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
