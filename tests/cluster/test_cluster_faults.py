"""A cluster that the playbook has installed, whose machines lose their network, wholly or in part."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest
from cluster.machines import CONTROL, Machines
from cluster.site import IS_FULL, Site, tell

from harmonicio.testing.waiting import wait_until

pytestmark = pytest.mark.timeout(900)

#: Longer than everything that ends when a host is lost: the master's patience with a worker (5 s), connections that are
#: not acknowledged (20 s), an engine that answers nothing (30 s and the handler's time), leases (60 s).
AWAY_S = 300.0 if IS_FULL else 66.0
#: Each cut lasts so long at least, and until something was lost by it.
LASTS_S = 25.0 if IS_FULL else 1.0
LINGERING, LET_GO = "/var/lib/harmonicio/lingering", "/var/lib/harmonicio/let-go"
#: With four engines, on whose way there are a few messages of the source, and as many of the master.
MOST_ON_THEIR_WAY = 4 * 8
MASTER, WORKERS = "host1", ("host2", "host3")
_TO_DATA, _FROM_DATA = ("-p", "tcp", "--dport", "8711"), ("-p", "tcp", "--sport", "8711")

#: Who does not hear whom; the other way round, too, where it is said so.
SOURCE_AND_ENGINES = [(each, CONTROL) for each in WORKERS]
ENGINES_AND_SOURCE = [(CONTROL, each) for each in WORKERS]
MASTER_AND_ENGINES = [(MASTER, each, *_TO_DATA) for each in WORKERS]
ENGINES_AND_MASTER = [(each, MASTER, *_FROM_DATA) for each in WORKERS]
CUTS = {
    "source and engines": [*SOURCE_AND_ENGINES, *ENGINES_AND_SOURCE],
    "engines do not hear the source": SOURCE_AND_ENGINES,
    "the source does not hear engines": ENGINES_AND_SOURCE,
    "engines and master": [*MASTER_AND_ENGINES, *ENGINES_AND_MASTER],
    "the master does not hear engines": MASTER_AND_ENGINES,
    "engines do not hear the master": ENGINES_AND_MASTER,
    "source and master": [(CONTROL, MASTER), (MASTER, CONTROL)],
    "the master does not hear the source": [(MASTER, CONTROL)],
    "the source does not hear the master": [(CONTROL, MASTER)],
}


@pytest.mark.row("F12")
def test_whoever_is_parted_from_whom_messages_go_on_and_none_is_lost(machines: Machines, cluster: Site) -> None:
    with cluster.sending(100_000, per_s=20, size_bytes=100_000, takes_s=0.02) as source:
        for trouble, cut in CUTS.items():
            source.goes_straight(20)
            begun_at, safe = time.monotonic(), source.safe
            with ExitStack() as rules:
                lost = [rules.enter_context(machines.deaf(*each)) for each in cut]
                while time.monotonic() < begun_at + LASTS_S or not any(each() for each in lost):
                    source.goes_on(10)
                packets = sum(each() for each in lost)
            passed_s = time.monotonic() - begun_at
            tell(f"{trouble}: {packets} packets lost in {passed_s:.0f} s, {source.safe - safe} messages went on")
        source.goes_straight(20)
        source.stop()
        said = source.finish()
    again = sum(map(len, cluster.handled(said["ids"]).values())) - said["sent"]
    tell(f"parted in {len(CUTS)} ways: {said['states']['done']} of {said['sent']} done, {again} handled once more")
    # What was on its way when a way was closed, which is bounded by credit.
    assert again <= MOST_ON_THEIR_WAY * len(CUTS)
    assert cluster.backlog()["dead"] == 0


@pytest.mark.row("F7")
def test_a_host_that_was_cut_off_for_long_comes_back_and_what_it_says_late_changes_nothing(
    machines: Machines, cluster: Site
) -> None:
    cluster.scale(plates=0, kept=4)
    cluster.wait_for_engines("kept", host2=2, host3=2)
    engines = cluster.engines("kept")
    # Work for more than two engines, so that those of both machines get some.
    with cluster.sending(
        100_000, per_s=8, stream="kept", size_bytes=100_000, takes_s=0.3, lingers_on="host3"
    ) as source:
        lingering = wait_until(lambda: machines.ssh("host3", f"cat {LINGERING}", check=False).stdout, 30)
        with machines.unplugged("host3"):
            away_at, before = time.monotonic(), len(cluster.journal("host2"))
            cluster.wait_for_engines("kept", host2=2)
            while (passed_s := time.monotonic() - away_at) < AWAY_S:
                source.goes_on(10)
            others = len(cluster.journal("host2")) - before
        cluster.wait_for_engines("kept", host2=2, host3=2)
        assert cluster.engines("kept") == engines  # They have outlived it.
        machines.ssh("host3", f"touch {LET_GO}")
        wait_until(lambda: {"returned": lingering} in cluster.journal("host3"), 30, what="the late handler to return")
        handled = len(cluster.journal("host3"))
        wait_until(lambda: len(cluster.journal("host3")) > handled + 10, 60, what="messages to go to host3 again")
        source.stop()
        said = source.finish()
    assert cluster.handled([lingering]) == {lingering: ["host2", "host3"]}
    again = cluster.again(said["ids"], lost="host3")
    rows = {row["message_id"]: row for row in cluster.rows("kept")}
    assert rows.keys() >= set(said["ids"]) and engines[rows[lingering]["engine"]] == "host2"
    assert cluster.backlog("kept")["dead"] == 0
    tell(
        f"a host cut off for {passed_s:.0f} s: {others // 2} done by the other meanwhile, {said['states']['done']} of"
        f" {said['sent']} in the end, {again} handled twice, one of them late; each is recorded once"
    )
