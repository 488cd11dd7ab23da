"""The kinds of faults: each begins, lasts, and ends with the thing whole again (but for what was killed).

A kind is a context manager of the cluster and the fault. What it strikes may not be there, because another fault was
faster; then it raises :class:`Missed`, which is counted apart.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from benches import crash_points
from chaos.cluster import ENGINES, PROXIED, TIMEOUT_S, Cluster
from chaos.ground import ADDRESSES, command, on
from chaos.plan import Fault

Strike = Callable[[Cluster, Fault], AbstractContextManager[None]]


class Missed(Exception):
    """There was nothing to strike."""


# ── processes ────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def kill_engine(cluster: Cluster, fault: Fault) -> Iterator[None]:
    _send(signal.SIGKILL, [_an_engine(cluster, fault)])
    yield


@contextmanager
def drain_engine(cluster: Cluster, fault: Fault) -> Iterator[None]:
    _send(signal.SIGTERM, [_an_engine(cluster, fault)])
    yield


@contextmanager
def freeze_engine(cluster: Cluster, fault: Fault) -> Iterator[None]:
    with _frozen([_an_engine(cluster, fault)]):
        yield


@contextmanager
def kill_role(cluster: Cluster, fault: Fault) -> Iterator[None]:
    with cluster.locks[fault.target]:
        cluster.kill(fault.target)
        yield
        cluster.start(fault.target)


@contextmanager
def crash_master(cluster: Cluster, fault: Fault) -> Iterator[None]:
    """The master dies at a named call of its backlog's store, as soon as it comes there."""
    chance = random.Random(fault.seed)
    point = f"{chance.choice(crash_points.MASTER_POINTS)}:{chance.randint(1, 20)}"
    with cluster.locks[fault.target]:
        cluster.kill(fault.target)
        cluster.start(fault.target, through=crash_points.program(point))
        try:
            cluster.processes[fault.target].wait(fault.duration_s)
        except subprocess.TimeoutExpired:
            raise Missed(f"the master did not come to {point}") from None
        finally:
            cluster.kill(fault.target)
            cluster.start(fault.target)
    yield


@contextmanager
def drain_role(cluster: Cluster, fault: Fault) -> Iterator[None]:
    with cluster.locks[fault.target]:
        cluster.terminate(fault.target)
        yield
        cluster.start(fault.target)


@contextmanager
def freeze_role(cluster: Cluster, fault: Fault) -> Iterator[None]:
    with cluster.locks[fault.target], _frozen([cluster.processes[fault.target].pid]):
        yield


@contextmanager
def freeze_host(cluster: Cluster, fault: Fault) -> Iterator[None]:
    """A host that is suspended: worker and engines stop at once, and go on where they were."""
    worker = cluster.processes[fault.target].pid
    with cluster.locks[fault.target], _frozen([worker, *cluster.engines(fault.target)]):
        yield


def _an_engine(cluster: Cluster, fault: Fault) -> int:
    engines = cluster.engines(fault.target)
    if not engines:
        raise Missed(f"no engine on {fault.target}")
    return engines[fault.seed % len(engines)]


@contextmanager
def _frozen(pids: list[int]) -> Iterator[None]:
    _send(signal.SIGSTOP, pids)
    try:
        yield
    finally:
        _send(signal.SIGCONT, pids)


def _send(number: signal.Signals, pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


# ── networks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def reset_connections(cluster: Cluster, fault: Fault) -> Iterator[None]:
    command(*on(fault.target, "ss", "-K", "-t", "state", "established"))
    yield


@contextmanager
def partition(cluster: Cluster, fault: Fault) -> Iterator[None]:
    peer = _a_peer(fault)
    with _rule(fault.target, "INPUT", "-s", peer), _rule(fault.target, "OUTPUT", "-d", peer):
        yield


@contextmanager
def one_way_partition(cluster: Cluster, fault: Fault) -> Iterator[None]:
    with _rule(fault.target, "INPUT", "-s", _a_peer(fault)):
        yield


@contextmanager
def packet_loss(cluster: Cluster, fault: Fault) -> Iterator[None]:
    with _rule(fault.target, "INPUT", "-m", "statistic", "--mode", "random", "--probability", "0.3"):
        yield


@contextmanager
def large_packets_lost(cluster: Cluster, fault: Fault) -> Iterator[None]:
    """What a link does whose limit nobody hears of: connections are made, and stall with the first data."""
    with _rule(fault.target, "INPUT", "-m", "length", "--length", "600:65535"):
        yield


@contextmanager
def slow_network(cluster: Cluster, fault: Fault) -> Iterator[None]:
    place = ("dev", "eth0", "root")
    limits = ("tbf", "rate", "2mbit", "burst", "64kb", "latency", "500ms")
    command(*on(fault.target, "tc", "qdisc", "add", *place, *limits))
    try:
        yield
    finally:
        command(*on(fault.target, "tc", "qdisc", "del", *place))


def _a_peer(fault: Fault) -> str:
    return random.Random(fault.seed).choice([ip for host, ip in ADDRESSES.items() if host != fault.target])


@contextmanager
def _rule(host: str, chain: str, *matches: str) -> Iterator[None]:
    """Have a host drop what matches."""
    command(*on(host, "iptables", "-A", chain, *matches, "-j", "DROP"))
    try:
        yield
    finally:
        command(*on(host, "iptables", "-D", chain, *matches, "-j", "DROP"))


# ── connections through a proxy ──────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def cut_connections(cluster: Cluster, fault: Fault) -> Iterator[None]:
    with cluster.locks[PROXIED]:
        cluster.order(PROXIED, "cut")
    yield


@contextmanager
def _impaired(cluster: Cluster, **faults: float | bool | None) -> Iterator[None]:
    with cluster.locks[PROXIED]:
        cluster.order(PROXIED, f"impair {json.dumps(faults)}")
        try:
            yield
        finally:
            cluster.order(PROXIED, "heal")


def impaired(**faults: float | bool) -> Strike:
    return lambda cluster, fault: _impaired(cluster, **faults)


# ── disks and orders ─────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def full_disk(cluster: Cluster, fault: Fault) -> Iterator[None]:
    disk = cluster.disks[fault.target]
    disk.fill()
    try:
        yield
    finally:
        disk.free()


@contextmanager
def scale(cluster: Cluster, fault: Fault) -> Iterator[None]:
    count = fault.seed % (2 * ENGINES[fault.target])
    cluster.ask(lambda client: client.scale_stream(fault.target, count))
    yield
    cluster.ask(lambda client: client.scale_stream(fault.target, ENGINES[fault.target]))


@contextmanager
def declare_anew(cluster: Cluster, fault: Fault) -> Iterator[None]:
    cluster.declare(fault.target, TIMEOUT_S + fault.seed % 1000 / 1000)
    yield


STRIKES: dict[str, Strike] = {
    "kill engine": kill_engine,
    "kill worker": kill_role,
    "kill master": kill_role,
    "kill source": kill_role,
    "crash point": crash_master,
    "freeze engine": freeze_engine,
    "freeze worker": freeze_role,
    "freeze master": freeze_role,
    "freeze source": freeze_role,
    "freeze host": freeze_host,
    "drain engine": drain_engine,
    "drain worker": drain_role,
    "drain master": drain_role,
    "drain source": drain_role,
    "reset connections": reset_connections,
    "partition": partition,
    "one-way partition": one_way_partition,
    "packet loss": packet_loss,
    "large packets lost": large_packets_lost,
    "slow network": slow_network,
    "cut connections": cut_connections,
    "half-open connections": impaired(is_frozen=True),
    "late bytes": impaired(delay_s=0.3, jitter_s=2.0),
    "few bytes": impaired(bytes_per_s=40_000.0),
    "full disk of the master": full_disk,
    "full disk of the tiers": full_disk,
    "scale": scale,
    "declare anew": declare_anew,
}
